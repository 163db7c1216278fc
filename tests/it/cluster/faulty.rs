//! A store that fails on request and watches over who writes what. Wraps the store in memory; the
//! cluster's loops see only this one, tests look past it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::Instant;
use viking::store::{
    Committed, Compare, Error, LeaseId, Op, Result, Selector, SharedStore, Snapshot, Store, Txn,
    Watched,
};

use super::link::pass_on;

/// What only the leader may write, and only while it leads.
const LEADERS: [&str; 7] = [
    "/release/",
    "/proc/",
    "/image/",
    "/images/",
    "/run/",
    "/fixed/",
    "/history/",
];

/// The election's key.
pub(super) const LEADER: &str = "/leader";

pub(super) struct Faulty {
    inner: SharedStore,
    born: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    down: bool,
    leases: Vec<LeaseId>,
    watches: Vec<tokio_util::sync::CancellationToken>,
    lose_answers: u32,
    refuse: u32,
    depose_in: Option<u32>,
    /// Fences that are no longer to be obeyed.
    deposed: Vec<i64>,
    leader_commits: u32,
    writes: u32,
    violations: Vec<String>,
    trace: Vec<String>,
}

impl Faulty {
    pub(super) fn new(inner: SharedStore) -> Arc<Self> {
        Arc::new(Self {
            inner,
            born: Instant::now(),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store behind it, where nothing fails.
    pub(super) fn inner(&self) -> &SharedStore {
        &self.inner
    }

    /// Stalls: nobody is answered and watches end, but no lease runs out meanwhile, as in a store
    /// that lost its quorum.
    pub(super) async fn stall(self: &Arc<Self>, how_long: Duration) {
        self.set_down(true);
        let until = Instant::now() + how_long;
        while Instant::now() < until {
            let leases = self.state().leases.clone();
            for lease in leases {
                // One that ended before is none of ours.
                self.inner.keep_alive(lease).await.ok();
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        self.set_down(false);
    }

    /// Cut off: as [`Self::stall`], but leases run out.
    pub(super) fn set_down(&self, down: bool) {
        let mut state = self.state();
        state.down = down;
        if down {
            state.watches.drain(..).for_each(|watch| watch.cancel());
        }
    }

    /// The next commits are carried out and their answers lost.
    pub(super) fn lose_answers(&self, times: u32) {
        self.state().lose_answers = times;
    }

    /// The next commits are not carried out.
    pub(super) fn refuse(&self, times: u32) {
        self.state().refuse = times;
    }

    /// Right before the `n`th leader's transaction from now on (0: the next), another leads.
    pub(super) fn depose_before(&self, n: u32) {
        self.state().depose_in = Some(n);
    }

    pub(super) fn leader_commits(&self) -> u32 {
        self.state().leader_commits
    }

    /// Transactions that were carried out.
    pub(super) fn writes(&self) -> u32 {
        self.state().writes
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// What was written when, without what depends on the wall clock.
    pub(super) fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    /// Ends the present leadership, as the end of its lease would.
    pub(super) async fn depose(&self) {
        let selector = Selector::Key(LEADER.to_owned());
        let found = self.inner.range(&[selector]).await.unwrap();
        if let Some(kv) = found.lists.first().and_then(|list| list.first()) {
            self.state().deposed.push(kv.create_revision);
            self.inner.revoke(kv.lease).await.unwrap();
        }
    }

    /// How long it has been there.
    pub(super) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    fn answers(&self) -> Result<()> {
        if self.state().down {
            return Err(Error::Unreachable("cut off".into()));
        }
        Ok(())
    }

    fn judge(&self, txn: &Txn, committed: Committed) {
        let mut state = self.state();
        let Committed::Done(_) = committed else {
            return;
        };
        state.writes += 1;
        let at = self.born.elapsed().as_millis();
        for op in &txn.ops {
            if let Some(line) = traced(op) {
                state.trace.push(format!("{at} {line}"));
            }
        }
        let fence = fence(txn);
        if let Some(old) = fence.filter(|fence| state.deposed.contains(fence)) {
            state.violations.push(format!("deposed leader {old} wrote"));
        }
        let unfenced = txn.ops.iter().filter(|op| leaders(op) && fence.is_none());
        let unfenced: Vec<_> = unfenced.map(|op| format!("unfenced: {op:?}")).collect();
        state.violations.extend(unfenced);
    }
}

fn fence(txn: &Txn) -> Option<i64> {
    txn.compares.iter().find_map(|compare| match compare {
        Compare::CreateRevision(key, at) if key == LEADER && *at > 0 => Some(*at),
        _ => None,
    })
}

fn leaders(op: &Op) -> bool {
    let (key, placement) = match op {
        Op::Put { key, value, .. } => (key, value.is_empty()),
        Op::Delete { key } | Op::DeletePrefix { prefix: key } => (key, true),
    };
    let placement = placement && key.starts_with("/deploy/");
    placement || LEADERS.iter().any(|family| key.starts_with(family))
}

fn traced(op: &Op) -> Option<String> {
    let (verb, key) = match op {
        Op::Put { key, .. } => ("put", key),
        Op::Delete { key } => ("delete", key),
        Op::DeletePrefix { prefix } => ("delete all", prefix),
    };
    let varies = ["/event/", "/history/", "/cluster", "/ports/"];
    let varies = varies.iter().any(|family| key.starts_with(family));
    (!varies).then(|| format!("{verb} {key}"))
}

#[async_trait]
impl Store for Faulty {
    async fn range(&self, selectors: &[Selector]) -> Result<Snapshot> {
        self.answers()?;
        self.inner.range(selectors).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        self.answers()?;
        let fenced = fence(&txn).is_some();
        let (depose, refuse) = {
            let mut state = self.state();
            state.leader_commits += u32::from(fenced);
            let due = fenced && state.depose_in == Some(0);
            state.depose_in = match state.depose_in {
                Some(_) if due => None,
                Some(n) if fenced => Some(n - 1),
                other => other,
            };
            let refuse = state.refuse > 0;
            state.refuse = state.refuse.saturating_sub(1);
            (due, refuse)
        };
        if depose {
            self.depose().await;
        }
        if refuse {
            return Err(Error::Unreachable("not carried out".into()));
        }
        let committed = self.inner.commit(txn.clone()).await?;
        self.judge(&txn, committed);
        let mut state = self.state();
        if state.lose_answers > 0 {
            state.lose_answers -= 1;
            return Err(Error::Unreachable("the answer is lost".into()));
        }
        Ok(committed)
    }

    async fn watch(&self, prefix: &str, from: i64) -> Result<mpsc::Receiver<Watched>> {
        self.answers()?;
        let changes = self.inner.watch(prefix, from).await?;
        let (tell, told) = mpsc::channel(16);
        let end = tokio_util::sync::CancellationToken::new();
        self.state().watches.push(end.clone());
        tokio::spawn(pass_on(changes, tell, end, |_| 1));
        Ok(told)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.answers()?;
        let lease = self.inner.grant(ttl).await?;
        self.state().leases.push(lease);
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.answers()?;
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.answers()?;
        self.inner.revoke(lease).await
    }
}
