//! What an operator does to a store while no host, or not this one, uses it: copy, restore, move;
//! and the copy that every host keeps for that day. Called by `host` and by `viking store`; touches
//! no container.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;

use super::opening;
use crate::clock::now_ms;
use crate::config::Config;
use crate::store::copy::{self, StoreCopy};
use crate::store::keys::Keys;
use crate::store::tables::Tables;
use crate::store::{Op, Selector, SharedStore, Txn};

/// File of the copy that a host keeps.
const COPY: &str = "copy.json";

/// Between two copies, when something has changed: what a host keeps on disk for the day when the
/// store is lost may be this old. A copy of 5,000 jobs is some megabytes.
const COPY_EVERY: Duration = Duration::from_secs(300);

/// Until the first copy after a start.
const COPY_FIRST: Duration = Duration::from_secs(30);

/// Key of a store that was moved elsewhere.
const SEALED: &str = "sealed";

/// Where a host keeps its copy.
#[must_use]
pub fn kept_copy(data_dir: &Path) -> PathBuf {
    data_dir.join(COPY)
}

/// Keeps a copy on disk until shutdown; of the time between two, a fifth is chance, so that hosts do
/// not all ask at once.
pub(super) async fn keep_copies(
    tables: Tables,
    prefix: String,
    data_dir: PathBuf,
    shutdown: CancellationToken,
) {
    let mut kept = None;
    let mut wait = COPY_FIRST;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = COPY_EVERY.mul_f64(1.0 + 0.2 * fastrand::f64());
        let seen = tables.seen();
        if kept == Some(seen) {
            continue;
        }
        match keep(&tables, &prefix, kept_copy(&data_dir)).await {
            Ok(()) => kept = Some(seen),
            Err(error) => tracing::warn!("no copy of the store is kept: {error:#}"),
        }
    }
}

async fn keep(tables: &Tables, prefix: &str, file: PathBuf) -> anyhow::Result<()> {
    let copy = copy::read(tables.store(), prefix, now_ms()).await?;
    if copy.cluster != tables.cluster() || copy.revision < tables.seen() {
        // Whatever this is, the copy there is is better.
        bail!("the store is not the one this host knows");
    }
    tokio::task::spawn_blocking(move || copy::save(&copy, &file)).await?
}

/// Reads the store and writes it to a file; answers what was copied.
///
/// # Errors
/// When the store cannot be opened or read, or the file not written.
pub async fn copy_store(config: &Config, file: &Path) -> anyhow::Result<StoreCopy> {
    let (store, place) = opening::store(config).await?;
    let copy = copy::read(&store, &config.prefix, now_ms()).await;
    let copy = copy.with_context(|| format!("reading the store {place}"))?;
    copy::save(&copy, file)?;
    Ok(copy)
}

/// Puts a copy into an empty store; answers what was restored, and where.
///
/// # Errors
/// When the copy cannot be read, or the store cannot be opened, is not empty, or has no answer.
pub async fn restore(config: &Config, file: &Path) -> anyhow::Result<(StoreCopy, String)> {
    let copy = copy::load(file)?;
    let (store, place) = opening::store(config).await?;
    let written = copy::write(&store, &config.prefix, &copy).await;
    written.with_context(|| format!("restoring into the store {place}"))?;
    Ok((copy, place))
}

/// Moves this machine's own store into etcd, and seals it; answers what was moved, and where.
///
/// # Errors
/// When one of the two cannot be opened, etcd is not empty, or one has no answer. The old store is
/// sealed only when everything is in the new one.
pub async fn move_to_etcd(config: &Config) -> anyhow::Result<(StoreCopy, String)> {
    let own = Config {
        etcd: None,
        ..config.clone()
    };
    let (from, old) = opening::store(&own).await?;
    let copy = copy::read(&from, &config.prefix, now_ms()).await;
    let copy = copy.with_context(|| format!("reading the store {old}"))?;
    let (to, place) = opening::store(config).await?;
    let written = copy::write(&to, &config.prefix, &copy).await;
    written.with_context(|| format!("writing the store {place}"))?;
    let sealed = Op::put(seal(&config.prefix), place.clone());
    let seal = Txn {
        ops: vec![sealed],
        ..Txn::default()
    };
    let sealed = from.commit(seal).await;
    sealed.with_context(|| format!("sealing the store {old}, all of which is {place} now"))?;
    Ok((copy, place))
}

fn seal(prefix: &str) -> String {
    format!("{}{SEALED}", Keys::new(prefix).all())
}

/// A store that was moved is used no longer.
///
/// # Errors
/// When it is sealed, or has no answer.
pub(super) async fn not_sealed(store: &SharedStore, prefix: &str) -> anyhow::Result<()> {
    let snapshot = store.range(&[Selector::Key(seal(prefix))]).await?;
    match snapshot.lists.first().and_then(|list| list.first()) {
        None => Ok(()),
        Some(kv) => bail!(
            "this store was moved to the one {}: start with --etcd and that address",
            String::from_utf8_lossy(&kv.value)
        ),
    }
}
