//! The engine: everything viking asks of Docker, as one trait with a real kind (`bollard`) and a
//! stricter, slower, failing-on-request fake. Called by `build` and `deploy`. Decides nothing.

pub mod bollard;
pub mod fake;
pub mod lines;
pub mod probe;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ipnet::IpNet;
use tokio::sync::mpsc;

use crate::model::spec::{HealthCheck, Proto};

/// What must be said to the log whatever people ask for: below this, the client of the engine logs each
/// request whole, the environment of containers included.
pub const LOG_AT_MOST: [&str; 2] = ["bollard=info", "bollard::docker=info"];

/// Labels viking puts on what it makes.
pub mod label {
    /// Cluster id: what lacks ours is never touched.
    pub const CLUSTER: &str = "viking.cluster";
    /// Stack.
    pub const STACK: &str = "viking.stack";
    /// Tag.
    pub const TAG: &str = "viking.tag";
    /// Node.
    pub const NODE: &str = "viking.node";
    /// Slot.
    pub const SLOT: &str = "viking.slot";
    /// Instance.
    pub const INSTANCE: &str = "viking.instance";
    /// Spec hash.
    pub const SPEC: &str = "viking.spec";
    /// Links: JSON list of the ambassador's listeners this container was told of.
    pub const LINKS: &str = "viking.links";
    /// Container path of a volume.
    pub const PATH: &str = "viking.path";
    /// Name of a named volume.
    pub const VOLUME: &str = "viking.volume";
    /// Of an image: the cluster that built it. Another word than a container's own label, because the
    /// containers of build steps, and of anybody who runs the image, inherit it.
    pub const IMAGE_CLUSTER: &str = "viking.image.cluster";
    /// Of an image: its stack.
    pub const IMAGE_STACK: &str = "viking.image.stack";
}

/// Why the engine did not do it, sorted by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Cannot be reached or did not answer in time: what runs there is unknown, not dead.
    #[error("docker does not answer: {0}")]
    Unreachable(String),
    /// No such image, container, network or volume.
    #[error("docker has no {0}")]
    NotFound(String),
    /// The name is taken.
    #[error("docker name taken: {0}")]
    Conflict(String),
    /// The host port is taken.
    #[error("port taken: {0}")]
    PortTaken(String),
    /// No space left.
    #[error("docker's disk is full: {0}")]
    DiskFull(String),
    /// A build step failed; the commit's own fault.
    #[error("build failed: {0}")]
    BuildFailed(String),
    /// The container cannot be started as its spec says (no such command, bad user): the commit's
    /// own fault.
    #[error("cannot start: {0}")]
    BadSpec(String),
    /// Anything else the engine or a registry said.
    #[error("docker said: {0}")]
    Other(String),
}

/// An engine's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What the engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Version.
    pub version: String,
    /// Cores.
    pub cpus: u64,
    /// Bytes.
    pub memory_bytes: u64,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunState {
    /// Made, never started.
    Created,
    /// Runs.
    Running,
    /// Frozen by somebody.
    Paused,
    /// Ended.
    Exited,
    /// On its way out, or broken beyond use.
    Dead,
}

/// What the image's own HEALTHCHECK says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageHealth {
    /// Not known yet.
    Starting,
    /// Works.
    Healthy,
    /// Does not.
    Unhealthy,
}

/// One container, as the engine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Engine id.
    pub id: String,
    /// Name without slash.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// State.
    pub state: RunState,
    /// Exit code of the last exit.
    pub exit_code: i64,
    /// Whether the kernel ended it for want of memory.
    pub oom_killed: bool,
    /// What the engine says of a failed start.
    pub error: String,
    /// Unix milliseconds of the last start; 0 when never.
    pub started_ms: u64,
    /// Unix milliseconds of the last end; 0 when never.
    pub finished_ms: u64,
    /// The image's own health check, if it has one.
    pub health: Option<ImageHealth>,
    /// Networks by name, with this container's address there (absent while stopped).
    pub networks: BTreeMap<String, Option<IpAddr>>,
    /// Volumes: (volume name, container path).
    pub mounts: BTreeSet<(String, String)>,
    /// Memory limit in bytes; 0 for none.
    pub memory_bytes: u64,
    /// CPU limit in thousandths of a core; 0 for none.
    pub cpu_millis: u64,
    /// Published ports as asked for at creation: known also while stopped.
    pub published: BTreeSet<PortBinding>,
    /// Image id.
    pub image_id: String,
}

