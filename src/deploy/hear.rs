//! The desk's ears: notes of tasks and events of the engine, taken in before each decision, and
//! what people are told of them. Starts monitors; writes events; decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::desk::{Busy, Desk, News, SOON, Tidings, What};
use super::failure::{self, Failure};
use super::health::{self, Life, Verdict};
use super::link;
use super::monitor::{self, Patient};
use super::network;
use super::observed::Observed;
use super::ops::{Done, Ops};
use super::reconcile::{Decision, Step};
use super::runs::Run;
use super::state::{self, Doing};
use super::wanted::{Desired, Wanted};
use crate::docker::{RunState, label};
use crate::model::endpoint::ListenRequest;
use crate::model::history::EventRecord;
use crate::model::job::{Fault, JobKey, JobState, RUN_ONCE_MS_MAX};
use crate::model::names::StackName;
use crate::model::progress::{Progress, Stage};
use crate::model::release::RunId;

/// Most events kept while the store does not take them; the oldest go first.
const EVENTS_MAX: usize = 200;

impl Desk {
    /// Takes in everything that was left since the last pass.
    pub(super) fn hear(&mut self, now_ms: u64) {
        while let Ok(tidings) = self.tidings.try_recv() {
            match tidings {
                Tidings::Event(event) => self.view.hint(&event, now_ms),
                Tidings::Broke => {
                    // The engine went away: what ended meanwhile ended with it.
                    self.engine_down = true;
                    self.view.distrust();
                }
            }
        }
        while let Ok(News { name, job, what }) = self.notes.try_recv() {
            match what {
                What::Pulling => {
                    if let Some(busy) = self.busy.get_mut(&name) {
                        busy.doing = Doing::Pulling;
                    }
                    self.progress(&job, Stage::Start, "pulling its image", now_ms);
                }
                What::Health(id, verdict, reason) => {
                    self.hear_health(&job, &id, verdict, &reason, now_ms);
                }
                What::Done(done) => {
                    if let Some(busy) = self.busy.remove(&name) {
                        self.hear_done(&name, busy, done, now_ms);
                    }
                }
            }
        }
    }

    fn hear_done(&mut self, name: &str, busy: Busy, done: Done, now_ms: u64) {
        if busy.doing == Doing::Stopping {
            self.hear_stop(name, &done, now_ms);
        }
        match done {
            Done::Running(container) => {
                self.removed.remove(name);
                // Known from here on: it may end before anybody has seen it run, and that counts.
                let run = Run {
                    id: container.id.clone(),
                    started_ms: container.started_ms,
                    noted_ms: now_ms,
                    verdict: Verdict::Starting,
                    reason: String::new(),
                    healthy_since: None,
                    looked: true,
                    monitor: None,
                };
                self.runs.begin(busy.job.clone(), run);
                self.view.replace(name, Some(*container));
                self.view.pardon(name);
                self.progress(&busy.job, Stage::Start, "started", now_ms);
            }
            Done::Changed if busy.cancel.is_cancelled() => self.view.distrust(),
            Done::Changed => self.view.look_at(name),
            Done::Tail(lines) => {
                if let Some(mut failure) = busy.failure.clone() {
                    failure.tail = lines;
                    self.count(&busy, failure, now_ms);
                }
            }
            Done::LimitsRefused => {
                self.beyond_repair.extend(busy.id.clone());
            }
            Done::Failed(failure) => {
                self.view.look_at(name);
                self.count(&busy, failure, now_ms);
            }
            Done::Unknown(reason) => {
                tracing::warn!(job = %busy.job, "not known what became of it: {reason}");
                self.view.distrust();
                let until = now_ms.saturating_add(u64::try_from(SOON.as_millis()).unwrap_or(0));
                self.pauses.insert(busy.job, until);
            }
        }
    }

    /// A container that the engine cannot end is left alone for longer each time.
    fn hear_stop(&mut self, name: &str, done: &Done, now_ms: u64) {
        let Done::Failed(failure) = done else {
            self.stuck.remove(name);
            return;
        };
        let tries = self
            .stuck
            .get(name)
            .map_or(1, |(tries, _)| tries.saturating_add(1));
        // Not at once either: there is nothing to hurry for.
        let wait_ms = failure::backoff_ms(tries.saturating_add(1), Fault::Outside);
        tracing::warn!(
            container = name,
            wait_ms,
            "cannot be ended: {}",
            failure.reason
        );
        self.stuck
            .insert(name.to_owned(), (tries, now_ms.saturating_add(wait_ms)));
    }

