//! The container spec: everything a container is made from, and the hash that says whether a node
//! changed. Made by `viking.yml` and the build, written once under `/proc`, carried out by workers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::env::SharedVar;
use super::names::{NodeName, StackName, VolumeName};

/// Version of the hashed form. A new version of the form gets a new prefix, so that an upgrade of
/// viking alone never looks like a changed node.
const HASH_VERSION: &str = "v1";

/// A resolved image: exact bytes, wherever the registry happens to listen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ImageRef {
    /// In our registry: pulled as `<registry>/<repository>@<digest>`.
    Ours {
        /// Repository path without the registry's address, such as `ragnar/src`.
        repository: String,
        /// `sha256:…` of the manifest.
        digest: String,
    },
    /// In somebody else's registry: pulled as `<name>@<digest>`.
    External {
        /// Reference without tag and digest, such as `redis` or `registry.example/x/y`.
        name: String,
        /// `sha256:…` of the manifest.
        digest: String,
    },
    /// Present on its host before anything else starts; used by image id (the registry itself).
    Local {
        /// `sha256:…` of the image's configuration.
        id: String,
    },
}

impl ImageRef {
    /// What the engine pulls and runs, given where our registry listens (`127.0.0.1:5000`).
    #[must_use]
    pub fn reference(&self, registry: &str) -> String {
        match self {
            Self::Ours { repository, digest } => format!("{registry}/{repository}@{digest}"),
            Self::External { name, digest } => format!("{name}@{digest}"),
            Self::Local { id } => id.clone(),
        }
    }

    /// The part that is identity: names and addresses are not.
    #[must_use]
    pub fn digest(&self) -> &str {
        match self {
            Self::Ours { digest, .. } | Self::External { digest, .. } => digest,
            Self::Local { id } => id,
        }
    }
}

/// TCP or UDP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// The default.
    #[default]
    Tcp,
    /// Written `53/udp`.
    Udp,
}

impl Proto {
    /// Whether it is the default, which records do not say.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        *self == Self::Tcp
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One exposed port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Expose {
    /// Port inside the container.
    pub port: u16,
    /// Protocol.
    #[serde(default, skip_serializing_if = "is_default")]
    pub proto: Proto,
    /// Fixed port on the host; makes the node exclusive. Without it viking picks one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
}

impl Expose {
    /// `80/tcp`: the way Docker, keys and status write a port.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}/{}", self.port, self.proto)
    }
}

/// One volume of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeMount {
    /// A name makes it one volume of the stack; without, one volume per node and slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<VolumeName>,
    /// Absolute path inside the container.
    pub path: String,
}

/// What a node links to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkTarget {
    /// Another stack, or this one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<StackName>,
    /// The node.
    pub node: NodeName,
}

impl fmt::Display for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stack {
            Some(stack) => write!(f, "{stack}/{}", self.node),
            None => write!(f, "{}", self.node),
        }
    }
}

/// How a container proves that it works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthCheck {
    /// GET of a path; any 2xx or 3xx, or exactly `status`.
    Http {
        /// Path with leading slash.
        path: String,
        /// Container port; the first exposed TCP port when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        /// The only status that counts, when given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
    },
    /// A TCP connection to a container port.
    Tcp {
        /// Container port.
        port: u16,
    },
    /// A command inside the container, exit 0.
    Cmd {
        /// Exec form.
        argv: Vec<String>,
    },
}

/// `health:` of a node. Times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What to try; absent: the image's HEALTHCHECK, else TCP on the first exposed TCP port, else
    /// "still running after two seconds".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<HealthCheck>,
    /// Between two tries.
    #[serde(
        default = "Health::interval_default",
        skip_serializing_if = "Health::is_interval_default"
    )]
    pub interval_ms: u64,
    /// For one try.
    #[serde(
        default = "Health::timeout_default",
        skip_serializing_if = "Health::is_timeout_default"
    )]
    pub timeout_ms: u64,
    /// Failures before this much life do not count.
    #[serde(
        default = "Health::start_period_default",
        skip_serializing_if = "Health::is_start_period_default"
    )]
    pub start_period_ms: u64,
    /// Failures in a row that make it unhealthy.
    #[serde(
        default = "Health::retries_default",
        skip_serializing_if = "Health::is_retries_default"
    )]
    pub retries: u32,
}

impl Health {
    fn interval_default() -> u64 {
        2_000
    }
    fn timeout_default() -> u64 {
        2_000
    }
    fn start_period_default() -> u64 {
        30_000
    }
    fn retries_default() -> u32 {
        3
    }
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde hands out references"
    )]
    fn is_interval_default(v: &u64) -> bool {
        *v == Self::interval_default()
    }
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde hands out references"
    )]
    fn is_timeout_default(v: &u64) -> bool {
        *v == Self::timeout_default()
    }
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde hands out references"
    )]
    fn is_start_period_default(v: &u64) -> bool {
        *v == Self::start_period_default()
    }
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde hands out references"
    )]
    fn is_retries_default(v: &u32) -> bool {
        *v == Self::retries_default()
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            check: None,
            interval_ms: Self::interval_default(),
            timeout_ms: Self::timeout_default(),
            start_period_ms: Self::start_period_default(),
            retries: Self::retries_default(),
        }
    }
}

