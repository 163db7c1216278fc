//! Images of the fake engine, and the registry several fake engines share. Digests follow from
//! content, so equal builds are equal images.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::Behaviour;
use crate::docker::{Error, Image, Result};

/// Size of every fake image.
const SIZE: u64 = 1_000_000;

/// A registry in memory; clones share it.
#[derive(Debug, Clone, Default)]
pub struct FakeRegistry {
    inner: Arc<Mutex<Shelves>>,
}

#[derive(Debug, Default)]
struct Shelves {
    down: bool,
    /// By repository and digest.
    manifests: BTreeMap<(String, String), Stored>,
    /// By repository and tag.
    tags: BTreeMap<(String, String), String>,
    /// Bytes of manifests and blobs that came over HTTP, not from an engine, by digest.
    bytes: BTreeMap<String, Vec<u8>>,
}

/// What an image is, wherever it is.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) id: String,
    /// Of a manifest whose bytes are there; else it follows from the id.
    pub(super) digest: Option<String>,
    pub(super) has_healthcheck: bool,
    pub(super) on_build: Vec<String>,
    pub(super) behaviour: Option<Behaviour>,
}

impl FakeRegistry {
    /// Puts an image there that no engine built; answers its digest. Another `content` under the
    /// same reference is a moved tag.
    pub fn publish(&self, reference: &str, content: &str) -> String {
        let stored = Stored {
            id: hash(&["published", content]),
            digest: None,
            has_healthcheck: false,
            on_build: Vec::new(),
            behaviour: None,
        };
        let (repository, tag) = split(reference);
        self.put(&repository, &tag, stored)
    }

    /// While down nothing can be pulled, pushed or asked.
    pub fn down(&self, down: bool) {
        self.shelves().down = down;
    }

    /// Forgets a repository, as a registry that lost its disk.
    pub fn lose(&self, repository: &str) {
        let mut shelves = self.shelves();
        shelves.manifests.retain(|(name, _), _| name != repository);
        shelves.tags.retain(|(name, _), _| name != repository);
    }

    /// All tags: `repository:tag` to digest.
    #[must_use]
    pub fn tags(&self) -> BTreeMap<String, String> {
        let shelves = self.shelves();
        let named = |((name, tag), digest): (&(String, String), &String)| {
            (format!("{name}:{tag}"), digest.clone())
        };
        shelves.tags.iter().map(named).collect()
    }

    /// The digest of a reference, as its registry would answer over HTTP.
    ///
    /// # Errors
    /// While down.
    pub fn digest(&self, reference: &str) -> Result<Option<String>> {
        Ok(self.get(reference)?.map(|(digest, _)| digest))
    }

    /// Gives a manifest another tag; `false` when it is not there.
    ///
    /// # Errors
    /// While down.
    pub fn retag(&self, repository: &str, digest: &str, tag: &str) -> Result<bool> {
        let Some((_, stored)) = self.get(&format!("{repository}@{digest}"))? else {
            return Ok(false);
        };
        Ok(self.put(repository, tag, stored) == digest)
    }

    /// Puts a manifest there with what it names, as over HTTP; answers its digest.
    ///
    /// # Errors
    /// While down.
    pub fn put_bytes(
        &self,
        name: &str,
        tag: &str,
        manifest: &[u8],
        blobs: Vec<Vec<u8>>,
    ) -> Result<String> {
        self.answers()?;
        let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
        let stored = Stored {
            id: digest(manifest),
            digest: Some(digest(manifest)),
            has_healthcheck: false,
            on_build: Vec::new(),
            behaviour: None,
        };
        let all = blobs.into_iter().chain([manifest.to_vec()]);
        let all = all.map(|bytes| (digest(&bytes), bytes));
        self.shelves().bytes.extend(all);
        Ok(self.put(name, tag, stored))
    }

    /// The bytes of a manifest or blob that came so, as over HTTP.
    ///
    /// # Errors
    /// While down.
    pub fn bytes(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        self.answers()?;
        Ok(self.shelves().bytes.get(digest).cloned())
    }

    /// Other bytes under the same digest, as after a disk that lies.
    pub fn spoil(&self, digest: &str, bytes: &[u8]) {
        self.shelves()
            .bytes
            .insert(digest.to_owned(), bytes.to_vec());
    }

    /// Forgets a manifest and its tags.
    ///
    /// # Errors
    /// While down.
    pub fn forget(&self, repository: &str, digest: &str) -> Result<()> {
        self.answers()?;
        let mut shelves = self.shelves();
        let key = (repository.to_owned(), digest.to_owned());
        shelves.manifests.remove(&key);
        let stays = |(name, _): &(String, String), of: &String| name != repository || of != digest;
        shelves.tags.retain(|key, of| stays(key, of));
        Ok(())
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, repository: &str, tag: &str, stored: Stored) -> String {
        let made = || hash(&["manifest", &stored.id]);
        let digest = stored.digest.clone().unwrap_or_else(made);
        let mut shelves = self.shelves();
        let key = (repository.to_owned(), digest.clone());
        shelves.manifests.insert(key, stored);
        let key = (repository.to_owned(), tag.to_owned());
        shelves.tags.insert(key, digest.clone());
        digest
    }

    pub(super) fn push(&self, repository: &str, tag: &str, stored: Stored) -> Result<String> {
        self.answers()?;
        Ok(self.put(repository, tag, stored))
    }

