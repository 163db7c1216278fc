//! How long the jobs of a replaced release go on. Called by `dowding` for a plan, and by `dispatch` for
//! when to look again. Pure.

use std::collections::BTreeSet;

use super::wanted::{Role, Wanted, hands_over, own_links};
use crate::model::job::{Assignment, JobKey};
use crate::model::names::NodeName;
use crate::model::release::ReleaseNode;
use crate::model::world::{StackWorld, World};

/// How long the copies of a replaced node that publish ports go on after promotion, so that whoever
/// looked an endpoint up just before still gets an answer. Readers of `/ports` follow within
/// milliseconds; two seconds is room for a slow one, and for a router to say which of its requests
/// have not ended.
pub const DRAIN_MS: u64 = 2_000;

/// When a replaced job stops although something still links to it, it still has requests, or cannot end.
#[must_use]
pub fn drain_limit_ms(node: &ReleaseNode) -> u64 {
    node.stop.drain_ms.max(DRAIN_MS)
}

/// Leaves those of a stack's jobs that are wanted: of the retiring release, those that neither have
/// drained nor are gone by themselves. `seen` are the jobs that some host sees.
pub(super) fn keep_wanted(
    world: &World,
    stack: &StackWorld,
    all: &mut Vec<Wanted<'_>>,
    seen: &BTreeSet<&JobKey>,
) {
    let linked = linked(world, stack, all, seen);
    all.retain(|wanted| {
        let goes_on = || {
            let placed = world.placement(&wanted.job);
            placed.is_some_and(|placed| {
                !world.is_lost(&placed.host) && !drained(world, stack, wanted, &linked)
            })
        };
        wanted.role != Role::Retiring || goes_on()
    });
}

/// Nodes that a retiring job which is still there links to.
fn linked<'a>(
    world: &World,
    stack: &'a StackWorld,
    all: &[Wanted<'a>],
    seen: &BTreeSet<&JobKey>,
) -> BTreeSet<&'a NodeName> {
    let Some(retiring) = stack.retiring() else {
        return BTreeSet::new();
    };
    let still_there = |job: &JobKey| world.run.contains_key(job) || seen.contains(job);
    all.iter()
        .filter(|other| other.role == Role::Retiring && still_there(&other.job))
        .flat_map(|other| own_links(other.node, retiring))
        .collect()
}

/// Whether a job of the retiring release may stop: nobody who links to it is left, and who looked its
/// endpoint up has had time to ask.
fn drained(
    world: &World,
    stack: &StackWorld,
    wanted: &Wanted<'_>,
    linked: &BTreeSet<&NodeName>,
) -> bool {
    let JobKey {
        node, tag, slot, ..
    } = &wanted.job;
    let live = stack.live().and_then(|live| live.nodes.get(node));
    // A slot that the new scale leaves out was never handed over: it served until now.
    if live.is_some_and(|now| *slot < now.slots() && hands_over(wanted.node, now, *slot)) {
        return true; // stood still since its hand-over: nothing to drain
    }
    let waited = world.now_ms.saturating_sub(stack.pointer.since_ms);
    if waited >= drain_limit_ms(wanted.node) {
        return true;
    }
    let publishes = stack
        .procs
        .get(&(node.clone(), tag.clone()))
        .is_none_or(|spec| !spec.settings.expose.is_empty());
    let placed = world.placement(&wanted.job);
    let asked = placed.is_some_and(|placed| has_requests(world, placed));
    !linked.contains(node) && (!publishes || (waited >= DRAIN_MS && !asked))
}

/// Whether a router still waits for an answer of a copy that no route leads to any more.
#[must_use]
pub fn has_requests(world: &World, placed: &Assignment) -> bool {
    let mut hosts = world
        .hosts
        .values()
        .filter(|host| !host.draining.is_empty());
    hosts.any(|host| host.draining.contains(&placed.job.id(placed.instance)))
}
