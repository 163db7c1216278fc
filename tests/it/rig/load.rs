//! Steady clients on published ports: from every host to every endpoint, a fresh connection for each request,
//! never a second try, so that their notes hold every gap.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Rig;
use super::net::enter;

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(25);

/// For one request: a connection, a question and the start of an answer.
const ANSWER: Duration = Duration::from_secs(2);

/// What one client saw.
#[derive(Debug, Default)]
struct Notes {
    answered: usize,
    failed: Vec<String>,
}

/// Clients that ask until they are told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Notes>>,
}

impl Load {
    /// Starts a client on every host for all endpoints that there are now. But for the registry's: others reach it
    /// through a gate of viking's, which ends with the process.
    pub(crate) fn start(rig: &Rig) -> Self {
        let keys = rig.keys().expect("a host answers").into_iter();
        let ends: Vec<(bool, SocketAddr)> = keys
            .filter(|(key, _)| key.starts_with("/ports/") && !key.starts_with("/ports/core/"))
            .map(|(key, end)| (key.contains("/6379/"), end.parse().expect("an address")))
            .collect();
        assert!(!ends.is_empty(), "there is nothing to ask");
        let stop = Arc::new(AtomicBool::new(false));
        let client = |host: &super::Host| {
            let (space, ends, stop) = (host.space.clone(), ends.clone(), Arc::clone(&stop));
            std::thread::spawn(move || ask_all(&space, &ends, &stop))
        };
        let clients = rig.hosts.iter().map(client).collect();
        Self { stop, clients }
    }

    /// Stops, and gives how many requests were answered; all must have been.
    pub(crate) fn all_answered(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let notes = self.clients.into_iter().map(JoinHandle::join);
        let notes: Vec<Notes> = notes
            .map(|notes| notes.expect("a client does not panic"))
            .collect();
        let failed: Vec<&String> = notes.iter().flat_map(|notes| &notes.failed).collect();
        let answered = notes.iter().map(|notes| notes.answered).sum();
        assert!(
            failed.is_empty(),
            "{} of {answered} requests failed: {failed:#?}",
            failed.len()
        );
        answered
    }
}

fn ask_all(space: &str, ends: &[(bool, SocketAddr)], stop: &AtomicBool) -> Notes {
    enter(space);
    let mut notes = Notes::default();
    let started = Instant::now();
    while !stop.load(Ordering::SeqCst) {
        for (redis, end) in ends {
            match ask(*redis, *end) {
                Ok(()) => notes.answered += 1,
                Err(error) => {
                    let at = started.elapsed().as_secs_f64();
                    notes
                        .failed
                        .push(format!("{space} at {at:.2} s: {end}: {error}"));
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
    notes
}

fn ask(redis: bool, end: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&end, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let (question, answer): (&[u8], &[u8]) = if redis {
        (b"PING\r\n", b"+PONG")
    } else {
        (b"GET / HTTP/1.0\r\nHost: any\r\n\r\n", b"HTTP/1")
    };
    stream.write_all(question)?;
    let mut start = vec![0; answer.len()];
    stream.read_exact(&mut start)?;
    if start == answer {
        return Ok(());
    }
    Err(std::io::Error::other(
        String::from_utf8_lossy(&start).into_owned(),
    ))
}
