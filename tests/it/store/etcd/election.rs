//! Who leads, decided by real members; and the host that finds an etcd that is not its own.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use viking::store::SharedStore;
use viking::store::election::{Leadership, campaign};

use super::super::PATIENCE;
use super::server::Etcd;

const TTL: Duration = Duration::from_secs(3);

async fn elect(store: SharedStore, who: &'static str, runtime: Handle) -> Leadership {
    let never = CancellationToken::new();
    let elected = campaign(&store, "/leader", who, TTL, &runtime, &never);
    let elected = timeout(PATIENCE, elected).await.expect("elected in time");
    elected.expect("never shut down")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_kept_handed_over_and_ends_with_its_lease() {
    let mut etcd = Etcd::start(3).await;
    // Each candidate has a store of its own, as each host has.
    let stores = [etcd.store().await, etcd.store().await, etcd.store().await];
    let [a, b, c] = stores.map(|store| store as SharedStore);
    // As the host has it for keep-alives: it knows time and no network.
    let timer = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .expect("a runtime");
    let only_time = || timer.handle().clone();
    let first = elect(a, "a", only_time()).await;
    let second = tokio::spawn(elect(Arc::clone(&b), "b", only_time()));
    // A member that only follows dies: nobody stands down for that.
    let follower = (etcd.leader().await + 1) % 3;
    etcd.members[follower].kill();
    tokio::time::sleep(TTL).await;
    assert!(first.held() && !second.is_finished());
    let revision = first.create_revision();
    first.resign().await;
    let second = second.await.expect("is elected");
    assert!(second.held() && second.create_revision() > revision);
    // One that is gone without a word is followed when its lease has ended.
    let revision = second.create_revision();
    drop(second);
    let third = elect(c, "c", only_time()).await;
    assert!(third.held() && third.create_revision() > revision);
    drop(third);
    timer.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_does_not_join_an_etcd_that_is_not_its_clusters() {
    let etcd = Etcd::start(1).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("cluster"), "one-of-before").expect("writes");
    let endpoint = etcd.endpoints().remove(0);
    let host = tokio::process::Command::new(env!("CARGO_BIN_EXE_viking"))
        .args(["host", "--etcd", &endpoint, "--data-dir"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, host).await.expect("ends").expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("holds no cluster at all"), "{said}");
    assert!(
        said.contains(&endpoint) && said.contains("/cluster"),
        "{said}"
    );
}
