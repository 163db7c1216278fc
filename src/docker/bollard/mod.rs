//! The real engine: Docker's API through bollard. Called by `build` and `deploy` through the trait.
//! Gives every call a deadline and every error its kind; decides nothing and retries nothing.

mod builds;
mod containers;
mod create;
mod errors;
mod images;
mod inspect;
mod networks;
mod streams;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use tokio::sync::{Mutex, OnceCell, mpsc};

use self::errors::{Doing, sort};
use super::{
    BuildRequest, Container, Engine, EngineEvent, EngineInfo, Error, Image, Lines, Listed, LogLine,
    LogQuery, Network, NewContainer, Result, Volume, probe,
};
use crate::model::spec::HealthCheck;

/// How long each kind of call may take before the engine counts as unreachable. A hung daemon
/// accepts and never answers, so every call has one.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Ping, list, inspect and other questions.
    pub look: Duration,
    /// Creating a container, network or volume; removing things.
    pub create: Duration,
    /// Starting a container: networking and mounts included.
    pub start: Duration,
    /// On top of a stop's own timeout: the kill and the clean-up.
    pub stop_extra: Duration,
    /// Asking a registry for a digest.
    pub registry: Duration,
    /// A pull or push.
    pub transfer: Duration,
    /// A build.
    pub build: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(10),
            create: Duration::from_secs(30),
            start: Duration::from_secs(60),
            stop_extra: Duration::from_secs(20),
            registry: Duration::from_secs(15),
            transfer: Duration::from_secs(10 * 60),
            build: Duration::from_secs(30 * 60),
        }
    }
}

/// bollard's own timeout, in seconds; longer than every deadline of ours, which count instead.
const RAW_TIMEOUT_S: u64 = 24 * 60 * 60;
/// The scheme of a Docker address.
const UNIX: &str = "unix://";

/// Docker.
#[derive(Debug)]
pub struct BollardEngine {
    path: String,
    deadlines: Deadlines,
    /// Made and its API version agreed upon at the first call that gets an answer.
    raw: OnceCell<Docker>,
    /// One network is made at a time: engine 20.10 makes two of one name without a word.
    making_network: Mutex<()>,
}

impl BollardEngine {
    /// The engine at `unix:///path` or a plain path. Nothing is sent yet, so a Docker that is down
    /// is found by the first call.
    pub fn connect(docker: &str) -> Result<Self> {
        Self::connect_with(docker, Deadlines::default())
    }

    /// As [`Self::connect`], with other deadlines.
    pub fn connect_with(docker: &str, deadlines: Deadlines) -> Result<Self> {
        let path = docker.strip_prefix(UNIX).unwrap_or(docker);
        if !path.starts_with('/') {
            let text = format!("{docker:?} is no Docker address: wanted {UNIX}/path");
            return Err(Error::Unreachable(text));
        }
        Ok(Self {
            path: path.to_owned(),
            deadlines,
            raw: OnceCell::new(),
            making_network: Mutex::new(()),
        })
    }

    /// bollard's client, connected. It must be asked to negotiate, or a later version of it pins
    /// an API that an older engine refuses.
    async fn raw(&self) -> Result<&Docker> {
        let connect = || async {
            let raw =
                Docker::connect_with_unix(&self.path, RAW_TIMEOUT_S, bollard::API_DEFAULT_VERSION)
                    .map_err(|error| sort(error, Doing::Else))?;
            within(self.deadlines.look, Doing::Else, raw.negotiate_version()).await
        };
        self.raw.get_or_try_init(connect).await
    }
}

/// Waits for an answer, but not for ever.
async fn within<T>(
    deadline: Duration,
    doing: Doing,
    call: impl Future<Output = std::result::Result<T, bollard::errors::Error>>,
) -> Result<T> {
    match tokio::time::timeout(deadline, call).await {
        Ok(answer) => answer.map_err(|error| sort(error, doing)),
        Err(_) => Err(too_late(deadline)),
    }
}

fn too_late(deadline: Duration) -> Error {
    Error::Unreachable(format!("no answer within {deadline:?}"))
}

/// A missing thing is not an error.
fn found<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Names and ids become a segment of the request's path, so nothing that could leave it passes.
fn segment(name: &str) -> Result<&str> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !name.is_empty() && !name.starts_with('.') && name.chars().all(good) {
        return Ok(name);
    }
    Err(Error::BadSpec(format!("{name:?} is no name for Docker")))
}

#[async_trait]
impl Engine for BollardEngine {
    async fn info(&self) -> Result<EngineInfo> {
        let raw = self.raw().await?;
        let info = within(self.deadlines.look, Doing::Else, raw.info()).await?;
        Ok(EngineInfo {
            version: info.server_version.unwrap_or_default(),
            cpus: u64::try_from(info.ncpu.unwrap_or(0)).unwrap_or(0),
            memory_bytes: u64::try_from(info.mem_total.unwrap_or(0)).unwrap_or(0),
        })
    }

