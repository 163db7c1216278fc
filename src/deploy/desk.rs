//! One host's desk: what it was told, what it sees, what is being done. A pass reads, decides and
//! acts, in that order; the long work is done by tasks that leave a note when they end. Driven by
//! `worker`; the deciding is `reconcile`'s, the doing `ops`'.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::fetch::Fetches;
use super::health::Verdict;
use super::ledger::Ledger;
use super::observed::Observed;
use super::ops::{Done, Ops};
use super::reconcile::{Decision, Holding, Memory, own_containers, reconcile};
use super::runs::{Ended, Runs};
use super::sites::Sites;
use super::state::Doing;
use super::view::View;
use super::wanted::{Desired, Wanted, wanted};
use crate::clock;
use crate::docker::EngineEvent;
use crate::model::history::EventRecord;
use crate::model::job::{CounterRecord, Fault, Instance, JobKey};
use crate::model::names::StackName;
use crate::model::spec::StopPolicy;
use crate::store::LeaseId;
use crate::store::tables::{Assigned, Tables};
use crate::wake::{Bell, Next, ProgressSink};

/// Between two full looks at engine and store, whatever events say.
pub const FULL_PASS: Duration = Duration::from_secs(10);
/// Until the next try when store or engine did not answer.
pub const SOON: Duration = Duration::from_secs(1);

/// A note of a task.
#[derive(Debug)]
pub struct News {
    /// The container's name.
    pub name: String,
    /// Its job.
    pub job: JobKey,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Debug)]
pub enum What {
    /// The image has to be fetched first.
    Pulling,
    /// The operation has ended.
    Done(Done),
    /// A probe's verdict on a running container: engine id, verdict, reason.
    Health(String, Verdict, String),
}

/// What the engine's event stream brings.
#[derive(Debug)]
pub enum Tidings {
    /// Something happened to a container or network.
    Event(EngineEvent),
    /// The stream broke: whatever happened meanwhile was missed.
    Broke,
}

/// Where tasks leave their notes.
#[derive(Debug, Clone)]
pub struct Teller {
    /// The notes.
    pub notes: mpsc::UnboundedSender<News>,
    /// Wakes the worker.
    pub bell: Bell,
}

impl Teller {
    /// Leaves a note; nobody reads it after shutdown.
    pub fn tell(&self, news: News) {
        if self.notes.send(news).is_ok() {
            self.bell.ring();
        }
    }
}

/// An operation under way.
#[derive(Debug)]
pub struct Busy {
    /// Its job.
    pub job: JobKey,
    /// The placement.
    pub instance: Instance,
    /// What the container holds meanwhile.
    pub holding: Holding,
    /// What is done.
    pub doing: Doing,
    /// The failure whose log is being read.
    pub failure: Option<Failure>,
    /// Engine id of the container it began with.
    pub id: Option<String>,
    /// Calls it off, if it is a start.
    pub cancel: CancellationToken,
}

