//! The store's contract: one suite over every kind of store. The kind in memory runs on a paused
//! clock, those on disk, on one etcd and on three in real time. `durable` adds what only a file can
//! promise, `etcd` what only members can, `model` compares with a naive store.

mod durable;
pub(crate) mod etcd;
mod leases;
mod model;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc::Receiver;
use tokio::time::{sleep, timeout};
use viking::store::local::LocalStore;
use viking::store::{
    Committed, Compare, Error, Event, KeyValue, LeaseId, Op, Selector, SharedStore, TXN_OPS_MAX,
    Txn, VALUE_BYTES_MAX, Watched,
};

use self::leases::*;

/// Longest wait for something that must happen; far above what it takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store under test.
struct Subject {
    store: SharedStore,
    compact: Box<dyn Fn(i64) -> BoxFuture<'static, ()> + Send + Sync>,
    /// A lease short enough to wait for.
    ttl: Duration,
    /// What the store needs for as long as it lives.
    _keep: Box<dyn Any + Send>,
}

fn subject(local: Arc<LocalStore>, dir: Option<tempfile::TempDir>) -> Subject {
    let compacted = Arc::downgrade(&local);
    Subject {
        store: local,
        compact: Box::new(move |revision| {
            let local = compacted.upgrade().expect("the store is open");
            Box::pin(async move { local.compact(revision).await.expect("compacts") })
        }),
        ttl: Duration::from_secs(1),
        _keep: Box::new(dir),
    }
}

fn in_memory() -> Subject {
    subject(LocalStore::in_memory(), None)
}

fn on_disk() -> Subject {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let local = LocalStore::open(&dir.path().join("store.redb")).expect("opens");
    subject(local, Some(dir))
}

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod memory_keeps {
            $(#[tokio::test(start_paused = true)]
            async fn $name() { super::$name(super::in_memory()).await; })*
        }
        mod local_keeps {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::on_disk()).await; })*
        }
        mod etcd_keeps {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::etcd::subject(1).await).await; })*
        }
        mod three_etcds_keep {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::etcd::subject(3).await).await; })*
        }
    };
}

contract!(
    a_transaction_happens_whole_or_not_at_all,
    a_deleted_and_recreated_key_has_a_new_create_revision,
    a_range_reads_several_selections_of_one_revision,
    names_are_read_without_their_values,
    a_prefix_matches_exactly,
    nothing_changed_raises_no_revision,
    what_is_never_right_is_refused,
    as_many_operations_as_allowed_are_one_revision,
    a_watch_replays_then_goes_live_without_gap_or_duplicate,
    a_watch_from_zero_starts_now,
    a_watch_sees_the_order_of_operations,
    a_watch_of_a_forgotten_revision_is_told_so,
    a_slow_watch_holds_nobody_up_and_misses_nothing,
    a_slow_watch_behind_compaction_is_told_so,
    a_lease_ends_and_its_keys_go_at_one_revision,
    a_lease_that_is_kept_alive_stays,
    an_ended_lease_is_gone,
    a_revoked_lease_takes_its_keys,
    a_key_lives_by_its_last_lease,
    of_many_writers_comparing_one_revision_one_wins,
);