    /// One more failure of a placement.
    fn count(&mut self, busy: &Busy, failure: Failure, now_ms: u64) {
        let job = &busy.job;
        if failure.unhealthy {
            self.sick.extend(busy.id.clone());
        }
        let assigned = self.assigned.iter().flat_map(|a| &a.assignments);
        let mut placed = assigned.filter(|a| a.job == *job && a.instance == busy.instance);
        if placed.next().is_none() {
            return;
        }
        let what = match (failure.unhealthy, failure.exit) {
            (true, _) => "unhealthy",
            (_, Some(_)) => "crashed",
            (_, None) => "failed",
        };
        let before = self.counters.get(job);
        let record = failure::count(before, busy.instance, failure, now_ms);
        let wait = record.next_try_ms.saturating_sub(now_ms) / 1_000;
        let again = match wait {
            _ if job.node.is_before() && record.fault == Fault::Own => "not tried again".to_owned(),
            0 => "tried again at once".to_owned(),
            _ => format!("tried again in {wait} s"),
        };
        let why = format!(
            "{}; failure {} in a row, {again}",
            record.reason, record.failures
        );
        self.progress(job, Stage::Start, &why, now_ms);
        self.event(job, what, why, now_ms);
        self.counters.insert(job.clone(), record);
    }

    fn hear_health(&mut self, job: &JobKey, id: &str, verdict: Verdict, reason: &str, now_ms: u64) {
        let Some(run) = self.runs.get_mut(job).filter(|run| run.id == id) else {
            return;
        };
        run.looked = true;
        let changed = run.verdict != verdict;
        run.verdict = verdict;
        reason.clone_into(&mut run.reason);
        run.healthy_since = match (verdict, run.healthy_since) {
            (Verdict::Healthy, Some(since)) => Some(since),
            (Verdict::Healthy, None) => Some(now_ms),
            (Verdict::Starting | Verdict::Unhealthy, _) => None,
        };
        if changed && verdict == Verdict::Healthy {
            self.progress(job, Stage::Health, "healthy", now_ms);
        }
    }

    /// Watches over every wanted container that runs.
    pub(super) fn begin_runs(
        &mut self,
        wanted: &Wanted,
        own: &BTreeMap<JobKey, &Observed>,
        now_ms: u64,
    ) {
        for (job, observed) in own {
            let Some(desired) = wanted.jobs.get(job) else {
                continue;
            };
            if observed.container.state != RunState::Running || desired.hold {
                continue;
            }
            if desired.once {
                self.begin_once(observed, now_ms);
                continue;
            }
            if self.runs.knows(observed) {
                // The engine answers again: the probes go on where they were.
                let idle = self.runs.get(job).filter(|run| run.monitor.is_none());
                let idle = idle.filter(|run| run.verdict != Verdict::Unhealthy);
                if let Some(verdict) = idle.map(|run| run.verdict) {
                    let monitor = self.monitor(desired, observed, verdict, now_ms);
                    if let Some(run) = self.runs.get_mut(job) {
                        run.monitor = Some(monitor);
                    }
                }
                continue;
            }
            // What was healthy before viking itself was restarted is taken at its word until it
            // has failed as often as any other must.
            let healthy = self.fresh && self.was_healthy(desired);
            let verdict = match healthy {
                true => Verdict::Healthy,
                false => Verdict::Starting,
            };
            let run = Run {
                id: observed.container.id.clone(),
                started_ms: observed.container.started_ms,
                noted_ms: now_ms,
                verdict,
                reason: String::new(),
                healthy_since: healthy.then_some(now_ms),
                looked: !self.fresh,
                monitor: Some(self.monitor(desired, observed, verdict, now_ms)),
            };
            self.runs.begin(job.clone(), run);
        }
        self.fresh = false;
    }

