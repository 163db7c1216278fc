//! The desk's second half of a pass: operations are begun, and what is seen is written down.
//! Endpoints of what is about to stop are taken away first.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::desk::{Busy, Desk, News, What};
use super::endpoints;
use super::failure::Failure;
use super::health::Verdict;
use super::ledger::Sight;
use super::observed::Observed;
use super::ops::{Done, Ops, Order};
use super::reconcile::{Decision, Step, held_by, holding};
use super::state::{self, Doing, Facts};
use super::wanted::{Desired, Wanted, stop_policy};
use crate::model::job::{Instance, JobKey, StateRecord};
use crate::model::spec::StopPolicy;

impl Desk {
    /// Carries a decision out and reports; `false` when something could not be written.
    pub(super) async fn act(
        &mut self,
        wanted: &Wanted,
        own: &BTreeMap<JobKey, &Observed>,
        decision: &Decision,
        now_ms: u64,
    ) -> bool {
        let stops = |step: &Step| matches!(step, Step::StopKeep | Step::Recreate | Step::Restart);
        let mut may_stop = true;
        let serving = self.ledger.serving();
        if !decision.remove.is_empty() || decision.steps.values().any(stops) {
            // Nobody is sent to a container that is about to end.
            let sight = self.sight(wanted, own, decision, now_ms);
            may_stop = self.report(&sight).await;
        }
        for (job, step) in &decision.steps {
            let Some(desired) = wanted.jobs.get(job) else {
                continue;
            };
            // What does not work has no endpoints that could mislead anybody.
            if may_stop || !stops(step) || *step == Step::Restart {
                self.note_drift(desired, own.get(job).copied(), decision, now_ms);
                self.begin(desired, own.get(job).copied(), step);
            }
        }
        if may_stop {
            for observed in &decision.remove {
                self.begin_removal(wanted, observed, serving.contains(&observed.job));
            }
        }
        let sight = self.sight(wanted, own, decision, now_ms);
        let told = self.report(&sight).await;
        self.write_events().await && told
    }

    fn begin(&mut self, desired: &Desired, own: Option<&Observed>, step: &Step) {
        match (step, own) {
            (Step::Create, _) => self.bring_up(desired, None),
            (Step::Start, Some(own)) => self.bring_up(desired, Some(own.container.id.clone())),
            (Step::StopKeep | Step::Restart, Some(own)) => {
                self.sick.remove(&own.container.id);
                self.stop(own, desired.stop.clone(), false);
            }
            (Step::Recreate, Some(own)) => {
                if own.spec_hash != desired.spec_hash {
                    // Another spec under the same tag, as services have: it starts afresh.
                    self.counters.remove(&desired.job);
                }
                self.removed.insert(desired.name());
                self.stop(own, desired.stop.clone(), true);
            }
            (Step::Unpause, Some(own)) => {
                let id = own.container.id.clone();
                self.spawn(own, Doing::Repairing, None, |ops| async move {
                    ops.unpause(&id).await
                });
            }
            (Step::SetLimits, Some(own)) => {
                let (id, desired) = (own.container.id.clone(), desired.clone());
                self.spawn(own, Doing::Repairing, None, |ops| async move {
                    ops.set_limits(&id, &desired).await
                });
            }
            _ => {}
        }
    }

    fn begin_removal(&mut self, wanted: &Wanted, observed: &Observed, serving: bool) {
        let on_record = self.assigned.as_ref();
        let policy = on_record
            .and_then(|assigned| stop_policy(assigned, &observed.job))
            .or_else(|| self.stops.get(&observed.job).cloned())
            .unwrap_or_default();
        let twin = wanted.jobs.get(&observed.job);
        if twin.is_some_and(|desired| desired.instance == observed.instance) {
            tracing::warn!(
                container = observed.container.name,
                "a second container of a placement is removed"
            );
        }
        let seat = observed.job.seat();
        if !serving || wanted.jobs.keys().any(|job| job.seat() == seat) {
            self.stop(observed, policy, true);
            return;
        }
        // Nobody replaces it here: whoever looked an endpoint up just before still gets an answer.
        let id = observed.container.id.clone();
        let copy = observed.job.id(observed.instance);
        self.runs.explain(&id);
        self.spawn(observed, Doing::Stopping, None, move |ops| async move {
            ops.let_finish(&copy).await;
            ops.stop_remove(&id, &policy).await
        });
    }

