//! The worker: the part of a host that runs containers. Puts desk, heartbeat, store watch and
//! engine events together and drives the passes. Called by `host`; on shutdown it leaves every
//! container running.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{RwLock, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::desk::{Desk, FULL_PASS, Teller, Tidings};
use super::fetch::Fetches;
use super::heartbeat::Heartbeat;
use super::ledger::Ledger;
use super::ops::{Listen, Ops};
use super::ports::PortBook;
use super::runs::Runs;
use super::sites::Sites;
use super::source::SharedSource;
use super::view::View;
use crate::clock;
use crate::docker::SharedEngine;
use crate::model::certificate::DoorRecord;
use crate::model::host::{Declared, LEASE_TTL};
use crate::model::job::JobId;
use crate::model::names::HostName;
use crate::store::election::LeaseKeeper;
use crate::store::keys::Family;
use crate::store::tables::Tables;
use crate::wake::{self, Bell, ProgressSink};

/// Starts at once, for each core.
const STARTS_PER_CORE: usize = 2;
/// Events waiting to be looked at; when there are more, the stream waits and nothing is lost.
const TIDINGS_MAX: usize = 1_024;
/// Until the next try to hear the engine's events.
const EVENTS_AGAIN: Duration = Duration::from_millis(500);

/// What a worker needs.
#[derive(Clone)]
pub struct Worker {
    /// The store.
    pub tables: Tables,
    /// Docker.
    pub engine: SharedEngine,
    /// This host's name.
    pub host: HostName,
    /// The address ports are published on.
    pub address: IpAddr,
    /// What the operator says of the machine.
    pub declared: Declared,
    /// Address in front of every image of ours.
    pub registry: String,
    /// The registry's own image, as this host's operator names it.
    pub registry_image: String,
    /// Where this host keeps its files.
    pub data_dir: PathBuf,
    /// Where the API listens, for others to know.
    pub api: String,
    /// Tells this machine from another of the same name.
    pub machine_id: String,
    /// Where the files of sites come from.
    pub sites: SharedSource,
    /// The ambassador.
    pub listen: Listen,
    /// Copies that still have requests though no route leads to them, as the router knows it.
    pub draining: watch::Receiver<Vec<JobId>>,
    /// The front door, as it says itself.
    pub door: watch::Receiver<DoorRecord>,
    /// Where people watch.
    pub progress: ProgressSink,
    /// Where keep-alives run, so that nothing here can starve them.
    pub keep_alives: tokio::runtime::Handle,
}

/// Runs until shutdown; containers run on.
pub async fn run(worker: Worker, shutdown: CancellationToken) {
    let bell = Bell::new();
    let ear = bell.ear();
    let keeper = LeaseKeeper::start(
        Arc::clone(worker.tables.store()),
        LEASE_TTL,
        &worker.keep_alives,
    );
    let (heard, tidings) = mpsc::channel(TIDINGS_MAX);
    let (fetches, fetched) = Fetches::new();
    let (sites, unpacked) = Sites::new(&worker.data_dir, Arc::clone(&worker.sites));
    let ahead = (fetches, sites);
    let desk = desk(&worker, bell.clone(), tidings, ahead, &keeper);
    let desk = Arc::new(tokio::sync::Mutex::new(desk));
    let passes = wake::run("worker", FULL_PASS, ear, shutdown.clone(), || {
        let desk = Arc::clone(&desk);
        async move { Ok(desk.lock().await.pass().await) }
    });
    let keys = worker.tables.keys();
    let mine = keys.family_of(Family::Deploy, worker.host.as_str());
    let prefixes = [mine, keys.family(Family::Release)];
    let heartbeat = Heartbeat {
        tables: worker.tables.clone(),
        engine: Arc::clone(&worker.engine),
        host: worker.host.clone(),
        address: worker.address,
        declared: worker.declared.clone(),
        api: worker.api.clone(),
        machine_id: worker.machine_id.clone(),
        started_ms: clock::now_ms(),
        fetched,
        draining: worker.draining.clone(),
        door: worker.door.clone(),
        sites: unpacked,
    };
    tokio::join!(
        passes,
        worker.tables.ring(&bell, &prefixes, &shutdown),
        heartbeat.run(keeper.lease(), bell.clone(), shutdown.clone()),
        listen_to_engine(&worker.engine, heard, &bell, &shutdown),
    );
}

fn desk(
    worker: &Worker,
    bell: Bell,
    tidings: mpsc::Receiver<Tidings>,
    (fetches, sites): (Fetches, Sites),
    keeper: &LeaseKeeper,
) -> Desk {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (notes, read_notes) = mpsc::unbounded_channel();
    let cluster = worker.tables.cluster().to_owned();
    Desk {
        tables: worker.tables.clone(),
        ops: Arc::new(Ops {
            engine: Arc::clone(&worker.engine),
            tables: worker.tables.clone(),
            cluster: cluster.clone(),
            host: worker.host.clone(),
            address: worker.address,
            registry: worker.registry.clone(),
            registry_image: worker.registry_image.clone(),
            listen: worker.listen.clone(),
            ports: Mutex::new(PortBook::open(&worker.data_dir, clock::now_ms())),
            book_file: tokio::sync::Mutex::new(()),
            starts: Semaphore::new(cores * STARTS_PER_CORE),
            network_gate: RwLock::new(()),
        }),
        teller: Teller { notes, bell },
        notes: read_notes,
        tidings,
        lease: keeper.lease(),
        progress: worker.progress.clone(),
        tasks: JoinSet::new(),
        view: View::new(&cluster),
        assigned: None,
        stale: false,
        runs: Runs::default(),
        counters: BTreeMap::new(),
        busy: BTreeMap::new(),
        sick: BTreeSet::new(),
        ended_well: BTreeMap::new(),
        beyond_repair: BTreeSet::new(),
        removed: BTreeSet::new(),
        pauses: BTreeMap::new(),
        stuck: BTreeMap::new(),
        stops: BTreeMap::new(),
        ledger: Ledger::default(),
        fetches,
        sites,
        events: VecDeque::new(),
        engine_down: false,
        listed_ms: 0,
        fresh: true,
    }
}

/// Passes the engine's events on. When the stream ends, whatever happened meanwhile was missed.
async fn listen_to_engine(
    engine: &SharedEngine,
    heard: mpsc::Sender<Tidings>,
    bell: &Bell,
    shutdown: &CancellationToken,
) {
    let listen = async {
        let mut broke = false;
        loop {
            if let Ok(mut events) = engine.events().await {
                // What happened before the stream began is found by a full look.
                if broke && heard.send(Tidings::Broke).await.is_err() {
                    return;
                }
                bell.ring();
                while let Some(event) = events.recv().await {
                    if heard.send(Tidings::Event(event)).await.is_err() {
                        return;
                    }
                    bell.ring();
                }
                if heard.send(Tidings::Broke).await.is_err() {
                    return;
                }
                bell.ring();
            }
            broke = true;
            tokio::time::sleep(EVENTS_AGAIN).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = listen => {}
    }
}
