//! Jobs: one slot of one node at one tag, its placements, and what a host saw of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::names::{HostName, NodeName, StackName, Tag};
use super::spec::Published;

/// How long a job may run that runs once, to its end, before its release starts. Its host, which has its
/// log, gives it up then.
pub const RUN_ONCE_MS_MAX: u64 = 10 * 60 * 1_000;

/// (stack, tag, node, slot): one process to be run. Written `stack/tag/node/slot` in keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobKey {
    /// Stack.
    pub stack: StackName,
    /// Tag the node runs at, not always the live release's.
    pub tag: Tag,
    /// Node.
    pub node: NodeName,
    /// 0-based replica number, stable across pushes.
    pub slot: u32,
}

impl JobKey {
    /// The job's id under one placement: the container's name, the last segment of `/ports`.
    #[must_use]
    pub fn id(&self, instance: Instance) -> JobId {
        JobId(format!(
            "{}.{}.{}.{}.{instance}",
            self.stack, self.tag, self.node, self.slot
        ))
    }

    /// `stack/node.slot`: how people name it.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{}/{}.{}", self.stack, self.node, self.slot)
    }

    /// The slot, whatever the tag: what exclusive jobs share and pins name.
    #[must_use]
    pub fn seat(&self) -> Seat {
        Seat {
            stack: self.stack.clone(),
            node: self.node.clone(),
            slot: self.slot,
        }
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.stack, self.tag, self.node, self.slot)
    }
}

/// A slot of a node, whatever the tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seat {
    /// Stack.
    pub stack: StackName,
    /// Node.
    pub node: NodeName,
    /// Slot.
    pub slot: u32,
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.stack, self.node, self.slot)
    }
}

/// One placement of a job: the create revision of its `/deploy` key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instance(pub i64);

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Opaque; nothing is ever recovered by splitting it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a job is in its life, as its host saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Its host has not begun.
    Assigned,
    /// The image is on its way.
    Pulling,
    /// The container runs, health is not known yet.
    Starting,
    /// Works.
    Healthy,
    /// Runs and does not work.
    Unhealthy,
    /// Failed; waits for its next try.
    Backoff,
    /// Was told to stop.
    Stopping,
    /// Does not run: stopped and kept, about to be started again, or at its end if it runs once.
    Exited,
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Assigned => "assigned",
            Self::Pulling => "pulling",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Backoff => "backoff",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
        })
    }
}

/// Whose fault a failure is: only the commit's own quarantines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// Process exit, unhealthy.
    Own,
    /// Registry, engine, disk, port taken.
    Outside,
}

/// A difference between what the store wants and what the engine has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Field: `state`, `paused`, `memory`, `cpu`, `network`, `mounts`, `container`, `spec`.
    pub what: String,
    /// What the engine has.
    pub found: String,
    /// What was wanted.
    pub wanted: String,
    /// Unix milliseconds.
    pub since_ms: u64,
    /// What is or was done about it.
    pub action: String,
}

/// Value of `/state/<hostname>/<job>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    /// Version of this record.
    pub v: u32,
    /// The placement that was seen.
    pub instance: Instance,
    /// Where it is in its life.
    pub state: JobState,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
    /// The container's name, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The container's address on its stack's network; only its own host can dial it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<std::net::IpAddr>,
    /// Published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
    /// Why it is not healthy, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Exit code of a job that runs once, when it has ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i64>,
    /// Last lines of the log, when it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
    /// Differences that are not repaired yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<Drift>,
}

impl StateRecord {
    /// Whether a job that runs once has done what it was for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == JobState::Exited && self.exit == Some(0)
    }
}

/// Value of `/counter/<hostname>/<job>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRecord {
    /// Version of this record.
    pub v: u32,
    /// The placement that failed.
    pub instance: Instance,
    /// Failures in a row, those before start too; 0 after sixty healthy seconds.
    pub failures: u32,
    /// Failures in a row of whatever kind, which the wait grows with. `failures` starts anew when the
    /// fault is another's.
    #[serde(default)]
    pub tries: u32,
    /// Whose fault the last one was.
    pub fault: Fault,
    /// Exit code of the last exit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<i64>,
    /// Whether a running container was declared unhealthy (as against having exited).
    #[serde(default)]
    pub unhealthy: bool,
    /// Why, in words.
    pub reason: String,
    /// Unix milliseconds of the last failure.
    pub at_ms: u64,
    /// Unix milliseconds before which it is not tried again.
    pub next_try_ms: u64,
    /// Last lines of the log at the failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
}

/// A job put on a host: a `/deploy` key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Assignment {
    /// The job.
    pub job: JobKey,
    /// Its host.
    pub host: HostName,
    /// Create revision of the key.
    pub instance: Instance,
    /// The container's name, once its host started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}
