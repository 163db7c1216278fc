//! What this host has on record in the store, against what should be there: the difference is what
//! gets written. Pure; used by the desk. Level, not edge: a write that failed is simply found to be
//! missing the next time, and a new lease makes everything be written again.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::endpoint::Endpoint;
use crate::model::job::{CounterRecord, Instance, JobKey, StateRecord};
use crate::store::LeaseId;
use crate::store::tables::{Assigned, Report};

/// What should be on record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sight {
    /// Where each job is. A job that is missing here has no container.
    pub states: BTreeMap<JobKey, StateRecord>,
    /// Failures in a row.
    pub counters: BTreeMap<JobKey, CounterRecord>,
    /// Containers that were started.
    pub started: BTreeMap<JobKey, (Instance, String)>,
    /// Endpoints of each placement, perhaps none.
    pub ports: BTreeMap<(JobKey, Instance), BTreeSet<Endpoint>>,
    /// Jobs whose state and counter stay as they are on record; so do their endpoints, unless
    /// `ports` says otherwise.
    pub untold: BTreeSet<JobKey>,
}

/// What is on record, as far as we know: `None` where a record is that must be written again.
#[derive(Debug, Default)]
pub struct Ledger {
    lease: Option<LeaseId>,
    states: BTreeMap<JobKey, Option<StateRecord>>,
    counters: BTreeMap<JobKey, CounterRecord>,
    started: BTreeMap<JobKey, (Instance, String)>,
    ports: BTreeMap<(JobKey, Instance), BTreeSet<Endpoint>>,
    /// Jobs of a report without an answer: it may have been written all the same.
    doubted: BTreeSet<JobKey>,
}

impl Ledger {
    /// What an earlier life of this host left on record.
    #[must_use]
    pub fn inherit(assigned: &Assigned) -> Self {
        let started = assigned.assignments.iter().filter_map(|a| {
            let name = a.container.clone()?;
            Some((a.job.clone(), (a.instance, name)))
        });
        Self {
            states: assigned
                .states
                .keys()
                .map(|job| (job.clone(), None))
                .collect(),
            counters: assigned.counters.clone(),
            started: started.collect(),
            ..Self::default()
        }
    }

    /// Under which lease to write; with a new one everything that died with the old is unknown.
    pub fn write_under(&mut self, lease: LeaseId) {
        if self.lease != Some(lease) {
            self.lease = Some(lease);
            self.states.values_mut().for_each(|state| *state = None);
            self.ports.clear();
        }
    }

    /// The state record that was last written for a job.
    #[must_use]
    pub fn state(&self, job: &JobKey) -> Option<&StateRecord> {
        self.states.get(job).and_then(Option::as_ref)
    }

    /// Jobs that have something on record.
    pub fn jobs(&self) -> impl Iterator<Item = &JobKey> {
        self.states.keys().chain(self.counters.keys())
    }

    /// Jobs that others may have been sent to.
    #[must_use]
    pub fn serving(&self) -> BTreeSet<JobKey> {
        let ports = self.ports.iter().filter(|(_, ports)| !ports.is_empty());
        ports.map(|((job, _), _)| job.clone()).collect()
    }

    /// Nobody knows what became of these: they are written again, whatever was on record before.
    pub fn doubt(&mut self, reports: &[Report]) {
        for report in reports {
            let job = match report {
                Report::State(job, _) | Report::Counter(job, _) | Report::Started(job, ..) => job,
                Report::Ports(job, at, ports) => {
                    let tried = self.ports.entry((job.clone(), *at)).or_default();
                    tried.extend(ports.iter().cloned());
                    job
                }
            };
            self.doubted.insert(job.clone());
        }
    }

