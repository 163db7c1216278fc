//! What is written to the store, as it happens and past viking: `etcdctl watch` on a host, each change with the
//! moment it came. Writes one key of its own, which viking never reads. Ends when dropped.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::process::{command, in_space};

/// One change of a key.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) at: Instant,
    pub(crate) key: String,
    pub(crate) deleted: bool,
}

/// Written until it is seen: from then on nothing is missed.
const PROBE: &str = "rig/probe";

/// Longest wait for a watch to be there.
const READY: Duration = Duration::from_secs(20);

/// Changes of all keys.
pub(crate) struct Watch {
    process: Child,
    seen: Arc<Mutex<Vec<Change>>>,
}

impl Watch {
    /// Watches all keys through the member at `endpoint`; nothing that is written later is missed.
    pub(super) fn start(space: &str, endpoint: &str) -> Self {
        let mut process = etcdctl(space, endpoint, &["watch", "--prefix", ""])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("nsenter is installed");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&seen);
        std::thread::spawn(move || note(lines.map_while(Result::ok), &notes));
        let watch = Self { process, seen };
        let deadline = Instant::now() + READY;
        while watch.changes().is_empty() {
            assert!(
                Instant::now() < deadline,
                "etcdctl (Debian: etcd-client) does not watch"
            );
            let put = etcdctl(space, endpoint, &["put", PROBE, "1"]).output();
            put.expect("nsenter is installed");
        }
        watch
    }

    /// What was seen so far.
    pub(crate) fn seen(&self, prefix: &str) -> Vec<Change> {
        let changes = self.changes().into_iter();
        changes
            .filter(|change| change.key.starts_with(prefix))
            .collect()
    }

    fn changes(&self) -> Vec<Change> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

fn etcdctl(space: &str, endpoint: &str, args: &[&str]) -> Command {
    let [enter, space, program] = in_space(space, "etcdctl");
    let mut command = command(&enter);
    command
        .args([&space, &program])
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={endpoint}"))
        .args(args);
    command
}

/// A change is its kind, its key and its value, a line each; no key or value of viking's looks like a kind.
fn note(lines: impl Iterator<Item = String>, notes: &Mutex<Vec<Change>>) {
    let mut kind: Option<(Instant, bool)> = None;
    for line in lines {
        match (line.as_str(), kind.take()) {
            ("PUT", _) => kind = Some((Instant::now(), false)),
            ("DELETE", _) => kind = Some((Instant::now(), true)),
            (key, Some((at, deleted))) => {
                let key = key.to_owned();
                let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
                notes.push(Change { at, key, deleted });
            }
            (_, None) => {}
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
