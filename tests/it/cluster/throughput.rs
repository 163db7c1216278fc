//! P6: how fast placements get into etcd, against how fast etcd takes bare transactions of 120 keys. Prints a
//! table and judges no time: `benches/run.sh p6` runs it optimised. Real etcd, real time, nobody who starts
//! anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{PutOptions, Txn, TxnOp};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use viking::clock::now_ms;
use viking::model::certificate::DoorRecord;
use viking::model::host::{Capacity, EngineState, HostRecord, Member, READS, Readiness};
use viking::model::release::{Phase, Pointer};
use viking::schedule::dispatch;
use viking::store::election::{self, Leadership, LeaseKeeper};
use viking::store::keys::{Family, Key};
use viking::store::tables::{Outcome, Tables};
use viking::store::{Selector, SharedStore, Watched};
use viking::wake::Bell;

use super::leader::{Staged, stage};
use super::{Cluster, host_name};
use crate::store::etcd::server::Etcd;

const HOSTS: usize = 200;
const STACKS: usize = 20;
/// Jobs of each stack.
const SCALE: usize = 1_000;
/// Keys of a bare transaction, and how many of those.
const KEYS: usize = 120;
const TXNS: usize = 500;
/// As long as what viking writes for a job, on average: a placement, who answers, and why.
const VALUE_BYTES: usize = 300;
const ROUNDS: usize = 3;
/// Placements that do not come for so long never come.
const SILENT: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures: benches/run.sh p6"]
async fn placements_through_etcd_against_bare_transactions() {
    let (mut bare, mut placed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let etcd = Etcd::start(1).await;
        // Whichever is faster: one at a time, or four.
        let one = keys_per_second(&etcd, 1).await;
        let four = keys_per_second(&etcd, 4).await;
        bare.push(one.max(four));
        let etcd = Etcd::start(1).await;
        placed.push(placements_per_second(&etcd).await);
        println!(
            "    bare: {one:.0} keys/s one at a time, {four:.0} four at a time; viking: {:.0} jobs/s",
            placed[placed.len() - 1]
        );
    }
    let middle = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (bare, placed) = (middle(&mut bare), middle(&mut placed));
    let ratio = placed / bare;
    let verdict = if ratio >= 0.30 { "PASS" } else { "FAIL" };
    println!("| figure | etcd | viking | ratio | pass | |");
    println!("|---|---|---|---|---|---|");
    println!(
        "| P6 jobs placed in etcd, of 20,000 | {:.1} k keys/s | {:.1} k jobs/s | {ratio:.2} | ≥ 0.30 | {verdict} |",
        bare / 1e3,
        placed / 1e3
    );
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn per_second(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Bare transactions, so many at a time.
async fn keys_per_second(etcd: &Etcd, at_a_time: usize) -> f64 {
    let client = etcd.client().await;
    let value = vec![b'x'; VALUE_BYTES];
    let started = Instant::now();
    let txns = (0..TXNS).map(|n| {
        let mut client = client.clone();
        let puts: Vec<TxnOp> = (0..KEYS)
            .map(|k| {
                TxnOp::put(
                    format!("/bare/{n:05}/{k:03}"),
                    value.clone(),
                    None::<PutOptions>,
                )
            })
            .collect();
        async move { client.txn(Txn::new().and_then(puts)).await.map(drop) }
    });
    let all = futures_util::stream::iter(txns).buffer_unordered(at_a_time);
    all.try_collect::<()>().await.expect("etcd takes them");
    per_second(TXNS * KEYS, started.elapsed())
}

/// From the start of the dispatch loop until etcd has the last placement.
async fn placements_per_second(etcd: &Etcd) -> f64 {
    let store: SharedStore = etcd.store().await;
    let mut cluster = Cluster::over(0, Arc::clone(&store), Some(etcd)).await;
    let tables = cluster.clear.clone();
    // A plan of 20,000 jobs must not starve keep-alives.
    let runtime = cluster.keep_alives.handle.clone();
    let keeper = LeaseKeeper::start(Arc::clone(&store), TTL, &runtime);
    announce_all(&tables, &keeper).await;
    let stop = CancellationToken::new();
    let key = tables.keys().text(&Key::Leader);
    let leadership = election::campaign(&store, &key, "bench", TTL, &runtime, &stop).await;
    let leadership = Arc::new(leadership.expect("nobody else wants to"));
    stage_all(&mut cluster, &leadership).await;

    let bell = Bell::new();
    let prefix = tables.keys().family(Family::Deploy);
    let mut changes = store.watch(&prefix, 0).await.unwrap();
    let started = Instant::now();
    let loops = tokio::spawn(dispatch::run(
        tables.clone(),
        leadership,
        bell.ear(),
        stop.clone(),
    ));
    let mut seen = 0;
    while seen < STACKS * SCALE {
        match timeout(SILENT, changes.recv()).await {
            Ok(Some(Watched::Events(events))) => seen += events.len(),
            other => panic!("{other:?} after {seen}"),
        }
    }
    let took = started.elapsed();
    stop.cancel();
    loops.await.unwrap();
    let snapshot = store.range(&[Selector::Prefix(prefix)]).await.unwrap();
    assert_eq!(snapshot.lists[0].len(), STACKS * SCALE);
    per_second(STACKS * SCALE, took)
}

async fn announce_all(tables: &Tables, keeper: &LeaseKeeper) {
    let lease = keeper.granted().await;
    for n in 0..HOSTS {
        let host = host_name(n);
        let member = Member {
            v: 1,
            machine_id: host.to_string(),
            tags: std::collections::BTreeSet::new(),
            capacity: Capacity {
                cpu_millis: 64_000,
                memory_bytes: 256 << 30,
            },
            readiness: Readiness::Ready,
            joined_ms: now_ms(),
            gone_ms: 0,
        };
        tables.register_member(&host, &member).await.unwrap();
        let record = HostRecord {
            v: 1,
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            engine: EngineState::Up {
                version: "0".to_owned(),
            },
            version: "0".to_owned(),
            reads: READS,
            api: String::new(),
            started_ms: now_ms(),
            fetched: Vec::new(),
            draining: Vec::new(),
            door: DoorRecord::default(),
            sites: Vec::new(),
            volumes: None,
        };
        tables.announce(&host, &record, lease).await.unwrap();
    }
}

async fn stage_all(cluster: &mut Cluster, leadership: &Leadership) {
    for n in 0..STACKS {
        let yaml = format!(
            "viking: {{name: s{n}}}\ndeploy:\n  web: {{image: web, run: v1, expose: [80], scale: {SCALE}}}\n"
        );
        cluster.push(&yaml).await;
    }
    let tables = cluster.clear.clone();
    for pushed in cluster.pushes.waiting() {
        let world = tables.world(now_ms()).await.unwrap();
        let staged = stage(&tables, leadership, &world, &pushed).await.unwrap();
        assert!(matches!(staged, Staged::Done), "{}", pushed.file.stack);
        // Live already: nothing waits for a first copy to be healthy, as after a loss of everything.
        let world = tables.world(now_ms()).await.unwrap();
        let stack = &world.stacks[&pushed.file.stack];
        let pointer = Pointer {
            live: stack.pointer.staged.clone(),
            staged: None,
            phase: Phase::Live,
            ..stack.pointer.clone()
        };
        let name = &pushed.file.stack;
        let set = tables.set_pointer(
            leadership,
            name,
            &pointer,
            stack.pointer_revision,
            Vec::new(),
        );
        assert!(matches!(set.await.unwrap(), Outcome::Done(_)), "{name}");
    }
}
