//! A store that remembers when it last was slow. Put in front of every store by `tables`; the leader
//! asks it before it believes that a host is gone: a store that pauses makes every lease end, and so
//! looks like the death of every host. Changes nothing about an answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Committed, LeaseId, Result, Selector, SharedStore, Snapshot, Store, Txn, Watched};

/// A call that takes longer is a stall. Keep-alives go out once a second, so that a pause long
/// enough to end a lease of three seconds holds one up for at least a second.
const SLOW: Duration = Duration::from_millis(700);

/// The store, with its pulse taken.
#[derive(Debug)]
pub struct Pulse {
    inner: SharedStore,
    /// When the last slow call ended.
    slow: Mutex<Option<Instant>>,
    /// When the calls under way began: one that hangs is a stall before it ends.
    under_way: Mutex<Vec<Instant>>,
}

impl Pulse {
    /// In front of `inner`.
    #[must_use]
    pub fn of(inner: SharedStore) -> Arc<Self> {
        Arc::new(Self {
            inner,
            slow: Mutex::default(),
            under_way: Mutex::default(),
        })
    }

    /// Whether a call was slow, or failed for want of an answer, within the last `span`, or hangs
    /// now.
    #[must_use]
    pub fn stalled_within(&self, span: Duration) -> bool {
        let now = Instant::now();
        let slow = *self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        if slow.is_some_and(|at| now.duration_since(at) < span) {
            return true;
        }
        let under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        under_way
            .iter()
            .any(|began| now.duration_since(*began) >= SLOW)
    }

    async fn take<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let began = Instant::now();
        let under_way = UnderWay::enter(self, began);
        let answer = call.await;
        drop(under_way);
        if began.elapsed() >= SLOW || matches!(answer, Err(super::Error::Unreachable(_))) {
            self.stall();
        }
        answer
    }

    fn stall(&self) {
        *self.slow.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// A call on record until it ends or is given up.
struct UnderWay<'a> {
    pulse: &'a Pulse,
    began: Instant,
}

impl<'a> UnderWay<'a> {
    fn enter(pulse: &'a Pulse, began: Instant) -> Self {
        let mut calls = pulse
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        calls.push(began);
        Self { pulse, began }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut calls = self
            .pulse
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = calls.iter().position(|began| *began == self.began) {
            calls.swap_remove(at);
        }
        drop(calls);
        // Given up by who asked, after too long.
        if self.began.elapsed() >= SLOW {
            self.pulse.stall();
        }
    }
}

#[async_trait]
impl Store for Pulse {
    async fn range(&self, selectors: &[Selector]) -> Result<Snapshot> {
        self.take(self.inner.range(selectors)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        self.take(self.inner.commit(txn)).await
    }

    async fn watch(&self, prefix: &str, from: i64) -> Result<mpsc::Receiver<Watched>> {
        self.inner.watch(prefix, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.take(self.inner.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.take(self.inner.keep_alive(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.take(self.inner.revoke(lease)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::LocalStore;

    #[tokio::test(start_paused = true)]
    async fn a_slow_a_hanging_and_a_given_up_call_are_stalls() {
        let pulse = Pulse::of(LocalStore::in_memory());
        let span = Duration::from_secs(3);
        pulse.range(&[]).await.unwrap();
        assert!(!pulse.stalled_within(span));
        let slow = async {
            tokio::time::sleep(SLOW).await;
            Ok(())
        };
        pulse.take(slow).await.unwrap();
        assert!(pulse.stalled_within(span));
        tokio::time::sleep(span).await;
        assert!(!pulse.stalled_within(span));
        let never = pulse.take(std::future::pending::<Result<()>>());
        let look = async {
            tokio::time::sleep(SLOW).await;
            pulse.stalled_within(span)
        };
        tokio::select! {
            _ = never => unreachable!(),
            stalled = look => assert!(stalled),
        }
        assert!(pulse.stalled_within(span));
        tokio::time::sleep(span).await;
        assert!(!pulse.stalled_within(span));
    }
}
