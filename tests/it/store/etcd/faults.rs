//! Members that die, hang, come back and forget.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use viking::store::{Committed, Error, Op, Selector, Store, Txn, Watched};

use super::super::{PATIENCE, events, told};
use super::server::{Etcd, answers};

/// A call's limit, and time for this machine to be slow.
const IN_TIME: Duration = Duration::from_secs(8);

fn put(key: &str, value: i32) -> Txn {
    Txn {
        compares: vec![],
        ops: vec![Op::put(key, value.to_string())],
    }
}

async fn commit(store: &dyn Store, txn: Txn) -> i64 {
    match store.commit(txn).await.expect("commits") {
        Committed::Done(revision) => revision,
        Committed::Conflict => panic!("nothing is compared"),
    }
}

/// Writes until it is acknowledged; what was not may have happened all the same.
async fn commit_through(store: &dyn Store, txn: Txn) -> i64 {
    let started = Instant::now();
    loop {
        match store.commit(txn.clone()).await {
            Ok(Committed::Done(revision)) => return revision,
            Ok(Committed::Conflict) => panic!("nothing is compared"),
            Err(error) => {
                assert!(matches!(error, Error::Unreachable(_)), "{error}");
                assert!(started.elapsed() < PATIENCE, "{error}");
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Every revision is a write below the prefix that is watched, so what is missing is a gap.
async fn sees_every_revision(etcd: &mut Etcd, hurt: impl AsyncFnOnce(&mut Etcd)) {
    const ENOUGH: usize = 50;
    let store = etcd.store().await;
    let first = commit(&*store, put("/w", -1)).await;
    let mut watch = store.watch("/w", first).await.expect("watches");
    let stop = CancellationToken::new();
    let (stopped, writer) = (stop.clone(), Arc::clone(&store));
    let writing = tokio::spawn(async move {
        for n in 0.. {
            if stopped.is_cancelled() {
                return commit_through(&*writer, put("/w", -1)).await;
            }
            commit_through(&*writer, put("/w", n)).await;
        }
        unreachable!("it is stopped");
    });
    let mut seen = Vec::new();
    see(&mut watch, &mut seen, |seen| seen.len() >= ENOUGH).await;
    hurt(etcd).await;
    let before = seen.len();
    see(&mut watch, &mut seen, |seen| seen.len() >= before + ENOUGH).await;
    stop.cancel();
    let last = writing.await.expect("writes");
    see(&mut watch, &mut seen, |seen| seen.last() >= Some(&last)).await;
    assert_eq!(seen, (first..=last).collect::<Vec<_>>());
}

/// Takes revisions until there are enough.
async fn see(
    watch: &mut Receiver<Watched>,
    seen: &mut Vec<i64>,
    enough: impl Fn(&Vec<i64>) -> bool,
) {
    while !enough(seen) {
        match told(watch).await {
            Watched::Events(events) => seen.extend(events.iter().map(|event| event.revision)),
            Watched::Compacted(at) => panic!("compacted at {at}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_over_a_member_that_is_killed_and_started_again_loses_nothing() {
    let mut etcd = Etcd::start(1).await;
    let hurt = async |etcd: &mut Etcd| {
        etcd.members[0].kill();
        etcd.members[0].start();
        assert!(etcd.members[0].ready().await);
    };
    sees_every_revision(&mut etcd, hurt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_over_three_members_goes_on_when_the_leading_one_dies() {
    let mut etcd = Etcd::start(3).await;
    let hurt = async |etcd: &mut Etcd| {
        let leader = etcd.leader().await;
        etcd.members[leader].kill();
    };
    sees_every_revision(&mut etcd, hurt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_through_the_others_when_the_leading_member_dies() {
    let mut etcd = Etcd::start(3).await;
    let store = etcd.store().await;
    let lease = store.grant(PATIENCE).await.expect("grants");
    let before = commit(&*store, put("/a", 1)).await;
    let leader = etcd.leader().await;
    etcd.members[leader].kill();
    let killed = Instant::now();
    let took = answers(&store, IN_TIME).await;
    assert!(took < IN_TIME, "{took:?}");
    assert!(commit_through(&*store, put("/a", 2)).await > before);
    assert!(killed.elapsed() < IN_TIME);
    store.keep_alive(lease).await.expect("is alive");
    store.revoke(lease).await.expect("revokes");
    // With two of three gone the last one must not answer from what it alone knows.
    let left = (leader + 1) % 3;
    etcd.members[left].kill();
    let key = [Selector::Key("/a".into())];
    let all = futures_util::future::join4(
        async { store.commit(put("/a", 3)).await.map(drop) },
        async { store.range(&key).await.map(drop) },
        async { store.range(&[]).await.map(drop) },
        async { store.watch("/", 0).await.map(drop) },
    );
    for answer in <[_; 4]>::from(all.await) {
        assert!(matches!(answer, Err(Error::Unreachable(_))), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_hangs_stops_neither_calls_nor_watches() {
    let etcd = Etcd::start(3).await;
    let store = etcd.store().await;
    let mut watch = store.watch("/", 0).await.expect("watches");
    let lease = store.grant(PATIENCE).await.expect("grants");
    let first = commit(&*store, put("/a", 1)).await;
    assert_eq!(events(&mut watch, 1).await[0].revision, first);
    // The one that all of it goes through.
    etcd.members[0].freeze();
    let kept = timeout(IN_TIME, store.keep_alive(lease)).await;
    kept.expect("in time").expect("is alive");
    answers(&store, IN_TIME).await;
    let second = commit(&*store, put("/a", 2)).await;
    assert_eq!(events(&mut watch, 1).await[0].revision, second);
    etcd.members[0].thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_stands_still_is_unreachable_in_time_and_believed_again_later() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store().await;
    let lease = store.grant(PATIENCE).await.expect("grants");
    let mut watch = store.watch("/", 0).await.expect("watches");
    etcd.members[0].freeze();
    let started = Instant::now();
    let all = futures_util::future::join5(
        async { store.range(&[]).await.map(drop) },
        async { store.commit(put("/a", 1)).await.map(drop) },
        async { store.watch("/", 0).await.map(drop) },
        async { store.keep_alive(lease).await },
        async { store.grant(PATIENCE).await.map(drop) },
    );
    let (range, commit, watching, kept, granted) = timeout(IN_TIME, all).await.expect("none hangs");
    for answer in [range, commit, watching, kept, granted] {
        assert!(matches!(answer, Err(Error::Unreachable(_))), "{answer:?}");
    }
    assert!(started.elapsed() >= Duration::from_secs(1));
    etcd.members[0].thaw();
    answers(&store, IN_TIME).await;
    store.keep_alive(lease).await.expect("is alive");
    // What was asked for while it stood still may have happened since.
    let last = self::commit(&*store, put("/last", 1)).await;
    let mut seen = Vec::new();
    see(&mut watch, &mut seen, |seen| seen.last() >= Some(&last)).await;
    assert!(seen.ends_with(&[last]) && seen.is_sorted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_has_forgotten_is_not_believed() {
    let mut etcd = Etcd::start(1).await;
    let store = etcd.store().await;
    for n in 0..9 {
        commit(&*store, put("/a", n)).await;
    }
    let mut watch = store.watch("/", 0).await.expect("watches");
    let data = etcd.dir().join("m0");
    etcd.members[0].kill();
    std::fs::remove_dir_all(data).expect("is there");
    etcd.members[0].start();
    assert!(etcd.members[0].ready().await);
    let error = store.range(&[]).await.expect_err("it is older");
    assert!(
        matches!(&error, Error::Failed(why) if why.contains("was seen")),
        "{error}"
    );
    assert!(store.watch("/", 5).await.is_err());
    // A fresh process does not know better, but is told of a watch that would be silent.
    let fresh = etcd.store().await;
    let error = fresh.watch("/", 5).await.expect_err("would be silent");
    assert!(error.to_string().contains("lost what it knew"), "{error}");
    assert!(watch.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_of_many_pages_is_of_one_revision() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store().await;
    for batch in 0..12 {
        let ops = (0..100).map(|n| Op::put(format!("/k/{batch:02}-{n:02}"), "0"));
        let (compares, ops) = (vec![], ops.collect());
        commit(&*store, Txn { compares, ops }).await;
    }
    let writer = Arc::clone(&store);
    let writing = tokio::spawn(async move {
        for n in 0.. {
            let ops = vec![
                Op::put("/k/00-00", n.to_string()),
                Op::put("/k/11-99", n.to_string()),
            ];
            let (compares, ops) = (vec![], ops);
            commit(&*writer, Txn { compares, ops }).await;
        }
    });
    for _ in 0..20 {
        let selectors = [
            Selector::Prefix("/k/".into()),
            Selector::Key("/k/05-05".into()),
        ];
        let snapshot = store.range(&selectors).await.expect("reads");
        let list = &snapshot.lists[0];
        assert_eq!((list.len(), snapshot.lists[1].len()), (1_200, 1));
        assert!(list.is_sorted_by(|a, b| a.key < b.key));
        // Written together, so of one revision they are the same.
        assert_eq!(list[0].value, list[1_199].value);
        assert!(list[0].mod_revision <= snapshot.revision);
    }
    writing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_closed_ends_its_watches() {
    let etcd = Etcd::start(1).await;
    let store = etcd.store().await;
    let mut watch = store.watch("/", 0).await.expect("watches");
    drop(store);
    assert_eq!(timeout(PATIENCE, watch.recv()).await.expect("ends"), None);
}