/// Reserved when placing, and set as limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// Everything of a node's `viking.yml` entry that makes its container, but the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Command in exec form; the image's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Vec<String>>,
    /// Entry point in exec form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User, as Docker takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Environment variables that get the value of a shared one: which one, at which version. The
    /// value itself is in no spec.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shared: BTreeMap<String, SharedVar>,
    /// Exposed ports, in file order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<Expose>,
    /// Volumes, in file order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume: Vec<VolumeMount>,
    /// Links, in file order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link: Vec<LinkTarget>,
    /// Health check.
    #[serde(default, skip_serializing_if = "is_default")]
    pub health: Health,
    /// Limits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a container is made from: value of `/proc/<stack>/<tag>/<node>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Version of this record.
    pub v: u32,
    /// Exact image.
    pub image: ImageRef,
    /// Everything else.
    pub settings: Settings,
}

impl ContainerSpec {
    /// The spec of `image` run with `settings`.
    #[must_use]
    pub fn new(image: ImageRef, settings: Settings) -> Self {
        Self {
            v: 1,
            image,
            settings,
        }
    }

    /// The hash that decides whether a node changed. Defaults are not serialised, so they are not
    /// hashed; of the image only the digest counts.
    #[must_use]
    pub fn hash(&self) -> String {
        let form = serde_json::json!({ "image": self.image.digest(), "settings": self.settings });
        let digest = Sha256::digest(form.to_string().as_bytes());
        format!("{HASH_VERSION}:{}", hex::encode(&digest[..16]))
    }

    /// Whether two copies must never run at the same time: they share a volume or a port.
    #[must_use]
    pub fn exclusive(&self) -> bool {
        self.settings.exclusive()
    }
}

impl Settings {
    /// See [`ContainerSpec::exclusive`].
    #[must_use]
    pub fn exclusive(&self) -> bool {
        !self.volume.is_empty() || self.expose.iter().any(|e| e.host_port.is_some())
    }

    /// The port health checks and links fall back to.
    #[must_use]
    pub fn first_tcp_port(&self) -> Option<u16> {
        self.expose
            .iter()
            .find(|e| e.proto == Proto::Tcp)
            .map(|e| e.port)
    }
}

/// How a job is stopped after draining. Not part of the spec's hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPolicy {
    /// Signal name, such as `SIGQUIT`; the image's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Milliseconds between the signal and the kill.
    pub timeout_ms: u64,
    /// How long it may take for the requests it has, once it is replaced, before the signal.
    #[serde(default = "drain_default")]
    pub drain_ms: u64,
}

/// Design, section 2: a container that the engine does not get rid of, or a websocket, must not keep the
/// next release from going live.
fn drain_default() -> u64 {
    30_000
}

/// Longest time between tries, for a try, to drain, before the kill, milliseconds: more is a typing error.
pub const DURATION_MS_MAX: u64 = 3_600_000;

impl Default for StopPolicy {
    fn default() -> Self {
        Self {
            signal: None,
            timeout_ms: 10_000,
            drain_ms: drain_default(),
        }
    }
}

/// One address a container port is published at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// Port inside the container.
    pub port: u16,
    /// Protocol.
    pub proto: Proto,
    /// The host's address.
    pub ip: IpAddr,
    /// The host's port.
    pub host_port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ContainerSpec {
        let image = ImageRef::Ours {
            repository: "ragnar/src".into(),
            digest: "sha256:1".into(),
        };
        ContainerSpec::new(
            image,
            Settings {
                run: Some(vec!["a".into()]),
                ..Settings::default()
            },
        )
    }

    #[test]
    fn the_hash_sees_settings_and_digest_but_no_names() {
        let mut other = spec();
        other.image = ImageRef::External {
            name: "x".into(),
            digest: "sha256:1".into(),
        };
        assert_eq!(spec().hash(), other.hash());
        other.image = ImageRef::External {
            name: "x".into(),
            digest: "sha256:2".into(),
        };
        assert_ne!(spec().hash(), other.hash());
        let mut other = spec();
        other.settings.cwd = Some("/srv".into());
        assert_ne!(spec().hash(), other.hash());
    }

    #[test]
    fn a_default_written_out_is_the_same_spec() {
        let mut other = spec();
        other.settings.health = Health {
            interval_ms: 2_000,
            ..Health::default()
        };
        assert_eq!(spec().hash(), other.hash());
    }

    #[test]
    fn the_version_of_a_shared_variable_counts_and_specs_without_one_are_as_they_were() {
        let at = |version: u64| {
            let mut spec = spec();
            let var = SharedVar {
                scope: "prod".parse().unwrap(),
                name: "TOKEN".parse().unwrap(),
                version,
            };
            spec.settings.shared.insert("TOKEN".into(), var);
            spec
        };
        assert_eq!(at(1).hash(), at(1).hash());
        assert_ne!(at(1).hash(), at(2).hash());
        assert_ne!(at(1).hash(), spec().hash());
        // The hash that was on record before there were shared variables.
        assert_eq!(spec().hash(), "v1:eff3b167aea525abe57f9d83b66f7323");
        let text = serde_json::to_string(&at(2)).unwrap();
        assert_eq!(serde_json::from_str::<ContainerSpec>(&text).unwrap(), at(2));
    }

    #[test]
    fn a_spec_survives_the_store() {
        let text = serde_json::to_string(&spec()).unwrap();
        assert_eq!(
            serde_json::from_str::<ContainerSpec>(&text).unwrap(),
            spec()
        );
    }
}
