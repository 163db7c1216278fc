//! Invariants of a plan, one function each, apart from the planner that should keep them. Run by
//! `dispatch` before every write and by every test; of a stack with a complaint nothing is written.

use std::collections::BTreeSet;

use super::before;
use super::relocate;
use super::wanted::{Role, Wanted, wanted};
use crate::model::job::JobKey;
use crate::model::names::StackName;
use crate::model::plan::{Flip, Plan, Start};
use crate::model::release::ReleaseNode;
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

/// A plan, and the jobs that the world it is about wants.
struct Case<'a> {
    world: &'a World,
    plan: &'a Plan,
    wanted: Vec<Wanted<'a>>,
}

impl Case<'_> {
    /// Wanted jobs whose node is of some kind.
    fn jobs(&self, of_kind: impl Fn(&ReleaseNode) -> bool) -> BTreeSet<&JobKey> {
        let all = self.wanted.iter();
        let some = all.filter(|wanted| of_kind(wanted.node));
        some.map(|wanted| &wanted.job).collect()
    }
}

/// Everything wrong with a plan; empty when all of it may be written.
#[must_use]
pub fn plan(world: &World, plan: &Plan) -> Vec<Complaint> {
    let stacks = world.stacks.iter();
    let case = Case {
        world,
        plan,
        wanted: stacks
            .flat_map(|(name, stack)| wanted(name, stack))
            .collect(),
    };
    let checks: [fn(&Case<'_>) -> Vec<Complaint>; 7] = [
        one_bucket,
        nothing_frozen,
        no_double_seat,
        moves_lose_nothing,
        pins_kept,
        only_living_hosts,
        first_things_first,
    ];
    checks.iter().flat_map(|check| check(&case)).collect()
}

/// Every wanted job is in exactly one of kept, start, waiting, blocked.
fn one_bucket(case: &Case<'_>) -> Vec<Complaint> {
    let Case { world, plan, .. } = case;
    let starts = plan.start.iter().map(|start| &start.job);
    let unplaced = plan.waiting.iter().chain(&plan.blocked);
    let unplaced = unplaced.map(|unplaced| &unplaced.job);
    let mut buckets: Vec<&JobKey> = plan.kept.iter().chain(starts).chain(unplaced).collect();
    buckets.sort_unstable();
    let several = buckets
        .chunk_by(|a, b| a == b)
        .filter(|same| same.len() > 1);
    let mut complaints: Vec<_> = several
        .map(|same| Complaint::of(same[0], format!("{} is in {} buckets", same[0], same.len())))
        .collect();
    let must = case.wanted.iter().filter(|wanted| {
        wanted.role != Role::Retiring && !world.frozen_stacks.contains(&wanted.job.stack)
    });
    let missing = must.filter(|wanted| buckets.binary_search(&&wanted.job).is_err());
    complaints.extend(
        missing.map(|Wanted { job, .. }| {
            Complaint::of(job, format!("{job} is wanted and in no bucket"))
        }),
    );
    complaints
}

/// Nothing of a stack that cannot be read is started or stopped.
fn nothing_frozen(Case { world, plan, .. }: &Case<'_>) -> Vec<Complaint> {
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
fn no_double_seat(Case { world, plan, .. }: &Case<'_>) -> Vec<Complaint> {
    let ending = plan.stop.iter().map(|stop| &stop.placement);
    let ending: BTreeSet<_> = ending.collect();
    let placed = plan.start.iter().filter(|start| {
        let Some(placed) = world.placement(&start.job) else {
            return start.beside;
        };
        let gone = ending.contains(placed) && world.is_lost(&placed.host);
        !(start.beside || gone)
    });
    let mut started: Vec<&JobKey> = plan.start.iter().map(|start| &start.job).collect();
    started.sort_unstable();
    let again = started.windows(2).filter(|two| two[0] == two[1]);
    let twice = placed
        .map(|start| &start.job)
        .chain(again.map(|two| two[0]));
    twice
        .map(|job| Complaint::of(job, format!("{job} would run twice")))
        .collect()
}

/// Another copy answers only if it works, or if there is nobody else; of what may run only once
/// there is never a second copy.
fn moves_lose_nothing(case: &Case<'_>) -> Vec<Complaint> {
    let Case { world, plan, .. } = case;
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
    let exclusive = case.jobs(|node| relocate::stays(node).is_some());
    let second = plan.start.iter().filter(|start| start.beside);
    let second = second.filter(|start| exclusive.contains(&start.job));
    let second = second.map(|Start { job, .. }| {
        Complaint::of(job, format!("{job} may run only once, and would be moved"))
    });
    unready.chain(second).collect()
}

/// A pinned slot starts on its host or not at all. (A pin that an older release left behind does not
/// bind a node that has no volume any more.)
fn pins_kept(case: &Case<'_>) -> Vec<Complaint> {
    let Case { world, plan, .. } = case;
    let pinned = case.jobs(ReleaseNode::pinned);
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
fn only_living_hosts(Case { world, plan, .. }: &Case<'_>) -> Vec<Complaint> {
    plan.start
        .iter()
        .filter(|start| !world.hosts.contains_key(&start.host))
        .map(|Start { job, host, .. }| {
            let what = format!("{job} would start on {host}, which is not seen");
            Complaint::of(job, what)
        })
        .collect()
}

/// Nothing of a release starts before what runs first has ended, but for what that needs.
fn first_things_first(case: &Case<'_>) -> Vec<Complaint> {
    let Case { world, plan, .. } = case;
    let staged = case.wanted.iter().filter(|w| w.role == Role::Staged);
    let staged: BTreeSet<&JobKey> = staged.map(|wanted| &wanted.job).collect();
    // What moves has started already.
    let started = plan.start.iter().filter(|start| !start.beside);
    let started = started.map(|start| &start.job);
    let started = started.filter(|job| staged.contains(job) && !job.node.is_before());
    started
        .filter_map(|job| {
            let stack = world.stacks.get(&job.stack)?;
            let first = before::waits_for(stack, &job.node)?;
            Some(Complaint::of(
                job,
                format!("{job} would start before {first} has ended"),
            ))
        })
        .collect()
}
