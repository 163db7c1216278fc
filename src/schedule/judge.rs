//! Judgements about the jobs of a staged release: which failed by the commit's own fault, which take
//! too long, which are held up from outside, and whether a slot may be handed over now. Called by
//! `rollout`. Pure.

use std::collections::BTreeMap;

use super::before;
use super::dowding;
use super::wanted::{Wanted, any_healthy, linked, own_links, stack_map, still_to_cut};
use crate::model::job::{CounterRecord, Fault, JobKey, JobState, RUN_ONCE_MS_MAX};
use crate::model::names::{NodeName, StackName};
use crate::model::plan::Unplaced;
use crate::model::release::{Cut, Release, ReleaseNode};
use crate::model::resolve::{self, StackMap};
use crate::model::spec::LinkTarget;
use crate::model::world::{StackWorld, World};

/// Exits in a row of a process that fail its release. The first two may be a race with something
/// that was just started; three are the commit's own.
pub const EXITS_MAX: u32 = 3;

/// How long a job of a release may stay in one state before it is healthy. What holds it up from
/// outside does not count.
pub const STAGING_MS_MAX: u64 = 10 * 60 * 1000;

/// The same for what runs once before the others: its host, which has its log, says so a minute earlier.
const ONCE_MS_MAX: u64 = RUN_ONCE_MS_MAX + 60_000;

/// How long a slot that is being handed over may be held up from outside before the live copy is
/// started again: nobody serves meanwhile.
pub const CUT_OUTSIDE_MS_MAX: u64 = 60_000;

/// How long after a hand-over failures of those that link to it are still put down to it: a process
/// that lost its connection gives up late, and three looks at its health take a while.
const CUT_SETTLES_MS: u64 = 15_000;

/// The stage at which a release fails whose `before_release` does.
const BEFORE_RELEASE: &str = "before_release";

/// What made a staged job fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `before_release`, `start` or `health`.
    pub stage: &'static str,
    /// In words.
    pub reason: String,
    /// Last lines of its log.
    pub log: Vec<String>,
}

/// The first staged job that failed by the commit's own fault.
#[must_use]
pub fn failure(world: &World, stack: &StackWorld, jobs: &[&Wanted<'_>]) -> Option<Failure> {
    let made_ms = stack.staged().map_or(0, |release| release.made_ms);
    jobs.iter().find_map(|wanted| {
        let counter = counter(world, &wanted.job)?;
        // Services run under one tag: what the release before made of them is not this one's fault.
        if wanted.job.tag.is_static() && counter.at_ms <= made_ms {
            return None;
        }
        let excused = excused_until(world, stack, wanted);
        if excused.is_some_and(|until| counter.at_ms <= until) {
            return None;
        }
        let own = counter.fault == Fault::Own;
        // The live copy of a slot that is handed over stands still: it is brought back at the first
        // exit, within one stop and one start. What runs before a release has done its work or not.
        let seat = (wanted.job.node.clone(), wanted.job.slot);
        let once = wanted.job.node.is_before();
        let exits_max = if once || stack.pointer.cut.contains(&seat) {
            1
        } else {
            EXITS_MAX
        };
        let failed = own && (counter.unhealthy || counter.failures >= exits_max);
        failed.then(|| Failure {
            stage: match (once, counter.unhealthy) {
                (true, _) => BEFORE_RELEASE,
                (_, true) => "health",
                (_, false) => "start",
            },
            reason: format!("{}: {}", wanted.job.short(), counter.reason),
            log: counter.log_tail.clone(),
        })
    })
}

/// Until when failures of a job are not its own: as long as a slot that it links to is handed over
/// nobody serves there. What is handed over itself is not excused.
fn excused_until(world: &World, stack: &StackWorld, wanted: &Wanted<'_>) -> Option<u64> {
    let cut = &stack.pointer.cut;
    let release = stack.staged().filter(|_| !cut.is_empty())?;
    let JobKey { node, slot, .. } = &wanted.job;
    // Nor what runs before the others: it starts only when what it links to works.
    if cut.contains(&(node.clone(), *slot)) || node.is_before() {
        return None;
    }
    let links = linked(release, node, |_, _| true);
    let settled = |(node, slot): &Cut| {
        let state = world.state(world.placement(&release.job(node, *slot)?)?)?;
        let healthy = state.state == JobState::Healthy;
        healthy.then(|| state.since_ms.saturating_add(CUT_SETTLES_MS))
    };
    let seats = cut.iter().filter(|(node, _)| links.contains(node));
    seats.map(|seat| settled(seat).unwrap_or(u64::MAX)).max()
}

/// Failures in a row of a job's present placement.
#[must_use]
pub fn counter<'a>(world: &'a World, job: &JobKey) -> Option<&'a CounterRecord> {
    world
        .placement(job)
        .and_then(|placement| world.counter(placement))
}

