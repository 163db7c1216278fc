//! When a source is looked at and what a look means. Pure; the leader's loop of each stack calls it.
//! It never touches a remote or a clock.

use std::time::Duration;

use super::error::Error;
use crate::model::release::{Commit, SourceState};

/// Shortest time between two looks: a typing error in `poll` must not hammer a server.
pub const POLL_MIN: Duration = Duration::from_secs(1);
/// Longest wait after failures, unless the poll interval itself is longer: a remote that comes back
/// is seen within this time.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// The wait doubles at most this often.
const DOUBLINGS_MAX: u32 = 10;

/// What to do about the remote's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is the commit seen last.
    Unchanged,
    /// It failed before and waits for a newer commit or `viking retry`.
    Quarantined,
    /// Fetch it, read it, build it.
    New,
}

/// Whether `head` is to be turned into a release. `seen` is the newest commit taken up so far
/// (live, staged or being built); `quarantined` the last one that failed by its own fault.
#[must_use]
pub fn next_commit(seen: Option<&str>, head: &str, quarantined: Option<&str>) -> Decision {
    if quarantined == Some(head) {
        Decision::Quarantined
    } else if seen == Some(head) {
        Decision::Unchanged
    } else {
        Decision::New
    }
}

/// How long until the next look after `failures` looks in a row went wrong; `dice` in 0..1 spreads
/// stacks of one server by a fifth.
#[must_use]
pub fn poll_delay(poll_ms: u64, failures: u32, dice: f64) -> Duration {
    let poll = Duration::from_millis(poll_ms).max(POLL_MIN);
    let doubled = poll.saturating_mul(1 << failures.min(DOUBLINGS_MAX));
    let wait = doubled.min(BACKOFF_MAX.max(poll));
    wait.mul_f64(0.9 + 0.2 * dice.clamp(0.0, 1.0))
}

/// The source's state after a look. `rewritten` is what [`super::Mirrors::rewritten`] said about
/// the last commit and this one. `since_ms` stays as it was while neither the word nor the commit
/// changed, so equal looks give equal records.
#[must_use]
pub fn state_of(
    result: Result<&Commit, &Error>,
    rewritten: Option<bool>,
    previous: Option<&SourceState>,
    now_ms: u64,
) -> SourceState {
    let (state, reason, seen) = match result {
        Ok(commit) => {
            let (state, reason) = word_for(commit, rewritten, previous);
            (state, reason, Some(commit.clone()))
        }
        Err(error) => (
            error.state(),
            error.to_string(),
            previous.and_then(|p| p.seen.clone()),
        ),
    };
    let unchanged = previous.filter(|p| p.state == state && p.seen == seen);
    SourceState {
        state: state.to_owned(),
        reason,
        seen,
        since_ms: unchanged.map_or(now_ms, |p| p.since_ms),
    }
}

/// `rewritten` lasts until the next commit: nobody polls at the very moment it happens.
fn word_for(
    commit: &Commit,
    rewritten: Option<bool>,
    previous: Option<&SourceState>,
) -> (&'static str, String) {
    let last = previous.filter(|p| p.seen.as_ref() == Some(commit));
    if let Some(last) = last.filter(|p| p.state == "rewritten") {
        return ("rewritten", last.reason.clone());
    }
    let was = previous
        .and_then(|p| p.seen.as_ref())
        .filter(|_| last.is_none() && rewritten == Some(true));
    match was {
        Some(was) => (
            "rewritten",
            format!("the history no longer holds {}", was.short()),
        ),
        None => ("ok", String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(id: &str) -> Commit {
        Commit {
            id: id.repeat(40),
            subject: "a subject".to_owned(),
            author: "anna".to_owned(),
            at_ms: 1,
        }
    }

    fn unreachable(reason: &str) -> Error {
        Error::Unreachable {
            remote: "r".to_owned(),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn only_an_unseen_commit_that_did_not_fail_is_new() {
        assert_eq!(next_commit(None, "b", None), Decision::New);
        assert_eq!(next_commit(Some("a"), "b", None), Decision::New);
        assert_eq!(next_commit(Some("b"), "b", None), Decision::Unchanged);
        assert_eq!(
            next_commit(Some("a"), "b", Some("b")),
            Decision::Quarantined
        );
        assert_eq!(
            next_commit(Some("b"), "b", Some("b")),
            Decision::Quarantined
        );
        assert_eq!(next_commit(Some("b"), "c", Some("b")), Decision::New);
    }

    #[test]
    fn failures_stretch_the_wait_up_to_a_cap() {
        let poll = |failures| poll_delay(30_000, failures, 0.5);
        assert_eq!(poll(0), Duration::from_secs(30));
        assert_eq!(poll(1), Duration::from_secs(60));
        let quick = |failures| poll_delay(2_000, failures, 0.5);
        assert_eq!(quick(3), Duration::from_secs(16));
        assert_eq!(quick(20), BACKOFF_MAX);
        assert_eq!(poll(1000), BACKOFF_MAX);
        let hour = poll_delay(3_600_000, 5, 0.5);
        assert_eq!(hour, Duration::from_secs(3600));
        assert_eq!(poll_delay(0, 0, 0.5), POLL_MIN);
        let (low, high) = (poll_delay(30_000, 0, 0.0), poll_delay(30_000, 0, 1.0));
        assert_eq!((low.as_secs(), high.as_secs()), (27, 33));
    }

    #[test]
    fn equal_looks_give_equal_records() {
        let first = state_of(Ok(&commit("a")), None, None, 10);
        assert_eq!((first.state.as_str(), first.since_ms), ("ok", 10));
        let second = state_of(Ok(&commit("a")), None, Some(&first), 20);
        assert_eq!(second, first);
        let third = state_of(Ok(&commit("b")), Some(false), Some(&second), 30);
        assert_eq!((third.state.as_str(), third.since_ms), ("ok", 30));
    }

    #[test]
    fn a_failing_source_keeps_the_last_commit_and_since_when() {
        let good = state_of(Ok(&commit("a")), None, None, 10);
        let down = state_of(Err(&unreachable("refused")), None, Some(&good), 20);
        assert_eq!((down.state.as_str(), down.since_ms), ("unreachable", 20));
        assert_eq!(down.seen, good.seen);
        let still = state_of(Err(&unreachable("no route")), None, Some(&down), 30);
        assert_eq!(still.since_ms, 20);
        let back = state_of(Ok(&commit("a")), None, Some(&still), 40);
        assert_eq!((back.state.as_str(), back.since_ms), ("ok", 40));
    }

    #[test]
    fn a_rewritten_history_is_told_until_the_next_commit() {
        let first = state_of(Ok(&commit("a")), None, None, 10);
        let second = state_of(Ok(&commit("b")), Some(true), Some(&first), 20);
        assert_eq!(second.state, "rewritten");
        assert_eq!(second.reason, "the history no longer holds aaaaaaaaaaaa");
        let again = state_of(Ok(&commit("b")), None, Some(&second), 30);
        assert_eq!(again, second);
        let third = state_of(Ok(&commit("c")), Some(false), Some(&again), 40);
        assert_eq!(third.state, "ok");
    }
}
