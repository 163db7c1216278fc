//! What the worker's tests stand on: a worker, a fake engine, a store that can be taken away, an
//! ambassador that always says yes, and ways to wait.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use viking::deploy::fake_source::FakeSource;
use viking::deploy::ops::Listen;
use viking::deploy::worker::{self, Worker};
use viking::docker::fake::{FakeEngine, FakeRegistry};
use viking::docker::{Container, RunState, SharedEngine};
use viking::model::endpoint::{Endpoint, ListenRequest};
use viking::model::host::{Declared, Fetch, Fetched};
use viking::model::job::{CounterRecord, Instance, JobId, JobKey, JobState, StateRecord};
use viking::model::names::{HostName, NodeName, StackName, Tag};
use viking::model::release::{Commit, NodeKind, Phase, Pointer, Release, ReleaseNode, RunId};
use viking::model::spec::{ContainerSpec, ImageRef, Resources, Settings, StopPolicy};
use viking::store::keys::Key;
use viking::store::local::LocalStore;
use viking::store::tables::{Assigned, Tables};
use viking::store::{
    Committed, Error, LeaseId, Op, Result, Selector, SharedStore, Snapshot, Store, Txn, Watched,
};

/// Image of every test container.
const IMAGE: &str = "web:1";
/// Port of every listener of the ambassador.
pub(super) const LISTENER: u16 = 31_000;
/// Longest wait, in paused time.
const PATIENCE: Duration = Duration::from_secs(600);

pub(super) fn tag(text: &str) -> Tag {
    Tag::parse(text).expect("a tag")
}

fn stack() -> StackName {
    StackName::parse("s").expect("a name")
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).expect("a name")
}

pub(super) fn job(at: &str, name: &str, slot: u32) -> JobKey {
    JobKey {
        stack: stack(),
        tag: tag(at),
        node: node(name),
        slot,
    }
}

pub(super) fn spec() -> ContainerSpec {
    // The fake makes the same id of the same name on every host.
    let id = FakeEngine::new().add_image(IMAGE);
    ContainerSpec::new(ImageRef::Local { id }, Settings::default())
}

/// A store that can be taken away.
struct Flaky {
    inner: SharedStore,
    down: AtomicBool,
}

impl Flaky {
    fn up(&self) -> Result<&SharedStore> {
        if self.down.load(Ordering::Relaxed) {
            return Err(Error::Unreachable("the test took it away".to_owned()));
        }
        Ok(&self.inner)
    }
}

#[async_trait]
impl Store for Flaky {
    async fn range(&self, selectors: &[Selector]) -> Result<Snapshot> {
        self.up()?.range(selectors).await
    }
    async fn commit(&self, txn: Txn) -> Result<Committed> {
        self.up()?.commit(txn).await
    }
    async fn watch(&self, prefix: &str, from: i64) -> Result<mpsc::Receiver<Watched>> {
        self.up()?.watch(prefix, from).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.up()?.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.up()?.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.up()?.revoke(lease).await
    }
}

