//! Certificates arrive: the elected leader orders one for each domain of a live release, renews it, and
//! forgets it when nobody needs it any more. It runs beside the leader's other loops and holds none of
//! them up. Hosts serve what it keeps in the store (`router`); it never speaks to a client.

mod due;
mod http;
mod order;
mod validity;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::due::{Failed, View};
use self::order::{Ca, Got, Posing};
use crate::clock::now_ms;
use crate::config;
use crate::model::certificate::{CertificateNote, ChallengeKind, SHUT, WILDCARD};
use crate::model::world::World;
use crate::store::election::Leadership;
use crate::store::tables::Tables;
use crate::wake::{self, Bell, Ear, Next, backoff};

/// A full look at least this often.
const INTERVAL: Duration = Duration::from_secs(60);

/// Between two looks while it is not known what the folder of certificates covers.
const AGAIN: Duration = Duration::from_millis(200);

/// One order, from the account to the chain.
const ORDER_MAX: Duration = Duration::from_secs(300);

/// Tries to keep in the store what the CA gave: another order would count against us.
const KEEP_TRIES: u32 = 8;

/// Whether the operator's own certificates cover a domain; `None` while that is not known yet.
pub type Covered = Arc<dyn Fn(&str) -> Option<bool> + Send + Sync>;

/// What this stage needs.
#[derive(Clone)]
pub struct Parts {
    /// The store's typed side.
    pub tables: Tables,
    /// The CA; none where the operator asked for none. What is there is kept until it is over.
    pub settings: Option<config::Acme>,
    /// The folder of certificates goes first.
    pub covered: Covered,
}

