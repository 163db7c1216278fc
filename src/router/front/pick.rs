//! Which copy of a node gets the next request, and what is known of each: how many requests it has, how
//! it failed, and connections to it that stand idle. Kept while the tables come and go.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;
use tokio::sync::OwnedSemaphorePermit;

use super::body::Upload;
use crate::model::endpoint::Copy;

/// A copy on another host counts as if it had this many requests more: a further network is in between.
const FURTHER: usize = 2;

/// Failures in a row after which a copy is passed over: one may be a connection that it closed.
const FAILURES_MAX: u32 = 2;

/// How long it is passed over at first; twice as long each time it fails again, up to the second.
const EJECTED_FIRST_MS: u64 = 500;
const EJECTED_MAX_MS: u64 = 10_000;

/// Connections to one copy that are kept idle by one thread.
const IDLE_MAX: usize = 128;

/// How long they are kept: less than the five seconds after which many servers close them, so that a
/// request is not sent into a connection that is being closed.
const IDLE_AGE_MAX: Duration = Duration::from_secs(4);

/// A connection that waits for its next request.
struct Idle {
    sender: SendRequest<Upload>,
    since: Instant,
}

/// What the router knows of a copy.
pub(super) struct Backend {
    /// The copy.
    pub(super) copy: Copy,
    /// How long it may end those it has once no route leads to it, milliseconds.
    drain_ms: AtomicU64,
    /// Requests it has right now.
    busy: AtomicUsize,
    /// Failures in a row.
    failures: AtomicU32,
    /// Passed over until then, milliseconds of the router's own clock.
    ejected_until: AtomicU64,
    /// One pool for each of the router's threads.
    idle: Box<[Mutex<Vec<Idle>>]>,
}

impl Backend {
    pub(super) fn new(copy: Copy, threads: usize) -> Self {
        Self {
            copy,
            drain_ms: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            idle: (0..threads).map(|_| Mutex::default()).collect(),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.copy.address
    }

    pub(super) fn drains_for(&self, ms: u64) {
        self.drain_ms.store(ms, Ordering::Relaxed);
    }

    pub(super) fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms.load(Ordering::Relaxed))
    }

    pub(super) fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Whether it is passed over now.
    pub(super) fn is_ejected(&self, now_ms: u64) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now_ms
    }

    /// It answered.
    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// It could not be reached, or broke off.
    pub(super) fn failed(&self, now_ms: u64) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures >= FAILURES_MAX {
            let doubled = (failures - FAILURES_MAX).min(10);
            let ms = (EJECTED_FIRST_MS << doubled).min(EJECTED_MAX_MS);
            self.ejected_until.store(now_ms + ms, Ordering::Relaxed);
        }
    }

    fn pool(&self, thread: usize) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        let pool = &self.idle[thread % self.idle.len()];
        pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that stands idle, the one used last.
    pub(super) fn take(&self, thread: usize) -> Option<SendRequest<Upload>> {
        let mut pool = self.pool(thread);
        while let Some(idle) = pool.pop() {
            if idle.since.elapsed() > IDLE_AGE_MAX {
                // Those below it are older still.
                pool.clear();
                return None;
            }
            if !idle.sender.is_closed() {
                return Some(idle.sender);
            }
        }
        None
    }

    /// Keeps a connection whose answer has been read to its end.
    pub(super) fn keep(&self, thread: usize, sender: SendRequest<Upload>) {
        let mut pool = self.pool(thread);
        if !sender.is_closed() && pool.len() < IDLE_MAX {
            let since = Instant::now();
            pool.push(Idle { sender, since });
        }
    }

    /// Closes connections that have been idle for too long.
    pub(super) fn sweep(&self, thread: usize) {
        let old = |idle: &Idle| idle.sender.is_closed() || idle.since.elapsed() > IDLE_AGE_MAX;
        self.pool(thread).retain(|idle| !old(idle));
    }
}

/// A request that a copy has, until it is dropped.
pub(super) struct Busy {
    backend: Arc<Backend>,
    /// Its place among all requests, and its connection's among all connections: a tunnel goes on when
    /// both would be given back.
    held: Option<(OwnedSemaphorePermit, Option<Arc<OwnedSemaphorePermit>>)>,
}

