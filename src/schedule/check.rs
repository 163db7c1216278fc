//! Invariants of a plan, one function each, apart from the planner that should keep them. Run by
//! `dispatch` before every write and by every test; a complaint means that nothing is written.

use std::collections::{BTreeMap, BTreeSet};

use super::wanted::{Role, wanted};
use crate::model::job::JobKey;
use crate::model::plan::Plan;
use crate::model::world::{PinKey, World};

/// Everything wrong with a plan, in words; empty when it may be written.
#[must_use]
pub fn plan(world: &World, plan: &Plan) -> Vec<String> {
    let checks: [fn(&World, &Plan) -> Vec<String>; 5] = [
        one_bucket,
        nothing_frozen,
        no_double_seat,
        pins_kept,
        only_living_hosts,
    ];
    checks.iter().flat_map(|check| check(world, plan)).collect()
}

/// Every wanted job is in exactly one of kept, start, waiting, blocked.
fn one_bucket(world: &World, plan: &Plan) -> Vec<String> {
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
        .map(|(job, count)| format!("{job} is in {count} buckets"))
        .collect();
    for (name, stack) in &world.stacks {
        if world.frozen_stacks.contains(name) {
            continue;
        }
        let jobs = wanted(name, stack);
        let must = jobs.iter().filter(|w| w.role != Role::Retiring);
        let missing = must.filter(|w| !buckets.contains_key(&w.job));
        complaints.extend(missing.map(|w| format!("{} is wanted and in no bucket", w.job)));
    }
    complaints
}

/// Nothing of a stack that cannot be read is started or stopped.
fn nothing_frozen(world: &World, plan: &Plan) -> Vec<String> {
    let started = plan.start.iter().map(|start| &start.job);
    let stopped = plan.stop.iter().map(|stop| &stop.placement.job);
    started
        .chain(stopped)
        .filter(|job| world.frozen_stacks.contains(&job.stack))
        .map(|job| format!("{job} belongs to a stack that cannot be read"))
        .collect()
}

/// A job is started at most once, and never while it has a placement.
fn no_double_seat(world: &World, plan: &Plan) -> Vec<String> {
    let mut seen = BTreeSet::new();
    plan.start
        .iter()
        .filter(|start| !seen.insert(&start.job) || world.placement(&start.job).is_some())
        .map(|start| format!("{} would run twice", start.job))
        .collect()
}

/// A pinned slot starts on its host or not at all. (A pin that an older release left behind does not
/// bind a node that has no volume any more.)
fn pins_kept(world: &World, plan: &Plan) -> Vec<String> {
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
        .filter_map(|start| {
            let pin = world.fixed.get(&PinKey::Seat(start.job.seat()))?;
            (pin.host != start.host).then(|| {
                format!(
                    "{} is pinned to {} and would start on {}",
                    start.job, pin.host, start.host
                )
            })
        })
        .collect()
}

/// Nothing starts on a host that is not seen.
fn only_living_hosts(world: &World, plan: &Plan) -> Vec<String> {
    plan.start
        .iter()
        .filter(|start| !world.hosts.contains_key(&start.host))
        .map(|start| {
            format!(
                "{} would start on {}, which is not seen",
                start.job, start.host
            )
        })
        .collect()
}
