//! `viking host`: the process on every machine. Opens the store, joins the cluster, and starts the
//! worker, the ambassador, the API and the campaign for leadership. Puts parts together; decides
//! nothing.

mod door;
pub mod identity;
pub mod keep;
mod opening;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::door::Door;
use self::identity::Identity;
use crate::api::{self, ApiState, Ask, Counted};
use crate::build::Places;
use crate::build::copies::HttpCopies;
use crate::build::registry::HttpRegistry;
use crate::config::Config;
use crate::deploy::source::HttpSource;
use crate::deploy::worker::{self, Worker};
use crate::docker::SharedEngine;
use crate::docker::bollard::BollardEngine;
use crate::leader;
use crate::model::certificate::DoorRecord;
use crate::model::names::HostName;
use crate::model::registry::{CopyAddresses, Turn};
use crate::router::ambassador::{self, Ambassador};
use crate::router::front::Front;
use crate::store::election;
use crate::store::keys::Key;
use crate::store::tables::Tables;
use crate::sync::{Mirrors, Options};

/// Lines of progress a slow reader may fall behind.
const PROGRESS_LINES: usize = 4096;

/// How long Docker may take to answer when viking starts.
const ENGINE_WAIT: Duration = Duration::from_secs(15);

/// Time to live of the leadership (`design.md` §7).
const LEADER_TTL: Duration = Duration::from_secs(3);

/// Between standing down and standing for election again.
const LEAD_AGAIN: Duration = Duration::from_secs(1);

/// How long the parts may take to end after a shutdown signal.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(10);

/// Runs this machine's part of the cluster until shutdown. Containers go on running afterwards.
///
/// # Errors
/// When the data directory, the store, Docker or the API's address cannot be had.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let parts = tokio::select! {
        // Waiting for others may take long, and nothing has been started yet.
        () = shutdown.cancelled() => return Ok(()),
        parts = assemble(&config) => parts?,
    };
    let listener = TcpListener::bind(config.api).await.with_context(|| {
        format!(
            "listening on {} for the API; choose another with --api",
            config.api
        )
    })?;
    serve(config, parts, listener, shutdown).await
}

/// What every host has before its loops start.
pub struct Assembled {
    /// The store's typed side.
    pub tables: Tables,
    /// Docker.
    pub engine: SharedEngine,
    /// Tells this installation from another of the same host name.
    pub machine_id: String,
    /// Mirrors of repositories.
    pub mirrors: Mirrors,
}

async fn assemble(config: &Config) -> anyhow::Result<Assembled> {
    let dir = &config.data_dir;
    std::fs::create_dir_all(dir)
        .with_context(|| format!("making the data directory {}", dir.display()))?;
    let identity = Identity::of(dir);
    let tables = opening::tables(config, &identity).await?;
    identity.join(tables.cluster(), &config.host)?;
    let engine: SharedEngine = Arc::new(BollardEngine::connect(&config.docker)?);
    await_engine(&engine, &config.docker).await?;
    let mirrors = Mirrors::new(dir, Options::from_env())?;
    Ok(Assembled {
        tables,
        engine,
        machine_id: identity.machine()?,
        mirrors,
    })
}

