//! From one registry to another over their HTTP API: a manifest and the bytes it names, streamed, so
//! that memory does not grow with a layer. Bytes count only under their digest: manifests are hashed
//! here, blobs by the registry that takes them. Used by `copies`.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::registry::{MANIFEST_BYTES_MAX, MANIFEST_KINDS, RegistryError, Result};

/// Longest wait for an answer that is not a blob's.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Longest wait for the next piece of a blob.
const PIECE_MAX: Duration = Duration::from_secs(30);

/// A blob slower than this has hung, whoever of the two holds it up.
const BYTES_PER_SECOND_MIN: u64 = 256 << 10;

/// Manifests that an index may name, and how deep.
const CHILDREN_MAX: usize = 64;
const DEPTH_MAX: usize = 3;

/// One registry, asked directly.
pub(super) struct Place {
    client: reqwest::Client,
    /// For messages.
    name: String,
    address: SocketAddr,
}

/// What a manifest names, of any kind that engines push.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    blobs: BTreeSet<String>,
    manifests: Vec<String>,
}

/// A manifest as a registry gave it.
struct Fetched {
    kind: Option<HeaderValue>,
    bytes: Vec<u8>,
    named: Named,
}

#[derive(Deserialize)]
struct Described {
    digest: String,
    #[serde(default, rename = "mediaType")]
    kind: String,
}

#[derive(Deserialize)]
struct Written {
    config: Option<Described>,
    #[serde(default)]
    layers: Vec<Described>,
    #[serde(default)]
    manifests: Vec<Described>,
}

fn named(bytes: &[u8]) -> Option<Named> {
    let written: Written = serde_json::from_slice(bytes).ok()?;
    // Layers that are only referred to are nowhere in a registry.
    let kept = |layer: &Described| {
        !layer.kind.contains("foreign") && !layer.kind.contains("nondistributable")
    };
    let layers = written.layers.into_iter().filter(kept);
    let blobs = layers.chain(written.config).map(|blob| blob.digest);
    let manifests: Vec<String> = written.manifests.into_iter().map(|m| m.digest).collect();
    let named = Named {
        blobs: blobs.collect(),
        manifests,
    };
    let something = !named.blobs.is_empty() || !named.manifests.is_empty();
    let all = named.blobs.iter().chain(&named.manifests);
    (something && named.manifests.len() <= CHILDREN_MAX && { all }.all(|one| is_digest(one)))
        .then_some(named)
}

/// It becomes part of a URL.
fn is_digest(text: &str) -> bool {
    let hex = |hex: &str| !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    text.split_once(':')
        .is_some_and(|(algorithm, digits)| matches!(algorithm, "sha256" | "sha512") && hex(digits))
}

impl Place {
    pub(super) fn new(client: &reqwest::Client, name: &str, address: SocketAddr) -> Self {
        Self {
            client: client.clone(),
            name: name.to_owned(),
            address,
        }
    }

    /// Whether a manifest is there, with every byte it names.
    pub(super) async fn holds(&self, repository: &str, digest: &str) -> Result<bool> {
        self.holds_at(repository, digest, DEPTH_MAX).await
    }

