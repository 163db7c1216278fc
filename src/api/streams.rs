//! Answers that go on: logs of jobs and the progress of commits, one JSON value a line. An empty
//! line now and then keeps the connection alive. Each stream ends when its reader goes away or the
//! host stops.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::error::{Answer, ApiError, node_and_slot, stack};
use super::{ApiState, Shared};
use crate::docker::{self, LogQuery};
use crate::model::job::{Assignment, StateRecord};
use crate::model::names::{NodeName, StackName};
use crate::model::wire::{self, LogRow};
use crate::model::world::World;

/// Streams at once: each holds a connection and perhaps one to the engine for each job.
pub(crate) const STREAMS_MAX: usize = 64;
/// Lines on their way to a reader; a slow reader slows the engine's side, not memory.
const LINES_QUEUED: usize = 256;
/// Most lines of each job to start with.
const TAIL_MAX: usize = 10_000;
/// Lines to start with when nobody says.
const TAIL_DEFAULT: usize = 100;
/// Time between two empty lines: below the idle limits of what sits between.
const BEAT_EVERY: Duration = Duration::from_secs(15);
/// Time between two looks for containers that came since, while following.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Which lines.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct LogsQuery {
    #[serde(default)]
    follow: bool,
    tail: Option<usize>,
}

/// Logs of all jobs of a stack on this host.
pub(crate) async fn logs_of_stack(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<StackName>,
    Query(query): Query<LogsQuery>,
) -> Answer<Response> {
    let wanted = Wanted {
        stack: name,
        node: None,
        slot: None,
    };
    logs(shared, wanted, query).await
}

/// Logs of a node's jobs, or of one of its slots, on this host.
pub(crate) async fn logs_of_node(
    State(shared): State<Arc<Shared>>,
    Path((name, node)): Path<(StackName, String)>,
    Query(query): Query<LogsQuery>,
) -> Answer<Response> {
    let (node, slot) = node_and_slot(&node)?;
    let wanted = Wanted {
        stack: name,
        node: Some(node),
        slot,
    };
    logs(shared, wanted, query).await
}

/// Jobs whose lines are wanted.
struct Wanted {
    stack: StackName,
    node: Option<NodeName>,
    slot: Option<u32>,
}

impl Wanted {
    fn holds(&self, at: &Assignment) -> bool {
        at.job.stack == self.stack
            && self.node.as_ref().is_none_or(|node| *node == at.job.node)
            && self.slot.is_none_or(|slot| slot == at.job.slot)
    }
}

async fn logs(shared: Arc<Shared>, wanted: Wanted, query: LogsQuery) -> Answer<Response> {
    let world = shared.state.world().await?;
    stack(&world, &wanted.stack)?;
    let sources = sources(&world, &shared.state, &wanted);
    if sources.is_empty() && !query.follow {
        return Err(ApiError::unknown(
            "job on this host for",
            &wanted.words(),
            std::iter::empty(),
        ));
    }
    let (lines, response) = open(&shared)?;
    let tail = query.tail.unwrap_or(TAIL_DEFAULT).min(TAIL_MAX);
    if query.follow {
        tokio::spawn(follow(shared, wanted, tail, lines));
    } else {
        tokio::spawn(async move {
            for source in sources {
                let (query, read) = (LogQuery::last(tail), AtomicU64::new(0));
                source.pump(&shared.state, query, &read, &lines).await;
            }
        });
    }
    Ok(response)
}

impl Wanted {
    fn words(&self) -> String {
        match (&self.node, self.slot) {
            (Some(node), Some(slot)) => format!("{}/{node}.{slot}", self.stack),
            (Some(node), None) => format!("{}/{node}", self.stack),
            (None, _) => self.stack.to_string(),
        }
    }
}

/// Where the lines of one placement come from.
#[derive(Clone)]
struct LogSource {
    row: LogRow,
    container: Option<String>,
    /// What is known of a job that has no container any more.
    kept: Vec<String>,
}

/// Placements on this host: the engine of another one is that host's to ask.
fn sources(world: &World, state: &ApiState, wanted: &Wanted) -> Vec<LogSource> {
    let here = world
        .assignments
        .values()
        .filter(|at| at.host == state.config.host);
    here.filter(|at| wanted.holds(at))
        .map(|at| source(world, at))
        .collect()
}

fn source(world: &World, at: &Assignment) -> LogSource {
    let seen: Option<&StateRecord> = world.state(at);
    let tail = seen
        .map(|state| &state.log_tail)
        .filter(|tail| !tail.is_empty());
    let counted = world.counter(at).map(|counter| &counter.log_tail);
    let container = at.container.clone();
    LogSource {
        row: LogRow {
            schema: wire::schema("log"),
            job: at.job.short(),
            tag: at.job.tag.clone(),
            host: at.host.clone(),
            stderr: false,
            text: String::new(),
        },
        container: container.or_else(|| seen.and_then(|state| state.container.clone())),
        kept: tail.or(counted).cloned().unwrap_or_default(),
    }
}

