//! A copy of everything a store holds that is under no lease: made on each host now and then, and by
//! `viking store copy`; put into an empty store by `viking store restore` and `viking store move`.
//! Decides nothing about what it copies, and never shows a value.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::keys::{Key, Keys};
use super::tables::Cluster;
use super::{Committed, Compare, Op, Selector, SharedStore, Txn, VALUE_BYTES_MAX};

/// Version of copies written here.
const VERSION: u32 = 1;

/// Keys written in one transaction: each compares itself, and etcd counts compares too.
const KEYS_AT_ONCE: usize = 50;

/// Bytes of values written in one transaction, well below etcd's limit of a request.
const BYTES_AT_ONCE: usize = 2 * VALUE_BYTES_MAX;

/// Largest copy that is read: a hundred times what 200 hosts with 5,000 jobs have.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Revisions that a restored store is ahead of the copy. Hosts may have seen more than the copy has,
/// and must take what was restored for newer than all of it.
const AHEAD: i64 = 1_000_000_000;

/// Everything under no lease, at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreCopy {
    /// Version of this form.
    pub v: u32,
    /// The cluster's id.
    pub cluster: String,
    /// Revision at which it was read, as hosts count it.
    pub revision: i64,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Values by key without the prefix. Those that are not text are in hex under `hex`.
    pub keys: BTreeMap<String, String>,
    /// Values that are not text, in hex.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hex: BTreeMap<String, String>,
}

impl StoreCopy {
    /// How many keys it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len() + self.hex.len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn values(&self) -> anyhow::Result<BTreeMap<&str, Vec<u8>>> {
        let text = self.keys.iter();
        let mut values: BTreeMap<&str, Vec<u8>> = text
            .map(|(key, value)| (key.as_str(), value.as_bytes().to_vec()))
            .collect();
        for (key, value) in &self.hex {
            let value =
                hex::decode(value).with_context(|| format!("reading the value of {key}"))?;
            values.insert(key, value);
        }
        Ok(values)
    }
}

/// Reads a store.
///
/// # Errors
/// When it has no answer, or holds no cluster.
pub async fn read(store: &SharedStore, prefix: &str, now_ms: u64) -> anyhow::Result<StoreCopy> {
    let keys = Keys::new(prefix);
    let snapshot = store.range(&[Selector::Prefix(keys.all())]).await?;
    let all = snapshot.lists.into_iter().flatten();
    let mut copy = StoreCopy {
        v: VERSION,
        cluster: String::new(),
        revision: snapshot.revision,
        at_ms: now_ms,
        keys: BTreeMap::new(),
        hex: BTreeMap::new(),
    };
    let root = keys.all();
    for kv in all.filter(|kv| kv.lease == 0) {
        let name = kv.key.strip_prefix(&root).unwrap_or(&kv.key).to_owned();
        match String::from_utf8(kv.value) {
            Ok(text) => drop(copy.keys.insert(name, text)),
            Err(error) => drop(copy.hex.insert(name, hex::encode(error.into_bytes()))),
        }
    }
    let cluster = cluster_of(&copy, &keys).context("the store holds no cluster")?;
    copy.revision = copy.revision.saturating_add(cluster.base);
    copy.cluster = cluster.id;
    Ok(copy)
}

/// The name of `/cluster` without the prefix.
fn cluster_key(keys: &Keys) -> String {
    let text = keys.text(&Key::Cluster);
    text.strip_prefix(&keys.all()).unwrap_or(&text).to_owned()
}

fn cluster_of(copy: &StoreCopy, keys: &Keys) -> anyhow::Result<Cluster> {
    let text = copy.keys.get(&cluster_key(keys));
    Ok(serde_json::from_str(text.context("no /cluster")?)?)
}

/// Puts a copy into a store that holds no cluster. `/cluster` comes last: until then no host takes
/// it for the cluster's, and one that was begun and not finished is begun again.
///
/// # Errors
/// When the store holds a cluster already, or has no answer.
pub async fn write(store: &SharedStore, prefix: &str, copy: &StoreCopy) -> anyhow::Result<()> {
    let keys = Keys::new(prefix);
    if copy.v > VERSION {
        bail!(
            "it is of version {}, and this viking reads {VERSION}",
            copy.v
        );
    }
    let mut cluster = cluster_of(copy, &keys).context("the copy holds no cluster")?;
    let key = keys.text(&Key::Cluster);
    let there = store.range(&[Selector::Key(key.clone())]).await?;
    if there.lists.iter().any(|list| !list.is_empty()) {
        bail!("the store holds a cluster already: a copy is only put into one that holds none");
    }
    let own = cluster_key(&keys);
    let root = keys.all();
    let values = copy.values()?;
    let mut ops = Vec::new();
    let mut bytes = 0;
    for (name, value) in values.into_iter().filter(|(name, _)| *name != own) {
        if ops.len() >= KEYS_AT_ONCE || bytes + value.len() > BYTES_AT_ONCE {
            put(store, std::mem::take(&mut ops)).await?;
            bytes = 0;
        }
        bytes += value.len();
        ops.push(Op::put(format!("{root}{name}"), value));
    }
    put(store, ops).await?;
    cluster.base = copy.revision.saturating_add(AHEAD);
    let last = Txn {
        compares: vec![Compare::CreateRevision(key.clone(), 0)],
        ops: vec![Op::put(key, serde_json::to_vec(&cluster)?)],
    };
    match store.commit(last).await? {
        Committed::Done(_) => Ok(()),
        Committed::Conflict => bail!("somebody else founded a cluster there meanwhile"),
    }
}

