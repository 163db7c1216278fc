//! A host's own way to the store: it can be cut, and what it passes on of changes can be lost or come
//! twice. In front of the one store that all hosts share; the leader's candidate of a host goes the
//! same way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use viking::store::{
    Committed, Error, LeaseId, Result, Selector, SharedStore, Snapshot, Store, Txn, Watched,
};

pub(super) struct Link {
    inner: SharedStore,
    state: Mutex<State>,
    noise: Noise,
    /// Reads that went this way.
    reads: AtomicU64,
}

#[derive(Default)]
struct State {
    cut: bool,
    watches: Vec<CancellationToken>,
}

/// Decides which changes are lost and which come twice.
type Noise = Arc<Mutex<Option<Rng>>>;

/// How often a change is told.
fn times(noise: &Noise) -> u32 {
    let mut noise = noise.lock().unwrap_or_else(PoisonError::into_inner);
    noise.as_mut().map_or(1, |rng| rng.u32(0..3))
}

/// Passes changes on, each so often, until one side goes or the watch is ended.
pub(super) async fn pass_on(
    mut changes: mpsc::Receiver<Watched>,
    tell: mpsc::Sender<Watched>,
    end: CancellationToken,
    times: impl Fn(&Watched) -> u32,
) {
    let all = async {
        while let Some(change) = changes.recv().await {
            for _ in 0..times(&change) {
                if tell.send(change.clone()).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = end.cancelled() => {}
        () = tell.closed() => {}
        () = all => {}
    }
}

impl Link {
    pub(super) fn to(inner: SharedStore) -> Arc<Self> {
        Arc::new(Self {
            inner,
            state: Mutex::default(),
            noise: Noise::default(),
            reads: AtomicU64::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the host off, or heals it. Watches end, as connections do.
    pub(super) fn cut(&self, cut: bool) {
        let mut state = self.state();
        state.cut = cut;
        if cut {
            state.watches.drain(..).for_each(|watch| watch.cancel());
        }
    }

    /// From now on a third of all changes are not told, and a third are told twice.
    pub(super) fn garble(&self, seed: Option<u64>) {
        let mut noise = self.noise.lock().unwrap_or_else(PoisonError::into_inner);
        *noise = seed.map(Rng::with_seed);
    }

    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn way(&self) -> Result<()> {
        if self.state().cut {
            return Err(Error::Unreachable("this host is cut off".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Link {
    async fn range(&self, selectors: &[Selector]) -> Result<Snapshot> {
        self.way()?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.range(selectors).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        self.way()?;
        self.inner.commit(txn).await
    }

    async fn watch(&self, prefix: &str, from: i64) -> Result<mpsc::Receiver<Watched>> {
        self.way()?;
        let changes = self.inner.watch(prefix, from).await?;
        let (tell, told) = mpsc::channel(16);
        let end = CancellationToken::new();
        self.state().watches.push(end.clone());
        let noise = Arc::clone(&self.noise);
        tokio::spawn(pass_on(changes, tell, end, move |change| match change {
            Watched::Compacted(_) => 1,
            Watched::Events(_) => times(&noise),
        }));
        Ok(told)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.way()?;
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.way()?;
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.way()?;
        self.inner.revoke(lease).await
    }
}
