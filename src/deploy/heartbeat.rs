//! Says that this host is alive: its registration, and `/host/<me>` under a lease that is kept
//! alive elsewhere. Runs beside the worker; rings it when the lease is another one, so that
//! everything under the lease is written again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::volume;
use crate::clock;
use crate::docker::SharedEngine;
use crate::model::host::{
    Capacity, Declared, EngineState, Fetched, HostRecord, Member, READS, SiteHere,
};
use crate::model::job::JobId;
use crate::model::names::HostName;
use crate::model::world::PinKey;
use crate::store::LeaseId;
use crate::store::tables::Tables;
use crate::wake::Bell;

/// Between two looks at the engine.
const ENGINE_EVERY: Duration = Duration::from_secs(3);
/// Between two questions what it is, while it answers: it may have been replaced by a newer one.
const INFO_EVERY: Duration = Duration::from_secs(300);
/// Between two looks at which volumes there are. They are needed when pins got lost, which are
/// written down with the placement: this is how much older the store's copy may be at least.
const VOLUMES_EVERY: Duration = Duration::from_secs(30);
/// Volumes of one host that are on record: some 60 bytes each.
const VOLUMES_MAX: usize = 2_000;
/// Until the next try when the store did not take it.
const AGAIN: Duration = Duration::from_millis(500);
/// An engine that does not answer for so long is down.
const ENGINE_MAX: Duration = Duration::from_secs(5);

/// What a host says of itself.
#[derive(Clone)]
pub struct Heartbeat {
    /// The store.
    pub tables: Tables,
    /// Docker.
    pub engine: SharedEngine,
    /// Name.
    pub host: HostName,
    /// The address ports are published on.
    pub address: IpAddr,
    /// What the operator says of the machine.
    pub declared: Declared,
    /// Where the API listens.
    pub api: String,
    /// Tells a machine from another of the same name.
    pub machine_id: String,
    /// Unix milliseconds of this start.
    pub started_ms: u64,
    /// Images fetched ahead, as the worker knows it.
    pub fetched: watch::Receiver<Vec<Fetched>>,
    /// Copies that still have requests though no route leads to them, as the router knows it.
    pub draining: watch::Receiver<Vec<JobId>>,
    /// Sites unpacked here, as the worker knows it.
    pub sites: watch::Receiver<Vec<SiteHere>>,
    /// Whose data is here, as it was seen last.
    pub volumes: Option<Vec<PinKey>>,
}

impl Heartbeat {
    /// Until shutdown: registers the machine once, and announces it whenever its engine's state or
    /// its lease changes.
    pub async fn run(
        mut self,
        mut lease: watch::Receiver<Option<LeaseId>>,
        bell: Bell,
        shutdown: CancellationToken,
    ) {
        let beat = async {
            let mut registered = false;
            let mut announced: Option<(LeaseId, HostRecord)> = None;
            let (mut state, mut capacity) = self.engine_state().await;
            let (mut asked, mut informed) = (Instant::now(), Instant::now());
            let mut listed: Option<Instant> = None;
            loop {
                // A new lease is announced at once, without waiting for an engine that may hang.
                if asked.elapsed() >= ENGINE_EVERY {
                    let known = capacity.is_some() && informed.elapsed() < INFO_EVERY;
                    if !known || !self.engine_answers().await {
                        (state, capacity) = self.engine_state().await;
                        informed = Instant::now();
                    }
                    asked = Instant::now();
                }
                let record = self.record(state.clone());
                let current = *lease.borrow_and_update();
                // Away for so long that its lease ended, it may have been forgotten.
                if announced
                    .as_ref()
                    .is_some_and(|(under, _)| Some(*under) != current)
                {
                    registered = false;
                }
                let before = announced.clone();
                // Alive first: a member that is not seen is taken for lost.
                let said = self.announce(current, &record, &mut announced).await;
                registered = registered || (said && self.register(capacity).await);
                if announced != before {
                    bell.ring();
                }
                // Last, as it waits for the engine, and what is new is said at once.
                let up = matches!(state, EngineState::Up { .. });
                let due = listed.is_none_or(|at| at.elapsed() >= VOLUMES_EVERY);
                if said && up && due && self.list_volumes().await {
                    listed = Some(Instant::now());
                    continue;
                }
                let wait = if said && registered {
                    ENGINE_EVERY
                } else {
                    AGAIN
                };
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    changed = lease.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                    changed = self.fetched.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                    () = changed(&mut self.draining) => {}
                    changed = self.sites.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = beat => {}
        }
    }

    /// Whether the engine said; what cannot be listed now is as it was.
    async fn list_volumes(&mut self) -> bool {
        let listed = self.engine.volumes(self.tables.cluster());
        let Ok(Ok(listed)) = tokio::time::timeout(ENGINE_MAX, listed).await else {
            return false;
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
        self.volumes = Some(held.into_iter().take(VOLUMES_MAX).collect());
        true
    }

    async fn engine_answers(&self) -> bool {
        let ping = tokio::time::timeout(ENGINE_MAX, self.engine.ping()).await;
        matches!(ping, Ok(Ok(())))
    }

    async fn engine_state(&self) -> (EngineState, Option<Capacity>) {
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

    fn record(&mut self, engine: EngineState) -> HostRecord {
        HostRecord {
            v: 1,
            address: self.address,
            engine,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            reads: READS,
            api: self.api.clone(),
            started_ms: self.started_ms,
            fetched: self.fetched.borrow_and_update().clone(),
            draining: self.draining.borrow_and_update().clone(),
            sites: self.sites.borrow_and_update().clone(),
            volumes: self.volumes.clone(),
        }
    }

    /// Needs the engine once, for what the machine can hold.
    async fn register(&self, capacity: Option<Capacity>) -> bool {
        let Some(capacity) = capacity else {
            return false;
        };
        let member = Member {
            v: 1,
            machine_id: self.machine_id.clone(),
            tags: self.declared.tags.clone(),
            capacity: self.declared.capacity(capacity),
            joined_ms: clock::now_ms(),
            ..Member::default()
        };
        match self.tables.register_member(&self.host, &member).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!("cannot register this host: {error}");
                false
            }
        }
    }

    async fn announce(
        &self,
        lease: Option<LeaseId>,
        record: &HostRecord,
        announced: &mut Option<(LeaseId, HostRecord)>,
    ) -> bool {
        let Some(lease) = lease else {
            return false;
        };
        let news = (lease, record.clone());
        if announced.as_ref() == Some(&news) {
            return true;
        }
        match self.tables.announce(&self.host, record, lease).await {
            Ok(()) => {
                *announced = Some(news);
                true
            }
            Err(error) => {
                // It may have been written all the same: nothing is known to be on record.
                *announced = None;
                tracing::warn!("cannot say that this host is alive: {error}");
                false
            }
        }
    }
}

/// Waits for a change; for ever where there is no router that could say one.
async fn changed<T>(of: &mut watch::Receiver<T>) {
    if of.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
