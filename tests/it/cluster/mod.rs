//! The whole cluster in one process: the store in memory, fake engines, tokio's paused clock, and
//! the product's own loops: workers, heartbeats, dispatch, rollout, elections. No git, no Docker,
//! no waiting in real time.

#![expect(
    clippy::unwrap_used,
    reason = "what fails in the harness fails the test"
)]

mod before;
mod client;
mod copies;
mod faulty;
mod hosts;
mod leader;
mod link;
mod look;

mod apply;
mod env;
mod faults;
mod foretold;
mod leadership;
mod links;
mod operate;
mod processes;
mod releases;
mod require;
mod restart;
mod rollback;
mod room;
mod scale;
mod seeds;
mod sites;
mod source;
mod steady;
mod throughput;
mod volumes;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use viking::clock::now_ms;
use viking::deploy::fake_source::FakeSource;
use viking::deploy::worker::{self, Worker};
use viking::docker::fake::{Behaviour, FakeEngine, FakeRegistry};
use viking::model::names::{HostName, StackName, Tag};
use viking::model::release::{Commit, Phase, RunId, Source};
use viking::model::spec::ImageRef;
use viking::model::vikingfile::{ImageText, VikingFile};
use viking::model::world::World;
use viking::router::ambassador;
use viking::store::SharedStore;
use viking::store::local::LocalStore;
use viking::store::tables::Tables;

use self::faulty::Faulty;
use self::leader::{Pushed, Pushes};
use self::link::Link;
use self::look::settled;
use crate::store::etcd::server::Etcd;

/// The address in front of images of ours; nothing listens there.
const REGISTRY: &str = "127.0.0.1:5000";
/// Between two looks of a test.
const LOOK: Duration = Duration::from_millis(20);

/// `host-a` to `host-z`, then by number.
fn host_name(n: usize) -> HostName {
    let text = match u8::try_from(n) {
        Ok(n) if n < 26 => format!("host-{}", char::from(b'a' + n)),
        _ => format!("host-{n}"),
    };
    HostName::parse(&text).unwrap()
}

/// Seconds of virtual time.
fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

struct Host {
    name: HostName,
    engine: FakeEngine,
    address: IpAddr,
    dir: tempfile::TempDir,
    /// Its way to the store, and what goes that way.
    link: Arc<Link>,
    tables: Tables,
    worker: Option<(CancellationToken, JoinHandle<()>)>,
    /// Its ambassador; without one something stands for it.
    ambassador: Option<mpsc::Sender<ambassador::Listen>>,
}

struct Cluster {
    store: Arc<Faulty>,
    /// What the loops use.
    tables: Tables,
    /// What the test looks at, past all faults.
    clear: Tables,
    registry: FakeRegistry,
    hosts: Vec<Host>,
    pushes: Pushes,
    candidates: Vec<(CancellationToken, JoinHandle<()>)>,
    commits: u64,
    keep_alives: KeepAlives,
}

/// Where leases are kept alive. In real time many hosts share this machine's few cores: as in the
/// product, their leases do not wait for what else they do.
struct KeepAlives {
    handle: Handle,
    own: Option<Runtime>,
}

impl KeepAlives {
    fn here() -> Self {
        Self {
            handle: Handle::current(),
            own: None,
        }
    }

    fn apart() -> Self {
        let builder = &mut tokio::runtime::Builder::new_multi_thread();
        let own = builder.worker_threads(1).enable_all().build().unwrap();
        Self {
            handle: own.handle().clone(),
            own: Some(own),
        }
    }
}

impl Drop for KeepAlives {
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            own.shutdown_background();
        }
    }
}

impl Cluster {
    /// Starts hosts and one candidate for leadership on each, and waits until all have joined.
    async fn start(hosts: usize) -> Self {
        let mut cluster = Self::unled(hosts).await;
        for n in 0..hosts {
            cluster.start_candidate(n);
        }
        cluster
    }

    /// Starts hosts that nobody leads yet, and waits until all have joined.
    async fn unled(hosts: usize) -> Self {
        Self::over(hosts, LocalStore::in_memory(), None).await
    }

