//! The store of several machines: etcd, over its own protocol. Opened by `viking host` when it is
//! given addresses. Goes on through any member that answers; every call ends within its limit, and
//! what may have been done is never done again by itself. Decides nothing about keys.

mod leases;
mod options;
mod pool;
mod watch;
mod wire;
mod words;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, TxnOpResponse};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::options::Options;

use self::leases::Leases;
use self::pool::{ONCE, Pool, REPEATABLE, Seen};
use self::watch::{Follow, WATCH_QUEUE};
use self::wire::{Fault, Head, Want};
use super::{
    Committed, Error, LeaseId, Result, Selector, Snapshot, Store, TXN_OPS_MAX, Txn, Watched, check,
};

/// Keys of one page of a range.
const PAGE_KEYS: i64 = 500;

/// Largest answer that is taken: pages of the largest values come near it, ours never do. A limit
/// there must be, and the client's own of 4 MiB is less than a page.
const MESSAGE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// How often a range starts again because etcd forgot its revision between two pages.
const RANGE_TRIES: usize = 3;

/// The store over etcd.
pub struct EtcdStore {
    pool: Arc<Pool>,
    leases: Leases,
    closed: CancellationToken,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EtcdStore")
    }
}

impl EtcdStore {
    /// Opens the store: reads the files that `options` name, and makes sure that one member answers.
    /// To be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Refused`] names the file or option that cannot be used, [`Error::Failed`] says what
    /// etcd does not like, [`Error::Unreachable`] that no member answered.
    pub async fn connect(options: &Options) -> Result<Arc<Self>> {
        let client = options.client()?;
        let seen = Arc::new(Seen::default());
        let leases = Leases::start(&options.endpoints, client.clone(), Arc::clone(&seen))?;
        let pool = Arc::new(Pool::new(&options.endpoints, client, seen));
        let status = pool.call(REPEATABLE, |mut client: Client| async move {
            let status = client.status().await?;
            let head = Head::of(status.header());
            Ok((
                head,
                (status.version().to_owned(), status.errors().to_vec()),
            ))
        });
        let (version, errors) = status.await.map_err(|fault| fault.into_error(0))?;
        tracing::info!(version, "connected to etcd");
        for error in errors {
            tracing::warn!("etcd: {error}");
        }
        Ok(Arc::new(Self {
            pool,
            leases,
            closed: CancellationToken::new(),
        }))
    }

    /// Reads page by page, all of the revision of the first.
    async fn read(&self, selectors: &[Selector]) -> std::result::Result<Snapshot, Fault> {
        let mut wants: Vec<Want> = selectors.iter().map(Want::of).collect();
        if wants.is_empty() {
            let (revision, lists) = (self.pool.revision("").await?, Vec::new());
            return Ok(Snapshot { revision, lists });
        }
        let mut revision = 0;
        loop {
            let mut unread: Vec<&mut Want> = wants.iter_mut().filter(|want| want.more).collect();
            unread.truncate(TXN_OPS_MAX);
            if unread.is_empty() {
                break;
            }
            let at = self.page(&mut unread, revision).await?;
            if revision == 0 {
                revision = at;
            }
        }
        let lists = wants.into_iter().map(|want| want.list).collect();
        Ok(Snapshot { revision, lists })
    }

    /// One page of each, at `revision`; the newest for 0. Linearizable: no member answers from what
    /// it alone has not heard of yet.
    async fn page(
        &self,
        wants: &mut [&mut Want],
        revision: i64,
    ) -> std::result::Result<i64, Fault> {
        let gets = || -> Vec<_> {
            let page = |want: &&mut Want| want.page(revision, PAGE_KEYS);
            wants.iter().map(page).collect()
        };
        let ask = |client: Client| {
            let txn = etcd_client::Txn::new().and_then(gets());
            let mut kv = client
                .kv_client()
                .max_decoding_message_size(MESSAGE_BYTES_MAX);
            async move {
                let answer = kv.txn(txn).await?;
                Ok((Head::of(answer.header()), answer))
            }
        };
        let answer = self.pool.call(REPEATABLE, ask).await?;
        for (want, page) in wants.iter_mut().zip(answer.op_responses()) {
            if let TxnOpResponse::Get(mut page) = page {
                let more = page.more();
                want.take(page.take_kvs(), more);
            }
        }
        Ok(Head::of(answer.header()).map_or(0, |head| head.revision))
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn range(&self, selectors: &[Selector]) -> Result<Snapshot> {
        let mut tries = 1;
        loop {
            match self.read(selectors).await {
                Err(Fault::Compacted) if tries < RANGE_TRIES => tries += 1,
                read => return read.map_err(|fault| fault.into_error(0)),
            }
        }
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        check::transaction(&txn)?;
        let request = wire::transaction(&txn);
        let ask = |mut client: Client| {
            let request = request.clone();
            async move {
                let answer = client.txn(request).await?;
                let head = Head::of(answer.header());
                let committed = if answer.succeeded() {
                    Committed::Done(head.map_or(0, |head| head.revision))
                } else {
                    Committed::Conflict
                };
                Ok((head, committed))
            }
        };
        let committed = self.pool.call(ONCE, ask).await;
        committed.map_err(|fault| fault.into_error(wire::lease_of(&txn)))
    }

    async fn watch(&self, prefix: &str, from: i64) -> Result<mpsc::Receiver<Watched>> {
        check::watch(from)?;
        let revision = self.pool.revision(prefix).await;
        let revision = revision.map_err(|fault| fault.into_error(0))?;
        let from = if from == 0 { revision + 1 } else { from };
        if from > revision + 1 {
            // etcd would wait in silence until it gets there, if it ever does.
            return Err(Error::Failed(format!(
                "etcd is at revision {revision}, and a watch from {from} is asked for: it has lost \
                 what it knew"
            )));
        }
        let (tx, rx) = mpsc::channel(WATCH_QUEUE);
        let follow = Follow {
            pool: Arc::clone(&self.pool),
            prefix: prefix.to_owned(),
            from,
            tx,
        };
        tokio::spawn(follow.run(self.closed.clone()));
        Ok(rx)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.leases.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.leases.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.leases.revoke(lease).await
    }
}
