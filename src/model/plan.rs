//! What the planner returns: who starts where, who stops, who waits and why. A value that knows
//! nothing of the world it came from; written by the store, printed by people's tools.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::job::{Assignment, JobKey};
use super::names::{HostName, StackName};
use super::release::RunId;
use super::verdict::Verdict;
use super::world::{Pin, PinKey};

/// A job put on a host; kept with the `placed` event of its stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The job.
    pub job: JobKey,
    /// The run it belongs to.
    pub run: RunId,
    /// Its host.
    pub host: HostName,
    /// Revision of the store that it was decided on.
    #[serde(default)]
    pub revision: i64,
    /// What the rules said of it, of the hosts that came next, and of some that did not fit.
    pub verdicts: Vec<Verdict>,
    /// Placed beside the copy that answers, which goes on until this one is healthy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub beside: bool,
}

impl Start {
    /// Why there, in words.
    #[must_use]
    pub fn reason(&self) -> String {
        let mut verdicts = self.verdicts.iter();
        let own = verdicts.find(|verdict| verdict.host == self.host);
        own.map_or_else(String::new, |own| own.ruling.to_string())
    }
}

/// Another copy of a job answers for it from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flip {
    /// The job.
    pub job: JobKey,
    /// The run it belongs to.
    pub run: RunId,
    /// Who answered.
    pub from: HostName,
    /// Who does.
    pub to: HostName,
    /// Why, in words.
    pub reason: String,
}

/// A placement taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// What stops.
    pub placement: Assignment,
    /// Why, in words.
    pub reason: String,
}

/// A wanted job that has no placement yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unplaced {
    /// The job.
    pub job: JobKey,
    /// Why, in words.
    pub reason: String,
    /// What the rules said of hosts, of the first few of many; empty when it waits for another job.
    pub verdicts: Vec<Verdict>,
}

/// Every wanted job is in exactly one of `kept`, `start`, `waiting`, `blocked`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// When it was made, Unix milliseconds.
    pub now_ms: u64,
    /// Jobs whose placement stays.
    pub kept: Vec<JobKey>,
    /// New placements.
    pub start: Vec<Start>,
    /// Jobs that another of their copies answers for now.
    pub flip: Vec<Flip>,
    /// Placements that end.
    pub stop: Vec<Stop>,
    /// Wanted jobs that wait for another job.
    pub waiting: Vec<Unplaced>,
    /// Wanted jobs that no host may run now.
    pub blocked: Vec<Unplaced>,
    /// Pins to write with the first start.
    pub pins: BTreeMap<PinKeyText, (PinKey, Pin)>,
}

/// Sort key of a pin: its key under `/fixed`, so that plans print in a stable order.
pub type PinKeyText = String;

impl Plan {
    /// The plan without what it would change of some stacks.
    #[must_use]
    pub fn without(mut self, stacks: &BTreeSet<StackName>) -> Self {
        self.start
            .retain(|start| !stacks.contains(&start.job.stack));
        self.flip.retain(|flip| !stacks.contains(&flip.job.stack));
        self.stop
            .retain(|stop| !stacks.contains(&stop.placement.job.stack));
        self.pins
            .retain(|_, (pin, _)| !stacks.contains(pin.stack()));
        self
    }

    /// Whether the store would not change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start.is_empty()
            && self.flip.is_empty()
            && self.stop.is_empty()
            && self.pins.is_empty()
    }
}