/// The desk.
pub struct Desk {
    /// The store.
    pub tables: Tables,
    /// What can be done.
    pub ops: Arc<Ops>,
    /// Where tasks leave notes.
    pub teller: Teller,
    /// The notes.
    pub notes: mpsc::UnboundedReceiver<News>,
    /// The engine's events.
    pub tidings: mpsc::Receiver<Tidings>,
    /// The lease that `/state` and `/ports` are under.
    pub lease: watch::Receiver<Option<LeaseId>>,
    /// Where people watch.
    pub progress: ProgressSink,
    /// Tasks; dropping them leaves containers as they are.
    pub tasks: JoinSet<()>,
    /// What is there.
    pub view: View,
    /// The last good read of the store.
    pub assigned: Option<Assigned>,
    /// Whether the last read failed: absence is then no order.
    pub stale: bool,
    /// Running containers.
    pub runs: Runs,
    /// Failures in a row.
    pub counters: BTreeMap<JobKey, CounterRecord>,
    /// Operations under way, by container name.
    pub busy: BTreeMap<String, Busy>,
    /// Engine ids of containers that do not work.
    pub sick: BTreeSet<String>,
    /// Engine ids of containers that cannot be set right in place.
    pub beyond_repair: BTreeSet<String>,
    /// Names of containers that we removed to make them anew.
    pub removed: BTreeSet<String>,
    /// Jobs that wait a moment because the engine did not answer, and until when.
    pub pauses: BTreeMap<JobKey, u64>,
    /// Containers that could not be stopped or removed, by name: how often in a row, and until when
    /// they are left alone.
    pub stuck: BTreeMap<String, (u32, u64)>,
    /// How jobs that were once wanted are stopped.
    pub stops: BTreeMap<JobKey, StopPolicy>,
    /// What is on record.
    pub ledger: Ledger,
    /// Images fetched ahead of hand-overs.
    pub fetches: Fetches,
    /// Files of static sites.
    pub sites: Sites,
    /// Events that are not written yet, oldest first.
    pub events: VecDeque<(StackName, EventRecord)>,
    /// The engine does not answer, or did not when it was last asked.
    pub engine_down: bool,
    /// When everything was last listed, Unix milliseconds.
    pub listed_ms: u64,
    /// Jobs that run once and ended well, by the engine id of the container that did.
    pub ended_well: BTreeMap<JobKey, String>,
    /// Whether this is the first pass.
    pub fresh: bool,
}

impl Desk {
    /// Hears, reads, looks, decides, acts, reports.
    pub async fn pass(&mut self) -> Next {
        let now_ms = clock::now_ms();
        self.read().await;
        self.hear(now_ms);
        self.fetch_ahead(now_ms);
        self.unpack_sites(now_ms);
        let engine_was_down = self.engine_down;
        let Some(assigned) = &self.assigned else {
            return Next::After(SOON);
        };
        let wanted = wanted(&self.ops.cluster, assigned);
        if !self.look(now_ms).await {
            return Next::After(SOON);
        }
        self.keep_stops(&wanted);
        let seen = self.view.containers().cloned();
        let seen: Vec<Observed> = seen.map(|one| adopted(one, &wanted)).collect();
        if self.fresh {
            self.first_pass(&seen).await;
        }
        let own = own_containers(&wanted, &seen);
        self.examine_ended(&wanted, &own, engine_was_down);
        self.begin_runs(&wanted, &own, now_ms);
        self.examine_sick(&own);
        self.forgive(&wanted, now_ms);
        self.call_off(&wanted);
        let mut decision = reconcile(&wanted, &seen, &self.memory(), now_ms);
        if self.stale {
            // No news is no order: nothing is stopped or removed on old knowledge.
            no_stops(&mut decision);
        }
        let told = self.act(&wanted, &own, &decision, now_ms).await;
        let busy = self.busy.keys().cloned().collect();
        if told && !self.stale && !self.view.unsure(&busy) {
            self.next(&wanted, now_ms)
        } else {
            Next::After(SOON)
        }
    }

    /// Reads the store. A read that fails changes nothing.
    async fn read(&mut self) {
        match self.tables.assigned(&self.ops.host).await {
            Ok(assigned) => {
                if self.assigned.is_none() {
                    self.ledger = Ledger::inherit(&assigned);
                    self.counters.clone_from(&assigned.counters);
                }
                self.assigned = Some(assigned);
                self.stale = false;
            }
            Err(error) => {
                if !self.stale {
                    tracing::warn!("nothing is stopped until the store can be read: {error}");
                }
                self.stale = true;
            }
        }
    }

    /// Looks at the engine; `false` when it does not answer and nothing may be concluded.
    async fn look(&mut self, now_ms: u64) -> bool {
        let full = FULL_PASS.as_millis();
        if u128::from(now_ms.saturating_sub(self.listed_ms)) >= full {
            self.view.relist();
        }
        let busy = self.busy.keys().cloned().collect();
        let engine = self.ops.engine.as_ref();
        match self.view.refresh(engine, &busy, now_ms).await {
            Ok(full) => {
                self.engine_down = false;
                if full {
                    self.listed_ms = now_ms;
                    self.after_full_list();
                    self.sweep_networks();
                    self.rebind_links();
                }
                true
            }
            Err(error) => {
                if !self.engine_down {
                    tracing::warn!("containers are unknown, not dead: {error}");
                }
                self.engine_down = true;
                self.view.distrust();
                self.runs.suspend();
                false
            }
        }
    }

