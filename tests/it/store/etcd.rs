//! The contract over real etcds, and what only they can do to a store: members that die, hang and
//! come back, certificates, users. `server` runs the processes.

mod election;
mod faults;
mod moved;
mod secure;
pub(crate) mod server;
mod start;

use std::time::Duration;

use viking::store::SharedStore;

use self::server::Etcd;
use super::Subject;

/// A store over so many members of its own: revisions and compaction are compared exactly, so tests
/// cannot share one.
pub(super) async fn subject(members: usize) -> Subject {
    let etcd = Etcd::start(members).await;
    let store: SharedStore = etcd.store().await;
    let client = etcd.client().await;
    Subject {
        store,
        compact: Box::new(move |revision| {
            let mut client = client.clone();
            Box::pin(async move {
                client.compact(revision, None).await.expect("compacts");
            })
        }),
        ttl: Duration::from_secs(1),
        _keep: Box::new(etcd),
    }
}