    /// Over a store of one's own; each host has its own connection if that is an etcd.
    async fn over(hosts: usize, inner: SharedStore, etcd: Option<&Etcd>) -> Self {
        if std::env::var_os("VIKING_TEST_LOG").is_some() {
            // Another test may have been faster.
            tracing_subscriber::fmt().with_test_writer().try_init().ok();
        }
        let store = Faulty::new(Arc::clone(&inner));
        let shared: SharedStore = Arc::clone(&store) as SharedStore;
        let clear = Tables::open(inner, "", None, 0).await.unwrap();
        let tables = Tables::open(shared, "", Some(clear.cluster()), 0)
            .await
            .unwrap();
        let mut cluster = Self {
            store,
            tables,
            clear,
            registry: FakeRegistry::default(),
            hosts: Vec::new(),
            pushes: Pushes::default(),
            candidates: Vec::new(),
            commits: 0,
            keep_alives: match etcd {
                Some(_) => KeepAlives::apart(),
                None => KeepAlives::here(),
            },
        };
        for n in 0..hosts {
            let own: Option<SharedStore> = match etcd {
                Some(etcd) => Some(etcd.store().await),
                None => None,
            };
            cluster.add_host(n, own).await;
        }
        for n in 0..hosts {
            cluster.start_worker(n);
        }
        let joined = |world: &World| world.hosts.len() == hosts && world.members.len() == hosts;
        cluster.until("all hosts have joined", s(10), joined).await;
        cluster
    }

    async fn add_host(&mut self, n: usize, own: Option<SharedStore>) {
        // Ports are tried for real, and tests run side by side: each host has its own address.
        static ADDRESSES: AtomicU32 = AtomicU32::new(0x7f4d_0001);
        let address = Ipv4Addr::from(ADDRESSES.fetch_add(1, Ordering::Relaxed));
        let engine = FakeEngine::with_registry(&self.registry);
        let shared = Arc::clone(&self.store) as SharedStore;
        let link = Link::to(own.unwrap_or(shared));
        let shared: SharedStore = Arc::<Link>::clone(&link);
        let known = Some(self.clear.cluster());
        let tables = Tables::open(shared, "", known, 0).await.unwrap();
        self.hosts.push(Host {
            name: host_name(n),
            engine,
            address: address.into(),
            dir: tempfile::tempdir().unwrap(),
            link,
            tables,
            worker: None,
            ambassador: None,
        });
    }

    fn start_worker(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        let listen = host.ambassador.clone().unwrap_or_else(any_port);
        let (progress, _) = broadcast::channel(16);
        let worker = Worker {
            tables: host.tables.clone(),
            engine: Arc::new(host.engine.clone()),
            host: host.name.clone(),
            address: host.address,
            declared: viking::model::host::Declared::default(),
            registry: REGISTRY.to_owned(),
            registry_image: "registry:2".to_owned(),
            data_dir: host.dir.path().to_owned(),
            api: "127.0.0.1:8791".to_owned(),
            machine_id: host.name.to_string(),
            sites: Arc::new(FakeSource::new(&self.registry)),
            listen,
            draining: tokio::sync::watch::channel(Vec::new()).1,
            door: tokio::sync::watch::channel(viking::model::certificate::DoorRecord::default()).1,
            progress,
            keep_alives: self.keep_alives.handle.clone(),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker::run(worker, stop.clone()));
        host.worker = Some((stop, task));
    }

    /// Ends a worker between two of its steps, as a crash would.
    async fn kill_worker(&mut self, n: usize) {
        if let Some((_, task)) = self.hosts[n].worker.take() {
            task.abort();
            task.await.ok();
        }
    }

    fn start_candidate(&mut self, n: usize) {
        let name = self.hosts[n].name.to_string();
        let stop = CancellationToken::new();
        let (tables, pushes) = (self.hosts[n].tables.clone(), self.pushes.clone());
        let runtime = self.keep_alives.handle.clone();
        let candidate = leader::candidate(name, tables, pushes, runtime, stop.clone());
        let task = tokio::spawn(candidate);
        self.candidates.push((stop, task));
    }

    /// Nobody leads, or stands for it, any more.
    async fn stop_candidates(&mut self) {
        for (stop, task) in self.candidates.drain(..) {
            stop.cancel();
            task.await.unwrap();
        }
    }

    fn engine(&self) -> &FakeEngine {
        &self.hosts[0].engine
    }

    /// A commit with this `viking.yml`; answers its tag. What a container does is its command's
    /// first word: `crash`, `never` (healthy), `absent` (cannot be started), `slow`, `stubborn`,
    /// `fades` (healthy at first).
    /// first word: `crash`, `never` (healthy), `absent` (cannot be started), `slow`, `stubborn`; `migrate`
    /// and `long` end well, `bad` does not.
    async fn push(&mut self, yaml: &str) -> Tag {
        self.commits += 1;
        let id = format!(
            "{:012x}{:028x}",
            0xc0_0000_0000 + self.commits,
            self.commits
        );
        self.push_commit(yaml, &id, 1).await
    }