    fn stop(&mut self, observed: &Observed, policy: StopPolicy, remove: bool) {
        let id = observed.container.id.clone();
        self.runs.explain(&id);
        self.spawn(observed, Doing::Stopping, None, move |ops| async move {
            if remove {
                ops.stop_remove(&id, &policy).await
            } else {
                ops.stop(&id, &policy).await
            }
        });
    }

    /// Reads the log of a container that failed; the failure counts when the log is there.
    pub(super) fn examine(&mut self, observed: &Observed, failure: Failure) {
        let id = observed.container.id.clone();
        self.spawn(
            observed,
            Doing::Examining,
            Some(failure),
            move |ops| async move { ops.tail(&id).await },
        );
    }

    fn bring_up(&mut self, desired: &Desired, existing: Option<String>) {
        let cancel = CancellationToken::new();
        let order = Order {
            cancel: cancel.clone(),
            bound: self.bound(),
            existing,
            desired: desired.clone(),
        };
        let busy = Busy {
            job: desired.job.clone(),
            instance: desired.instance,
            holding: holding(desired),
            doing: Doing::Starting,
            failure: None,
            id: order.existing.clone(),
            cancel,
        };
        let teller = self.teller.clone();
        let (name, job) = (desired.name(), desired.job.clone());
        let pulling = {
            let (name, job) = (name.clone(), job.clone());
            move || {
                let (name, job) = (name.clone(), job.clone());
                teller.tell(News {
                    name,
                    job,
                    what: What::Pulling,
                });
            }
        };
        self.run(name, busy, move |ops| async move {
            ops.bring_up(&order, pulling).await
        });
    }

    fn spawn<F, Fut>(&mut self, on: &Observed, doing: Doing, failure: Option<Failure>, work: F)
    where
        F: FnOnce(Arc<Ops>) -> Fut + Send + 'static,
        Fut: Future<Output = Done> + Send + 'static,
    {
        let busy = Busy {
            job: on.job.clone(),
            instance: on.instance,
            holding: held_by(on),
            doing,
            failure,
            id: Some(on.container.id.clone()),
            cancel: CancellationToken::new(),
        };
        self.run(on.container.name.clone(), busy, work);
    }

    fn run<F, Fut>(&mut self, name: String, busy: Busy, work: F)
    where
        F: FnOnce(Arc<Ops>) -> Fut + Send + 'static,
        Fut: Future<Output = Done> + Send + 'static,
    {
        let job = busy.job.clone();
        let (ops, teller) = (Arc::clone(&self.ops), self.teller.clone());
        self.busy.insert(name.clone(), busy);
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(async move {
            let what = What::Done(work(ops).await);
            teller.tell(News { name, job, what });
        });
    }

    /// What should be on record now.
    fn sight(
        &self,
        wanted: &Wanted,
        own: &BTreeMap<JobKey, &Observed>,
        decision: &Decision,
        now_ms: u64,
    ) -> Sight {
        let mut sight = Sight {
            counters: self.counters.clone(),
            ..Sight::default()
        };
        for (job, desired) in &wanted.jobs {
            let own = own.get(job).copied();
            let facts = self.facts(desired, own, decision);
            let record = state::record(&facts, now_ms);
            self.show(&mut sight, &facts, record);
        }
        self.show_leaving(&mut sight, wanted, own);
        sight
    }

