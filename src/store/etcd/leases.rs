//! Leases over etcd, on a thread and connections of their own: neither a stage that blocks nor a
//! large answer can hold up a keep-alive. Used by `etcd`; keeps no lease alive by itself.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tokio::runtime::{Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use super::pool::{KEEP_ALIVE, Pool, REPEATABLE, Seen};
use super::wire::Fault;
use crate::store::{Error, LeaseId, Result, check};

/// The lease calls of a store.
pub(super) struct Leases {
    pool: Arc<Pool>,
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Leases {
    /// Starts the thread; connects to nobody yet.
    pub(super) fn start(
        endpoints: &[String],
        options: ConnectOptions,
        seen: Arc<Seen>,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("etcd-leases")
            .enable_all()
            .build()
            .map_err(|error| Error::Failed(format!("no thread for etcd's leases: {error}")))?;
        Ok(Self {
            pool: Arc::new(Pool::new(endpoints, options, seen)),
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// etcd counts in seconds and has a floor of about two: a lease may live longer than asked for,
    /// never shorter.
    pub(super) async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        check::ttl(ttl)?;
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let pool = Arc::clone(&self.pool);
        // When the answer is lost, a lease that nobody knows runs out by itself.
        let granted = self.run(async move {
            let grant = |mut client: Client| async move {
                let granted = client.lease_grant(seconds, None).await?;
                Ok((None, granted.id()))
            };
            pool.call(REPEATABLE, grant).await
        });
        granted.await?.map_err(|fault| fault.into_error(0))
    }

    /// One request on a stream of its own: there is no long-lived one to find dead.
    pub(super) async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        let pool = Arc::clone(&self.pool);
        let kept = self.run(async move {
            let keep = |mut client: Client| async move {
                client.lease_keep_alive(lease).await?;
                Ok((None, ()))
            };
            pool.call(KEEP_ALIVE, keep).await
        });
        kept.await?.map_err(|fault| fault.into_error(lease))
    }

    pub(super) async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let pool = Arc::clone(&self.pool);
        let revoked = self.run(async move {
            let revoke = |mut client: Client| async move {
                client.lease_revoke(lease).await?;
                Ok((None, ()))
            };
            pool.call(REPEATABLE, revoke).await
        });
        match revoked.await? {
            Ok(()) | Err(Fault::NoLease) => Ok(()),
            Err(fault) => Err(fault.into_error(lease)),
        }
    }

    /// Runs there; given up when the caller gives up.
    async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let task = AbortOnDropHandle::new(self.handle.spawn(call));
        task.await
            .map_err(|_| Error::Unreachable("the store is closed".into()))
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        // A runtime must not wait for its threads inside another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
