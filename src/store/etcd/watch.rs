//! A watch over etcd that outlives connections, members and leaders: it goes on, at another member
//! if need be, after the last revision it told. Spawned by `etcd`; nothing is told twice or left out
//! between two connections, and a reader that is slow holds up nobody.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::MESSAGE_BYTES_MAX;
use super::pool::{Pool, REPEATABLE};
use super::wire::{Fault, Head, events, fault, prefix_range};
use crate::store::Watched;
use crate::wake::backoff;

/// Batches a watch may be ahead of its reader; beyond, it hangs up and reads on from history later.
pub(super) const WATCH_QUEUE: usize = 16;

/// A watch that was told nothing for so long asks for a sign of life, and at once when a call fails:
/// keep-alives are sent each second, and a worker reads each 10 s at least, over the very connection
/// its watches use. So this is for what they do not meet, and rare because etcd answers each: 200
/// hosts with ten watches are 33 requests a second, where 3 s would be 660.
const QUIET: Duration = Duration::from_secs(60);

/// The same for a watch at another member than the one that is asked.
const STRAYED: Duration = Duration::from_secs(5);

/// And for so long after that is dead: a member that hangs, or a path that is cut.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// Failures in a row, at most, that make the wait before the next try longer.
const BACKOFF_FAILURES_MAX: u32 = 5;

/// The failure in a row that is told.
const WORTH_A_WARNING: u32 = 5;

/// A watch and how far it is.
pub(super) struct Follow {
    pub(super) pool: Arc<Pool>,
    pub(super) prefix: String,
    /// The first revision that was not told yet.
    pub(super) from: i64,
    pub(super) tx: mpsc::Sender<Watched>,
}

/// Why a stream was left.
enum Left {
    /// It works; the reader is slow.
    Full(Watched),
    /// What was asked for is forgotten.
    Compacted(i64),
    /// The reader went.
    Unread,
    /// It failed.
    Failed(String),
}

impl Follow {
    /// Runs until the reader goes, the store is closed, or history is forgotten.
    pub(super) async fn run(mut self, closed: CancellationToken) {
        let (tx, closed) = (self.tx.clone(), closed.cancelled_owned());
        tokio::select! {
            () = closed => {}
            () = tx.closed() => {}
            () = self.go_on() => {}
        }
    }

    async fn go_on(&mut self) {
        let mut failures = 0;
        loop {
            let before = self.from;
            let at = self.pool.current();
            match self.stream(at).await {
                Left::Full(first) => {
                    failures = 0;
                    // Sent when there is room, then the stream is opened again behind it.
                    if !self.tell(first).await {
                        return;
                    }
                }
                Left::Compacted(revision) => {
                    self.tx.send(Watched::Compacted(revision)).await.ok();
                    return;
                }
                Left::Unread => return,
                Left::Failed(why) => {
                    failures = if self.from > before { 1 } else { failures + 1 };
                    self.pool.leave(at);
                    // One failure is a member that restarts; many are somebody's business.
                    if failures == WORTH_A_WARNING {
                        tracing::warn!(prefix = self.prefix, from = self.from, "watch: {why}");
                    } else {
                        tracing::debug!(prefix = self.prefix, from = self.from, "watch: {why}");
                    }
                    let waits = failures.min(BACKOFF_FAILURES_MAX);
                    sleep(backoff(waits, fastrand::f64())).await;
                }
            }
        }
    }

    /// Waits until the reader has taken half of what there is for it, so that not every batch costs
    /// a new stream. False when it went.
    async fn tell(&mut self, watched: Watched) -> bool {
        let last = last_revision(&watched);
        let Ok(mut room) = self.tx.reserve_many(WATCH_QUEUE / 2).await else {
            return false;
        };
        if let Some(permit) = room.next() {
            permit.send(watched);
        }
        drop(room);
        self.told(last);
        true
    }

