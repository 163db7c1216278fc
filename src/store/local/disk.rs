//! The embedded store's file: keys, history, leases and counters in redb tables. Used only by the
//! writer of `local`; decides nothing, and a batch of changes is one fsync.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::state::{Change, Lease, Past, State};
use crate::store::{Error, KeyValue, Result};

const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
/// (revision, number within it) → change.
const HISTORY: TableDefinition<'_, (i64, u32), &[u8]> = TableDefinition::new("history");
/// Lease → milliseconds to live.
const LEASES: TableDefinition<'_, i64, u64> = TableDefinition::new("leases");
const META: TableDefinition<'_, &str, i64> = TableDefinition::new("meta");

/// A new store begins at some revision below this. Instances are revisions and name containers: two
/// stores beside each other on one Docker, or a new one after a lost one, must not give the same.
const FIRST_REVISION_BELOW: i64 = 1_000_000;

const FORMAT: i64 = 1;

/// Pages redb keeps in memory; reads are answered from our own map, so little is enough.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

pub(super) struct Disk {
    path: PathBuf,
    db: Database,
}

impl Disk {
    /// Opens or makes the file, and takes its lock.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |what: String| Error::Failed(format!("{}: {what}", path.display()));
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            std::fs::create_dir_all(parent).map_err(|error| failed(error.to_string()))?;
        }
        let made = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let db = made.map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                failed("in use by another viking process; stop that one first".into())
            }
            other => failed(other.to_string()),
        })?;
        sync_parent(path).map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            db,
        })
    }

    fn failed(&self, error: &redb::Error) -> Error {
        Error::Failed(format!("{}: {error}", self.path.display()))
    }

    /// Everything on disk.
    pub(super) fn load(&self) -> Result<State> {
        self.make_tables()
            .and_then(|()| self.read_all())
            .map_err(|error| self.failed(&error))?
            .ok_or_else(|| {
                let path = self.path.display();
                Error::Failed(format!(
                    "{path}: not a store this version of viking can read"
                ))
            })
    }

    fn make_tables(&self) -> std::result::Result<(), redb::Error> {
        let txn = self.db.begin_write()?;
        {
            txn.open_table(KEYS)?;
            txn.open_table(HISTORY)?;
            txn.open_table(LEASES)?;
            let mut meta = txn.open_table(META)?;
            if meta.get("format")?.is_none() {
                meta.insert("format", FORMAT)?;
                meta.insert("revision", fastrand::i64(1..FIRST_REVISION_BELOW))?;
            }
        }
        Ok(txn.commit()?)
    }

    fn read_all(&self) -> std::result::Result<Option<State>, redb::Error> {
        let txn = self.db.begin_read()?;
        let meta = txn.open_table(META)?;
        let number = |name: &str| Ok::<_, redb::Error>(meta.get(name)?.map(|n| n.value()));
        if number("format")? != Some(FORMAT) {
            return Ok(None);
        }
        let mut state = State::default();
        state.revision = number("revision")?.unwrap_or(state.revision);
        state.compacted = number("compacted")?.unwrap_or(0);
        state.last_lease = number("last_lease")?.unwrap_or(0);
        for row in txn.open_table(LEASES)?.iter()? {
            let (id, ttl) = row?;
            let ttl = Duration::from_millis(ttl.value());
            let keys = std::collections::BTreeSet::new();
            state.leases.insert(id.value(), Lease { ttl, keys });
        }
        for row in txn.open_table(KEYS)?.iter()? {
            let (key, bytes) = row?;
            let Some(kv) = decode(key.value(), bytes.value()) else {
                return Ok(None);
            };
            if let Some(lease) = state.leases.get_mut(&kv.lease) {
                lease.keys.insert(kv.key.clone());
            }
            state.keys.insert(kv.key.clone(), Arc::new(kv));
        }
        let history = txn.open_table(HISTORY)?;
        Ok(read_history(&history, &mut state)?.map(|()| state))
    }

    /// Writes changes and waits until they are on the disk.
    pub(super) fn write(&self, changes: &[Change], last_lease: i64) -> Result<()> {
        self.write_all(changes, last_lease)
            .map_err(|error| self.failed(&error))
    }

    fn write_all(
        &self,
        changes: &[Change],
        last_lease: i64,
    ) -> std::result::Result<(), redb::Error> {
        let txn = self.db.begin_write()?;
        for change in changes {
            write_one(&txn, change)?;
        }
        txn.open_table(META)?.insert("last_lease", last_lease)?;
        Ok(txn.commit()?)
    }
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn read_history(
    table: &impl ReadableTable<(i64, u32), &'static [u8]>,
    state: &mut State,
) -> std::result::Result<Option<()>, redb::Error> {
    let mut open: Option<(i64, Vec<Past>)> = None;
    for row in table.iter()? {
        let (at, bytes) = row?;
        let Some(past) = decode_past(bytes.value()) else {
            return Ok(None);
        };
        let revision = at.value().0;
        match &mut open {
            Some((same, list)) if *same == revision => list.push(past),
            _ => {
                if let Some((before, list)) = open.replace((revision, vec![past])) {
                    state.remember(before, Arc::new(list));
                }
            }
        }
    }
    if let Some((before, list)) = open {
        state.remember(before, Arc::new(list));
    }
    Ok(Some(()))
}

