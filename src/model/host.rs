//! Hosts: what people decided about a machine (member) and what it says of itself (alive).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::certificate::DoorRecord;
use super::job::JobId;
use super::names::HostName;
use super::spec::ImageRef;
use super::world::PinKey;

/// Time to live of a host's lease: short, so that its jobs can move soon after it is gone.
pub const LEASE_TTL: Duration = Duration::from_secs(3);

/// Whether a host may be given jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    /// Takes jobs.
    #[default]
    Ready,
    /// Keeps what it has, takes nothing new.
    Cordoned,
    /// Gives away what may move.
    Draining,
}

/// What a host can hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Bytes.
    pub memory_bytes: u64,
}

/// What the operator says of a machine, beside what it says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// Tags for `filter:`.
    pub tags: BTreeSet<String>,
    /// Thousandths of a core that jobs may reserve, when not all that Docker sees.
    pub cpu_millis: Option<u64>,
    /// Bytes that jobs may reserve, when not all that Docker sees.
    pub memory_bytes: Option<u64>,
}

impl Declared {
    /// What the machine can hold: as declared, else as Docker sees it.
    #[must_use]
    pub fn capacity(&self, seen: Capacity) -> Capacity {
        Capacity {
            cpu_millis: self.cpu_millis.unwrap_or(seen.cpu_millis),
            memory_bytes: self.memory_bytes.unwrap_or(seen.memory_bytes),
        }
    }
}

/// Value of `/member/<hostname>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Version of this record.
    pub v: u32,
    /// Tells a machine from another of the same name.
    pub machine_id: String,
    /// Tags for `filter:`.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// What it can hold.
    pub capacity: Capacity,
    /// Whether it takes jobs.
    #[serde(default)]
    pub readiness: Readiness,
    /// Unix milliseconds.
    pub joined_ms: u64,
    /// When a leader first missed it, Unix milliseconds; 0 while it is seen.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gone_ms: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields in by reference"
)]
fn is_zero(ms: &u64) -> bool {
    *ms == 0
}

/// How a host's Docker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum EngineState {
    /// Answers.
    Up {
        /// Engine version.
        version: String,
    },
    /// Does not; its containers are unknown, not dead.
    Down {
        /// Why, in words.
        reason: String,
    },
}

/// The newest form of records that this version reads. It grows when a release can say something that
/// older versions would leave out; `schedule::forms` knows what.
pub const READS: u32 = 3;

fn first_form() -> u32 {
    1
}

/// Value of `/host/<hostname>`: alive as long as its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Version of this record.
    pub v: u32,
    /// The address ports are published on.
    pub address: IpAddr,
    /// Docker.
    pub engine: EngineState,
    /// viking's version.
    pub version: String,
    /// The newest form of records it reads, see [`READS`]; 1 of versions that did not say.
    #[serde(default = "first_form")]
    pub reads: u32,
    /// Where its API listens.
    pub api: String,
    /// Unix milliseconds of this start.
    pub started_ms: u64,
    /// What became of the images it was asked to fetch ahead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fetched: Vec<Fetched>,
    /// Copies that no route leads to any more, and that still have requests of its router: they are not
    /// stopped before those have ended, or the drain limit is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<JobId>,
    /// Its front door, and which challenges of a CA are answered there.
    #[serde(default, skip_serializing_if = "DoorRecord::is_closed")]
    pub door: DoorRecord,
    /// The sites it was told to have, and what became of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<SiteHere>,
    /// Whose data it has, by the labels of its volumes: a pin that is not on record, as after a
    /// restore of an older copy, is found by it. Absent as long as its engine has not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<PinKey>>,
}

/// An image that a host is asked to fetch before a slot is handed over to a copy that needs it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fetch {
    /// Where the new copy goes.
    pub host: HostName,
    /// What it is made from.
    pub image: ImageRef,
}

/// What became of a [`Fetch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// Which.
    pub image: ImageRef,
    /// Why it could not be fetched so far; empty when it is there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// What became of the files of a site on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteHere {
    /// Digest of the image that they are.
    pub digest: String,
    /// Why they could not be had so far; empty when they are there, whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

impl HostRecord {
    /// Whether Docker answers there.
    #[must_use]
    pub fn engine_up(&self) -> bool {
        matches!(self.engine, EngineState::Up { .. })
    }
}
