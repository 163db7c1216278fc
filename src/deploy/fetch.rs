//! Images fetched ahead of a hand-over: the pointer asks, a task pulls, `/host` answers. Called by
//! the desk in each pass; starts and stops no container.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::desk::{Desk, SOON};
use super::failure::backoff_ms;
use super::ops::Done;
use crate::model::host::Fetched;
use crate::model::job::Fault;
use crate::model::spec::ImageRef;

/// What this host was asked to fetch, and how far it is.
pub struct Fetches {
    known: BTreeMap<ImageRef, Progress>,
    ended: mpsc::UnboundedSender<(ImageRef, Result<(), String>)>,
    endings: mpsc::UnboundedReceiver<(ImageRef, Result<(), String>)>,
    answers: watch::Sender<Vec<Fetched>>,
}

/// How far one image is.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// A task is at it.
    busy: bool,
    /// The last try's end.
    end: Option<Result<(), String>>,
    /// Tries that failed in a row.
    failures: u32,
    /// Not tried again before this many Unix milliseconds.
    next_try_ms: u64,
}

impl Fetches {
    /// Nothing was asked for yet; answers are read from the other end.
    #[must_use]
    pub fn new() -> (Self, watch::Receiver<Vec<Fetched>>) {
        let (ended, endings) = mpsc::unbounded_channel();
        let (answers, read) = watch::channel(Vec::new());
        let fetches = Self {
            known: BTreeMap::new(),
            ended,
            endings,
            answers,
        };
        (fetches, read)
    }

    /// Takes ends in and answers what to begin now.
    fn turn(&mut self, asked: &BTreeSet<ImageRef>, now_ms: u64) -> Vec<ImageRef> {
        while let Ok((image, end)) = self.endings.try_recv() {
            if let Some(progress) = self.known.get_mut(&image) {
                progress.end(end, now_ms);
            }
        }
        // One that is asked for no longer goes on; its end is then of no interest.
        self.known.retain(|image, _| asked.contains(image));
        let mut begin = Vec::new();
        for image in asked {
            let progress = self.known.entry(image.clone()).or_default();
            let done = progress.busy || matches!(progress.end, Some(Ok(())));
            if !done && progress.next_try_ms <= now_ms {
                progress.busy = true;
                begin.push(image.clone());
            }
        }
        begin
    }

    fn answers(&self) -> Vec<Fetched> {
        let ended = self.known.iter().filter_map(|(image, progress)| {
            let end = progress.end.as_ref()?;
            Some(Fetched {
                image: image.clone(),
                error: end.as_ref().err().cloned().unwrap_or_default(),
            })
        });
        ended.collect()
    }

    /// When what failed is tried again.
    pub fn tries(&self) -> impl Iterator<Item = u64> {
        let waiting = self.known.values().filter(|progress| !progress.busy);
        waiting.map(|progress| progress.next_try_ms)
    }
}

impl Progress {
    fn end(&mut self, end: Result<(), String>, now_ms: u64) {
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

impl Desk {
    /// Fetches what pointers ask this host for, and answers for it.
    pub(super) fn fetch_ahead(&mut self, now_ms: u64) {
        let Some(assigned) = &self.assigned else {
            return;
        };
        let pointers = assigned.stacks.values().map(|map| &map.pointer);
        let asked = pointers.flat_map(|pointer| &pointer.fetch);
        let mine = asked.filter(|fetch| fetch.host == self.ops.host);
        let asked: BTreeSet<ImageRef> = mine.map(|fetch| fetch.image.clone()).collect();
        for image in self.fetches.turn(&asked, now_ms) {
            let (ops, ended) = (Arc::clone(&self.ops), self.fetches.ended.clone());
            let bell = self.teller.bell.clone();
            while self.tasks.try_join_next().is_some() {}
            self.tasks.spawn(async move {
                let end = match ops.image(&image, || ()).await {
                    Ok(_) => Ok(()),
                    Err(Done::Failed(failure)) => Err(failure.reason),
                    Err(Done::Unknown(reason)) => Err(reason),
                    Err(other) => Err(format!("{other:?}")),
                };
                if ended.send((image, end)).is_ok() {
                    bell.ring();
                }
            });
        }
        let answers = self.fetches.answers();
        self.fetches.answers.send_if_modified(|told| {
            let news = *told != answers;
            *told = answers;
            news
        });
    }
}
