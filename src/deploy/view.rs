//! The worker's picture of the engine: a full list now and then, and in between only the containers
//! that events named. Events are hints; nothing is decided from them but where to look again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::observed::Observed;
use crate::docker::{Container, Engine, EngineEvent, Error, Listed, Result, label};

/// How long a `kill` or `stop` by somebody explains the end of a container.
const KILL_EXPLAINS_MS: u64 = 30_000;
/// Containers looked at one by one before a full list is cheaper.
const SINGLE_LOOKS_MAX: usize = 16;
/// While the engine starts or stops a container it does not answer about that one: it is left as it
/// was known, so that the others do not wait for it. Everybody else's look takes a millisecond.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// What a list does not show, such as a limit that was changed by hand while no event came, is looked
/// for this often; to look at 50 containers each ten seconds is a third of what an idle viking costs.
const LOOK_EVERY_MS: u64 = 60_000;
/// Containers looked at at the same time; more would only queue in the daemon.
const LOOKS_AT_ONCE: usize = 8;

/// What is known of the engine's containers.
#[derive(Debug, Default)]
pub struct View {
    cluster: String,
    /// By engine id.
    containers: BTreeMap<String, Observed>,
    /// Names that events mentioned since they were looked at.
    dirty: BTreeSet<String>,
    /// When each was last looked at, by engine id.
    looked_ms: BTreeMap<String, u64>,
    /// List them.
    all: bool,
    /// Nothing is sure: look at each of the list.
    each: bool,
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
            each: true,
            ..Self::default()
        }
    }

    /// Containers of ours, by engine id.
    pub fn containers(&self) -> impl Iterator<Item = &Observed> {
        self.containers.values()
    }

    /// The next refresh lists everything and looks at each.
    pub fn distrust(&mut self) {
        self.all = true;
        self.each = true;
    }

    /// The next refresh lists everything, and looks at what is not as it was known.
    pub fn relist(&mut self) {
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
            "rename" if container => self.all = true,
            // Every start and every build step of anybody connects something: only what concerns a
            // container of ours is worth a look.
            "connect" | "disconnect" => {
                let known = event
                    .container
                    .as_ref()
                    .and_then(|id| self.containers.get(id));
                if let Some(name) = known.map(|observed| observed.container.name.clone()) {
                    self.look_at(&name);
                }
            }
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

    /// Whether something could not be looked at when it should have been.
    #[must_use]
    pub fn unsure(&self, busy: &BTreeSet<String>) -> bool {
        self.all || self.dirty.iter().any(|name| !busy.contains(name))
    }

    /// Looks at the engine again where needed; what is `busy` waits for its task. Answers whether
    /// it listed in full.
    ///
    /// # Errors
    /// When the engine does not answer: the old picture stays and nothing in it is to be believed.
    /// A single container about which it does not answer is only that container's trouble.
    pub async fn refresh(
        &mut self,
        engine: &dyn Engine,
        busy: &BTreeSet<String>,
        now_ms: u64,
    ) -> Result<bool> {
        let look: Vec<String> = self.dirty.difference(busy).cloned().collect();
        if self.all || look.len() > SINGLE_LOOKS_MAX {
            self.list(engine, busy, now_ms).await?;
            return Ok(true);
        }
        let asked = look.len();
        let looks = look_at_each(engine, look, |name| name).await;
        if asked > 0 && looks.iter().all(|(_, found)| found.is_err()) {
            // Perhaps nothing answers any more.
            self.list(engine, busy, now_ms).await?;
            return Ok(true);
        }
        for (name, found) in looks {
            if let Ok(container) = found {
                self.dirty.remove(&name);
                self.replace(&name, container);
            }
        }
        Ok(false)
    }

    async fn list(
        &mut self,
        engine: &dyn Engine,
        busy: &BTreeSet<String>,
        now_ms: u64,
    ) -> Result<()> {
        let mut listed = engine.list(&self.cluster).await?;
        let ids: BTreeSet<String> = listed.iter().map(|one| one.id.clone()).collect();
        self.looked_ms.retain(|id, _| ids.contains(id));
        if !self.each {
            listed.retain(|one| self.is_news(one, now_ms));
        }
        // What is busy stays as it was known until its task says what became of it.
        self.containers.retain(|id, _| ids.contains(id));
        self.dirty.retain(|name| busy.contains(name));
        self.all = false;
        self.each = false;
        let (idle, mut unreadable) = (
            listed.into_iter().filter(|one| !busy.contains(&one.name)),
            0,
        );
        for (one, found) in look_at_each(engine, idle, |one: &Listed| &one.id).await {
            if found.is_ok() {
                self.looked_ms.insert(one.id.clone(), now_ms);
            }
            match found {
                Ok(Some(container)) => match Observed::read(container) {
                    Some(observed) => drop(self.containers.insert(one.id, observed)),
                    None => {
                        unreadable += 1;
                        self.containers.remove(&one.id);
                    }
                },
                // It vanished between list and look.
                Ok(None) => drop(self.containers.remove(&one.id)),
                Err(error) => {
                    tracing::debug!(container = one.name, "left as it was known: {error}");
                    self.dirty.insert(one.name);
                }
            }
        }
        if unreadable > 0 && unreadable != self.unreadable {
            tracing::warn!(
                unreadable,
                "containers with labels that cannot be read are left alone"
            );
        }
        self.unreadable = unreadable;
        Ok(())
    }

    /// Whether a listed container is worth a look of its own: not as it was known, named by an event,
    /// or not looked at for long.
    fn is_news(&self, one: &Listed, now_ms: u64) -> bool {
        let known = self.containers.get(&one.id).map(|o| &o.container);
        let same = known.is_some_and(|known| {
            known.name == one.name && known.state == one.state && known.networks == one.networks
        });
        let looked_ms = self.looked_ms.get(&one.id).copied().unwrap_or(0);
        let fresh = now_ms.saturating_sub(looked_ms) < LOOK_EVERY_MS;
        !same || !fresh || self.dirty.contains(&one.name)
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

/// Looks at several containers at the same time.
async fn look_at_each<T>(
    engine: &dyn Engine,
    what: impl IntoIterator<Item = T>,
    name: impl Fn(&T) -> &String + Copy,
) -> Vec<(T, Result<Option<Container>>)> {
    stream::iter(what)
        .map(|one| async move {
            let look = tokio::time::timeout(LOOK_MAX, engine.container(name(&one))).await;
            let late = |_| Err(Error::Unreachable(format!("no answer within {LOOK_MAX:?}")));
            (one, look.unwrap_or_else(late))
        })
        .buffer_unordered(LOOKS_AT_ONCE)
        .collect()
        .await
}