    fn told(&mut self, last: Option<i64>) {
        if let Some(last) = last {
            self.from = last + 1;
            self.pool.seen().saw(last);
        }
    }

    /// One connection's worth.
    async fn stream(&mut self, at: usize) -> Left {
        let mut doubts = self.pool.seen().doubts();
        let mut stream = match self.open(at).await {
            Ok(stream) => stream,
            Err(fault) => return Left::Failed(fault.into_error(0).to_string()),
        };
        loop {
            // What is asked of another member by now says nothing about this one.
            let quiet = if self.pool.current() == at {
                QUIET
            } else {
                STRAYED
            };
            let told = match next(&mut stream, &mut doubts, quiet).await {
                Ok(told) => told,
                Err(why) => {
                    self.pool.forget(at);
                    return Left::Failed(why);
                }
            };
            if let Err(why) = self.check(&told).await {
                return Left::Failed(why);
            }
            if told.canceled() {
                return cancelled(&told);
            }
            // A revision comes whole in one message: fragments are not asked for.
            let events = events(told.events(), self.from);
            if events.is_empty() {
                continue;
            }
            let watched = Watched::Events(events);
            let last = last_revision(&watched);
            match self.tx.try_send(watched) {
                Ok(()) => self.told(last),
                Err(mpsc::error::TrySendError::Full(watched)) => return Left::Full(watched),
                Err(mpsc::error::TrySendError::Closed(_)) => return Left::Unread,
            }
        }
    }

    /// Whether a member may be believed. One that is behind catches up; but when all of them are, a
    /// backup was put back, and the watch would be silent until they get to where it was.
    async fn check(&self, told: &WatchResponse) -> Result<(), String> {
        let Some(head) = Head::of(told.header()) else {
            return Ok(());
        };
        self.pool.seen().known(head.cluster)?;
        if told.created() && !told.canceled() && head.revision + 1 < self.from {
            let newest = self.pool.revision(&self.prefix).await;
            newest.map_err(|fault| fault.into_error(0).to_string())?;
        }
        Ok(())
    }

    /// Opens the stream at a member.
    async fn open(&self, at: usize) -> Result<WatchStream, Fault> {
        let limit = Instant::now() + REPEATABLE.attempt;
        let client: Client = self.pool.connect(at, limit).await?;
        let (start, end) = prefix_range(&self.prefix);
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(self.from);
        let mut watches = client
            .watch_client()
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        match timeout_at(limit, watches.watch(start, Some(options))).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(fault(&error)),
            Err(_) => {
                self.pool.forget(at);
                Err(Fault::NotDone("no watch in time".into()))
            }
        }
    }
}

/// The next message, asked for when none comes by itself or a call has failed.
async fn next(
    stream: &mut WatchStream,
    doubts: &mut watch::Receiver<()>,
    quiet: Duration,
) -> Result<WatchResponse, String> {
    let message = tokio::select! {
        biased;
        told = stream.message() => Some(told),
        // It ends with the pool, and so does the watch.
        _ = doubts.changed() => None,
        () = sleep(quiet) => None,
    };
    let told = match message {
        Some(told) => told,
        None => {
            let sign = async {
                stream.request_progress().await?;
                stream.message().await
            };
            let silent = |_| "no sign of life".to_owned();
            timeout(SIGN_OF_LIFE, sign).await.map_err(silent)?
        }
    };
    match told {
        Ok(Some(told)) => Ok(told),
        Ok(None) => Err("the stream ended".into()),
        Err(error) => Err(fault(&error).into_error(0).to_string()),
    }
}

fn cancelled(told: &WatchResponse) -> Left {
    match told.compact_revision() {
        0 => Left::Failed(format!("cancelled: {}", told.cancel_reason())),
        revision => Left::Compacted(revision),
    }
}

fn last_revision(watched: &Watched) -> Option<i64> {
    match watched {
        Watched::Events(events) => events.last().map(|event| event.revision),
        Watched::Compacted(_) => None,
    }
}
