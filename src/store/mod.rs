//! The cluster's memory: keys with revisions, compare-and-swap transactions, watches and leases.
//! The only place that knows keys. Everything else calls the typed reads and writes of `tables`.

mod check;
pub mod copy;
pub mod election;
pub mod etcd;
pub mod keys;
pub mod local;
pub mod pulse;
pub mod tables;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

/// Most operations of one transaction (etcd's default limit); compares count separately.
pub const TXN_OPS_MAX: usize = 128;

/// Largest value, in bytes (etcd refuses requests above 1.5 MiB; a record of ours is far below).
pub const VALUE_BYTES_MAX: usize = 512 * 1024;

/// Names a lease.
pub type LeaseId = i64;

/// A key with its value and history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// Revision at which the key came to be; a key deleted and made again has a new one.
    pub create_revision: i64,
    /// Revision of the last change.
    pub mod_revision: i64,
    /// The lease it dies with; 0 for none.
    pub lease: LeaseId,
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// One key.
    Key(String),
    /// All keys that start so.
    Prefix(String),
    /// All keys that start so, without their values: each is told as empty.
    Names(String),
}

/// Several reads of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The store's revision then.
    pub revision: i64,
    /// One list per selector, in key order.
    pub lists: Vec<Vec<KeyValue>>,
}

/// What must be so for a transaction to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key's create revision; 0 means that it does not exist.
    CreateRevision(String, i64),
    /// The key's mod revision; 0 means that it does not exist.
    ModRevision(String, i64),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a key; `lease` 0 for none.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease it dies with; 0 for none.
        lease: LeaseId,
    },
    /// Deletes a key, if it is there.
    Delete {
        /// The key.
        key: String,
    },
    /// Deletes all keys that start so.
    DeletePrefix {
        /// The start.
        prefix: String,
    },
}

impl Op {
    /// Writes a key without a lease.
    #[must_use]
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            lease: 0,
        }
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into() }
    }
}

/// A compare-and-swap transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All of these must be so.
    pub compares: Vec<Compare>,
    /// Then all of these happen, at one revision.
    pub ops: Vec<Op>,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// Carried out at this revision.
    Done(i64),
    /// A compare failed; nothing happened.
    Conflict,
}

/// One change, as a watch tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: String,
    /// The new state; `None` when deleted or its lease ended.
    pub value: Option<KeyValue>,
    /// Revision of the change.
    pub revision: i64,
}

/// What a watch sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// Changes of one or more revisions, in order.
    Events(Vec<Event>),
    /// The revision asked for is gone; list again, then watch from there. The stream ends.
    Compacted(i64),
}

/// Why the store did not answer. A conflict is not an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Cannot be reached, or did not answer in time. What was asked may have happened.
    #[error("store unreachable: {0}")]
    Unreachable(String),
    /// The lease has ended.
    #[error("lease {0} has ended")]
    LeaseGone(LeaseId),
    /// Asked for something that is never right.
    #[error("store refused: {0}")]
    Refused(String),
    /// Its disk failed.
    #[error("store failed: {0}")]
    Failed(String),
}

/// A store's result.
pub type Result<T> = std::result::Result<T, Error>;

/// The five verbs: range, commit, watch, lease (three calls), campaign (built on them in
/// `election`). One contract suite runs over every kind.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads several selections at one revision.
    ///
    /// # Errors
    /// See [`Error`].
    async fn range(&self, selectors: &[Selector]) -> Result<Snapshot>;

    /// Carries out a transaction whole or not at all. More than [`TXN_OPS_MAX`] ops or compares, a
    /// key written twice, or a value above [`VALUE_BYTES_MAX`] is refused.
    ///
    /// # Errors
    /// See [`Error`]; a put under an ended lease is [`Error::LeaseGone`].
    async fn commit(&self, txn: Txn) -> Result<Committed>;

    /// Sends every change below `prefix` from revision `from` on (0: from now). Ends when the store
    /// goes away or after `Compacted`; dropping the receiver ends the watch.
    ///
    /// # Errors
    /// See [`Error`].
    async fn watch(&self, prefix: &str, from: i64) -> Result<mpsc::Receiver<Watched>>;

    /// A new lease.
    ///
    /// # Errors
    /// See [`Error`].
    async fn grant(&self, ttl: Duration) -> Result<LeaseId>;

    /// Full time to live again.
    ///
    /// # Errors
    /// [`Error::LeaseGone`] when it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<()>;

    /// Ends a lease now; its keys are deleted. Ending an ended one is fine.
    ///
    /// # Errors
    /// See [`Error`].
    async fn revoke(&self, lease: LeaseId) -> Result<()>;
}

/// A store that is shared by the loops of a process.
pub type SharedStore = Arc<dyn Store>;
