//! Leases that are kept alive, and the election of the one host that decides. Used by the host's
//! process; every leader write carries the fence made here. Never writes a key but the election's.
//!
//! Keep-alives run on a runtime that is handed in, so that a stage that blocks cannot starve them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Committed, Compare, Error, LeaseId, Op, Result, Selector, SharedStore, Txn, Watched};
use crate::wake::backoff;

/// Keep-alives per time to live.
const KEEP_ALIVES_PER_TTL: u32 = 3;

/// Times to live between two looks at a key that is another's.
const LOOK_AGAIN_TTLS: u32 = 5;

/// The permission to decide: whoever has one may write as the leader, until the store says that
/// somebody else may. Dropping it lets the lease run out.
#[derive(Debug)]
pub struct Leadership {
    store: SharedStore,
    key: String,
    create_revision: i64,
    lease: LeaseId,
    since: Instant,
    kept: Arc<Kept>,
    _stop: DropGuard,
}

/// A lease as its keep-alive task sees it.
#[derive(Debug)]
struct Kept {
    ttl: Duration,
    /// Until when it is ours by our own clock: two thirds of the time to live after the last
    /// keep-alive was sent.
    until: Mutex<Instant>,
    lost: CancellationToken,
}

impl std::fmt::Debug for dyn super::Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Leadership {
    /// What every leader write compares: the election key is still the one we made.
    #[must_use]
    pub fn fence(&self) -> Compare {
        Compare::CreateRevision(self.key.clone(), self.create_revision)
    }

    /// The election's key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Revision at which this leadership began; grows from leader to leader.
    #[must_use]
    pub fn create_revision(&self) -> i64 {
        self.create_revision
    }

    /// Since when, by the monotonic clock.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Fires when leadership has ended or may have ended.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.kept.lost.clone()
    }

    /// Whether it is ours by our own clock, without asking the store or relying on a timer.
    #[must_use]
    pub fn held(&self) -> bool {
        self.kept.held(Instant::now())
    }

    /// Gives it up at once.
    pub async fn resign(self) {
        self.kept.lost.cancel();
        if let Err(error) = self.store.revoke(self.lease).await {
            tracing::warn!("leadership runs out by itself: {error}");
        }
    }
}

impl Kept {
    fn new(ttl: Duration, asked: Instant) -> Self {
        Self {
            ttl,
            until: Mutex::new(asked + ttl * 2 / 3),
            lost: CancellationToken::new(),
        }
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renew(&self, asked: Instant) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = asked + self.ttl * 2 / 3;
    }

    fn held(&self, now: Instant) -> bool {
        !self.lost.is_cancelled() && now < self.until()
    }
}

/// Keeps a lease alive until it is lost, by the store's word or by our own clock.
async fn keep(store: SharedStore, lease: LeaseId, kept: Arc<Kept>, stop: CancellationToken) {
    let pause = kept.ttl / KEEP_ALIVES_PER_TTL;
    let mut wait = pause;
    loop {
        let until = kept.until();
        // Never later, and never at once: a store that refuses in no time must not be asked in a
        // busy loop until our time is over.
        let next = (Instant::now() + wait).min(until);
        tokio::select! {
            () = stop.cancelled() => return,
            () = kept.lost.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
        let asked = Instant::now();
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            () = kept.lost.cancelled() => return,
            answer = tokio::time::timeout_at(until, store.keep_alive(lease)) => answer,
        };
        match answer {
            // An answer that came too late counts for nothing: we may have been taken for dead.
            Ok(Ok(())) if Instant::now() < until => {
                kept.renew(asked);
                wait = pause;
            }
            Ok(Err(Error::Unreachable(_) | Error::Failed(_))) if Instant::now() < until => {
                wait = pause / 4;
            }
            Ok(_) | Err(_) => return kept.lost.cancel(),
        }
    }
}

