//! What would become of a world: plans carried out on a copy of it, as if every container started
//! well. Used by `viking sim` and by tests; knows no store and no host.

use super::retire::DRAIN_MS;
use super::{check, dowding};
use crate::model::job::{Assignment, Instance, JobState, StateRecord};
use crate::model::plan::Plan;
use crate::model::release::Pointer;
use crate::model::world::World;

/// Plans after which a world that does not come to rest is left alone.
const ROUNDS_MAX: usize = 100;

/// First instance that is given out here: above what a store counts to in its lifetime.
const INSTANCES_FROM: i64 = 1 << 60;

/// The plans that follow each other until nothing is left to do, each with what the one before it
/// brought. The last one is empty, unless the world does not come to rest.
#[must_use]
pub fn rounds(world: &mut World) -> Vec<Plan> {
    let mut plans = Vec::new();
    while plans.len() < ROUNDS_MAX {
        // What would be refused is not written.
        let (plan, _) = check::sound(world, dowding::plan(world));
        let rests = plan.is_empty();
        carry_out(world, &plan);
        plans.push(plan);
        if rests {
            break;
        }
        settle(world);
        world.now_ms += DRAIN_MS + 1;
    }
    plans
}

/// What the store holds after a plan's writes.
pub fn carry_out(world: &mut World, plan: &Plan) {
    for stop in &plan.stop {
        let placed = &stop.placement;
        let seat = (placed.job.clone(), placed.host.clone());
        world.assignments.remove(&seat);
        if world.run.get(&placed.job) == Some(&placed.host) {
            world.run.remove(&placed.job);
        }
    }
    let taken = world.assignments.values().map(|placed| placed.instance.0);
    let first = taken.max().unwrap_or(0).max(INSTANCES_FROM) + 1;
    for (instance, start) in (first..).zip(&plan.start) {
        let placed = Assignment {
            job: start.job.clone(),
            host: start.host.clone(),
            instance: Instance(instance),
            container: None,
        };
        let seat = (start.job.clone(), start.host.clone());
        world.assignments.insert(seat, placed);
        if !start.beside {
            world.run.insert(start.job.clone(), start.host.clone());
        }
    }
    for flip in &plan.flip {
        world.run.insert(flip.job.clone(), flip.to.clone());
    }
    for (key, pin) in plan.pins.values() {
        world.fixed.insert(key.clone(), pin.clone());
    }
}

/// What hosts say after that: every placed job is healthy on those that are seen, as with a commit that
/// works, what runs once has ended well, and what was stopped is gone.
pub fn settle(world: &mut World) {
    world.counters.clear();
    let placed = &world.assignments;
    world
        .states
        .retain(|(host, job), _| placed.contains_key(&(job.clone(), host.clone())));
    for placed in world.assignments.values_mut() {
        if !world.hosts.contains_key(&placed.host) {
            continue;
        }
        let name = placed.job.id(placed.instance).0;
        let at = (placed.host.clone(), placed.job.clone());
        let once = placed.job.node.is_before();
        let (word, exit) = match once {
            true => (JobState::Exited, Some(0)),
            false => (JobState::Healthy, None),
        };
        let stack = world.stacks.get_mut(&placed.job.stack);
        let pointer = stack.map(|stack| &mut stack.pointer);
        let staged = |pointer: &&mut Pointer| pointer.staged.as_ref() == Some(&placed.job.tag);
        if let Some(pointer) = pointer.filter(staged).filter(|_| once) {
            pointer.ended.insert(placed.job.node.clone());
        }
        let same = |state: &StateRecord| state.instance == placed.instance && state.state == word;
        if world.states.get(&at).is_some_and(same) {
            continue;
        }
        placed.container = Some(name.clone());
        let state = StateRecord {
            v: 1,
            instance: placed.instance,
            state: word,
            since_ms: world.now_ms,
            container: Some(name),
            address: None,
            published: Vec::new(),
            reason: String::new(),
            exit,
            log_tail: Vec::new(),
            drift: Vec::new(),
        };
        world.states.insert(at, state);
    }
}
