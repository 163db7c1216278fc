//! The state record of a job, worked out of what is decided and what is seen. Pure; used by the
//! desk for every wanted job after every pass.

use super::endpoints;
use super::health::Verdict;
use super::observed::Observed;
use super::reconcile::{Found, Step};
use super::wanted::Desired;
use crate::docker::RunState;
use crate::model::job::{CounterRecord, Drift, JobState, StateRecord};

/// Longest reason kept, in characters: a registry or an engine may say a lot.
const REASON_CHARS_MAX: usize = 1_000;

/// What is being done to a container right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Its image is fetched.
    Pulling,
    /// It is made or started.
    Starting,
    /// It is stopped, to be kept, started again, or made anew.
    Stopping,
    /// It is set right in place.
    Repairing,
    /// It ended or does not work; its log is read.
    Examining,
}

/// All that is known of one wanted job.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What is wanted.
    pub desired: &'a Desired,
    /// Its container.
    pub own: Option<&'a Observed>,
    /// What was decided.
    pub step: &'a Step,
    /// A difference that is being repaired.
    pub drift: Option<&'a Found>,
    /// What is under way.
    pub doing: Option<Doing>,
    /// Health of the running container, with a reason.
    pub health: Option<(Verdict, &'a str)>,
    /// Failures in a row.
    pub counter: Option<&'a CounterRecord>,
    /// The record before.
    pub before: Option<&'a StateRecord>,
}

/// The record.
#[must_use]
pub fn record(facts: &Facts<'_>, now_ms: u64) -> StateRecord {
    let (state, reason) = state_and_reason(facts);
    let failed = facts.counter.filter(|counter| counter.failures > 0);
    let failed = failed.filter(|_| state != JobState::Healthy);
    let reason = match failed {
        Some(counter) if reason.is_empty() => counter.reason.clone(),
        _ => reason,
    };
    let instance = facts.desired.instance;
    let before = facts.before.filter(|b| b.instance == instance);
    let since = before.filter(|before| before.state == state);
    let container = facts.own.map(|own| &own.container);
    let network = &facts.desired.network;
    StateRecord {
        v: 1,
        instance,
        state,
        since_ms: since.map_or(now_ms, |before| before.since_ms),
        container: container.map(|c| c.name.clone()),
        address: container.and_then(|c| c.networks.get(network).copied().flatten()),
        published: container.map(endpoints::published).unwrap_or_default(),
        reason: reason.chars().take(REASON_CHARS_MAX).collect(),
        exit: container
            .filter(|c| *facts.step == Step::Ended && c.state == RunState::Exited)
            .map(|c| c.exit_code),
        log_tail: failed.map(|c| c.log_tail.clone()).unwrap_or_default(),
        drift: drift(facts, before, now_ms),
    }
}

fn drift(facts: &Facts<'_>, before: Option<&StateRecord>, now_ms: u64) -> Vec<Drift> {
    let Some(found) = facts.drift else {
        return Vec::new();
    };
    let known = before.into_iter().flat_map(|before| &before.drift);
    let mut known = known.filter(|d| d.what == found.what && d.found == found.found);
    vec![Drift {
        what: found.what.to_owned(),
        found: found.found.clone(),
        wanted: found.wanted.clone(),
        since_ms: known.next().map_or(now_ms, |d| d.since_ms),
        action: action(facts.step).to_owned(),
    }]
}

/// What is done about a drift, in words.
#[must_use]
pub fn action(step: &Step) -> &'static str {
    match step {
        Step::Create => "made again",
        Step::Start => "started again",
        Step::Unpause => "thawed",
        Step::SetLimits => "limits set again",
        Step::Recreate => "removed and made again",
        Step::Restart => "stopped and started again",
        Step::Wait(_) | Step::WaitFor(_) => "waits",
        Step::Keep | Step::Held | Step::StopKeep | Step::Ended | Step::Busy => "none",
    }
}

fn state_and_reason(facts: &Facts<'_>) -> (JobState, String) {
    match facts.doing {
        Some(Doing::Pulling) => return (JobState::Pulling, String::new()),
        Some(Doing::Starting) => return (JobState::Starting, String::new()),
        Some(Doing::Stopping) => return (JobState::Stopping, String::new()),
        Some(Doing::Repairing | Doing::Examining) | None => {}
    }
    match facts.step {
        Step::Wait(_) => return (JobState::Backoff, String::new()),
        Step::WaitFor(other) => {
            let state = facts.own.map_or(JobState::Assigned, |_| JobState::Exited);
            return (state, format!("waits for {other} to end"));
        }
        Step::Held => {
            let state = facts.own.map_or(JobState::Assigned, |_| JobState::Exited);
            return (state, "held while another copy of its slot runs".to_owned());
        }
        // Of one that failed the counter says why.
        Step::Ended => {
            let well = facts.counter.is_none_or(|counter| counter.failures == 0);
            let reason = if well { "ran to its end" } else { "" };
            return (JobState::Exited, reason.to_owned());
        }
        Step::StopKeep | Step::Recreate | Step::Restart => {
            return (JobState::Stopping, String::new());
        }
        Step::Create | Step::Start => return (JobState::Starting, String::new()),
        Step::Keep | Step::Unpause | Step::SetLimits | Step::Busy => {}
    }
    match (facts.own.is_some_and(Observed::occupies), facts.health) {
        (true, Some((Verdict::Healthy, _))) => (JobState::Healthy, String::new()),
        (true, Some((Verdict::Unhealthy, why))) => (JobState::Unhealthy, why.to_owned()),
        (true, Some((Verdict::Starting, why))) => (JobState::Starting, why.to_owned()),
        (true, None) => (JobState::Starting, String::new()),
        (false, _) => (JobState::Exited, String::new()),
    }
}
