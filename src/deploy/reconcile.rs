//! The heart of a host: what is wanted and what is there, in; what to do, out. Pure: touches
//! nothing, reads no clock. Called by the worker after every change and every ten seconds. Names
//! only containers of ours whose labels can be read.

use std::collections::{BTreeMap, BTreeSet};

use super::link;
use super::observed::Observed;
use super::wanted::{Desired, Wanted};
use crate::docker::{Container, RunState};
use crate::model::job::{JobKey, Seat};

/// What the worker remembers of this process' own life.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Failed jobs: not tried again before this many Unix milliseconds.
    pub next_try_ms: BTreeMap<JobKey, u64>,
    /// Jobs whose last failure was their own.
    pub own_faults: BTreeSet<JobKey>,
    /// Jobs that run once and whose containers were seen to end well by themselves.
    pub ended_well: BTreeSet<JobKey>,
    /// Engine ids of running containers that do not work: to be stopped and started again.
    pub sick: BTreeSet<String>,
    /// Engine ids of containers the engine could not set right: to be made anew.
    pub beyond_repair: BTreeSet<String>,
    /// Container names on which something is being done right now, and what they hold meanwhile.
    pub busy: BTreeMap<String, Holding>,
    /// Container names that could not be stopped or removed: not tried again before this many Unix
    /// milliseconds.
    pub next_stop_ms: BTreeMap<String, u64>,
}

impl Memory {
    /// When a container that could not be stopped is tried again, if that is still to come.
    fn stop_waits(&self, name: &str, now_ms: u64) -> Option<u64> {
        let next = self.next_stop_ms.get(name).copied();
        next.filter(|next| *next > now_ms)
    }
}

/// What a container holds while its process exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Its slot.
    pub seat: Seat,
    /// Volumes.
    pub volumes: BTreeSet<String>,
}

/// What becomes of one wanted job. Every wanted job gets exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// All is as wanted.
    Keep,
    /// Make and start its container.
    Create,
    /// Start the container it has.
    Start,
    /// Failed; not before this.
    Wait(u64),
    /// Another copy of its slot, or another user of its volume, has not ended yet.
    WaitFor(String),
    /// Stands still, as it should.
    Held,
    /// Stop it and keep it.
    StopKeep,
    /// Runs and does not work: stop it; it is started again when its wait is over.
    Restart,
    /// Thaw it.
    Unpause,
    /// Set its limits again.
    SetLimits,
    /// Cannot be set right in place: remove it; it is made anew.
    Recreate,
    /// Runs once, and has ended by itself, well or badly: what comes of it others decide.
    Ended,
    /// Something is being done already.
    Busy,
}

/// A difference that a step repairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which inspected field.
    pub what: &'static str,
    /// What the engine has.
    pub found: String,
    /// What was wanted.
    pub wanted: String,
}

/// Everything to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// One step for each wanted job.
    pub steps: BTreeMap<JobKey, Step>,
    /// What drifted, where a step repairs a drift.
    pub drift: BTreeMap<JobKey, Found>,
    /// Containers of ours that nothing wants: stop and remove.
    pub remove: Vec<Observed>,
}

/// Decides.
#[must_use]
pub fn reconcile(wanted: &Wanted, seen: &[Observed], memory: &Memory, now_ms: u64) -> Decision {
    let own = own_containers(wanted, seen);
    let extra = |o: &&Observed| {
        own.get(&o.job)
            .is_none_or(|mine| mine.container.id != o.container.id)
            && !wanted.frozen_stacks.contains(&o.job.stack)
            && !wanted.frozen_jobs.contains(&o.job)
            && !memory.busy.contains_key(&o.container.name)
            && memory.stop_waits(&o.container.name, now_ms).is_none()
    };
    let mut decision = Decision {
        remove: seen.iter().filter(extra).cloned().collect(),
        ..Decision::default()
    };
    let mut tenants = tenants(wanted, seen, &own, memory);
    for (job, desired) in &wanted.jobs {
        let mine = own.get(job).copied();
        let (mut step, found) = decide(desired, mine, &tenants, memory, now_ms);
        let stops = matches!(step, Step::StopKeep | Step::Restart | Step::Recreate);
        let waits = mine.and_then(|mine| memory.stop_waits(&mine.container.name, now_ms));
        if let Some(next) = waits.filter(|_| stops) {
            step = Step::Wait(next);
        }
        if matches!(step, Step::Create | Step::Start) {
            tenants.push(Tenant::starting(desired));
        }
        if let Some(found) = found {
            decision.drift.insert(job.clone(), found);
        }
        decision.steps.insert(job.clone(), step);
    }
    decision
}

