//! The world a planner reads: everything at one revision, `now` included. Made by `store`, read by
//! `schedule` and the API. Never changed while somebody decides.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::dump::pairs;
use super::env::Variables;
use super::host::{HostRecord, Member};
use super::job::{Assignment, CounterRecord, JobKey, Seat, StateRecord};
use super::names::{HostName, NodeName, StackName, Tag, VolumeName};
use super::release::{Pointer, Release, ReleaseNode, Source};
use super::spec::ContainerSpec;

/// One stack's part of the world.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StackWorld {
    /// Where it comes from; absent once `viking remove` took it away (and always for `core`).
    pub source: Option<Source>,
    /// The pointer; the default one when nothing was released yet.
    pub pointer: Pointer,
    /// Mod revision of the pointer's key, 0 when there is none: guards the next change of it.
    pub pointer_revision: i64,
    /// Releases on record.
    pub releases: BTreeMap<Tag, Release>,
    /// Specs on record.
    #[serde(with = "pairs")]
    pub procs: BTreeMap<(NodeName, Tag), ContainerSpec>,
}

impl StackWorld {
    fn release(&self, tag: Option<&Tag>) -> Option<&Release> {
        tag.and_then(|tag| self.releases.get(tag))
    }

    /// Since when people want nothing new of it, Unix milliseconds.
    #[must_use]
    pub fn suspended_ms(&self) -> Option<u64> {
        self.source.as_ref()?.suspended_ms
    }

    /// The release that serves.
    #[must_use]
    pub fn live(&self) -> Option<&Release> {
        self.release(self.pointer.live.as_ref())
    }

    /// The release being brought up.
    #[must_use]
    pub fn staged(&self) -> Option<&Release> {
        self.release(self.pointer.staged.as_ref())
    }

    /// The release being drained.
    #[must_use]
    pub fn retiring(&self) -> Option<&Release> {
        self.release(self.pointer.retiring.as_ref())
    }
}

/// What is pinned: a slot of a node, or a named volume with all that use it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinKey {
    /// `/fixed/<stack>/<node>/<slot>`
    Seat(Seat),
    /// `/fixed/<stack>/<volume>`
    Volume(StackName, VolumeName),
}

impl PinKey {
    /// The stack it belongs to.
    #[must_use]
    pub fn stack(&self) -> &StackName {
        match self {
            Self::Seat(seat) => &seat.stack,
            Self::Volume(stack, _) => stack,
        }
    }
}

/// Value under `/fixed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Version of this record.
    pub v: u32,
    /// The host.
    pub host: HostName,
    /// Unix milliseconds.
    pub since_ms: u64,
    /// Why, in words.
    pub reason: String,
}

/// Everything, at one revision.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct World {
    /// Unix milliseconds.
    pub now_ms: u64,
    /// The store's revision.
    pub revision: i64,
    /// Stacks, those with a source and those with a pointer.
    pub stacks: BTreeMap<StackName, StackWorld>,
    /// Machines people count on.
    pub members: BTreeMap<HostName, Member>,
    /// Machines that are alive.
    pub hosts: BTreeMap<HostName, HostRecord>,
    /// The store was put back from a copy once: pins that were younger than that are not on record.
    pub restored: bool,
    /// Members whose lease has ended and whose loss is not doubted: what can move from them does.
    /// Not on record; the leader judges it by its own clock.
    pub lost: BTreeSet<HostName>,
    /// Placements, by job then host: two hosts while a job moves.
    #[serde(with = "pairs")]
    pub assignments: BTreeMap<(JobKey, HostName), Assignment>,
    /// Who answers for a job.
    #[serde(with = "pairs")]
    pub run: BTreeMap<JobKey, HostName>,
    /// Pins.
    #[serde(with = "pairs")]
    pub fixed: BTreeMap<PinKey, Pin>,
    /// What hosts saw.
    #[serde(with = "pairs")]
    pub states: BTreeMap<(HostName, JobKey), StateRecord>,
    /// Failures in a row.
    #[serde(with = "pairs")]
    pub counters: BTreeMap<(HostName, JobKey), CounterRecord>,
    /// Shared variables by name: their versions, never a value.
    #[serde(default, with = "pairs", skip_serializing_if = "BTreeMap::is_empty")]
    pub env: Variables,
    /// Keys that cannot be read, with the reason: what they name is left alone.
    pub frozen: BTreeMap<String, String>,
    /// Stacks with an unreadable pointer, release or spec: nothing of them is started or stopped.
    pub frozen_stacks: BTreeSet<StackName>,
}

impl World {
    /// The placement that counts for a job, if it has one.
    #[must_use]
    pub fn placement(&self, job: &JobKey) -> Option<&Assignment> {
        let host = self.run.get(job)?;
        self.assignments.get(&(job.clone(), host.clone()))
    }

    /// The node record that describes a placed job: of any release the pointer names, live first.
    #[must_use]
    pub fn node(&self, job: &JobKey) -> Option<&ReleaseNode> {
        let stack = self.stacks.get(&job.stack)?;
        let named = [stack.live(), stack.staged(), stack.retiring()];
        let mut nodes = named
            .into_iter()
            .flatten()
            .filter_map(|release| release.node(&job.node));
        nodes.find(|node| node.tag == job.tag)
    }

    /// Whether nothing is to be expected of a host any more: it is lost, or people have forgotten it.
    #[must_use]
    pub fn is_lost(&self, host: &HostName) -> bool {
        self.lost.contains(host) || !self.members.contains_key(host)
    }

    /// The placement of a job on a host, whoever answers for it.
    #[must_use]
    pub fn placed_on(&self, job: &JobKey, host: &HostName) -> Option<&Assignment> {
        self.assignments.get(&(job.clone(), host.clone()))
    }

    /// Placements of a job beside the one that answers for it.
    pub fn beside<'a>(&'a self, job: &'a JobKey) -> impl Iterator<Item = &'a Assignment> {
        let answers = self.run.get(job);
        let first = self.members.keys().next();
        let from_first = first.into_iter().flat_map(move |first| {
            let all = self.assignments.range((job.clone(), first.clone())..);
            all.take_while(move |((placed, _), _)| placed == job)
        });
        from_first.filter_map(move |((_, host), placed)| {
            (Some(host) != answers && self.members.contains_key(host)).then_some(placed)
        })
    }

    /// What its host last saw of a placement; `None` when it saw another instance or nothing.
    #[must_use]
    pub fn state(&self, placement: &Assignment) -> Option<&StateRecord> {
        self.states
            .get(&(placement.host.clone(), placement.job.clone()))
            .filter(|state| state.instance == placement.instance)
    }

    /// Failures of a placement.
    #[must_use]
    pub fn counter(&self, placement: &Assignment) -> Option<&CounterRecord> {
        self.counters
            .get(&(placement.host.clone(), placement.job.clone()))
            .filter(|counter| counter.instance == placement.instance)
    }
}
