//! Certificates that a CA gives by ACME, in words that leader, router and API share: what is known of
//! a domain's certificate, what is secret of it, and the challenges that prove a domain to be ours.
//! Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::env::SecretValue;
use super::wire::rfc3339;

/// Most challenges that hosts answer at a time: more are left out.
pub const CHALLENGES_MAX: usize = 64;

/// Value of `/certificate/<domain>`: what anybody may know of a domain's certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateNote {
    /// Version of this record.
    pub v: u32,
    /// Since when the certificate is valid, Unix milliseconds; 0 while there is none.
    #[serde(default)]
    pub from_ms: u64,
    /// Until when.
    #[serde(default)]
    pub until_ms: u64,
    /// When an order was begun last.
    #[serde(default)]
    pub tried_ms: u64,
    /// Orders in a row that came to nothing.
    #[serde(default)]
    pub failures: u32,
    /// Why the last one did, in words; empty once one went well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Until when none is tried again after a failure.
    #[serde(default)]
    pub next_ms: u64,
    /// Since when nobody needs it; 0 while somebody does.
    #[serde(default)]
    pub unwanted_ms: u64,
}

impl CertificateNote {
    /// Whether there is a certificate that browsers still take.
    #[must_use]
    pub fn is_valid(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms
    }

    /// How it stands, for people.
    #[must_use]
    pub fn words(&self, now_ms: u64) -> String {
        let next = rfc3339(self.next_ms);
        match (self.is_valid(now_ms), self.failures) {
            (true, 0) => format!("valid until {}", rfc3339(self.until_ms)),
            (true, _) => format!(
                "valid until {}, not renewed yet: {}; next try at {next}",
                rfc3339(self.until_ms),
                self.reason
            ),
            (false, 0) => "none yet: ordered when it is its turn".to_owned(),
            (false, _) => format!("none: {}; next try at {next}", self.reason),
        }
    }
}

/// What is said of a domain that no challenge of ours can prove.
pub const WILDCARD: &str = "none: a certificate for *. needs a challenge by DNS, which viking does not do; put one in \
     the folder of certificates";

/// What is said when a CA could not come to any host.
pub const SHUT: &str = "no host's router listens for the CA to come to; see --http and --https";

/// Value of `/secret/certificate/<domain>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Version of this record.
    pub v: u32,
    /// The certificate and those between it and the root, in PEM.
    pub chain: String,
    /// Its key, in PEM.
    pub key: SecretValue,
}

/// Value of `/secret/acme/account`: who the cluster is to the CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    /// Version of this record.
    pub v: u32,
    /// The CA that knows it.
    pub directory: String,
    /// Whom it may write to.
    pub email: String,
    /// Its name there and its key, as the client keeps them.
    pub credentials: SecretValue,
}

/// How a domain is proved to be ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChallengeKind {
    /// A page over HTTP in the clear (RFC 8555, 8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate in a handshake of its own (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl fmt::Display for ChallengeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        })
    }
}

/// Value of `/secret/challenge/<token>`: what every host answers while the CA asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeRecord {
    /// Version of this record.
    pub v: u32,
    /// The domain that is proved.
    pub domain: String,
    /// How.
    pub kind: ChallengeKind,
    /// The key authorization (RFC 8555, 8.1).
    pub answer: SecretValue,
}

/// What a host says of its front door, as part of `/host/<host>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorRecord {
    /// Whether it listens for HTTP in the clear.
    #[serde(default)]
    pub http: bool,
    /// Whether it listens for HTTP over TLS.
    #[serde(default)]
    pub https: bool,
    /// Tokens of the challenges that it answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
}

impl DoorRecord {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a challenge of a kind can come to it.
    #[must_use]
    pub fn takes(&self, kind: ChallengeKind) -> bool {
        match kind {
            ChallengeKind::Http01 => self.http,
            ChallengeKind::TlsAlpn01 => self.https,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_what_there_is_and_why_there_is_no_more() {
        let none = CertificateNote::default();
        assert_eq!(none.words(1), "none yet: ordered when it is its turn");
        let failed = CertificateNote {
            failures: 2,
            reason: "the CA is down".to_owned(),
            next_ms: 2_000,
            ..none
        };
        let told = "none: the CA is down; next try at 1970-01-01T00:00:02Z";
        assert_eq!(failed.words(1), told);
        let valid = CertificateNote {
            until_ms: 9_000,
            ..failed
        };
        assert_eq!(
            valid.words(1),
            "valid until 1970-01-01T00:00:09Z, not renewed yet: the CA is down; next try at 1970-01-01T00:00:02Z"
        );
        assert_eq!(valid.words(9_000), told);
    }

    #[test]
    fn keys_and_answers_are_never_printed() {
        let hidden = |text: &str| SecretValue::parse(text.to_owned()).unwrap();
        let certificate = CertificateRecord {
            v: 1,
            chain: "chain".to_owned(),
            key: hidden("private"),
        };
        let challenge = ChallengeRecord {
            v: 1,
            domain: "shop.test".to_owned(),
            kind: ChallengeKind::Http01,
            answer: hidden("private"),
        };
        let account = AccountRecord {
            v: 1,
            directory: String::new(),
            email: String::new(),
            credentials: hidden("private"),
        };
        let shown = format!("{certificate:?} {challenge:?} {account:?}");
        assert!(!shown.contains("private"), "{shown}");
        let text = serde_json::to_string(&challenge).unwrap();
        assert!(text.contains(r#""kind":"http-01""#), "{text}");
        assert_eq!(
            serde_json::from_str::<ChallengeRecord>(&text).unwrap(),
            challenge
        );
    }
}
