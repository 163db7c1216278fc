//! The fake engine's verbs: each a call that is counted, slow and failing as asked, around the
//! state's own rules.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::images::split;
use super::state::{State, Timer};
use super::{Behaviour, FakeEngine};
use crate::docker::{
    BuildRequest, Container, Engine, EngineEvent, EngineInfo, Error, Image, Lines, Listed, LogLine,
    LogQuery, Network, NewContainer, Result, RunState, Volume, label,
};
use crate::model::spec::HealthCheck;

/// What the fake host has.
const CPUS: u64 = 8;
const MEMORY: u64 = 16 << 30;
/// Exit codes after a stop and after a kill.
const TERMINATED: i64 = 143;
const KILLED: i64 = 137;

impl FakeEngine {
    fn run_timer(&self, timer: Timer) {
        let engine = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(timer.after).await;
            engine.state().expire(&timer);
        });
    }
}

impl FakeEngine {
    /// Sends the stop signal; answers who got it and whether its script ignores it.
    fn signal(&self, name: &str) -> Option<(String, bool)> {
        let mut state = self.state();
        let id = state.find(name)?;
        if running(&state, &id) {
            state.emit_for(&id, "kill");
        }
        let ignores = state.behaviour(&id) == Behaviour::IgnoresStop;
        Some((id, ignores))
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn info(&self) -> Result<EngineInfo> {
        let info = EngineInfo {
            version: "fake".into(),
            cpus: CPUS,
            memory_bytes: MEMORY,
        };
        self.act("info", |_| Ok(info)).await
    }

    async fn ping(&self) -> Result<()> {
        self.act("ping", |_| Ok(())).await
    }

    async fn list(&self, cluster: &str) -> Result<Vec<Listed>> {
        let all = self.act("list", |state| Ok(state.snapshot())).await?;
        let own = all.into_iter().filter(|c| ours(&c.labels, cluster));
        let listed = own.map(
            |Container {
                 id,
                 name,
                 labels,
                 state,
                 networks,
                 ..
             }| Listed {
                id,
                name,
                labels,
                state,
                networks,
            },
        );
        Ok(listed.collect())
    }

    async fn container(&self, name: &str) -> Result<Option<Container>> {
        let hangs = {
            let state = self.state();
            let id = state.find(name);
            id.is_some_and(|id| state.faults.hung.contains(&id))
        };
        if hangs {
            return std::future::pending().await;
        }
        self.act("container", |state| Ok(state.inspect(name))).await
    }

    async fn create(&self, new: &NewContainer) -> Result<String> {
        self.act("create", |state| state.create(new)).await
    }

    async fn start(&self, id: &str) -> Result<()> {
        let start = |state: &mut State| {
            let timer = state.start(id)?;
            if let Some(timer) = timer {
                self.run_timer(timer);
            }
            Ok(())
        };
        self.act("start", start).await
    }

    async fn stop(&self, id: &str, signal: Option<&str>, timeout: Duration) -> Result<()> {
        self.enter("stop").await?;
        let Some((id, ignores)) = self.signal(id) else {
            return Ok(());
        };
        let ignores = ignores && signal != Some("SIGKILL");
        if ignores && running(&self.state(), &id) {
            tokio::time::sleep(timeout).await;
        }
        let mut state = self.state();
        if running(&state, &id) {
            state.end(&id, if ignores { KILLED } else { TERMINATED });
            state.emit_for(&id, "stop");
        }
        match super::take_fault(&mut state.faults.after, "stop") {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn unpause(&self, id: &str) -> Result<()> {
        self.act("unpause", |state| {
            let found = state.inspect(id).ok_or_else(|| missing("container", id))?;
            if found.state != RunState::Paused {
                return Err(Error::Conflict(format!("{id} is not paused")));
            }
            state.change(&found.id, |container| container.state = RunState::Running);
            state.emit_for(&found.id, "unpause");
            Ok(())
        })
        .await
    }

    async fn set_limits(&self, id: &str, memory_bytes: u64, cpu_millis: u64) -> Result<()> {
        self.act("set_limits", |state| {
            let id = state.find(id).ok_or_else(|| missing("container", id))?;
            state.change(&id, |container| {
                container.memory_bytes = memory_bytes;
                container.cpu_millis = cpu_millis;
            });
            state.emit_for(&id, "update");
            Ok(())
        })
        .await
    }

    async fn remove(&self, id: &str) -> Result<()> {
        self.act("remove", |state| {
            if let Some(id) = state.find(id) {
                state.destroy(&id);
            }
            Ok(())
        })
        .await
    }

    async fn logs(&self, id: &str, query: LogQuery) -> Result<mpsc::Receiver<LogLine>> {
        self.act("logs", |state| state.read_log(id, query)).await
    }

    async fn exec(&self, id: &str, argv: &[String], _timeout: Duration) -> Result<(i64, String)> {
        self.act("exec", |state| {
            let found = state.inspect(id).ok_or_else(|| missing("container", id))?;
            if found.state != RunState::Running {
                return Err(Error::Conflict(format!("{id} is not running")));
            }
            let answer = state.exec_answers.get(&argv.join(" ")).cloned();
            Ok(answer.unwrap_or_default())
        })
        .await
    }

    async fn probe(
        &self,
        container: &Container,
        check: &HealthCheck,
        _ip: Option<IpAddr>,
        _timeout: Duration,
    ) -> Result<std::result::Result<(), String>> {
        let probe = |state: &mut State| {
            let healthy = state.healthy(&container.id);
            let HealthCheck::Cmd { argv } = check else {
                return Ok(healthy);
            };
            let answer = state.exec_answers.get(&argv.join(" "));
            Ok(healthy.and_then(|()| match answer {
                Some((code, output)) if *code != 0 => {
                    Err(format!("{}: exit code {code}: {output}", argv.join(" ")))
                }
                _ => Ok(()),
            }))
        };
        self.act("probe", probe).await
    }

    async fn events(&self) -> Result<mpsc::Receiver<EngineEvent>> {
        self.act("events", |state| Ok(state.subscribe())).await
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        self.act("image", |state| Ok(state.images.find(reference)))
            .await
    }

    async fn pull(&self, reference: &str, lines: &Lines) -> Result<()> {
        self.enter("pull").await?;
        let found = self.registry().get(reference)?;
        let (digest, stored) = found.ok_or_else(|| missing("manifest", reference))?;
        let (repository, tag) = split(reference);
        let name = (!reference.contains('@')).then(|| format!("{repository}:{tag}"));
        let by_digest = format!("{repository}@{digest}");
        let mut state = self.state();
        state.images.insert(stored, name, Some(by_digest));
        // Nobody listening is fine.
        lines.try_send(format!("Digest: {digest}")).ok();
        Ok(())
    }

    async fn remote_digest(&self, reference: &str) -> Result<Option<String>> {
        let registry = self.registry();
        let ask = |_: &mut State| Ok(registry.get(reference)?.map(|(digest, _)| digest));
        self.act("remote_digest", ask).await
    }

    async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<()> {
        self.act("tag", |state| {
            let stored = state.images.stored(image);
            let stored = stored.ok_or_else(|| missing("image", image))?;
            let name = format!("{repository}:{tag}");
            state.images.insert(stored, Some(name), None);
            Ok(())
        })
        .await
    }

    async fn push(&self, repository: &str, tag: &str, lines: &Lines) -> Result<String> {
        let registry = self.registry();
        let push = |state: &mut State| {
            let name = format!("{repository}:{tag}");
            let stored = state.images.stored(&name);
            let stored = stored.ok_or_else(|| missing("image", &name))?;
            let digest = registry.push(repository, tag, stored.clone())?;
            let by_digest = format!("{repository}@{digest}");
            state.images.insert(stored, None, Some(by_digest));
            lines.try_send(format!("{tag}: digest: {digest}")).ok();
            Ok(digest)
        };
        self.act("push", push).await
    }

    async fn build(&self, request: BuildRequest, lines: &Lines) -> Result<String> {
        self.run_build(request, lines).await
    }

    async fn untag(&self, reference: &str) -> Result<()> {
        self.act("untag", |state| {
            let used: Vec<String> = state.snapshot().into_iter().map(|c| c.image_id).collect();
            let in_use = |id: &str| used.iter().any(|used| used == id);
            state.images.untag(reference, in_use)
        })
        .await
    }

    async fn networks(&self, cluster: &str) -> Result<Vec<Network>> {
        self.act("networks", |state| {
            let all = state.networks.values().cloned();
            Ok(all
                .filter(|network| ours(&network.labels, cluster))
                .collect())
        })
        .await
    }

    async fn ensure_network(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Network> {
        self.act("ensure_network", |state| {
            match state.networks.get(name).cloned() {
                Some(there) => same_cluster(&there.labels, labels, name).map(|()| there),
                None => Ok(state.make_network(name, labels)),
            }
        })
        .await
    }

    async fn remove_network(&self, name: &str) -> Result<()> {
        self.act("remove_network", |state| {
            if state.network_in_use(name) {
                return Err(Error::Conflict(format!("network {name} is in use")));
            }
            if state.networks.remove(name).is_some() {
                state.emit("destroy", BTreeMap::new(), name.to_owned(), None);
            }
            Ok(())
        })
        .await
    }

    async fn volumes(&self, cluster: &str) -> Result<Vec<Volume>> {
        self.act("volumes", |state| {
            let all = state.volumes.values().cloned();
            Ok(all.filter(|volume| ours(&volume.labels, cluster)).collect())
        })
        .await
    }

    async fn ensure_volume(&self, name: &str, labels: &BTreeMap<String, String>) -> Result<()> {
        self.act("ensure_volume", |state| {
            let new = || Volume {
                name: name.to_owned(),
                labels: labels.clone(),
            };
            let there = state.volumes.entry(name.to_owned()).or_insert_with(new);
            same_cluster(&there.labels, labels, name)
        })
        .await
    }
}

fn running(state: &State, id: &str) -> bool {
    let found = state.inspect(id).map(|container| container.state);
    matches!(found, Some(RunState::Running | RunState::Paused))
}

fn ours(labels: &BTreeMap<String, String>, cluster: &str) -> bool {
    labels.get(label::CLUSTER).map(String::as_str) == Some(cluster)
}

fn same_cluster(
    found: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
    name: &str,
) -> Result<()> {
    if found.get(label::CLUSTER) == wanted.get(label::CLUSTER) {
        return Ok(());
    }
    Err(Error::Conflict(format!("{name} was made by somebody else")))
}

fn missing(what: &str, name: &str) -> Error {
    Error::NotFound(format!("{what} {name}"))
}
