//! Store, engine, registry and people at a shell misbehave: what runs goes on, and what was on its
//! way arrives.

use viking::docker::Error;
use viking::docker::fake::{ANY, FakeEngine};
use viking::model::history::RunEnd;
use viking::store::keys::Key;
use viking::store::{Op, Txn};

use super::{Cluster, name, s};

const TWO: &str = "
viking: {name: shop}
deploy:
  web: {image: web, run: v1, expose: [80], scale: 2}
  db: {image: db, run: v1, expose: [5432], volume: [/data]}
";

fn web(run: &str) -> String {
    TWO.replace("image: web, run: v1", &format!("image: web, run: {run}"))
}

/// What somebody does to a container at the host's shell.
type Act = fn(&FakeEngine, &str);

fn all_ids(cluster: &Cluster) -> Vec<(String, u64)> {
    let mut all = cluster.ids("web");
    all.extend(cluster.ids("db"));
    all
}

#[tokio::test(start_paused = true)]
async fn while_the_store_stalls_everything_runs_on() {
    let mut cluster = Cluster::start(2).await;
    cluster.go_live(TWO).await;
    let (before, stops) = (all_ids(&cluster), cluster.calls("stop"));
    let client = cluster.client("shop", "web");
    let tag = cluster.push(&web("slow")).await;
    cluster
        .until("it is on its way", s(5), |world| {
            world.run.keys().any(|job| job.tag == tag)
        })
        .await;
    cluster.store.stall(s(40)).await;
    assert_eq!(cluster.calls("stop"), stops);
    let after = all_ids(&cluster);
    assert!(before.iter().all(|id| after.contains(id)));
    cluster.until_live(&tag).await;
    client.never_failed();
}

#[tokio::test(start_paused = true)]
async fn hosts_cut_off_from_the_store_until_their_leases_end_keep_their_containers() {
    let mut cluster = Cluster::start(2).await;
    let tag = cluster.go_live(TWO).await;
    let (before, stops) = (all_ids(&cluster), cluster.calls("stop"));
    cluster.store.set_down(true);
    tokio::time::sleep(s(30)).await;
    assert!(cluster.world().await.hosts.is_empty());
    cluster.store.set_down(false);
    cluster.until_live(&tag).await;
    assert_eq!(all_ids(&cluster), before);
    assert_eq!(cluster.calls("stop"), stops);
}

