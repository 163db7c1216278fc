//! The embedded store: one machine, one file, the semantics of etcd. Opened by `viking host` and, in
//! memory, by tests. Decides in `state`, writes in `writer`; a change is seen by nobody before it is
//! on the disk. The kind in memory uses no thread and only tokio's clock.

mod disk;
mod state;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::state::{Answer, Change, State};
use self::writer::{Ask, Request, Writer, decide};
use super::{Committed, Error, LeaseId, Result, Selector, Snapshot, Store, Txn, Watched, check};

/// Batches a watch may be ahead of its reader; beyond, it waits and reads from history later.
const WATCH_QUEUE: usize = 16;

/// A lease that ends this much later than due shows that the whole process stood still: then nobody
/// could keep a lease alive, and every lease gets its full time again, as after a restart.
const STALL: Duration = Duration::from_secs(1);

/// Wait before a lease that could not be ended is tried again.
const EXPIRY_RETRY: Duration = Duration::from_secs(1);

/// The embedded store.
#[derive(Debug)]
pub struct LocalStore {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What the store, its writer, its watches and its lease clock share.
#[derive(Debug)]
struct Shared {
    view: Mutex<View>,
    /// Changes with every publication; watches wait for it.
    news: watch::Sender<()>,
    granted: Notify,
    /// Where changes go; none in memory and once closed.
    inbox: Mutex<Option<std::sync::mpsc::Sender<Request>>>,
    closed: CancellationToken,
}

/// What readers see.
#[derive(Debug, Default)]
struct View {
    state: State,
    /// When each lease ends; one that is about to be ended is not here.
    deadlines: BTreeMap<LeaseId, Instant>,
}

impl LocalStore {
    /// Opens the store in file `path`, which is made if absent. Leases start with their full time.
    /// To be called inside a tokio runtime; blocks while the file is read.
    ///
    /// # Errors
    /// [`Error::Failed`] names the file: in use, unreadable, or of another version.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let (inbox, requests) = std::sync::mpsc::channel();
        let shared = Shared::new(Some(inbox));
        let writer = Writer::open(path, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run(&requests))
            .map_err(|error| Error::Failed(format!("no thread for the store: {error}")))?;
        tokio::spawn(expire(Arc::clone(&shared), Some(STALL)));
        Ok(Arc::new(Self {
            shared,
            thread: Some(thread),
        }))
    }

    /// A store without a file, for tests: no thread, no real time. To be called inside a tokio
    /// runtime.
    #[must_use]
    pub fn in_memory() -> Arc<Self> {
        let shared = Shared::new(None);
        // No stall is looked for: a test's clock jumps.
        tokio::spawn(expire(Arc::clone(&shared), None));
        Arc::new(Self {
            shared,
            thread: None,
        })
    }

    /// Forgets what happened up to and with `revision`; watches from there on are told so.
    ///
    /// # Errors
    /// [`Error::Refused`] for a revision that is not reached yet.
    pub async fn compact(&self, revision: i64) -> Result<()> {
        self.ask(Ask::Compact(revision)).await.map(drop)
    }

    async fn ask(&self, ask: Ask) -> Result<Answer> {
        self.shared.ask(ask, self.thread.is_some()).await
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        self.shared.closed.cancel();
        drop(lock(&self.shared.inbox).take());
        // The writer ends when it has carried out what it was sent; then the file is free.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn new(inbox: Option<std::sync::mpsc::Sender<Request>>) -> Arc<Self> {
        Arc::new(Self {
            view: Mutex::default(),
            news: watch::Sender::new(()),
            granted: Notify::new(),
            inbox: Mutex::new(inbox),
            closed: CancellationToken::new(),
        })
    }

    async fn ask(&self, ask: Ask, durable: bool) -> Result<Answer> {
        if durable {
            self.send(ask).await
        } else {
            self.do_now(&ask)
        }
    }

    /// The queue needs no bound: whoever asks waits for the answer.
    async fn send(&self, ask: Ask) -> Result<Answer> {
        let gone = || Error::Unreachable("the store is closed".into());
        let (reply, answer) = oneshot::channel();
        let inbox = lock(&self.inbox).clone().ok_or_else(gone)?;
        inbox.send(Request { ask, reply }).map_err(|_| gone())?;
        drop(inbox);
        answer.await.map_err(|_| gone())?
    }

    fn do_now(&self, ask: &Ask) -> Result<Answer> {
        if self.closed.is_cancelled() {
            return Err(Error::Unreachable("the store is closed".into()));
        }
        let mut view = lock(&self.view);
        let (answer, mut changes) = decide(&view.state, ask)?;
        changes.extend(view.state.compaction_due());
        view.apply(&changes, Instant::now());
        drop(view);
        self.ring();
        Ok(answer)
    }

    /// Shows changes that are on the disk.
    fn publish(&self, changes: &[Change]) {
        lock(&self.view).apply(changes, Instant::now());
        self.ring();
    }

