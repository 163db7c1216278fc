//! Passes the lines of a build or a push on to whoever watches, and keeps the last ones for the
//! error. Called by `imagebank` and `external`. Slow watchers never slow a build down.

use std::collections::VecDeque;
use std::future::Future;

use tokio::sync::mpsc;

use super::{BuildJob, LOG_LINES_KEPT};
use crate::clock::now_ms;
use crate::docker::Lines;
use crate::model::progress::{Progress, Stage};

/// Lines between the engine and us.
const LINES_MAX: usize = 64;

/// What is told, and about what.
pub(super) struct Told<'a> {
    /// For the stack and the run.
    pub(super) job: &'a BuildJob<'a>,
    /// Where it is.
    pub(super) stage: Stage,
    /// The image.
    pub(super) about: &'a str,
}

impl Told<'_> {
    /// Says one line.
    pub(super) fn say(&self, line: String) {
        let progress = Progress {
            stack: self.job.stack.clone(),
            run: self.job.run.clone(),
            at_ms: now_ms(),
            stage: self.stage,
            about: self.about.to_owned(),
            line,
        };
        // Nobody watching is fine.
        self.job.progress.send(progress).ok();
    }

    /// Runs `work` with somewhere to write lines to; answers its result and the last lines. Passes
    /// the failpoint at the first line.
    pub(super) async fn listen<T, F>(
        &self,
        failpoint: &str,
        work: impl FnOnce(Lines) -> F,
    ) -> (T, Vec<String>)
    where
        F: Future<Output = T>,
    {
        let (sender, mut lines) = mpsc::channel::<String>(LINES_MAX);
        let mut kept = VecDeque::with_capacity(LOG_LINES_KEPT);
        let forward = async {
            while let Some(line) = lines.recv().await {
                crate::failpoint::hit(failpoint);
                if kept.len() == LOG_LINES_KEPT {
                    kept.pop_front();
                }
                kept.push_back(line.clone());
                self.say(line);
            }
        };
        let (result, ()) = tokio::join!(work(sender), forward);
        (result, kept.into())
    }
}
