//! The fake engine's memory: containers, networks, volumes and events, with Docker's rules made
//! strict. Synchronous and deterministic; the engine around it adds waiting and faults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::images::Images;
use super::{Behaviour, Faults};
use crate::docker::{
    Container, EngineEvent, Error, LogLine, Network, NewContainer, Result, RunState, Volume,
};

/// Everything the engine remembers.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) now_ms: u64,
    pub(super) faults: Faults,
    pub(super) calls: BTreeMap<String, u32>,
    pub(super) violations: Vec<String>,
    pub(super) behaviours: BTreeMap<String, Behaviour>,
    pub(super) prints: BTreeMap<String, Vec<String>>,
    pub(super) exec_answers: BTreeMap<String, (i64, String)>,
    pub(super) build_rules: Vec<BuildRule>,
    pub(super) ports_taken: BTreeSet<u16>,
    pub(super) images: Images,
    pub(super) volumes: BTreeMap<String, Volume>,
    pub(super) networks: BTreeMap<String, Network>,
    pub(super) loopback: Option<u8>,
    made: u64,
    pub(super) networks_made: u16,
    pub(super) containers: BTreeMap<String, Held>,
    pub(super) subscribers: Vec<mpsc::Sender<EngineEvent>>,
}

/// A build's script.
#[derive(Debug, Clone, Default)]
pub(super) struct BuildRule {
    pub(super) text: String,
    pub(super) lines: Vec<String>,
    pub(super) error: Option<String>,
    pub(super) on_build: Vec<String>,
    pub(super) behaviour: Option<Behaviour>,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) new: NewContainer,
    pub(super) seen: Container,
    /// Counts starts, so that an old timer does not end a new run.
    run: u32,
    /// When it started, for what it does: the wall clock may be set meanwhile.
    pub(super) began: Instant,
    pub(super) log: Vec<LogLine>,
    pub(super) followers: Vec<mpsc::Sender<LogLine>>,
}

/// A started container that ends by itself.
#[derive(Debug, Clone)]
pub(super) struct Timer {
    pub(super) id: String,
    pub(super) run: u32,
    pub(super) after: Duration,
    pub(super) code: i64,
}

impl State {
    /// The id behind a name or id.
    pub(super) fn find(&self, name: &str) -> Option<String> {
        let mut all = self.containers.iter();
        all.find(|(id, held)| *id == name || held.seen.name == name)
            .map(|(id, _)| id.clone())
    }

    /// As [`Self::find`], for a test that names what must be there.
    pub(super) fn known(&self, name: &str) -> String {
        let found = self.find(name);
        found.unwrap_or_else(|| panic!("the test names a container that is not there: {name}"))
    }

    /// What a container was made from.
    pub(super) fn made_from(&self, id: &str) -> NewContainer {
        self.containers
            .get(id)
            .map(|held| held.new.clone())
            .unwrap_or_default()
    }

    pub(super) fn held(&mut self, name: &str) -> Result<&mut Held> {
        let missing = || Error::NotFound(format!("container {name}"));
        let id = self.find(name).ok_or_else(missing)?;
        self.containers.get_mut(&id).ok_or_else(missing)
    }

    /// The container as an inspection shows it.
    pub(super) fn inspect(&self, name: &str) -> Option<Container> {
        let held = self.containers.get(&self.find(name)?)?;
        let mut seen = held.seen.clone();
        seen.health = self.image_health(held);
        Some(seen)
    }

