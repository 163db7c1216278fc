//! Smart HTTP, protocol version 0: one GET for the list of refs, one POST per round of negotiation.
//! Called by libgit2 through `transport`. It follows a redirect of the list only, sends a credential
//! once and only over https, and never logs a header.

use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream};
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Body, http::Response};
use url::Url;

use super::super::address::Kind;
use super::super::error::Error;
use super::{Attempt, LISTING_MAX_BYTES, PACK_MAX_BYTES, wrong_transport};

/// Redirects followed from one list of refs.
const REDIRECTS_MAX: u32 = 5;
/// Most bytes we send in one round: wants and haves of a few dozen bytes each.
const REQUEST_MAX_BYTES: usize = 16 << 20;
/// Certificate files read.
const CA_MAX_BYTES: u64 = 8 << 20;
/// Where Linux distributions keep the authorities they trust.
const SYSTEM_CAS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// The client for every remote of this process; `ca_file` holds authorities trusted besides the
/// system's.
pub(crate) fn agent(ca_file: Option<&Path>) -> io::Result<ureq::Agent> {
    let tls = TlsConfig::builder().root_certs(roots(ca_file)?).build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(0)
        // Servers tell git from a browser by this prefix.
        .user_agent(concat!("git/2 (viking ", env!("CARGO_PKG_VERSION"), ")"))
        .build();
    Ok(config.new_agent())
}

/// Without any file of the system, Mozilla's list compiled in.
fn roots(ca_file: Option<&Path>) -> io::Result<RootCerts> {
    let system = SYSTEM_CAS
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists());
    let mut certificates = Vec::new();
    for path in ca_file.map(PathBuf::from).iter().chain(&system) {
        certificates.extend(read_certificates(path)?);
    }
    if certificates.is_empty() {
        return Ok(RootCerts::WebPki);
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

fn read_certificates(path: &Path) -> io::Result<Vec<Certificate<'static>>> {
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(CA_MAX_BYTES).read_to_end(&mut text))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let certificates = ureq::tls::parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        Ok(_) | Err(_) => None,
    });
    Ok(certificates.collect())
}

/// One conversation.
pub(super) struct Https {
    attempt: Arc<Attempt>,
    /// The repository, moved by a redirect of the first request.
    base: Mutex<Url>,
}

impl Https {
    pub(super) fn new(attempt: Arc<Attempt>) -> Result<Self, git2::Error> {
        let Kind::Http(url) = &attempt.address.kind else {
            return Err(wrong_transport(&attempt.address.kind));
        };
        let base = Mutex::new(url.clone());
        Ok(Self { attempt, base })
    }

