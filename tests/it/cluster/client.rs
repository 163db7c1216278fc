//! Somebody who asks a node for a page all the time: looks up live release and `/ports` as a router
//! would, about every 50 ms, and dials all that a router may pick, also what it found one look before.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use viking::docker::fake::FakeEngine;
use viking::docker::label;
use viking::model::endpoint::Endpoint;
use viking::model::names::{HostName, NodeName, StackName, Tag};
use viking::model::release::Phase;
use viking::model::resolve;
use viking::model::spec::LinkTarget;
use viking::store::tables::{Error, Routes, Tables};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(50);

/// One look.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Look {
    /// Since the first one.
    pub(super) at: Duration,
    /// What the stack was doing.
    pub(super) phase: Phase,
    /// The tags that answered, or why somebody did not.
    pub(super) said: Result<Vec<String>, String>,
}

impl Look {
    /// Whether slots of exclusive nodes were being handed over, or given back.
    pub(super) fn in_hand_over(&self) -> bool {
        matches!(self.phase, Phase::Cutting | Phase::Reverting)
    }
}

pub(super) struct Client {
    looks: Arc<Mutex<Vec<Look>>>,
    task: JoinHandle<()>,
}

struct Asker {
    tables: Tables,
    every: fn() -> Duration,
    seen: Mutex<Option<Routes>>,
    host: HostName,
    engines: BTreeMap<IpAddr, FakeEngine>,
    stack: StackName,
    node: NodeName,
}

impl Client {
    pub(super) fn start(
        tables: Tables,
        host: HostName,
        engines: BTreeMap<IpAddr, FakeEngine>,
        (stack, node): (&str, &str),
    ) -> Self {
        Self::start_every(|| EVERY, tables, host, engines, (stack, node))
    }

    /// One that waits so long between two looks.
    pub(super) fn start_every(
        every: fn() -> Duration,
        tables: Tables,
        host: HostName,
        engines: BTreeMap<IpAddr, FakeEngine>,
        (stack, node): (&str, &str),
    ) -> Self {
        let looks = Arc::new(Mutex::new(Vec::new()));
        let asker = Asker {
            tables,
            every,
            seen: Mutex::default(),
            host,
            engines,
            stack: StackName::parse(stack).unwrap(),
            node: NodeName::parse(node).unwrap(),
        };
        let task = tokio::spawn(asker.ask(Arc::clone(&looks)));
        Self { looks, task }
    }

    pub(super) fn looks(&self) -> Vec<Look> {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.clone()
    }

    /// Every look so far was answered, and there were some.
    #[track_caller]
    pub(super) fn never_failed(&self) {
        let looks = self.looks();
        assert!(!looks.is_empty(), "nobody asked");
        let failed: Vec<_> = looks.iter().filter(|look| look.said.is_err()).collect();
        assert!(failed.is_empty(), "of {} looks: {failed:?}", looks.len());
    }

    /// The longest time without an answer.
    pub(super) fn longest_gap(&self) -> Duration {
        let (mut longest, mut since) = (Duration::ZERO, None);
        for Look { at, said, .. } in self.looks() {
            match (said, since) {
                (Ok(_), Some(began)) => {
                    longest = longest.max(at - began);
                    since = None;
                }
                (Err(_), None) => since = Some(at),
                _ => {}
            }
        }
        longest
    }

    /// The tags that answered, in the order of their first answer.
    pub(super) fn served(&self) -> Vec<String> {
        let mut tags: Vec<String> = Vec::new();
        for tag in self
            .looks()
            .into_iter()
            .flat_map(|look| look.said.unwrap_or_default())
        {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        tags
    }

    /// The tags that answered the last look.
    pub(super) fn last(&self) -> Result<Vec<String>, String> {
        self.looks().pop().expect("nobody asked").said
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Asker {
    async fn ask(self, looks: Arc<Mutex<Vec<Look>>>) {
        let born = Instant::now();
        let mut before: Vec<Endpoint> = Vec::new();
        loop {
            let stale = before.iter().filter(|e| self.dial(e).is_none());
            let stale: Vec<String> = stale.map(|e| format!("just gone: {}", e.job_id)).collect();
            let (endpoints, mut said) = self.look().await;
            if !stale.is_empty() {
                said = Err(stale.join(", "));
            }
            before = endpoints;
            let (at, phase) = (born.elapsed(), self.phase());
            let look = Look { at, phase, said };
            looks
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(look);
            tokio::time::sleep((self.every)()).await;
        }
    }

    async fn look(&self) -> (Vec<Endpoint>, Result<Vec<String>, String>) {
        let endpoints = match self.endpoints().await {
            Ok(endpoints) if endpoints.is_empty() => return (endpoints, Err("none".into())),
            Ok(endpoints) => endpoints,
            Err(why) => return (Vec::new(), Err(why)),
        };
        let dialled = endpoints.iter().map(|endpoint| {
            let dead = || format!("{} does not answer", endpoint.job_id);
            self.dial(endpoint).ok_or_else(dead)
        });
        let said = dialled.collect();
        (endpoints, said)
    }

    /// As it was when the endpoints were looked up.
    fn phase(&self) -> Phase {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stack = seen.as_ref().and_then(|seen| seen.stacks.get(&self.stack));
        stack.map_or(Phase::Live, |stack| stack.pointer.phase)
    }

    /// Read again only when something was written.
    async fn routes(&self) -> Result<Routes, Error> {
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let now = self.tables.store().range(&[]).await?.revision;
        if let Some(seen) = seen.filter(|seen| seen.revision == now) {
            return Ok(seen);
        }
        let routes = self.tables.routes(&self.host).await?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(routes.clone());
        Ok(routes)
    }

    async fn endpoints(&self) -> Result<Vec<Endpoint>, String> {
        let routes = self.routes().await.map_err(|error| error.to_string())?;
        let map = routes.stacks.get(&self.stack).ok_or("no stack")?;
        let live = map.live().ok_or("nothing live")?;
        let node = live.nodes.get(&self.node).ok_or("no such node")?;
        let target = LinkTarget {
            stack: None,
            node: self.node.clone(),
        };
        let tags = resolve::copies(&routes.stacks, &self.stack, &node.tag, &target);
        let serves =
            |e: &Endpoint| e.stack == self.stack && e.node == self.node && tags.contains(&e.tag);
        Ok(routes.endpoints.into_iter().filter(serves).collect())
    }

    /// The tag of who answers, if it is who should.
    fn dial(&self, endpoint: &Endpoint) -> Option<String> {
        let engine = self.engines.get(&endpoint.ip)?;
        let found = engine.answers(endpoint.host_port)?;
        let right = found.name == endpoint.job_id.0;
        let tag = found.labels.get(label::TAG).cloned();
        tag.filter(|tag| right && Tag::parse(tag).is_ok())
    }
}