    fn after_full_list(&mut self) {
        let ids: BTreeSet<String> = self
            .view
            .containers()
            .map(|o| o.container.id.clone())
            .collect();
        self.runs.tidy(&ids);
        let view = &self.view;
        let there = |name: &String| view.containers().any(|o| o.container.name == *name);
        self.stuck.retain(|name, _| there(name));
        self.sick.retain(|id| ids.contains(id));
        self.beyond_repair.retain(|id| ids.contains(id));
        let bound = self.bound();
        let now_ms = clock::now_ms();
        let mut book = self
            .ops
            .ports
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        book.seen(&bound, now_ms);
    }

    /// Host ports that containers of ours hold.
    pub fn bound(&self) -> BTreeSet<u16> {
        let containers = self.view.containers();
        containers
            .flat_map(|o| o.container.published.iter().map(|p| p.host_port))
            .collect()
    }

    /// Remembers how wanted jobs are stopped, for when they are wanted no more.
    fn keep_stops(&mut self, wanted: &Wanted) {
        let here: BTreeSet<&JobKey> = self.view.containers().map(|o| &o.job).collect();
        self.stops
            .retain(|job, _| here.contains(job) || wanted.jobs.contains_key(job));
        let policies = wanted.jobs.values();
        self.stops
            .extend(policies.map(|d| (d.job.clone(), d.stop.clone())));
    }

    fn memory(&self) -> Memory {
        let failed = self.counters.iter();
        let mut next_try_ms: BTreeMap<JobKey, u64> = failed
            .map(|(job, counter)| (job.clone(), counter.next_try_ms))
            .collect();
        for (job, until) in &self.pauses {
            let next = next_try_ms.entry(job.clone()).or_default();
            *next = (*next).max(*until);
        }
        let own = |counter: &CounterRecord| counter.fault == Fault::Own && counter.failures > 0;
        let own_faults = self.counters.iter().filter(|(_, counter)| own(counter));
        let busy = self.busy.iter();
        let stuck = self.stuck.iter();
        Memory {
            own_faults: own_faults.map(|(job, _)| job.clone()).collect(),
            ended_well: self.ended_well(),
            next_try_ms,
            next_stop_ms: stuck.map(|(name, (_, at))| (name.clone(), *at)).collect(),
            sick: self.sick.clone(),
            beyond_repair: self.beyond_repair.clone(),
            busy: busy
                .map(|(name, busy)| (name.clone(), busy.holding.clone()))
                .collect(),
        }
    }

    /// Jobs that run once and were seen to end well: by this process, or by one before it that told so.
    fn ended_well(&self) -> BTreeSet<JobKey> {
        let seen = self.view.containers().filter(|observed| {
            let id = self.ended_well.get(&observed.job);
            id == Some(&observed.container.id)
        });
        let seen = seen.map(|observed| observed.job.clone());
        let states = self.assigned.iter().flat_map(|assigned| &assigned.states);
        let told = states.filter(|(_, state)| state.is_done());
        seen.chain(told.map(|(job, _)| job.clone())).collect()
    }

    /// Containers that ended since the last pass: a crash is examined and counted.
    fn examine_ended(
        &mut self,
        wanted: &Wanted,
        own: &BTreeMap<JobKey, &Observed>,
        engine_was_down: bool,
    ) {
        let view = &self.view;
        let excused = |o: &Observed| engine_was_down || view.was_killed(&o.container.name);
        for (job, how) in self.runs.ended(own, excused) {
            let (Some(observed), Some(desired)) = (own.get(&job), wanted.jobs.get(&job)) else {
                continue;
            };
            let container = &observed.container;
            let done = desired.once && container.exit_code == 0;
            if done && how == Ended::Crashed {
                // Of itself, with the engine up and nobody's hand in it.
                self.ended_well.insert(job.clone(), container.id.clone());
            }
            if how == Ended::Crashed && !desired.hold && !done {
                self.runs.explain(&container.id);
                let failure =
                    Failure::exited(container.exit_code, container.oom_killed, Vec::new());
                self.examine(observed, failure);
            }
        }
    }

