//! When a placed job must leave its host, and how far one that moves is. Called by `dowding`, and by
//! the API to say what keeps a host from being empty. Pure; the writes are `Tables::assign`'s.
//!
//! From a lost host a job moves as if it had none. From one that is drained it moves start-first: a
//! second copy is placed elsewhere, answers for the job once it is healthy, and the first one ends
//! when whoever looked its endpoint up has had time to ask.

use super::judge::EXITS_MAX;
use super::retire::{DRAIN_MS, has_requests};
use super::wanted::{Role, Wanted};
use crate::model::host::Readiness;
use crate::model::job::{Assignment, JobState};
use crate::model::names::HostName;
use crate::model::release::ReleaseNode;
use crate::model::spec::StopPolicy;
use crate::model::world::World;

/// Whether a placement goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It stays where it is.
    Not,
    /// Its host is lost.
    Lost,
    /// Its host gives its jobs away.
    Drain,
}

/// Whether a job must leave the host it is on.
#[must_use]
pub fn leave(world: &World, wanted: &Wanted<'_>, placed: &Assignment) -> Leave {
    if world.is_lost(&placed.host) {
        return Leave::Lost;
    }
    // What is retiring, or runs to its end, is gone soon anyway.
    let ends = wanted.role == Role::Retiring || wanted.job.node.is_before();
    let moves = !ends && stays(wanted.node).is_none();
    if moves && drains(world, &placed.host) {
        return Leave::Drain;
    }
    Leave::Not
}

fn drains(world: &World, host: &HostName) -> bool {
    let member = world.members.get(host);
    member.is_some_and(|member| member.readiness == Readiness::Draining)
}

/// Why a job cannot leave a host that works, in words.
#[must_use]
pub fn stays(node: &ReleaseNode) -> Option<&'static str> {
    if node.pinned() {
        return Some("its data is there");
    }
    // Two copies of a slot must never run at once: there is nothing to start first.
    node.exclusive
        .then_some("it has a fixed port, and only one copy of it may run")
}

/// Whether a second copy may still take over: its host is to be counted on and it does not fail.
#[must_use]
pub fn goes_on(world: &World, other: &Assignment) -> bool {
    let ready = world
        .members
        .get(&other.host)
        .is_some_and(|member| member.readiness == Readiness::Ready);
    let failing = world
        .counter(other)
        .is_some_and(|counter| counter.unhealthy || counter.failures >= EXITS_MAX);
    ready && !world.is_lost(&other.host) && !failing
}

/// Whether a copy works.
#[must_use]
pub fn serves(world: &World, placed: &Assignment) -> bool {
    let state = world.state(placed);
    state.is_some_and(|state| state.state == JobState::Healthy)
}

/// Whether a copy that does not answer for its job goes on: as long as the one that does is not
/// healthy or nobody hears of it, and then a little more, since who looked its endpoint up just before still asks.
#[must_use]
pub fn still_drains(world: &World, placed: &Assignment) -> bool {
    let answers = world.placement(&placed.job);
    let heard = |answers: &Assignment| world.hosts.contains_key(&answers.host);
    let alone = answers.is_some_and(|answers| !heard(answers) || !serves(world, answers));
    let serving = serves(world, placed) && !world.is_lost(&placed.host);
    (serving && alone) || drain_left_ms(world, placed).is_some_and(|left| left > 0)
}

/// Milliseconds that a copy which no longer answers has left; `None` when it is not one.
#[must_use]
pub fn drain_left_ms(world: &World, placed: &Assignment) -> Option<u64> {
    if world.is_lost(&placed.host) || !serves(world, placed) {
        return None;
    }
    let answers = world.placement(&placed.job)?;
    if answers.host == placed.host {
        return None;
    }
    let state = world
        .state(answers)
        .filter(|s| s.state == JobState::Healthy)?;
    let since_ms = state.since_ms;
    let drain_ms = match has_requests(world, placed) {
        true => StopPolicy::default().drain_ms,
        false => DRAIN_MS,
    };
    Some(
        since_ms
            .saturating_add(drain_ms)
            .saturating_sub(world.now_ms),
    )
}