/// The one container that stands for each wanted placement: the one with the right name, else the
/// first by name. A second one, perhaps made by hand, is an extra.
#[must_use]
pub fn own_containers<'a>(wanted: &Wanted, seen: &'a [Observed]) -> BTreeMap<JobKey, &'a Observed> {
    let mut own: BTreeMap<JobKey, &Observed> = BTreeMap::new();
    for observed in seen {
        let Some(desired) = wanted.jobs.get(&observed.job) else {
            continue;
        };
        if desired.instance != observed.instance {
            continue;
        }
        let rank = |o: &Observed| (o.container.name != desired.name(), o.container.name.clone());
        let better = own
            .get(&observed.job)
            .is_none_or(|known| rank(observed) < rank(known));
        if better {
            own.insert(observed.job.clone(), observed);
        }
    }
    own
}

/// Somebody who holds a slot or a volume right now.
struct Tenant {
    name: String,
    holding: Holding,
    /// Is wanted and runs on: may share a named volume with other nodes.
    stays: bool,
}

impl Tenant {
    fn starting(desired: &Desired) -> Self {
        Self {
            name: desired.name(),
            holding: holding(desired),
            stays: true,
        }
    }
}

/// What a job will hold once its container runs.
#[must_use]
pub fn holding(desired: &Desired) -> Holding {
    Holding {
        seat: desired.job.seat(),
        volumes: desired
            .mounts
            .iter()
            .map(|(name, _)| name.clone())
            .collect(),
    }
}

/// What a container holds while its process exists.
#[must_use]
pub fn held_by(observed: &Observed) -> Holding {
    let volumes = observed.container.mounts.iter();
    Holding {
        seat: observed.job.seat(),
        volumes: volumes.map(|(name, _)| name.clone()).collect(),
    }
}

fn tenants(
    wanted: &Wanted,
    seen: &[Observed],
    own: &BTreeMap<JobKey, &Observed>,
    memory: &Memory,
) -> Vec<Tenant> {
    let stays = |name: &str| {
        own.values().any(|o| {
            let hold = wanted.jobs.get(&o.job).is_some_and(|desired| desired.hold);
            o.container.name == name && !hold
        }) || wanted.jobs.values().any(|d| !d.hold && d.name() == name)
    };
    let running = seen
        .iter()
        .filter(|o| o.occupies())
        .map(|o| (o.container.name.clone(), held_by(o)));
    let busy = memory.busy.clone().into_iter();
    running
        .chain(busy)
        .map(|(name, holding)| Tenant {
            stays: stays(&name),
            name,
            holding,
        })
        .collect()
}

/// Who must end before this job may start. Two copies of a slot never run at once; a volume that
/// somebody is about to leave is not touched before; nodes that share a volume may run together.
fn waits_for(desired: &Desired, mine: &str, tenants: &[Tenant]) -> Option<String> {
    if !desired.exclusive {
        return None;
    }
    let want = holding(desired);
    let in_the_way = |tenant: &&Tenant| {
        let shares = !tenant.holding.volumes.is_disjoint(&want.volumes);
        tenant.name != mine && (tenant.holding.seat == want.seat || (shares && !tenant.stays))
    };
    tenants.iter().find(in_the_way).map(|t| t.name.clone())
}

