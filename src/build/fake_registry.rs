//! The registry of fake engines, as builds see it. Used by tests of builds and by whole-cluster
//! tests; never by the product. It answers as fast as it is asked, so it works with a paused clock.

use async_trait::async_trait;

use super::registry::{Registry, RegistryError, Result};
use crate::docker;
use crate::docker::fake::FakeRegistry;

/// A [`FakeRegistry`] under an address.
#[derive(Debug, Clone)]
pub struct FakeManifests {
    address: String,
    registry: FakeRegistry,
}

impl FakeManifests {
    /// What engines reach under `address`.
    #[must_use]
    pub fn new(address: &str, registry: &FakeRegistry) -> Self {
        Self {
            address: address.to_owned(),
            registry: registry.clone(),
        }
    }

    fn failed(&self, error: &docker::Error) -> RegistryError {
        RegistryError {
            address: self.address.clone(),
            reason: error.to_string(),
        }
    }
}

#[async_trait]
impl Registry for FakeManifests {
    fn address(&self) -> &str {
        &self.address
    }

    async fn digest(&self, repository: &str, reference: &str) -> Result<Option<String>> {
        let mark = if reference.contains(':') { '@' } else { ':' };
        let name = format!("{}/{repository}{mark}{reference}", self.address);
        self.registry.digest(&name).map_err(|e| self.failed(&e))
    }

    async fn tag(&self, repository: &str, digest: &str, tag: &str) -> Result<bool> {
        let name = format!("{}/{repository}", self.address);
        let done = self.registry.retag(&name, digest, tag);
        done.map_err(|e| self.failed(&e))
    }

    async fn forget(&self, repository: &str, digest: &str) -> Result<()> {
        let name = format!("{}/{repository}", self.address);
        let done = self.registry.forget(&name, digest);
        done.map_err(|e| self.failed(&e))
    }
}