    /// What runs once is not probed: its end says how it went, and that there is none for too long.
    fn begin_once(&mut self, observed: &Observed, now_ms: u64) {
        if self.runs.knows(observed)
            && let Some(run) = self.runs.get_mut(&observed.job)
            && !run.reason.is_empty()
        {
            if now_ms.saturating_sub(run.noted_ms) >= RUN_ONCE_MS_MAX {
                run.verdict = Verdict::Unhealthy;
            }
            return;
        }
        let run = Run {
            id: observed.container.id.clone(),
            started_ms: observed.container.started_ms,
            noted_ms: now_ms,
            verdict: Verdict::Starting,
            reason: "runs to its end before its release starts".to_owned(),
            healthy_since: None,
            looked: true,
            monitor: None,
        };
        self.runs.begin(observed.job.clone(), run);
    }

    fn was_healthy(&self, desired: &Desired) -> bool {
        let states = self.assigned.as_ref().map(|assigned| &assigned.states);
        let before = states.and_then(|states| states.get(&desired.job));
        before.is_some_and(|state| {
            state.instance == desired.instance && state.state == JobState::Healthy
        })
    }

    fn monitor(
        &self,
        desired: &Desired,
        observed: &Observed,
        verdict: Verdict,
        now_ms: u64,
    ) -> monitor::Monitor {
        let container = observed.container.clone();
        // The engine's clock is asked only about what began before this process did.
        let began_ms = match self.fresh {
            true => container.started_ms.min(now_ms),
            false => now_ms,
        };
        let check = health::check(&desired.spec, container.health.is_some());
        let mut life = Life::new(began_ms, health::steady_ms(&desired.spec, &check));
        life.verdict = verdict;
        let patient = Patient {
            engine: Arc::clone(&self.ops.engine),
            check,
            network: desired.network.clone(),
            health: desired.spec.settings.health.clone(),
            life,
            container,
        };
        let (teller, job) = (self.teller.clone(), desired.job.clone());
        let (name, id) = (
            observed.container.name.clone(),
            observed.container.id.clone(),
        );
        monitor::watch(
            patient,
            Arc::new(move |verdict, reason| {
                let what = What::Health(id.clone(), verdict, reason);
                let (name, job) = (name.clone(), job.clone());
                teller.tell(News { name, job, what });
            }),
        )
    }

    /// Remembers that a difference is repaired, once, when the repair begins.
    pub(super) fn note_drift(
        &mut self,
        desired: &Desired,
        own: Option<&Observed>,
        decision: &Decision,
        now_ms: u64,
    ) {
        let step = decision.steps.get(&desired.job);
        let found = decision.drift.get(&desired.job);
        let (Some(step), Some(found)) = (step, found) else {
            return;
        };
        let repairs = match step {
            Step::Create | Step::Start | Step::Unpause | Step::SetLimits | Step::Recreate => true,
            Step::Keep
            | Step::Wait(_)
            | Step::WaitFor(_)
            | Step::Held
            | Step::StopKeep
            | Step::Ended
            | Step::Restart
            | Step::Busy => false,
        };
        if repairs && !self.expected(desired, own, step) {
            let why = format!(
                "{}: found {}, wanted {}; {}",
                found.what,
                found.found,
                found.wanted,
                state::action(step)
            );
            self.event(&desired.job, "drift", why, now_ms);
        }
    }

    /// Whether a container is gone or has ended because we ended it, or in a failure that was
    /// counted: nothing was done behind our back.
    pub(super) fn expected(&self, desired: &Desired, own: Option<&Observed>, step: &Step) -> bool {
        match step {
            Step::Create => self.removed.contains(&desired.name()),
            Step::Start | Step::Wait(_) => {
                own.is_some_and(|own| self.runs.is_explained(&own.container.id))
            }
            _ => false,
        }
    }