fn decide(
    desired: &Desired,
    mine: Option<&Observed>,
    tenants: &[Tenant],
    memory: &Memory,
    now_ms: u64,
) -> (Step, Option<Found>) {
    let name = mine.map_or_else(|| desired.name(), |o| o.container.name.clone());
    if memory.busy.contains_key(&name) || memory.busy.contains_key(&desired.name()) {
        return (Step::Busy, None);
    }
    if desired.once && has_ended(desired, mine, memory) {
        return (Step::Ended, None);
    }
    if desired.hold {
        let runs = mine.is_some_and(Observed::occupies);
        return (if runs { Step::StopKeep } else { Step::Held }, None);
    }
    let may_start = |step: Step| {
        if let Some(other) = waits_for(desired, &name, tenants) {
            return Step::WaitFor(other);
        }
        match memory.next_try_ms.get(&desired.job) {
            Some(next) if *next > now_ms => Step::Wait(*next),
            _ => step,
        }
    };
    let Some(mine) = mine else {
        let gone = desired.begun.as_ref();
        let gone = gone.map(|_| found("container", "gone".to_owned(), "present"));
        return (may_start(Step::Create), gone);
    };
    if let Some(found) = differs(desired, mine, memory) {
        return (Step::Recreate, Some(found));
    }
    match mine.container.state {
        RunState::Paused => {
            let paused = found("paused", "paused".to_owned(), "running");
            (Step::Unpause, Some(paused))
        }
        RunState::Running => runs(desired, &mine.container, memory),
        // What it was told of its links is for ever: one that is not running is made anew when a
        // target has come up since that it was never told of.
        RunState::Created | RunState::Exited | RunState::Dead if untold(desired, mine) => {
            let known = link::from_label(&mine.container).len().to_string();
            let wanted = desired.links.len().to_string();
            (Step::Recreate, Some(found("links", known, &wanted)))
        }
        RunState::Created => (may_start(Step::Start), None),
        RunState::Exited | RunState::Dead => {
            let state = format!("exited with code {}", mine.container.exit_code);
            (
                may_start(Step::Start),
                Some(found("state", state, "running")),
            )
        }
    }
}

/// Whether what runs once is at its end. What somebody stopped is not, whatever its exit code, nor what
/// ended with its engine or while nobody looked: many processes exit with 0 when they are told to stop,
/// half done. It runs again.
fn has_ended(desired: &Desired, mine: Option<&Observed>, memory: &Memory) -> bool {
    let well = mine.map(|mine| &mine.container).is_some_and(|container| {
        let exited = container.state == RunState::Exited && container.exit_code == 0;
        exited && memory.ended_well.contains(&desired.job)
    });
    well || (memory.own_faults.contains(&desired.job) && !mine.is_some_and(Observed::occupies))
}

fn untold(desired: &Desired, mine: &Observed) -> bool {
    let told = link::from_label(&mine.container);
    let mut wanted = desired.links.iter();
    wanted.any(|link| told.iter().all(|(known, _)| known != link))
}

fn runs(desired: &Desired, container: &Container, memory: &Memory) -> (Step, Option<Found>) {
    if memory.sick.contains(&container.id) {
        return (Step::Restart, None);
    }
    match limits(desired, container) {
        Some(found) => (Step::SetLimits, Some(found)),
        None => (Step::Keep, None),
    }
}

fn found(what: &'static str, found: String, wanted: &str) -> Found {
    Found {
        what,
        found,
        wanted: wanted.to_owned(),
    }
}

fn limits(desired: &Desired, container: &Container) -> Option<Found> {
    let pairs = [
        ("memory", container.memory_bytes, desired.memory_bytes()),
        ("cpu", container.cpu_millis, desired.cpu_millis()),
    ];
    let differing = pairs.into_iter().find(|(_, has, wants)| has != wants);
    differing.map(|(what, has, wants)| found(what, has.to_string(), &wants.to_string()))
}

/// What cannot be set right without making the container anew.
fn differs(desired: &Desired, mine: &Observed, memory: &Memory) -> Option<Found> {
    let container = &mine.container;
    if mine.spec_hash != desired.spec_hash {
        let has = mine.spec_hash.clone();
        return Some(found("spec", has, &desired.spec_hash));
    }
    if container.state == RunState::Dead {
        // Somebody is removing it, or it is broken beyond use.
        return Some(found("container", "dead".to_owned(), "running"));
    }
    if !container.networks.contains_key(&desired.network) {
        let has: Vec<_> = container.networks.keys().cloned().collect();
        return Some(found("network", has.join(","), &desired.network));
    }
    // The image may bring further volumes of its own.
    if let Some((volume, path)) = desired.mounts.difference(&container.mounts).next() {
        let has = "not mounted".to_owned();
        return Some(found("mounts", has, &format!("{volume} at {path}")));
    }
    let hopeless = memory.beyond_repair.contains(&container.id);
    hopeless.then(|| limits(desired, container)).flatten()
}
