//! Running containers as this process knows them: since when, how healthy, and why one ended. Used
//! by the desk. Decides whether an end was a crash, ours, or somebody's hand; restarts nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::failure::FORGIVEN_AFTER_MS;
use super::health::Verdict;
use super::monitor::Monitor;
use super::observed::Observed;
use crate::docker::RunState;
use crate::model::job::JobKey;

/// One running container.
#[derive(Debug)]
pub struct Run {
    /// Engine id.
    pub id: String,
    /// The engine's start time, which tells two runs of one container apart.
    pub started_ms: u64,
    /// When this process took note of it, by its own clock: the engine's may be another.
    pub noted_ms: u64,
    /// What is known of its health.
    pub verdict: Verdict,
    /// Why it is not healthy.
    pub reason: String,
    /// Since when it is healthy.
    pub healthy_since: Option<u64>,
    /// Whether a probe has looked at it. One that was found running is not reported before.
    pub looked: bool,
    /// Its monitor; none while the engine does not answer.
    pub monitor: Option<Monitor>,
}

/// Why a container that was seen running is not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself: a failure.
    Crashed,
    /// By us, by somebody's hand, or with its engine: not the job's fault.
    Explained,
}

/// All running containers of wanted jobs.
#[derive(Debug, Default)]
pub struct Runs {
    runs: BTreeMap<JobKey, Run>,
    /// Engine ids of containers that we stopped, or whose crash was counted.
    explained: BTreeSet<String>,
}

impl Runs {
    /// The run of a job.
    #[must_use]
    pub fn get(&self, job: &JobKey) -> Option<&Run> {
        self.runs.get(job)
    }

    /// The run of a job, to be changed.
    pub fn get_mut(&mut self, job: &JobKey) -> Option<&mut Run> {
        self.runs.get_mut(job)
    }

    /// A container runs that did not before.
    pub fn begin(&mut self, job: JobKey, run: Run) {
        self.explained.remove(&run.id);
        self.runs.insert(job, run);
    }

    /// The next end of this container is no surprise.
    pub fn explain(&mut self, id: &str) {
        self.explained.insert(id.to_owned());
    }

    /// Whether the last end of this container was explained or counted.
    #[must_use]
    pub fn is_explained(&self, id: &str) -> bool {
        self.explained.contains(id)
    }

    /// Whether this container's run is known.
    #[must_use]
    pub fn knows(&self, observed: &Observed) -> bool {
        self.runs.get(&observed.job).is_some_and(|run| {
            run.id == observed.container.id && run.started_ms == observed.container.started_ms
        })
    }

    /// Drops runs whose container does not run any more and answers which of those ended how.
    /// `excused`: something happened that ends containers without their fault.
    pub fn ended(
        &mut self,
        own: &BTreeMap<JobKey, &Observed>,
        excused: impl Fn(&Observed) -> bool,
    ) -> Vec<(JobKey, Ended)> {
        let mut ended = Vec::new();
        self.runs.retain(|job, run| {
            let Some(observed) = own.get(job).filter(|o| o.container.id == run.id) else {
                return false;
            };
            if observed.occupies() {
                return true;
            }
            let exited = observed.container.state == RunState::Exited;
            let ours = self.explained.contains(&run.id);
            let how = if exited && !ours && !excused(observed) {
                Ended::Crashed
            } else {
                Ended::Explained
            };
            ended.push((job.clone(), how));
            false
        });
        ended
    }

    /// Forgets what concerns containers that are gone.
    pub fn tidy(&mut self, ids: &BTreeSet<String>) {
        self.explained.retain(|id| ids.contains(id));
    }

    /// The engine does not answer: nothing a probe says counts now.
    pub fn suspend(&mut self) {
        self.runs.values_mut().for_each(|run| run.monitor = None);
    }

    /// When the failures of a job are forgotten, if it stays as healthy as it is.
    #[must_use]
    pub fn forgiven_at(&self, job: &JobKey) -> Option<u64> {
        let since = self.runs.get(job)?.healthy_since?;
        Some(since.saturating_add(FORGIVEN_AFTER_MS))
    }
}
