//! The planner: the world in, a plan out. Synchronous, deterministic, one pass, no randomness and
//! no clock but the world's. A plan computed again after its writes asks for nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::place::{Candidate, Load, place};
use super::relocate::{self, Leave};
use super::wanted::{
    Role, Wanted, any_healthy, hands_over, healthy, own_links, stack_map, staged_now, takes_over,
    wanted,
};
use crate::model::job::{Assignment, JobKey, Seat};
use crate::model::names::{HostName, NodeName, StackName};
use crate::model::plan::{Flip, Plan, Start, Stop, Unplaced, Verdict};
use crate::model::release::{Phase, ReleaseNode, RunId};
use crate::model::resolve::{self, StackMap};
use crate::model::spec::LinkTarget;
use crate::model::world::{Pin, PinKey, StackWorld, World};

/// How long the copies of a replaced node that publish ports go on after promotion, so that whoever
/// looked an endpoint up just before still gets an answer. Readers of `/ports` follow within
/// milliseconds; two seconds is room for a slow one. (The router's own drain comes with the router.)
pub const DRAIN_MS: u64 = 2_000;

/// When a replaced job stops although something still links to it, or cannot end: a container that
/// the engine does not get rid of must not keep the next release from going live.
pub const DRAIN_MS_MAX: u64 = 30_000;

/// Decides for everything at once.
#[must_use]
pub fn plan(world: &World) -> Plan {
    let mut planner = Planner::new(world);
    planner.count_in(|_| false);
    for (name, stack) in &world.stacks {
        if !world.frozen_stacks.contains(name) {
            planner.stack(name, stack);
        }
    }
    planner.unwanted();
    planner.plan
}

/// What the rules would say of every host for a job now, `None` when no pointer wants such a job.
#[must_use]
pub fn explain(world: &World, job: &JobKey) -> Option<Vec<Verdict>> {
    Some(choice(world, job)?.1)
}

/// The host that would be given a job now; `None` when none may take it or no pointer wants it.
#[must_use]
pub fn would_take(world: &World, job: &JobKey) -> Option<HostName> {
    choice(world, job)?.0
}

fn choice(world: &World, job: &JobKey) -> Option<(Option<HostName>, Vec<Verdict>)> {
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

/// Verdicts that are on record with a placement: with 200 hosts all of them were 16 KB for each job.
const VERDICTS_MAX: usize = 20;

pub(super) struct Planner<'a> {
    world: &'a World,
    maps: BTreeMap<StackName, StackMap>,
    pub(super) loads: BTreeMap<HostName, Load>,
    pins: BTreeMap<PinKey, HostName>,
    /// Data that hosts say they have, and no pin says where it belongs.
    found: BTreeMap<PinKey, BTreeSet<HostName>>,
    wanted: BTreeMap<JobKey, &'a ReleaseNode>,
    /// Copies beside the one that answers, which are on their way to take over.
    moving: BTreeSet<(JobKey, HostName)>,
    /// Verdicts that come with a job that is placed.
    verdicts_max: usize,
    plan: Plan,
}