    fn facts<'a>(
        &'a self,
        desired: &'a Desired,
        own: Option<&'a Observed>,
        decision: &'a Decision,
    ) -> Facts<'a> {
        let job = &desired.job;
        let name = own.map_or_else(|| desired.name(), |o| o.container.name.clone());
        let run = own.and_then(|own| self.runs.get(job).filter(|run| run.id == own.container.id));
        let step = decision.steps.get(job).unwrap_or(&Step::Keep);
        let drift = decision.drift.get(job);
        Facts {
            desired,
            own,
            step,
            drift: drift.filter(|_| !self.expected(desired, own, step)),
            doing: self.busy.get(&name).map(|busy| busy.doing),
            health: run.map(|run| (run.verdict, run.reason.as_str())),
            counter: self.counters.get(job),
            before: self.ledger.state(job),
        }
    }

    fn show(&self, sight: &mut Sight, facts: &Facts<'_>, record: StateRecord) {
        let (job, instance) = (&facts.desired.job, facts.desired.instance);
        let name = facts.own.map(|own| own.container.name.clone());
        let began = name.filter(|_| facts.own.is_some_and(|o| o.container.started_ms > 0));
        let began = began.or_else(|| facts.desired.begun.clone());
        if let Some(name) = began {
            sight.started.insert(job.clone(), (instance, name));
        }
        let run = self.runs.get(job);
        if facts.own.is_some_and(Observed::occupies) && run.is_some_and(|run| !run.looked) {
            // Found running: what is on record stands until a probe has looked.
            sight.untold.insert(job.clone());
            sight.states.insert(job.clone(), record);
            return;
        }
        let serves = matches!(facts.step, Step::Keep | Step::SetLimits)
            && !matches!(facts.doing, Some(Doing::Stopping | Doing::Examining))
            && run.is_some_and(|run| run.verdict == Verdict::Healthy);
        let own = facts.own.filter(|own| serves && own.occupies());
        let address = self.ops.address;
        let ports = own.map(|own| endpoints::of(job, instance, &own.container, address));
        let key = (job.clone(), instance);
        sight.ports.insert(key, ports.unwrap_or_default());
        sight.states.insert(job.clone(), record);
    }

    /// Containers that are on their way out keep their last record until they are gone; what is
    /// frozen is not spoken of at all.
    fn show_leaving(&self, sight: &mut Sight, wanted: &Wanted, own: &BTreeMap<JobKey, &Observed>) {
        let ids: BTreeSet<&str> = own.values().map(|o| o.container.id.as_str()).collect();
        for observed in self.view.containers() {
            let job = &observed.job;
            if ids.contains(observed.container.id.as_str()) {
                continue;
            }
            if wanted.jobs.contains_key(job) {
                let exclusive = wanted.jobs.get(job).is_some_and(|d| d.exclusive);
                if exclusive && !own.contains_key(job) {
                    sight.states.remove(job);
                    sight.untold.insert(job.clone());
                }
                continue;
            }
            if let Some(record) = self.ledger.state(job) {
                sight.states.insert(job.clone(), record.clone());
            } else {
                sight.untold.insert(job.clone());
            }
            let key: (JobKey, Instance) = (job.clone(), observed.instance);
            sight.ports.insert(key, BTreeSet::new());
        }
        let known = self.ledger.jobs();
        let frozen = known.filter(|job| {
            wanted.frozen_jobs.contains(*job) || wanted.frozen_stacks.contains(&job.stack)
        });
        sight.untold.extend(frozen.cloned());
    }

    /// Writes what is missing on record.
    async fn report(&mut self, sight: &Sight) -> bool {
        if self.stale {
            return false;
        }
        let Some(lease) = *self.lease.borrow() else {
            return false;
        };
        self.ledger.write_under(lease);
        let reports = self.ledger.missing(sight);
        if reports.is_empty() {
            return true;
        }
        match self.tables.report(&self.ops.host, lease, &reports).await {
            // A stale report is about a placement that has ended; the next read says so.
            Ok(_) => {
                self.ledger.written(sight);
                true
            }
            Err(error) => {
                self.ledger.doubt(&reports);
                tracing::warn!("cannot report: {error}");
                false
            }
        }
    }
}