/// Waits to be elected: creates `key` under a lease of its own when nobody holds it. `None` at
/// shutdown. The key's value is `candidate`, for people.
pub async fn campaign(
    store: &SharedStore,
    key: &str,
    candidate: &str,
    ttl: Duration,
    runtime: &Handle,
    shutdown: &CancellationToken,
) -> Option<Leadership> {
    let mut failures = 0;
    loop {
        let outcome = tokio::select! {
            () = shutdown.cancelled() => return None,
            outcome = stand(store, key, candidate, ttl, runtime) => outcome,
        };
        match outcome {
            Ok(Some(leadership)) => return Some(leadership),
            Ok(None) => failures = 0,
            Err(error) => {
                failures += 1;
                tracing::warn!(failures, "campaign for {key}: {error}");
                tokio::select! {
                    () = shutdown.cancelled() => return None,
                    () = tokio::time::sleep(backoff(failures, fastrand::f64())) => {}
                }
            }
        }
    }
}

/// One attempt: waits until nobody leads, then tries to. `None` when another was faster.
async fn stand(
    store: &SharedStore,
    key: &str,
    candidate: &str,
    ttl: Duration,
    runtime: &Handle,
) -> Result<Option<Leadership>> {
    wait_until_absent(store, key, ttl).await?;
    let asked = Instant::now();
    let lease = store.grant(ttl).await?;
    let txn = Txn {
        compares: vec![Compare::CreateRevision(key.to_owned(), 0)],
        ops: vec![Op::Put {
            key: key.to_owned(),
            value: candidate.as_bytes().to_vec(),
            lease,
        }],
    };
    let committed = store.commit(txn).await;
    let Ok(Committed::Done(create_revision)) = committed else {
        // Also when the answer was lost: the key may be there under this lease.
        store.revoke(lease).await?;
        return committed.map(|_| None);
    };
    let kept = Arc::new(Kept::new(ttl, asked));
    let stop = CancellationToken::new();
    runtime.spawn(keep(
        Arc::clone(store),
        lease,
        Arc::clone(&kept),
        stop.clone(),
    ));
    Ok(Some(Leadership {
        store: Arc::clone(store),
        key: key.to_owned(),
        create_revision,
        lease,
        since: Instant::now(),
        kept,
        _stop: stop.drop_guard(),
    }))
}

/// Looks again after a while even when no change is told: watches are hints. Rarely: everybody but
/// the leader waits here all the time, and each look costs the store a read and a new watch.
async fn wait_until_absent(store: &SharedStore, key: &str, ttl: Duration) -> Result<()> {
    loop {
        let snapshot = store.range(&[Selector::Key(key.to_owned())]).await?;
        if snapshot.lists.iter().all(Vec::is_empty) {
            return Ok(());
        }
        let mut changes = store.watch(key, snapshot.revision + 1).await?;
        let deleted = async {
            while let Some(Watched::Events(events)) = changes.recv().await {
                if events
                    .iter()
                    .any(|event| event.key == key && event.value.is_none())
                {
                    break;
                }
            }
        };
        // A watch that ended at once must not make this loop a busy one.
        let started = Instant::now();
        drop(tokio::time::timeout(ttl * LOOK_AGAIN_TTLS, deleted).await);
        if started.elapsed() < ttl / 30 {
            tokio::time::sleep(ttl / 30).await;
        }
    }
}

/// A lease that is always there: granted anew, under another id, when it was lost. Who writes under
/// it watches for the id and writes again. Dropping it lets the lease run out.
#[derive(Debug)]
pub struct LeaseKeeper {
    lease: watch::Receiver<Option<LeaseId>>,
    _stop: DropGuard,
}

impl LeaseKeeper {
    /// Starts on `runtime`.
    #[must_use]
    pub fn start(store: SharedStore, ttl: Duration, runtime: &Handle) -> Self {
        let (tell, lease) = watch::channel(None);
        let stop = CancellationToken::new();
        runtime.spawn(keep_always(store, ttl, tell, stop.clone()));
        Self {
            lease,
            _stop: stop.drop_guard(),
        }
    }

