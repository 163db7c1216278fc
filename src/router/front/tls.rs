//! Certificates: read from a folder of the operator's, looked at again and again, or given by a CA, and
//! chosen by the name a client asks for. A file that cannot be used is told once, and what was read of it
//! before stays. A client that asks for the proof of a domain gets that and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::challenge::{self, Challenges};
use crate::model::certificate::CertificateRecord;
use crate::model::route::{Domains, host_of};

/// Most certificates, and the largest file that is read.
const CERTIFICATES_MAX: usize = 10_000;
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// What a certificate's file ends with, and its key's.
const CHAIN: [&str; 2] = ["crt", "pem"];
const KEY: &str = "key";

/// The certificates that are served now.
#[derive(Debug, Default)]
pub struct Certificates {
    /// The operator's: they go first.
    folder: ArcSwap<Domains<Arc<CertifiedKey>>>,
    /// Whether the folder was looked at yet.
    looked: AtomicBool,
    /// Those of a CA, by domain.
    given: ArcSwap<BTreeMap<String, Arc<CertifiedKey>>>,
    /// What the CA is answered.
    pub challenges: Arc<Challenges>,
}

impl Certificates {
    /// Whether one covers a host name, as [`host_of`] gives it.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        self.find(host).is_some()
    }

    /// Whether one of the operator's does; `None` as long as nobody has looked.
    #[must_use]
    pub fn folder_covers(&self, host: &str) -> Option<bool> {
        let looked = self.looked.load(Ordering::Acquire);
        looked.then(|| find(&self.folder.load(), host).is_some())
    }

    fn find(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let own = find(&self.folder.load(), host).cloned();
        own.or_else(|| self.given.load().get(host).cloned())
    }

    /// Serves what a CA gave: of the domains that are `there`, those in `new` are taken, others stay as
    /// they were. One that cannot be used is told, and what was before stays.
    pub fn give(&self, there: &BTreeMap<String, i64>, new: &BTreeMap<String, CertificateRecord>) {
        let before = self.given.load();
        if new.is_empty() && before.keys().all(|domain| there.contains_key(domain)) {
            return;
        }
        let mut given = BTreeMap::clone(&before);
        given.retain(|domain, _| there.contains_key(domain));
        for (domain, record) in new.iter().take(CERTIFICATES_MAX) {
            match certified(record.chain.as_bytes(), record.key.expose().as_bytes()) {
                Ok((names, key)) if names.contains(domain) => {
                    given.insert(domain.clone(), key);
                }
                Ok(_) => tracing::warn!(domain, "not served: the certificate is for another name"),
                Err(error) => tracing::warn!(domain, "not served: {error:#}"),
            }
        }
        self.given.store(Arc::new(given));
    }

    /// Reads the folder each so often until shutdown. One that is not there has no certificates.
    pub async fn follow(
        self: Arc<Self>,
        folder: PathBuf,
        every: Duration,
        shutdown: CancellationToken,
    ) {
        let mut shelf = Shelf::new(folder);
        loop {
            let read = tokio::task::spawn_blocking(move || {
                let changed = shelf.read();
                (shelf, changed)
            });
            let Ok((read, changed)) = read.await else {
                return;
            };
            shelf = read;
            if changed {
                self.folder.store(Arc::new(shelf.domains()));
            }
            self.looked.store(true, Ordering::Release);
            let wait = shutdown.run_until_cancelled(tokio::time::sleep(every));
            if wait.await.is_none() {
                return;
            }
        }
    }
}

/// A wildcard covers one label (RFC 6125, 6.4.3), unlike that of a route.
fn find<'a>(domains: &'a Domains<Arc<CertifiedKey>>, host: &str) -> Option<&'a Arc<CertifiedKey>> {
    let wild = || {
        let (_, parent) = host.split_once('.')?;
        domains.get(&format!("*.{parent}"))
    };
    domains.get(host).or_else(wild)
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = host_of(hello.server_name()?)?;
        self.find(&host)
    }
}

/// How the router speaks TLS.
#[derive(Clone)]
pub(super) struct Tls {
    /// To clients.
    usual: Arc<ServerConfig>,
    /// To a CA that wants a proof.
    proof: Arc<ServerConfig>,
}

impl Tls {
    /// 1.2 and 1.3, HTTP/2 where the client can.
    ///
    /// # Errors
    /// When the library knows none of these versions.
    pub(super) fn new(certificates: &Arc<Certificates>) -> anyhow::Result<Self> {
        let challenges: Arc<Challenges> = Arc::clone(&certificates.challenges);
        Ok(Self {
            usual: config(
                Arc::<Certificates>::clone(certificates),
                &[b"h2", b"http/1.1"],
            )?,
            proof: config(challenges, &[challenge::PROTOCOL])?,
        })
    }

