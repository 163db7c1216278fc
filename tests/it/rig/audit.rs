//! What must hold once a fault is over, whatever it was: as many jobs as wanted, none twice, no container that
//! nobody wants, `/ports` exactly those of healthy jobs and each reachable from every host, volumes where they
//! were. Reads what viking says and what every engine has, and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::Rig;
use super::net::inside;
use crate::e2e::docker::{Container, Runs, runs};

/// For a connection from one host to another.
const CONNECT: Duration = Duration::from_secs(2);

/// How soon after a fault everything must hold (`reliability.md` F, I2).
const AT_REST: Duration = Duration::from_secs(30);

/// Volumes of viking's, by host.
pub(super) type Volumes = BTreeMap<&'static str, BTreeSet<String>>;

/// A job of the live release, as the API shows it.
struct Job {
    container: String,
    host: String,
    endpoints: BTreeSet<String>,
}

impl Rig {
    /// Waits until everything is as it must be, and says what is not when that does not come.
    pub(crate) fn audit(&mut self, after: &str) {
        let what = format!("all is well after: {after}");
        let (volumes, took) = self.within(AT_REST, &what, || self.look());
        for (host, known) in &self.volumes {
            let now = volumes.get(host);
            let lost: Vec<&String> = known
                .iter()
                .filter(|volume| now.is_none_or(|now| !now.contains(*volume)))
                .collect();
            assert!(lost.is_empty(), "{after}: {host} lost {lost:?}");
        }
        self.volumes = volumes;
        if took > Duration::from_secs(1) {
            self.tell(&format!("{after}: settled for the audit"), took);
        }
    }

    fn look(&self) -> Result<Volumes, String> {
        let jobs = self.jobs()?;
        let containers = self.containers();
        self.one_container_for_each(&jobs, &containers)?;
        let ends = jobs.iter().flat_map(|job| self.for_others(job));
        let ends: BTreeSet<String> = ends.collect();
        self.ports_are(&ends)?;
        for host in &self.hosts {
            reachable(&host.space, &ends).map_err(|error| format!("{}: {error}", host.name))?;
        }
        let volumes = |host: &super::Host| (host.name, host.volumes().into_iter().collect());
        Ok(self.hosts.iter().map(volumes).collect())
    }

    /// The jobs that are wanted; all of them healthy and nothing under way.
    fn jobs(&self) -> Result<Vec<Job>, String> {
        let status = self.get("/v1/status")?;
        let stacks = status["stacks"].as_array().cloned().unwrap_or_default();
        let mut jobs = Vec::new();
        for stack in &stacks {
            if stack["health"] != "healthy" || !stack["staged"].is_null() {
                return Err(format!("{stack}"));
            }
            for row in stack["nodes"].as_array().into_iter().flatten() {
                let found = row["jobs"].as_array().cloned().unwrap_or_default();
                let whole = row["want"].as_u64() == Some(found.len() as u64);
                if row["release"] != "live" || !whole || row["healthy"] != row["want"] {
                    return Err(format!("{row}"));
                }
                jobs.extend(found.iter().map(job));
            }
        }
        if jobs.is_empty() {
            return Err("there are no jobs".to_owned());
        }
        Ok(jobs)
    }

    /// Where other hosts reach a job. A copy of the registry is published on loopback, and others come
    /// through its host's gate, on the same port.
    fn for_others(&self, job: &Job) -> Vec<String> {
        let host = self.hosts.iter().find(|host| host.name == job.host);
        let gate = |port: &str| format!("{}:{port}", host.expect("a host of ours").address);
        let ends = job.endpoints.iter();
        ends.map(|end| match end.strip_prefix("127.0.0.1:") {
            Some(port) => gate(port),
            None => end.clone(),
        })
        .collect()
    }

    /// Containers of all engines, with the host that has them.
    pub(crate) fn containers(&self) -> Vec<(&'static str, Container)> {
        let of = |host: &super::Host| {
            let found = host.containers().into_iter();
            found
                .map(|container| (host.name, container))
                .collect::<Vec<_>>()
        };
        self.hosts.iter().flat_map(of).collect()
    }

    /// Ids and start times of what runs, on all hosts.
    pub(crate) fn runs(&self) -> Runs {
        let all = self.containers();
        runs(all.iter().map(|(_, container)| container))
    }

    fn one_container_for_each(
        &self,
        jobs: &[Job],
        containers: &[(&'static str, Container)],
    ) -> Result<(), String> {
        let wanted: BTreeSet<(&str, &str)> = jobs
            .iter()
            .map(|job| (job.host.as_str(), job.container.as_str()))
            .collect();
        let running = containers.iter().filter(|(_, container)| container.running);
        let found: BTreeSet<(&str, &str)> = running
            .map(|(host, container)| (*host, container.name.as_str()))
            .collect();
        if wanted != found || containers.len() != wanted.len() {
            let all: Vec<_> = containers
                .iter()
                .map(|(h, c)| (h, &c.name, c.running))
                .collect();
            return Err(format!("wanted {wanted:?}, the engines have {all:?}"));
        }
        let mut slots = BTreeSet::new();
        for (_, container) in containers {
            let slot = (&container.stack, &container.node, &container.slot);
            if !slots.insert(slot) {
                return Err(format!("{slot:?} runs twice"));
            }
        }
        Ok(())
    }

    fn ports_are(&self, ends: &BTreeSet<String>) -> Result<(), String> {
        let ports = self.keys()?;
        let ports = ports.iter().filter(|(key, _)| key.starts_with("/ports/"));
        let ports: BTreeSet<String> = ports.map(|(_, address)| address.clone()).collect();
        (ports == *ends)
            .then_some(())
            .ok_or_else(|| format!("/ports are {ports:?}, healthy jobs have {ends:?}"))
    }
}

fn job(value: &Value) -> Job {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ends = value["endpoints"].as_array().into_iter().flatten();
    Job {
        container: text(&value["container"]),
        host: text(&value["host"]),
        endpoints: ends.map(|end| text(&end["address"])).collect(),
    }
}

/// Whether each address takes a connection from inside a namespace.
fn reachable(space: &str, ends: &BTreeSet<String>) -> Result<(), String> {
    inside(space, || {
        for end in ends {
            let address: SocketAddr = end.parse().map_err(|error| format!("{end}: {error}"))?;
            TcpStream::connect_timeout(&address, CONNECT)
                .map_err(|error| format!("{end}: {error}"))?;
        }
        Ok(())
    })
}
