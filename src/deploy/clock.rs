//! The worker's clock: Unix milliseconds that move with tokio's time, so that waits and records
//! agree, also when a test holds time still. Made once per worker.

use tokio::time::Instant;

use crate::wake;

/// Unix milliseconds since a start.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base_ms: u64,
    base: Instant,
}

impl Clock {
    /// From now on.
    #[must_use]
    pub fn start() -> Self {
        Self {
            base_ms: wake::now_ms(),
            base: Instant::now(),
        }
    }

    /// Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let passed = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.base_ms.saturating_add(passed)
    }
}