impl<'a> Planner<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let pins = world
            .fixed
            .iter()
            .map(|(key, pin)| (key.clone(), pin.host.clone()))
            .collect();
        let mut found: BTreeMap<PinKey, BTreeSet<HostName>> = BTreeMap::new();
        for (name, host) in &world.hosts {
            let unpinned = host
                .volumes
                .iter()
                .flatten()
                .filter(|key| !world.fixed.contains_key(*key));
            for key in unpinned {
                found.entry(key.clone()).or_default().insert(name.clone());
            }
        }
        let mut planner = Self {
            world,
            maps: maps(world),
            loads: BTreeMap::new(),
            pins,
            found,
            wanted: BTreeMap::new(),
            moving: BTreeSet::new(),
            verdicts_max: VERDICTS_MAX,
            plan: Plan {
                now_ms: world.now_ms,
                ..Plan::default()
            },
        };
        for (name, stack) in &world.stacks {
            let all = wanted(name, stack);
            let kept = all
                .iter()
                .filter(|wanted| !planner.let_go(stack, wanted, &all));
            let kept: Vec<_> = kept
                .map(|wanted| (wanted.job.clone(), wanted.node))
                .collect();
            planner.wanted.extend(kept);
        }
        planner
    }

    /// Whether a job of the retiring release is wanted no longer: drained, or gone by itself.
    fn let_go(&self, stack: &StackWorld, wanted: &Wanted<'_>, all: &[Wanted<'_>]) -> bool {
        wanted.role == Role::Retiring
            && self.world.placement(&wanted.job).is_none_or(|placed| {
                self.world.is_lost(&placed.host) || self.drained(stack, wanted, all)
            })
    }

    /// Loads of what holds room already, and failures. A job that is no longer wanted holds its
    /// room as long as its host still sees it.
    pub(super) fn count_in(&mut self, but: impl Fn(&JobKey) -> bool) {
        let placed = self.world.assignments.keys().map(|(job, host)| (host, job));
        let placed = placed.filter(|(_, job)| self.wanted.contains_key(job));
        let seen = self.world.states.keys().map(|(host, job)| (host, job));
        // What stands still for its successor leaves its room to it.
        let counts = |(_, job): &(&HostName, &JobKey)| !but(job) && !held(self.world, job);
        let holders: BTreeSet<_> = placed.chain(seen).filter(counts).collect();
        for (host, job) in holders {
            let node = self
                .wanted
                .get(job)
                .copied()
                .or_else(|| self.world.node(job));
            if let Some(node) = node {
                self.loads.entry(host.clone()).or_default().add(job, node);
            }
        }
        for ((host, job), counter) in &self.world.counters {
            let key = (job.stack.clone(), job.node.clone());
            let load = self.loads.entry(host.clone()).or_default();
            *load.failing.entry(key).or_insert(0) += counter.failures;
        }
    }

    fn stack(&mut self, name: &StackName, stack: &StackWorld) {
        for wanted in wanted(name, stack) {
            if self.wanted.contains_key(&wanted.job) {
                self.job(stack, &wanted);
            }
        }
    }

    fn job(&mut self, stack: &StackWorld, wanted: &Wanted<'_>) {
        let Some(placed) = self.world.placement(&wanted.job) else {
            return self.unplaced(stack, wanted, None);
        };
        match relocate::leave(self.world, wanted, placed) {
            Leave::Not => {
                self.plan.kept.push(wanted.job.clone());
                self.pin_if_due(wanted);
            }
            Leave::Lost => self.lost(stack, wanted, placed),
            Leave::Drain => self.drain(wanted, placed),
        }
    }

    /// A job that needs a host. `lost` is the placement it cannot go on with.
    fn unplaced(&mut self, stack: &StackWorld, wanted: &Wanted<'_>, lost: Option<&Assignment>) {
        let unplaced = |reason: String, verdicts| {
            let reason = lost.map_or(reason.clone(), |lost| {
                format!("{} is lost: {reason}", lost.host)
            });
            let job = wanted.job.clone();
            Unplaced {
                job,
                reason,
                verdicts,
            }
        };
        if let Some(reason) = self.waits_for(stack, wanted, lost.is_some()) {
            self.plan.waiting.push(unplaced(reason, Vec::new()));
            return;
        }
        match self.choose(wanted) {
            (Some(host), verdicts) => {
                self.plan.stop.extend(lost.map(|placement| Stop {
                    placement: placement.clone(),
                    reason: format!("{} is lost", placement.host),
                }));
                self.start(wanted, host, verdicts, false);
            }
            (None, verdicts) => {
                let reason = blocked_reason(&verdicts);
                self.plan.blocked.push(unplaced(reason, verdicts));
            }
        }
    }

    /// The host is gone: a copy that was on its way elsewhere takes over, else there is a new one.
    fn lost(&mut self, stack: &StackWorld, wanted: &Wanted<'_>, placed: &Assignment) {
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
            None => self.unplaced(stack, wanted, Some(placed)),
        }
    }

    /// The host gives its jobs away: a new copy first, then it answers, then the old one ends.
    fn drain(&mut self, wanted: &Wanted<'_>, placed: &Assignment) {
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
            (Some(host), verdicts) => self.start(wanted, host, verdicts, true),
            (None, _) => self.plan.kept.push(wanted.job.clone()),
        }
    }

    fn flip(&mut self, wanted: &Wanted<'_>, from: &Assignment, to: &Assignment, reason: String) {
        self.moving.insert((to.job.clone(), to.host.clone()));
        self.plan.flip.push(Flip {
            job: wanted.job.clone(),
            run: self.run_of(&wanted.job),
            from: from.host.clone(),
            to: to.host.clone(),
            reason,
        });
    }

    /// What has to come before this job, in words. One that `moves` from a lost host has served
    /// already: it does not wait for what cannot leave that host.
    fn waits_for(&self, stack: &StackWorld, wanted: &Wanted<'_>, moves: bool) -> Option<String> {
        if let Some(host) = self.may_have_its_data(wanted) {
            return Some(format!(
                "waits to hear from {host}, where its data may be; if that host is gone for good, say \
                 so with `viking hosts forget {host}`"
            ));
        }
        let release = match wanted.role {
            Role::Live => stack.live(),
            Role::Staged => stack.staged(),
            Role::Retiring => None,
        }?;
        let job = &wanted.job;
        let settled =
            |link: &NodeName| self.link_up(job, link) || (moves && self.is_stranded(job, link));
        let linked = own_links(wanted.node, release).find(|link| !settled(link));
        if let Some(link) = linked {
            return Some(format!("waits for {}/{link} to be healthy", job.stack));
        }
        let first = JobKey {
            slot: 0,
            ..job.clone()
        };
        // Where slot 0 waits for its hand-over it cannot be the first.
        let canary = wanted.role == Role::Staged && staged_now(stack, &job.node, 0);
        if canary && job.slot > 0 && !healthy(self.world, &first) {
            return Some(format!("waits for {} to be healthy first", first.short()));
        }
        None
    }

    /// Whether all copies of a node are on lost hosts and must wait there.
    fn is_stranded(&self, job: &JobKey, link: &NodeName) -> bool {
        let mut copies = self
            .wanted
            .iter()
            .filter(|(other, _)| other.stack == job.stack && other.node == *link);
        copies.all(|(other, node)| {
            let placed = self.world.placement(other);
            node.pinned() && placed.is_some_and(|placed| self.world.is_lost(&placed.host))
        })
    }

    fn link_up(&self, job: &JobKey, link: &NodeName) -> bool {
        let target = LinkTarget {
            stack: None,
            node: link.clone(),
        };
        let tags = resolve::copies(&self.maps, &job.stack, &job.tag, &target);
        any_healthy(self.world, &job.stack, link, &tags)
    }

    pub(super) fn choose(&self, wanted: &Wanted<'_>) -> (Option<HostName>, Vec<Verdict>) {
        let mut pinned = self.pinned(wanted);
        if pinned.is_empty() {
            pinned.extend(self.beside_old_copy(wanted));
        }
        let candidate = Candidate {
            job: &wanted.job,
            node: wanted.node,
            pinned,
        };
        place(self.world, &self.loads, &candidate, self.verdicts_max)
    }

    /// In a store that was put back from a copy, a member of which nobody knows whose data it has,
    /// when nobody else has this job's. People say with `viking hosts forget` that it is not needed.
    fn may_have_its_data(&self, wanted: &Wanted<'_>) -> Option<&HostName> {
        if !self.world.restored || !wanted.node.has_volume || !self.pinned(wanted).is_empty() {
            return None;
        }
        let said = |host: &HostName| {
            self.world
                .hosts
                .get(host)
                .is_some_and(|host| host.volumes.is_some())
        };
        self.world.members.keys().find(|host| !said(host))
    }

    /// The hosts that a job's pins name, its slot's and those of the volumes it shares, or that have
    /// its data where no pin is.
    fn pinned(&self, wanted: &Wanted<'_>) -> Vec<(HostName, String)> {
        let mut hosts = BTreeMap::new();
        for key in pin_keys(wanted) {
            let Some(host) = self.pins.get(&key) else {
                let found = self.found.get(&key).into_iter().flatten();
                let why = |host: &HostName| (host.clone(), "its volume was found there".to_owned());
                hosts.extend(found.map(why));
                continue;
            };
            let known = self.world.fixed.contains_key(&key);
            let why = if known {
                "its volume is there"
            } else {
                "just now"
            };
            hosts.entry(host.clone()).or_insert(why.to_owned());
        }
        hosts.into_iter().collect()
    }

    /// The new copy of an exclusive slot goes where the old one is: it takes over its port.
    fn beside_old_copy(&self, wanted: &Wanted<'_>) -> Option<(HostName, String)> {
        let Seat { stack, node, slot } = wanted.job.seat();
        let before = self.world.stacks.get(&stack)?.live()?.nodes.get(&node)?;
        if !takes_over(before, wanted.node, slot) {
            return None;
        }
        let tag = before.tag.clone();
        let host = self.world.run.get(&JobKey {
            stack,
            tag,
            node,
            slot,
        })?;
        Some((host.clone(), "takes over from the copy there".to_owned()))
    }

    fn start(&mut self, wanted: &Wanted<'_>, host: HostName, verdicts: Vec<Verdict>, beside: bool) {
        if !held(self.world, &wanted.job) {
            let load = self.loads.entry(host.clone()).or_default();
            load.add(&wanted.job, wanted.node);
        }
        self.pin(wanted, &host);
        let chosen = verdicts.iter().find(|v| v.host == host);
        let reason = chosen.map_or_else(String::new, |v| v.reason.clone());
        self.plan.start.push(Start {
            job: wanted.job.clone(),
            run: self.run_of(&wanted.job),
            host,
            reason,
            verdicts,
            beside,
        });
    }

    /// The run that brought a job's stack where it is.
    fn run_of(&self, job: &JobKey) -> RunId {
        let stack = self.world.stacks.get(&job.stack);
        let run = stack.and_then(|stack| stack.pointer.run.clone());
        run.unwrap_or_else(|| RunId::new(self.world.now_ms, 0))
    }

    fn pin_if_due(&mut self, wanted: &Wanted<'_>) {
        if let Some(host) = self.world.run.get(&wanted.job).cloned() {
            self.pin(wanted, &host);
        }
    }

    fn pin(&mut self, wanted: &Wanted<'_>, host: &HostName) {
        for key in pin_keys(wanted) {
            if self.pins.contains_key(&key) {
                continue;
            }
            let reason = match &key {
                PinKey::Volume(_, volume) => format!("volume {volume} is there"),
                PinKey::Seat(_) if wanted.node.has_volume => "its volume is there".to_owned(),
                PinKey::Seat(_) => "fixed".to_owned(),
            };
            self.pins.insert(key.clone(), host.clone());
            let since_ms = self.world.now_ms;
            let pin = Pin {
                v: 1,
                host: host.clone(),
                since_ms,
                reason,
            };
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
            let stays = self.wanted.contains_key(job)
                && (self.world.run.get(job) == Some(&assignment.host)
                    || self.moving.contains(&seat)
                    || relocate::still_drains(self.world, assignment));
            if self.world.frozen_stacks.contains(&job.stack) || told.contains(&seat) || stays {
                continue;
            }
            let reason = stop_reason(self.world, assignment, self.wanted.contains_key(job));
            self.plan.stop.push(Stop {
                placement: assignment.clone(),
                reason,
            });
        }
    }

    /// Whether a job of the retiring release may stop: nobody who links to it is left, and who
    /// looked its endpoint up has had time to ask.
    fn drained(&self, stack: &StackWorld, wanted: &Wanted<'_>, all: &[Wanted<'_>]) -> bool {
        let Some(retiring) = stack.retiring() else {
            return true;
        };
        let live = stack
            .live()
            .and_then(|live| live.nodes.get(&wanted.job.node));
        let JobKey { slot, .. } = wanted.job;
        // A slot that the new scale leaves out was never handed over: it served until now.
        if live.is_some_and(|now| slot < now.slots() && hands_over(wanted.node, now, slot)) {
            return true; // stood still since its hand-over: nothing to drain
        }
        let linked = all
            .iter()
            .filter(|other| other.role == Role::Retiring && self.still_there(&other.job))
            .any(|other| own_links(other.node, retiring).any(|link| *link == wanted.job.node));
        let waited = self.world.now_ms.saturating_sub(stack.pointer.since_ms);
        if waited >= DRAIN_MS_MAX {
            return true;
        }
        let publishes = stack
            .procs
            .get(&(wanted.job.node.clone(), wanted.job.tag.clone()))
            .is_none_or(|spec| !spec.settings.expose.is_empty());
        !linked && (!publishes || waited >= DRAIN_MS)
    }

    fn still_there(&self, job: &JobKey) -> bool {
        self.world.run.contains_key(job) || self.world.states.keys().any(|(_, seen)| seen == job)
    }
}