/// Orders under way.
struct Desk {
    parts: Parts,
    leadership: Arc<Leadership>,
    ca: Option<Ca>,
    running: Mutex<BTreeSet<String>>,
    /// Wildcards that it was said of that there is no certificate for them.
    told: Mutex<BTreeSet<String>>,
    /// Whether it was said that no front door is open.
    shut: AtomicBool,
    /// Rung when an order ends.
    done: Bell,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Runs until the leadership ends. `ear` hears of releases and of hosts.
pub async fn run(parts: Parts, leadership: Arc<Leadership>, ear: Ear, stop: CancellationToken) {
    let desk = Arc::new(Desk {
        ca: parts.settings.clone().map(Ca::new),
        parts,
        leadership,
        running: Mutex::default(),
        told: Mutex::default(),
        shut: AtomicBool::new(false),
        done: Bell::new(),
        tasks: TaskTracker::new(),
        stop: stop.clone(),
    });
    let relay = {
        let (mut ear, done) = (ear.clone(), desk.done.clone());
        async move {
            loop {
                ear.heard().await;
                done.ring();
            }
        }
    };
    let steps = wake::run("certificates", INTERVAL, desk.done.ear(), stop, || {
        Arc::clone(&desk).step(ear.clone())
    });
    tokio::select! {
        () = steps => {}
        () = relay => {}
    }
    desk.tasks.close();
    desk.tasks.wait().await;
}

impl Desk {
    fn running(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn step(self: Arc<Self>, ear: Ear) -> anyhow::Result<Next> {
        let (tables, now_ms) = (&self.parts.tables, now_ms());
        let world = tables.world(now_ms).await?;
        let notes = tables.certificate_notes().await?;
        let running = self.running().clone();
        self.tidy(&running).await?;
        let Some(wanted) = self.wanted(&world) else {
            return Ok(Next::After(AGAIN));
        };
        let doors = world.hosts.values().map(|host| &host.door);
        let open = due::kind(&doors, 0).is_some();
        self.tell_shut(open || wanted.is_empty());
        let due = due::due(&View {
            wanted: &wanted,
            all: world.frozen_stacks.is_empty(),
            open,
            notes: &notes,
            running: &running,
            now_ms,
        });
        if !due.changed.is_empty() {
            tables
                .note_certificates(&self.leadership, &due.changed)
                .await?;
        }
        if !due.forget.is_empty() {
            tables
                .forget_certificates(&self.leadership, &due.forget)
                .await?;
            tracing::info!(domains = ?due.forget, "certificates that nobody needs are forgotten");
        }
        for domain in due.order {
            let before = due.changed.get(&domain).or_else(|| notes.get(&domain));
            let note = due::begins(&before.cloned().unwrap_or_default(), now_ms);
            let Some(kind) = due::kind(&doors, note.failures) else {
                continue;
            };
            self.begin(domain, note, kind, ear.clone());
        }
        let next = due.next_ms.map(|at| at.saturating_sub(now_ms));
        Ok(next.map_or(Next::OnChange, |ms| {
            Next::After(Duration::from_millis(ms.max(1)))
        }))
    }

    /// Domains of live releases, but for those that the operator's own certificates cover and those that
    /// no challenge of ours can prove. None while it is not known what the operator's cover.
    fn wanted(&self, world: &World) -> Option<BTreeSet<String>> {
        if self.ca.is_none() {
            return Some(BTreeSet::new());
        }
        let stacks = world.stacks.values();
        let live = stacks.filter(|stack| !stack.pointer.removing);
        let nodes = live.filter_map(|stack| stack.live());
        let domains = nodes
            .flat_map(|release| release.nodes.values())
            .flat_map(|node| &node.domains)
            .map(|domain| domain.name.as_str());
        let (mut wild, mut exact) = (BTreeSet::new(), BTreeSet::new());
        for domain in domains {
            if !(self.parts.covered)(domain)? {
                let kind = if domain.starts_with("*.") {
                    &mut wild
                } else {
                    &mut exact
                };
                kind.insert(domain.to_owned());
            }
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for domain in wild {
            if !told.contains(&domain) {
                tracing::warn!(domain, "certificate: {WILDCARD}");
                told.insert(domain);
            }
        }
        Some(exact)
    }

    /// Says once that no front door is open; not before hosts had time to say that theirs is.
    fn tell_shut(&self, fine: bool) {
        let early = self.leadership.since().elapsed() < INTERVAL;
        if fine {
            self.shut.store(false, Ordering::Relaxed);
        } else if !early && !self.shut.swap(true, Ordering::Relaxed) {
            tracing::warn!("no certificate is ordered: {SHUT}");
        }
    }

    /// Drops challenges of orders that are not under way: of a leader that was before, or whose end could
    /// not be written.
    async fn tidy(&self, running: &BTreeSet<String>) -> anyhow::Result<()> {
        let tables = &self.parts.tables;
        let posed = tables.challenges().await?;
        let left = posed
            .into_iter()
            .filter(|(_, domain)| domain.as_ref().is_none_or(|of| !running.contains(of)));
        let left: BTreeSet<String> = left.map(|(token, _)| token).collect();
        if !left.is_empty() {
            tables.drop_challenges(&self.leadership, &left).await?;
        }
        Ok(())
    }

    /// Begins an order, which goes on by itself.
    fn begin(
        self: &Arc<Self>,
        domain: String,
        note: CertificateNote,
        kind: ChallengeKind,
        ear: Ear,
    ) {
        self.running().insert(domain.clone());
        let desk = Arc::clone(self);
        self.tasks.spawn(async move {
            let stop = desk.stop.clone();
            let ends = stop.run_until_cancelled(desk.one(&domain, note, kind, ear));
            if let Some(Err(error)) = ends.await {
                tracing::warn!(domain, "certificate: {error:#}");
            }
            desk.running().remove(&domain);
            desk.done.ring();
        });
    }

    async fn one(
        &self,
        domain: &str,
        note: CertificateNote,
        kind: ChallengeKind,
        ear: Ear,
    ) -> anyhow::Result<()> {
        let noted = BTreeMap::from([(domain.to_owned(), note.clone())]);
        let tables = &self.parts.tables;
        tables.note_certificates(&self.leadership, &noted).await?;
        crate::failpoint::hit("acme.begun");
        let ordered = self.order(domain, kind, ear).await;
        // Its challenges go with the next step, which the end of this rings for.
        match ordered {
            Ok(got) => self.keep(domain, &note, &got).await,
            Err(failed) => self.fail(domain, &note, &failed).await,
        }
    }

    async fn order(&self, domain: &str, kind: ChallengeKind, ear: Ear) -> Result<Got, Failed> {
        let fails = |reason: &str| Failed {
            reason: reason.to_owned(),
            limited: false,
        };
        let Some(ca) = &self.ca else {
            return Err(fails("no CA is set"));
        };
        let posing = Posing {
            parts: &self.parts,
            leadership: &self.leadership,
            domain,
            kind,
            ear,
        };
        tracing::info!(domain, %kind, "a certificate is ordered");
        match tokio::time::timeout(ORDER_MAX, ca.order(&posing)).await {
            Ok(ordered) => ordered,
            Err(_) => Err(fails("the CA took too long")),
        }
    }

    async fn keep(&self, domain: &str, note: &CertificateNote, got: &Got) -> anyhow::Result<()> {
        let note = due::certified(note, got.validity);
        let tables = &self.parts.tables;
        let mut failures = 0;
        loop {
            let keeps = tables.keep_certificate(&self.leadership, domain, (&got.record, &note));
            match keeps.await {
                Ok(_) => break,
                Err(error) if failures >= KEEP_TRIES => return Err(error.into()),
                Err(_) => failures += 1,
            }
            tokio::time::sleep(backoff(failures + 3, fastrand::f64())).await;
        }
        tracing::info!(domain, "certificate: {}", note.words(now_ms()));
        Ok(())
    }

    async fn fail(
        &self,
        domain: &str,
        note: &CertificateNote,
        failed: &Failed,
    ) -> anyhow::Result<()> {
        let after = due::failed(note, failed, now_ms(), fastrand::f64());
        // Once per change: the same again and again is no news.
        if after.reason != note.reason {
            tracing::warn!(domain, "certificate: {}", after.words(now_ms()));
        }
        let noted = BTreeMap::from([(domain.to_owned(), after)]);
        let tables = &self.parts.tables;
        tables.note_certificates(&self.leadership, &noted).await?;
        Ok(())
    }
}
