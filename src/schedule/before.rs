//! What runs once before a release starts (`before_release`): what starts ahead of it, what it waits
//! for, what waits for it, and when it is done. Called by `turn`, `judge` and `rollout`. Pure.

use std::collections::BTreeSet;

use super::wanted::{Wanted, hands_over, healthy, own_links};
use crate::model::job::{JobKey, StateRecord};
use crate::model::names::{HostName, NodeName};
use crate::model::release::{Release, ReleaseNode};
use crate::model::world::{StackWorld, World};

/// The job that a node of the staged release waits for, if it is not among those that start ahead.
#[must_use]
pub fn waits_for<'a>(stack: &'a StackWorld, node: &NodeName) -> Option<&'a NodeName> {
    let mut first = stack.staged()?.still_to_end(&stack.pointer);
    let (first, _) = first.next()?;
    (!ahead(stack).contains(node)).then_some(first)
}

/// Nodes of the staged release that start ahead of the jobs that run before the others, so that there
/// is a database to migrate: services and exclusive nodes without a live copy, unless they wait for
/// their own job, or link to something that waits.
#[must_use]
pub fn ahead(stack: &StackWorld) -> BTreeSet<&NodeName> {
    let Some(staged) = stack.staged() else {
        return BTreeSet::new();
    };
    let own = |name: &NodeName| staged.runs_first().any(|(job, _)| *job == name.before());
    let first = staged.nodes.iter().filter(|(name, node)| {
        let kind = node.service || node.exclusive;
        kind && node.slots() > 0 && !has_live_copy(stack, name) && !own(name)
    });
    let mut ahead: BTreeSet<&NodeName> = first.map(|(name, _)| name).collect();
    loop {
        let waits = |name: &&NodeName| {
            let node = staged.nodes.get(*name);
            let mut links = node.into_iter().flat_map(|node| own_links(node, staged));
            links.any(|link| !ahead.contains(link) && !answers(stack, staged, link))
        };
        let Some(waits) = ahead.iter().copied().find(waits) else {
            return ahead;
        };
        ahead.remove(waits);
    }
}

fn has_live_copy(stack: &StackWorld, name: &NodeName) -> bool {
    let before = stack.live().and_then(|live| live.nodes.get(name));
    before.is_some_and(|before| before.slots() > 0)
}

/// Whether what links to a node from the staged release reaches a live copy of it: it is unchanged, or
/// is handed over later.
fn answers(stack: &StackWorld, staged: &Release, name: &NodeName) -> bool {
    let before = stack.live().and_then(|live| live.nodes.get(name));
    let both = before.zip(staged.nodes.get(name));
    both.is_some_and(|(before, after)| {
        before.slots() > 0 && (before.tag == after.tag || hands_over(before, after, 0))
    })
}

/// Nodes that a job which runs before others links to and can reach: what only starts after it is not
/// waited for.
#[must_use]
pub fn links<'a>(stack: &'a StackWorld, job: &NodeName) -> Vec<&'a NodeName> {
    let staged = stack.staged();
    let found = staged.and_then(|staged| Some((staged, staged.before.get(job)?)));
    let Some((staged, job)) = found else {
        return Vec::new();
    };
    let ahead = ahead(stack);
    own_links(job, staged)
        .filter(|link| ahead.contains(link) || answers(stack, staged, link))
        .collect()
}

/// Whether every copy of a node of the staged release works.
#[must_use]
pub fn all_healthy(world: &World, stack: &StackWorld, node: &NodeName) -> bool {
    let Some(staged) = stack.staged() else {
        return false;
    };
    let slots = staged.nodes.get(node).map_or(0, ReleaseNode::slots);
    let mut jobs = (0..slots).filter_map(|slot| staged.job(node, slot));
    jobs.all(|job| healthy(world, &job))
}

/// Where the same job of another release, or of an earlier placement, is still seen: two of them at
/// once would be two hands on one database. Of a lost host nobody can tell.
#[must_use]
pub fn still_there<'a>(world: &'a World, job: &JobKey) -> Option<(&'a HostName, &'a JobKey)> {
    let same = |seen: &JobKey| seen.stack == job.stack && seen.node == job.node;
    let mut seen = world.states.keys();
    seen.find(|(host, seen)| same(seen) && !world.is_lost(host))
        .map(|(host, seen)| (host, seen))
}

/// Those of some wanted jobs that have run to their end by now.
#[must_use]
pub fn done(world: &World, jobs: &[&Wanted<'_>]) -> Vec<NodeName> {
    let done = |job: &JobKey| {
        let state = world.placement(job).and_then(|placed| world.state(placed));
        state.is_some_and(StateRecord::is_done)
    };
    let once = jobs.iter().map(|wanted| &wanted.job);
    once.filter(|job| job.node.is_before() && done(job))
        .map(|job| job.node.clone())
        .collect()
}

/// Of the jobs of a release that are not healthy, those that nothing of the release holds up: what
/// starts ahead, else what runs before the others, else all.
#[must_use]
pub fn foremost<'w, 'a>(stack: &StackWorld, sick: &[&'w Wanted<'a>]) -> Vec<&'w Wanted<'a>> {
    let is_before = |wanted: &&&Wanted<'_>| wanted.job.node.is_before();
    let before: Vec<_> = sick.iter().filter(is_before).copied().collect();
    if before.is_empty() {
        return sick.to_vec();
    }
    let nodes = ahead(stack);
    let is_ahead = |wanted: &&&Wanted<'_>| nodes.contains(&wanted.job.node);
    let ahead: Vec<_> = sick.iter().filter(is_ahead).copied().collect();
    if ahead.is_empty() { before } else { ahead }
}
