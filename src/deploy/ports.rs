//! Host ports handed out: which one a container gets, and that nobody else gets it for ten minutes
//! after. Used by `ops`. The book is a file of this host, so that a restart does not forget.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{PORTS_FIRST, PORTS_LAST};
use crate::model::spec::Proto;

/// For how long no other job gets a port: routers and clients may still know it.
pub const KEPT_MS: u64 = 600_000;
/// File name below the data directory.
const FILE: &str = "ports.json";

/// Who had a port, and when it was last known to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Given {
    job: String,
    at_ms: u64,
}

/// The book as it is on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pages {
    v: u32,
    next: u16,
    given: BTreeMap<u16, Given>,
}

/// Ports of this host. Bounded by the range it hands out.
#[derive(Debug)]
pub struct PortBook {
    pages: Pages,
    path: Option<PathBuf>,
}

impl PortBook {
    /// Reads the book. What it says was given is kept for the full time from now on, because nobody
    /// knows when it was last used. An unreadable book is an empty one.
    #[must_use]
    pub fn open(data_dir: &Path, now_ms: u64) -> Self {
        let path = data_dir.join(FILE);
        let read = std::fs::read(&path).ok();
        let pages = read.and_then(|bytes| serde_json::from_slice::<Pages>(&bytes).ok());
        let mut pages = pages.unwrap_or_default();
        pages
            .given
            .retain(|port, _| (PORTS_FIRST..=PORTS_LAST).contains(port));
        for given in pages.given.values_mut() {
            given.at_ms = now_ms;
        }
        Self {
            pages,
            path: Some(path),
        }
    }

    /// A port for `job`: the one it had, else the next that nobody has, had lately, or listens on.
    /// `free` tries an address. `None` when there is none left.
    pub fn give(
        &mut self,
        job: &str,
        bound: &BTreeSet<u16>,
        free: impl Fn(u16) -> bool,
        now_ms: u64,
    ) -> Option<u16> {
        self.forget(bound, now_ms);
        let usable = |port: &u16| !bound.contains(port) && free(*port);
        let had = self.pages.given.iter();
        let had = had
            .filter(|(_, given)| given.job == job)
            .map(|(port, _)| *port);
        let port = had.into_iter().find(|port| usable(port)).or_else(|| {
            let start = self.pages.next.clamp(PORTS_FIRST, PORTS_LAST);
            (start..=PORTS_LAST)
                .chain(PORTS_FIRST..start)
                .filter(|port| !self.pages.given.contains_key(port))
                .find(|port| usable(port))
        })?;
        self.pages.next = if port >= PORTS_LAST {
            PORTS_FIRST
        } else {
            port + 1
        };
        self.note(port, job, now_ms);
        Some(port)
    }

    /// A port turned out to be somebody else's: nobody gets it for the next ten minutes.
    pub fn taken(&mut self, port: u16, now_ms: u64) {
        self.note(port, "", now_ms);
    }

    fn note(&mut self, port: u16, job: &str, at_ms: u64) {
        let job = job.to_owned();
        self.pages.given.insert(port, Given { job, at_ms });
    }

    /// Ports that containers hold are fresh; what nobody held for long enough is forgotten.
    fn forget(&mut self, bound: &BTreeSet<u16>, now_ms: u64) {
        for (port, given) in &mut self.pages.given {
            if bound.contains(port) {
                given.at_ms = now_ms;
            }
        }
        self.pages
            .given
            .retain(|_, given| given.at_ms.saturating_add(KEPT_MS) > now_ms);
    }

    /// Told of the ports our containers hold, after each full listing.
    pub fn seen(&mut self, bound: &BTreeSet<u16>, now_ms: u64) {
        self.forget(bound, now_ms);
    }

    /// What to write where, so that the caller can write without holding the book.
    #[must_use]
    pub fn page(&self) -> Option<(PathBuf, Vec<u8>)> {
        let path = self.path.clone()?;
        let bytes = serde_json::to_vec(&self.pages).ok()?;
        Some((path, bytes))
    }
}

/// Writes the book whole or not at all.
///
/// # Errors
/// When the disk refuses.
pub async fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("json.new");
    tokio::fs::write(&fresh, bytes).await?;
    tokio::fs::rename(&fresh, path).await
}

/// Whether nobody listens there, by trying to.
#[must_use]
pub fn is_free(ip: IpAddr, port: u16, proto: Proto) -> bool {
    let address = SocketAddr::new(ip, port);
    match proto {
        Proto::Tcp => TcpListener::bind(address).is_ok(),
        Proto::Udp => UdpSocket::bind(address).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> PortBook {
        PortBook {
            pages: Pages::default(),
            path: None,
        }
    }

    #[test]
    fn no_other_job_gets_a_port_for_ten_minutes() {
        let mut book = book();
        let none = BTreeSet::new();
        let port = book.give("a", &none, |_| true, 0).unwrap();
        book.pages.next = port;
        let later = book.give("b", &none, |_| true, KEPT_MS - 1).unwrap();
        assert_ne!(port, later);
        book.pages.next = port;
        assert_eq!(book.give("c", &none, |_| true, KEPT_MS), Some(port));
    }

    #[test]
    fn the_same_job_gets_its_port_again() {
        let mut book = book();
        let none = BTreeSet::new();
        let port = book.give("a", &none, |_| true, 0);
        assert_eq!(book.give("a", &none, |_| true, 10), port);
        let two = book.give("a", &BTreeSet::from([port.unwrap()]), |_| true, 20);
        assert_ne!(two, port);
    }

    #[test]
    fn a_port_held_by_a_container_stays_fresh_and_taken_ones_are_passed_over() {
        let mut book = book();
        let port = book.give("a", &BTreeSet::new(), |_| true, 0).unwrap();
        book.seen(&BTreeSet::from([port]), KEPT_MS * 3);
        book.pages.next = port;
        let other = book.give("b", &BTreeSet::new(), |_| true, KEPT_MS * 3 + 1);
        assert_ne!(other, Some(port));
        assert_eq!(book.give("c", &BTreeSet::new(), |_| false, 0), None);
    }

    #[test]
    fn a_restart_forgets_nothing_and_garbage_is_an_empty_book() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = PortBook::open(dir.path(), 0);
        let port = book.give("a", &BTreeSet::new(), |_| true, 0).unwrap();
        let (path, bytes) = book.page().unwrap();
        std::fs::write(&path, bytes).unwrap();
        let mut again = PortBook::open(dir.path(), KEPT_MS * 2);
        again.pages.next = port;
        assert_ne!(
            again.give("b", &BTreeSet::new(), |_| true, KEPT_MS * 2),
            Some(port)
        );
        std::fs::write(&path, b"{").unwrap();
        assert!(PortBook::open(dir.path(), 0).pages.given.is_empty());
    }
}
