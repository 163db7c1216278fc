//! Our registry, over its HTTP API: whether it has a manifest, and another tag for one it has. Also
//! how stacks and images are spelled there. Called by `imagebank` and `external`. Everything that
//! goes wrong here is a fault from outside, never the commit's.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Method, Response, StatusCode};
use sha2::{Digest, Sha256};
use tokio_util::io::ReaderStream;

use super::site::sha256;
use crate::model::names::{ImageName, NodeName, StackName};

/// Longest wait for one answer: the registry is on this network, or forwarded by this host.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest wait until a blob is taken.
const BLOB_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Largest manifest, as registries limit them.
pub(super) const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// Kinds of manifest that engines push.
pub(super) const MANIFEST_KINDS: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";

/// Hex digits that stand for a name or a text that cannot be part of a repository's.
const HASHED_DIGITS: usize = 40;

/// Why the registry did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the registry at {address} {reason}")]
pub struct RegistryError {
    /// Where it should be.
    pub address: String,
    /// What it did instead.
    pub reason: String,
}

/// What builds ask of our registry beyond what the engine pushes there.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Its address, such as `127.0.0.1:5000`: the start of every image's name.
    fn address(&self) -> &str;

    /// The digest of what `reference` (a tag or a digest) means in `repository`, if anything.
    ///
    /// # Errors
    /// When it does not answer, or not as a registry would.
    async fn digest(&self, repository: &str, reference: &str) -> Result<Option<String>>;

    /// Gives the manifest `digest` another tag, and looks whether it took. `false` when the manifest
    /// or something it names is not there.
    ///
    /// # Errors
    /// As [`Self::digest`].
    async fn tag(&self, repository: &str, digest: &str, tag: &str) -> Result<bool>;

    /// Puts an image there under a tag, what it names first; answers the digest of its manifest.
    ///
    /// # Errors
    /// As [`Self::digest`], and when it does not have it afterwards.
    async fn put(&self, repository: &str, tag: &str, image: OneLayer) -> Result<String>;
}

/// An image of one layer that viking made itself.
#[derive(Debug)]
pub struct OneLayer {
    /// The manifest's kind.
    pub kind: &'static str,
    /// The manifest, which names the two others.
    pub manifest: Vec<u8>,
    /// What an engine would run it by.
    pub config: Vec<u8>,
    /// The layer, from its beginning.
    pub layer: std::fs::File,
    /// The layer's digest.
    pub layer_digest: String,
    /// Bytes of the layer.
    pub size: u64,
}

/// A registry's result.
pub type Result<T> = std::result::Result<T, RegistryError>;

/// A registry over HTTP.
#[derive(Debug, Clone)]
pub struct HttpRegistry {
    client: reqwest::Client,
    address: String,
}