    async fn ping(&self) -> Result<()> {
        let raw = self.raw().await?;
        let answer = within(self.deadlines.look, Doing::Else, raw.ping()).await;
        answer.map(drop)
    }

    async fn list(&self, cluster: &str) -> Result<Vec<Listed>> {
        self.list_containers(cluster).await
    }

    async fn container(&self, name: &str) -> Result<Option<Container>> {
        self.inspect_container(name).await
    }

    async fn create(&self, new: &NewContainer) -> Result<String> {
        self.create_container(new).await
    }

    async fn start(&self, id: &str) -> Result<()> {
        let raw = self.raw().await?;
        let call = raw.start_container(segment(id)?, None);
        within(self.deadlines.start, Doing::Start, call).await
    }

    async fn stop(&self, id: &str, signal: Option<&str>, timeout: Duration) -> Result<()> {
        self.stop_container(id, signal, timeout).await
    }

    async fn unpause(&self, id: &str) -> Result<()> {
        let raw = self.raw().await?;
        let call = raw.unpause_container(segment(id)?);
        within(self.deadlines.start, Doing::Else, call).await
    }

    async fn set_limits(&self, id: &str, memory_bytes: u64, cpu_millis: u64) -> Result<()> {
        self.update_limits(id, memory_bytes, cpu_millis).await
    }

    async fn remove(&self, id: &str) -> Result<()> {
        self.remove_container(id).await
    }

    async fn logs(&self, id: &str, query: LogQuery) -> Result<mpsc::Receiver<LogLine>> {
        self.stream_logs(id, query).await
    }

    async fn exec(&self, id: &str, argv: &[String], timeout: Duration) -> Result<(i64, String)> {
        self.run_inside(id, argv, timeout).await
    }

    async fn probe(
        &self,
        container: &Container,
        check: &HealthCheck,
        ip: Option<IpAddr>,
        timeout: Duration,
    ) -> Result<std::result::Result<(), String>> {
        if let HealthCheck::Cmd { argv } = check {
            return self.probe_command(&container.id, argv, timeout).await;
        }
        let target = match probe::target(container, check, ip) {
            Ok(target) => target,
            Err(reason) => return Ok(Err(reason)),
        };
        Ok(match check {
            HealthCheck::Http { path, status, .. } => {
                probe::http(target, path, *status, timeout).await
            }
            HealthCheck::Tcp { .. } | HealthCheck::Cmd { .. } => probe::tcp(target, timeout).await,
        })
    }

    async fn events(&self) -> Result<mpsc::Receiver<EngineEvent>> {
        self.stream_events().await
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        self.inspect_image(reference).await
    }

    async fn pull(&self, reference: &str, lines: &Lines) -> Result<()> {
        self.pull_image(reference, lines).await
    }

    async fn remote_digest(&self, reference: &str) -> Result<Option<String>> {
        self.registry_digest(reference).await
    }

    async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<()> {
        self.tag_image(image, repository, tag).await
    }

    async fn push(&self, repository: &str, tag: &str, lines: &Lines) -> Result<String> {
        self.push_image(repository, tag, lines).await
    }

    async fn build(&self, request: BuildRequest, lines: &Lines) -> Result<String> {
        self.build_image(request, lines).await
    }

    async fn untag(&self, reference: &str) -> Result<()> {
        self.untag_image(reference).await
    }

    async fn networks(&self, cluster: &str) -> Result<Vec<Network>> {
        self.list_networks(cluster).await
    }

    async fn ensure_network(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Network> {
        self.make_network(name, labels).await
    }

    async fn remove_network(&self, name: &str) -> Result<()> {
        let raw = self.raw().await?;
        let call = raw.remove_network(segment(name)?);
        found(within(self.deadlines.create, Doing::Else, call).await).map(|_| ())
    }

    async fn volumes(&self, cluster: &str) -> Result<Vec<Volume>> {
        self.list_volumes(cluster).await
    }

    async fn ensure_volume(&self, name: &str, labels: &BTreeMap<String, String>) -> Result<()> {
        self.make_volume(name, labels).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_a_request() {
        for bad in ["", "..", "a/b", "a?b", "a b", "../x"] {
            assert!(segment(bad).is_err(), "{bad}");
        }
        assert!(segment("viking.ragnar.a1.web.0.17").is_ok());
    }

    #[test]
    fn an_address_is_a_socket_with_or_without_scheme() {
        assert!(BollardEngine::connect("unix:///run/docker.sock").is_ok());
        assert!(BollardEngine::connect("/run/docker.sock").is_ok());
        assert!(BollardEngine::connect("tcp://127.0.0.1:2375").is_err());
    }
}
