//! Invariants of a plan, one function each, apart from the planner that should keep them. Run by
//! `dispatch` before every write and by every test; of a stack with a complaint nothing is written.

use std::collections::{BTreeMap, BTreeSet};

use super::relocate;
use super::wanted::{Role, Wanted, wanted};
use crate::model::job::JobKey;
use crate::model::names::StackName;
use crate::model::plan::{Flip, Plan, Start};
use crate::model::world::{PinKey, World};

/// Something wrong with what a plan says of one stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The stack.
    pub stack: StackName,
    /// What, in words.
    pub what: String,
}

impl Complaint {
    fn of(job: &JobKey, what: String) -> Self {
        Self {
            stack: job.stack.clone(),
            what,
        }
    }
}

/// What may be written of a plan, and why the rest may not: one stack holds up no other.
#[must_use]
pub fn sound(world: &World, made: Plan) -> (Plan, Vec<Complaint>) {
    let complaints = plan(world, &made);
    let refused: BTreeSet<_> = complaints.iter().map(|c| c.stack.clone()).collect();
    (made.without(&refused), complaints)
}

/// Everything wrong with a plan; empty when all of it may be written.
#[must_use]
pub fn plan(world: &World, plan: &Plan) -> Vec<Complaint> {
    let checks: [fn(&World, &Plan) -> Vec<Complaint>; 6] = [
        one_bucket,
        nothing_frozen,
        no_double_seat,
        moves_lose_nothing,
        pins_kept,
        only_living_hosts,
    ];
    checks.iter().flat_map(|check| check(world, plan)).collect()
}

/// Every wanted job is in exactly one of kept, start, waiting, blocked.
fn one_bucket(world: &World, plan: &Plan) -> Vec<Complaint> {
    let mut buckets: BTreeMap<&JobKey, u32> = BTreeMap::new();
    let starts = plan.start.iter().map(|start| &start.job);
    let unplaced = plan
        .waiting
        .iter()
        .chain(&plan.blocked)
        .map(|unplaced| &unplaced.job);
    for job in plan.kept.iter().chain(starts).chain(unplaced) {
        *buckets.entry(job).or_insert(0) += 1;
    }
    let mut complaints: Vec<_> = buckets
        .iter()
        .filter(|(_, count)| **count != 1)
        .map(|(job, count)| Complaint::of(job, format!("{job} is in {count} buckets")))
        .collect();
    for (name, stack) in &world.stacks {
        if world.frozen_stacks.contains(name) {
            continue;
        }
        let jobs = wanted(name, stack);
        let must = jobs.iter().filter(|w| w.role != Role::Retiring);
        let missing = must.filter(|w| !buckets.contains_key(&w.job));
        complaints.extend(missing.map(|Wanted { job, .. }| {
            Complaint::of(job, format!("{job} is wanted and in no bucket"))
        }));
    }
    complaints
}

/// Nothing of a stack that cannot be read is started or stopped.
fn nothing_frozen(world: &World, plan: &Plan) -> Vec<Complaint> {
    let started = plan.start.iter().map(|start| &start.job);
    let stopped = plan.stop.iter().map(|stop| &stop.placement.job);
    started
        .chain(stopped)
        .filter(|job| world.frozen_stacks.contains(&job.stack))
        .map(|job| Complaint::of(job, format!("{job} belongs to a stack that cannot be read")))
        .collect()
}

/// A job is started at most once, and never while it has a placement: unless that ends because its
/// host is lost, or the new one is to take over from it and may run beside it.
fn no_double_seat(world: &World, plan: &Plan) -> Vec<Complaint> {
    let mut seen = BTreeSet::new();
    let twice = |start: &&Start| {
        let Some(placed) = world.placement(&start.job) else {
            return start.beside;
        };
        let ends = plan.stop.iter().any(|stop| stop.placement == *placed);
        let moves = ends && world.is_lost(&placed.host);
        !(start.beside || moves)
    };
    plan.start
        .iter()
        .filter(|start| !seen.insert(&start.job) || twice(start))
        .map(|Start { job, .. }| Complaint::of(job, format!("{job} would run twice")))
        .collect()
}

/// Another copy answers only if it works, or if there is nobody else; of what may run only once
/// there is never a second copy.
fn moves_lose_nothing(world: &World, plan: &Plan) -> Vec<Complaint> {
    let unready = plan.flip.iter().filter(|flip| {
        let works = |placed| relocate::serves(world, placed);
        let to = world.placed_on(&flip.job, &flip.to);
        !to.is_some_and(works) && !world.is_lost(&flip.from)
    });
    let unready = unready.map(|flip| {
        let Flip { job, to, .. } = flip;
        Complaint::of(
            job,
            format!("{job} would move to {to}, where it does not work"),
        )
    });
    let exclusive: BTreeSet<JobKey> = world
        .stacks
        .iter()
        .flat_map(|(name, stack)| wanted(name, stack))
        .filter(|wanted| relocate::stays(wanted.node).is_some())
        .map(|wanted| wanted.job)
        .collect();
    let second = plan.start.iter().filter(|start| start.beside);
    let second = second.filter(|start| exclusive.contains(&start.job));
    let second = second.map(|Start { job, .. }| {
        Complaint::of(job, format!("{job} may run only once, and would be moved"))
    });
    unready.chain(second).collect()
}

/// A pinned slot starts on its host or not at all. (A pin that an older release left behind does not
/// bind a node that has no volume any more.)
fn pins_kept(world: &World, plan: &Plan) -> Vec<Complaint> {
    let pinned: BTreeSet<JobKey> = world
        .stacks
        .iter()
        .flat_map(|(name, stack)| wanted(name, stack))
        .filter(|wanted| wanted.node.pinned())
        .map(|wanted| wanted.job)
        .collect();
    plan.start
        .iter()
        .filter(|start| pinned.contains(&start.job))
        .filter_map(|Start { job, host, .. }| {
            let pin = &world.fixed.get(&PinKey::Seat(job.seat()))?.host;
            let elsewhere = || format!("{job} is pinned to {pin} and would start on {host}");
            (pin != host).then(|| Complaint::of(job, elsewhere()))
        })
        .collect()
}

/// Nothing starts on a host that is not seen.
fn only_living_hosts(world: &World, plan: &Plan) -> Vec<Complaint> {
    plan.start
        .iter()
        .filter(|start| !world.hosts.contains_key(&start.host))
        .map(|Start { job, host, .. }| {
            let what = format!("{job} would start on {host}, which is not seen");
            Complaint::of(job, what)
        })
        .collect()
}