/// A container in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Engine id.
    pub id: String,
    /// Name without slash.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What its process is doing.
    pub state: RunState,
    /// Networks it is on, with its address on each.
    pub networks: BTreeMap<String, Option<IpAddr>>,
}

/// A container port bound to a host address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortBinding {
    /// Container port.
    pub port: u16,
    /// Protocol.
    pub proto: Proto,
    /// Host address.
    pub ip: IpAddr,
    /// Host port.
    pub host_port: u16,
}

/// A container to be made. Nothing here can ask for privileges: the hardening is the engine
/// module's own and the same for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewContainer {
    /// Name.
    pub name: String,
    /// Reference or id.
    pub image: String,
    /// Command.
    pub command: Option<Vec<String>>,
    /// Entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Working directory.
    pub cwd: Option<String>,
    /// User.
    pub user: Option<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The stack's network; empty for none at all.
    pub network: String,
    /// Further names on that network.
    pub aliases: Vec<String>,
    /// Volumes: (volume name, container path).
    pub mounts: Vec<(String, String)>,
    /// Published ports.
    pub ports: Vec<PortBinding>,
    /// Memory limit in bytes; 0 for none.
    pub memory_bytes: u64,
    /// CPU limit in thousandths of a core; 0 for none.
    pub cpu_millis: u64,
    /// Stop signal, if not the image's.
    pub stop_signal: Option<String>,
}

/// An image on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// `name@sha256:…` in registries it was pulled from or pushed to.
    pub repo_digests: Vec<String>,
    /// Bytes.
    pub size_bytes: u64,
    /// Whether it brings its own HEALTHCHECK.
    pub has_healthcheck: bool,
    /// Its ONBUILD lines: what a build on it runs first.
    pub on_build: Vec<String>,
}

/// A build. The context is a tar, already holding the Dockerfile.
pub struct BuildRequest {
    /// Path of the Dockerfile inside the tar.
    pub dockerfile: String,
    /// Stage.
    pub target: Option<String>,
    /// Arguments.
    pub args: BTreeMap<String, String>,
    /// Platform.
    pub platform: Option<String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Name to give the result, `repository:tag`.
    pub name: String,
    /// The tar, in pieces; an `Err` ends the build with that error.
    pub context: mpsc::Receiver<std::io::Result<Bytes>>,
}

/// What happens during a pull, push or build: lines for people. The engine waits while the channel
/// is full, so the reader must read or drop its end; a dropped end is fine.
pub type Lines = mpsc::Sender<String>;

/// A bridge network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Engine id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The host's address on it, with the network's prefix length.
    pub gateway: Option<IpNet>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Something changed in the engine. A hint: the reader looks again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEvent {
    /// Docker's word: `start`, `die`, `stop`, `kill`, `pause`, `update`, `destroy`, `disconnect`, …
    pub action: String,
    /// Labels of the container (empty for networks).
    pub labels: BTreeMap<String, String>,
    /// Name of the container or network.
    pub name: String,
    /// Engine id of the container: that a network's `connect` or `disconnect` is about, too.
    pub container: Option<String>,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// A line of a container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// From standard error.
    pub stderr: bool,
    /// Without the line end, cut to a bounded length.
    pub text: String,
    /// Unix nanoseconds at which the engine took it; later lines of a container have later ones.
    pub at_ns: u64,
}

/// Which lines of a container's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogQuery {
    /// At most so many of those there are.
    pub tail: usize,
    /// Only lines the engine took after this, Unix nanoseconds; 0 for all. A container that is
    /// started again goes on with its log.
    pub after_ns: u64,
    /// Then further ones until it ends or the reader goes away.
    pub follow: bool,
}

impl LogQuery {
    /// The last lines there are.
    #[must_use]
    pub fn last(tail: usize) -> Self {
        Self {
            tail,
            after_ns: 0,
            follow: false,
        }
    }

    /// The last lines there are, then further ones.
    #[must_use]
    pub fn following(tail: usize) -> Self {
        Self {
            follow: true,
            ..Self::last(tail)
        }
    }
}

