//! One TCP listener that forwards each connection to what it is given a way to dial: for links, one of
//! the addresses their table holds at that moment. Knows nothing of stacks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One try to reach a copy.
pub(super) const DIAL: Duration = Duration::from_secs(2);

/// How long a connection waits for a copy when there is none, as while a target is handed over.
pub(super) const WAIT_FOR_COPY: Duration = Duration::from_secs(10);

/// Between two looks for a copy.
pub(super) const LOOK: Duration = Duration::from_millis(25);

/// Connections of one listener at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;

/// What is read at a time of whoever asks, and of whoever answers: a connection holds both.
const ASK_BYTES: usize = 8 * 1024;
const ANSWER_BYTES: usize = 32 * 1024;

/// A peer that says nothing is asked whether it is there after this long, and again as often.
const ASK_PEER: Duration = Duration::from_secs(5);

/// So many questions without an answer, or so long without word that what was sent has come, and the
/// peer is gone.
const QUESTIONS_MAX: u32 = 3;
const PEER_GONE: Duration = Duration::from_secs(20);

/// Ends a connection between hosts whose other end lost its power or its network: without a word
/// from there whoever waits for an answer would wait for ever.
pub(super) fn watch_over(stream: &TcpStream) {
    keep_asking(stream);
    // A socket that refuses an option still works.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream)
        .set_tcp_user_timeout(Some(PEER_GONE))
        .ok();
}

/// Ends a connection whose other end is gone; one that is there may pause for as long as it likes.
pub(super) fn keep_asking(stream: &TcpStream) {
    let ask = socket2::TcpKeepalive::new()
        .with_time(ASK_PEER)
        .with_interval(ASK_PEER)
        .with_retries(QUESTIONS_MAX);
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_keepalive(&ask).ok();
}

/// Looks the present addresses up.
pub type Lookup = Arc<dyn Fn() -> Vec<SocketAddr> + Send + Sync>;

/// A connection to whatever is there now; `None` when nothing is, for long enough.
pub type Dial = Arc<dyn Fn() -> BoxFuture<'static, Option<TcpStream>> + Send + Sync>;

/// Dials one of the addresses that are there at that moment, each in turn.
#[must_use]
pub fn to(lookup: Lookup) -> Dial {
    let turn = Arc::new(AtomicUsize::new(0));
    Arc::new(move || {
        let (lookup, turn) = (Arc::clone(&lookup), Arc::clone(&turn));
        Box::pin(async move { reach(&lookup, &turn).await })
    })
}

/// Forwards whoever calls from `from` until shutdown: Docker keeps bridges apart, but lets every
/// container reach every address of its host. Connections that are open then are cut.
pub async fn run(listener: TcpListener, from: IpNet, dial: Dial, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((client, caller)) = accepted else {
            // Out of descriptors or the like: let others finish first.
            tokio::time::sleep(LOOK).await;
            continue;
        };
        if !from.contains(&caller.ip()) {
            tracing::debug!(%caller, "not of the network this link belongs to");
            continue;
        }
        let dial = Arc::clone(&dial);
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = serve(client, &dial) => {}
            }
            drop(slot);
        });
    }
}

async fn serve(mut client: TcpStream, dial: &Dial) {
    // Latency before throughput; a socket that refuses the option still works.
    client.set_nodelay(true).ok();
    let Some(mut server) = dial().await else {
        return;
    };
    server.set_nodelay(true).ok();
    // Neither a machine that lost its power nor a path that is cut hangs up.
    watch_over(&server);
    // Either side hanging up is the normal end.
    copy_bidirectional_with_sizes(&mut client, &mut server, ASK_BYTES, ANSWER_BYTES)
        .await
        .ok();
}

/// A connection to some copy: each once in turn, then again until one answers or time is up.
async fn reach(lookup: &Lookup, turn: &AtomicUsize) -> Option<TcpStream> {
    let until = Instant::now() + WAIT_FOR_COPY;
    loop {
        let addresses = lookup();
        let first = turn.fetch_add(1, Ordering::Relaxed);
        for n in 0..addresses.len() {
            let address = addresses[(first + n) % addresses.len()];
            if let Ok(Ok(server)) = tokio::time::timeout(DIAL, TcpStream::connect(address)).await {
                return Some(server);
            }
        }
        if Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn echo(word: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                peer.write_all(word.as_bytes()).await.ok();
            }
        });
        address
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_target_may_go_and_come_back_elsewhere_under_the_same_listener() {
        let addresses = Arc::new(Mutex::new(vec![echo("one").await]));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = listener.local_addr().unwrap();
        let seen = Arc::clone(&addresses);
        let lookup: Lookup = Arc::new(move || seen.lock().unwrap().clone());
        let shutdown = CancellationToken::new();
        tokio::spawn(run(listener, anybody(), to(lookup), shutdown.clone()));

        assert_eq!(ask(front).await, "one");
        addresses.lock().unwrap().clear();
        let waiting = tokio::spawn(ask(front));
        let two = echo("two").await;
        addresses.lock().unwrap().push(two);
        assert_eq!(waiting.await.unwrap(), "two");
        shutdown.cancel();
    }

    fn anybody() -> IpNet {
        "127.0.0.0/8".parse().unwrap()
    }

    #[tokio::test]
    async fn a_caller_from_another_network_gets_nothing() {
        let copy = echo("secret").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = listener.local_addr().unwrap();
        let lookup: Lookup = Arc::new(move || vec![copy]);
        let elsewhere = "172.27.0.1/16".parse().unwrap();
        tokio::spawn(run(
            listener,
            elsewhere,
            to(lookup),
            CancellationToken::new(),
        ));
        let mut stream = TcpStream::connect(front).await.unwrap();
        let mut text = String::new();
        // Closed, with a reset or without.
        stream.read_to_string(&mut text).await.ok();
        assert_eq!(text, "");
    }

    #[tokio::test]
    async fn a_dead_copy_is_passed_over() {
        let dead = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let alive = echo("alive").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = listener.local_addr().unwrap();
        let lookup: Lookup = Arc::new(move || vec![dead, alive]);
        tokio::spawn(run(
            listener,
            anybody(),
            to(lookup),
            CancellationToken::new(),
        ));
        for _ in 0..4 {
            assert_eq!(ask(front).await, "alive");
        }
    }
}
