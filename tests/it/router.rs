//! The front door on real sockets, with applications of the tests' own behind it: what it passes on,
//! whom it asks, what it refuses, and that nothing is lost while what is behind it changes.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails there fails the test"
)]

mod acme;
mod app;
mod changes;
mod hostile;
mod passing;
mod proof;
mod site;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use viking::model::endpoint::Endpoint;
use viking::model::job::{Instance, JobId, JobKey};
use viking::model::names::{NodeName, StackName, Tag};
use viking::model::reach::Seen;
use viking::model::release::Domain;
use viking::model::resolve::StackMap;
use viking::model::spec::Proto;
use viking::router::front::{self, Front, Settings, Speaks};
use viking::schedule::script;

/// A stack with one release.
const SHOP: &str = "
hosts: {alpha: {}}
stacks:
  shop:
    live: a1
    phase: live
    releases: {a1: {web: {scale: 9, expose: true}}}
";

/// A front door, and what the store is made to say.
struct Door {
    front: Front,
    address: SocketAddr,
    shutdown: CancellationToken,
    running: Option<JoinHandle<anyhow::Result<()>>>,
    seen: Seen,
    /// Copies that still have requests though no route leads to them.
    draining: watch::Receiver<Vec<JobId>>,
    /// Instances that were given out.
    instances: i64,
}

fn settings() -> Settings {
    Settings {
        trusted: Vec::new(),
        access_log: 0,
        body_max: 1 << 20,
        head_max: Duration::from_secs(10),
        certificates: Arc::default(),
        hsts_s: 0,
        threads: 2,
        sites: None,
    }
}

impl Door {
    /// A door that leads `shop.test` to copies of `shop/web` at these addresses.
    fn to(copies: &[SocketAddr]) -> Self {
        Self::with(settings(), copies)
    }

    fn with(settings: Settings, copies: &[SocketAddr]) -> Self {
        let world = script::world(SHOP).unwrap();
        let stacks = world.stacks.into_iter().map(|(name, stack)| {
            let map = StackMap {
                pointer: stack.pointer,
                releases: stack.releases,
            };
            (name, map)
        });
        let mut seen = Seen {
            stacks: stacks.collect(),
            ..Seen::default()
        };
        domains(&mut seen, &["shop.test"]);
        let (drains, draining) = watch::channel(Vec::new());
        let front = Front::new(settings, drains);
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(front::run(
            front.clone(),
            listener,
            Speaks::Http,
            shutdown.clone(),
        ));
        let mut door = Self {
            front,
            address,
            shutdown,
            running: Some(running),
            seen,
            draining,
            instances: 0,
        };
        door.lead_to(copies);
        door
    }

    /// The store says that these are the healthy copies now.
    fn lead_to(&mut self, copies: &[SocketAddr]) {
        self.seen.endpoints.clear();
        for address in copies {
            self.instances += 1;
            let endpoint = endpoint(*address, self.instances);
            self.seen.endpoints.push(endpoint);
        }
        self.update();
    }

    fn update(&self) {
        self.front.update(&self.seen, &BTreeSet::new());
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What comes back for these bytes until the door hangs up.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        let mut said = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut said));
        // A reset is an end, too.
        read.await.expect("the door hangs up").ok();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// A `GET` for `shop.test` on a connection of its own: status and body.
    async fn get(&self, path: &str) -> (u16, String) {
        self.get_of("shop.test", path).await
    }

    async fn get_of(&self, host: &str, path: &str) -> (u16, String) {
        let said = self
            .raw(
                format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .await;
        let (head, body) = said.split_once("\r\n\r\n").unwrap_or((&said, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.unwrap_or(0), body.to_owned())
    }

    /// Ends it as its host does; answers how its threads ended.
    async fn end(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.running.take().unwrap().await.unwrap()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Gives `shop/web` these domains.
fn domains(seen: &mut Seen, names: &[&str]) {
    let shop = StackName::parse("shop").unwrap();
    let map: &mut StackMap = seen.stacks.get_mut(&shop).unwrap();
    let release = map.releases.values_mut().next().unwrap();
    let domains = names.iter().map(|name| Domain {
        name: (*name).to_owned(),
        port: Some(80),
        since_ms: 0,
    });
    let node = release.nodes.values_mut().next().unwrap();
    node.domains = domains.collect();
}

fn endpoint(address: SocketAddr, instance: i64) -> Endpoint {
    let job = JobKey {
        stack: StackName::parse("shop").unwrap(),
        tag: script_tag(),
        node: NodeName::parse("web").unwrap(),
        slot: 0,
    };
    Endpoint {
        stack: job.stack.clone(),
        tag: script_tag(),
        node: job.node.clone(),
        port: 80,
        proto: Proto::Tcp,
        ip: address.ip(),
        host_port: address.port(),
        job_id: job.id(Instance(instance)),
    }
}

/// The tag that the scripted world gives `a1`.
fn script_tag() -> Tag {
    let world = script::world(SHOP).unwrap();
    let stack = world.stacks.into_values().next().unwrap();
    stack.pointer.live.unwrap()
}

/// How often each word was said.
fn counted(words: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word.as_str()).or_default() += 1;
    }
    counts
}
