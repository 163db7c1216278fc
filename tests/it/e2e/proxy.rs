//! A unix socket in front of Docker's that counts what the host asks for, so that "built nothing"
//! is a number. Passes bytes on as they are; never answers by itself.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Enough for a request line that is split over two reads.
const OVERLAP: usize = 32;

/// Counts builds until the process ends.
pub(crate) struct Proxy {
    socket: PathBuf,
    builds: Arc<AtomicUsize>,
}

impl Proxy {
    /// Listens at `socket` for connections to `engine`.
    pub(crate) fn start(socket: PathBuf, engine: PathBuf) -> Self {
        let listener = UnixListener::bind(&socket)
            .unwrap_or_else(|error| panic!("cannot listen at {}: {error}", socket.display()));
        let builds = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&builds);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Docker may be away for a moment: the client sees a closed connection.
                if let Ok(server) = UnixStream::connect(&engine) {
                    join(client, server, &counter);
                }
            }
        });
        Self { socket, builds }
    }

    /// The address to give to `--docker`.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Build calls so far.
    pub(crate) fn builds(&self) -> usize {
        self.builds.load(Ordering::SeqCst)
    }
}

fn join(client: UnixStream, server: UnixStream, builds: &Arc<AtomicUsize>) {
    let clone = |stream: &UnixStream| stream.try_clone().expect("a descriptor is free");
    let (client_read, server_write) = (clone(&client), clone(&server));
    let builds = Arc::clone(builds);
    std::thread::spawn(move || {
        let mut watch = Watch::default();
        pass(client_read, server_write, |bytes| {
            builds.fetch_add(watch.builds_in(bytes), Ordering::SeqCst);
        });
    });
    std::thread::spawn(move || pass(server, client, |_| ()));
}

fn pass(mut from: UnixStream, mut to: UnixStream, mut seen: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                seen(&buffer[..n]);
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // The other side may be gone already.
    to.shutdown(Shutdown::Write).ok();
}

/// Finds request lines in a stream that is read in pieces.
#[derive(Default)]
struct Watch {
    tail: Vec<u8>,
}

impl Watch {
    fn builds_in(&mut self, bytes: &[u8]) -> usize {
        let old = self.tail.len();
        self.tail.extend_from_slice(bytes);
        let ends = |end: &usize| *end > old;
        let found = build_lines(&self.tail).into_iter().filter(ends).count();
        let keep = self.tail.len().saturating_sub(OVERLAP);
        self.tail.drain(..keep);
        found
    }
}

/// Where each `POST /build?` or `POST /v1.41/build?` ends. Bodies are tars and JSON, which hold
/// no such line by chance.
fn build_lines(bytes: &[u8]) -> Vec<usize> {
    let pattern = regex::bytes::Regex::new(r"POST (/v[0-9.]{1,6})?/build\?").expect("a pattern");
    pattern.find_iter(bytes).map(|found| found.end()).collect()
}

#[test]
fn the_proxy_counts_a_build_however_the_bytes_are_cut() {
    let text = b"GET /v1.41/images/json HTTP/1.1\r\n\r\nPOST /v1.41/build?rm=1 HTTP/1.1\r\n\r\n\
                 POST /v1.41/build/prune HTTP/1.1\r\n\r\nPOST /build?t=a HTTP/1.1\r\n\r\n";
    for size in 1..text.len() {
        let mut watch = Watch::default();
        let found: usize = text.chunks(size).map(|piece| watch.builds_in(piece)).sum();
        assert_eq!(found, 2, "in pieces of {size}");
    }
}