impl Subject {
    async fn commit(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Committed {
        self.store
            .commit(Txn { compares, ops })
            .await
            .expect("commits")
    }

    async fn put(&self, key: &str, value: &str) -> i64 {
        match self.commit(vec![], vec![Op::put(key, value)]).await {
            Committed::Done(revision) => revision,
            Committed::Conflict => panic!("a put compares nothing"),
        }
    }

    async fn put_leased(&self, key: &str, lease: LeaseId) {
        let (key, value) = (key.to_owned(), vec![]);
        self.commit(vec![], vec![Op::Put { key, value, lease }])
            .await;
    }

    async fn get(&self, key: &str) -> Option<KeyValue> {
        let snapshot = self
            .store
            .range(&[Selector::Key(key.into())])
            .await
            .expect("reads");
        snapshot.lists[0].first().cloned()
    }

    async fn revision(&self) -> i64 {
        self.store.range(&[]).await.expect("reads").revision
    }

    async fn refusal(&self, ops: Vec<Op>) -> Error {
        let txn = Txn {
            compares: vec![],
            ops,
        };
        self.store.commit(txn).await.expect_err("must be refused")
    }
}

async fn told(watch: &mut Receiver<Watched>) -> Watched {
    let told = timeout(PATIENCE, watch.recv()).await.expect("told in time");
    told.expect("the watch goes on")
}

/// The next `count` events, with nothing but events before them.
async fn events(watch: &mut Receiver<Watched>, count: usize) -> Vec<Event> {
    let mut all = Vec::new();
    while all.len() < count {
        match told(watch).await {
            Watched::Events(events) => all.extend(events),
            Watched::Compacted(at) => panic!("compacted at {at} after {} events", all.len()),
        }
    }
    assert_eq!(all.len(), count, "{all:?}");
    all
}

async fn a_transaction_happens_whole_or_not_at_all(s: Subject) {
    let absent = || Compare::CreateRevision("/a".into(), 0);
    let both = |value: &str| vec![Op::put("/a", value), Op::put("/b", value)];
    let Committed::Done(first) = s.commit(vec![absent()], both("1")).await else {
        panic!("nothing stood against it");
    };
    assert_eq!(
        s.commit(vec![absent()], both("2")).await,
        Committed::Conflict
    );
    assert_eq!(s.revision().await, first);
    let mixed = vec![
        Compare::ModRevision("/a".into(), first),
        Compare::ModRevision("/b".into(), first + 1),
    ];
    assert_eq!(s.commit(mixed, both("3")).await, Committed::Conflict);
    let right = vec![
        Compare::ModRevision("/a".into(), first),
        Compare::CreateRevision("/b".into(), first),
        Compare::ModRevision("/none".into(), 0),
    ];
    assert_eq!(s.commit(right, both("4")).await, Committed::Done(first + 1));
    for key in ["/a", "/b"] {
        let kv = s.get(key).await.expect("is there");
        assert_eq!(kv.value, b"4");
        assert_eq!((kv.create_revision, kv.mod_revision), (first, first + 1));
    }
}

async fn a_deleted_and_recreated_key_has_a_new_create_revision(s: Subject) {
    let first = s.put("/a", "1").await;
    s.commit(vec![], vec![Op::delete("/a")]).await;
    let again = s.put("/a", "1").await;
    assert_eq!(s.get("/a").await.expect("is there").create_revision, again);
    let old = Compare::CreateRevision("/a".into(), first);
    assert_eq!(
        s.commit(vec![old], vec![Op::delete("/a")]).await,
        Committed::Conflict
    );
}

async fn a_range_reads_several_selections_of_one_revision(s: Subject) {
    for key in ["/b/2", "/a/1", "/b/1", "/c"] {
        s.put(key, key).await;
    }
    let selectors = [
        Selector::Prefix("/b/".into()),
        Selector::Key("/c".into()),
        Selector::Key("/none".into()),
        Selector::Prefix("/".into()),
    ];
    let snapshot = s.store.range(&selectors).await.expect("reads");
    assert_eq!(snapshot.revision, s.revision().await);
    let keys = |n: usize| {
        snapshot.lists[n]
            .iter()
            .map(|kv| kv.key.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(0), ["/b/1", "/b/2"]);
    assert_eq!(keys(1), ["/c"]);
    assert!(keys(2).is_empty());
    assert_eq!(keys(3), ["/a/1", "/b/1", "/b/2", "/c"]);
}

async fn names_are_read_without_their_values(s: Subject) {
    let first = s.put("/v/1", "secret").await;
    s.put("/v/1/2", "secret").await;
    s.put("/w", "seen").await;
    let changed = s.put("/v/1", "another secret").await;
    let selectors = [Selector::Names("/v/".into()), Selector::Prefix("/w".into())];
    let snapshot = s.store.range(&selectors).await.expect("reads");
    let told = |n: usize| -> Vec<(&str, &[u8])> {
        let list = snapshot.lists[n].iter();
        list.map(|kv| (kv.key.as_str(), kv.value.as_slice()))
            .collect()
    };
    assert_eq!(told(0), [("/v/1", &b""[..]), ("/v/1/2", &b""[..])]);
    assert_eq!(told(1), [("/w", &b"seen"[..])]);
    let kv = &snapshot.lists[0][0];
    assert_eq!((kv.create_revision, kv.mod_revision), (first, changed));
}

async fn a_prefix_matches_exactly(s: Subject) {
    for key in ["/d/host-1/x", "/d/host-10/x", "/d/host-1", "/d/host-2/x"] {
        s.put(key, "").await;
    }
    let prefix = "/d/host-1/".to_owned();
    let snapshot = s
        .store
        .range(&[Selector::Prefix(prefix.clone())])
        .await
        .expect("reads");
    assert_eq!(snapshot.lists[0].len(), 1);
    let mut watch = s.store.watch(&prefix, 1).await.expect("watches");
    assert_eq!(events(&mut watch, 1).await[0].key, "/d/host-1/x");
    s.commit(vec![], vec![Op::DeletePrefix { prefix }]).await;
    assert!(s.get("/d/host-1/x").await.is_none());
    assert!(s.get("/d/host-10/x").await.is_some() && s.get("/d/host-1").await.is_some());
}

async fn nothing_changed_raises_no_revision(s: Subject) {
    let revision = s.put("/a", "").await;
    let ops = vec![
        Op::delete("/none"),
        Op::DeletePrefix {
            prefix: "/none/".into(),
        },
    ];
    assert_eq!(s.commit(vec![], ops).await, Committed::Done(revision));
    assert_eq!(s.commit(vec![], vec![]).await, Committed::Done(revision));
    assert_eq!(
        s.put("/a", "").await,
        revision + 1,
        "the same value is a change all the same"
    );
}

async fn what_is_never_right_is_refused(s: Subject) {
    let big = vec![0; VALUE_BYTES_MAX + 1];
    let many = (0..=TXN_OPS_MAX)
        .map(|n| Op::put(format!("/{n}"), ""))
        .collect();
    let overlap = Op::DeletePrefix {
        prefix: "/a".into(),
    };
    for ops in [
        vec![Op::put("", "")],
        vec![Op::put("/a", big)],
        vec![Op::put("/a", "1"), Op::put("/a", "2")],
        vec![Op::put("/a", "1"), Op::delete("/a")],
        vec![overlap.clone(), Op::put("/ab", "")],
        vec![Op::put("/ab", ""), overlap],
        vec![Op::DeletePrefix {
            prefix: String::new(),
        }],
        many,
    ] {
        let error = s.refusal(ops).await;
        assert!(matches!(error, Error::Refused(_)), "{error}");
    }
    let unknown = Op::Put {
        key: "/a".into(),
        value: vec![],
        lease: 99,
    };
    assert_eq!(s.refusal(vec![unknown]).await, Error::LeaseGone(99));
    assert!(s.store.grant(Duration::ZERO).await.is_err());
    assert!(s.get("/a").await.is_none());
}

async fn as_many_operations_as_allowed_are_one_revision(s: Subject) {
    let before = s.revision().await;
    let ops: Vec<Op> = (0..TXN_OPS_MAX)
        .map(|n| Op::put(format!("/{n:03}"), ""))
        .collect();
    assert_eq!(s.commit(vec![], ops).await, Committed::Done(before + 1));
    s.put("/big", &"x".repeat(VALUE_BYTES_MAX)).await;
    let mut watch = s.store.watch("/", before + 1).await.expect("watches");
    let seen = events(&mut watch, TXN_OPS_MAX + 1).await;
    assert!(
        seen[..TXN_OPS_MAX]
            .iter()
            .all(|event| event.revision == before + 1)
    );
}

async fn a_watch_replays_then_goes_live_without_gap_or_duplicate(s: Subject) {
    const WRITERS: usize = 4;
    const EACH: usize = 100;
    let first = s.put("/w/start", "").await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&s.store);
        writers.push(tokio::spawn(async move {
            for n in 0..EACH {
                let txn = Txn {
                    compares: vec![],
                    ops: vec![Op::put(format!("/w/{writer}"), n.to_string())],
                };
                store.commit(txn).await.expect("commits");
            }
        }));
    }
    // Some watches begin in the midst of it, all from the same old revision.
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(s.store.watch("/w/", first).await.expect("watches"));
        tokio::task::yield_now().await;
    }
    let mut all = Vec::new();
    for watch in &mut watches {
        all.push(events(watch, WRITERS * EACH + 1).await);
    }
    for writer in writers {
        writer.await.expect("writes");
    }
    let revisions: Vec<i64> = all[0].iter().map(|event| event.revision).collect();
    let expected: Vec<i64> = (first..).take(WRITERS * EACH + 1).collect();
    assert_eq!(revisions, expected);
    assert!(all.iter().all(|seen| *seen == all[0]));
}