pub(super) struct Rig {
    pub(super) engine: FakeEngine,
    used: SharedEngine,
    store: Arc<Flaky>,
    pub(super) tables: Tables,
    /// What the operator says, from the next restart on.
    pub(super) declared: Declared,
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<ListenRequest>>>,
    listen: Listen,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Rig {
    pub(super) async fn start() -> Self {
        let engine = FakeEngine::new();
        engine.add_image(IMAGE);
        let shared = Arc::new(engine.clone());
        Self::start_on(engine, shared).await
    }

    /// Over another engine; the fake one is then not used.
    pub(super) async fn start_with(engine: SharedEngine) -> Self {
        Self::start_on(FakeEngine::new(), engine).await
    }

    async fn start_on(engine: FakeEngine, used: SharedEngine) -> Self {
        let store = Arc::new(Flaky {
            inner: LocalStore::in_memory(),
            down: AtomicBool::new(false),
        });
        let shared: SharedStore = Arc::<Flaky>::clone(&store);
        let tables = Tables::open(shared, "", None, 0)
            .await
            .expect("an empty store opens");
        let asked = Arc::default();
        let mut rig = Self {
            engine,
            used,
            store,
            tables,
            declared: Declared::default(),
            dir: tempfile::tempdir().expect("a directory"),
            listen: ambassador(Arc::clone(&asked)),
            asked,
            running: None,
        };
        rig.restart();
        rig
    }

    pub(super) fn restart(&mut self) {
        let (progress, _) = broadcast::channel(16);
        let worker = Worker {
            tables: self.tables.clone(),
            engine: Arc::clone(&self.used),
            host: host(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            declared: self.declared.clone(),
            registry: "127.0.0.1:5000".to_owned(),
            registry_image: "registry:2".to_owned(),
            data_dir: self.dir.path().to_owned(),
            api: "127.0.0.1:8791".to_owned(),
            machine_id: "m".to_owned(),
            sites: Arc::new(FakeSource::new(&FakeRegistry::default())),
            listen: self.listen.clone(),
            draining: tokio::sync::watch::channel(Vec::new()).1,
            door: tokio::sync::watch::channel(viking::model::certificate::DoorRecord::default()).1,
            progress,
            keep_alives: tokio::runtime::Handle::current(),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(worker::run(worker, shutdown.clone()));
        self.running = Some((shutdown, task));
    }

    pub(super) async fn stop(&mut self) {
        if let Some((shutdown, task)) = self.running.take() {
            shutdown.cancel();
            task.await.expect("the worker does not panic");
        }
    }

    pub(super) fn cluster(&self) -> &str {
        self.tables.cluster()
    }

    pub(super) fn store_down(&self, down: bool) {
        self.store.down.store(down, Ordering::Relaxed);
    }

    async fn put(&self, key: Key, value: impl Into<Vec<u8>>) {
        let op = Op::put(self.tables.keys().text(&key), value);
        let txn = Txn {
            compares: Vec::new(),
            ops: vec![op],
        };
        self.store.inner.commit(txn).await.expect("the store works");
    }

    /// Places a job; answers its container's name.
    pub(super) async fn deploy(&self, job: &JobKey, spec: &ContainerSpec) -> String {
        let proc = Key::Proc(job.stack.clone(), job.tag.clone(), job.node.clone());
        self.put(proc, serde_json::to_vec(spec).expect("json"))
            .await;
        self.put(Key::Deploy(host(), job.clone()), "").await;
        let assigned = self.assigned().await;
        let placed = assigned.assignments.iter().find(|a| a.job == *job);
        let Instance(at) = placed.expect("it was placed").instance;
        job.id(Instance(at)).0
    }

    /// The placement as a store has it that was rebuilt from a copy: another instance, and the name
    /// of the container it had.
    pub(super) async fn rebuild(&self, job: &JobKey, container: &str) {
        self.undeploy(job).await;
        self.put(Key::Deploy(host(), job.clone()), container).await;
    }

    pub(super) async fn undeploy(&self, job: &JobKey) {
        let key = self.tables.keys().text(&Key::Deploy(host(), job.clone()));
        let txn = Txn {
            compares: Vec::new(),
            ops: vec![Op::delete(key)],
        };
        self.store.inner.commit(txn).await.expect("the store works");
    }

    /// A release of one exclusive node.
    pub(super) async fn release(&self, at: &str, name: &str, runs: &str) {
        self.put_release(at, &[name], runs, true).await;
    }

    /// A release of several nodes that are not exclusive.
    pub(super) async fn release_of(&self, at: &str, names: &[&str], runs: &str) {
        self.put_release(at, names, runs, false).await;
    }

    async fn put_release(&self, at: &str, names: &[&str], runs: &str, exclusive: bool) {
        let nodes = names
            .iter()
            .map(|name| (node(name), release_node(runs, exclusive)));
        let release = Release {
            v: 1,
            stack: stack(),
            tag: tag(at),
            commit: Commit {
                id: "0".repeat(40),
                subject: String::new(),
                author: String::new(),
                at_ms: 0,
            },
            run: RunId::new(0, 0),
            made_ms: 0,
            images: BTreeMap::new(),
            external: BTreeMap::new(),
            nodes: nodes.collect(),
            stages_ms: Vec::new(),
            before: Default::default(),
            require: Default::default(),
            again: None,
        };
        let value = serde_json::to_vec(&release).expect("json");
        self.put(Key::Release(stack(), tag(at)), value).await;
    }

    pub(super) async fn point(
        &self,
        live: Option<&str>,
        staged: Option<&str>,
        phase: Phase,
        cut: &[(&str, u32)],
    ) {
        let pointer = Pointer {
            v: 1,
            live: live.map(tag),
            staged: staged.map(tag),
            phase,
            run: Some(RunId::new(0, 0)),
            cut: cut.iter().map(|(name, slot)| (node(name), *slot)).collect(),
            ..Pointer::default()
        };
        let value = serde_json::to_vec(&pointer).expect("json");
        self.put(Key::Pointer(stack()), value).await;
    }

    /// Asks this host for images, as the pointer of a release does before a hand-over.
    pub(super) async fn ask_to_fetch(&self, images: &[ImageRef]) {
        let fetch = images.iter().map(|image| Fetch {
            host: host(),
            image: image.clone(),
        });
        let pointer = Pointer {
            v: 1,
            fetch: fetch.collect(),
            ..Pointer::default()
        };
        let value = serde_json::to_vec(&pointer).expect("json");
        self.put(Key::Pointer(stack()), value).await;
    }

    /// Waits until the host has answered for so many images, which it does under its lease.
    pub(super) async fn until_fetched(&self, holds: impl Fn(&[Fetched]) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let world = self.tables.world(0).await.expect("the store works");
            let record = world.hosts.get(&host());
            let fetched = record.map_or(&[][..], |record| &record.fetched);
            if holds(fetched) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{fetched:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The router of another host has requests at these copies, which no route leads to.
    pub(super) async fn another_host_asks(&self, copies: &[JobId]) {
        let world = self.tables.world(0).await.expect("the store works");
        let mut record = world.hosts[&host()].clone();
        record.draining = copies.to_vec();
        let other = HostName::parse("host-2").expect("a name");
        let value = serde_json::to_vec(&record).expect("json");
        self.put(Key::Host(other), value).await;
    }

    /// Read past the fault.
    pub(super) async fn assigned(&self) -> Assigned {
        let shared: SharedStore = Arc::clone(&self.store.inner);
        let tables = Tables::open(shared, "", None, 0)
            .await
            .expect("the store works");
        tables.assigned(&host()).await.expect("the store works")
    }

    pub(super) async fn state(&self, job: &JobKey) -> Option<StateRecord> {
        self.assigned().await.states.remove(job)
    }

    pub(super) async fn counter(&self, job: &JobKey) -> Option<CounterRecord> {
        self.assigned().await.counters.remove(job)
    }

    pub(super) async fn ports(&self, job: &JobKey) -> Vec<Endpoint> {
        let routes = self.tables.routes(&host()).await.expect("the store works");
        let of_job = |e: &Endpoint| e.tag == job.tag && e.node == job.node;
        routes.endpoints.into_iter().filter(of_job).collect()
    }

    async fn event_texts(&self, what: &str) -> Vec<String> {
        let events = self.tables.events(None).await.expect("the store works");
        let of_kind = events.into_iter().filter(|(_, event)| event.what == what);
        let mut events: Vec<_> = of_kind.map(|(_, e)| (e.at_ms, e.why)).collect();
        events.sort();
        events.into_iter().map(|(_, why)| why).collect()
    }

    pub(super) async fn events(&self, what: &str) -> usize {
        self.event_texts(what).await.len()
    }

    /// The inspected fields that drifted, in order.
    pub(super) async fn drift_fields(&self) -> Vec<String> {
        let field = |why: &String| why.split(':').next().unwrap_or_default().to_owned();
        self.event_texts("drift").await.iter().map(field).collect()
    }

    pub(super) fn asked(&self) -> Vec<ListenRequest> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }

    pub(super) fn find(&self, name: &str) -> Option<Container> {
        let mut all = self.engine.snapshot().into_iter();
        all.find(|container| container.name == name)
    }

    pub(super) fn container(&self, name: &str) -> Container {
        self.find(name)
            .unwrap_or_else(|| panic!("no container {name}"))
    }

    pub(super) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(
            waited.is_ok(),
            "never: {what}; {:#?}",
            self.engine.snapshot()
        );
    }

    pub(super) async fn until_running(&self, name: &str) {
        self.until("it runs", |rig| {
            rig.find(name).is_some_and(|c| c.state == RunState::Running)
        })
        .await;
    }

    pub(super) async fn until_state(&self, job: &JobKey, wanted: JobState) -> StateRecord {
        let started = tokio::time::Instant::now();
        loop {
            let state = self.state(job).await;
            if let Some(state) = state.clone().filter(|state| state.state == wanted) {
                return state;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{job} never {wanted}: {state:#?} {:#?}",
                self.engine.snapshot()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn until_failures(&self, job: &JobKey, failures: u32) -> CounterRecord {
        let started = tokio::time::Instant::now();
        loop {
            let counter = self.counter(job).await;
            if let Some(counter) = counter.filter(|counter| counter.failures >= failures) {
                return counter;
            }
            assert!(started.elapsed() < PATIENCE, "{job} never failed so often");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn until_drift(&self, count: usize) {
        let started = tokio::time::Instant::now();
        while self.events("drift").await < count {
            let passed = started.elapsed();
            assert!(
                passed < PATIENCE,
                "never {count} drifts: {:?}",
                self.drift_fields().await
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub(super) fn host() -> HostName {
    HostName::parse("host-1").expect("a name")
}

fn ambassador(asked: Arc<Mutex<Vec<ListenRequest>>>) -> Listen {
    let (listen, mut requests) =
        mpsc::channel::<(ListenRequest, tokio::sync::oneshot::Sender<_>)>(8);
    tokio::spawn(async move {
        while let Some((request, answer)) = requests.recv().await {
            let port = request.port.unwrap_or(LISTENER);
            asked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(request);
            drop(answer.send(Ok(port)));
        }
    });
    listen
}

fn release_node(runs: &str, exclusive: bool) -> ReleaseNode {
    ReleaseNode {
        tag: tag(runs),
        kind: NodeKind::Container,
        spec_hash: String::new(),
        scale: 1,
        domains: Vec::new(),
        filter: Vec::new(),
        spread_required: false,
        stop: StopPolicy::default(),
        service: false,
        fixed: false,
        exclusive,
        squeezed: false,
        link: Vec::new(),
        shared_volumes: Vec::new(),
        has_volume: exclusive,
        host_ports: Vec::new(),
        resources: Resources::default(),
        pending: None,
    }
}
