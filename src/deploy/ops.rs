//! What is done to containers: one call per step that `reconcile` decided, each run in a task of its
//! own, so that a slow job never holds up another. Called by the worker. Reads of the store only the
//! values of shared variables, and writes nothing there; answers what happened and the worker decides
//! what it means.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::{RwLock, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::ports::PortBook;
use super::wanted::Desired;
use crate::docker::{Container, Error, LogQuery, RunState, SharedEngine};
use crate::failpoint;
use crate::model::endpoint::ListenRequest;
use crate::model::job::JobId;
use crate::model::names::HostName;
use crate::model::release::LOG_TAIL_LINES;
use crate::model::spec::{DURATION_MS_MAX, StopPolicy};
use crate::store::tables::Tables;

/// Asks the ambassador for the port of a link's listener.
pub type Listen = mpsc::Sender<(ListenRequest, oneshot::Sender<Result<u16, String>>)>;

/// The ambassador only binds a socket.
const LISTEN_MAX: Duration = Duration::from_secs(5);
/// What nobody replaces, as after `scale: 2→1`, goes on this long after its endpoints are taken
/// away: routers follow within milliseconds, and then say whether they still have requests there.
const LEAVE: Duration = Duration::from_millis(500);
/// Routers say so for at most this long; one that was lost meanwhile, until its lease has ended.
const LEAVE_MAX: Duration = Duration::from_millis(DURATION_MS_MAX);
/// A log that does not come at once is not worth a slower restart.
const TAIL_MAX: Duration = Duration::from_secs(1);

/// What became of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// The container runs.
    Running(Box<Container>),
    /// It was stopped, removed or thawed; look at it again.
    Changed,
    /// The last lines of a container that ended by itself or does not work.
    Tail(Vec<String>),
    /// The engine cannot set these limits in place.
    LimitsRefused,
    /// It failed, and counts.
    Failed(Failure),
    /// The engine does not answer: nothing is known, nothing counts.
    Unknown(String),
}

impl Done {
    pub(super) fn error(doing: &str, error: &Error) -> Self {
        match error {
            Error::Unreachable(reason) => Self::Unknown(reason.clone()),
            _ => Self::Failed(Failure::engine(doing, error)),
        }
    }
}

/// What all operations need.
pub struct Ops {
    /// The engine.
    pub engine: SharedEngine,
    /// Where the values of shared variables are.
    pub tables: Tables,
    /// Cluster id.
    pub cluster: String,
    /// This host.
    pub host: HostName,
    /// The address ports are published on.
    pub address: IpAddr,
    /// Address in front of every image of ours.
    pub registry: String,
    /// The registry's own image, as this host's operator names it.
    pub registry_image: String,
    /// The ambassador.
    pub listen: Listen,
    /// Ports handed out.
    pub ports: Mutex<PortBook>,
    /// Held by who writes them to disk.
    pub book_file: tokio::sync::Mutex<()>,
    /// How many are made and started at once.
    pub starts: Semaphore,
    /// Held for reading by who makes containers, for writing by who removes networks.
    pub network_gate: RwLock<()>,
}

/// A container to be brought up.
#[derive(Debug, Clone)]
pub struct Order {
    /// The job.
    pub desired: Desired,
    /// Host ports that containers of ours hold.
    pub bound: BTreeSet<u16>,
    /// Engine id of the container it has already.
    pub existing: Option<String>,
    /// Calls it off, before the engine was told to start it.
    pub cancel: CancellationToken,
}

impl Ops {
    /// Makes and starts a container, or starts the one there is. `pulling` is told when the image
    /// has to be fetched first.
    pub async fn bring_up(&self, order: &Order, pulling: impl Fn()) -> Done {
        if let Some(id) = &order.existing {
            match self.start(id, &order.cancel).await {
                // Its port went to somebody else while it stood still: another port, another
                // container.
                Err(Error::PortTaken(_)) if bare(&order.desired) => {
                    if let Err(error) = self.engine.remove(id).await {
                        return Done::error("remove", &error);
                    }
                }
                Err(Error::NotFound(_)) => match self.engine.container(id).await {
                    // Its network went away, or was made anew: this one can never be started again.
                    Ok(Some(_)) => {
                        if let Err(error) = self.engine.remove(id).await {
                            return Done::error("remove", &error);
                        }
                    }
                    Ok(None) => return Done::Changed,
                    Err(error) => return Done::error("look", &error),
                },
                Err(error) => return self.why_not_started(id, &error).await,
                Ok(done) => return done,
            }
        }
        match self.make(order, pulling).await {
            Ok(done) | Err(done) => done,
        }
    }