/// The engine.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// What it is. Not for every few seconds: the engine runs programs to find out.
    async fn info(&self) -> Result<EngineInfo>;
    /// Whether it answers.
    async fn ping(&self) -> Result<()>;

    /// All containers with a label `CLUSTER` of this value, running or not, in name order. Says
    /// nothing of what they do, so that it never waits for one that is just being started.
    async fn list(&self, cluster: &str) -> Result<Vec<Listed>>;
    /// One container by name or id, whoever made it.
    async fn container(&self, name: &str) -> Result<Option<Container>>;
    /// Makes a container; answers its id. The image must be present.
    async fn create(&self, new: &NewContainer) -> Result<String>;
    /// Starts it; starting a running one is fine.
    async fn start(&self, id: &str) -> Result<()>;
    /// Stops it, frozen or not: the signal (the container's own when `None`), then after `timeout`
    /// the kill. Waits until it has ended. Stopping a stopped or missing one is fine.
    async fn stop(&self, id: &str, signal: Option<&str>, timeout: Duration) -> Result<()>;
    /// Thaws it.
    async fn unpause(&self, id: &str) -> Result<()>;
    /// Sets limits of a running container (0 for none). `Err(Other)` when the engine cannot.
    async fn set_limits(&self, id: &str, memory_bytes: u64, cpu_millis: u64) -> Result<()>;
    /// Removes it, running or not. Named volumes stay. Removing a missing one is fine.
    async fn remove(&self, id: &str) -> Result<()>;
    /// Lines of its log.
    async fn logs(&self, id: &str, query: LogQuery) -> Result<mpsc::Receiver<LogLine>>;
    /// Runs a command inside; answers the exit code and the first output, cut. `Err(Other)` when it
    /// did not end in time (it is left to itself: the engine cannot end it).
    async fn exec(&self, id: &str, argv: &[String], timeout: Duration) -> Result<(i64, String)>;
    /// Tries a health check once. Outer error: the engine is unreachable, nothing is known. Inner
    /// error: the check failed, in words. `ip` is the address to dial; the container's own first
    /// one when absent. An HTTP check without port takes the first published TCP port.
    async fn probe(
        &self,
        container: &Container,
        check: &HealthCheck,
        ip: Option<IpAddr>,
        timeout: Duration,
    ) -> Result<std::result::Result<(), String>>;
    /// Containers' and networks' events from now on; the channel closes when the engine goes away.
    async fn events(&self) -> Result<mpsc::Receiver<EngineEvent>>;

    /// An image on this host by reference (`name:tag`, `name@digest`) or id.
    async fn image(&self, reference: &str) -> Result<Option<Image>>;
    /// Fetches an image.
    async fn pull(&self, reference: &str, lines: &Lines) -> Result<()>;
    /// The digest a registry has for a reference; `None` when it has none.
    async fn remote_digest(&self, reference: &str) -> Result<Option<String>>;
    /// Gives an image another name, `repository:tag`.
    async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<()>;
    /// Sends `repository:tag` to its registry; answers the manifest's digest.
    async fn push(&self, repository: &str, tag: &str, lines: &Lines) -> Result<String>;
    /// Builds an image; answers its id. Dropping the future ends the build.
    async fn build(&self, request: BuildRequest, lines: &Lines) -> Result<String>;
    /// Removes a name of an image (and its bytes with the last one). Missing is fine.
    async fn untag(&self, reference: &str) -> Result<()>;

    /// Our networks.
    async fn networks(&self, cluster: &str) -> Result<Vec<Network>>;
    /// Makes a bridge network if it is not there.
    async fn ensure_network(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Network>;
    /// Removes a network; `Err(Conflict)` while containers use it; missing is fine.
    async fn remove_network(&self, name: &str) -> Result<()>;

    /// Our volumes.
    async fn volumes(&self, cluster: &str) -> Result<Vec<Volume>>;
    /// Makes a volume if it is not there.
    async fn ensure_volume(&self, name: &str, labels: &BTreeMap<String, String>) -> Result<()>;
}

/// An engine shared by the loops of a process.
pub type SharedEngine = Arc<dyn Engine>;