    /// Digest and image of a reference.
    pub(super) fn get(&self, reference: &str) -> Result<Option<(String, Stored)>> {
        self.answers()?;
        let shelves = self.shelves();
        let (repository, tag) = split(reference);
        let digest = match reference.split_once('@') {
            Some((_, digest)) => Some(digest.to_owned()),
            None => shelves.tags.get(&(repository.clone(), tag)).cloned(),
        };
        Ok(digest.and_then(|digest| {
            let stored = shelves.manifests.get(&(repository, digest.clone()))?;
            Some((digest, stored.clone()))
        }))
    }

    fn answers(&self) -> Result<()> {
        if self.shelves().down {
            return Err(Error::Other("registry: connection refused".into()));
        }
        Ok(())
    }
}

/// The images of one host.
#[derive(Debug, Default)]
pub(super) struct Images {
    by_id: BTreeMap<String, Local>,
}

#[derive(Debug)]
struct Local {
    stored: Stored,
    /// `repository:tag`.
    names: BTreeSet<String>,
    /// `repository@digest`.
    digests: BTreeSet<String>,
}

impl Images {
    /// Makes an image of a name; the same name is the same image.
    pub(super) fn add(&mut self, reference: &str, has_healthcheck: bool) -> String {
        let (repository, tag) = split(reference);
        let name = format!("{repository}:{tag}");
        let id = hash(&["image", &name]);
        let stored = Stored {
            id: id.clone(),
            digest: None,
            has_healthcheck,
            on_build: Vec::new(),
            behaviour: None,
        };
        self.insert(stored, Some(name), None);
        id
    }

    /// Adds an image under a name and a digest; a name moves.
    pub(super) fn insert(&mut self, stored: Stored, name: Option<String>, digest: Option<String>) {
        if let Some(name) = &name {
            self.by_id.values_mut().for_each(|local| {
                local.names.remove(name);
            });
        }
        let local = self.by_id.entry(stored.id.clone()).or_insert(Local {
            stored,
            names: BTreeSet::new(),
            digests: BTreeSet::new(),
        });
        local.names.extend(name);
        local.digests.extend(digest);
    }

    pub(super) fn find(&self, reference: &str) -> Option<Image> {
        let local = self.local(reference)?;
        Some(Image {
            id: local.stored.id.clone(),
            repo_digests: local.digests.iter().cloned().collect(),
            size_bytes: SIZE,
            has_healthcheck: local.stored.has_healthcheck,
            on_build: local.stored.on_build.clone(),
        })
    }

    pub(super) fn stored(&self, reference: &str) -> Option<Stored> {
        self.local(reference).map(|local| local.stored.clone())
    }

    fn local(&self, reference: &str) -> Option<&Local> {
        if let Some(local) = self.by_id.get(reference) {
            return Some(local);
        }
        let (repository, tag) = split(reference);
        let name = format!("{repository}:{tag}");
        let mut all = self.by_id.values();
        match reference.contains('@') {
            true => all.find(|local| local.digests.contains(reference)),
            false => all.find(|local| local.names.contains(&name)),
        }
    }

    pub(super) fn names(&self, id: &str) -> BTreeSet<String> {
        let local = self.by_id.get(id);
        local.map(|local| local.names.clone()).unwrap_or_default()
    }

    pub(super) fn behaviour(&self, id: &str) -> Option<Behaviour> {
        self.by_id.get(id)?.stored.behaviour.clone()
    }

    pub(super) fn has_healthcheck(&self, id: &str) -> bool {
        let local = self.by_id.get(id);
        local.is_some_and(|local| local.stored.has_healthcheck)
    }

    /// Takes a name away, and the image with its last one; `in_use` keeps the last.
    pub(super) fn untag(&mut self, reference: &str, in_use: impl Fn(&str) -> bool) -> Result<()> {
        let Some(local) = self.local(reference) else {
            return Ok(());
        };
        let id = local.stored.id.clone();
        let (repository, tag) = split(reference);
        let name = format!("{repository}:{tag}");
        let mut names = local.names.clone();
        names.remove(&name);
        let last = names.is_empty() || reference == id;
        if last && in_use(&id) {
            return Err(Error::Conflict(format!(
                "{reference} is used by a container"
            )));
        }
        if last {
            self.by_id.remove(&id);
        } else if let Some(local) = self.by_id.get_mut(&id) {
            local.names = names;
        }
        Ok(())
    }
}

/// Repository and tag of a reference; the tag is `latest` when there is none.
pub(super) fn split(reference: &str) -> (String, String) {
    let name = reference.split('@').next().unwrap_or(reference);
    let (repository, tag) = match name.rsplit_once(':') {
        // A colon before a slash belongs to the registry's port.
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    };
    (repository.to_owned(), tag.to_owned())
}

/// `sha256:…` of some texts.
pub(super) fn hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_be_bytes());
        hasher.update(part.as_bytes());
    }
    format!("sha256:{}", hex::encode(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_content_has_an_equal_digest_wherever_it_is_pushed() {
        let (a, b) = (FakeRegistry::default(), FakeRegistry::default());
        assert_eq!(a.publish("x:1", "content"), b.publish("y/z:2", "content"));
        assert_ne!(a.publish("x:1", "content"), a.publish("x:1", "other"));
    }

    #[test]
    fn an_image_goes_with_its_last_name() {
        let mut images = Images::default();
        let id = images.add("a:1", false);
        let stored = images.stored("a:1").unwrap();
        images.insert(stored, Some("b:1".into()), None);
        images.untag("a:1", |_| true).unwrap();
        assert!(images.untag("b:1", |_| true).is_err());
        images.untag("b:1", |_| false).unwrap();
        assert_eq!(images.find(&id), None);
    }
}
