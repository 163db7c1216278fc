//! Says that this host is alive: its registration, and `/host/<me>` under a lease that is kept
//! alive elsewhere. Runs beside the worker; rings it when the lease is another one, so that
//! everything under the lease is written again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::engine_state::{Known, Looks};
use crate::clock;
use crate::docker::SharedEngine;
use crate::model::certificate::DoorRecord;
use crate::model::host::{Capacity, Declared, Fetched, HostRecord, Member, READS, SiteHere};
use crate::model::job::JobId;
use crate::model::names::HostName;
use crate::store::LeaseId;
use crate::store::tables::Tables;
use crate::wake::Bell;

/// Until the next try when the store did not take it.
const AGAIN: Duration = Duration::from_millis(500);
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
    /// The front door.
    pub door: watch::Receiver<DoorRecord>,
    /// Sites unpacked here, as the worker knows it.
    pub sites: watch::Receiver<Vec<SiteHere>>,
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
            let engine = Arc::clone(&self.engine);
            let (looks, known) = Looks::begin(engine, self.tables.cluster()).await;
            let mut engine = known.subscribe();
            tokio::join!(looks.run(known), self.beat(&mut lease, &mut engine, &bell));
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = beat => {}
        }
    }

    async fn beat(
        &mut self,
        lease: &mut watch::Receiver<Option<LeaseId>>,
        engine: &mut watch::Receiver<Known>,
        bell: &Bell,
    ) {
        let mut registered = false;
        let mut announced: Option<(LeaseId, HostRecord)> = None;
        loop {
            let known = engine.borrow_and_update().clone();
            let capacity = known.capacity;
            let record = self.record(known);
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
            let again = async {
                match said && registered {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(AGAIN).await,
                }
            };
            tokio::select! {
                () = again => {}
                () = changed(lease) => {}
                () = changed(engine) => {}
                () = changed(&mut self.fetched) => {}
                () = changed(&mut self.draining) => {}
                () = changed(&mut self.door) => {}
                () = changed(&mut self.sites) => {}
            }
        }
    }

    fn record(&mut self, known: Known) -> HostRecord {
        HostRecord {
            v: 1,
            address: self.address,
            engine: known.state,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            reads: READS,
            api: self.api.clone(),
            started_ms: self.started_ms,
            fetched: self.fetched.borrow_and_update().clone(),
            draining: self.draining.borrow_and_update().clone(),
            door: self.door.borrow_and_update().clone(),
            sites: self.sites.borrow_and_update().clone(),
            volumes: known.volumes,
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

/// Waits for a change; for ever where there is nobody left who could say one.
async fn changed<T>(of: &mut watch::Receiver<T>) {
    if of.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
