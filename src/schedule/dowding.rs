//! The planner: the world in, a plan out. Synchronous, deterministic, one pass, no randomness and
//! no clock but the world's. A plan computed again after its writes asks for nothing.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::fleet::Fleet;
use super::pins::Pins;
use super::place::{Candidate, Choice};
use super::relocate::{self, Leave};
use super::retire;
use super::turn::Turn;
use super::wanted::{Wanted, takes_over, wanted};
use crate::model::job::{Assignment, JobKey};
use crate::model::names::{HostName, StackName};
use crate::model::plan::{Flip, Plan, Start, Stop, Unplaced};
use crate::model::release::{Phase, ReleaseNode, RunId};
use crate::model::resolve::{self, StackMap};
use crate::model::spec::ImageRef;
use crate::model::verdict::{Home, Verdict};
use crate::model::world::{StackWorld, World};

/// Decides for everything at once.
#[must_use]
pub fn plan(world: &World) -> Plan {
    plan_with(world, || {})
}

/// [`plan`], calling back after each job: for who wants to know how long one decision takes.
#[must_use]
pub fn plan_with(world: &World, mut decided: impl FnMut()) -> Plan {
    let mut planner = Planner::new(world);
    planner.count_in(|_| false);
    for name in world.stacks.keys() {
        if !world.frozen_stacks.contains(name) {
            planner.stack(name, &mut decided);
        }
    }
    planner.unwanted();
    planner.plan
}

/// What the rules would say of every host for a job now, `None` when no pointer wants such a job.
#[must_use]
pub fn explain(world: &World, job: &JobKey) -> Option<Vec<Verdict>> {
    Some(choice(world, job)?.verdicts())
}

/// The host that would be given a job now; `None` when none may take it or no pointer wants it.
#[must_use]
pub fn would_take(world: &World, job: &JobKey) -> Option<HostName> {
    choice(world, job)?.host()
}

fn choice(world: &World, job: &JobKey) -> Option<Choice> {
    let stack = world.stacks.get(&job.stack)?;
    let wanted = wanted(&job.stack, stack)
        .into_iter()
        .find(|wanted| wanted.job == *job)?;
    let mut planner = Planner::new(world);
    planner.verdicts_max = usize::MAX;
    // Without its own placement: to ask where it would go.
    planner.count_in(|other| other == job);
    Some(planner.choose(&wanted))
}

/// Most verdicts that are on record with a placement: with 200 hosts all of them were 16 KB a job.
const VERDICTS_MAX: usize = 20;

/// Fewest of them: the host that won and those it won against.
const VERDICTS_MIN: usize = 3;

/// Verdicts of one plan, which all of its placements share: writing those of thousands of jobs takes
/// longer than finding them.
const VERDICTS_OF_PLAN: usize = 4_000;

pub(super) struct Planner<'a> {
    pub(super) world: &'a World,
    pub(super) maps: OnceCell<BTreeMap<StackName, StackMap>>,
    fleet: Fleet<'a>,
    pub(super) pins: Pins<'a>,
    /// The jobs of each stack in their order, but for those that may go.
    pub(super) wanted: BTreeMap<&'a StackName, Rc<[Wanted<'a>]>>,
    /// What was found out for the node that was looked at last.
    pub(super) turn: Option<Turn<'a>>,
    /// Copies beside the one that answers, which are on their way to take over.
    moving: BTreeSet<(JobKey, HostName)>,
    /// Verdicts that come with a job that is placed.
    verdicts_max: usize,
    plan: Plan,
}