    async fn push_commit(&mut self, yaml: &str, id: &str, nth: u32) -> Tag {
        let file = VikingFile::parse("viking.yml", yaml.as_bytes());
        let file = file.unwrap_or_else(|error| panic!("{error}"));
        let mut external = BTreeMap::new();
        for node in &file.deploy {
            if let Some(ImageText::External(text)) = &node.image {
                let digest = self.registry.publish(text, text);
                let name = text.split(':').next().unwrap_or(text).to_owned();
                external.insert(text.clone(), ImageRef::External { name, digest });
            }
            for command in [&node.settings.run, &node.before_release] {
                self.script(&command.clone().unwrap_or_default().join(" "));
            }
        }
        self.add(&file.stack).await;
        let tag = Tag::of_commit(id, nth).unwrap();
        let commit = Commit {
            id: id.to_owned(),
            subject: format!("commit {}", self.commits),
            author: "somebody".to_owned(),
            at_ms: now_ms(),
        };
        let run = RunId::new(now_ms(), u16::try_from(self.commits).unwrap());
        self.pushes.push(Pushed {
            file,
            commit,
            tag: tag.clone(),
            run,
            external,
        });
        tag
    }

    fn script(&self, command: &str) {
        let behaviour = match command.split(' ').next() {
            Some("crash") => Behaviour::CrashesAfter(Duration::from_millis(100), 1),
            Some("never") => Behaviour::NeverHealthy,
            Some("absent") => Behaviour::FailsToStart,
            Some("fades") => Behaviour::HealthyUntil(s(1)),
            Some("slow") => Behaviour::HealthyAfter(s(5)),
            Some("stubborn") => Behaviour::IgnoresStop,
            Some("migrate") => Behaviour::ExitsAfter(s(1), 0),
            Some("long") => Behaviour::ExitsAfter(s(30), 0),
            Some("bad") => Behaviour::ExitsAfter(s(1), 3),
            _ => return,
        };
        for host in &self.hosts {
            host.engine.behave(command, behaviour.clone());
        }
    }

    /// Pushes, and waits until it serves and nothing of the old release is left.
    async fn go_live(&mut self, yaml: &str) -> Tag {
        let tag = self.push(yaml).await;
        self.until_live(&tag).await;
        tag
    }

    async fn until_live(&self, tag: &Tag) {
        let live = format!("{tag} is live and settled");
        self.until(&live, s(60), |world| settled(world, tag)).await;
        // Whoever asks all the time has asked since.
        tokio::time::sleep(5 * LOOK).await;
    }

    /// Waits until a commit is quarantined and the old release is as it was.
    async fn until_failed(&self, tag: &Tag) {
        let failed = format!("{tag} has failed");
        self.until(&failed, s(300), |world| {
            world.stacks.values().any(|stack| {
                let pointer = &stack.pointer;
                pointer
                    .quarantine
                    .as_ref()
                    .is_some_and(|bad| bad.tag == *tag)
                    && pointer.phase == Phase::Failed
            })
        })
        .await;
        tokio::time::sleep(5 * LOOK).await;
    }

    /// Without a source a stack is seen off.
    async fn add(&self, stack: &StackName) {
        let source = Source {
            v: 1,
            url: "/nowhere".to_owned(),
            branch: None,
            path: String::new(),
            poll_ms: 30_000,
            suspended_ms: None,
        };
        // It may have been there, or a store of many hosts be busy.
        let put = async {
            while self.clear.put_source(stack, &source, 0).await.is_err() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let seen = tokio::time::timeout(s(300), put).await;
        seen.unwrap_or_else(|_| panic!("not within five minutes: {stack} is added"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.violations(), Vec::<String>::new());
        }
    }
}

/// Stands for the ambassador: every listener gets the port it asks for, or a next one.
fn any_port() -> mpsc::Sender<ambassador::Listen> {
    let (listen, mut asked) = mpsc::channel::<ambassador::Listen>(16);
    tokio::spawn(async move {
        let mut next = 40_000;
        while let Some((request, answer)) = asked.recv().await {
            next += 1;
            answer.send(Ok(request.port.unwrap_or(next))).ok();
        }
    });
    listen
}

fn name(stack: &str) -> StackName {
    StackName::parse(stack).unwrap()
}