    /// What has to be written, endpoints that must go first.
    #[must_use]
    pub fn missing(&self, sight: &Sight) -> Vec<Report> {
        let mut reports = self.missing_ports(sight);
        let told = |job: &JobKey| !sight.untold.contains(job);
        let started = sight
            .started
            .iter()
            .filter(|(job, s)| self.doubts(job) || self.started.get(*job) != Some(*s));
        reports.extend(
            started.map(|(job, (at, name))| Report::Started(job.clone(), *at, name.clone())),
        );
        for (job, counter) in &sight.counters {
            if self.doubts(job) || self.counters.get(job) != Some(counter) {
                reports.push(Report::Counter(job.clone(), Some(counter.clone())));
            }
        }
        for (job, state) in sight.states.iter().filter(|(job, _)| told(job)) {
            if self.doubts(job) || self.state(job) != Some(state) {
                reports.push(Report::State(job.clone(), Some(state.clone())));
            }
        }
        let gone = |job: &&JobKey| told(job) && !sight.counters.contains_key(*job);
        let known: BTreeSet<&JobKey> = self.counters.keys().chain(&self.doubted).collect();
        let counters = known.into_iter().filter(gone);
        reports.extend(counters.map(|job| Report::Counter(job.clone(), None)));
        let gone = |job: &&JobKey| told(job) && !sight.states.contains_key(*job);
        let known: BTreeSet<&JobKey> = self.states.keys().chain(&self.doubted).collect();
        let states = known.into_iter().filter(gone);
        reports.extend(states.map(|job| Report::State(job.clone(), None)));
        reports
    }

    fn doubts(&self, job: &JobKey) -> bool {
        self.doubted.contains(job)
    }

    fn missing_ports(&self, sight: &Sight) -> Vec<Report> {
        let none = BTreeSet::new();
        let known = self.ports.iter();
        let left = known
            .filter(|(key, had)| !had.is_empty() && !sight.ports.contains_key(key))
            .map(|(key, _)| (key, &none));
        let changed = sight
            .ports
            .iter()
            .filter(|(key, ports)| self.doubts(&key.0) || self.ports.get(key) != Some(*ports));
        left.filter(|((job, _), _)| !sight.untold.contains(job))
            .chain(changed)
            .map(|((job, at), ports)| {
                Report::Ports(job.clone(), *at, ports.iter().cloned().collect())
            })
            .collect()
    }

    /// All of it was written.
    pub fn written(&mut self, sight: &Sight) {
        let untold = |job: &JobKey| sight.untold.contains(job);
        self.states
            .retain(|job, _| untold(job) || sight.states.contains_key(job));
        let told = sight.states.iter().filter(|(job, _)| !untold(job));
        self.states
            .extend(told.map(|(job, state)| (job.clone(), Some(state.clone()))));
        self.counters
            .retain(|job, _| untold(job) || sight.counters.contains_key(job));
        self.counters.extend(sight.counters.clone());
        self.started.clone_from(&sight.started);
        self.ports.retain(|(job, _), _| untold(job));
        self.ports.extend(sight.ports.clone());
        self.doubted.retain(untold);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::job::JobState;
    use crate::model::names::{NodeName, StackName, Tag};

    fn sight(state: JobState) -> Sight {
        let job = JobKey {
            stack: StackName::parse("s").unwrap(),
            tag: Tag::of_services(),
            node: NodeName::parse("n").unwrap(),
            slot: 0,
        };
        let record = StateRecord {
            v: 1,
            instance: Instance(1),
            state,
            since_ms: 0,
            container: None,
            address: None,
            published: Vec::new(),
            reason: String::new(),
            exit: None,
            log_tail: Vec::new(),
            drift: Vec::new(),
        };
        Sight {
            states: [(job, record)].into(),
            ..Sight::default()
        }
    }

    #[test]
    fn what_got_no_answer_is_written_again_even_when_all_is_as_before() {
        let (healthy, exited) = (sight(JobState::Healthy), sight(JobState::Exited));
        let mut ledger = Ledger::default();
        ledger.written(&healthy);
        assert!(ledger.missing(&healthy).is_empty());
        let lost = ledger.missing(&exited);
        ledger.doubt(&lost);
        let again = ledger.missing(&healthy);
        let state_first = |reports: &[Report]| {
            matches!(
                reports,
                [Report::State(_, Some(_)), Report::Counter(_, None)]
            )
        };
        assert!(state_first(&again), "{again:?}");
        let gone = ledger.missing(&Sight::default());
        assert!(matches!(
            &gone[..],
            [Report::Counter(_, None), Report::State(_, None)]
        ));
        ledger.written(&healthy);
        assert!(ledger.missing(&healthy).is_empty());
    }
}