impl LogSource {
    /// Sends lines until there are no more; what was kept of the last failure when the container
    /// is gone.
    async fn pump(&self, state: &ApiState, query: LogQuery, read: &AtomicU64, lines: &Writer) {
        let opened = match &self.container {
            Some(container) => state.engine.logs(container, query).await,
            None => Err(docker::Error::NotFound("container".to_owned())),
        };
        match opened {
            Ok(mut engine) => loop {
                let line = tokio::select! {
                    line = engine.recv() => line,
                    () = lines.closed() => None,
                };
                let Some(line) = line else { return };
                read.fetch_max(line.at_ns, Ordering::Relaxed);
                if !lines.send(&self.line(line.text, line.stderr)).await {
                    return;
                }
            },
            Err(docker::Error::NotFound(_)) => {
                for text in &self.kept {
                    lines.send(&self.line(text.clone(), true)).await;
                }
            }
            Err(error) => {
                lines
                    .send(&self.line(format!("viking: cannot read the log: {error}"), true))
                    .await;
            }
        }
    }

    fn line(&self, text: String, stderr: bool) -> LogRow {
        LogRow {
            stderr,
            text,
            ..self.row.clone()
        }
    }
}

/// Follows all wanted jobs, those of later releases too. A container that was made anew is read
/// from its start; one that was started again goes on where it was, so that of a crash loop every
/// line is seen, also of runs that ended between two looks.
async fn follow(shared: Arc<Shared>, wanted: Wanted, tail: usize, lines: Writer) {
    let lines = Arc::new(lines);
    let mut followed: BTreeMap<String, Followed> = BTreeMap::new();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = lines.closed() => return,
            _ = looks.tick() => {}
        }
        // An unreadable store or engine is no end: the next look may work.
        let Ok(world) = shared.state.world().await else {
            continue;
        };
        for source in sources(&world, &shared.state, &wanted) {
            let Some(name) = source.container.clone() else {
                continue;
            };
            let Ok(Some(container)) = shared.state.engine.container(&name).await else {
                continue;
            };
            let started_ms = container.started_ms;
            let before = followed.get(&container.id);
            if before.is_some_and(|before| before.started_ms == started_ms) {
                continue;
            }
            let read = before.map(|before| Arc::clone(&before.read));
            let query = LogQuery {
                tail: if read.is_some() { TAIL_MAX } else { tail },
                after_ns: read.as_ref().map_or(0, |read| read.load(Ordering::Relaxed)),
                follow: true,
            };
            let read = read.unwrap_or_default();
            let now = Followed {
                started_ms,
                read: Arc::clone(&read),
            };
            followed.insert(container.id, now);
            let (shared, lines) = (shared.clone(), lines.clone());
            tokio::spawn(async move { source.pump(&shared.state, query, &read, &lines).await });
        }
    }
}

/// A container whose log is followed.
struct Followed {
    started_ms: u64,
    /// The time of the last line that was read, Unix nanoseconds: where to go on after a restart.
    read: Arc<AtomicU64>,
}

/// Which commits.
#[derive(Debug, Deserialize)]
pub(crate) struct ProgressQuery {
    stack: Option<StackName>,
}

/// Steps of commits as they happen, from now on.
pub(crate) async fn progress(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<ProgressQuery>,
) -> Answer<Response> {
    // Before the answer is on its way, so that nothing the reader causes next is missed.
    let mut steps = shared.state.progress.subscribe();
    let (lines, response) = open(&shared)?;
    tokio::spawn(async move {
        loop {
            let step = tokio::select! {
                step = steps.recv() => step,
                () = lines.closed() => return,
            };
            match step {
                Ok(step)
                    if query
                        .stack
                        .as_ref()
                        .is_none_or(|stack| *stack == step.stack) =>
                {
                    lines.send(&step).await;
                }
                // A reader that is too slow misses lines; status tells it how things are.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    Ok(response)
}

/// The writing end of a stream.
struct Writer {
    bytes: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Writer {
    /// Whether the line was taken.
    async fn send(&self, value: &impl Serialize) -> bool {
        let Ok(mut line) = serde_json::to_vec(value) else {
            return false;
        };
        line.push(b'\n');
        tokio::select! {
            sent = self.bytes.send(line.into()) => sent.is_ok(),
            () = self.shared.shutdown.cancelled() => false,
        }
    }

    /// Returns when nobody reads any more or the host stops.
    async fn closed(&self) {
        tokio::select! {
            () = self.bytes.closed() => {}
            () = self.shared.shutdown.cancelled() => {}
        }
    }
}

/// A stream and its answer.
fn open(shared: &Arc<Shared>) -> Answer<(Writer, Response)> {
    let permit = shared.streams.clone().try_acquire_owned().map_err(|_| {
        ApiError::later(
            format!("{STREAMS_MAX} streams are open already"),
            "end a `viking logs -f` or `viking up` elsewhere",
        )
    })?;
    let (bytes, queue) = mpsc::channel(LINES_QUEUED);
    tokio::spawn(beat(bytes.downgrade()));
    let body = Body::from_stream(ReceiverStream::new(queue).map(Ok::<Bytes, Infallible>));
    let writer = Writer {
        bytes,
        shared: shared.clone(),
        _permit: permit,
    };
    let response = ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response();
    Ok((writer, response))
}

/// Empty lines for as long as somebody writes.
async fn beat(bytes: mpsc::WeakSender<Bytes>) {
    loop {
        tokio::time::sleep(BEAT_EVERY).await;
        let Some(bytes) = bytes.upgrade() else { return };
        if bytes.try_send(Bytes::from_static(b"\n")).is_err() && bytes.is_closed() {
            return;
        }
    }
}
