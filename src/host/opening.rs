//! Opens the store that the operator chose, etcd where there are addresses, else the one in the data
//! directory, and its typed side. An etcd that merely does not answer is waited for. Called once by
//! `host`; decides nothing about what is in it.

use std::path::Path;

use anyhow::Context as _;

use super::identity::Identity;
use super::keep;
use crate::config::Config;
use crate::store::etcd::{EtcdStore, Options};
use crate::store::local::LocalStore;
use crate::store::tables::{OpenError, Tables};
use crate::store::{Error, SharedStore};
use crate::wake::backoff;

/// The store's typed side. Machines that start together start before etcd has a quorum: ending then
/// would only leave it to somebody else to start this process again.
pub(super) async fn tables(config: &Config, identity: &Identity) -> anyhow::Result<Tables> {
    let mut failures = 0;
    loop {
        match attempt(config, identity).await {
            Err(error) if config.etcd.is_some() && is_away(&error) => {
                failures += 1;
                tracing::warn!(failures, "waiting for the store: {error:#}");
                tokio::time::sleep(backoff(failures, fastrand::f64())).await;
            }
            done => return done,
        }
    }
}

/// Whether time alone may help.
fn is_away(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| matches!(cause.downcast_ref(), Some(Error::Unreachable(_))))
}

async fn attempt(config: &Config, identity: &Identity) -> anyhow::Result<Tables> {
    let (store, place) = store(config).await?;
    let (known, seen) = (identity.cluster()?, identity.seen()?);
    Tables::open(store, &config.prefix, known.as_deref(), seen)
        .await
        .map_err(|error| not_opened(error, &place, &config.data_dir))
}

/// Promise 5 at the start: another, an emptied or an older store is an operator's business.
fn not_opened(error: OpenError, place: &str, dir: &Path) -> anyhow::Error {
    let dir = dir.display();
    match &error {
        OpenError::Other { .. } | OpenError::Gone { .. } | OpenError::Older { .. } => {
            anyhow::Error::new(error).context(format!(
                "the store {place} is not as this host left it, so nothing was changed; put the \
                 right one back, or, if this one is meant, remove {dir}/cluster and {dir}/seen: \
                 containers it does not name are then removed, volumes stay"
            ))
        }
        OpenError::Store(_) | OpenError::Unreadable(_) => {
            anyhow::Error::new(error).context(format!("opening the store {place}"))
        }
    }
}

/// The store, and where it is, in words that follow "the store".
pub(super) async fn store(config: &Config) -> anyhow::Result<(SharedStore, String)> {
    let Some(etcd) = &config.etcd else {
        let place = format!("in {}", config.data_dir.display());
        let store = LocalStore::open(&config.data_dir.join("store.redb"))
            .with_context(|| format!("opening the store {place}"))?;
        let store: SharedStore = store;
        keep::not_sealed(&store, &config.prefix)
            .await
            .with_context(|| format!("opening the store {place}"))?;
        return Ok((store, place));
    };
    let place = format!("at {}", etcd.endpoints.join(", "));
    let options = Options {
        endpoints: etcd.endpoints.clone(),
        ca: etcd.ca.clone(),
        identity: etcd.identity.clone(),
        user: etcd.user.clone(),
    };
    let store = EtcdStore::connect(&options)
        .await
        .with_context(|| format!("opening the store {place}"))?;
    Ok((store, place))
}
