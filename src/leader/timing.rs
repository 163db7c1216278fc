//! How long each stage of making a commit takes, for the run's one record. Called by `make`; reads
//! the monotonic clock only.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::history::{StageTimes, add_time};

/// Measures the stages of one try.
pub(super) struct Watch {
    past: StageTimes,
    stage: &'static str,
    since: Instant,
}

impl Watch {
    /// The first stage begins now.
    pub(super) fn start() -> Self {
        Self {
            past: StageTimes::new(),
            stage: "fetch",
            since: Instant::now(),
        }
    }

    /// The next stage begins.
    pub(super) fn enter(&mut self, stage: &'static str) {
        self.past = self.times();
        self.stage = stage;
        self.since = Instant::now();
    }

    /// Times so far, the stage under way included.
    pub(super) fn times(&self) -> StageTimes {
        let mut times = self.past.clone();
        add_time(&mut times, self.stage, millis(self.since.elapsed()));
        times
    }
}

/// Whole milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