    fn holds_at<'a>(
        &'a self,
        repository: &'a str,
        digest: &'a str,
        depth: usize,
    ) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let Some(fetched) = self.manifest(repository, digest).await? else {
                return Ok(false);
            };
            for blob in &fetched.named.blobs {
                if !self.has_blob(repository, blob).await? {
                    return Ok(false);
                }
            }
            for child in &fetched.named.manifests {
                let depth = self.deeper(depth)?;
                if !self.holds_at(repository, child, depth).await? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Brings a manifest and what it names to another registry, what it names first.
    pub(super) async fn send(
        &self,
        to: &Self,
        repository: &str,
        digest: &str,
        tags: &BTreeSet<String>,
    ) -> Result<()> {
        let fetched = self.send_at(to, repository, digest, DEPTH_MAX).await?;
        for tag in tags {
            to.put_manifest(repository, tag, &fetched).await?;
        }
        if to.holds(repository, digest).await? {
            return Ok(());
        }
        Err(to.says(&format!("does not have {repository}@{digest} after all")))
    }

    fn send_at<'a>(
        &'a self,
        to: &'a Self,
        repository: &'a str,
        digest: &'a str,
        depth: usize,
    ) -> BoxFuture<'a, Result<Fetched>> {
        Box::pin(async move {
            let Some(fetched) = self.manifest(repository, digest).await? else {
                return Err(self.says(&format!("lacks {repository}@{digest}")));
            };
            for blob in &fetched.named.blobs {
                if !to.has_blob(repository, blob).await? {
                    self.send_blob(to, repository, blob).await?;
                }
            }
            for child in &fetched.named.manifests {
                let depth = self.deeper(depth)?;
                self.send_at(to, repository, child, depth).await?;
            }
            to.put_manifest(repository, digest, &fetched).await?;
            Ok(fetched)
        })
    }

    /// Makes it forget a manifest.
    pub(super) async fn forget(&self, repository: &str, digest: &str) -> Result<()> {
        let url = self.url(&format!("{repository}/manifests/{digest}"));
        let response = self.ask(self.client.delete(url)).await?;
        match response.status() {
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_FOUND => Ok(()),
            status if status.is_success() => Ok(()),
            status => Err(self.says(&format!("answered {status}"))),
        }
    }

    /// The manifest, if it is there; what is there under another digest than its own is not.
    async fn manifest(&self, repository: &str, digest: &str) -> Result<Option<Fetched>> {
        let url = self.url(&format!("{repository}/manifests/{digest}"));
        let request = self.client.get(url).header(ACCEPT, MANIFEST_KINDS);
        let mut response = self.ask(request).await?;
        match response.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            status if status.is_success() => {}
            status => return Err(self.says(&format!("answered {status}"))),
        }
        let kind = response.headers().get(CONTENT_TYPE).cloned();
        let mut bytes = Vec::new();
        while let Some(piece) = self.within(PIECE_MAX, response.chunk()).await? {
            if bytes.len() + piece.len() > MANIFEST_BYTES_MAX {
                return Err(self.says("sent an endless manifest"));
            }
            bytes.extend_from_slice(&piece);
        }
        let found = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        if found != digest {
            return Err(self.says(&format!("sent {found} when asked for {digest}")));
        }
        let Some(named) = named(&bytes) else {
            return Err(self.says(&format!("sent {digest}, a manifest of no known kind")));
        };
        Ok(Some(Fetched { kind, bytes, named }))
    }

    async fn put_manifest(&self, repository: &str, reference: &str, what: &Fetched) -> Result<()> {
        let url = self.url(&format!("{repository}/manifests/{reference}"));
        let mut put = self.client.put(url).body(what.bytes.clone());
        if let Some(kind) = &what.kind {
            put = put.header(CONTENT_TYPE, kind);
        }
        self.done(&self.ask(put).await?)
    }

    async fn has_blob(&self, repository: &str, digest: &str) -> Result<bool> {
        let url = self.url(&format!("{repository}/blobs/{digest}"));
        let response = self.ask(self.client.request(Method::HEAD, url)).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            status => Err(self.says(&format!("answered {status}"))),
        }
    }

    async fn send_blob(&self, to: &Self, repository: &str, digest: &str) -> Result<()> {
        let url = self.url(&format!("{repository}/blobs/{digest}"));
        let blob = self.ask(self.client.get(url)).await?;
        if !blob.status().is_success() {
            let status = blob.status();
            return Err(self.says(&format!("answered {status} when asked for {digest}")));
        }
        let Some(bytes) = blob.content_length() else {
            return Err(self.says(&format!("does not say how large {digest} is")));
        };
        let target = to.begin_upload(repository, digest).await?;
        let broken = Arc::new(AtomicBool::new(false));
        let upload = to
            .client
            .put(target)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, bytes)
            .body(pieces(blob, Arc::clone(&broken)));
        let limit = PIECE_MAX + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
        let sent = to.within(limit, upload.send()).await;
        if broken.load(Ordering::Acquire) {
            return Err(self.says(&format!("broke off in the middle of {digest}")));
        }
        to.done(&sent?)
    }

    /// Where to send a blob.
    async fn begin_upload(&self, repository: &str, digest: &str) -> Result<url::Url> {
        let begin = self.url(&format!("{repository}/blobs/uploads/"));
        let response = self
            .ask(self.client.post(begin).header(CONTENT_LENGTH, 0))
            .await?;
        let place = response.headers().get(LOCATION);
        let place = place.and_then(|place| place.to_str().ok());
        let base: url::Url = response.url().clone();
        let location = place.and_then(|place| base.join(place).ok());
        let Some(mut location) = location.filter(|_| response.status().is_success()) else {
            let status = response.status();
            return Err(self.says(&format!("answered {status} to an upload")));
        };
        // Whatever it calls itself, this is how it is reached.
        let here = location.set_ip_host(self.address.ip());
        here.and_then(|()| location.set_port(Some(self.address.port())))
            .map_err(|()| self.says("answered with a strange place for an upload"))?;
        location.query_pairs_mut().append_pair("digest", digest);
        Ok(location)
    }

    fn deeper(&self, depth: usize) -> Result<usize> {
        depth
            .checked_sub(1)
            .ok_or_else(|| self.says("nests manifests too deep"))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address)
    }

    async fn ask(&self, request: RequestBuilder) -> Result<Response> {
        self.within(ANSWER_MAX, request.send()).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T> {
        match timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.is_connect() => Err(self.says("cannot be reached")),
            Ok(Err(_)) => Err(self.says("broke off")),
            Err(_) => Err(self.says("does not answer in time")),
        }
    }

    fn done(&self, response: &Response) -> Result<()> {
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(self.says(&format!("answered {status}"))),
        }
    }

    fn says(&self, reason: &str) -> RegistryError {
        RegistryError {
            address: self.name.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// A blob piece by piece; one that stops coming ends with an error, and the upload with it.
fn pieces(blob: Response, broken: Arc<AtomicBool>) -> Body {
    let next = |(mut blob, broken): (Response, Arc<AtomicBool>)| async move {
        let piece = match timeout(PIECE_MAX, blob.chunk()).await {
            Ok(Ok(piece)) => Ok(piece?),
            Ok(Err(error)) => Err(std::io::Error::other(error)),
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        if piece.is_err() {
            broken.store(true, Ordering::Release);
        }
        Some((piece, (blob, broken)))
    };
    Body::wrap_stream(futures_util::stream::unfold((blob, broken), next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_of_every_kind_name_their_parts() {
        let image = r#"{"config": {"digest": "sha256:aa"}, "layers": [
            {"digest": "sha256:bb", "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"},
            {"digest": "sha256:cc", "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}]}"#;
        let found = named(image.as_bytes()).unwrap();
        let blobs: Vec<_> = found.blobs.iter().map(String::as_str).collect();
        assert_eq!(blobs, ["sha256:aa", "sha256:bb"]);
        let index = r#"{"manifests": [{"digest": "sha256:dd"}, {"digest": "sha256:ee"}]}"#;
        let found = named(index.as_bytes()).unwrap();
        assert_eq!(found.manifests, ["sha256:dd", "sha256:ee"]);
        // What cannot be read is not empty.
        for odd in ["", "{}", "[]", r#"{"fsLayers": []}"#] {
            assert_eq!(named(odd.as_bytes()), None, "{odd}");
        }
        let outside = r#"{"config": {"digest": "sha256:aa/../../x"}}"#;
        assert_eq!(named(outside.as_bytes()), None);
    }
}