    /// Containers that run and do not work: the failure counts, then they are restarted.
    fn examine_sick(&mut self, own: &BTreeMap<JobKey, &Observed>) {
        let mut found = Vec::new();
        for (job, observed) in own {
            let container = &observed.container;
            let known =
                self.sick.contains(&container.id) || self.busy.contains_key(&container.name);
            let run = self.runs.get(job).filter(|run| run.id == container.id);
            let run = run.filter(|run| run.verdict == Verdict::Unhealthy && !known);
            let failure = run.map(|run| match job.node.is_before() {
                true => Failure::endless(Vec::new()),
                false => Failure::unhealthy(&run.reason, Vec::new()),
            });
            found.extend(failure.map(|failure| (*observed, failure)));
        }
        for (observed, failure) in found {
            self.examine(observed, failure);
        }
    }

    /// Failures of jobs that are wanted no more, or healthy for long enough, are forgotten.
    fn forgive(&mut self, wanted: &Wanted, now_ms: u64) {
        let runs = &self.runs;
        let frozen = |job: &JobKey| {
            wanted.frozen_jobs.contains(job) || wanted.frozen_stacks.contains(&job.stack)
        };
        self.counters.retain(|job, counter| {
            let same = wanted.jobs.get(job).map(|d| d.instance) == Some(counter.instance);
            let well = runs.forgiven_at(job).is_some_and(|at| at <= now_ms);
            frozen(job) || (same && !well)
        });
        self.pauses.retain(|_, until| *until > now_ms);
    }

    /// Starts that are not wanted any more are called off.
    fn call_off(&self, wanted: &Wanted) {
        if self.stale {
            return;
        }
        for busy in self.busy.values() {
            let starting = matches!(busy.doing, Doing::Pulling | Doing::Starting);
            let desired = wanted.jobs.get(&busy.job);
            let still = desired.is_some_and(|d| d.instance == busy.instance && !d.hold);
            let frozen = wanted.frozen_stacks.contains(&busy.job.stack);
            if starting && !still && !frozen {
                busy.cancel.cancel();
            }
        }
    }

    /// When to look again though nothing happens.
    fn next(&self, wanted: &Wanted, now_ms: u64) -> Next {
        let tries = self.counters.values().map(|counter| counter.next_try_ms);
        let forgiven = self.counters.keys().filter(|j| wanted.jobs.contains_key(j));
        let forgiven = forgiven.filter_map(|job| self.runs.forgiven_at(job));
        let stuck = self.stuck.values().map(|(_, until)| *until);
        let times = tries
            .chain(forgiven)
            .chain(stuck)
            .chain(self.fetches.tries())
            .chain(self.sites.tries());
        let times = times.chain(self.pauses.values().copied());
        match times.filter(|at| *at > now_ms).min() {
            Some(at) => Next::After(Duration::from_millis(at - now_ms)),
            None => Next::OnChange,
        }
    }
}

/// A container whose name the store still knows under another instance: the store was rebuilt from
/// a copy since, in which every placement has a new one.
fn adopted(mut observed: Observed, wanted: &Wanted) -> Observed {
    let desired = wanted.jobs.get(&observed.job);
    let named = |desired: &&Desired| desired.begun.as_ref() == Some(&observed.container.name);
    if let Some(desired) = desired.filter(named) {
        observed.instance = desired.instance;
    }
    observed
}

/// Leaves only steps that start or mend.
fn no_stops(decision: &mut Decision) {
    use super::reconcile::Step;
    decision.remove.clear();
    for step in decision.steps.values_mut() {
        if matches!(step, Step::StopKeep | Step::Recreate) {
            *step = Step::Keep;
        }
    }
}
