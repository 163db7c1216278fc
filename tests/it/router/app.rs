//! Applications behind the door: raw sockets that say exactly what a test wants, and remember what they
//! were asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// An application that answers every request with its name, on connections it keeps open.
pub(super) struct App {
    pub(super) address: SocketAddr,
    pub(super) inside: Arc<Inside>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
pub(super) struct Inside {
    pub(super) name: String,
    /// Heads of requests, as they came.
    pub(super) heads: Mutex<Vec<String>>,
    pub(super) connections: AtomicUsize,
    /// Hangs up after the head of a request, without an answer, so often.
    pub(super) breaks: AtomicUsize,
    /// Answers with `Connection: close`.
    pub(super) closes: AtomicBool,
    /// Requests for `/slow` wait for this.
    pub(super) go: Notify,
    /// Requests for `/slow` that wait.
    pub(super) slow: AtomicUsize,
}

impl App {
    pub(super) async fn named(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inside = Arc::new(Inside {
            name: name.to_owned(),
            ..Inside::default()
        });
        let shared = Arc::clone(&inside);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            inside,
            serving,
        }
    }

    pub(super) fn heads(&self) -> Vec<String> {
        self.inside.heads.lock().unwrap().clone()
    }

    /// Nobody listens any more; open connections go on.
    pub(super) async fn stop_listening(&self) {
        self.serving.abort();
        // The listener is closed when its task is gone.
        while TcpStream::connect(self.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Returns when this many requests for `/slow` wait.
    pub(super) async fn until_slow(&self, count: usize) {
        while self.inside.slow.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The head of a message, and what came with it of the body.
pub(super) async fn head(stream: &mut TcpStream, rest: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = rest.split_off(end + 4);
            let head = String::from_utf8_lossy(rest).into_owned();
            *rest = body;
            return Some(head);
        }
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => rest.extend_from_slice(&bytes[..count]),
        }
    }
}

pub(super) fn header(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.to_owned())
}

async fn serve(mut stream: TcpStream, inside: Arc<Inside>) {
    stream.set_nodelay(true).unwrap();
    let mut rest = Vec::new();
    while let Some(head) = head(&mut stream, &mut rest).await {
        let breaks = inside.breaks.load(Ordering::SeqCst);
        inside.heads.lock().unwrap().push(head.clone());
        if breaks > 0 {
            inside.breaks.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        body(&mut stream, &mut rest, &head).await;
        if head.starts_with("GET /slow ") {
            inside.slow.fetch_add(1, Ordering::SeqCst);
            inside.go.notified().await;
            inside.slow.fetch_sub(1, Ordering::SeqCst);
        }
        let closes = inside.closes.load(Ordering::SeqCst);
        let close = if closes { "Connection: close\r\n" } else { "" };
        let name = &inside.name;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nKeep-Alive: timeout=5\r\n{close}\r\n{name}",
            name.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() || closes {
            return;
        }
    }
}

/// Reads a body to its end, as its head says.
async fn body(stream: &mut TcpStream, rest: &mut Vec<u8>, head: &str) {
    let mut bytes = [0; 4096];
    if let Some(length) = header(head, "content-length") {
        let length: usize = length.parse().unwrap();
        while rest.len() < length {
            let count = stream.read(&mut bytes).await.unwrap();
            rest.extend_from_slice(&bytes[..count]);
        }
        rest.drain(..length);
    } else if header(head, "transfer-encoding").is_some() {
        let end = b"0\r\n\r\n";
        loop {
            if let Some(at) = rest.windows(end.len()).position(|found| found == end) {
                rest.drain(..at + end.len());
                return;
            }
            let count = stream.read(&mut bytes).await.unwrap();
            if count == 0 {
                return;
            }
            rest.extend_from_slice(&bytes[..count]);
        }
    }
}

/// One connection that a test itself answers on.
pub(super) struct Hand {
    listener: TcpListener,
    pub(super) address: SocketAddr,
}

impl Hand {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    pub(super) async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }
}

/// Reads until these bytes have come; answers everything that came.
pub(super) async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut said = String::new();
    let mut bytes = [0; 4096];
    while !said.contains(wanted) {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut bytes));
        let count = read.await.expect("something comes").unwrap();
        assert!(count > 0, "hung up after {said:?}");
        said += &String::from_utf8_lossy(&bytes[..count]);
    }
    said
}