async fn put(store: &SharedStore, ops: Vec<Op>) -> anyhow::Result<()> {
    if ops.is_empty() {
        return Ok(());
    }
    let compares = Vec::new();
    store.commit(Txn { compares, ops }).await?;
    Ok(())
}

/// Writes a copy to a file that only its owner reads, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn save(copy: &StoreCopy, file: &Path) -> anyhow::Result<()> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    let name = file.file_name().context("a file has a name")?;
    let half = dir.join(format!(".{}.new", name.to_string_lossy()));
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut out = std::io::BufWriter::new(options.open(&half)?);
        serde_json::to_writer(&mut out, copy)?;
        out.write_all(b"\n")?;
        out.into_inner()
            .map_err(std::io::IntoInnerError::into_error)?
            .sync_all()?;
        std::fs::rename(&half, file)
    })();
    written.with_context(|| format!("writing {}", file.display()))
}

/// Reads a copy from a file.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn load(file: &Path) -> anyhow::Result<StoreCopy> {
    let read = || -> anyhow::Result<StoreCopy> {
        let size = std::fs::metadata(file)?.len();
        if size > FILE_BYTES_MAX {
            bail!("{size} bytes are more than a copy of a store has");
        }
        let open = std::fs::File::open(file)?;
        Ok(serde_json::from_reader(std::io::BufReader::new(open))?)
    };
    read().with_context(|| format!("reading {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::LocalStore;
    use crate::store::tables::{OpenError, Tables};

    async fn filled(prefix: &str) -> (SharedStore, Tables) {
        let store: SharedStore = LocalStore::in_memory();
        let tables = Tables::open(store.clone(), prefix, None, 0).await.unwrap();
        let lease = store
            .grant(std::time::Duration::from_secs(60))
            .await
            .unwrap();
        let key = |name: &str| format!("{}{name}", Keys::new(prefix).all());
        let leased = Op::Put {
            key: key("host/alpha"),
            value: b"{}".to_vec(),
            lease,
        };
        let mut ops = vec![leased, Op::put(key("odd"), vec![0xff, 0x00])];
        ops.extend((0..120).map(|n| Op::put(key(&format!("event/s/{n}")), "x".repeat(n))));
        let compares = Vec::new();
        store.commit(Txn { compares, ops }).await.unwrap();
        (store, tables)
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_goes_into_an_empty_store_and_hosts_take_that_for_newer_than_all_they_saw() {
        let (store, tables) = filled("").await;
        let copy = read(&store, "", 7).await.unwrap();
        assert_eq!((copy.cluster.as_str(), copy.len()), (tables.cluster(), 122));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("copy.json");
        save(&copy, &file).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(load(&file).unwrap(), copy);

        let other: SharedStore = LocalStore::in_memory();
        // Another prefix, too: the keys are the same below it.
        write(&other, "there", &copy).await.unwrap();
        let again = read(&other, "there", 7).await.unwrap();
        let without_cluster = |copy: &StoreCopy| {
            let mut keys = copy.keys.clone();
            keys.remove("cluster");
            (keys, copy.hex.clone(), copy.cluster.clone())
        };
        assert_eq!(without_cluster(&again), without_cluster(&copy));
        let seen = tables.seen() + 1_000;
        let known = Some(tables.cluster());
        let restored = Tables::open(other.clone(), "there", known, seen)
            .await
            .unwrap();
        assert!(restored.seen() > seen);
        restored.world(0).await.unwrap();
        // Whoever has seen the restored one does not believe the old one any more.
        let old = Tables::open(store, "", known, restored.seen()).await;
        assert!(matches!(old, Err(OpenError::Older { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_never_goes_over_a_cluster() {
        let (store, _) = filled("").await;
        let copy = read(&store, "", 0).await.unwrap();
        let refused = write(&store, "", &copy).await.unwrap_err();
        assert!(refused.to_string().contains("holds a cluster"), "{refused}");
    }
}
