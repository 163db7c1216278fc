//! What is due: which certificates are ordered now, which are forgotten, and when a domain that failed
//! is tried again. Pure; the loop calls it and carries out.
//!
//! The figures stay under what Let's Encrypt allows (letsencrypt.org/docs/rate-limits, as of June 2025):
//! 300 new orders of an account in three hours, five failed validations of a name in an hour, 50 new
//! certificates of a registered domain in seven days, renewals of the same name aside.

use std::collections::{BTreeMap, BTreeSet};

use super::validity::Validity;
use crate::model::certificate::{CertificateNote, ChallengeKind, DoorRecord};

/// Orders under way at a time.
pub(super) const AT_A_TIME: usize = 2;

/// Orders begun in an hour: 180 of the 300 in three.
const PER_HOUR: usize = 60;
const HOUR_MS: u64 = 60 * 60 * 1_000;

/// Between two orders for one domain, also when a leader died over the first.
const APART_MS: u64 = 30 * 1_000;

/// The first wait after a failure, doubled by each further one: tries after 5, 15, 35 and 75 minutes
/// are four failures in an hour.
const AGAIN_MS: u64 = 5 * 60 * 1_000;
/// The longest wait.
const AGAIN_MAX_MS: u64 = 24 * HOUR_MS;
/// The shortest one when the CA says that it is asked too much.
const LIMITED_MS: u64 = HOUR_MS;

/// How long a certificate stays that nobody needs: a domain may come back.
const UNWANTED_MS: u64 = 7 * 24 * HOUR_MS;

/// Longest reason that is kept, characters.
const REASON_MAX: usize = 300;

/// What is known when it is decided.
pub(super) struct View<'a> {
    /// Domains that need a certificate; none when certificates are not ordered at all.
    pub(super) wanted: &'a BTreeSet<String>,
    /// Whether that is all of them: a stack that cannot be read may have more.
    pub(super) all: bool,
    /// How each certificate stands.
    pub(super) notes: &'a BTreeMap<String, CertificateNote>,
    /// Whether any host's front door is open, for a CA to come to.
    pub(super) open: bool,
    /// Domains whose order is under way.
    pub(super) running: &'a BTreeSet<String>,
    /// Unix milliseconds.
    pub(super) now_ms: u64,
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Orders to begin, those without any certificate first.
    pub(super) order: Vec<String>,
    /// Notes that change because a domain is not needed any more, or is again.
    pub(super) changed: BTreeMap<String, CertificateNote>,
    /// Certificates to forget.
    pub(super) forget: BTreeSet<String>,
    /// When something else is due, if nothing changes until then.
    pub(super) next_ms: Option<u64>,
}

/// Decides what is due now.
pub(super) fn due(view: &View<'_>) -> Due {
    let mut due = Due::default();
    let mut later = Vec::new();
    for (domain, note) in view.notes {
        let wanted = view.wanted.contains(domain);
        if view.running.contains(domain) || (!wanted && !view.all) {
            continue;
        }
        if wanted && note.unwanted_ms != 0 {
            let mut again = note.clone();
            again.unwanted_ms = 0;
            due.changed.insert(domain.clone(), again);
        } else if !wanted {
            later.extend(unwanted(view, domain, note, &mut due));
        }
    }
    let none = CertificateNote::default();
    let mut ripe = Vec::new();
    for domain in view.wanted.difference(view.running) {
        let note = view.notes.get(domain).unwrap_or(&none);
        match ripe_ms(note) {
            at if at <= view.now_ms => ripe.push((note.until_ms, domain)),
            at => later.push(at),
        }
    }
    ripe.sort();
    let begun = begun(view);
    let at_a_time = if view.open { AT_A_TIME } else { 0 };
    let room = at_a_time
        .saturating_sub(view.running.len())
        .min(PER_HOUR.saturating_sub(begun.len()));
    let order = ripe.iter().take(room);
    due.order = order.map(|(_, domain)| (*domain).clone()).collect();
    if ripe.len() > room && begun.len() >= PER_HOUR {
        later.extend(begun.first().map(|at| at + HOUR_MS));
    }
    due.next_ms = later.into_iter().min();
    due
}

