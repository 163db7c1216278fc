//! How a release would come up: the planner and the rollout taken in turns on a copy of the world, as if
//! every container started well, with each thing that happens told in order. Called by `foretell`. Pure.

use super::compose::Procs;
use super::retire::DRAIN_MS;
use super::sim::{carry_out, settle};
use super::{check, dowding, rollout};
use crate::model::host::{Fetched, SiteHere};
use crate::model::job::JobKey;
use crate::model::names::StackName;
use crate::model::plan::Plan;
use crate::model::release::Release;
use crate::model::world::World;

/// Turns after which a release that is not live is left alone: one slot of an exclusive node takes two.
const TURNS_MAX: usize = 500;

/// What happened, in order, and what it came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Brought {
    /// One line each.
    pub order: Vec<String>,
    /// What keeps it from going live, in words; empty when it is.
    pub held: String,
}

/// Brings a release up in a world, which is afterwards as it will be. What is staged of the stack gives
/// way to it.
pub fn bring_up(world: &mut World, name: &StackName, release: &Release, procs: &Procs) -> Brought {
    let now_ms = world.now_ms;
    let stack = world.stacks.entry(name.clone()).or_default();
    stack.pointer.stage(release, now_ms);
    stack.pointer.reverting = None;
    stack.releases.insert(release.tag.clone(), release.clone());
    stack
        .procs
        .extend(procs.iter().map(|(key, spec)| (key.clone(), spec.clone())));
    let mut brought = Brought::default();
    let mut waited = false;
    let mut last = Plan::default();
    for _ in 0..TURNS_MAX {
        let (plan, complaints) = check::sound(world, dowding::plan(world));
        tell(&mut brought.order, name, &plan);
        let refused = complaints.iter().find(|complaint| complaint.stack == *name);
        if let Some(refused) = refused {
            brought.held.clone_from(&refused.what);
            return brought;
        }
        carry_out(world, &plan);
        settle(world);
        let fetched = fetch(world, name) | unpack(world, name);
        let stepped = step(world, name, &mut brought.order);
        let moved = !plan.is_empty() || fetched || stepped;
        last = plan;
        if !moved && waited {
            break;
        }
        if !moved {
            // Copies that were replaced finish what they have.
            world.now_ms += DRAIN_MS + 1;
        }
        waited = !moved;
    }
    let live = world.stacks.get(name).and_then(|stack| stack.live());
    if live.is_none_or(|live| live.tag != release.tag) {
        brought.held = held_up(&last, name);
    }
    brought
}

/// What keeps jobs of a stack from being placed; those that wait for one of them wait for the same.
fn held_up(plan: &Plan, name: &StackName) -> String {
    let of_stack = |job: &JobKey| job.stack == *name;
    let mut blocked = plan.blocked.iter().filter(|one| of_stack(&one.job));
    let mut waiting = plan.waiting.iter().filter(|one| of_stack(&one.job));
    match blocked.next().or_else(|| waiting.next()) {
        Some(one) => format!("{}: {}", one.job.short(), one.reason),
        None => "it does not come to an end".to_owned(),
    }
}

fn tell(order: &mut Vec<String>, name: &StackName, plan: &Plan) {
    let starts = plan.start.iter().filter(|start| start.job.stack == *name);
    order.extend(starts.map(|start| {
        format!(
            "start {} at {} on {}",
            start.job.short(),
            start.job.tag,
            start.host
        )
    }));
    let of_stack = |job: &JobKey| job.stack == *name;
    let stops = plan
        .stop
        .iter()
        .filter(|stop| of_stack(&stop.placement.job));
    order.extend(stops.map(|stop| {
        let placed = &stop.placement;
        format!(
            "stop {} at {} on {}",
            placed.job.short(),
            placed.job.tag,
            placed.host
        )
    }));
}

/// Hosts have what they were asked to fetch. Whether one of them had not before.
fn fetch(world: &mut World, name: &StackName) -> bool {
    let Some(stack) = world.stacks.get(name) else {
        return false;
    };
    let mut came = false;
    for fetch in &stack.pointer.fetch {
        let Some(host) = world.hosts.get_mut(&fetch.host) else {
            continue;
        };
        let here = |fetched: &Fetched| fetched.image == fetch.image && fetched.error.is_empty();
        if !host.fetched.iter().any(here) {
            host.fetched.retain(|fetched| fetched.image != fetch.image);
            host.fetched.push(Fetched {
                image: fetch.image.clone(),
                error: String::new(),
            });
            came = true;
        }
    }
    came
}

/// Hosts have the files of websites. Whether one of them had not before.
fn unpack(world: &mut World, name: &StackName) -> bool {
    let release = world.stacks.get(name).and_then(|stack| stack.staged());
    let sites = release.into_iter().flat_map(Release::sites);
    let digests: Vec<String> = sites.map(|(_, image)| image.digest.clone()).collect();
    let mut came = false;
    for host in world.hosts.values_mut() {
        for digest in &digests {
            let here = |site: &SiteHere| site.digest == *digest && site.error.is_empty();
            if !host.sites.iter().any(here) {
                host.sites.retain(|site| site.digest != *digest);
                let (digest, error) = (digest.clone(), String::new());
                host.sites.push(SiteHere { digest, error });
                came = true;
            }
        }
    }
    came
}

fn step(world: &mut World, name: &StackName, order: &mut Vec<String>) -> bool {
    let Some(step) = rollout::step(world, name) else {
        return false;
    };
    let (what, why) = &step.event;
    // What is fetched is no change, and of a drained release the stops were told.
    if !matches!(*what, "fetching" | "retired") {
        order.push(format!("{what}: {why}"));
    }
    if let Some(stack) = world.stacks.get_mut(name) {
        stack.pointer = step.pointer;
    }
    true
}
