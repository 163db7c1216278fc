//! What this host is told to run, worked out of one read of the store. Pure; called by the worker
//! before each reconciliation. What cannot be read is neither started nor stopped.

use std::collections::{BTreeMap, BTreeSet};

use super::{link, network, volume};
use crate::model::endpoint::LinkKey;
use crate::model::job::{Assignment, Instance, JobKey};
use crate::model::names::StackName;
use crate::model::resolve::held;
use crate::model::spec::{ContainerSpec, Resources, StopPolicy};
use crate::store::tables::Assigned;

/// How a job is stopped: the live release that runs its tag says so, else the staged one, else any.
/// `None` when none is on record.
#[must_use]
pub fn stop_policy(assigned: &Assigned, job: &JobKey) -> Option<StopPolicy> {
    let map = assigned.stacks.get(&job.stack)?;
    let first = [map.live(), map.staged()].into_iter().flatten();
    let nodes = first
        .chain(map.releases.values())
        .filter_map(|release| release.node(&job.node));
    let mut found = nodes.filter(|node| node.tag == job.tag);
    found.next().map(|node| node.stop.clone())
}

/// One job that this host is told to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The job.
    pub job: JobKey,
    /// Its placement.
    pub instance: Instance,
    /// Must stand still: stopped, but kept.
    pub hold: bool,
    /// What its container is made from.
    pub spec: ContainerSpec,
    /// Hash of that.
    pub spec_hash: String,
    /// Two copies of its slot must never run at once.
    pub exclusive: bool,
    /// Runs to its end and is not started again once that was a good one.
    pub once: bool,
    /// How it is stopped.
    pub stop: StopPolicy,
    /// The network it must be on.
    pub network: String,
    /// The volumes it must have: (volume name, path).
    pub mounts: BTreeSet<(String, String)>,
    /// The listeners its links need.
    pub links: Vec<LinkKey>,
    /// The container this placement has had already, if it was ever started.
    pub begun: Option<String>,
}

impl Desired {
    /// Memory limit in bytes; 0 for none.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.limits().memory_bytes.unwrap_or(0)
    }

    /// CPU limit in thousandths of a core; 0 for none.
    #[must_use]
    pub fn cpu_millis(&self) -> u64 {
        self.limits().cpu_millis.unwrap_or(0)
    }

    fn limits(&self) -> &Resources {
        &self.spec.settings.resources
    }

    /// The container's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.job.id(self.instance).0
    }
}

/// Everything this host is told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// Jobs.
    pub jobs: BTreeMap<JobKey, Desired>,
    /// Stacks of which nothing is started, stopped or moved.
    pub frozen_stacks: BTreeSet<StackName>,
    /// Jobs without a readable spec: left alone.
    pub frozen_jobs: BTreeSet<JobKey>,
}

/// Works out what is wanted.
#[must_use]
pub fn wanted(cluster: &str, assigned: &Assigned) -> Wanted {
    let mut wanted = Wanted {
        frozen_stacks: assigned.frozen_stacks.clone(),
        ..Wanted::default()
    };
    for assignment in &assigned.assignments {
        let job = &assignment.job;
        match desired(cluster, assigned, assignment) {
            Some(desired) if !assigned.frozen_stacks.contains(&job.stack) => {
                wanted.jobs.insert(job.clone(), desired);
            }
            _ => {
                wanted.frozen_jobs.insert(job.clone());
            }
        }
    }
    wanted
}

/// `None` when there is no spec on record for the job.
fn desired(cluster: &str, assigned: &Assigned, assignment: &Assignment) -> Option<Desired> {
    let job = assignment.job.clone();
    let proc = (job.stack.clone(), job.node.clone(), job.tag.clone());
    let spec = assigned.specs.get(&proc)?.clone();
    let map = assigned.stacks.get(&job.stack);
    let releases = map.into_iter().flat_map(|map| map.releases.values());
    let said_exclusive = releases
        .filter_map(|release| release.nodes.get(&job.node))
        .any(|node| node.tag == job.tag && node.exclusive);
    let squeezed = map
        .and_then(|map| map.staged()?.nodes.get(&job.node))
        .is_some_and(|node| node.squeezed);
    let mounts = volume::volumes(cluster, &job.seat(), &spec.settings.volume);
    Some(Desired {
        instance: assignment.instance,
        hold: map.is_some_and(|map| held(&map.pointer, map.live(), map.staged(), &job)),
        spec_hash: spec.hash(),
        // Of what runs once, that of the release before must have gone.
        exclusive: said_exclusive || squeezed || spec.exclusive() || job.node.is_before(),
        once: job.node.is_before(),
        stop: stop_policy(assigned, &job).unwrap_or_default(),
        network: network::name(cluster, &job.stack),
        mounts: mounts.into_iter().map(|v| (v.name, v.path)).collect(),
        links: link::needs(assigned, &job, &spec),
        begun: assignment.container.clone(),
        spec,
        job,
    })
}