    /// All containers in name order.
    pub(super) fn snapshot(&self) -> Vec<Container> {
        let mut all: Vec<_> = self
            .containers
            .keys()
            .filter_map(|id| self.inspect(id))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub(super) fn create(&mut self, new: &NewContainer) -> Result<String> {
        if new.name.is_empty() || new.mounts.iter().any(|(_, path)| !path.starts_with('/')) {
            return Err(Error::BadSpec(format!("container {:?}", new.name)));
        }
        if self.find(&new.name).is_some() {
            return Err(Error::Conflict(new.name.clone()));
        }
        let image = self.images.find(&new.image);
        let image = image.ok_or_else(|| Error::NotFound(format!("image {}", new.image)))?;
        for (volume, _) in &new.mounts {
            if !self.volumes.contains_key(volume) {
                return Err(Error::NotFound(format!("volume {volume}")));
            }
        }
        if !new.network.is_empty() && !self.networks.contains_key(&new.network) {
            return Err(Error::NotFound(format!("network {}", new.network)));
        }
        self.made += 1;
        let id = format!("{:064x}", self.made);
        let seen = created(&id, new, image.id);
        let held = Held {
            new: new.clone(),
            seen,
            run: 0,
            began: Instant::now(),
            log: Vec::new(),
            followers: Vec::new(),
        };
        self.containers.insert(id.clone(), held);
        self.emit_for(&id, "create");
        Ok(id)
    }

    /// Starts; answers a timer if the script says that it ends by itself.
    pub(super) fn start(&mut self, name: &str) -> Result<Option<Timer>> {
        let held = self.held(name)?;
        let id = held.seen.id.clone();
        match held.seen.state {
            RunState::Running => return Ok(None),
            RunState::Paused => return Err(Error::Conflict(format!("{name} is paused"))),
            RunState::Created | RunState::Exited | RunState::Dead => {}
        }
        let behaviour = self.behaviour(&id);
        if behaviour == Behaviour::FailsToStart {
            let error = "executable file not found".to_owned();
            self.change(&id, |container| container.error.clone_from(&error));
            return Err(Error::BadSpec(error));
        }
        self.check_network(&id)?;
        self.check_ports(&id)?;
        self.check_volumes(&id);
        self.run(&id);
        let run = self.held(&id)?.run;
        Ok(match behaviour {
            Behaviour::ExitsAfter(after, code) | Behaviour::CrashesAfter(after, code) => {
                Some(Timer {
                    id,
                    run,
                    after,
                    code,
                })
            }
            _ => None,
        })
    }

    fn run(&mut self, id: &str) {
        let now = self.now_ms;
        let network = self.containers.get(id).map(|held| held.new.network.clone());
        let address = network.as_deref().and_then(|name| self.free_address(name));
        self.change(id, |container| {
            container.state = RunState::Running;
            container.started_ms = now;
            container.oom_killed = false;
            container.error.clear();
            container.networks.values_mut().for_each(|ip| *ip = address);
        });
        if let Ok(held) = self.held(id) {
            held.run += 1;
            held.began = Instant::now();
        }
        self.emit_networks(id, "connect");
        self.emit_for(id, "start");
        for line in self.scripted(id, |state| &state.prints).unwrap_or_default() {
            self.print(id, &line);
        }
    }

    fn check_network(&mut self, id: &str) -> Result<()> {
        let network = self.held(id)?.new.network.clone();
        if network.is_empty() || self.networks.contains_key(&network) {
            return Ok(());
        }
        Err(Error::NotFound(format!("network {network}")))
    }

    fn check_ports(&mut self, id: &str) -> Result<()> {
        let wanted = self.held(id)?.seen.published.clone();
        for binding in wanted {
            let same = |container: &Container| {
                let mut taken = container.published.iter();
                taken.any(|other| {
                    (other.host_port, other.proto) == (binding.host_port, binding.proto)
                        && overlap(other.ip, binding.ip)
                })
            };
            let container = self.up().any(same);
            if container || self.ports_taken.contains(&binding.host_port) {
                return Err(Error::PortTaken(binding.host_port.to_string()));
            }
        }
        Ok(())
    }

    fn check_volumes(&mut self, id: &str) {
        let Some(mine) = self.inspect(id) else {
            return;
        };
        let mut found = Vec::new();
        for other in self.up() {
            for (volume, _) in &mine.mounts {
                if other.mounts.iter().any(|(name, _)| name == volume) {
                    let text = format!("volume {volume}: {} and {}", other.name, mine.name);
                    found.push(text);
                }
            }
        }
        self.violations.extend(found);
    }

    /// Running or frozen containers.
    pub(super) fn up(&self) -> impl Iterator<Item = &Container> {
        let all = self.containers.values().map(|held| &held.seen);
        all.filter(|container| is_up(container))
    }

    /// Ends a run; not running is fine.
    pub(super) fn end(&mut self, id: &str, code: i64) {
        let now = self.now_ms;
        let Some(held) = self.containers.get_mut(id).filter(|held| is_up(&held.seen)) else {
            return;
        };
        held.seen.state = RunState::Exited;
        held.seen.exit_code = code;
        held.seen.finished_ms = now;
        held.followers.clear();
        self.emit_for(id, "die");
        self.disconnect(id);
    }

    /// Ends the run that a timer was made for.
    pub(super) fn expire(&mut self, timer: &Timer) {
        let same = |held: &&Held| held.run == timer.run;
        if self.containers.get(&timer.id).filter(same).is_some() {
            self.end(&timer.id, timer.code);
        }
    }

    pub(super) fn disconnect(&mut self, id: &str) {
        self.emit_networks(id, "disconnect");
        self.change(id, |container| {
            container.networks.values_mut().for_each(|ip| *ip = None);
        });
    }

    pub(super) fn destroy(&mut self, id: &str) {
        if self.inspect(id).as_ref().is_some_and(is_up) {
            self.emit_for(id, "kill");
            self.end(id, 137);
        }
        self.emit_for(id, "destroy");
        self.containers.remove(id);
    }

    pub(super) fn pause(&mut self, id: &str) {
        self.change(id, |container| container.state = RunState::Paused);
        self.emit_for(id, "pause");
    }

    pub(super) fn change(&mut self, id: &str, change: impl FnOnce(&mut Container)) {
        if let Some(held) = self.containers.get_mut(id) {
            change(&mut held.seen);
        }
    }
}

pub(super) fn is_up(container: &Container) -> bool {
    matches!(container.state, RunState::Running | RunState::Paused)
}

fn overlap(a: IpAddr, b: IpAddr) -> bool {
    a == b || a.is_unspecified() || b.is_unspecified()
}

fn created(id: &str, new: &NewContainer, image_id: String) -> Container {
    let network = Some(new.network.clone()).filter(|name| !name.is_empty());
    Container {
        id: id.to_owned(),
        name: new.name.clone(),
        labels: new.labels.clone(),
        state: RunState::Created,
        exit_code: 0,
        oom_killed: false,
        error: String::new(),
        started_ms: 0,
        finished_ms: 0,
        health: None,
        networks: network.into_iter().map(|name| (name, None)).collect(),
        mounts: new.mounts.iter().cloned().collect(),
        memory_bytes: new.memory_bytes,
        cpu_millis: new.cpu_millis,
        published: new.ports.iter().cloned().collect(),
        image_id,
    }
}
