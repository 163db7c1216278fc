//! What `viking status` shows: `viking.status/v1`, the same for the API that makes it and the CLI
//! that prints it. Types only; `api::status` decides what goes in.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::names::{HostName, NodeName, StackName, Tag};
use super::release::Phase;
use super::spec::Published;

/// Names the shape of [`StatusReport`]; a change that breaks readers gets another number.
pub const STATUS_SCHEMA: &str = "viking.status/v1";

/// Every stack, or the one asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// [`STATUS_SCHEMA`].
    pub schema: String,
    /// When it was true, RFC 3339; ages are counted from here.
    pub at: String,
    /// Stacks by name.
    pub stacks: Vec<StackStatus>,
}

/// Whether what runs is what the repository says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncWord {
    /// The newest commit is live.
    Synced,
    /// A newer commit is on its way.
    Behind,
    /// The newest commit failed and is not tried again.
    Quarantined,
    /// The repository cannot be read.
    Unknown,
}

impl fmt::Display for SyncWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Synced => "synced",
            Self::Behind => "behind",
            Self::Quarantined => "quarantined",
            Self::Unknown => "unknown",
        })
    }
}

/// Whether what should serve does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthWord {
    /// Every job of the live release works.
    Healthy,
    /// Some do not yet, and nothing has failed.
    Progressing,
    /// Some failed.
    Degraded,
    /// Some cannot run anywhere now.
    Blocked,
    /// A person said to leave it alone.
    Suspended,
}

impl fmt::Display for HealthWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Healthy => "healthy",
            Self::Progressing => "progressing",
            Self::Degraded => "degraded",
            Self::Blocked => "blocked",
            Self::Suspended => "suspended",
        })
    }
}

/// One stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackStatus {
    /// Its name.
    pub stack: StackName,
    /// The release that serves.
    pub live: Option<LiveStatus>,
    /// The commit on its way, or the one that failed.
    pub staged: Option<StagedStatus>,
    /// A commit that is being built while another is staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<StagedStatus>,
    /// First axis.
    pub sync: SyncWord,
    /// Second axis.
    pub health: HealthWord,
    /// Why it is not green, in words; empty when it is.
    pub reason: String,
    /// Where it comes from; absent for the built-in stack and for removed ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,
    /// Nodes of the live release, then of the staged and the retiring one where their tags differ.
    pub nodes: Vec<NodeStatus>,
    /// Differences between what is wanted and what the engine has, not repaired yet.
    pub drift: Vec<DriftStatus>,
    /// Jobs and actions still to do, and services whose changed spec waits.
    pub pending: usize,
}

impl StackStatus {
    /// Every job row.
    pub fn jobs(&self) -> impl Iterator<Item = (&NodeStatus, &JobStatus)> {
        self.nodes
            .iter()
            .flat_map(|node| node.jobs.iter().map(move |job| (node, job)))
    }
}

/// A commit, as people want to see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveStatus {
    /// The release's tag.
    pub tag: Tag,
    /// Full commit id.
    pub commit: String,
    /// First line of its message.
    pub subject: String,
    /// Its author.
    pub author: String,
    /// Author time, RFC 3339.
    pub at: String,
}

/// A commit that is not live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedStatus {
    /// The release's tag, which a commit has before it is built.
    pub tag: Tag,
    /// Where it is, or `failed`.
    pub phase: Phase,
    /// The stage at which it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// Why it failed or what holds it up.
    pub reason: String,
    /// Full commit id.
    pub commit: String,
    /// First line of its message.
    pub subject: String,
    /// Its author.
    pub author: String,
    /// Since when it is in this phase, RFC 3339.
    pub since: String,
    /// Last lines of the log of a failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// Where a stack comes from, and whether that can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// The remote, without user and password.
    pub url: String,
    /// Branch; the remote's HEAD when absent.
    pub branch: Option<String>,
    /// Folder of `viking.yml`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// `ok`, `missing`, `rewritten`, `unreachable`, `denied`, `bad`, `disk` (our own), or `new` before
    /// the first look.
    pub state: String,
    /// Why it is not `ok`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Full id of the newest commit seen.
    pub head: Option<String>,
}

/// Which release a row belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves.
    Live,
    /// Is being brought up beside it.
    Staged,
    /// Is being drained.
    Retiring,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Live => "live",
            Self::Staged => "staged",
            Self::Retiring => "retiring",
        })
    }
}

/// A node at one tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: NodeName,
    /// The tag its jobs run at.
    pub tag: Tag,
    /// The release that wants it so.
    pub release: Role,
    /// Copies wanted.
    pub want: u32,
    /// Copies whose container runs.
    pub running: usize,
    /// Copies that work.
    pub healthy: usize,
    /// Whether a changed spec waits for a restart by hand.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// What people should know besides.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Jobs by slot.
    pub jobs: Vec<JobStatus>,
}

/// One job, or one wanted slot that has no host yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// The job's id; absent without a placement.
    pub id: Option<String>,
    /// Replica number.
    pub slot: u32,
    /// Its host.
    pub host: Option<HostName>,
    /// A job state, or `waiting` or `blocked` without a placement.
    pub state: String,
    /// The container's name.
    pub container: Option<String>,
    /// Where it answers; only while healthy.
    pub endpoints: Vec<EndpointStatus>,
    /// Why it is not healthy.
    pub reason: String,
    /// Failures in a row.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// When it is tried again, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<String>,
    /// Last lines of its log, when it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A port of a job that can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Container port: `80/tcp`.
    pub port: String,
    /// `ip:hostPort`.
    pub address: String,
}

impl From<&Published> for EndpointStatus {
    fn from(published: &Published) -> Self {
        let address = std::net::SocketAddr::new(published.ip, published.host_port);
        Self {
            port: format!("{}/{}", published.port, published.proto),
            address: address.to_string(),
        }
    }
}

/// A difference that is not repaired yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftStatus {
    /// `stack/node.slot`.
    pub job: String,
    /// The field.
    pub what: String,
    /// What the engine has.
    pub found: String,
    /// What was wanted.
    pub wanted: String,
    /// RFC 3339.
    pub since: String,
    /// What is done about it.
    pub action: String,
}
