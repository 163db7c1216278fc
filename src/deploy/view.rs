//! The worker's picture of the engine: a full list now and then, and in between only the containers
//! that events named. Events are hints; nothing is decided from them but where to look again.

use std::collections::{BTreeMap, BTreeSet};

use super::observed::Observed;
use crate::docker::{Container, Engine, EngineEvent, Result, label};

/// How long a `kill` or `stop` by somebody explains the end of a container.
const KILL_EXPLAINS_MS: u64 = 30_000;
/// Containers looked at one by one before a full list is cheaper.
const SINGLE_LOOKS_MAX: usize = 16;

/// What is known of the engine's containers.
#[derive(Debug, Default)]
pub struct View {
    cluster: String,
    /// By engine id.
    containers: BTreeMap<String, Observed>,
    /// Names that events mentioned since they were looked at.
    dirty: BTreeSet<String>,
    /// Nothing is sure: list in full.
    all: bool,
    /// How many containers of the last list had labels that cannot be read.
    unreadable: usize,
    /// Container names that somebody sent a signal to, and when.
    killed: BTreeMap<String, u64>,
}

impl View {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            all: true,
            ..Self::default()
        }
    }

    /// Containers of ours, by engine id.
    pub fn containers(&self) -> impl Iterator<Item = &Observed> {
        self.containers.values()
    }

    /// The next refresh lists everything.
    pub fn distrust(&mut self) {
        self.all = true;
    }

    /// The next refresh looks at this container.
    pub fn look_at(&mut self, name: &str) {
        self.dirty.insert(name.to_owned());
    }

    /// Takes in an event.
    pub fn hint(&mut self, event: &EngineEvent, now_ms: u64) {
        let container = event.labels.get(label::CLUSTER) == Some(&self.cluster);
        match event.action.as_str() {
            "kill" | "stop" if container => {
                self.killed.insert(event.name.clone(), now_ms);
                self.look_at(&event.name);
            }
            "rename" | "connect" | "disconnect" => self.all = true,
            // Of our own health checks there are many, and they say nothing new.
            action if action.starts_with("exec_") || action == "top" => {}
            _ if container => self.look_at(&event.name),
            _ => {}
        }
        self.killed
            .retain(|_, at| at.saturating_add(KILL_EXPLAINS_MS) > now_ms);
    }

    /// Whether somebody sent this container a signal lately.
    #[must_use]
    pub fn was_killed(&self, name: &str) -> bool {
        self.killed.contains_key(name)
    }

    /// It was started again: whoever ended it before has nothing to do with its next end.
    pub fn pardon(&mut self, name: &str) {
        self.killed.remove(name);
    }

    /// Looks at the engine again where needed; what is `busy` waits for its task. Answers whether
    /// it listed in full.
    ///
    /// # Errors
    /// When the engine does not answer: the old picture stays and nothing in it is to be believed.
    pub async fn refresh(&mut self, engine: &dyn Engine, busy: &BTreeSet<String>) -> Result<bool> {
        let look: Vec<String> = self.dirty.difference(busy).cloned().collect();
        if self.all || look.len() > SINGLE_LOOKS_MAX {
            let listed = engine.containers(&self.cluster).await?;
            let count = listed.len();
            self.containers = listed
                .into_iter()
                .filter_map(|c| Observed::read(c).map(|o| (o.container.id.clone(), o)))
                .collect();
            let unreadable = count - self.containers.len();
            if unreadable > 0 && unreadable != self.unreadable {
                tracing::warn!(
                    unreadable,
                    "containers with labels that cannot be read are left alone"
                );
            }
            self.unreadable = unreadable;
            self.dirty.retain(|name| busy.contains(name));
            self.all = false;
            return Ok(true);
        }
        for name in look {
            let container = engine.container(&name).await?;
            self.dirty.remove(&name);
            self.replace(&name, container);
        }
        Ok(false)
    }

    /// What is now known of a container.
    pub fn replace(&mut self, name: &str, container: Option<Container>) {
        self.containers.retain(|_, o| o.container.name != name);
        let ours = container
            .filter(|c| c.labels.get(label::CLUSTER) == Some(&self.cluster))
            .and_then(Observed::read);
        if let Some(observed) = ours {
            let id = observed.container.id.clone();
            self.containers.insert(id, observed);
        }
    }
}
