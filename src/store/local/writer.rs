//! The embedded store's writer: a thread that decides requests in order, writes all that wait with
//! one fsync, then shows them and answers. Used only by `local`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Shared;
use super::disk::Disk;
use super::state::{Answer, Change, State};
use crate::store::{LeaseId, Result, Txn};

/// Most requests of one fsync: bounds how long the first of them waits.
const BATCH_REQUESTS: usize = 256;

/// What can be asked of the writer.
#[derive(Debug)]
pub(super) enum Ask {
    Commit(Txn),
    Grant(Duration),
    EndLease(LeaseId),
    Compact(i64),
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) ask: Ask,
    pub(super) reply: oneshot::Sender<Result<Answer>>,
}

/// What a request comes to, in a state.
pub(super) fn decide(state: &State, ask: &Ask) -> Result<(Answer, Vec<Change>)> {
    match ask {
        Ask::Commit(txn) => state.commit(txn),
        Ask::Grant(ttl) => state.grant(*ttl),
        Ask::EndLease(id) => Ok(state.end_lease(*id)),
        Ask::Compact(revision) => state.compact(*revision),
    }
}

pub(super) struct Writer {
    path: PathBuf,
    /// None after the disk failed, until it could be read again.
    disk: Option<Disk>,
    /// Ahead of what readers see by the batch being written.
    state: State,
    shared: Arc<Shared>,
}

impl Writer {
    /// Opens the file and shows what it holds.
    pub(super) fn open(path: &Path, shared: Arc<Shared>) -> Result<Self> {
        let mut writer = Self {
            path: path.to_owned(),
            disk: None,
            state: State::default(),
            shared,
        };
        writer.load()?;
        Ok(writer)
    }

    /// Carries out requests until nobody can send any more.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let more = requests.try_iter().take(BATCH_REQUESTS - 1);
            let batch: Vec<Request> = std::iter::once(first).chain(more).collect();
            self.carry_out(batch);
        }
    }

    /// What is on the disk is what counts: after a failed write nobody knows whether it is there.
    fn load(&mut self) -> Result<()> {
        let disk = Disk::open(&self.path)?;
        self.state = disk.load()?;
        self.disk = Some(disk);
        self.shared.publish_whole(self.state.clone());
        Ok(())
    }

    fn carry_out(&mut self, batch: Vec<Request>) {
        if self.disk.is_none()
            && let Err(error) = self.load()
        {
            return batch
                .into_iter()
                .for_each(|request| answer(request.reply, Err(error.clone())));
        }
        let mut changes = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        for Request { ask, reply } in batch {
            answers.push((reply, self.decide(&ask, &mut changes)));
        }
        let written = self.write(&changes);
        for (reply, result) in answers {
            answer(reply, written.clone().and(result));
        }
    }

    fn decide(&mut self, ask: &Ask, changes: &mut Vec<Change>) -> Result<Answer> {
        let (answer, mut new) = decide(&self.state, ask)?;
        new.iter().for_each(|change| self.state.apply(change));
        if let Some(due) = self.state.compaction_due() {
            self.state.apply(&due);
            new.push(due);
        }
        changes.append(&mut new);
        Ok(answer)
    }

    fn write(&mut self, changes: &[Change]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let disk = self
            .disk
            .take()
            .expect("loaded before anything is carried out");
        if let Err(error) = disk.write(changes, self.state.last_lease) {
            // Closed here; the next request opens and reads the file again.
            tracing::error!("{error}");
            return Err(error);
        }
        self.disk = Some(disk);
        self.shared.publish(changes);
        Ok(())
    }
}

fn answer(reply: oneshot::Sender<Result<Answer>>, result: Result<Answer>) {
    // Whoever asked may have gone away; what was asked is done all the same.
    drop(reply.send(result));
}
