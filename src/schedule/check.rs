//! Invariants of a plan, one function each, apart from the planner that should keep them. Run by
//! `dispatch` before every write and by every test; of a stack with a complaint nothing is written.

use std::collections::{BTreeMap, BTreeSet};

use super::wanted::{Role, Wanted, wanted};
use crate::model::job::JobKey;
use crate::model::names::StackName;
use crate::model::plan::{Plan, Start};
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
    let checks: [fn(&World, &Plan) -> Vec<Complaint>; 5] = [
        one_bucket,
        nothing_frozen,
        no_double_seat,
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

/// A job is started at most once, and never while it has a placement.
fn no_double_seat(world: &World, plan: &Plan) -> Vec<Complaint> {
    let mut seen = BTreeSet::new();
    plan.start
        .iter()
        .filter(|start| !seen.insert(&start.job) || world.placement(&start.job).is_some())
        .map(|Start { job, .. }| Complaint::of(job, format!("{job} would run twice")))
        .collect()
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
