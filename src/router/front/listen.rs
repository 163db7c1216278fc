//! The router's listeners and threads: accepts, bounds, speaks HTTP/1.1 and HTTP/2, and ends without
//! cutting requests off.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Front;
use super::heads::Client;
use super::proxy::Worker;
use super::tls::Tls;
use crate::router::forward::keep_asking;

/// What a client begins with that knows the server to speak HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Between two looks at a beginning that could be either version yet: at first, and at most.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(250);

/// Connections of all threads at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16_384;

/// Largest head of a request, bytes, and most headers in it.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 100;

/// Requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 128;

/// Streams that a client opened and took back before anybody looked (CVE-2023-44487): more end the
/// connection.
const RESETS_MAX: usize = 32;

/// How long requests may go on when the host ends.
const DRAIN_MAX: Duration = Duration::from_secs(8);

/// Between two looks for connections that stand idle for too long.
const SWEEP: Duration = Duration::from_secs(2);

/// Without a descriptor for another connection: let others finish first.
const ACCEPT_AGAIN: Duration = Duration::from_millis(25);

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP in the clear.
    Http,
    /// HTTP over TLS.
    Https,
}

/// Serves a listener on threads of its own until shutdown, and then until the requests under way have
/// ended, though not for long.
///
/// # Errors
/// When a thread or its runtime cannot be started.
pub async fn run(
    front: Front,
    listener: StdListener,
    speaks: Speaks,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    listener
        .set_nonblocking(true)
        .context("preparing a listener of the router")?;
    let tls = match speaks {
        Speaks::Http => None,
        Speaks::Https => Some(Tls::new(&front.0.certificates)?),
    };
    let count = front.0.threads;
    let port = listener.local_addr().map_or(0, |address| address.port());
    let mut threads = Vec::new();
    for n in 0..count {
        let listener = listener.try_clone();
        let listener = listener.context("sharing a listener between threads")?;
        let door = Door::new(front.clone(), n, port, tls.clone());
        threads.push(start(door, listener, shutdown.clone())?);
    }
    // Else clients would be taken in, when the threads are gone, by nobody.
    drop(listener);
    if speaks == Speaks::Https {
        front.0.secure.store(true, Ordering::Relaxed);
    }
    // Each is waited for by itself: one that ends before the host does is an error at once.
    let mut ends = JoinSet::new();
    for thread in threads {
        ends.spawn_blocking(move || thread.join().is_ok());
    }
    while let Some(ended) = ends.join_next().await {
        let good = ended.context("waiting for the router's threads")?;
        if !good || !shutdown.is_cancelled() {
            anyhow::bail!("one of the router's threads ended");
        }
    }
    Ok(())
}

fn start(
    door: Door,
    listener: StdListener,
    shutdown: CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime of the router")?;
    thread::Builder::new()
        .name(format!("router-{}", door.worker.thread))
        .spawn(move || {
            runtime.block_on(serve(door, listener, shutdown));
        })
        .context("starting a thread of the router")
}

async fn serve(door: Door, listener: StdListener, shutdown: CancellationToken) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("the router cannot listen: {error}");
            return;
        }
    };
    let n = door.worker.thread;
    let slots = Arc::new(Semaphore::new(
        (CONNECTIONS_MAX / door.front.0.threads).max(1),
    ));
    let connections = TaskTracker::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
            Some((slot, listener.accept().await))
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => None,
            accepted = next => accepted,
            _ = sweep.tick() => {
                door.front.sweep(n);
                continue;
            }
        };
        match accepted {
            None => break,
            Some((slot, Ok((stream, peer)))) => {
                let served = door.serve(stream, peer, Arc::new(slot), shutdown.clone());
                connections.spawn(served);
            }
            Some((_, Err(_))) => tokio::time::sleep(ACCEPT_AGAIN).await,
        }
    }
    drop(listener);
    connections.close();
    tokio::time::timeout(DRAIN_MAX, connections.wait())
        .await
        .ok();
}

/// How one thread serves connections.
struct Door {
    front: Front,
    worker: Worker,
    tls: Option<Tls>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    port: u16,
}

impl Door {
    fn new(front: Front, thread: usize, port: u16, tls: Option<Tls>) -> Self {
        let head_max = front.0.head_max;
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(head_max)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .half_close(false);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_local_error_reset_streams(RESETS_MAX)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .keep_alive_interval(head_max)
            .keep_alive_timeout(head_max);
        let shared = Arc::clone(&front.0);
        Self {
            front,
            worker: Worker {
                shared,
                thread,
                slot: None,
            },
            tls,
            http1,
            http2,
            port,
        }
    }

    fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        slot: Arc<OwnedSemaphorePermit>,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        stream.set_nodelay(true).ok();
        keep_asking(&stream);
        let ip = peer.ip().to_canonical();
        let trusted = self.front.is_trusted(peer);
        let client = Client::new(ip, trusted, self.tls.is_some(), self.port);
        let talk = Talk {
            http1: self.http1.clone(),
            http2: self.http2.clone(),
            worker: Worker {
                slot: Some(slot),
                ..self.worker.clone()
            },
            client,
            shutdown,
        };
        let (tls, head_max) = (self.tls.clone(), self.front.0.head_max);
        async move {
            let ended = match tls {
                None => talk.in_the_clear(stream, head_max).await,
                Some(tls) => talk.over_tls(stream, &tls, head_max).await,
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, "connection: {error}");
            }
        }
    }
}

/// One connection.
struct Talk {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    worker: Worker,
    client: Client,
    shutdown: CancellationToken,
}

impl Talk {
    async fn in_the_clear(self, stream: TcpStream, head_max: Duration) -> Result<(), hyper::Error> {
        let first = tokio::time::timeout(head_max, begins_as_http_2(&stream));
        match self.shutdown.run_until_cancelled(first).await {
            Some(Ok(Ok(two))) => self.over(stream, two).await,
            // Nothing was said.
            None | Some(Err(_) | Ok(Err(_))) => Ok(()),
        }
    }

    async fn over_tls(
        self,
        stream: TcpStream,
        tls: &Tls,
        head_max: Duration,
    ) -> Result<(), hyper::Error> {
        let hands = tokio::time::timeout(head_max, tls.accept(stream));
        match self.shutdown.run_until_cancelled(hands).await {
            Some(Ok(Ok(Some(stream)))) => {
                let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                self.over(stream, two).await
            }
            // Nothing but a proof was wanted; or there is no certificate for that name, or the client knows
            // no good version.
            None | Some(Err(_) | Ok(Err(_) | Ok(None))) => Ok(()),
        }
    }

    async fn over<I>(self, io: I, two: bool) -> Result<(), hyper::Error>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self {
            http1,
            http2,
            worker,
            client,
            shutdown,
        } = self;
        let service = service_fn(move |request| worker.clone().serve(request, client.clone()));
        let io = TokioIo::new(io);
        if two {
            let connection = http2.serve_connection(io, service);
            tokio::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        } else {
            let connection = http1.serve_connection(io, service).with_upgrades();
            tokio::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    }
}

/// Whether a connection begins with the preface of HTTP/2.
async fn begins_as_http_2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    let mut pause = LOOK_FIRST;
    loop {
        let count = stream.peek(&mut first).await?;
        let said = &first[..count];
        if count == 0 || count == PREFACE.len() || !PREFACE.starts_with(said) {
            return Ok(said == PREFACE);
        }
        // Waiting for more to read would return at once: there is something to read.
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LOOK_MAX);
    }
}