    fn event(&mut self, job: &JobKey, what: &str, why: String, now_ms: u64) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        let event = EventRecord {
            v: 1,
            at_ms: now_ms,
            who: self.ops.host.to_string(),
            about: job.short(),
            what: what.to_owned(),
            why,
            placed: Vec::new(),
        };
        self.events.push_back((job.stack.clone(), event));
    }

    /// Writes events; what the store does not take is tried again later.
    pub(super) async fn write_events(&mut self) -> bool {
        while let Some((stack, event)) = self.events.front() {
            let map = self.assigned.as_ref().and_then(|a| a.stacks.get(stack));
            let run = map.and_then(|map| map.pointer.run.clone());
            let run = run.unwrap_or_else(|| RunId::new(event.at_ms, 0));
            if let Err(error) = self.tables.event(stack, &run, event).await {
                tracing::warn!("cannot write an event: {error}");
                return false;
            }
            self.events.pop_front();
        }
        true
    }

    fn progress(&self, job: &JobKey, stage: Stage, line: &str, now_ms: u64) {
        let map = self
            .assigned
            .as_ref()
            .and_then(|a| a.stacks.get(&job.stack));
        let progress = Progress {
            stack: job.stack.clone(),
            run: map.and_then(|map| map.pointer.run.clone()),
            at_ms: now_ms,
            stage,
            about: job.short(),
            line: line.to_owned(),
        };
        // Nobody watching is fine.
        drop(self.progress.send(progress));
    }

    /// At start: the listeners that running containers were told of are bound again.
    pub(super) async fn first_pass(&self, seen: &[Observed]) {
        rebind(&self.ops, seen).await;
    }

    /// Binds again what could not be bound before; what is bound already costs nothing.
    pub(super) fn rebind_links(&mut self) {
        let linked = |o: &&Observed| o.container.labels.contains_key(label::LINKS);
        let seen: Vec<Observed> = self.view.containers().filter(linked).cloned().collect();
        if !seen.is_empty() && !self.fresh {
            let ops = Arc::clone(&self.ops);
            self.tasks.spawn(async move { rebind(&ops, &seen).await });
        }
    }

    /// Removes networks of stacks that have nothing here any more, in a task of its own.
    pub(super) fn sweep_networks(&mut self) {
        let ops = Arc::clone(&self.ops);
        let assigned = self.assigned.as_ref();
        let mut used: BTreeSet<StackName> = assigned
            .into_iter()
            .flat_map(|a| a.assignments.iter().map(|a| a.job.stack.clone()))
            .collect();
        used.extend(
            assigned
                .iter()
                .flat_map(|a| a.frozen_stacks.iter().cloned()),
        );
        used.extend(self.busy.values().map(|busy| busy.job.stack.clone()));
        if self.stale || assigned.is_none() {
            return;
        }
        self.tasks.spawn(async move { sweep(&ops, used).await });
    }
}

/// Takes away unused networks. The gate keeps starts out meanwhile, so that none loses the network
/// it has just made sure of.
async fn sweep(ops: &Ops, mut used: BTreeSet<StackName>) {
    let Ok(networks) = ops.engine.networks(&ops.cluster).await else {
        return;
    };
    if network::unused(&ops.cluster, &networks, &used).is_empty() {
        return;
    }
    let _gate = ops.network_gate.write().await;
    let Ok(containers) = ops.engine.list(&ops.cluster).await else {
        return;
    };
    let stacks = containers.iter().filter_map(|c| c.labels.get(label::STACK));
    used.extend(stacks.filter_map(|stack| StackName::parse(stack).ok()));
    for name in network::unused(&ops.cluster, &networks, &used) {
        if let Err(error) = ops.engine.remove_network(&name).await {
            tracing::debug!(network = name, "still in use: {error}");
        }
    }
}

/// Asks the ambassador to bind again what containers were told of when they were made.
pub async fn rebind(ops: &Ops, containers: &[Observed]) {
    let linked = containers
        .iter()
        .filter(|o| o.container.labels.contains_key(label::LINKS));
    let linked: Vec<_> = linked.collect();
    if linked.is_empty() {
        return;
    }
    let networks = ops.engine.networks(&ops.cluster).await.unwrap_or_default();
    for observed in linked {
        let name = network::name(&ops.cluster, &observed.job.stack);
        let gateway = networks.iter().find(|network| network.name == name);
        let Some(gateway) = gateway.and_then(|network| network.gateway) else {
            continue;
        };
        for (key, port) in link::from_label(&observed.container) {
            let target = key.target.to_string();
            let port = Some(port);
            if let Err(reason) = ops.ask(ListenRequest { key, gateway, port }).await {
                tracing::warn!(
                    container = observed.container.name,
                    target,
                    "link is broken: {reason}"
                );
            }
        }
    }
}