/// A failure for a job that took too long, unless something outside holds it up: its host or engine
/// is not there, it has not been begun, its image is on its way, or its last failure was not its own.
#[must_use]
pub fn overdue(world: &World, stack: &StackWorld, sick: &Wanted<'_>) -> Option<Failure> {
    let placement = world.placement(&sick.job)?;
    let host = world
        .hosts
        .get(&placement.host)
        .filter(|host| host.engine_up())?;
    let state = world.state(placement)?;
    let outside = counter(world, &sick.job).is_some_and(|counter| counter.fault == Fault::Outside);
    // While its host was away nobody could know.
    let since_ms = stack
        .pointer
        .since_ms
        .max(state.since_ms)
        .max(host.started_ms);
    let waited_ms = world.now_ms.saturating_sub(since_ms);
    let once = sick.job.node.is_before();
    let limit_ms = if once { ONCE_MS_MAX } else { STAGING_MS_MAX };
    if outside || !begun(state.state) || waited_ms < limit_ms {
        return None;
    }
    let minutes = limit_ms / 60_000;
    let short = sick.job.short();
    let (stage, reason) = if once {
        let reason = format!("{short} did not end within {minutes} minutes");
        (BEFORE_RELEASE, reason)
    } else {
        let reason = format!("{short} was not healthy within {minutes} minutes");
        ("health", reason)
    };
    Some(Failure {
        stage,
        reason,
        log: Vec::new(),
    })
}

