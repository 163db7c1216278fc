//! The copies of viking's own registry, in words that hosts, builds and the leader share: where each
//! answers, which are whole, and the credential between hosts. Made by `store` and `router`; decides
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::job::{JobId, JobKey};
use super::names::{NodeName, StackName};

/// The port a registry listens on in its container.
pub const REGISTRY_PORT: u16 = 5000;

/// Bytes of a credential.
const CREDENTIAL_BYTES: usize = 32;

/// Whether a job is a copy of the registry.
#[must_use]
pub fn is_registry(stack: &StackName, node: &NodeName) -> bool {
    *stack == StackName::core() && *node == NodeName::registry()
}

/// Whether a job is a copy of the registry.
#[must_use]
pub fn runs_registry(job: &JobKey) -> bool {
    is_registry(&job.stack, &job.node)
}

/// Where the registry's own image is kept in the registry itself. No stack's image can have that name.
pub const IMAGE_REPOSITORY: &str = "core/registry";

/// Digits of an image id that are its tag there.
const ID_DIGITS: usize = 12;

/// The tag of the registry's own image in [`IMAGE_REPOSITORY`].
#[must_use]
pub fn image_tag(id: &str) -> String {
    let digits = id.strip_prefix("sha256:").unwrap_or(id).chars();
    let digits = digits.filter(char::is_ascii_alphanumeric);
    format!("i{}", digits.take(ID_DIGITS).collect::<String>())
}

/// The registry's own image, as Docker pulls it from the registry at `address`.
#[must_use]
pub fn image_reference(address: &str, id: &str) -> String {
    format!("{address}/{IMAGE_REPOSITORY}:{}", image_tag(id))
}

/// Where each copy that is known answers, by the job that runs it: a loopback address of this host
/// that leads to this copy and no other.
pub type CopyAddresses = BTreeMap<JobId, SocketAddr>;

/// What one host shows another before it may speak to the registry there. It is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Credential([u8; CREDENTIAL_BYTES]);

impl Credential {
    /// Of bytes that nobody can guess.
    #[must_use]
    pub fn new(random: [u8; CREDENTIAL_BYTES]) -> Self {
        Self(random)
    }

    /// The bytes, for who computes with them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

impl From<Credential> for String {
    fn from(credential: Credential) -> Self {
        use std::fmt::Write as _;
        credential.0.iter().fold(Self::new(), |mut text, byte| {
            // Writing to a text does not fail.
            write!(text, "{byte:02x}").ok();
            text
        })
    }
}

impl TryFrom<String> for Credential {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // Without the text: an error is printed.
        let wrong = "not a credential";
        if text.len() != 2 * CREDENTIAL_BYTES || !text.is_ascii() {
            return Err(wrong);
        }
        let mut bytes = [0; CREDENTIAL_BYTES];
        for (n, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * n..2 * n + 2).ok_or(wrong)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong)?;
        }
        Ok(Self(bytes))
    }
}

/// Value of `/secret/registry/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialRecord {
    /// Version of this record.
    pub v: u32,
    /// The credential.
    pub credential: Credential,
}

/// Value of `/registry/whole`: copies that hold everything some copy holds. Others are asked last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeRecord {
    /// Version of this record.
    pub v: u32,
    /// By the job that runs it.
    pub whole: BTreeSet<JobId>,
}

/// Asks the forwarder of this host to try another copy for the next connection: the one it has does
/// answer, and does not do its work. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Turn(Arc<AtomicU64>);

impl Turn {
    /// Asks.
    pub fn ask(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often somebody asked.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_survives_its_record_and_is_never_printed() {
        let credential = Credential::new([0xab; 32]);
        let record = CredentialRecord {
            v: 1,
            credential: credential.clone(),
        };
        let text = serde_json::to_string(&record).unwrap();
        let read: CredentialRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(read, record);
        assert!(!format!("{record:?}").contains("abab"));
        let cut = text.replace("abab", "");
        let error = serde_json::from_str::<CredentialRecord>(&cut).unwrap_err();
        assert!(!error.to_string().contains("ab"), "{error}");
        let odd = text.replacen("ab", "é", 1);
        serde_json::from_str::<CredentialRecord>(&odd).unwrap_err();
    }
}
