//! Failures of a placement: what is counted, and how long it then waits. Called by the worker;
//! touches nothing and knows no clock. The record lives in the store, so that neither a restart of
//! viking nor of its host forgets a crash loop.

use crate::docker;
use crate::model::job::{CounterRecord, Fault, Instance, RUN_ONCE_MS_MAX};
use crate::model::release::LOG_TAIL_LINES;

/// Wait after the second failure in a row; doubles from there. The first is tried again at once.
const BACKOFF_FIRST_MS: u64 = 1_000;
/// Longest wait after failures of its own.
const BACKOFF_MAX_MS: u64 = 300_000;
/// Longest wait after a fault from outside: once registry, disk or engine are back, so is the job.
const BACKOFF_OUTSIDE_MAX_MS: u64 = 15_000;
/// Characters kept of one line of a log, and of the whole tail: records travel through the store and
/// through every status answer.
const TAIL_LINE_CHARS_MAX: usize = 500;
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

    /// It was to run to its end, and runs on.
    #[must_use]
    pub fn endless(tail: Vec<String>) -> Self {
        let minutes = RUN_ONCE_MS_MAX / 60_000;
        Self {
            reason: format!("did not end within {minutes} minutes"),
            ..Self::unhealthy("", tail)
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

/// How long to wait after this many failures in a row, the last of them of this kind.
#[must_use]
pub fn backoff_ms(tries: u32, fault: Fault) -> u64 {
    let max = match fault {
        Fault::Own => BACKOFF_MAX_MS,
        Fault::Outside => BACKOFF_OUTSIDE_MAX_MS,
    };
    match tries {
        0 | 1 => 0,
        n => BACKOFF_FIRST_MS
            .saturating_mul(1 << (n - 2).min(20))
            .min(max),
    }
}

/// The last lines, each cut.
fn bounded(mut tail: Vec<String>) -> Vec<String> {
    let extra = tail.len().saturating_sub(LOG_TAIL_LINES);
    tail.drain(..extra);
    for line in &mut tail {
        if let Some((at, _)) = line.char_indices().nth(TAIL_LINE_CHARS_MAX) {
            line.truncate(at);
            line.push('…');
        }
    }
    tail
}

/// The record after one more failure. Failures of another placement do not count.
#[must_use]
pub fn count(
    before: Option<&CounterRecord>,
    instance: Instance,
    failure: Failure,
    now_ms: u64,
) -> CounterRecord {
    let before = before.filter(|r| r.instance == instance);
    // Faults from outside must not add up with the process' own, which fail a release; but a job
    // that fails for two reasons in turn waits no less.
    let same = before.filter(|r| r.fault == failure.fault);
    let failures = same.map_or(0, |record| record.failures).saturating_add(1);
    let tries = before.map_or(0, |record| record.tries.max(record.failures));
    let tries = tries.saturating_add(1);
    CounterRecord {
        v: 1,
        instance,
        failures,
        tries,
        fault: failure.fault,
        last_exit: failure.exit,
        unhealthy: failure.unhealthy,
        reason: failure.reason,
        at_ms: now_ms,
        next_try_ms: now_ms.saturating_add(backoff_ms(tries, failure.fault)),
        log_tail: bounded(failure.tail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_try_again_is_at_once_then_waits_double_up_to_five_minutes() {
        let waits: Vec<u64> = (1..=5).map(|n| backoff_ms(n, Fault::Own)).collect();
        assert_eq!(waits, [0, 1_000, 2_000, 4_000, 8_000]);
        assert_eq!(backoff_ms(11, Fault::Own), BACKOFF_MAX_MS);
        assert_eq!(backoff_ms(u32::MAX, Fault::Own), BACKOFF_MAX_MS);
    }

    #[test]
    fn after_an_outage_a_job_is_back_within_seconds() {
        assert_eq!(backoff_ms(u32::MAX, Fault::Outside), 15_000);
    }

    #[test]
    fn failing_for_two_reasons_in_turn_waits_as_long_as_for_one() {
        let mut record = None;
        for n in 0..6_u64 {
            let failure = match n % 2 {
                0 => Failure::exited(1, false, Vec::new()),
                _ => Failure::outside("no port"),
            };
            record = Some(count(record.as_ref(), Instance(7), failure, 0));
        }
        let record = record.unwrap();
        assert_eq!((record.failures, record.next_try_ms), (1, 15_000));
    }

    #[test]
    fn a_log_that_is_one_endless_line_stays_small_on_record() {
        let line = "\u{1b}".repeat(16_384);
        let crash = Failure::exited(1, false, vec![line; LOG_TAIL_LINES]);
        let record = count(None, Instance(7), crash, 0);
        let bytes = serde_json::to_vec(&record).unwrap().len();
        assert!(bytes < 128 * 1024, "{bytes}");
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
