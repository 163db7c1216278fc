//! What a CA is answered when it looks whether a domain is ours: a page over HTTP (RFC 8555, 8.3), or a
//! certificate in a handshake of its own (RFC 8737). Knows only challenges that are on record; whatever
//! else is asked below the same path is the application's.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use hyper::Method;
use hyper::http::request;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};

use crate::model::certificate::{ChallengeKind, ChallengeRecord};
use crate::model::route::host_of;

/// Where the page is asked for.
const PATH: &str = "/.well-known/acme-challenge/";

/// The protocol that the handshake is for.
pub(super) const PROTOCOL: &[u8] = b"acme-tls/1";

/// Challenges that are answered now.
#[derive(Debug, Default)]
pub struct Challenges(ArcSwap<Posed>);

#[derive(Debug, Default)]
struct Posed {
    records: BTreeMap<String, ChallengeRecord>,
    /// For the handshake, by domain.
    certificates: BTreeMap<String, Arc<CertifiedKey>>,
}

impl Challenges {
    /// Answers these and no others; the tokens of those that it can answer.
    pub fn pose(&self, records: BTreeMap<String, ChallengeRecord>) -> Vec<String> {
        let before = self.0.load();
        if before.records == records {
            return records.into_keys().collect();
        }
        let mut posed = Posed::default();
        for (token, record) in records {
            if record.kind == ChallengeKind::TlsAlpn01 {
                match certificate(&record) {
                    Ok(made) => {
                        posed
                            .certificates
                            .insert(record.domain.clone(), Arc::new(made));
                    }
                    Err(error) => {
                        tracing::warn!(domain = record.domain, "no proof: {error:#}");
                        continue;
                    }
                }
            }
            posed.records.insert(token, record);
        }
        let tokens = posed.records.keys().cloned().collect();
        self.0.store(Arc::new(posed));
        tokens
    }

    /// What a request for `host` is answered, if it is the CA's.
    pub(super) fn answer(&self, host: &str, parts: &request::Parts) -> Option<String> {
        let token = parts.uri.path().strip_prefix(PATH)?;
        let posed = self.0.load();
        let record = posed.records.get(token)?;
        let asked = matches!(parts.method, Method::GET | Method::HEAD)
            && record.kind == ChallengeKind::Http01
            && record.domain == host;
        asked.then(|| record.answer.expose().to_owned())
    }
}

impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = host_of(hello.server_name()?)?;
        self.0.load().certificates.get(&host).cloned()
    }
}

/// Whether a client asks for a proof and for nothing else.
pub(super) fn asks_for_proof(hello: &ClientHello<'_>) -> bool {
    let mut protocols = hello.alpn().into_iter().flatten();
    protocols.next() == Some(PROTOCOL) && protocols.next().is_none()
}

/// A certificate that signs itself and holds the digest of the answer (RFC 8737, 3).
fn certificate(record: &ChallengeRecord) -> anyhow::Result<CertifiedKey> {
    let key = KeyPair::generate().context("making a key")?;
    let mut params = CertificateParams::new(vec![record.domain.clone()])?;
    let digest = Sha256::digest(record.answer.expose().as_bytes());
    let extension = CustomExtension::new_acme_identifier(&digest);
    params.custom_extensions = vec![extension];
    let made = params.self_signed(&key)?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let private = ring::sign::any_supported_type(&private)?;
    Ok(CertifiedKey::new(vec![made.der().clone()], private))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::env::SecretValue;

    fn posed(kind: ChallengeKind) -> Challenges {
        let challenges = Challenges::default();
        let record = ChallengeRecord {
            v: 1,
            domain: "shop.test".to_owned(),
            kind,
            answer: SecretValue::parse("tok.thumb".to_owned()).unwrap(),
        };
        let tokens = challenges.pose(BTreeMap::from([("tok".to_owned(), record)]));
        assert_eq!(tokens, ["tok"]);
        challenges
    }

    fn answered(challenges: &Challenges, method: &str, host: &str, uri: &str) -> Option<String> {
        let request = hyper::Request::builder().method(method).uri(uri).body(());
        let (parts, ()) = request.unwrap().into_parts();
        challenges.answer(host, &parts)
    }

    #[test]
    fn only_the_very_page_of_the_very_domain_is_answered() {
        let challenges = posed(ChallengeKind::Http01);
        let page = "/.well-known/acme-challenge/tok";
        let answer = answered(&challenges, "GET", "shop.test", page);
        assert_eq!(answer.as_deref(), Some("tok.thumb"));
        assert!(answered(&challenges, "HEAD", "shop.test", page).is_some());
        for (method, host, uri) in [
            ("POST", "shop.test", page),
            ("GET", "other.test", page),
            ("GET", "shop.test", "/.well-known/acme-challenge/"),
            ("GET", "shop.test", "/.well-known/acme-challenge/other"),
            ("GET", "shop.test", "/.well-known/acme-challenge/tok/"),
            ("GET", "shop.test", "/.well-known/acme-challenge/%74ok"),
            ("GET", "shop.test", "/x/.well-known/acme-challenge/tok"),
        ] {
            assert_eq!(
                answered(&challenges, method, host, uri),
                None,
                "{host}{uri}"
            );
        }
        let other = posed(ChallengeKind::TlsAlpn01);
        assert_eq!(answered(&other, "GET", "shop.test", page), None);
    }

    #[test]
    fn what_is_posed_no_more_is_answered_no_more() {
        let challenges = posed(ChallengeKind::Http01);
        assert!(challenges.pose(BTreeMap::new()).is_empty());
        let page = "/.well-known/acme-challenge/tok";
        assert_eq!(answered(&challenges, "GET", "shop.test", page), None);
        let handshakes = posed(ChallengeKind::TlsAlpn01);
        assert!(handshakes.0.load().certificates.contains_key("shop.test"));
        handshakes.pose(BTreeMap::new());
        assert!(handshakes.0.load().certificates.is_empty());
    }
}