async fn await_engine(engine: &SharedEngine, address: &str) -> anyhow::Result<()> {
    let until = tokio::time::Instant::now() + ENGINE_WAIT;
    loop {
        match engine.info().await {
            Ok(_) => return Ok(()),
            Err(error) if tokio::time::Instant::now() >= until => {
                bail!("Docker at {address}: {error}; start it, or name another with --docker");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Runs the loops on what was assembled, with the API on a listener that is already bound.
///
/// # Errors
/// When this host cannot join, or a part that everything needs fails to start.
pub async fn serve(
    config: Config,
    parts: Assembled,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Assembled {
        tables,
        engine,
        machine_id,
        mirrors,
    } = parts;
    let (progress, _) = broadcast::channel(PROGRESS_LINES);
    let (listen, asked) = mpsc::channel(64);
    let (asks, questions) = mpsc::channel::<Ask>(16);
    let (leading, leader) = watch::channel(None);
    let keep_alives = KeepAlives::start()?;
    let tasks = TaskTracker::new();
    let identity = Identity::of(&config.data_dir);
    tasks.spawn(identity.keep_seen(tables.clone(), shutdown.clone()));
    tasks.spawn(keep::keep_copies(
        tables.clone(),
        config.prefix.clone(),
        config.data_dir.clone(),
        shutdown.clone(),
    ));

    let (copies, addresses) = watch::channel(CopyAddresses::new());
    let turn = Turn::default();
    let (drains, draining) = watch::channel(Vec::new());
    let (said, door_said) = watch::channel(DoorRecord::default());
    let door = Door::open(&config.front, &config.data_dir, drains, said)?;
    let certificates = Arc::clone(&door.certificates);
    let metrics: Counted = {
        let front = door.front.clone();
        Arc::new(move || front.as_ref().map(Front::metrics).unwrap_or_default())
    };
    let ambassador = Ambassador {
        tables: tables.clone(),
        host: config.host.clone(),
        registry_port: config.registry_port,
        front: door.front.clone(),
        asked,
        copies,
        turn: turn.clone(),
    };
    let mut forwarding = tasks.spawn(ambassador::run(ambassador, shutdown.clone()));
    let mut routing = tasks.spawn(door.serve(tables.clone(), shutdown.clone()));
    let worker = Worker {
        tables: tables.clone(),
        engine: Arc::clone(&engine),
        host: config.host.clone(),
        address: config.address,
        declared: config.declared.clone(),
        registry: config.registry(),
        registry_image: config.registry_image.clone(),
        data_dir: config.data_dir.clone(),
        api: config.api.to_string(),
        machine_id,
        sites: Arc::new(HttpSource::new(&config.registry())?),
        listen,
        draining,
        door: door_said,
        progress: progress.clone(),
        keep_alives: keep_alives.handle(),
    };
    let mut working = tasks.spawn(worker::run(worker, shutdown.clone()));
    let state = ApiState {
        tables: tables.clone(),
        engine: Arc::clone(&engine),
        config: Arc::new(config.clone()),
        asks,
        progress: progress.clone(),
        leader,
        metrics,
    };
    let mut answering = tasks.spawn(api::serve(listener, state, shutdown.clone()));
    let registry = Arc::new(HttpRegistry::new(&config.registry())?);
    let copies = Arc::new(HttpCopies::new(addresses, turn)?);
    let lead = leader::Parts {
        tables,
        engine,
        mirrors,
        registry,
        copies,
        builds: Places::default(),
        covered: Arc::new(move |domain| certificates.folder_covers(domain)),
        config,
        progress,
    };
    tasks.spawn(answer(lead.clone(), questions));
    tasks.spawn(campaign(
        lead,
        leading,
        keep_alives.handle(),
        shutdown.clone(),
    ));

    tokio::select! {
        () = shutdown.cancelled() => {}
        ended = &mut forwarding => ended??,
        ended = &mut routing => ended??,
        ended = &mut answering => ended??,
        // It only ends by itself when it panicked: better to be started again than to look alive.
        ended = &mut working => ended.context("the worker ended")?,
    }
    shutdown.cancel();
    tasks.close();
    if tokio::time::timeout(SHUTDOWN_WAIT, tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            "some parts did not end within {} s",
            SHUTDOWN_WAIT.as_secs()
        );
    }
    Ok(())
}

/// Answers what the API asks of git.
async fn answer(parts: leader::Parts, mut questions: mpsc::Receiver<Ask>) {
    while let Some(question) = questions.recv().await {
        let parts = parts.clone();
        tokio::spawn(async move {
            let words = |error: anyhow::Error| format!("{error:#}");
            // The asker may have hung up.
            match question {
                Ask::Add { source, reply } => {
                    let added = leader::add(&parts, &source).await;
                    reply.send(added.map_err(words)).ok();
                }
                Ask::Plan { stack, word, reply } => {
                    let told = leader::foresee(&parts, &stack, word.as_deref()).await;
                    let told = told.map(Box::new).map_err(|error| words(error.into()));
                    reply.send(told).ok();
                }
            }
        });
    }
}

/// Leads whenever elected, until shutdown.
async fn campaign(
    parts: leader::Parts,
    leading: watch::Sender<Option<HostName>>,
    keep_alives: Handle,
    shutdown: CancellationToken,
) {
    let store = Arc::clone(parts.tables.store());
    let key = parts.tables.keys().text(&Key::Leader);
    let host = parts.config.host.clone();
    while !shutdown.is_cancelled() {
        let name = host.as_str();
        let elected =
            election::campaign(&store, &key, name, LEADER_TTL, &keep_alives, &shutdown).await;
        let Some(leadership) = elected else { return };
        let leadership = Arc::new(leadership);
        tracing::info!(%host, "elected");
        leading.send_replace(Some(host.clone()));
        leader::run(parts.clone(), Arc::clone(&leadership), shutdown.clone()).await;
        leading.send_replace(None);
        // Nobody else holds it any more: every task of the leader has ended.
        if let Some(leadership) = Arc::into_inner(leadership) {
            leadership.resign().await;
        }
        // A part that panics at once must not make this a busy loop.
        if !shutdown.is_cancelled() {
            tokio::time::sleep(LEAD_AGAIN).await;
        }
    }
}

/// A thread of its own for keep-alives, so that no stage that blocks can starve them.
struct KeepAlives {
    runtime: Option<Runtime>,
}

impl KeepAlives {
    fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("keep-alive")
            .enable_time()
            .build()
            .context("starting the keep-alive thread")?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    fn handle(&self) -> Handle {
        self.runtime
            .as_ref()
            .expect("there until dropped")
            .handle()
            .clone()
    }
}

impl Drop for KeepAlives {
    fn drop(&mut self) {
        // A runtime must not wait for its threads inside another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
