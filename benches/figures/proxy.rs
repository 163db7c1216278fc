//! A socket in front of the engine's that counts builds and can hold the event stream back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

/// Bytes of a piece kept for a request line that is cut in two.
const OVERLAP: usize = 64;
const PIECE_BYTES: usize = 64 * 1024;
/// Between two looks whether a frozen stream may go on.
const FROZEN_AGAIN: Duration = Duration::from_millis(20);

/// The proxy; it ends with the runtime.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) socket: PathBuf,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    builds: AtomicUsize,
    frozen: AtomicBool,
}

impl Proxy {
    pub(crate) fn start(socket: PathBuf, engine: &Path) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(&socket)?;
        let seen = Arc::new(Seen::default());
        let (shared, engine) = (Arc::clone(&seen), engine.to_owned());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(upstream) = UnixStream::connect(&engine).await {
                    pass(client, upstream, Arc::clone(&shared));
                }
            }
        });
        Ok(Self { socket, seen })
    }

    /// Builds since the last question.
    pub(crate) fn builds(&self) -> usize {
        self.seen.builds.swap(0, Ordering::Relaxed)
    }

    /// Holds event streams back, or lets them go on.
    pub(crate) fn freeze_events(&self, frozen: bool) {
        self.seen.frozen.store(frozen, Ordering::Relaxed);
    }
}

fn pass(client: UnixStream, upstream: UnixStream, seen: Arc<Seen>) {
    let events = Arc::new(AtomicBool::new(false));
    let (from_client, to_client) = client.into_split();
    let (from_engine, to_engine) = upstream.into_split();
    tokio::spawn(ask(
        from_client,
        to_engine,
        Arc::clone(&seen),
        Arc::clone(&events),
    ));
    tokio::spawn(answer(from_engine, to_client, seen, events));
}

/// Requests on their way to the engine. `events` is set when one asks for the event stream.
async fn ask(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    seen: Arc<Seen>,
    events: Arc<AtomicBool>,
) {
    let (mut held, mut tail) = (vec![0; PIECE_BYTES], Vec::new());
    while let Ok(read @ 1..) = from.read(&mut held).await {
        let piece = held.get(..read).unwrap_or_default();
        let old = tail.len();
        tail.extend_from_slice(piece);
        let builds = requests(&tail, old, b"POST /", b"/build");
        seen.builds.fetch_add(builds, Ordering::Relaxed);
        if requests(&tail, old, b"GET /", b"/events") > 0 {
            events.store(true, Ordering::Relaxed);
        }
        tail.drain(..tail.len().saturating_sub(OVERLAP));
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
    to.shutdown().await.ok();
}

/// Answers on their way back.
async fn answer(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    seen: Arc<Seen>,
    events: Arc<AtomicBool>,
) {
    let mut held = vec![0; PIECE_BYTES];
    while let Ok(read @ 1..) = from.read(&mut held).await {
        while events.load(Ordering::Relaxed) && seen.frozen.load(Ordering::Relaxed) {
            tokio::time::sleep(FROZEN_AGAIN).await;
        }
        let piece = held.get(..read).unwrap_or_default();
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
    to.shutdown().await.ok();
}

/// Request lines that start with `method` and go to `path` under a version, and that end after the
/// first `old` bytes, which were looked at before.
fn requests(bytes: &[u8], old: usize, method: &[u8], path: &[u8]) -> usize {
    let starts = bytes.windows(method.len()).enumerate();
    let starts = starts.filter(|(_, window)| *window == method);
    starts
        .filter(|(at, _)| {
            let line = bytes.get(*at..).unwrap_or_default();
            let Some(end) = line.iter().position(|b| matches!(b, b'?' | b'\r' | b'\n')) else {
                return false;
            };
            let target = line.get(..end).unwrap_or_default();
            let target = target.split(|b| *b == b' ').nth(1).unwrap_or_default();
            target.ends_with(path) && at + end >= old
        })
        .count()
}
