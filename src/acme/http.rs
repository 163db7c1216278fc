//! How the CA is spoken to: https with a time limit on every call and a bound on every answer. Never
//! follows a redirect, and never logs what it sends.

use std::future::Future;
use std::io::Read as _;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Request, Response};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use ureq::tls::{PemItem, RootCerts, TlsConfig};

/// One call, from the name's look-up to the last byte of the answer.
const CALL_MAX: Duration = Duration::from_secs(30);

/// Largest answer: a chain of certificates has a few thousand bytes.
const ANSWER_BYTES_MAX: u64 = 256 * 1024;

/// Largest file of authorities.
const CA_BYTES_MAX: u64 = 1024 * 1024;

/// The client. Clones share their connections.
#[derive(Debug, Clone)]
pub(super) struct Client(ureq::Agent);

impl Client {
    /// One that trusts the authorities in `ca`, else those that browsers trust.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub(super) fn new(ca: Option<&Path>) -> anyhow::Result<Self> {
        let roots = match ca {
            Some(path) => {
                let reading = || format!("reading the authorities in {}", path.display());
                authorities(path).with_context(reading)?
            }
            None => RootCerts::WebPki,
        };
        let config = ureq::Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(CALL_MAX))
            .user_agent(concat!("viking/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self(config.new_agent()))
    }

    fn call(&self, request: Request<Vec<u8>>) -> Result<Response<Bytes>, ureq::Error> {
        let (parts, body) = self.0.run(request)?.into_parts();
        let body = body.into_with_config().limit(ANSWER_BYTES_MAX);
        let body = body.read_to_vec()?;
        Ok(Response::from_parts(parts, Bytes::from(body)))
    }
}

fn authorities(path: &Path) -> anyhow::Result<RootCerts> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(CA_BYTES_MAX).read_to_end(&mut text)?;
    let certificates = ureq::tls::parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        Ok(_) | Err(_) => None,
    });
    let certificates: Vec<_> = certificates.collect();
    if certificates.is_empty() {
        bail!("no certificate in PEM in it");
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            // Ours says who asks.
            parts.headers.remove(hyper::header::USER_AGENT);
            let Ok(body) = body.collect().await;
            let request = Request::from_parts(parts, body.to_bytes().to_vec());
            let called = tokio::task::spawn_blocking(move || client.call(request)).await;
            let answer = called
                .map_err(|error| Error::Other(Box::new(error)))?
                .map_err(|error| Error::Other(Box::new(error)))?;
            let (parts, body) = answer.into_parts();
            Ok(BytesResponse {
                parts,
                body: Box::new(body),
            })
        })
    }
}
