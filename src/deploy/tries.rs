//! Things this host was asked to have, and how far each is: what fails is tried again after a while, until
//! nobody asks any more. Used by `fetch` and `sites`; does nothing itself.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;

use super::desk::SOON;
use super::failure::backoff_ms;
use crate::model::job::Fault;

/// How a try ended.
pub(super) type End = Result<(), String>;

/// What was asked for.
pub(super) struct Tries<K> {
    known: BTreeMap<K, Progress>,
    ended: mpsc::UnboundedSender<(K, End)>,
    endings: mpsc::UnboundedReceiver<(K, End)>,
}

/// How far one of them is.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// A task is at it.
    busy: bool,
    /// The last try's end.
    end: Option<End>,
    /// Tries that failed in a row.
    failures: u32,
    /// Not tried again before this many Unix milliseconds.
    next_try_ms: u64,
}

impl<K: Ord + Clone> Tries<K> {
    pub(super) fn new() -> Self {
        let (ended, endings) = mpsc::unbounded_channel();
        Self {
            known: BTreeMap::new(),
            ended,
            endings,
        }
    }

    /// Where a task says how it ended.
    pub(super) fn ended(&self) -> mpsc::UnboundedSender<(K, End)> {
        self.ended.clone()
    }

    /// Takes ends in and answers what to begin now, with no more than `most` under way.
    pub(super) fn turn(&mut self, asked: &BTreeSet<K>, most: usize, now_ms: u64) -> Vec<K> {
        while let Ok((one, end)) = self.endings.try_recv() {
            if let Some(progress) = self.known.get_mut(&one) {
                progress.end(end, now_ms);
            }
        }
        // One that is asked for no longer goes on, and is known until its end: asked for again meanwhile,
        // there must not be two of it.
        self.known
            .retain(|one, progress| progress.busy || asked.contains(one));
        let mut busy = self.known.values().filter(|one| one.busy).count();
        let mut begin = Vec::new();
        for one in asked {
            let progress = self.known.entry(one.clone()).or_default();
            let done = progress.busy || matches!(progress.end, Some(Ok(())));
            if !done && progress.next_try_ms <= now_ms && busy < most {
                progress.busy = true;
                busy += 1;
                begin.push(one.clone());
            }
        }
        begin
    }

    /// What ended at least once, and how the last time.
    pub(super) fn ends(&self) -> impl Iterator<Item = (&K, &End)> {
        let known = self.known.iter();
        known.filter_map(|(one, progress)| Some((one, progress.end.as_ref()?)))
    }

    /// When what failed is tried again.
    pub(super) fn next(&self) -> impl Iterator<Item = u64> {
        let waiting = self.known.values().filter(|progress| !progress.busy);
        waiting.map(|progress| progress.next_try_ms)
    }
}

impl Progress {
    fn end(&mut self, end: End, now_ms: u64) {
        self.busy = false;
        if end.is_err() {
            self.failures = self.failures.saturating_add(1);
            let soon = u64::try_from(SOON.as_millis()).unwrap_or(0);
            let wait_ms = backoff_ms(self.failures, Fault::Outside).max(soon);
            self.next_try_ms = now_ms.saturating_add(wait_ms);
        }
        self.end = Some(end);
    }
}
