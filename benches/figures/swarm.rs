//! The peer of P7, P8 and P9: swarm mode on the same engine, one manager that is its only worker.
//! Services run the same image as viking's jobs, by digest, so that swarm looks for it nowhere.

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::engine::{Engine, Event};

/// The label that swarm gives a service's containers.
const LABEL: &str = "com.docker.swarm.service.name";

/// A swarm of one.
#[derive(Debug)]
pub(crate) struct Swarm {
    engine: Engine,
    image: String,
}

impl Swarm {
    /// Switches swarm mode on. `image` is a digest reference that the engine has.
    pub(crate) async fn start(bench: &Bench, image: String) -> anyhow::Result<Self> {
        let engine = bench.engine.clone();
        let body = json!({ "ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1" });
        engine.post("/swarm/init", body).await?;
        Ok(Self { engine, image })
    }

    /// Asks for a service on the bridge network; restarts come without delay.
    pub(crate) async fn create(&self, name: &str, replicas: usize) -> anyhow::Result<()> {
        let body = self.service(name, replicas);
        self.engine.post("/services/create", body).await.map(drop)
    }

    /// Asks for another number of replicas.
    pub(crate) async fn scale(&self, name: &str, replicas: usize) -> anyhow::Result<()> {
        let path = format!("/services/{name}");
        let version = self.engine.get(&path).await?["Version"]["Index"].clone();
        let path = format!("{path}/update?version={version}");
        let body = self.service(name, replicas);
        self.engine.post(&path, body).await.map(drop)
    }

    fn service(&self, name: &str, replicas: usize) -> Value {
        json!({
            "Name": name,
            "Labels": { "viking.bench": "swarm" },
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": self.image,
                    "Command": ["sleep", "1d"],
                    "Init": true,
                    "StopGracePeriod": 0,
                },
                "RestartPolicy": { "Condition": "any", "Delay": 0 },
            },
            "Mode": { "Replicated": { "Replicas": replicas } },
        })
    }

    pub(crate) async fn remove(&self, name: &str) -> anyhow::Result<()> {
        self.engine
            .delete(&format!("/services/{name}"))
            .await
            .map(drop)
    }

    /// Running containers of a service.
    pub(crate) async fn running(&self, name: &str) -> anyhow::Result<Vec<Value>> {
        let mut found = self.engine.containers(&format!("{LABEL}={name}")).await?;
        found.retain(|container| container["State"] == "running");
        Ok(found)
    }

    /// The label of a service's containers, with its value.
    pub(crate) fn label(name: &str) -> String {
        format!("{LABEL}={name}")
    }

    /// Whether an event is the start of a service's container.
    pub(crate) fn starts(event: &Event, name: &str) -> bool {
        event.starts(LABEL, name)
    }

    /// Switches swarm mode off again; its containers go with it.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.engine.post("/swarm/leave?force=1", json!({})).await?;
        self.engine.remove_all(LABEL).await
    }
}

/// The digest reference under which viking runs `stack`'s jobs.
pub(crate) async fn digest_of(bench: &Bench, stack: &str) -> anyhow::Result<String> {
    let found = bench
        .engine
        .containers(&format!("viking.stack={stack}"))
        .await?;
    let image = found
        .iter()
        .find_map(|container| container["Image"].as_str());
    let image = image.filter(|image| image.contains("@sha256:"));
    Ok(image.context("viking runs nothing by digest")?.to_owned())
}