fn maps(world: &World) -> BTreeMap<StackName, StackMap> {
    let stacks = world.stacks.iter();
    stacks
        .map(|(name, stack)| (name.clone(), stack_map(stack)))
        .collect()
}

fn pin_keys(wanted: &Wanted<'_>) -> Vec<PinKey> {
    if !wanted.node.pinned() {
        return Vec::new();
    }
    let stack = &wanted.job.stack;
    let volumes = wanted.node.shared_volumes.iter();
    let mut keys: Vec<_> = volumes
        .map(|v| PinKey::Volume(stack.clone(), v.clone()))
        .collect();
    keys.push(PinKey::Seat(wanted.job.seat()));
    keys
}

fn held(world: &World, job: &JobKey) -> bool {
    let stack = world.stacks.get(&job.stack);
    stack.is_some_and(|s| resolve::held(&s.pointer, s.live(), s.staged(), job))
}

fn stop_reason(world: &World, assignment: &Assignment, wanted: bool) -> String {
    if wanted {
        return "another copy answers for it".to_owned();
    }
    let Some(stack) = world.stacks.get(&assignment.job.stack) else {
        return "its stack is gone".to_owned();
    };
    let pointer = &stack.pointer;
    let live = stack
        .live()
        .and_then(|live| live.nodes.get(&assignment.job.node));
    match (pointer.removing, pointer.phase, live) {
        (true, ..) => "its stack is being removed".to_owned(),
        (_, Phase::Reverting | Phase::Failed, _) => "its release failed".to_owned(),
        (_, _, None) => "its node is gone from the live release".to_owned(),
        (_, _, Some(node)) if node.tag == assignment.job.tag => {
            format!("scaled to {}", node.scale)
        }
        (_, _, Some(node)) => format!("replaced by {}", node.tag),
    }
}

/// One sentence out of many verdicts: the reasons, most hosts first.
fn blocked_reason(verdicts: &[Verdict]) -> String {
    if verdicts.is_empty() {
        return "no host has joined yet".to_owned();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for verdict in verdicts {
        *counts.entry(verdict.reason.as_str()).or_insert(0) += 1;
    }
    let mut reasons: Vec<_> = counts.into_iter().collect();
    reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
    let words: Vec<_> = reasons
        .iter()
        .take(3)
        .map(|(reason, count)| format!("{count}× {reason}"))
        .collect();
    words.join(", ")
}
