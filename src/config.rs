//! What the operator decided for this process: flags over `VIKING_*` over the configuration file over
//! defaults, checked once and passed down. Made by the CLI for `viking host` and `viking up`.

pub mod file;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::model::host::Declared;
use crate::model::names::HostName;

/// Where the API listens when nobody says otherwise.
pub const API_DEFAULT: &str = "127.0.0.1:8791";
/// Where images are pulled from when nobody says otherwise.
pub const REGISTRY_PORT_DEFAULT: u16 = 5000;
/// The CA that gives certificates when nobody says otherwise.
pub const ACME_DIRECTORY_DEFAULT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Host ports that viking hands out: below Linux's ephemeral range, above the well-known ones.
pub const PORTS_FIRST: u16 = 20_000;
/// See [`PORTS_FIRST`].
pub const PORTS_LAST: u16 = 29_999;

/// Everything a host needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where viking keeps its store, mirrors and cluster id.
    pub data_dir: PathBuf,
    /// Docker's address: `unix:///…`.
    pub docker: String,
    /// Where the API listens.
    pub api: SocketAddr,
    /// Loopback port under which every image is named and pulled.
    pub registry_port: u16,
    /// Image of the registry's own job; must be on the host or pullable.
    pub registry_image: String,
    /// This host's name.
    pub host: HostName,
    /// The address ports are published on.
    pub address: IpAddr,
    /// The front door.
    pub front: FrontDoor,
    /// What the operator says of the machine: tags, and what it can hold.
    pub declared: Declared,
    /// Optional prefix of every key.
    pub prefix: String,
    /// Where etcd is; none for the store in the data directory.
    pub etcd: Option<Etcd>,
}

/// Where the router listens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    #[default]
    Off,
    /// On the usual port of every address, if nobody else does: a machine that serves something else there
    /// can be a host all the same.
    Usual(u16),
    /// There, or not at all.
    At(SocketAddr),
}

/// What the operator decided about the front HTTP router.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrontDoor {
    /// Where it speaks HTTP.
    pub http: Listen,
    /// Where it speaks HTTP over TLS.
    pub https: Listen,
    /// Folder of certificates and their keys.
    pub certificates: PathBuf,
    /// How long browsers are told to come over https only, seconds; 0 to say nothing of it.
    pub hsts_s: u64,
    /// Who gives certificates that are not in the folder; none when nobody does.
    pub acme: Option<Acme>,
    /// Proxies in front of it, whose word about their clients counts.
    pub trusted: Vec<IpNet>,
    /// Each so many-th request is written to the log; 0 for none.
    pub access_log: u64,
}

/// A CA that gives certificates by ACME (RFC 8555).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// Whom it may write to.
    pub email: String,
    /// Its directory.
    pub directory: String,
    /// The authority that signed the directory's own certificate, when browsers do not trust it.
    pub ca: Option<PathBuf>,
}

/// Where etcd is, and what lets us in. Names files, never holds what is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Etcd {
    /// Addresses of its members.
    pub endpoints: Vec<String>,
    /// The authority that signed the members' certificates.
    pub ca: Option<PathBuf>,
    /// Our certificate, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Our user, and the file of its password.
    pub user: Option<(String, PathBuf)>,
}

impl Config {
    /// The address in front of every image of ours.
    #[must_use]
    pub fn registry(&self) -> String {
        format!("127.0.0.1:{}", self.registry_port)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/viking"),
            docker: "unix:///var/run/docker.sock".to_owned(),
            api: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8791),
            registry_port: REGISTRY_PORT_DEFAULT,
            registry_image: "registry:2".to_owned(),
            host: HostName::parse("localhost").expect("a valid name"),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            front: FrontDoor::default(),
            declared: Declared::default(),
            prefix: String::new(),
            etcd: None,
        }
    }
}
