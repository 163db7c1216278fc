//! Random transactions against a store and against a naive model of it: a list of keys and a list of
//! everything that ever happened. Both must tell the same.

use proptest::prelude::*;
use viking::store::local::LocalStore;
use viking::store::{
    Committed, Compare, Error, Event, KeyValue, Op, Selector, Store, Txn, Watched,
};

/// The store as one would write it without caring for speed.
#[derive(Default)]
struct Model {
    revision: i64,
    keys: Vec<KeyValue>,
    past: Vec<Event>,
}

impl Model {
    fn find(&self, key: &str) -> Option<&KeyValue> {
        self.keys.iter().find(|kv| kv.key == key)
    }

    fn commit(&mut self, txn: &Txn) -> Committed {
        let holds = |compare: &Compare| match compare {
            Compare::CreateRevision(key, at) => {
                self.find(key).map_or(0, |kv| kv.create_revision) == *at
            }
            Compare::ModRevision(key, at) => self.find(key).map_or(0, |kv| kv.mod_revision) == *at,
        };
        if !txn.compares.iter().all(holds) {
            return Committed::Conflict;
        }
        let revision = self.revision + 1;
        let before = self.past.len();
        for op in &txn.ops {
            match op {
                Op::Put { key, value, .. } => self.put(key, value, revision),
                Op::Delete { key } => self.delete(|candidate| candidate == key, revision),
                Op::DeletePrefix { prefix } => {
                    self.delete(|candidate| candidate.starts_with(prefix), revision);
                }
            }
        }
        if self.past.len() > before {
            self.revision = revision;
        }
        Committed::Done(self.revision)
    }

    fn put(&mut self, key: &str, value: &[u8], revision: i64) {
        let create_revision = self.find(key).map_or(revision, |kv| kv.create_revision);
        let kv = KeyValue {
            key: key.to_owned(),
            value: value.to_vec(),
            create_revision,
            mod_revision: revision,
            lease: 0,
        };
        self.keys.retain(|other| other.key != key);
        self.keys.push(kv.clone());
        self.keys.sort_by(|a, b| a.key.cmp(&b.key));
        self.past.push(Event {
            key: key.to_owned(),
            value: Some(kv),
            revision,
        });
    }

    fn delete(&mut self, chosen: impl Fn(&str) -> bool, revision: i64) {
        for kv in self.keys.extract_if(.., |kv| chosen(&kv.key)) {
            self.past.push(Event {
                key: kv.key,
                value: None,
                revision,
            });
        }
    }
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "/a", "/a/", "/a/1", "/a/10", "/a/2", "/b", "/b/1", "/ä",
    ])
    .prop_map(str::to_owned)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (key(), any::<u8>()).prop_map(|(key, n)| Op::put(key, vec![n])),
        2 => key().prop_map(Op::delete),
        1 => key().prop_map(|prefix| Op::DeletePrefix { prefix }),
    ]
}

/// A compare that often holds: revisions are small here.
fn compare() -> impl Strategy<Value = Compare> {
    (
        key(),
        prop_oneof![3 => Just(0_i64), 2 => 0_i64..12],
        any::<bool>(),
    )
        .prop_map(|(key, at, create)| {
            if create {
                Compare::CreateRevision(key, at)
            } else {
                Compare::ModRevision(key, at)
            }
        })
}

fn txn() -> impl Strategy<Value = Txn> {
    let compares = prop::collection::vec(compare(), 0..2);
    let ops = prop::collection::vec(op(), 0..5);
    (compares, ops).prop_map(|(compares, ops)| Txn { compares, ops })
}

async fn replay(store: &dyn Store, prefix: &str, from: i64, count: usize) -> Vec<Event> {
    let mut watch = store.watch(prefix, from).await.expect("watches");
    let mut all = Vec::new();
    while all.len() < count {
        match watch.recv().await.expect("goes on") {
            Watched::Events(events) => all.extend(events),
            Watched::Compacted(at) => panic!("compacted at {at}"),
        }
    }
    all
}

async fn compare_all(store: &dyn Store, model: &Model, start: i64) {
    let prefixes = ["/", "/a", "/a/1", "/b/"];
    let compared = prefixes.map(|prefix| compare_below(store, model, start, prefix));
    futures_util::future::join_all(compared).await;
}

async fn compare_below(store: &dyn Store, model: &Model, start: i64, prefix: &str) {
    let snapshot = store
        .range(&[Selector::Prefix(prefix.into())])
        .await
        .expect("reads");
    let below: Vec<_> = model
        .keys
        .iter()
        .filter(|kv| kv.key.starts_with(prefix))
        .collect();
    assert_eq!(snapshot.lists[0].iter().collect::<Vec<_>>(), below);
    assert_eq!(snapshot.revision, model.revision);
    for from in [start + 1, (start + model.revision) / 2 + 1] {
        let past: Vec<Event> = model
            .past
            .iter()
            .filter(|event| event.key.starts_with(prefix) && event.revision >= from)
            .cloned()
            .collect();
        assert_eq!(replay(store, prefix, from, past.len()).await, past);
    }
}

async fn run(txns: Vec<Txn>, reopen_every: Option<usize>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("store.redb");
    let open = || match reopen_every {
        Some(_) => LocalStore::open(&path).expect("opens"),
        None => LocalStore::in_memory(),
    };
    let mut store = open();
    let (mut model, start) = beside(&*store).await;
    for (n, txn) in txns.into_iter().enumerate() {
        step(&*store, &mut model, &txn).await;
        if reopen_every.is_some_and(|every| n % every == every - 1) {
            drop(store);
            store = open();
        }
    }
    compare_all(&*store, &model, start).await;
}

/// A model of a store that holds nothing, and the revision at which it begins.
async fn beside(store: &dyn Store) -> (Model, i64) {
    let revision = store.range(&[]).await.expect("reads").revision;
    let model = Model {
        revision,
        ..Model::default()
    };
    (model, revision)
}

/// A refused transaction changes nothing; the model never sees it.
async fn step(store: &dyn Store, model: &mut Model, txn: &Txn) {
    match store.commit(txn.clone()).await {
        Ok(committed) => assert_eq!(committed, model.commit(txn), "{txn:?}"),
        Err(error) => assert!(matches!(error, Error::Refused(_)), "{error}"),
    }
}

/// One etcd for all cases: each begins by forgetting the keys of the one before.
#[test]
fn the_store_over_etcd_does_as_the_model() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let subject = runtime.block_on(super::etcd::subject(1));
    let store = &*subject.store;
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(24)
    };
    let case = |txns: Vec<Txn>| {
        runtime.block_on(async {
            let prefix = "/".to_owned();
            let ops = vec![Op::DeletePrefix { prefix }];
            subject.commit(vec![], ops).await;
            let (mut model, start) = beside(store).await;
            for txn in &txns {
                step(store, &mut model, txn).await;
            }
            compare_all(store, &model, start).await;
        });
        Ok(())
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let txns = prop::collection::vec(txn(), 0..40);
    runner.run(&txns, case).expect("holds");
}

fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_in_memory_does_as_the_model(txns in prop::collection::vec(txn(), 0..60)) {
        block_on(run(txns, None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_on_disk_does_as_the_model_across_reopening(txns in prop::collection::vec(txn(), 0..40)) {
        block_on(run(txns, Some(7)));
    }
}
