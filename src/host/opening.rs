//! Opens the store that the operator chose: etcd where there are addresses, else the one in the data
//! directory. Called once by `host`; looks at nothing in it.

use anyhow::Context as _;

use super::keep;
use crate::config::Config;
use crate::store::SharedStore;
use crate::store::etcd::{EtcdStore, Options};
use crate::store::local::LocalStore;

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
