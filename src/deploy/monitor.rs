//! Watches one running container and tells the worker when its health changes. One task per
//! container, ended by dropping its handle. Never restarts anything and never writes to the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use super::health::{Check, Life, Probe, STILL_RUNNING_MS, Verdict};
use crate::clock;
use crate::docker::{Container, ImageHealth, RunState, SharedEngine};
use crate::model::spec::{Health, HealthCheck};

/// One container to be watched.
#[derive(Clone)]
pub struct Patient {
    /// The engine.
    pub engine: SharedEngine,
    /// The container, as it was when it started.
    pub container: Container,
    /// The network its address is on.
    pub network: String,
    /// How often, how long, how many.
    pub health: Health,
    /// What to try.
    pub check: Check,
    /// What is known already.
    pub life: Life,
}

/// Hears what a monitor finds: a verdict and the reason for it.
pub type Report = Arc<dyn Fn(Verdict, String) + Send + Sync>;

/// A monitor's task; dropping it ends the task.
#[derive(Debug)]
pub struct Monitor(AbortHandle);

impl Drop for Monitor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts to watch. The first look is always reported, then only changes.
#[must_use]
pub fn watch(patient: Patient, report: Report) -> Monitor {
    Monitor(tokio::spawn(run(patient, report)).abort_handle())
}

async fn run(mut patient: Patient, report: Report) {
    let mut first = true;
    loop {
        let probe = patient.look().await;
        let now_ms = clock::now_ms();
        let changed = patient.life.advance(&patient.health, &probe, now_ms);
        if changed || first {
            report(patient.life.verdict, patient.life.reason.clone());
        }
        first = false;
        // An unhealthy container is restarted; its successor gets a monitor of its own.
        if patient.life.verdict == Verdict::Unhealthy {
            return;
        }
        let wait = patient.life.next_look_ms(&patient.health, now_ms);
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}

impl Patient {
    async fn look(&self) -> Probe {
        match &self.check {
            Check::Probe(check) => self.probe(check).await,
            Check::Image => self.image_health().await,
            Check::Running => self.still_running(),
        }
    }

    async fn probe(&self, check: &HealthCheck) -> Probe {
        let ip = self
            .container
            .networks
            .get(&self.network)
            .copied()
            .flatten();
        let timeout = Duration::from_millis(self.health.timeout_ms);
        let probe = self.engine.probe(&self.container, check, ip, timeout);
        match probe.await {
            Ok(Ok(())) => Probe::Pass,
            Ok(Err(reason)) => Probe::Fail(reason),
            // The engine does not answer: that says nothing of the container.
            Err(_) => Probe::Pending,
        }
    }

    async fn image_health(&self) -> Probe {
        let container = self.engine.container(&self.container.id).await;
        let Ok(Some(container)) = container else {
            return Probe::Pending;
        };
        match container.health {
            Some(ImageHealth::Healthy) => Probe::Pass,
            Some(ImageHealth::Unhealthy) if container.state == RunState::Running => {
                Probe::Condemned("the image's own health check fails".to_owned())
            }
            Some(ImageHealth::Starting | ImageHealth::Unhealthy) | None => Probe::Pending,
        }
    }

    fn still_running(&self) -> Probe {
        let age = clock::now_ms().saturating_sub(self.life.started_ms);
        if age >= STILL_RUNNING_MS {
            Probe::Pass
        } else {
            Probe::Pending
        }
    }
}
