//! Failures of a placement: what is counted, and how long it then waits. Called by the worker;
//! touches nothing and knows no clock. The record lives in the store, so that neither a restart of
//! viking nor of its host forgets a crash loop.

use crate::docker;
use crate::model::job::{CounterRecord, Fault, Instance};
use crate::model::release::LOG_TAIL_LINES;

/// Wait after the second failure in a row; doubles from there. The first is tried again at once.
const BACKOFF_FIRST_MS: u64 = 1_000;
/// Longest wait.
const BACKOFF_MAX_MS: u64 = 300_000;
/// Healthy for this long, the failures before are forgotten.
pub const FORGIVEN_AFTER_MS: u64 = 60_000;

/// One failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whose.
    pub fault: Fault,
    /// In words.
    pub reason: String,
    /// Exit code, if the process ended by itself.
    pub exit: Option<i64>,
    /// It ran and did not work.
    pub unhealthy: bool,
    /// Last lines of its log.
    pub tail: Vec<String>,
}

impl Failure {
    /// The process ended though it was wanted.
    #[must_use]
    pub fn exited(code: i64, oom: bool, tail: Vec<String>) -> Self {
        let why = if oom { ", out of memory" } else { "" };
        Self {
            fault: Fault::Own,
            reason: format!("exited with code {code}{why}"),
            exit: Some(code),
            unhealthy: false,
            tail,
        }
    }

    /// It ran and did not work.
    #[must_use]
    pub fn unhealthy(reason: &str, tail: Vec<String>) -> Self {
        Self {
            fault: Fault::Own,
            reason: format!("unhealthy: {reason}"),
            exit: None,
            unhealthy: true,
            tail,
        }
    }

    /// A cause outside of the commit.
    #[must_use]
    pub fn outside(reason: impl Into<String>) -> Self {
        Self {
            fault: Fault::Outside,
            reason: reason.into(),
            exit: None,
            unhealthy: false,
            tail: Vec::new(),
        }
    }

    /// What the engine said while `doing` something. Only a container that cannot be started as
    /// its spec says is the commit's own fault.
    #[must_use]
    pub fn engine(doing: &str, error: &docker::Error) -> Self {
        let mut failure = Self::outside(format!("{doing}: {error}"));
        if matches!(error, docker::Error::BadSpec(_)) {
            failure.fault = Fault::Own;
        }
        failure
    }
}

/// How long to wait after this many failures in a row.
#[must_use]
pub fn backoff_ms(failures: u32) -> u64 {
    match failures {
        0 | 1 => 0,
        n => BACKOFF_FIRST_MS
            .saturating_mul(1 << (n - 2).min(20))
            .min(BACKOFF_MAX_MS),
    }
}

/// The record after one more failure. Failures of another placement do not count.
#[must_use]
pub fn count(
    before: Option<&CounterRecord>,
    instance: Instance,
    failure: Failure,
    now_ms: u64,
) -> CounterRecord {
    // Faults from outside must not add up with the process' own, which fail a release.
    let before = before.filter(|r| r.instance == instance && r.fault == failure.fault);
    let failures = before.map_or(0, |record| record.failures).saturating_add(1);
    let mut log_tail = failure.tail;
    let extra = log_tail.len().saturating_sub(LOG_TAIL_LINES);
    log_tail.drain(..extra);
    CounterRecord {
        v: 1,
        instance,
        failures,
        fault: failure.fault,
        last_exit: failure.exit,
        unhealthy: failure.unhealthy,
        reason: failure.reason,
        at_ms: now_ms,
        next_try_ms: now_ms.saturating_add(backoff_ms(failures)),
        log_tail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_try_again_is_at_once_then_waits_double_up_to_five_minutes() {
        let waits: Vec<u64> = (1..=5).map(backoff_ms).collect();
        assert_eq!(waits, [0, 1_000, 2_000, 4_000, 8_000]);
        assert_eq!(backoff_ms(11), BACKOFF_MAX_MS);
        assert_eq!(backoff_ms(u32::MAX), BACKOFF_MAX_MS);
    }

    #[test]
    fn failures_of_another_placement_do_not_count() {
        let crash = || Failure::exited(1, false, vec!["x".to_owned(); 30]);
        let first = count(None, Instance(7), crash(), 100);
        assert_eq!((first.failures, first.next_try_ms), (1, 100));
        assert_eq!(first.log_tail.len(), LOG_TAIL_LINES);
        let second = count(Some(&first), Instance(7), crash(), 200);
        assert_eq!((second.failures, second.next_try_ms), (2, 1_200));
        let moved = count(Some(&second), Instance(8), crash(), 300);
        assert_eq!(moved.failures, 1);
    }

    #[test]
    fn only_a_spec_that_cannot_start_is_the_commits_own_fault() {
        let own = docker::Error::BadSpec("no such file".into());
        assert_eq!(Failure::engine("start", &own).fault, Fault::Own);
        let full = docker::Error::DiskFull("x".into());
        assert_eq!(Failure::engine("create", &full).fault, Fault::Outside);
    }
}