#[tokio::test(start_paused = true)]
async fn answers_of_the_store_that_get_lost_do_no_harm() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(TWO).await;
    let client = cluster.client("shop", "web");
    for n in 2..8 {
        cluster.store.lose_answers(n);
        let tag = cluster.go_live(&web(&format!("v{n}"))).await;
        cluster.store.refuse(n);
        tokio::time::sleep(s(5)).await;
        assert_eq!(client.last().unwrap(), vec![tag.to_string(); 2]);
    }
    client.never_failed();
    let ends = cluster.ends("shop").await;
    assert!(
        ends.iter().all(|(_, end)| *end == RunEnd::Live) && ends.len() == 7,
        "{ends:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_answer_stops_nothing_and_fails_no_release() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.go_live(TWO).await;
    let client = cluster.client("shop", "web");
    let (before, db) = (cluster.ids("web"), cluster.ids("db"));
    let tag = cluster.push(&web("slow")).await;
    cluster
        .until("it runs", s(5), |_| cluster.running("web").len() == 3)
        .await;
    cluster.engine().down(true);
    tokio::time::sleep(s(30)).await;
    let ids = cluster.ids("web");
    assert!(before.iter().all(|id| ids.contains(id)));
    assert_eq!(cluster.ends("shop").await, [(first, RunEnd::Live)]);
    cluster.engine().down(false);
    cluster.until_live(&tag).await;
    assert_eq!(cluster.ids("db"), db);
    client.never_failed();
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_holds_a_release_up_and_does_not_fail_it() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.go_live(TWO).await;
    cluster.registry.down(true);
    let tag = cluster
        .push(&TWO.replace("image: web", "image: other"))
        .await;
    // Longer than the clock of a release.
    tokio::time::sleep(s(11 * 60)).await;
    let client = cluster.client("shop", "web");
    assert_eq!(cluster.ends("shop").await, [(first, RunEnd::Live)]);
    let world = cluster.world().await;
    assert_eq!(
        world.stacks[&name("shop")].pointer.staged.as_ref(),
        Some(&tag)
    );
    let waits = world
        .counters
        .values()
        .any(|counter| counter.reason.contains("pull"));
    assert!(waits, "{:?}", world.counters);
    cluster.registry.down(false);
    cluster
        .until("it serves", s(400), |world| {
            super::look::settled(world, &tag)
        })
        .await;
    client.never_failed();
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_and_odd_errors_of_the_engine_do_not_fail_a_release() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(TWO).await;
    let client = cluster.client("shop", "web");
    let full = Error::DiskFull("no space left".into());
    let odd = Error::Other("internal error".into());
    for (n, verb, error) in [
        (2, "create", full),
        (3, "start", odd.clone()),
        (4, "ensure_network", odd),
    ] {
        cluster.engine().fail_next(verb, error, 4);
        cluster.go_live(&web(&format!("v{n}"))).await;
    }
    client.never_failed();
    let ends = cluster.ends("shop").await;
    assert!(ends.iter().all(|(_, end)| *end == RunEnd::Live), "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn calls_of_the_engine_whose_answers_get_lost_do_no_harm() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(TWO).await;
    let client = cluster.client("shop", "web");
    let lost = || Error::Unreachable("the answer is lost".into());
    for (n, verb) in ["create", "start", "stop", "remove", "list", ANY]
        .iter()
        .enumerate()
    {
        cluster.engine().fail_after_next(verb, lost(), 2);
        let both = web(&format!("v{}", n + 2));
        let both = both.replace("image: db, run: v1", &format!("image: db, run: v{}", n + 2));
        cluster.go_live(&both).await;
        assert_eq!(cluster.running("web").len(), 2);
    }
    client.never_failed();
}

#[tokio::test(start_paused = true)]
async fn a_restarted_worker_adopts_what_runs() {
    let mut cluster = Cluster::start(2).await;
    let tag = cluster.go_live(TWO).await;
    let (before, client) = (all_ids(&cluster), cluster.client("shop", "web"));
    let calls = |cluster: &Cluster| ["create", "start", "stop", "remove"].map(|v| cluster.calls(v));
    let counted = calls(&cluster);
    for n in [0, 1] {
        cluster.kill_worker(n).await;
        cluster.start_worker(n);
    }
    tokio::time::sleep(s(30)).await;
    cluster.until_live(&tag).await;
    assert_eq!(all_ids(&cluster), before);
    assert_eq!(calls(&cluster), counted);
    client.never_failed();
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_at_any_moment_of_a_release_brings_it_live_afterwards() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(TWO).await;
    let client = cluster.client("shop", "web");
    cluster
        .engine()
        .latency(ANY, std::time::Duration::from_millis(7));
    for n in 2..16_u64 {
        let both =
            web(&format!("v{n}")).replace("image: db, run: v1", &format!("image: db, run: v{n}"));
        let tag = cluster.push(&both).await;
        tokio::time::sleep(std::time::Duration::from_millis(n * 26)).await;
        cluster.kill_worker(0).await;
        tokio::time::sleep(std::time::Duration::from_millis(n * 7)).await;
        cluster.start_worker(0);
        cluster.until_live(&tag).await;
    }
    client.never_failed();
}

#[tokio::test(start_paused = true)]
async fn what_people_do_to_containers_is_repaired_and_told() {
    let mut cluster = Cluster::start(1).await;
    let tag = cluster.go_live(TWO).await;
    let engine = cluster.engine().clone();
    let acts: [(&str, Act); 6] = [
        ("removed", |e, c| e.rm_f(c)),
        ("stopped", |e, c| e.stop_outside(c)),
        ("paused", |e, c| e.pause(c)),
        ("limits", |e, c| e.update_memory(c, 1 << 20)),
        ("network", |e, c| e.disconnect(c)),
        ("killed", |e, c| e.kill(c)),
    ];
    for (what, act) in acts {
        for node in ["web", "db"] {
            let before = cluster
                .clear
                .events(Some(&name("shop")))
                .await
                .unwrap()
                .len();
            let victim = cluster.running(node).remove(0);
            act(&engine, &victim.name);
            tokio::time::sleep(s(1)).await;
            cluster.until_live(&tag).await;
            let repaired = cluster.running(node);
            let whole = repaired
                .iter()
                .all(|c| c.memory_bytes == 0 && !c.networks.is_empty());
            assert!(whole, "{what} {node}: {repaired:?}");
            let events = cluster.clear.events(Some(&name("shop"))).await.unwrap();
            let told = events
                .iter()
                .skip(before)
                .any(|(_, e)| e.about.contains(node));
            assert!(told || events.len() > before, "{what} {node}: {events:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stack_that_cannot_be_read_is_left_alone_and_the_others_go_on() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(TWO).await;
    let other = "viking: {name: other}\ndeploy:\n  app: {image: app, run: v1, expose: [80]}\n";
    cluster.go_live(other).await;
    let before = all_ids(&cluster);
    let world = cluster.world().await;
    let live = world.stacks[&name("shop")].pointer.live.clone().unwrap();
    let key = cluster.clear.keys().text(&Key::Release(name("shop"), live));
    let garbage = Txn {
        compares: vec![],
        ops: vec![
            Op::put(key.clone(), "{not a record"),
            Op::put("/deploy/host-a/shop/nonsense", "x"),
        ],
    };
    let saved = cluster.read(&key).await;
    cluster.store.inner().commit(garbage).await.unwrap();
    let tag = cluster.push(&other.replace("v1", "v2")).await;
    cluster.until_live(&tag).await;
    tokio::time::sleep(s(60)).await;
    assert_eq!(all_ids(&cluster), before);
    let mended = Txn {
        compares: vec![],
        ops: vec![
            Op::put(key, saved),
            Op::delete("/deploy/host-a/shop/nonsense"),
        ],
    };
    cluster.store.inner().commit(mended).await.unwrap();
    cluster.go_live(&web("v2")).await;
}

#[tokio::test(start_paused = true)]
async fn what_others_run_is_never_touched() {
    let mut cluster = Cluster::start(1).await;
    let engine = cluster.engine().clone();
    engine.add_foreign("somebody-elses");
    let found = || {
        let all = engine.snapshot().into_iter();
        all.filter(|c| c.name == "somebody-elses")
            .collect::<Vec<_>>()
    };
    let before = found();
    cluster.go_live(TWO).await;
    cluster.kill_worker(0).await;
    cluster.start_worker(0);
    cluster.go_live(&web("v2")).await;
    let failed = cluster.push(&web("crash")).await;
    cluster.until_failed(&failed).await;
    cluster.clear.remove_source(&name("shop")).await.unwrap();
    cluster
        .until("it is gone", s(60), |world| world.stacks.is_empty())
        .await;
    assert_eq!(found(), before);
    assert_eq!(engine.snapshot().len(), 1);
}