impl<'a> Planner<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let seen = OnceCell::new();
        let seen = || seen.get_or_init(|| world.states.keys().map(|(_, job)| job).collect());
        let stacks = world.stacks.iter();
        let wanted: BTreeMap<&StackName, Rc<[Wanted<'_>]>> = stacks
            .map(|(name, stack)| {
                let mut all = wanted(name, stack);
                if stack.retiring().is_some() {
                    retire::keep_wanted(world, stack, &mut all, seen());
                }
                (name, all.into())
            })
            .collect();
        let to_place = |wanted: &&Wanted<'_>| {
            let placed = world.placement(&wanted.job);
            placed.is_none_or(|placed| relocate::leave(world, wanted, placed) != Leave::Not)
        };
        let unplaced = wanted.values().flat_map(|all| all.iter());
        let unplaced = unplaced.filter(to_place).count().max(1);
        Self {
            world,
            maps: OnceCell::new(),
            fleet: Fleet::new(world),
            pins: Pins::new(world),
            wanted,
            turn: None,
            moving: BTreeSet::new(),
            verdicts_max: (VERDICTS_OF_PLAN / unplaced).clamp(VERDICTS_MIN, VERDICTS_MAX),
            plan: Plan {
                now_ms: world.now_ms,
                ..Plan::default()
            },
        }
    }

    /// A job as its stack wants it.
    fn wants(&self, job: &JobKey) -> Option<&Wanted<'a>> {
        let all = self.wanted.get(&job.stack)?;
        let at = all.binary_search_by(|wanted| wanted.job.cmp(job)).ok()?;
        all.get(at)
    }

    /// Loads of what holds room already, images that are there, and failures. A job that is no longer
    /// wanted holds its room as long as its host still sees it.
    pub(super) fn count_in(&mut self, but: impl Fn(&JobKey) -> bool) {
        let world = self.world;
        for placed in world.assignments.values() {
            if placed.container.is_some()
                && let Some(image) = image_of(world, &placed.job)
            {
                self.fleet.has_run(&placed.host, image);
            }
        }
        let placed = world.assignments.keys().map(|(job, host)| (host, job));
        let placed = placed.filter(|(_, job)| self.wants(job).is_some());
        let seen = world.states.keys().map(|(host, job)| (host, job));
        // What stands still for its successor leaves its room to it.
        let stands = |job: &JobKey| {
            let stack = world.stacks.get(&job.stack);
            stack.is_some_and(|stack| held(stack, job))
        };
        let counts = |(_, job): &(&HostName, &JobKey)| !but(job) && !stands(job);
        let holders: BTreeSet<_> = placed.chain(seen).filter(counts).collect();
        for (host, job) in holders {
            let wanted = self.wants(job).map(|wanted| wanted.node);
            if let Some(node) = wanted.or_else(|| world.node(job)) {
                self.add(host, job, node);
            }
        }
        for ((host, job), counter) in &world.counters {
            self.fleet.fail(host, job, counter.failures);
        }
    }

    /// Counts in a job that is given a host.
    pub(super) fn add(&mut self, host: &HostName, job: &JobKey, node: &'a ReleaseNode) {
        self.fleet.add(host, job, node);
    }

    fn stack(&mut self, name: &StackName, decided: &mut impl FnMut()) {
        let all = self.wanted.get(name).cloned();
        for wanted in all.iter().flat_map(|all| all.iter()) {
            self.job(wanted);
            decided();
        }
    }

    fn job(&mut self, wanted: &Wanted<'a>) {
        let Some(placed) = self.world.placement(&wanted.job) else {
            return self.unplaced(wanted, None);
        };
        match relocate::leave(self.world, wanted, placed) {
            Leave::Not => {
                self.plan.kept.push(wanted.job.clone());
                self.pin(wanted, &placed.host);
            }
            Leave::Lost => self.lost(wanted, placed),
            Leave::Drain => self.drain(wanted, placed),
        }
    }

    /// A job that needs a host. `lost` is the placement it cannot go on with.
    fn unplaced(&mut self, wanted: &Wanted<'a>, lost: Option<&Assignment>) {
        let unplaced = |reason: String, verdicts| Unplaced {
            job: wanted.job.clone(),
            reason: match lost {
                Some(lost) => format!("{} is lost: {reason}", lost.host),
                None => reason,
            },
            verdicts,
        };
        if let Some(reason) = self.waits_for(wanted, lost.is_some()) {
            self.plan.waiting.push(unplaced(reason, Vec::new()));
            return;
        }
        match self.choose(wanted) {
            Choice::Host(host, verdicts) => {
                self.plan.stop.extend(lost.map(|placement| Stop {
                    placement: placement.clone(),
                    reason: format!("{} is lost", placement.host),
                }));
                self.start(wanted, host, verdicts, false);
            }
            Choice::None(reason, verdicts) => {
                self.plan.blocked.push(unplaced(reason, verdicts));
            }
        }
    }

    /// The host is gone: a copy that was on its way elsewhere takes over, else there is a new one.
    fn lost(&mut self, wanted: &Wanted<'a>, placed: &Assignment) {
        let world = self.world;
        let mut others = world.beside(&wanted.job);
        match others.find(|other| !world.is_lost(&other.host)) {
            Some(other) => {
                self.plan.kept.push(wanted.job.clone());
                let reason = format!("{} is lost", placed.host);
                self.flip(wanted, placed, other, reason.clone());
                self.pin(wanted, &other.host);
                let placement = placed.clone();
                self.plan.stop.push(Stop { placement, reason });
            }
            None => self.unplaced(wanted, Some(placed)),
        }
    }

    /// The host gives its jobs away: a new copy first, then it answers, then the old one ends.
    fn drain(&mut self, wanted: &Wanted<'a>, placed: &Assignment) {
        let world = self.world;
        let other = world
            .beside(&wanted.job)
            .find(|other| relocate::goes_on(world, other));
        if let Some(other) = other {
            self.moving.insert((other.job.clone(), other.host.clone()));
            self.plan.kept.push(wanted.job.clone());
            if relocate::serves(world, other) {
                let reason = format!("{} is drained", placed.host);
                self.flip(wanted, placed, other, reason);
            }
            return;
        }
        match self.choose(wanted) {
            Choice::Host(host, verdicts) => self.start(wanted, host, verdicts, true),
            Choice::None(..) => self.plan.kept.push(wanted.job.clone()),
        }
    }

    fn flip(&mut self, wanted: &Wanted<'_>, from: &Assignment, to: &Assignment, reason: String) {
        self.moving.insert((to.job.clone(), to.host.clone()));
        self.plan.flip.push(Flip {
            job: wanted.job.clone(),
            run: self.run_of(wanted),
            from: from.host.clone(),
            to: to.host.clone(),
            reason,
        });
    }

    pub(super) fn choose(&mut self, wanted: &Wanted<'a>) -> Choice {
        let mut pinned = self.pins.of(wanted);
        if pinned.is_empty() {
            pinned.extend(self.beside_old_copy(wanted));
        }
        let candidate = Candidate {
            job: &wanted.job,
            image: image(wanted.stack, &wanted.job),
            pinned,
        };
        self.fleet
            .choose(&candidate, wanted.node, self.verdicts_max)
    }

    /// The new copy of an exclusive slot goes where the old one is: it takes over its port.
    fn beside_old_copy(&self, wanted: &Wanted<'_>) -> Option<Home> {
        let JobKey { node, slot, .. } = &wanted.job;
        let before = wanted.stack.live()?.nodes.get(node)?;
        if !takes_over(before, wanted.node, *slot) {
            return None;
        }
        let job = JobKey {
            tag: before.tag.clone(),
            ..wanted.job.clone()
        };
        Some(Home {
            host: self.world.run.get(&job)?.clone(),
            why: "takes over from the copy there".to_owned(),
        })
    }

    fn start(&mut self, wanted: &Wanted<'a>, host: HostName, verdicts: Vec<Verdict>, beside: bool) {
        if !held(wanted.stack, &wanted.job) {
            self.add(&host, &wanted.job, wanted.node);
        }
        self.pin(wanted, &host);
        self.plan.start.push(Start {
            job: wanted.job.clone(),
            run: self.run_of(wanted),
            host,
            revision: self.world.revision,
            verdicts,
            beside,
        });
    }

    /// The run that brought a job's stack where it is.
    fn run_of(&self, wanted: &Wanted<'_>) -> RunId {
        let run = wanted.stack.pointer.run.clone();
        run.unwrap_or_else(|| RunId::new(self.world.now_ms, 0))
    }

    fn pin(&mut self, wanted: &Wanted<'_>, host: &HostName) {
        for (key, pin) in self.pins.add(wanted, host) {
            self.plan.pins.insert(format!("{key:?}"), (key, pin));
        }
    }

    /// Everything placed that nobody wants, but for stacks that cannot be read.
    fn unwanted(&mut self) {
        // A lost host's placements end already, each with the reason that was found for it.
        let stops = self.plan.stop.iter().map(|stop| &stop.placement);
        let told: BTreeSet<_> = stops.map(|at| (at.job.clone(), at.host.clone())).collect();
        for assignment in self.world.assignments.values() {
            let job = &assignment.job;
            let seat = (job.clone(), assignment.host.clone());
            let stays = self.wants(job).is_some()
                && (self.world.run.get(job) == Some(&assignment.host)
                    || self.moving.contains(&seat)
                    || relocate::still_drains(self.world, assignment));
            if self.world.frozen_stacks.contains(&job.stack) || told.contains(&seat) || stays {
                continue;
            }
            let reason = stop_reason(self.world, assignment, self.wants(job).is_some());
            self.plan.stop.push(Stop {
                placement: assignment.clone(),
                reason,
            });
        }
    }
}

