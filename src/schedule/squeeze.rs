//! Which changed nodes of a release have no room beside their live copies, and so are handed over as
//! exclusive ones are. Asked once, right before the release is staged. Pure.

use std::collections::BTreeSet;

use super::dowding::Planner;
use super::wanted::{Role, Wanted, wanted};
use crate::model::job::JobKey;
use crate::model::names::{HostName, NodeName, StackName};
use crate::model::release::{Phase, Release, ReleaseNode};
use crate::model::spec::Resources;
use crate::model::world::{StackWorld, World};

/// Marks the nodes of a release about to be staged that do not fit beside their live copies.
pub fn squeeze(world: &World, release: &mut Release) {
    let mut then = world.clone();
    let stack = then.stacks.entry(release.stack.clone()).or_default();
    let pointer = &mut stack.pointer;
    pointer.staged = Some(release.tag.clone());
    pointer.phase = Phase::Staging;
    pointer.cut.clear();
    // What is being drained leaves its room before long.
    pointer.retiring = None;
    stack.releases.insert(release.tag.clone(), release.clone());
    // One node at a time: it starts later then, and the next may fit.
    while let Some(node) = next(&then, &release.stack) {
        mark(release, &node);
        let stack = then.stacks.entry(release.stack.clone()).or_default();
        stack.releases.insert(release.tag.clone(), release.clone());
    }
    for job in cramped(&then, &release.stack) {
        if let Some(job) = release.before.get_mut(&job) {
            job.resources = Resources::default();
        }
    }
}

/// What runs before the release and has no room beside what is live. It runs there all the same, within
/// its limits: what is live is not stopped for it, and without it the release would never come up.
fn cramped(then: &World, name: &StackName) -> Vec<NodeName> {
    let Some(stack) = then.stacks.get(name) else {
        return Vec::new();
    };
    let mut planner = Planner::new(then);
    planner.count_in(|_| false);
    let mut first = wanted(name, stack);
    first.retain(|wanted| wanted.job.node.is_before());
    first.retain(|wanted| planner.choose(wanted).host().is_none());
    first.into_iter().map(|wanted| wanted.job.node).collect()
}

fn mark(release: &mut Release, node: &NodeName) {
    if let Some(node) = release.nodes.get_mut(node) {
        node.squeezed = true;
    }
}

/// Jobs that were given a host so far.
type Placed<'a> = Vec<(HostName, JobKey, &'a ReleaseNode)>;

/// The first changed node with a slot that no host takes, and that one would take without the live
/// copies of it. Only a lack of room is mended by that: the two share neither a port nor a tag to be
/// spread by. Walks as the planner will, but for what waits for another job.
fn next(then: &World, name: &StackName) -> Option<NodeName> {
    let stack = then.stacks.get(name)?;
    let mut planner = Planner::new(then);
    planner.count_in(|_| false);
    let mut placed = Placed::new();
    // Slots of one node that are not pinned fit alike, or do not.
    let mut hopeless = BTreeSet::new();
    let mut all = wanted(name, stack);
    // What is live has its room first, also where it is not placed yet.
    all.sort_by(|a, b| (a.role, &a.job).cmp(&(b.role, &b.job)));
    for wanted in all {
        let Wanted {
            job, node, role, ..
        } = &wanted;
        // What runs before the others has left its room when they come.
        if then.placement(job).is_some() || job.node.is_before() {
            continue;
        }
        if let Some(host) = planner.choose(&wanted).host() {
            planner.add(&host, job, node);
            placed.push((host, job.clone(), *node));
        } else if *role == Role::Staged
            // A slot that scale adds may not fit either way: each node is marked once.
            && !node.squeezed
            && !hopeless.contains(&job.node)
        {
            if fits_alone(then, stack, &placed, &wanted) {
                return Some(job.node.clone());
            }
            if !node.pinned() {
                hopeless.insert(job.node.clone());
            }
        }
    }
    None
}

/// Whether a host would take a job were there no live copies of its node.
fn fits_alone(then: &World, stack: &StackWorld, placed: &Placed<'_>, wanted: &Wanted<'_>) -> bool {
    let JobKey { node, tag, .. } = &wanted.job;
    let Some(before) = stack.live().and_then(|live| live.nodes.get(node)) else {
        return false;
    };
    let of_stack = |job: &JobKey| job.stack == wanted.job.stack && job.node == *node;
    let live = |job: &JobKey| of_stack(job) && job.tag == before.tag;
    if before.tag == *tag {
        return false;
    }
    let mut planner = Planner::new(then);
    planner.count_in(live);
    for (host, job, node) in placed.iter().filter(|(_, job, _)| !live(job)) {
        planner.add(host, job, node);
    }
    planner.choose(wanted).host().is_some()
}
