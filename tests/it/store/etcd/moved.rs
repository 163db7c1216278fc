//! `viking store copy|restore|move`, by the real binary: what one store held, another holds, and
//! nobody goes on with the old one.

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::time::timeout;
use viking::store::local::LocalStore;
use viking::store::tables::Tables;
use viking::store::{Op, SharedStore, Txn};

use super::server::Etcd;

/// Longest wait for a command.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

async fn viking(args: &[&str]) -> Output {
    let run = tokio::process::Command::new(env!("CARGO_BIN_EXE_viking"))
        .args(["--config", "/dev/null"])
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    timeout(PATIENCE, run).await.expect("ends").expect("runs")
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// A store on disk with a cluster and some keys; answers the cluster's id and its revision.
async fn filled(dir: &Path) -> (String, i64) {
    let store: SharedStore = LocalStore::open(&dir.join("store.redb")).expect("opens");
    let tables = Tables::open(store.clone(), "", None, 0)
        .await
        .expect("opens");
    let ops = (0..200).map(|n| Op::put(format!("/event/s/{n}"), "happened"));
    for ops in ops.collect::<Vec<_>>().chunks(50) {
        let txn = Txn {
            compares: Vec::new(),
            ops: ops.to_vec(),
        };
        store.commit(txn).await.expect("commits");
    }
    tables.dump().await.expect("reads");
    (tables.cluster().to_owned(), tables.seen())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_moves_to_etcd_and_from_there_into_another_and_the_old_ones_are_used_no_longer() {
    let etcd = Etcd::start(1).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (cluster, seen) = filled(dir.path()).await;
    let endpoint = etcd.endpoints().remove(0);
    let own = dir.path().to_str().expect("UTF-8");
    let here = ["--data-dir", own];
    let there = ["--data-dir", own, "--etcd", &endpoint];
    let moved = viking(&[&["store", "move"], &there[..]].concat()).await;
    assert!(moved.status.success(), "{}", text(&moved));
    assert!(text(&moved).contains(&cluster), "{}", text(&moved));
    // The old one says where everything is now, to a host as well.
    let again = viking(&[&["store", "move"], &there[..]].concat()).await;
    assert!(
        !again.status.success() && text(&again).contains(&endpoint),
        "{}",
        text(&again)
    );
    let host = viking(&[&["host"], &here[..]].concat()).await;
    assert!(
        !host.status.success() && text(&host).contains(&endpoint),
        "{}",
        text(&host)
    );

    let store: SharedStore = etcd.store().await;
    let tables = Tables::open(store, "", Some(&cluster), seen)
        .await
        .expect("is the cluster's");
    assert!(tables.seen() > seen);
    assert_eq!(tables.dump().await.expect("reads").len(), 201);

    // And out of it again: into a file, and into an empty store.
    let file = dir.path().join("copy.json");
    let file = file.to_str().expect("UTF-8");
    let copied = viking(&[&["store", "copy", file], &there[..]].concat()).await;
    assert!(copied.status.success(), "{}", text(&copied));
    let fresh = tempfile::tempdir().expect("a temporary directory");
    let fresh = fresh.path().to_str().expect("UTF-8");
    let restore = ["store", "restore", file, "--data-dir", fresh];
    let restored = viking(&restore).await;
    assert!(restored.status.success(), "{}", text(&restored));
    let over = viking(&restore).await;
    assert!(!over.status.success() && text(&over).contains("holds a cluster already"));
    let store: SharedStore = LocalStore::open(&Path::new(fresh).join("store.redb")).expect("opens");
    let known = tables.seen();
    let tables = Tables::open(store, "", Some(&cluster), known)
        .await
        .expect("is newer");
    assert_eq!(tables.dump().await.expect("reads").len(), 201);
}
