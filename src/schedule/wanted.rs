//! Which jobs a stack's pointer wants to run, and in which role. The first half of planning;
//! `dowding` places them, `rollout` judges them. Pure.

use std::collections::BTreeSet;

use crate::model::job::{JobKey, JobState};
use crate::model::names::{NodeName, StackName, Tag};
use crate::model::release::{Phase, Pointer, Release, ReleaseNode};
use crate::model::resolve::StackMap;
use crate::model::world::{StackWorld, World};

/// Why a job is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Of the live release.
    Live,
    /// Started for the staged release.
    Staged,
    /// Of the release being drained: kept where it is, never started.
    Retiring,
}

/// A job that should run.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The job.
    pub job: JobKey,
    /// What is on record of its stack: looking that up again and again is a good part of a large plan.
    pub stack: &'a StackWorld,
    /// Its node, as the release that wants it says.
    pub node: &'a ReleaseNode,
    /// Why.
    pub role: Role,
}

/// All jobs a stack wants, in job order, each once.
#[must_use]
pub fn wanted<'a>(name: &StackName, stack: &'a StackWorld) -> Vec<Wanted<'a>> {
    if stack.pointer.removing {
        return Vec::new();
    }
    let mut jobs = Vec::new();
    let mut add = |role, node: &NodeName, slot, of: &'a ReleaseNode| {
        let job = JobKey {
            stack: name.clone(),
            tag: of.tag.clone(),
            node: node.clone(),
            slot,
        };
        jobs.push(Wanted {
            job,
            stack,
            node: of,
            role,
        });
    };
    for (node, slot, of) in stack.live().into_iter().flat_map(slots) {
        add(Role::Live, node, slot, of);
    }
    if let Some(staged) = stack.staged().filter(|_| stages(stack.pointer.phase)) {
        let live = stack.live();
        for (node, slot, of) in slots(staged) {
            if starts_in_stage(&stack.pointer, live, staged, node, slot) {
                add(Role::Staged, node, slot, of);
            }
        }
        for (node, of) in staged.still_to_end(&stack.pointer) {
            add(Role::Staged, node, 0, of);
        }
    }
    for (node, slot, of) in stack.retiring().into_iter().flat_map(slots) {
        add(Role::Retiring, node, slot, of);
    }
    // Of one that several releases want, the first of them says how.
    jobs.sort_by(|a, b| a.job.cmp(&b.job));
    jobs.dedup_by(|later, first| later.job == first.job);
    jobs
}

fn stages(phase: Phase) -> bool {
    matches!(phase, Phase::Staging | Phase::Cutting)
}

/// Every slot of a release.
fn slots(release: &Release) -> impl Iterator<Item = (&NodeName, u32, &ReleaseNode)> {
    let nodes = release.nodes.iter();
    nodes.flat_map(|(name, node)| (0..node.slots()).map(move |slot| (name, slot, node)))
}

/// Whether a slot of the staged release runs before promotion.
fn starts_in_stage(
    pointer: &Pointer,
    live: Option<&Release>,
    staged: &Release,
    name: &NodeName,
    slot: u32,
) -> bool {
    let Some(node) = staged.nodes.get(name) else {
        return false;
    };
    match live.and_then(|live| live.nodes.get(name)) {
        // Unchanged: its scale counts from promotion on, unless there is nothing live to touch.
        Some(before) if before.tag == node.tag => before.slots() == 0,
        Some(before) if hands_over(before, node, slot) => {
            pointer.cut.contains(&(name.clone(), slot))
        }
        // A further copy comes after the first was handed over, so that it cannot take its place.
        Some(before) if hands_over(before, node, 0) => pointer.cut.contains(&(name.clone(), 0)),
        _ => true,
    }
}

/// Whether the staged release wants a slot of a node now.
#[must_use]
pub fn staged_now(world: &StackWorld, node: &NodeName, slot: u32) -> bool {
    world
        .staged()
        .is_some_and(|staged| starts_in_stage(&world.pointer, world.live(), staged, node, slot))
}

/// Whether a slot's old and new copy must never run at the same time. One exclusive side is enough:
/// workers keep one tag per slot of such a node. Of a lack of room only the later release tells: the
/// next one may need less.
#[must_use]
pub fn hands_over(before: &ReleaseNode, after: &ReleaseNode, slot: u32) -> bool {
    let one_runs = before.exclusive || after.exclusive || after.squeezed;
    before.tag != after.tag && slot < before.slots() && one_runs
}