    /// Shakes hands. `None` for who wanted nothing but a proof, and had it.
    ///
    /// # Errors
    /// When there is no certificate for the name, or the client knows no good version.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<Option<TlsStream<TcpStream>>> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let proof = challenge::asks_for_proof(&start.client_hello());
        let config = if proof { &self.proof } else { &self.usual };
        let mut stream = start.into_stream(Arc::clone(config)).await?;
        if proof {
            stream.shutdown().await?;
            return Ok(None);
        }
        Ok(Some(stream))
    }
}

fn config(
    certificates: Arc<dyn ResolvesServerCert>,
    protocols: &[&[u8]],
) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .context("choosing versions of TLS")?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// When a pair of files was last written.
type Written = (SystemTime, SystemTime);

/// One certificate of the folder.
#[derive(Default)]
struct Kept {
    /// When what is served was.
    written: Option<Written>,
    /// When what cannot be used was, of which it was told.
    told: Option<Written>,
    /// None when it could never be used.
    key: Option<(Vec<String>, Arc<CertifiedKey>)>,
}

/// The folder, as it was when it was last read.
struct Shelf {
    folder: PathBuf,
    kept: BTreeMap<PathBuf, Kept>,
}

impl Shelf {
    fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            kept: BTreeMap::new(),
        }
    }

    /// Reads what was written since; whether anything is different.
    fn read(&mut self) -> bool {
        let Some(files) = chains(&self.folder) else {
            return false;
        };
        let before = self.kept.len();
        self.kept.retain(|chain, _| files.contains(chain));
        let mut changed = self.kept.len() != before;
        for chain in files {
            let key = chain.with_extension(KEY);
            let Ok(written) = written(&chain, &key) else {
                continue;
            };
            let kept = self.kept.entry(chain.clone()).or_default();
            if kept.written == Some(written) {
                continue;
            }
            match load(&chain, &key) {
                Ok(key) => {
                    *kept = Kept {
                        written: Some(written),
                        told: None,
                        key: Some(key),
                    };
                    changed = true;
                }
                // Half written, perhaps, or not for us to read yet: what it was before stays, and it is
                // tried again.
                Err(error) if kept.told != Some(written) => {
                    kept.told = Some(written);
                    // Its name, never what is in it.
                    tracing::warn!(file = %chain.display(), "not served: {error:#}");
                }
                Err(_) => {}
            }
        }
        changed
    }

    /// By name; of two that cover the same the later by file name.
    fn domains(&self) -> Domains<Arc<CertifiedKey>> {
        let mut domains = Domains::default();
        for (names, key) in self.kept.values().filter_map(|kept| kept.key.as_ref()) {
            for name in names {
                domains.insert(name, Arc::clone(key));
            }
        }
        domains
    }
}

/// Files of certificates; `None` when that cannot be said now.
fn chains(folder: &Path) -> Option<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(Vec::new()),
        Err(_) => return None,
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let is_chain = |path: &PathBuf| {
        let end = path.extension().and_then(|end| end.to_str());
        end.is_some_and(|end| CHAIN.contains(&end))
    };
    let mut chains: Vec<PathBuf> = paths.filter(is_chain).take(CERTIFICATES_MAX).collect();
    chains.sort();
    Some(chains)
}

fn written(chain: &Path, key: &Path) -> std::io::Result<Written> {
    let of = |path: &Path| path.metadata()?.modified();
    Ok((of(chain)?, of(key)?))
}

/// Reads a chain and its key; the names it is for.
fn load(chain: &Path, key: &Path) -> anyhow::Result<(Vec<String>, Arc<CertifiedKey>)> {
    let read = |path: &Path| -> anyhow::Result<Vec<u8>> {
        let bytes = path.metadata().with_context(|| reading(path))?.len();
        if bytes > FILE_BYTES_MAX {
            bail!("{} has more than {FILE_BYTES_MAX} bytes", path.display());
        }
        std::fs::read(path).with_context(|| reading(path))
    };
    certified(&read(chain)?, &read(key)?)
        .with_context(|| format!("with its key in {}", key.display()))
}

/// A chain and its key, both in PEM, and the names they are for.
fn certified(chain: &[u8], key: &[u8]) -> anyhow::Result<(Vec<String>, Arc<CertifiedKey>)> {
    let certificates = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .context("the certificate is not in PEM")?;
    let first = certificates.first().context("no certificate in it")?;
    let parsed = webpki::EndEntityCert::try_from(first).context("reading the certificate")?;
    let names: Vec<String> = parsed
        .valid_dns_names()
        .map(str::to_ascii_lowercase)
        .collect();
    if names.is_empty() {
        bail!("the certificate is for no DNS name");
    }
    // Not the reader's own words, which may repeat what it found.
    let private = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| anyhow::anyhow!("the private key is not in PEM"))?;
    let private = ring::sign::any_supported_type(&private)
        .map_err(|_| anyhow::anyhow!("the private key is of no kind that is known"))?;
    let certified = CertifiedKey::new(certificates, private);
    certified
        .keys_match()
        .context("certificate and key do not belong together")?;
    Ok((names, Arc::new(certified)))
}

fn reading(path: &Path) -> String {
    format!("reading {}", path.display())
}
