//! Typed reads and writes: what the rest of viking knows of the store. Reads are whole values of one
//! revision, writes are guarded transactions; the parts are `read` (world, a host's share, routes),
//! `leader`, `host` and `people`, named after who calls them, and `variables`, which holds secrets.
//!
//! Promise 5 lives here: every read asks for `/cluster` too and counts only if it carries our id and
//! a revision not below the last one seen. An absence in any other answer means nothing.

mod certificates;
mod host;
mod leader;
mod people;
mod read;
mod registry;
mod ring;
mod trash;
mod variables;
mod write;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::keys::{Key, Keys};
use super::pulse::Pulse;
use super::{Committed, Compare, KeyValue, Op, Selector, SharedStore, Snapshot, Txn};
use crate::model::world::World;

pub use self::certificates::Served;
pub use self::host::{Report, Reported};
pub use self::leader::event_number;
pub use self::people::{HISTORY_RUNS, ImageOnRecord, Request, Sources};
pub use self::read::{Assigned, Routes};
pub use self::variables::Variable;
pub use self::write::Outcome;

/// Newest version of records that this viking can read.
const RECORD_VERSION: u32 = 1;

/// Why a typed read or write has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store has none.
    #[error(transparent)]
    Store(#[from] super::Error),
    /// The store answered and may not be believed: another cluster, an emptied or an older one.
    #[error("the store is not the one this host knows, nothing is changed: {0}")]
    Frozen(String),
    /// What was asked for is not possible.
    #[error("{0}")]
    Refused(String),
}

/// A typed result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the tables cannot be used with a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store has no answer.
    #[error("failed to read the cluster's id")]
    Store(#[from] super::Error),
    /// The store belongs to another cluster.
    #[error("this host belongs to cluster {known}, the store to cluster {found}")]
    Other {
        /// As this host remembers.
        known: String,
        /// As the store says.
        found: String,
    },
    /// The store has lost its memory.
    #[error("this host belongs to cluster {known}, and the store holds no cluster at all")]
    Gone {
        /// As this host remembers.
        known: String,
    },
    /// The store has gone back in time.
    #[error("the store is at revision {found}, and this host has seen {known}")]
    Older {
        /// As this host remembers.
        known: i64,
        /// As the store says.
        found: i64,
    },
    /// `/cluster` cannot be read.
    #[error("the cluster's id cannot be read: {0}")]
    Unreadable(String),
}

/// Value of `/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cluster {
    v: u32,
    pub(super) id: String,
    /// What its revisions are counted from: a store that was rebuilt from a copy begins anew, and
    /// hosts must take it for newer than the one they have seen. 0 for one that was never rebuilt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) base: i64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields in by reference"
)]
fn is_zero(base: &i64) -> bool {
    *base == 0
}

/// The store, typed. Cheap to clone; clones share what they have seen.
#[derive(Debug, Clone)]
pub struct Tables {
    store: SharedStore,
    pulse: Arc<Pulse>,
    keys: Keys,
    cluster: Arc<str>,
    seen: Arc<AtomicI64>,
    /// What the store's revisions are counted from; see [`Cluster::base`].
    base: Arc<AtomicI64>,
    /// The world as it was last read: several loops ask for the same one after each change, and an
    /// idle cluster asks for the same one all day.
    world: Arc<Mutex<Option<World>>>,
}

