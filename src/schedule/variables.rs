//! Shared variables: which releases name which versions, and the release that a stack gets when one of
//! its variables was set anew. Asked by `leader::orders` and the API. Knows no values. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::again::{renewed, spec_of};
use super::compose::{Procs, settle};
use super::forms;
use super::order::Ready;
use super::squeeze::squeeze;
use crate::model::env::{SharedVar, VarRef, Variables, current};
use crate::model::names::StackName;
use crate::model::release::{Again, Release, RunId};
use crate::model::spec::ContainerSpec;
use crate::model::status::Role;
use crate::model::world::{StackWorld, World};

/// The versions that a release's nodes want; `procs` are specs it brings. Of a service whose changed
/// spec waits, that one counts.
#[must_use]
pub fn named(stack: &StackWorld, release: &Release, procs: &Procs) -> BTreeSet<SharedVar> {
    let specs = release.nodes.iter().filter_map(|(name, node)| {
        let brought = procs.get(&(name.clone(), node.tag.clone()));
        brought.or_else(|| spec_of(stack, name, node))
    });
    specs.flat_map(variables_of).cloned().collect()
}

fn variables_of(spec: &ContainerSpec) -> impl Iterator<Item = &SharedVar> {
    spec.settings.shared.values()
}

/// The current versions of those variables that are named at another one. One that is not set stays as
/// it is.
#[must_use]
pub fn behind(env: &Variables, named: &BTreeSet<SharedVar>) -> BTreeSet<SharedVar> {
    let now = named.iter().filter_map(|at| {
        let var = at.var();
        let version = current(env, &var)?;
        (version != at.version).then(|| var.at(version))
    });
    now.collect()
}

/// Stacks whose live release is to get other versions of its variables now.
#[must_use]
pub fn due(world: &World) -> Vec<StackName> {
    let stacks = world.stacks.iter();
    let due = stacks.filter(|(name, stack)| !to_take(world, name, stack).is_empty());
    due.map(|(name, _)| name.clone()).collect()
}

/// The versions that what is live is to get. None while something else is on its way, which has the
/// current ones or is followed by one that has; while people want nothing new of the stack; and none
/// that failed or were left.
fn to_take(world: &World, name: &StackName, stack: &StackWorld) -> BTreeSet<SharedVar> {
    let pointer = &stack.pointer;
    let at_rest = pointer.staged.is_none() && !pointer.removing;
    let followed = stack.source.is_some() && stack.suspended_ms().is_none();
    let readable = !world.frozen_stacks.contains(name);
    let Some(live) = stack.live().filter(|_| at_rest && followed && readable) else {
        return BTreeSet::new();
    };
    let mut take = behind(&world.env, &named(stack, live, &Procs::new()));
    take.retain(|at| !pointer.variables_aside.contains(at));
    take
}

/// The live release with the current versions of its shared variables: nodes that name none of those
/// that changed run on, and services too, whose changed spec waits. `None` when nothing is to be done.
#[must_use]
pub fn renew(world: &World, name: &StackName, run: RunId) -> Option<Ready> {
    let stack = world.stacks.get(name)?;
    let live = stack.live()?;
    let take = to_take(world, name, stack);
    if take.is_empty() {
        return None;
    }
    let again = Again::Variables {
        of: live.tag.clone(),
        names: take.iter().cloned().collect(),
    };
    let mut release = renewed(stack, live, again, run, world.now_ms);
    let mut procs = Procs::new();
    for (name, node) in &mut release.nodes {
        let Some(spec) = spec_of(stack, name, node) else {
            continue;
        };
        let Some(spec) = with(spec, &take) else {
            continue;
        };
        let mut made = node.clone();
        made.tag.clone_from(&release.tag);
        *node = settle(name, made, spec, live.nodes.get(name), &mut procs);
    }
    // What runs before a node is made from the same, and so runs before it is.
    for (name, job) in &mut release.before {
        let at = (name.clone(), job.tag.clone());
        let Some(spec) = stack.procs.get(&at).and_then(|spec| with(spec, &take)) else {
            continue;
        };
        job.spec_hash = spec.hash();
        job.tag.clone_from(&release.tag);
        procs.insert((name.clone(), job.tag.clone()), spec);
    }
    if forms::waits(world, &release, &procs).is_some() {
        return None;
    }
    squeeze(world, &mut release);
    let mut pointer = stack.pointer.clone();
    pointer.stage(&release, world.now_ms);
    Some(Ready {
        release,
        procs,
        pointer,
        end: None,
    })
}

/// The spec with these versions; `None` when it names none of the variables at another one.
fn with(spec: &ContainerSpec, take: &BTreeSet<SharedVar>) -> Option<ContainerSpec> {
    let mut spec = spec.clone();
    let mut changed = false;
    for at in spec.settings.shared.values_mut() {
        let new = take.iter().find(|new| new.var() == at.var());
        if let Some(new) = new.filter(|new| *new != at) {
            at.clone_from(new);
            changed = true;
        }
    }
    changed.then_some(spec)
}

/// Who uses a variable: a stack's live or staged release, and the version it names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The stack.
    pub stack: StackName,
    /// Which of its releases.
    pub release: Role,
    /// The version.
    pub version: u64,
}

/// Who uses which variables: what runs, what waits for a restart, and what is on its way.
#[must_use]
pub fn uses(world: &World) -> BTreeMap<VarRef, BTreeSet<Use>> {
    let mut uses: BTreeMap<VarRef, BTreeSet<Use>> = BTreeMap::new();
    for (name, stack) in &world.stacks {
        let live = stack.live().map(|release| (Role::Live, release));
        let staged = stack.staged().map(|release| (Role::Staged, release));
        for (role, release) in live.into_iter().chain(staged) {
            let mut all = named(stack, release, &Procs::new());
            all.extend(running(stack, release));
            for at in all {
                uses.entry(at.var()).or_default().insert(Use {
                    stack: name.clone(),
                    release: role,
                    version: at.version,
                });
            }
        }
    }
    uses
}

/// Versions that run, also where a changed spec waits.
fn running(stack: &StackWorld, release: &Release) -> BTreeSet<SharedVar> {
    let nodes = release.nodes.iter();
    let specs = nodes.filter_map(|(name, node)| stack.procs.get(&(name.clone(), node.tag.clone())));
    specs.flat_map(variables_of).cloned().collect()
}

/// Versions on record that no record names, so that nothing can ask for their values any more: neither
/// the current one nor one of any release that is kept. None while something cannot be read.
#[must_use]
pub fn unnamed(world: &World) -> BTreeSet<SharedVar> {
    if !world.frozen_stacks.is_empty() {
        return BTreeSet::new();
    }
    let mut kept: BTreeSet<&SharedVar> = BTreeSet::new();
    for stack in world.stacks.values() {
        let nodes = stack.releases.values().flat_map(|r| r.nodes.values());
        let waiting = nodes.filter_map(|node| node.pending.as_deref());
        kept.extend(stack.procs.values().chain(waiting).flat_map(variables_of));
    }
    let old = world.env.iter().flat_map(|(var, index)| {
        let now = index.current();
        let old = index.versions.iter().filter(move |n| Some(**n) != now);
        old.map(|n| var.at(*n))
    });
    old.filter(|at| !kept.contains(at)).collect()
}

#[cfg(test)]
#[path = "variables_tests.rs"]
mod tests;