/// Why a hand-over does not come to its end, when it has been so for too long and not by the commit's
/// own fault.
#[must_use]
pub fn stranded(world: &World, stack: &StackWorld, sick: &[&Wanted<'_>]) -> Option<String> {
    let waited_ms = world.now_ms.saturating_sub(stack.pointer.since_ms);
    if waited_ms < CUT_OUTSIDE_MS_MAX {
        return None;
    }
    let (placed, unplaced): (Vec<&&Wanted<'_>>, Vec<_>) = sick
        .iter()
        .partition(|wanted| world.placement(&wanted.job).is_some());
    let mut placed = placed.iter().map(|wanted| &wanted.job);
    if let Some(reason) = placed.find_map(|job| not_begun(world, stack, job)) {
        return Some(reason);
    }
    if unplaced.is_empty() {
        return None;
    }
    let plan = dowding::plan(world);
    let of = |list: &[Unplaced], job: &JobKey| list.iter().find(|u| u.job == *job).cloned();
    unplaced.into_iter().find_map(|Wanted { job, .. }| {
        // Who stands still for a copy that waits gets no later chance; the others may wait as long
        // as a job may take.
        let cut = stack.pointer.cut.contains(&(job.node.clone(), job.slot));
        let patient = !cut && waited_ms < STAGING_MS_MAX;
        let waits = of(&plan.waiting, job).filter(|_| !patient);
        let unplaced = of(&plan.blocked, job).or(waits)?;
        let reason = unplaced.reason;
        Some(format!("{} could not be placed: {reason}", job.short()))
    })
}

/// Why a placed job has not been begun for too long, or cannot be, by no fault of its own. While its
/// host is away nobody could bring the old copy back either.
fn not_begun(world: &World, stack: &StackWorld, job: &JobKey) -> Option<String> {
    if let Some(outside) = counter(world, job).filter(|c| c.fault == Fault::Outside) {
        return Some(format!("{}: {}", job.short(), outside.reason));
    }
    let placement = world.placement(job)?;
    let host = world.hosts.get(&placement.host).filter(|h| h.engine_up())?;
    let state = world.state(placement);
    let word = state.map_or(JobState::Assigned, |state| state.state);
    let seen_ms = state.map_or(0, |state| state.since_ms);
    let since_ms = stack.pointer.since_ms.max(seen_ms).max(host.started_ms);
    let waited_ms = world.now_ms.saturating_sub(since_ms);
    let late = !begun(word) && waited_ms >= CUT_OUTSIDE_MS_MAX;
    let seconds = CUT_OUTSIDE_MS_MAX / 1_000;
    late.then(|| format!("{} is still {word} after {seconds} seconds", job.short()))
}

fn begun(state: JobState) -> bool {
    !matches!(state, JobState::Assigned | JobState::Pulling)
}

/// The node a slot's new copy would wait for: better now than while nobody serves.
#[must_use]
pub fn cut_waits_for(
    world: &World,
    name: &StackName,
    stack: &StackWorld,
    release: &Release,
    seat: &Cut,
) -> Option<NodeName> {
    let node = release.nodes.get(&seat.0)?;
    let maps = BTreeMap::from([(name.clone(), stack_map(stack))]);
    own_links(node, release)
        .find(|link| down(world, &maps, node, name, link))
        .cloned()
}

/// The slot to hand over although jobs of the release are not healthy: each of those could not even
/// start, because it waits for a node whose live copy keeps failing. Nobody loses anything by it, and
/// nothing else would ever bring the release on.
#[must_use]
pub fn cut_first(
    world: &World,
    name: &StackName,
    stack: &StackWorld,
    release: &Release,
    sick: &[&Wanted<'_>],
) -> Option<Cut> {
    let maps = BTreeMap::from([(name.clone(), stack_map(stack))]);
    let live = stack.live()?;
    let failing = |(node, slot): &Cut| {
        let job = live.job(node, *slot);
        job.and_then(|job| counter(world, &job).map(|c| c.failures > 0)) == Some(true)
    };
    let mut seats = still_to_cut(stack);
    seats.retain(failing);
    let waits_for_own = |node: &NodeName| {
        let mut first = release.still_to_end(&stack.pointer);
        first.any(|(job, _)| *job == node.before())
    };
    seats.retain(|(node, _)| !waits_for_own(node));
    let sick = before::foremost(stack, sick);
    let waits_for = |wanted: &&Wanted<'_>| {
        let unplaced = world.placement(&wanted.job).is_none();
        let down = |from: &ReleaseNode, link: &NodeName| down(world, &maps, from, name, link);
        let links = linked(release, &wanted.job.node, down);
        let seat = seats.iter().position(|(node, _)| links.contains(node));
        seat.filter(|_| unplaced)
    };
    let first: Option<Vec<usize>> = sick.iter().map(waits_for).collect();
    seats.get(first?.into_iter().min()?).cloned()
}

/// Whether no copy works that a node of the stack would reach over a link.
fn down(
    world: &World,
    maps: &BTreeMap<StackName, StackMap>,
    from: &ReleaseNode,
    stack: &StackName,
    link: &NodeName,
) -> bool {
    let target = LinkTarget {
        stack: None,
        node: link.clone(),
    };
    let tags = resolve::copies(maps, stack, &from.tag, &target);
    !any_healthy(world, stack, link, &tags)
}