impl Tables {
    /// Makes sure that the store is the cluster's: `known_cluster` and `known_revision` are what the
    /// host kept on disk, none and 0 at its first start, when a new cluster may be founded.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(
        store: SharedStore,
        prefix: &str,
        known_cluster: Option<&str>,
        known_revision: i64,
    ) -> std::result::Result<Self, OpenError> {
        let pulse = Pulse::of(store);
        let store: SharedStore = Arc::<Pulse>::clone(&pulse);
        let keys = Keys::new(prefix);
        let (Cluster { id, base, .. }, revision) =
            identify(&store, &keys.text(&Key::Cluster), known_cluster).await?;
        if let Some(known) = known_cluster.filter(|known| *known != id) {
            let known = known.to_owned();
            return Err(OpenError::Other { known, found: id });
        }
        if revision < known_revision {
            return Err(OpenError::Older {
                known: known_revision,
                found: revision,
            });
        }
        Ok(Self {
            store,
            pulse,
            keys,
            cluster: id.into(),
            seen: Arc::new(AtomicI64::new(revision)),
            base: Arc::new(AtomicI64::new(base)),
            world: Arc::default(),
        })
    }

    /// The cluster's id.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The newest revision seen; a host keeps it on disk.
    #[must_use]
    pub fn seen(&self) -> i64 {
        self.seen.load(Ordering::Acquire)
    }

    /// The texts of keys, for who names a prefix to watch or the election's key.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The store below, for leases and elections.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Whether the store was slow to answer within the last `span`.
    #[must_use]
    pub fn stalled_within(&self, span: Duration) -> bool {
        self.pulse.stalled_within(span)
    }

    /// The one read: promise 5.
    async fn read(&self, mut selectors: Vec<Selector>) -> Result<Snapshot> {
        let seen = self.seen();
        selectors.push(Selector::Key(self.keys.text(&Key::Cluster)));
        let mut snapshot = self.store.range(&selectors).await?;
        let cluster = snapshot.lists.pop().unwrap_or_default();
        let Some(cluster) = cluster.first() else {
            return Err(Error::Frozen(format!(
                "it holds no cluster, not {}",
                self.cluster
            )));
        };
        let Cluster {
            id: found, base, ..
        } = decode(cluster).map_err(Error::Frozen)?;
        if *found != *self.cluster {
            return Err(Error::Frozen(format!(
                "it holds cluster {found}, not {}",
                self.cluster
            )));
        }
        let at = base.saturating_add(snapshot.revision);
        if at < seen {
            return Err(Error::Frozen(format!(
                "it is at revision {at}, after {seen} was seen"
            )));
        }
        if self.base.swap(base, Ordering::AcqRel) != base {
            // Rebuilt: a revision of before is not this one's.
            *self.world.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.seen.fetch_max(at, Ordering::AcqRel);
        Ok(snapshot)
    }

    /// Whether the store was put back from a copy.
    fn is_restored(&self) -> bool {
        self.base.load(Ordering::Acquire) != 0
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        let committed = self.store.commit(txn).await?;
        if let Committed::Done(revision) = committed {
            let base = self.base.load(Ordering::Acquire);
            let at = base.saturating_add(revision);
            self.seen.fetch_max(at, Ordering::AcqRel);
        }
        Ok(committed)
    }

    fn key(&self, key: &Key) -> Selector {
        Selector::Key(self.keys.text(key))
    }
}

/// The cluster on record, founded if there is none and none is known, and the store's revision as
/// hosts count it.
async fn identify(
    store: &SharedStore,
    key: &str,
    known: Option<&str>,
) -> std::result::Result<(Cluster, i64), OpenError> {
    // Twice: when another host founds it in between, the second read finds it.
    for _ in 0..2 {
        let snapshot = store.range(&[Selector::Key(key.to_owned())]).await?;
        if let Some(kv) = snapshot.lists.first().and_then(|list| list.first()) {
            let found: Cluster = decode(kv).map_err(OpenError::Unreadable)?;
            let revision = found.base.saturating_add(snapshot.revision);
            return Ok((found, revision));
        }
        if let Some(known) = known {
            let known = known.to_owned();
            return Err(OpenError::Gone { known });
        }
        let cluster = Cluster {
            v: 1,
            id: uuid::Uuid::new_v4().to_string(),
            base: 0,
        };
        let founded = Txn {
            compares: vec![Compare::CreateRevision(key.to_owned(), 0)],
            ops: vec![Op::put(key, encode(&cluster))],
        };
        if let Committed::Done(revision) = store.commit(founded).await? {
            return Ok((cluster, revision));
        }
    }
    Err(OpenError::Unreadable("it came and went".into()))
}

/// A record as it is stored.
fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("records are plain data with text keys")
}

/// A record, or why it cannot be read, in words.
fn decode<T: DeserializeOwned>(kv: &KeyValue) -> std::result::Result<T, String> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let json = |error: serde_json::Error| format!("not a record: {error}");
    let Version { v } = serde_json::from_slice(&kv.value).map_err(json)?;
    if v > RECORD_VERSION {
        return Err(format!(
            "a record of version {v}; this viking reads up to {RECORD_VERSION}"
        ));
    }
    serde_json::from_slice(&kv.value).map_err(json)
}

/// A value that is plain text.
fn decode_text(kv: &KeyValue) -> std::result::Result<&str, String> {
    std::str::from_utf8(&kv.value).map_err(|_| "not text".to_owned())
}

#[cfg(test)]
mod tests;