    /// A container that somebody is removing right now cannot be started: not its fault.
    async fn why_not_started(&self, id: &str, error: &Error) -> Done {
        match self.engine.container(id).await {
            Ok(None) => Done::Changed,
            Ok(Some(container)) if container.state == RunState::Dead => Done::Changed,
            Ok(Some(_)) | Err(_) => Done::error("start", error),
        }
    }

    /// Asks the ambassador for one listener.
    ///
    /// # Errors
    /// What it said, or that it does not answer.
    pub async fn ask(&self, request: ListenRequest) -> Result<u16, String> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.listen.send((request, answer)).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(LISTEN_MAX, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(_) => Err("the ambassador does not answer".to_owned()),
        }
    }

    async fn start(&self, id: &str, cancel: &CancellationToken) -> Result<Done, Error> {
        let _permit = self.starts.acquire().await;
        self.start_now(id, cancel).await
    }

    /// [`Self::start`] by who has been given a place already.
    pub(super) async fn start_now(
        &self,
        id: &str,
        cancel: &CancellationToken,
    ) -> Result<Done, Error> {
        if cancel.is_cancelled() {
            return Ok(Done::Changed);
        }
        failpoint::hit("start");
        self.engine.start(id).await?;
        failpoint::hit("started");
        Ok(match self.engine.container(id).await? {
            Some(container) => Done::Running(Box::new(container)),
            None => Done::Changed,
        })
    }

    /// Stops a container and keeps it.
    pub async fn stop(&self, id: &str, policy: &StopPolicy) -> Done {
        let timeout = Duration::from_millis(policy.timeout_ms);
        let stopped = self.engine.stop(id, policy.signal.as_deref(), timeout);
        match stopped.await {
            Ok(()) | Err(Error::NotFound(_)) => Done::Changed,
            Err(error) => Done::error("stop", &error),
        }
    }

    /// Waits until a copy whose endpoints were just taken away has no requests any more, as far as
    /// routers say so, and not for ever.
    pub async fn let_finish(&self, copy: &JobId) {
        let finished = async {
            loop {
                tokio::time::sleep(LEAVE).await;
                // Without an answer of the store nothing is known of them.
                if matches!(self.tables.has_requests(copy).await, Ok(false)) {
                    return;
                }
            }
        };
        tokio::time::timeout(LEAVE_MAX, finished).await.ok();
    }

    /// Stops a container and removes it.
    pub async fn stop_remove(&self, id: &str, policy: &StopPolicy) -> Done {
        let done = self.stop(id, policy).await;
        if done != Done::Changed {
            return done;
        }
        match self.engine.remove(id).await {
            Ok(()) | Err(Error::NotFound(_)) => Done::Changed,
            Err(error) => Done::error("remove", &error),
        }
    }

    /// Thaws a container.
    pub async fn unpause(&self, id: &str) -> Done {
        match self.engine.unpause(id).await {
            Ok(()) => Done::Changed,
            Err(error) => Done::error("unpause", &error),
        }
    }

    /// Sets a container's limits again.
    pub async fn set_limits(&self, id: &str, desired: &Desired) -> Done {
        let (memory, cpu) = (desired.memory_bytes(), desired.cpu_millis());
        match self.engine.set_limits(id, memory, cpu).await {
            Ok(()) | Err(Error::NotFound(_)) => Done::Changed,
            Err(Error::Unreachable(reason)) => Done::Unknown(reason),
            Err(_) => Done::LimitsRefused,
        }
    }

    /// The last lines of a container's log, as far as they come at once.
    pub async fn tail(&self, id: &str) -> Done {
        let read = async {
            let mut lines = Vec::new();
            if let Ok(mut log) = self.engine.logs(id, LogQuery::last(LOG_TAIL_LINES)).await {
                while let Some(line) = log.recv().await {
                    lines.push(line.text);
                }
            }
            lines
        };
        let lines = tokio::time::timeout(TAIL_MAX, read).await;
        Done::Tail(lines.unwrap_or_default())
    }
}

/// Whether viking picks one of its host ports.
pub(super) fn bare(desired: &Desired) -> bool {
    let mut exposed = desired.spec.settings.expose.iter();
    exposed.any(|expose| expose.host_port.is_none())
}
