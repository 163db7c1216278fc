//! The Docker engine as the benches need it: plain requests over its socket, its event stream, and
//! removal of what a figure made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// An event that does not come within this time is a broken bench.
const EVENT_LIMIT: Duration = Duration::from_secs(60);

/// The engine.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    client: reqwest::Client,
}

/// Something that happened to a container.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) action: String,
    pub(crate) id: String,
    /// Labels, name and image.
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) at_ns: i64,
}

impl Engine {
    pub(crate) fn at(socket: &Path) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .unix_socket(PathBuf::from(socket))
            .build()?;
        Ok(Self { client })
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, None).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let name = format!("{method} {path}");
        let mut request = self
            .client
            .request(method, format!("http://docker/v1.41{path}"));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.with_context(|| name.clone())?;
        let status = answer.status();
        let text = answer.text().await.with_context(|| name.clone())?;
        if !status.is_success() {
            bail!("{name}: {status} {text}");
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Containers with `label`, running or not.
    pub(crate) async fn containers(&self, label: &str) -> anyhow::Result<Vec<Value>> {
        let filters = json!({ "label": [label] }).to_string();
        let query = format!("/containers/json?all=1&filters={}", encode(&filters));
        let found = self.get(&query).await?;
        Ok(found.as_array().cloned().unwrap_or_default())
    }

    /// Removes all containers with `label`.
    pub(crate) async fn remove_all(&self, label: &str) -> anyhow::Result<()> {
        for container in self.containers(label).await? {
            self.remove(container["Id"].as_str().unwrap_or_default())
                .await
                .ok();
        }
        Ok(())
    }

    pub(crate) async fn remove(&self, id: &str) -> anyhow::Result<()> {
        self.delete(&format!("/containers/{id}?force=1&v=1"))
            .await
            .map(drop)
    }

    /// The process of a container.
    pub(crate) async fn pid(&self, id: &str) -> anyhow::Result<i32> {
        let found = self.get(&format!("/containers/{id}/json")).await?;
        let pid = found["State"]["Pid"].as_i64().unwrap_or(0);
        match i32::try_from(pid) {
            Ok(pid) if pid > 1 => Ok(pid),
            _ => bail!("container {id} has no process"),
        }
    }

    /// What happens to containers from now on.
    pub(crate) async fn events(&self) -> anyhow::Result<Events> {
        let filters = encode(&json!({ "type": ["container"] }).to_string());
        let url = format!("http://docker/v1.41/events?filters={filters}");
        let mut answer = self.client.get(url).send().await?.error_for_status()?;
        let (heard, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok(Some(piece)) = answer.chunk().await {
                held.extend_from_slice(&piece);
                while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = held.drain(..=end).collect();
                    if event(&line).is_some_and(|event| heard.send(event).is_err()) {
                        return;
                    }
                }
            }
        });
        Ok(Events(events))
    }
}

/// The event stream.
#[derive(Debug)]
pub(crate) struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    /// The next event that `fits`; those before it are dropped.
    pub(crate) async fn wait(
        &mut self,
        what: &str,
        fits: impl Fn(&Event) -> bool,
    ) -> anyhow::Result<Event> {
        let wait = async {
            while let Some(event) = self.0.recv().await {
                if fits(&event) {
                    return Ok(event);
                }
            }
            bail!("the engine's events ended while waiting for {what}")
        };
        tokio::time::timeout(EVENT_LIMIT, wait)
            .await
            .with_context(|| format!("{what} did not happen within {EVENT_LIMIT:?}"))?
    }

    /// Forgets what happened so far.
    pub(crate) fn forget(&mut self) {
        while self.0.try_recv().is_ok() {}
    }
}

fn event(line: &[u8]) -> Option<Event> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let actor = &value["Actor"];
    let attributes = actor["Attributes"].as_object()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(Event {
        action: value["Action"].as_str()?.to_owned(),
        id: text(&actor["ID"]),
        attributes: attributes
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
        at_ns: value["timeNano"].as_i64()?,
    })
}

impl Event {
    pub(crate) fn has(&self, name: &str, value: &str) -> bool {
        self.attributes.get(name).is_some_and(|has| has == value)
    }

    /// The start of a container with this label.
    pub(crate) fn starts(&self, label: &str, value: &str) -> bool {
        self.action == "start" && self.has(label, value)
    }
}

/// A text as part of a query.
fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