/// Whether the new copy of a slot needs what the old one has: its volume, or a port of its host.
#[must_use]
pub fn takes_over(before: &ReleaseNode, after: &ReleaseNode, slot: u32) -> bool {
    let one_volume = before.has_volume && after.has_volume;
    let one_port = before
        .host_ports
        .iter()
        .any(|port| after.host_ports.contains(port));
    hands_over(before, after, slot) && (one_volume || one_port)
}

/// Slots that must be handed over before promotion and are not yet, in link order.
#[must_use]
pub fn still_to_cut(world: &StackWorld) -> Vec<(NodeName, u32)> {
    let (Some(live), Some(staged)) = (world.live(), world.staged()) else {
        return Vec::new();
    };
    let mut seats = Vec::new();
    for name in link_order(staged) {
        let (Some(before), Some(after)) = (live.nodes.get(&name), staged.nodes.get(&name)) else {
            continue;
        };
        let slots = (0..after.slots()).filter(|slot| hands_over(before, after, *slot));
        seats.extend(slots.map(|slot| (name.clone(), slot)));
    }
    seats.retain(|seat| !world.pointer.cut.contains(seat));
    seats
}

/// Nodes of a release so that a node comes after those it links to; by name within that. A cycle
/// (refused when `viking.yml` is read) ends the order early and the rest follows by name.
#[must_use]
pub fn link_order(release: &Release) -> Vec<NodeName> {
    let mut order: Vec<NodeName> = Vec::new();
    let mut done: BTreeSet<NodeName> = BTreeSet::new();
    loop {
        let ready = release.nodes.iter().find(|(name, node)| {
            !done.contains(*name) && own_links(node, release).all(|link| done.contains(link))
        });
        let Some((name, _)) = ready else { break };
        done.insert(name.clone());
        order.push(name.clone());
    }
    order.extend(
        release
            .nodes
            .keys()
            .filter(|name| !done.contains(*name))
            .cloned(),
    );
    order
}

/// Nodes of the same release that a node links to and that have copies to wait for.
pub fn own_links<'a>(
    node: &'a ReleaseNode,
    release: &'a Release,
) -> impl Iterator<Item = &'a NodeName> {
    node.link
        .iter()
        .filter(|link| {
            link.stack
                .as_ref()
                .is_none_or(|stack| *stack == release.stack)
        })
        .map(|link| &link.node)
        .filter(|name| {
            release
                .nodes
                .get(*name)
                .is_some_and(|target| target.slots() > 0)
        })
}

/// The nodes of a release that a node comes to over links that `follows` lets pass: from which node
/// to which. Never the node itself.
pub fn linked<'a>(
    release: &'a Release,
    node: &NodeName,
    follows: impl Fn(&ReleaseNode, &NodeName) -> bool,
) -> BTreeSet<&'a NodeName> {
    let mut found = BTreeSet::new();
    let mut todo: Vec<&ReleaseNode> = release.node(node).into_iter().collect();
    while let Some(from) = todo.pop() {
        for link in own_links(from, release) {
            if follows(from, link) && found.insert(link) {
                todo.extend(release.nodes.get(link));
            }
        }
    }
    found
}

/// Whether a job's own host sees it healthy.
#[must_use]
pub fn healthy(world: &World, job: &JobKey) -> bool {
    state_of(world, job) == Some(JobState::Healthy)
}

/// What a job's own host last saw of its present placement.
#[must_use]
pub fn state_of(world: &World, job: &JobKey) -> Option<JobState> {
    world
        .placement(job)
        .and_then(|placement| world.state(placement))
        .map(|state| state.state)
}

/// Whether some copy of a node at one of these tags is healthy.
#[must_use]
pub fn any_healthy(world: &World, stack: &StackName, node: &NodeName, tags: &[Tag]) -> bool {
    tags.iter().any(|tag| {
        let at = |slot| JobKey {
            stack: stack.clone(),
            tag: tag.clone(),
            node: node.clone(),
            slot,
        };
        world
            .run
            .range(at(0)..=at(u32::MAX))
            .any(|(job, _)| healthy(world, job))
    })
}

/// What the resolver needs of a stack.
#[must_use]
pub fn stack_map(stack: &StackWorld) -> StackMap {
    let named = stack.pointer.named();
    let releases = named.filter_map(|tag| Some((tag.clone(), stack.releases.get(tag)?.clone())));
    StackMap {
        pointer: stack.pointer.clone(),
        releases: releases.collect(),
    }
}