fn write_one(txn: &WriteTransaction, change: &Change) -> std::result::Result<(), redb::Error> {
    match change {
        Change::Keys(revision, past) => write_keys(txn, *revision, past)?,
        Change::Grant(id, ttl) => {
            let ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            txn.open_table(LEASES)?.insert(id, ms)?;
        }
        Change::EndLease(id) => {
            txn.open_table(LEASES)?.remove(id)?;
        }
        Change::Compact(revision) => {
            let mut history = txn.open_table(HISTORY)?;
            history.retain_in(..(revision + 1, 0), |_, _| false)?;
            txn.open_table(META)?.insert("compacted", revision)?;
        }
    }
    Ok(())
}

fn write_keys(
    txn: &WriteTransaction,
    revision: i64,
    past: &[Past],
) -> std::result::Result<(), redb::Error> {
    let mut keys = txn.open_table(KEYS)?;
    let mut history = txn.open_table(HISTORY)?;
    for (n, one) in (0_u32..).zip(past) {
        match &one.value {
            Some(kv) => drop(keys.insert(one.key.as_str(), encode(kv).as_slice())?),
            None => drop(keys.remove(one.key.as_str())?),
        }
        history.insert((revision, n), encode_past(one).as_slice())?;
    }
    txn.open_table(META)?.insert("revision", revision)?;
    Ok(())
}

/// Three numbers, then the value.
fn encode(kv: &KeyValue) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24 + kv.value.len());
    for number in [kv.create_revision, kv.mod_revision, kv.lease] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.extend_from_slice(&kv.value);
    bytes
}

fn decode(key: &str, bytes: &[u8]) -> Option<KeyValue> {
    let (create, rest) = bytes.split_first_chunk::<8>()?;
    let (modified, rest) = rest.split_first_chunk::<8>()?;
    let (lease, value) = rest.split_first_chunk::<8>()?;
    Some(KeyValue {
        key: key.to_owned(),
        value: value.to_vec(),
        create_revision: i64::from_be_bytes(*create),
        mod_revision: i64::from_be_bytes(*modified),
        lease: i64::from_be_bytes(*lease),
    })
}

/// The key's length, the key, then its value as in `keys`, or nothing when it was deleted.
fn encode_past(past: &Past) -> Vec<u8> {
    let length = u32::try_from(past.key.len()).expect("keys are short");
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(past.key.as_bytes());
    if let Some(kv) = &past.value {
        bytes.extend_from_slice(&encode(kv));
    }
    bytes
}

fn decode_past(bytes: &[u8]) -> Option<Past> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (key, value) = rest.split_at_checked(length)?;
    let key = std::str::from_utf8(key).ok()?;
    let value = if value.is_empty() {
        None
    } else {
        Some(Arc::new(decode(key, value)?))
    };
    Some(Past {
        key: key.to_owned(),
        value,
    })
}