    /// Shows a state read from the disk; leases that are new to us start now.
    fn publish_whole(&self, state: State) {
        lock(&self.view).replace(state, Instant::now());
        self.ring();
    }

    fn ring(&self) {
        self.news.send_replace(());
        self.granted.notify_one();
    }
}

impl View {
    fn apply(&mut self, changes: &[Change], now: Instant) {
        for change in changes {
            self.state.apply(change);
            match change {
                Change::Grant(id, ttl) => drop(self.deadlines.insert(*id, now + *ttl)),
                Change::EndLease(id) => drop(self.deadlines.remove(id)),
                Change::Keys(..) | Change::Compact(_) => {}
            }
        }
    }

    fn replace(&mut self, state: State, now: Instant) {
        self.state = state;
        let leases = &self.state.leases;
        self.deadlines.retain(|id, _| leases.contains_key(id));
        for (id, lease) in leases {
            self.deadlines.entry(*id).or_insert(now + lease.ttl);
        }
    }

    fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Result<()> {
        let lease = self.state.leases.get(&id).ok_or(Error::LeaseGone(id))?;
        let deadline = self.deadlines.get_mut(&id).ok_or(Error::LeaseGone(id))?;
        *deadline = now + lease.ttl;
        Ok(())
    }

    fn keep_all_alive(&mut self, now: Instant) {
        for (id, deadline) in &mut self.deadlines {
            if let Some(lease) = self.state.leases.get(id) {
                *deadline = now + lease.ttl;
            }
        }
    }

    /// Leases that are over: from here on nobody can keep them alive.
    fn take_expired(&mut self, now: Instant) -> Vec<LeaseId> {
        let over = |deadline: &Instant| *deadline <= now;
        let expired = self.deadlines.iter().filter(|(_, at)| over(at));
        let expired = expired.map(|(id, _)| *id).collect();
        self.deadlines.retain(|_, at| !over(at));
        expired
    }
}

/// Ends leases when their time is over.
async fn expire(shared: Arc<Shared>, stall: Option<Duration>) {
    loop {
        let next = lock(&shared.view).deadlines.values().min().copied();
        let due = async {
            match next {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.closed.cancelled() => return,
            () = shared.granted.notified() => continue,
            () = due => {}
        }
        let now = Instant::now();
        let late = next.map_or(Duration::ZERO, |deadline| now - deadline);
        if stall.is_some_and(|stall| late >= stall) {
            tracing::warn!(?late, "the process stood still; every lease starts again");
            lock(&shared.view).keep_all_alive(now);
            continue;
        }
        let expired = lock(&shared.view).take_expired(now);
        for id in expired {
            if let Err(error) = shared.ask(Ask::EndLease(id), stall.is_some()).await {
                tracing::warn!(lease = id, "could not end a lease: {error}");
                lock(&shared.view)
                    .deadlines
                    .insert(id, Instant::now() + EXPIRY_RETRY);
            }
        }
    }
}

/// Sends a watch what it has not seen, from history, at its reader's pace: commits never wait for it,
/// and nothing is missed or told twice.
async fn follow(shared: Arc<Shared>, prefix: String, mut from: i64, tx: mpsc::Sender<Watched>) {
    let mut news = shared.news.subscribe();
    loop {
        news.mark_unchanged();
        let next = lock(&shared.view).state.since(&prefix, &mut from);
        let Some(next) = next else {
            tokio::select! {
                () = shared.closed.cancelled() => return,
                () = tx.closed() => return,
                heard = news.changed() => if heard.is_err() { return },
            }
            continue;
        };
        let last = matches!(next, Watched::Compacted(_));
        tokio::select! {
            () = shared.closed.cancelled() => return,
            sent = tx.send(next) => if last || sent.is_err() { return },
        }
    }
}

#[async_trait]
impl Store for LocalStore {
    async fn range(&self, selectors: &[Selector]) -> Result<Snapshot> {
        Ok(lock(&self.shared.view).state.range(selectors))
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        match self.ask(Ask::Commit(txn)).await? {
            Answer::Committed(committed) => Ok(committed),
            other => Err(Error::Failed(format!(
                "a commit was answered with {other:?}"
            ))),
        }
    }

    async fn watch(&self, prefix: &str, from: i64) -> Result<mpsc::Receiver<Watched>> {
        check::watch(from)?;
        let from = match from {
            0 => lock(&self.shared.view).state.revision + 1,
            from => from,
        };
        let (tx, rx) = mpsc::channel(WATCH_QUEUE);
        tokio::spawn(follow(
            Arc::clone(&self.shared),
            prefix.to_owned(),
            from,
            tx,
        ));
        Ok(rx)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        match self.ask(Ask::Grant(ttl)).await? {
            Answer::Granted(id) => Ok(id),
            other => Err(Error::Failed(format!(
                "a grant was answered with {other:?}"
            ))),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        lock(&self.shared.view).keep_alive(lease, Instant::now())
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.ask(Ask::EndLease(lease)).await.map(drop)
    }
}
