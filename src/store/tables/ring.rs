//! Turns changes in the store into rings of a bell: hints for loops, which then read in full. Used
//! by whoever runs a loop over the store; never looks at what changed.

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Tables;
use crate::store::Watched;
use crate::wake::{Bell, backoff};

/// A watch that ends sooner than this after it began is a failure, and backed off from.
const WATCH_WORKED: std::time::Duration = std::time::Duration::from_secs(5);

impl Tables {
    /// Rings `bell` at every change below one of `prefixes` (see [`Self::keys`]), and whenever one
    /// may have been missed, until shutdown.
    pub async fn ring(&self, bell: &Bell, prefixes: &[String], shutdown: &CancellationToken) {
        let rings = prefixes.iter().map(|prefix| self.ring_one(bell, prefix));
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = futures_util::future::join_all(rings) => {}
        }
    }

    async fn ring_one(&self, bell: &Bell, prefix: &str) {
        let mut from = 0;
        let mut failures = 0;
        loop {
            let started = Instant::now();
            match self.store.watch(prefix, from).await {
                Ok(mut changes) => {
                    // Whatever happened before the watch began is found by the reading that follows.
                    bell.ring();
                    while let Some(told) = changes.recv().await {
                        from = match told {
                            Watched::Events(events) => {
                                events.last().map_or(from, |event| event.revision + 1)
                            }
                            Watched::Compacted(_) => 0,
                        };
                        bell.ring();
                    }
                }
                Err(error) => {
                    tracing::warn!(prefix, "no watch: {error}");
                    // A store that was rebuilt has no such revision.
                    from = 0;
                }
            }
            failures = if started.elapsed() >= WATCH_WORKED {
                1
            } else {
                failures + 1
            };
            sleep(backoff(failures, fastrand::f64())).await;
        }
    }
}
