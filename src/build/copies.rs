//! The registry's copies, one at a time: whether one holds a manifest with all its bytes, and getting
//! what it lacks from another. Called by the leader, which knows what must be where; how bytes travel
//! is `transfer`'s. Everything that goes wrong here is a fault from outside.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::registry::{RegistryError, Result};
use super::transfer::Place;
use crate::model::job::JobId;
use crate::model::registry::{CopyAddresses, Turn};
use crate::model::trash::Manifest;

/// One try to reach a copy: it is on this network.
const CONNECT: Duration = Duration::from_secs(5);

/// The registry's copies, by the job that runs each.
#[async_trait]
pub trait Copies: Send + Sync {
    /// Whether this host knows the way to a copy, which may answer or not.
    fn knows(&self, copy: &JobId) -> bool;

    /// Whether a copy holds a manifest and every byte it names.
    ///
    /// # Errors
    /// When it does not answer, or not as a registry would.
    async fn holds(&self, copy: &JobId, manifest: &Manifest) -> Result<bool>;

    /// Brings a manifest with all it names from one copy to another, under its digest and these
    /// tags, and looks that it is there. What is there already is not sent again.
    ///
    /// # Errors
    /// When one of them does not answer, lacks something, or refuses it.
    async fn bring(
        &self,
        manifest: &Manifest,
        tags: &BTreeSet<String>,
        from: &JobId,
        to: &JobId,
    ) -> Result<()>;

    /// Makes a copy forget a manifest and every tag of it. One that is not there is fine, and so is a
    /// registry that was told not to delete.
    ///
    /// # Errors
    /// As [`Self::holds`].
    async fn forget(&self, copy: &JobId, manifest: &Manifest) -> Result<()>;

    /// Something did not work with the copy that this host's Docker is led to: the next connection
    /// goes to another, if there is one.
    fn turn(&self);
}

/// Copies over HTTP.
#[derive(Debug, Clone)]
pub struct HttpCopies {
    client: reqwest::Client,
    addresses: watch::Receiver<CopyAddresses>,
    turn: Turn,
}

impl HttpCopies {
    /// Copies at these addresses; `turn` is heard by this host's forwarder.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(addresses: watch::Receiver<CopyAddresses>, turn: Turn) -> Result<Self> {
        // No limit for a whole answer: a layer takes as long as it takes, and `transfer` limits that.
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .no_proxy()
            .build()
            .map_err(|error| RegistryError {
                address: "any copy".to_owned(),
                reason: format!("cannot be asked: {error}"),
            })?;
        Ok(Self {
            client,
            addresses,
            turn,
        })
    }

    fn at(&self, copy: &JobId) -> Result<Place> {
        match self.addresses.borrow().get(copy) {
            Some(address) => Ok(Place::new(&self.client, &copy.0, *address)),
            None => Err(RegistryError {
                address: copy.0.clone(),
                reason: "is not known to this host".to_owned(),
            }),
        }
    }
}

#[async_trait]
impl Copies for HttpCopies {
    fn knows(&self, copy: &JobId) -> bool {
        self.addresses.borrow().contains_key(copy)
    }

    async fn holds(&self, copy: &JobId, manifest: &Manifest) -> Result<bool> {
        let place = self.at(copy)?;
        place.holds(&manifest.repository, &manifest.digest).await
    }

    async fn bring(
        &self,
        manifest: &Manifest,
        tags: &BTreeSet<String>,
        from: &JobId,
        to: &JobId,
    ) -> Result<()> {
        let (from, to) = (self.at(from)?, self.at(to)?);
        let Manifest { repository, digest } = manifest;
        from.send(&to, repository, digest, tags).await
    }

    async fn forget(&self, copy: &JobId, manifest: &Manifest) -> Result<()> {
        let place = self.at(copy)?;
        place.forget(&manifest.repository, &manifest.digest).await
    }

    fn turn(&self) {
        self.turn.ask();
    }
}
