//! Where a host gets the files of sites from: our registry, through this host's way to its copies. Used by
//! `sites`. Every failure is in words, and a fault from outside.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Response;
use reqwest::header::ACCEPT;

/// Largest manifest that is read: ours are far smaller.
const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// Longest wait for the next piece.
const PIECE_MAX: Duration = Duration::from_secs(30);

/// What viking pushes for a site.
const MANIFEST_KIND: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A registry, as one who unpacks sites needs it. What comes is checked by the caller.
#[async_trait]
pub trait Source: Send + Sync {
    /// The bytes of a manifest.
    ///
    /// # Errors
    /// In words, also when it is not there.
    async fn manifest(&self, repository: &str, digest: &str) -> Result<Vec<u8>, String>;

    /// Writes the bytes of a blob into a file, and no more of them than `max`.
    ///
    /// # Errors
    /// In words, also when it is not there, or larger.
    async fn blob(
        &self,
        repository: &str,
        digest: &str,
        max: u64,
        into: &mut std::fs::File,
    ) -> Result<(), String>;
}

/// Shared by tasks.
pub type SharedSource = Arc<dyn Source>;

/// A registry over HTTP.
pub struct HttpSource {
    client: reqwest::Client,
    address: String,
}

impl HttpSource {
    /// The registry at `address`, such as `127.0.0.1:5000`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(address: &str) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder();
        Ok(Self {
            client: client.no_proxy().read_timeout(PIECE_MAX).build()?,
            address: address.to_owned(),
        })
    }

    async fn get(&self, what: &str, digest: &str, repository: &str) -> Result<Response, String> {
        let url = format!("http://{}/v2/{repository}/{what}/{digest}", self.address);
        let request = self.client.get(url).header(ACCEPT, MANIFEST_KIND);
        let response = request.send().await.map_err(|e| self.failed(&e))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status => Err(format!(
                "the registry at {} answered {status} when asked for {repository}@{digest}",
                self.address
            )),
        }
    }

    fn failed(&self, error: &reqwest::Error) -> String {
        let what = if error.is_timeout() {
            "does not answer in time"
        } else if error.is_connect() {
            "cannot be reached"
        } else {
            "broke off"
        };
        format!("the registry at {} {what}", self.address)
    }
}

#[async_trait]
impl Source for HttpSource {
    async fn manifest(&self, repository: &str, digest: &str) -> Result<Vec<u8>, String> {
        let mut response = self.get("manifests", digest, repository).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| self.failed(&e))? {
            if bytes.len() + piece.len() > MANIFEST_BYTES_MAX {
                return Err(format!(
                    "the registry at {} sent an endless manifest",
                    self.address
                ));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    async fn blob(
        &self,
        repository: &str,
        digest: &str,
        max: u64,
        into: &mut std::fs::File,
    ) -> Result<(), String> {
        let mut response = self.get("blobs", digest, repository).await?;
        let mut left = max;
        while let Some(piece) = response.chunk().await.map_err(|e| self.failed(&e))? {
            left = left
                .checked_sub(piece.len() as u64)
                .ok_or_else(|| format!("{digest} is larger than its manifest says"))?;
            // A piece is small, and the page cache takes it.
            into.write_all(&piece)
                .map_err(|e| format!("writing {digest}: {e}"))?;
        }
        Ok(())
    }
}
