//! HTTP on loopback: the nine routes of 0.5.3 and what the CLI needs. Started by `host`. Reads the
//! store, asks the leader, never decides and never touches git or containers (logs are read).

mod change;
mod env;
mod error;
mod guard;
mod hosts;
pub(crate) mod jobs;
mod operate;
mod plan;
mod read;
mod route;
mod routes;
pub mod status;
mod streams;
mod text;
mod verdicts;
mod why;

use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Config;
use crate::docker::SharedEngine;
use crate::model::foretold::Foretold;
use crate::model::names::{HostName, StackName};
use crate::model::release::Source;
use crate::model::wire::Added;
use crate::model::world::World;
use crate::schedule::losses;
use crate::store::tables::Tables;
use crate::wake::ProgressSink;

pub use routes::{ROUTES, Route};

/// Time that open answers have to end after the host was told to stop.
const GRACE: Duration = Duration::from_secs(3);

/// Tells what was counted so far.
pub type Counted = Arc<dyn Fn() -> String + Send + Sync>;

/// What the API needs of the process it is part of.
#[derive(Clone)]
pub struct ApiState {
    /// The store, typed.
    pub tables: Tables,
    /// This host's engine, for logs only.
    pub engine: SharedEngine,
    /// This host.
    pub config: Arc<Config>,
    /// What cannot be answered by the store alone.
    pub asks: mpsc::Sender<Ask>,
    /// Steps of commits, as the stages tell them.
    pub progress: ProgressSink,
    /// Who leads now, as this host knows.
    pub leader: watch::Receiver<Option<HostName>>,
    /// What the router of this host counted, in the text format of Prometheus.
    pub metrics: Counted,
}

impl ApiState {
    pub(crate) async fn world(&self) -> Result<World, crate::store::tables::Error> {
        let mut world = self.tables.world(clock::now_ms()).await?;
        world.lost = losses::noted(&world);
        Ok(world)
    }
}

/// A question that needs git, which only the leader's part of a host asks.
#[derive(Debug)]
pub enum Ask {
    /// Fetch the repository, read its `viking.yml`, follow it under the name it gives. Following
    /// the same repository again is fine and looks at it now.
    Add {
        /// The repository, checked for form.
        source: Source,
        /// The stack and its newest commit, or why not, in words.
        reply: oneshot::Sender<Result<Added, String>>,
    },
    /// What a commit would do, without doing it.
    Plan {
        /// A followed stack.
        stack: StackName,
        /// A branch or the beginning of a commit's id; the newest commit when absent.
        word: Option<String>,
        /// What it would do, or why that cannot be told.
        reply: oneshot::Sender<Result<Box<Foretold>, String>>,
    },
}

/// What handlers share.
struct Shared {
    state: ApiState,
    shutdown: CancellationToken,
    streams: Arc<Semaphore>,
    /// What `/v1/info` says of the routes.
    routes: serde_json::Value,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Others could reach it, and there are no tokens yet.
    #[error("the API would listen on {0}, open to others, and tokens are not supported yet")]
    NotLoopback(std::net::SocketAddr),
    /// The socket failed.
    #[error("the API's socket failed")]
    Socket(#[from] std::io::Error),
}

/// Answers requests until shutdown, then lets open answers end for a moment.
///
/// # Errors
/// When the listener is open to others, or fails.
pub async fn serve(
    listener: TcpListener,
    state: ApiState,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    let shared = Arc::new(Shared {
        state,
        shutdown: shutdown.clone(),
        streams: Arc::new(Semaphore::new(streams::STREAMS_MAX)),
        routes: routes::listing(),
    });
    // Without this the answer's last piece waits for the other side's delayed acknowledgement.
    let listener = listener.tap_io(|socket| {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!("cannot set TCP_NODELAY: {error}");
        }
    });
    let router = routes::router(shared, address.ip());
    let serving = axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .into_future();
    tokio::select! {
        served = serving => Ok(served?),
        () = late(shutdown) => Ok(()),
    }
}

async fn late(shutdown: CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(GRACE).await;
}
