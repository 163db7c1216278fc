//! What is known of this host's engine: whether it answers, what the machine can hold, whose data is
//! there. Asks it again and again, beside the heartbeat, which says it: an engine that hangs keeps no
//! other news from being said.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::volume;
use crate::docker::SharedEngine;
use crate::model::host::{Capacity, EngineState};
use crate::model::world::PinKey;

/// Between two looks at the engine.
const ENGINE_EVERY: Duration = Duration::from_secs(3);
/// Between two questions what it is, while it answers: it may have been replaced by a newer one.
const INFO_EVERY: Duration = Duration::from_secs(300);
/// Between two looks at which volumes there are. They are needed when pins got lost, which are
/// written down with the placement: this is how much older the store's copy may be at least.
const VOLUMES_EVERY: Duration = Duration::from_secs(30);
/// Volumes of one host that are on record: some 60 bytes each.
const VOLUMES_MAX: usize = 2_000;
/// An engine that does not answer for so long is down.
const ENGINE_MAX: Duration = Duration::from_secs(5);

/// What is known of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) state: EngineState,
    /// Of the machine, as the engine says when it answers.
    pub(super) capacity: Option<Capacity>,
    /// Whose data is here; `None` until it was listed once.
    pub(super) volumes: Option<Vec<PinKey>>,
}

/// Looks at an engine, and goes on for as long as somebody reads what it finds.
pub(super) struct Looks {
    engine: SharedEngine,
    cluster: String,
    informed: Instant,
    listed: Option<Instant>,
}

impl Looks {
    /// The first look, which is waited for.
    pub(super) async fn begin(engine: SharedEngine, cluster: &str) -> (Self, watch::Sender<Known>) {
        let looks = Self {
            engine,
            cluster: cluster.to_owned(),
            informed: Instant::now(),
            listed: None,
        };
        let (state, capacity) = looks.state().await;
        let known = Known {
            state,
            capacity,
            volumes: None,
        };
        (looks, watch::Sender::new(known))
    }

    /// Never ends.
    pub(super) async fn run(mut self, known: watch::Sender<Known>) {
        loop {
            let mut now = known.borrow().clone();
            let due = self.listed.is_none_or(|at| at.elapsed() >= VOLUMES_EVERY);
            let up = matches!(now.state, EngineState::Up { .. });
            if up
                && due
                && let Some(volumes) = self.volumes().await
            {
                now.volumes = Some(volumes);
                self.listed = Some(Instant::now());
                known.send_if_modified(|said| replace(said, now.clone()));
            }
            tokio::time::sleep(ENGINE_EVERY).await;
            let informed = now.capacity.is_some() && self.informed.elapsed() < INFO_EVERY;
            if !informed || !self.answers().await {
                (now.state, now.capacity) = self.state().await;
                self.informed = Instant::now();
            }
            known.send_if_modified(|said| replace(said, now));
        }
    }

    /// `None` when the engine did not say.
    async fn volumes(&self) -> Option<Vec<PinKey>> {
        let listed = self.engine.volumes(&self.cluster);
        let Ok(Ok(listed)) = tokio::time::timeout(ENGINE_MAX, listed).await else {
            return None;
        };
        let held = listed
            .iter()
            .filter_map(|volume| volume::holds(&volume.labels));
        let held: BTreeSet<PinKey> = held.collect();
        if held.len() > VOLUMES_MAX {
            tracing::warn!(
                "{} volumes: only {VOLUMES_MAX} of them are said to the leader",
                held.len()
            );
        }
        Some(held.into_iter().take(VOLUMES_MAX).collect())
    }

    async fn answers(&self) -> bool {
        let ping = tokio::time::timeout(ENGINE_MAX, self.engine.ping()).await;
        matches!(ping, Ok(Ok(())))
    }

    async fn state(&self) -> (EngineState, Option<Capacity>) {
        let down = |reason: String| (EngineState::Down { reason }, None);
        match tokio::time::timeout(ENGINE_MAX, self.engine.info()).await {
            Ok(Ok(info)) => {
                let capacity = Capacity {
                    cpu_millis: info.cpus.saturating_mul(1_000),
                    memory_bytes: info.memory_bytes,
                };
                let version = info.version;
                (EngineState::Up { version }, Some(capacity))
            }
            Ok(Err(error)) => down(error.to_string()),
            Err(_) => down(format!("no answer in {ENGINE_MAX:?}")),
        }
    }
}

/// Whether it is another one.
fn replace<T: PartialEq>(of: &mut T, by: T) -> bool {
    let new = *of != by;
    *of = by;
    new
}
