//! The registry of fake engines, as a host sees it that unpacks sites. Used by tests of workers and by
//! whole-cluster tests; never by the product.

use std::io::Write as _;

use async_trait::async_trait;

use super::source::Source;
use crate::docker::fake::FakeRegistry;

/// A [`FakeRegistry`] that gives bytes.
#[derive(Debug, Clone)]
pub struct FakeSource(FakeRegistry);

impl FakeSource {
    /// What hosts get out of this registry.
    #[must_use]
    pub fn new(registry: &FakeRegistry) -> Self {
        Self(registry.clone())
    }

    fn bytes(&self, digest: &str) -> Result<Vec<u8>, String> {
        let found = self.0.bytes(digest).map_err(|error| error.to_string())?;
        found.ok_or_else(|| format!("the registry has no {digest}"))
    }
}

#[async_trait]
impl Source for FakeSource {
    async fn manifest(&self, _repository: &str, digest: &str) -> Result<Vec<u8>, String> {
        self.bytes(digest)
    }

    async fn blob(
        &self,
        _repository: &str,
        digest: &str,
        max: u64,
        into: &mut std::fs::File,
    ) -> Result<(), String> {
        let bytes = self.bytes(digest)?;
        if bytes.len() as u64 > max {
            return Err(format!("{digest} is larger than its manifest says"));
        }
        into.write_all(&bytes).map_err(|error| error.to_string())
    }
}