/// When orders of the last hour were begun, oldest first.
fn begun(view: &View<'_>) -> Vec<u64> {
    let since = view.now_ms.saturating_sub(HOUR_MS);
    let tried = view.notes.values().map(|note| note.tried_ms);
    let mut begun: Vec<u64> = tried.filter(|at| *at > since).collect();
    begun.sort_unstable();
    begun
}

/// What becomes of a certificate that nobody needs; when that is to be looked at again.
fn unwanted(view: &View<'_>, domain: &str, note: &CertificateNote, due: &mut Due) -> Option<u64> {
    if note.unwanted_ms == 0 && note.is_valid(view.now_ms) {
        let mut since = note.clone();
        since.unwanted_ms = view.now_ms;
        due.changed.insert(domain.to_owned(), since);
        return None;
    }
    let end = note.until_ms.min(note.unwanted_ms + UNWANTED_MS);
    if end > view.now_ms {
        return Some(end);
    }
    due.forget.insert(domain.to_owned());
    None
}

/// From when on a domain's certificate is ordered: after two thirds of the life of the one there is,
/// and not before the wait after a failure is over.
fn ripe_ms(note: &CertificateNote) -> u64 {
    let life = note.until_ms.saturating_sub(note.from_ms);
    let renewal = note.from_ms + life / 3 * 2;
    let apart = match note.tried_ms {
        0 => 0,
        tried => tried + APART_MS,
    };
    renewal.max(note.next_ms).max(apart)
}

/// The note of a domain whose order is begun.
pub(super) fn begins(note: &CertificateNote, now_ms: u64) -> CertificateNote {
    CertificateNote {
        v: 1,
        tried_ms: now_ms,
        ..note.clone()
    }
}

/// How an order failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    /// In words.
    pub(super) reason: String,
    /// Whether the CA says that it is asked too much.
    pub(super) limited: bool,
}

/// The note after an order that failed; `dice` in 0..1. The certificate there is stays.
pub(super) fn failed(
    note: &CertificateNote,
    failed: &Failed,
    now_ms: u64,
    dice: f64,
) -> CertificateNote {
    let doubled = AGAIN_MS.saturating_mul(1 << note.failures.min(16));
    let least = if failed.limited { LIMITED_MS } else { 0 };
    let wait = doubled.clamp(least, AGAIN_MAX_MS);
    // Only ever longer: the figures above are the least.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a fifth of a day at most"
    )]
    let jitter = (wait as f64 / 5.0 * dice.clamp(0.0, 1.0)) as u64;
    CertificateNote {
        v: 1,
        failures: note.failures.saturating_add(1),
        reason: clean(&failed.reason),
        next_ms: now_ms + wait + jitter,
        ..note.clone()
    }
}

/// The note after an order that went well.
pub(super) fn certified(note: &CertificateNote, validity: Validity) -> CertificateNote {
    CertificateNote {
        v: 1,
        from_ms: validity.from_ms,
        until_ms: validity.until_ms,
        tried_ms: note.tried_ms,
        ..CertificateNote::default()
    }
}

/// What a CA says, made fit to be shown: one line, not long.
fn clean(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(REASON_MAX).map(plain).collect()
}

/// How a domain is proved this time: by HTTP where some door listens for it, else in a handshake. After a
/// failure it is the other's turn, if it can come through.
pub(super) fn kind<'a>(
    doors: &(impl Iterator<Item = &'a DoorRecord> + Clone),
    failures: u32,
) -> Option<ChallengeKind> {
    let open = [ChallengeKind::Http01, ChallengeKind::TlsAlpn01]
        .into_iter()
        .filter(|kind| doors.clone().any(|door| door.takes(*kind)));
    let open: Vec<ChallengeKind> = open.collect();
    let turn = usize::try_from(failures).unwrap_or(0);
    open.get(turn % open.len().max(1)).copied()
}

#[cfg(test)]
#[path = "due_tests.rs"]
mod tests;