    fn base(&self) -> Url {
        self.base
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl SmartSubtransport for Https {
    fn action(
        &self,
        _url: &str,
        service: Service,
    ) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        match service {
            Service::UploadPackLs => {
                let (listing, base) = listing(&self.attempt, self.base()).map_err(|error| {
                    git2::Error::from_str(&self.attempt.failed(error).to_string())
                })?;
                *self.base.lock().unwrap_or_else(PoisonError::into_inner) = base;
                Ok(Box::new(Cursor::new(listing)))
            }
            Service::UploadPack => Ok(Box::new(Exchange {
                attempt: Arc::clone(&self.attempt),
                base: self.base(),
                request: Vec::new(),
                reply: None,
            })),
            Service::ReceivePackLs | Service::ReceivePack => {
                Err(git2::Error::from_str("nothing is ever pushed"))
            }
        }
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

/// The list of refs as bytes, and where the repository really is. Read to its end, so that the
/// connection can carry the next request.
fn listing(attempt: &Attempt, mut base: Url) -> Result<(Vec<u8>, Url), Error> {
    for _ in 0..=REDIRECTS_MAX {
        let mut url = below(&base, "info/refs");
        url.set_query(Some("service=git-upload-pack"));
        let authorization = authorization(attempt, &url)?;
        let request = attempt.agent.get(url.as_str());
        let request = match &authorization {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        };
        let response = request
            .config()
            .timeout_global(Some(attempt.left_or_little()))
            .build()
            .call()
            .map_err(|error| http_fault(attempt, &error))?;
        if response.status().is_redirection() {
            base = redirected(attempt, &url, &response)?;
            continue;
        }
        check(attempt, &response, authorization.is_some(), "advertisement")?;
        let body = response.into_body().into_with_config();
        let bytes = body
            .limit(LISTING_MAX_BYTES)
            .read_to_vec()
            .map_err(|error| http_fault(attempt, &error))?;
        return Ok((bytes, base));
    }
    Err(attempt.unreachable("it redirects in a circle"))
}

/// One round: collects what libgit2 writes, sends it at the first read.
struct Exchange {
    attempt: Arc<Attempt>,
    base: Url,
    request: Vec<u8>,
    reply: Option<Box<dyn Read + Send>>,
}

impl Write for Exchange {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.request.len() + bytes.len() > REQUEST_MAX_BYTES {
            let error = self.attempt.too_big("the request has more than 16 MB");
            return Err(self.attempt.failed(error));
        }
        self.request.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Exchange {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.attempt.is_over() {
            return Err(self.attempt.failed(self.attempt.timed_out()));
        }
        if self.reply.is_none() {
            let reply = self.send().map_err(|error| self.attempt.failed(error))?;
            self.reply = Some(reply);
        }
        let reply = self.reply.as_mut().expect("set above");
        reply.read(into).map_err(|error| {
            let error = ureq::Error::from(error);
            self.attempt.failed(http_fault(&self.attempt, &error))
        })
    }
}

impl Exchange {
    fn send(&self) -> Result<Box<dyn Read + Send>, Error> {
        let attempt = &self.attempt;
        let url = below(&self.base, "git-upload-pack");
        let authorization = authorization(attempt, &url)?;
        let request = attempt
            .agent
            .post(url.as_str())
            .header(CONTENT_TYPE, "application/x-git-upload-pack-request");
        let request = match &authorization {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        };
        let response = request
            .config()
            .timeout_global(Some(attempt.left_or_little()))
            .build()
            .send(&self.request[..])
            .map_err(|error| http_fault(attempt, &error))?;
        check(attempt, &response, authorization.is_some(), "result")?;
        let body = response.into_body().into_with_config();
        Ok(Box::new(body.limit(PACK_MAX_BYTES).reader()))
    }
}

fn below(base: &Url, what: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{what}", base.path().trim_end_matches('/')));
    url
}

fn authorization(attempt: &Attempt, url: &Url) -> Result<Option<String>, Error> {
    let credential = attempt
        .credentials
        .find(url)
        .map_err(|reason| attempt.denied(&reason))?;
    Ok(credential.map(|credential| credential.basic()))
}

/// Where a redirect of `asked` leads, if it may be followed: the same scheme and host, or https.
fn redirected(attempt: &Attempt, asked: &Url, response: &Response<Body>) -> Result<Url, Error> {
    let location = response.headers().get(LOCATION);
    let target = location
        .and_then(|value| value.to_str().ok())
        .and_then(|value| asked.join(value).ok())
        .and_then(|target| repository_of(asked, target));
    target.ok_or_else(|| {
        attempt.unreachable(
            "it redirects to something other than a repository over https or on the same host; \
             give the address it moved to",
        )
    })
}

fn repository_of(asked: &Url, mut target: Url) -> Option<Url> {
    let same = target.scheme() == asked.scheme() && target.host() == asked.host();
    let plain = target.username().is_empty() && target.password().is_none();
    let path = target.path().strip_suffix("/info/refs")?.to_owned();
    if !plain || !(target.scheme() == "https" || (same && target.scheme() == "http")) {
        return None;
    }
    target.set_path(&path);
    target.set_query(None);
    target.set_fragment(None);
    Some(target)
}

/// Whether the answer is git's; `what` is the last word of its content type.
fn check(
    attempt: &Attempt,
    response: &Response<Body>,
    sent_credential: bool,
    what: &str,
) -> Result<(), Error> {
    let status = response.status().as_u16();
    if status != 200 {
        return Err(status_fault(attempt, status, sent_credential));
    }
    let found = response.body().mime_type().unwrap_or("nothing");
    if found == format!("application/x-git-upload-pack-{what}") {
        return Ok(());
    }
    Err(attempt.not_a_repository(&format!(
        "it answered with {found}, so it is not a git repository over smart http"
    )))
}

fn status_fault(attempt: &Attempt, status: u16, sent_credential: bool) -> Error {
    let add = format!(
        "add a line for this host to {} (mode 600)",
        attempt.credentials.0.display()
    );
    match (status, sent_credential) {
        (401 | 403, true) => attempt.denied(&format!(
            "the user or password in {} was not accepted (status {status}); correct it",
            attempt.credentials.0.display()
        )),
        (401 | 403, false) => {
            attempt.denied(&format!("it asks for a password (status {status}); {add}"))
        }
        (404 | 410, true) => {
            attempt.not_a_repository(&format!("there is nothing (status {status})"))
        }
        // Some servers hide private repositories this way.
        (404 | 410, false) => attempt.not_a_repository(&format!(
            "there is nothing (status {status}); if it is private, {add}"
        )),
        (500.. | 408 | 429, _) => attempt.unreachable(&format!("it answered with status {status}")),
        _ => attempt.not_a_repository(&format!("it answered with status {status}")),
    }
}

/// ureq's errors hold the host at most, never a header.
fn http_fault(attempt: &Attempt, error: &ureq::Error) -> Error {
    let text = error.to_string();
    match error {
        ureq::Error::Timeout(_) => attempt.timed_out(),
        ureq::Error::BodyExceedsLimit(limit) => {
            attempt.too_big(&format!("the answer has more than {limit} bytes"))
        }
        ureq::Error::HostNotFound => attempt.unreachable("its host name was not found"),
        _ if attempt.is_over() => attempt.timed_out(),
        _ if text.contains("invalid peer certificate") => attempt.denied(&format!(
            "its certificate is not trusted ({text}); if its authority is your own, name its \
             file in SSL_CERT_FILE"
        )),
        _ => attempt.unreachable(&text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(asked: &str, target: &str) -> Option<String> {
        let asked = Url::parse(asked).unwrap();
        let target = asked.join(target).unwrap();
        repository_of(&asked, target).map(String::from)
    }

    #[test]
    fn a_redirect_never_leads_to_a_file_or_away_from_https() {
        let secure = "https://a.example/x/info/refs?service=git-upload-pack";
        let plain = "http://a.example/x/info/refs?service=git-upload-pack";
        assert_eq!(
            moved(
                secure,
                "https://b.example/y/info/refs?service=git-upload-pack"
            )
            .as_deref(),
            Some("https://b.example/y")
        );
        assert_eq!(
            moved(plain, "/z/info/refs").as_deref(),
            Some("http://a.example/z")
        );
        assert_eq!(
            moved(plain, "https://a.example/x/info/refs").as_deref(),
            Some("https://a.example/x")
        );
        for target in [
            "file:///etc/info/refs",
            "http://a.example/x/info/refs",
            "ssh://a.example/x/info/refs",
            "https://user:pw@a.example/x/info/refs",
            "https://a.example/login",
        ] {
            assert_eq!(moved(secure, target), None, "{target}");
        }
        assert_eq!(moved(plain, "http://b.example/x/info/refs"), None);
    }
}