async fn a_watch_from_zero_starts_now(s: Subject) {
    s.put("/a", "old").await;
    let mut watch = s.store.watch("/", 0).await.expect("watches");
    let revision = s.put("/a", "new").await;
    let seen = events(&mut watch, 1).await;
    assert_eq!(seen[0].revision, revision);
    assert_eq!(seen[0].value, s.get("/a").await);
}

async fn a_watch_sees_the_order_of_operations(s: Subject) {
    for key in ["/p/1", "/p/2", "/x"] {
        s.put(key, "").await;
    }
    let mut watch = s.store.watch("/", 0).await.expect("watches");
    let ops = vec![
        Op::put("/z", ""),
        Op::DeletePrefix {
            prefix: "/p/".into(),
        },
        Op::delete("/none"),
        Op::put("/b", ""),
        Op::delete("/x"),
    ];
    s.commit(vec![], ops).await;
    let seen = events(&mut watch, 5).await;
    let order: Vec<_> = seen
        .iter()
        .map(|e| (e.key.as_str(), e.value.is_some()))
        .collect();
    let expected = [
        ("/z", true),
        ("/p/1", false),
        ("/p/2", false),
        ("/b", true),
        ("/x", false),
    ];
    assert_eq!(order, expected);
}

async fn a_watch_of_a_forgotten_revision_is_told_so(s: Subject) {
    let first = s.put("/a", "1").await;
    let last = s.put("/a", "2").await;
    (s.compact)(last).await;
    let mut watch = s.store.watch("/", first).await.expect("watches");
    assert_eq!(told(&mut watch).await, Watched::Compacted(last));
    assert_eq!(timeout(PATIENCE, watch.recv()).await.expect("ends"), None);
    // What is live is still there, and a watch after a fresh list goes on.
    assert!(s.get("/a").await.is_some());
    let mut watch = s.store.watch("/", last + 1).await.expect("watches");
    s.put("/a", "3").await;
    assert_eq!(events(&mut watch, 1).await[0].revision, last + 1);
}