impl HttpRegistry {
    /// The registry that listens at `address`, such as `127.0.0.1:5000`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(address: &str) -> Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(ANSWER_TIMEOUT)
            .no_proxy()
            .build()
            .map_err(|e| failed(address, &e))?;
        Ok(Self {
            client,
            address: address.to_owned(),
        })
    }

    fn url(&self, repository: &str, reference: &str) -> String {
        format!(
            "http://{}/v2/{repository}/manifests/{reference}",
            self.address
        )
    }

    async fn ask(&self, method: Method, repository: &str, reference: &str) -> Result<Response> {
        self.client
            .request(method, self.url(repository, reference))
            .header(ACCEPT, MANIFEST_KINDS)
            .send()
            .await
            .map_err(|e| failed(&self.address, &e))
    }

    /// Puts a blob there, unless it is there already. Whether its bytes are what its digest says, the
    /// registry checks.
    async fn blob(
        &self,
        repository: &str,
        digest: &str,
        (size, bytes): (u64, reqwest::Body),
    ) -> Result<()> {
        let broken = |e| failed(&self.address, &e);
        let base = format!("http://{}/v2/{repository}/blobs", self.address);
        let known = self.client.head(format!("{base}/{digest}")).send().await;
        if known.map_err(broken)?.status().is_success() {
            return Ok(());
        }
        let begin = self.client.post(format!("{base}/uploads/"));
        let begun = begin
            .header(CONTENT_LENGTH, 0)
            .send()
            .await
            .map_err(broken)?;
        let place = begun.headers().get(LOCATION);
        let place = place.and_then(|place| begun.url().join(place.to_str().ok()?).ok());
        let Some(place) = place.filter(|_| begun.status().is_success()) else {
            return Err(self.says(format!("answered {} to an upload", begun.status())));
        };
        // Whatever it calls itself, this is how it is reached.
        let mut target = begun.url().clone();
        target.set_path(place.path());
        target.set_query(place.query());
        target.query_pairs_mut().append_pair("digest", digest);
        let put = self.client.put(target).timeout(BLOB_TIMEOUT);
        let put = put
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size);
        let status = put.body(bytes).send().await.map_err(broken)?.status();
        match status.is_success() {
            true => Ok(()),
            false => Err(self.says(format!("answered {status} to {digest}"))),
        }
    }

    fn found(&self, response: Response) -> Result<Option<Response>> {
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(response)),
            status => Err(self.says(format!("answered {status}"))),
        }
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|e| failed(&self.address, &e))?
        {
            if body.len() + piece.len() > MANIFEST_BYTES_MAX {
                return Err(self.says("sent an endless manifest".to_owned()));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn says(&self, reason: String) -> RegistryError {
        RegistryError {
            address: self.address.clone(),
            reason,
        }
    }
}

#[async_trait]
impl Registry for HttpRegistry {
    fn address(&self) -> &str {
        &self.address
    }

    async fn digest(&self, repository: &str, reference: &str) -> Result<Option<String>> {
        let response = self.ask(Method::HEAD, repository, reference).await?;
        let Some(response) = self.found(response)? else {
            return Ok(None);
        };
        match content_digest(&response) {
            Some(digest) => Ok(Some(digest)),
            None => Err(self.says("names no digest".to_owned())),
        }
    }

    async fn tag(&self, repository: &str, digest: &str, tag: &str) -> Result<bool> {
        let response = self.ask(Method::GET, repository, digest).await?;
        let Some(response) = self.found(response)? else {
            return Ok(false);
        };
        let kind = response.headers().get(CONTENT_TYPE).cloned();
        let manifest = self.body(response).await?;
        let mut put = self.client.put(self.url(repository, tag)).body(manifest);
        if let Some(kind) = kind {
            put = put.header(CONTENT_TYPE, kind);
        }
        let response = put.send().await.map_err(|e| failed(&self.address, &e))?;
        match response.status() {
            status if status.is_success() => {}
            // The manifest is there but a layer it names is not.
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => return Ok(false),
            status => return Err(self.says(format!("answered {status}"))),
        }
        // A registry says what it stored; one that does not is asked.
        let stored = match content_digest(&response) {
            Some(stored) => Some(stored),
            None => self.digest(repository, tag).await?,
        };
        Ok(stored.as_deref() == Some(digest))
    }

    async fn put(&self, repository: &str, tag: &str, image: OneLayer) -> Result<String> {
        let config_digest = sha256(&image.config);
        let config = (image.config.len() as u64, image.config.into());
        self.blob(repository, &config_digest, config).await?;
        let layer = tokio::fs::File::from_std(image.layer);
        let layer = reqwest::Body::wrap_stream(ReaderStream::new(layer));
        self.blob(repository, &image.layer_digest, (image.size, layer))
            .await?;
        let digest = sha256(&image.manifest);
        let put = self.client.put(self.url(repository, tag));
        let put = put.header(CONTENT_TYPE, image.kind).body(image.manifest);
        let response = put.send().await.map_err(|e| failed(&self.address, &e))?;
        if !response.status().is_success() {
            return Err(self.says(format!("answered {}", response.status())));
        }
        match self.digest(repository, &digest).await? {
            Some(_) => Ok(digest),
            None => Err(self.says(format!(
                "does not have {digest} right after it was put there"
            ))),
        }
    }
}

fn content_digest(response: &Response) -> Option<String> {
    let value = response.headers().get("docker-content-digest")?;
    Some(value.to_str().ok()?.to_owned())
}

fn failed(address: &str, error: &reqwest::Error) -> RegistryError {
    let reason = if error.is_timeout() {
        "does not answer in time"
    } else if error.is_connect() {
        "cannot be reached"
    } else {
        "broke off"
    };
    RegistryError {
        address: address.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Where the files of a website are kept. No image can have that name, as above.
#[must_use]
pub fn site_repository(stack: &StackName, node: &NodeName) -> String {
    format!(
        "{}/site.{}",
        component(stack.as_str()),
        component(node.as_str())
    )
}

/// Where images of `build:` are kept.
#[must_use]
pub fn repository(stack: &StackName, image: &ImageName) -> String {
    format!(
        "{}/{}",
        component(stack.as_str()),
        component(image.as_str())
    )
}

/// Where an image that only this engine had is kept. No image can have that name: names have no dot.
#[must_use]
pub fn external_repository(stack: &StackName, text: &str) -> String {
    let hash = hashed(text);
    format!(
        "{}/external.{}",
        component(stack.as_str()),
        hash.get(..12).unwrap_or(&hash)
    )
}

/// A name as registries spell it: itself where their grammar allows it (not `a-`, not `a___b`), else
/// `n.` and a hash, which no name of ours looks like.
fn component(name: &str) -> String {
    if is_component(name) {
        name.to_owned()
    } else {
        format!("n.{}", hashed(name))
    }
}

fn is_component(name: &str) -> bool {
    let mut separator = String::new();
    for c in name.chars() {
        if c == '-' || c == '_' {
            separator.push(c);
            continue;
        }
        let joins = match separator.as_str() {
            "" | "_" | "__" => true,
            other => other.bytes().all(|b| b == b'-'),
        };
        if !joins {
            return false;
        }
        separator.clear();
    }
    separator.is_empty()
}

fn hashed(text: &str) -> String {
    let mut hash = hex::encode(Sha256::digest(text));
    hash.truncate(HASHED_DIGITS);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_registries_refuse_are_spelled_otherwise_and_stay_apart() {
        let stack = |name: &str| StackName::parse(name).unwrap();
        let image = |name: &str| ImageName::parse(name).unwrap();
        for plain in ["a", "a-b", "a---b", "a_b", "a__b", "0"] {
            assert_eq!(component(plain), plain);
        }
        let odd = ["a-", "a_", "a___b", "a-_b", "a_-b", "a__"];
        let spelled: std::collections::BTreeSet<String> =
            odd.iter().map(|name| component(name)).collect();
        assert_eq!(spelled.len(), odd.len());
        assert!(spelled.iter().all(|name| name.starts_with("n.")));
        assert_eq!(repository(&stack("s"), &image("web")), "s/web");
        assert_eq!(
            external_repository(&stack("s"), "viking/redis:1").len(),
            "s/external.".len() + 12
        );
        // With the longest address the whole name stays below docker's 255.
        let long = format!("{}-", "x".repeat(62));
        assert!(repository(&stack(&long), &image(&long)).len() < 200);
    }
}