/// What a job runs, if that is on record.
fn image_of<'a>(world: &'a World, job: &JobKey) -> Option<&'a ImageRef> {
    image(world.stacks.get(&job.stack)?, job)
}

fn image<'a>(stack: &'a StackWorld, job: &JobKey) -> Option<&'a ImageRef> {
    let spec = stack.procs.get(&(job.node.clone(), job.tag.clone()))?;
    Some(&spec.image)
}

fn held(stack: &StackWorld, job: &JobKey) -> bool {
    resolve::held(&stack.pointer, stack.live(), stack.staged(), job)
}

fn stop_reason(world: &World, assignment: &Assignment, wanted: bool) -> String {
    if wanted {
        return "another copy answers for it".to_owned();
    }
    let Some(stack) = world.stacks.get(&assignment.job.stack) else {
        return "its stack is gone".to_owned();
    };
    let pointer = &stack.pointer;
    let node = &assignment.job.node;
    let live = stack.live().and_then(|live| live.nodes.get(node));
    let staged = pointer.staged.as_ref() == Some(&assignment.job.tag);
    if staged && pointer.ended.contains(node) {
        return "it has run to its end".to_owned();
    }
    match (pointer.removing, pointer.phase, live) {
        (true, ..) => "its stack is being removed".to_owned(),
        (_, Phase::Reverting | Phase::Failed, _) => "its release failed".to_owned(),
        (_, _, None) if node.is_before() => "its release is not on its way any more".to_owned(),
        (_, _, None) => "its node is gone from the live release".to_owned(),
        (_, _, Some(node)) if node.tag == assignment.job.tag => {
            format!("scaled to {}", node.scale)
        }
        (_, _, Some(node)) => format!("replaced by {}", node.tag),
    }
}
