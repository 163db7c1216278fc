//! The registry of fake engines, as builds see it, and its copies, as the leader sees them. Used by
//! tests of builds and by whole-cluster tests; never by the product. They answer as fast as they are
//! asked, so they work with a paused clock.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::copies::Copies;
use super::registry::{OneLayer, Registry, RegistryError, Result};
use crate::docker;
use crate::docker::fake::FakeRegistry;
use crate::model::job::JobId;
use crate::model::trash::Manifest;

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

    async fn put(&self, repository: &str, tag: &str, mut image: OneLayer) -> Result<String> {
        let mut layer = Vec::new();
        let read = image.layer.read_to_end(&mut layer);
        read.map_err(|e| self.failed(&docker::Error::Other(e.to_string())))?;
        let name = format!("{}/{repository}", self.address);
        let blobs = vec![image.config, layer];
        let done = self.registry.put_bytes(&name, tag, &image.manifest, blobs);
        done.map_err(|e| self.failed(&e))
    }
}

/// Copies behind a [`FakeManifests`]: engines push to and pull from all at once, and what the leader
/// finds in each is what came to it: by a push to the copy in front, or from another copy. Clones are
/// the same.
#[derive(Debug, Clone)]
pub struct FakeCopies {
    manifests: FakeManifests,
    inner: Arc<Mutex<Shelves>>,
}

#[derive(Debug, Default)]
struct Shelves {
    /// Where pushes go: the copy that was asked first, unless somebody says otherwise.
    front: Option<JobId>,
    /// What was found in the copy in front, and what was brought to others.
    held: BTreeSet<(JobId, Manifest)>,
    /// Copies that take nothing.
    full: BTreeSet<JobId>,
    forgotten: BTreeSet<(JobId, Manifest)>,
}

impl FakeCopies {
    /// Copies of a registry.
    #[must_use]
    pub fn new(manifests: &FakeManifests) -> Self {
        Self {
            manifests: manifests.clone(),
            inner: Arc::default(),
        }
    }

    /// What each copy is known to hold.
    #[must_use]
    pub fn held(&self) -> BTreeSet<(JobId, Manifest)> {
        self.shelves().held.clone()
    }

    /// What each copy was told to forget.
    #[must_use]
    pub fn forgotten(&self) -> BTreeSet<(JobId, Manifest)> {
        self.shelves().forgotten.clone()
    }

    /// From now on pushes go to this copy.
    pub fn front(&self, copy: &JobId) {
        self.shelves().front = Some(copy.clone());
    }

    /// While full, a copy takes nothing from others.
    pub fn full(&self, copy: &JobId, full: bool) {
        let mut shelves = self.shelves();
        match full {
            true => shelves.full.insert(copy.clone()),
            false => shelves.full.remove(copy),
        };
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Copies for FakeCopies {
    fn knows(&self, _copy: &JobId) -> bool {
        true
    }

    async fn holds(&self, copy: &JobId, manifest: &Manifest) -> Result<bool> {
        let Manifest { repository, digest } = manifest;
        let found = self.manifests.digest(repository, digest).await?.is_some();
        let mut shelves = self.shelves();
        let front = shelves.front.get_or_insert_with(|| copy.clone()) == copy;
        let key = (copy.clone(), manifest.clone());
        if front && found {
            shelves.held.insert(key.clone());
        }
        Ok(found && shelves.held.contains(&key))
    }

    async fn bring(
        &self,
        manifest: &Manifest,
        _tags: &BTreeSet<String>,
        from: &JobId,
        to: &JobId,
    ) -> Result<()> {
        let refuses = |copy: &JobId, reason: &str| RegistryError {
            address: copy.0.clone(),
            reason: reason.to_owned(),
        };
        if !self.holds(from, manifest).await? {
            return Err(refuses(from, "lacks it"));
        }
        let mut shelves = self.shelves();
        if shelves.full.contains(to) {
            return Err(refuses(to, "is full"));
        }
        shelves.held.insert((to.clone(), manifest.clone()));
        Ok(())
    }

    async fn forget(&self, copy: &JobId, manifest: &Manifest) -> Result<()> {
        let Manifest { repository, digest } = manifest;
        let name = format!("{}/{repository}", self.manifests.address);
        let done = self.manifests.registry.forget(&name, digest);
        done.map_err(|error| self.manifests.failed(&error))?;
        let mut shelves = self.shelves();
        let key = (copy.clone(), manifest.clone());
        shelves.held.remove(&key);
        shelves.forgotten.insert(key);
        Ok(())
    }

    fn turn(&self) {}
}