async fn a_slow_watch_holds_nobody_up_and_misses_nothing(s: Subject) {
    const CHANGES: usize = 2_000;
    let mut watch = s.store.watch("/", 0).await.expect("watches");
    let last = write_much(&s, CHANGES).await;
    let seen = events(&mut watch, CHANGES).await;
    assert_eq!(seen.last().map(|event| event.revision), Some(last));
    assert!(seen.is_sorted_by_key(|event| event.revision));
}

async fn a_slow_watch_behind_compaction_is_told_so(s: Subject) {
    let mut watch = s.store.watch("/", 0).await.expect("watches");
    let mut last = 0;
    // More than any queue holds, in small portions so that the watch sends many batches.
    for _ in 0..100 {
        last = write_much(&s, 20).await;
        sleep(Duration::from_millis(1)).await;
    }
    (s.compact)(last).await;
    let mut before = 0;
    loop {
        match told(&mut watch).await {
            Watched::Events(events) => {
                for event in events {
                    assert!(event.revision > before);
                    before = event.revision;
                }
            }
            Watched::Compacted(at) => {
                assert_eq!(at, last);
                break;
            }
        }
        assert!(before < last, "the watch kept what it was not read");
    }
    assert_eq!(timeout(PATIENCE, watch.recv()).await.expect("ends"), None);
}

/// Commits of [`write_much`] that are under way at once: what is queued longer than a call may take
/// would not count as written.
const AT_ONCE: usize = 64;

/// Many revisions, quickly. Returns the last revision.
async fn write_much(s: &Subject, count: usize) -> i64 {
    let commits = (0..count).map(|n| s.put("/much", if n % 2 == 0 { "a" } else { "b" }));
    let commits = futures_util::stream::iter(commits).buffer_unordered(AT_ONCE);
    let revisions: Vec<i64> = commits.collect().await;
    revisions.into_iter().max().expect("some were written")
}

async fn of_many_writers_comparing_one_revision_one_wins(s: Subject) {
    for round in 0..20 {
        let key = format!("/r/{round}");
        let attempts = (0..8).map(|n| {
            let absent = vec![Compare::CreateRevision(key.clone(), 0)];
            s.commit(absent, vec![Op::put(key.clone(), n.to_string())])
        });
        let outcomes = futures_util::future::join_all(attempts).await;
        let won = outcomes
            .iter()
            .filter(|outcome| **outcome != Committed::Conflict);
        assert_eq!(won.count(), 1);
    }
}