impl Busy {
    pub(super) fn with(backend: &Arc<Backend>) -> Self {
        backend.busy.fetch_add(1, Ordering::Relaxed);
        Self {
            backend: Arc::clone(backend),
            held: None,
        }
    }

    /// Keeps these places until the request has ended.
    pub(super) fn hold(
        &mut self,
        room: OwnedSemaphorePermit,
        slot: Option<Arc<OwnedSemaphorePermit>>,
    ) {
        self.held = Some((room, slot));
    }

    pub(super) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.backend.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What decides between copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Load {
    busy: usize,
    here: bool,
    ejected: bool,
    tried: bool,
}

/// The copy for the next request: not one that was tried for it, rather one that is not passed over,
/// then the one with the fewest requests, the nearer first; among equals each in `turn`.
pub(super) fn pick<'a>(
    backends: &'a [Arc<Backend>],
    tried: &[SocketAddr],
    turn: usize,
    now_ms: u64,
) -> Option<&'a Arc<Backend>> {
    let load = |backend: &Arc<Backend>| Load {
        busy: backend.busy(),
        here: backend.copy.here,
        ejected: backend.is_ejected(now_ms),
        tried: tried.contains(&backend.address()),
    };
    let at = best(backends.len(), turn, |n| load(&backends[n]))?;
    backends.get(at)
}

fn best(count: usize, turn: usize, load: impl Fn(usize) -> Load) -> Option<usize> {
    let order = (0..count).map(|n| (turn.wrapping_add(n)) % count);
    let open = order.map(|n| (n, load(n))).filter(|(_, load)| !load.tried);
    let cost = |load: Load| {
        let further = if load.here { 0 } else { FURTHER };
        (load.ejected, load.busy + further)
    };
    open.min_by_key(|(_, load)| cost(*load)).map(|(n, _)| n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(busy: usize, here: bool) -> Load {
        Load {
            busy,
            here,
            ejected: false,
            tried: false,
        }
    }

    fn best_of(loads: &[Load], turn: usize) -> Option<usize> {
        best(loads.len(), turn, |n| loads[n])
    }

    #[test]
    fn the_copy_with_fewest_requests_is_asked_and_equals_in_turn() {
        let loads = [load(3, true), load(1, true), load(1, true)];
        let asked: Vec<_> = (0..3).map(|turn| best_of(&loads, turn)).collect();
        assert_eq!(asked, [Some(1), Some(1), Some(2)]);
    }

    #[test]
    fn a_copy_here_is_asked_first_until_it_has_more_to_do() {
        assert_eq!(best_of(&[load(0, false), load(1, true)], 0), Some(1));
        assert_eq!(best_of(&[load(0, false), load(3, true)], 0), Some(0));
    }

    #[test]
    fn one_that_fails_is_asked_last_and_one_that_was_tried_not_at_all() {
        let ejected = Load {
            ejected: true,
            ..load(0, true)
        };
        let tried = Load {
            tried: true,
            ..load(0, true)
        };
        assert_eq!(best_of(&[ejected, load(9, false), tried], 0), Some(1));
        assert_eq!(best_of(&[ejected, tried], 0), Some(0));
        assert_eq!(best_of(&[tried], 0), None);
        assert_eq!(best_of(&[], 7), None);
    }

    #[test]
    fn failures_in_a_row_pass_a_copy_over_for_longer_each_time() {
        let backend = Backend::new(
            Copy {
                job_id: crate::model::job::JobId("x".to_owned()),
                address: "127.0.0.1:1".parse().unwrap(),
                here: true,
                slot: None,
            },
            1,
        );
        backend.failed(0);
        assert!(!backend.is_ejected(0));
        backend.succeeded();
        backend.failed(0);
        assert!(!backend.is_ejected(0), "not in a row");
        backend.failed(0);
        assert!(backend.is_ejected(499) && !backend.is_ejected(500));
        backend.failed(500);
        assert!(backend.is_ejected(1_499) && !backend.is_ejected(1_500));
        for _ in 0..40 {
            backend.failed(0);
        }
        assert!(backend.is_ejected(9_999) && !backend.is_ejected(10_000));
    }
}