    /// The lease's id; `None` while there is none.
    #[must_use]
    pub fn lease(&self) -> watch::Receiver<Option<LeaseId>> {
        self.lease.clone()
    }

    /// The id once there is one.
    pub async fn granted(&self) -> LeaseId {
        let mut lease = self.lease.clone();
        match lease.wait_for(Option::is_some).await.map(|id| *id) {
            Ok(Some(id)) => id,
            _ => std::future::pending().await,
        }
    }
}

async fn keep_always(
    store: SharedStore,
    ttl: Duration,
    tell: watch::Sender<Option<LeaseId>>,
    stop: CancellationToken,
) {
    let mut failures = 0;
    while !stop.is_cancelled() {
        let asked = Instant::now();
        let granted = tokio::select! {
            () = stop.cancelled() => return,
            granted = store.grant(ttl) => granted,
        };
        match granted {
            Ok(lease) => {
                failures = 0;
                tell.send_replace(Some(lease));
                let kept = Arc::new(Kept::new(ttl, asked));
                keep_whole(&store, lease, &kept, &stop).await;
                tell.send_replace(None);
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(failures, "no lease: {error}");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(backoff(failures, fastrand::f64())) => {}
                }
            }
        }
    }
}

/// Like [`keep`], but goes on asking past two thirds of the time: being taken for dead early helps
/// no host, and only the store knows that a lease has ended.
async fn keep_whole(store: &SharedStore, lease: LeaseId, kept: &Kept, stop: &CancellationToken) {
    let pause = kept.ttl / KEEP_ALIVES_PER_TTL;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = tokio::time::timeout(kept.ttl, store.keep_alive(lease)) => answer,
        };
        if let Ok(Err(Error::LeaseGone(_))) = answer {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::LocalStore;

    const TTL: Duration = Duration::from_secs(3);

    async fn elect(store: &SharedStore, who: &str) -> Leadership {
        let never = CancellationToken::new();
        campaign(store, "/leader", who, TTL, &Handle::current(), &never)
            .await
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_stays_until_it_resigns_and_the_next_one_has_a_higher_fence() {
        let store: SharedStore = LocalStore::in_memory();
        let first = elect(&store, "a").await;
        tokio::time::sleep(TTL * 10).await;
        assert!(first.held());
        let (other, revision) = (Arc::clone(&store), first.create_revision());
        let second = tokio::spawn(async move { elect(&other, "b").await });
        tokio::time::sleep(TTL).await;
        assert!(!second.is_finished());
        first.resign().await;
        let second = second.await.unwrap();
        assert!(second.held() && second.create_revision() > revision);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_whose_lease_ended_is_told_and_another_follows() {
        let store: SharedStore = LocalStore::in_memory();
        let first = elect(&store, "a").await;
        store.revoke(first.lease).await.unwrap();
        first.lost().cancelled().await;
        assert!(!first.held());
        assert!(elect(&store, "b").await.held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_stands_down_by_its_own_clock_before_its_lease_ends() {
        let asked = Instant::now();
        let kept = Kept::new(TTL, asked);
        assert!(kept.held(asked + Duration::from_millis(1_999)));
        assert!(!kept.held(asked + Duration::from_millis(2_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_ends_a_campaign() {
        let store: SharedStore = LocalStore::in_memory();
        let _first = elect(&store, "a").await;
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let runtime = Handle::current();
        assert!(
            campaign(&store, "/leader", "b", TTL, &runtime, &shutdown)
                .await
                .is_none()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_lease_is_replaced_and_told() {
        let store: SharedStore = LocalStore::in_memory();
        let keeper = LeaseKeeper::start(Arc::clone(&store), TTL, &Handle::current());
        let first = keeper.granted().await;
        tokio::time::sleep(TTL * 3).await;
        assert_eq!(keeper.granted().await, first);
        store.revoke(first).await.unwrap();
        let mut lease = keeper.lease();
        lease
            .wait_for(|id| id.is_some_and(|id| id != first))
            .await
            .unwrap();
    }
}
