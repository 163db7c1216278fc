//! Images fetched ahead of a hand-over: the pointer asks, a task pulls, `/host` answers. Called by
//! the desk in each pass; starts and stops no container.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::desk::Desk;
use super::ops::Done;
use super::tries::Tries;
use crate::model::host::Fetched;
use crate::model::spec::ImageRef;

/// What this host was asked to fetch, and how far it is.
pub struct Fetches {
    tries: Tries<ImageRef>,
    answers: watch::Sender<Vec<Fetched>>,
}

impl Fetches {
    /// Nothing was asked for yet; answers are read from the other end.
    #[must_use]
    pub fn new() -> (Self, watch::Receiver<Vec<Fetched>>) {
        let (answers, read) = watch::channel(Vec::new());
        let tries = Tries::new();
        (Self { tries, answers }, read)
    }

    fn answers(&self) -> Vec<Fetched> {
        let ended = self.tries.ends().map(|(image, end)| Fetched {
            image: image.clone(),
            error: end.as_ref().err().cloned().unwrap_or_default(),
        });
        ended.collect()
    }

    /// When what failed is tried again.
    pub fn tries(&self) -> impl Iterator<Item = u64> {
        self.tries.next()
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
        for image in self.fetches.tries.turn(&asked, usize::MAX, now_ms) {
            let (ops, ended) = (Arc::clone(&self.ops), self.fetches.tries.ended());
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
