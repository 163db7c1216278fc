//! `viking restart`, with the real leader: containers of one node are made anew the way a release
//! goes, so that what serves goes on until its successor does.

use viking::docker::fake::Behaviour;
use viking::model::history::RunEnd;
use viking::model::names::NodeName;
use viking::model::release::{Phase, Pointer};
use viking::schedule::order::Order;

use super::operate::again;
use super::s;
use super::source::{Followed, tag};
use crate::e2e::repo::Commit;

/// Three copies, data, and what is neither.
const SHOP: &str = "
viking: {name: shop}
deploy:
  web: {image: web, run: v1, expose: [80], scale: 3, link: db}
  db: {image: db, run: d1, expose: [5432], volume: [/data]}
  cache: {image: db, run: c1, expose: [6379]}
";

/// One where the data is a service's.
fn service(db: &str) -> String {
    SHOP.replace("run: d1", &format!("run: {db}, service: true"))
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

async fn live(yaml: &str) -> (Followed, Commit) {
    let followed = Followed::start().await;
    let commit = followed.push(yaml);
    followed.add().await;
    followed.until_live(&commit).await;
    (followed, commit)
}

#[tokio::test(start_paused = true)]
async fn old_copies_serve_until_all_new_ones_do() {
    let (followed, first) = live(&SHOP.replace("run: v1", "run: slow")).await;
    let (old, db) = (followed.cluster.ids("web"), followed.cluster.ids("db"));
    let cache = followed.cluster.ids("cache");
    let client = followed.cluster.client("shop", "web");
    followed.order(Order::Restart(node("web"))).await;
    let staging = |pointer: &Pointer| pointer.staged.is_some();
    followed.until("it is staging", staging).await;
    while followed.pointer().await.staged.is_some() {
        let now = followed.cluster.ids("web");
        assert!(old.iter().all(|id| now.contains(id)), "{old:?} of {now:?}");
        tokio::time::sleep(s(1)).await;
    }
    followed.until_settled(&again(&first, 2)).await;
    tokio::time::sleep(s(1)).await;
    client.never_failed();
    let new = followed.cluster.ids("web");
    assert!(new.len() == 3 && new.iter().all(|id| !old.contains(id)));
    assert_eq!(
        (followed.cluster.ids("db"), followed.cluster.ids("cache")),
        (db, cache)
    );
    let ends = [tag(&first), again(&first, 2)];
    assert_eq!(followed.ends().await, ends.map(|tag| (tag, RunEnd::Live)));
}

#[tokio::test(start_paused = true)]
async fn data_is_handed_over_with_one_stop_and_one_start() {
    let (followed, first) = live(SHOP).await;
    let before = followed.cluster.running("db").remove(0);
    let web = followed.cluster.ids("web");
    let (created, started) = (
        followed.cluster.calls("create"),
        followed.cluster.calls("start"),
    );
    let client = followed.cluster.client("shop", "db");
    followed.order(Order::Restart(node("db"))).await;
    followed.until_settled(&again(&first, 2)).await;
    tokio::time::sleep(s(1)).await;
    let after = followed.cluster.running("db").remove(0);
    assert_ne!(after.id, before.id);
    assert_eq!(after.mounts, before.mounts);
    assert_eq!(followed.cluster.ids("web"), web);
    let calls = (
        followed.cluster.calls("create"),
        followed.cluster.calls("start"),
    );
    assert_eq!(calls, (created + 1, started + 1));
    assert!(client.longest_gap() < s(5), "{:?}", client.longest_gap());
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_does_not_get_healthy_leaves_the_old_copies() {
    let (followed, first) = live(SHOP).await;
    let before = followed.cluster.ids("web");
    followed.behave("v1", &Behaviour::FailsToStart);
    followed.order(Order::Restart(node("web"))).await;
    let failed = |pointer: &Pointer| pointer.phase == Phase::Failed;
    followed.until("it has failed", failed).await;
    tokio::time::sleep(s(60)).await;
    assert_eq!(followed.cluster.ids("web"), before);
    let pointer = followed.pointer().await;
    assert_eq!(pointer.live.unwrap().as_str(), first.tag());
    assert_eq!(pointer.quarantine, None, "no commit failed");
    let ends = followed.ends().await;
    assert_eq!(ends[1..], [(again(&first, 2), RunEnd::Failed)]);
    // The same command, once what was wrong is repaired.
    followed.behave("v1", &Behaviour::HealthyAfter(s(1)));
    followed.order(Order::Restart(node("web"))).await;
    followed.until_settled(&again(&first, 3)).await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_spec_of_a_service_is_taken_by_restart_and_by_nothing_else() {
    let (followed, _) = live(&service("d1")).await;
    let before = followed.cluster.running("db").remove(0);
    let second = followed.push(&service("d2"));
    followed.until_live(&second).await;
    assert_eq!(followed.cluster.running("db").remove(0).id, before.id);
    followed.order(Order::Restart(node("db"))).await;
    followed.until_settled(&again(&second, 2)).await;
    let after = followed.cluster.running("db").remove(0);
    assert_ne!(after.id, before.id);
    assert_eq!(after.mounts, before.mounts);
    let live = followed.live().await;
    assert_eq!(live.nodes[&node("db")].pending, None);
    let specs = followed.cluster.world().await;
    let specs = &specs.stacks[&super::name("shop")].procs;
    let runs = |tag: &str| {
        let tag = viking::model::names::Tag::parse(tag).unwrap();
        specs[&(node("db"), tag)].settings.run.clone().unwrap()
    };
    assert_eq!(runs(&again(&second, 2)), ["d2"]);
    // It is a service still, and restarted also when nothing waits.
    let third = followed.push(&service("d3"));
    followed.until_live(&third).await;
    assert_eq!(followed.cluster.running("db").remove(0).id, after.id);
    let fourth = followed.push(&service("d2"));
    followed.until_live(&fourth).await;
    assert_eq!(followed.live().await.nodes[&node("db")].pending, None);
    followed.order(Order::Restart(node("db"))).await;
    followed.until_settled(&again(&fourth, 2)).await;
    assert_ne!(followed.cluster.running("db").remove(0).id, after.id);
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_changed_spec_fails_runs_on_with_the_old_one() {
    let (followed, _) = live(&service("d1")).await;
    let before = followed.cluster.running("db").remove(0);
    let second = followed.push(&service("crash"));
    followed.until_live(&second).await;
    followed.order(Order::Restart(node("db"))).await;
    let failed = |pointer: &Pointer| pointer.phase == Phase::Failed;
    followed.until("it has failed", failed).await;
    tokio::time::sleep(s(60)).await;
    assert_eq!(followed.cluster.running("db").remove(0).id, before.id);
    // Back to the one that works: nothing waits any more, nothing is restarted.
    let third = followed.push(&service("d1"));
    followed.until_live(&third).await;
    assert_eq!(followed.cluster.running("db").remove(0).id, before.id);
    assert_eq!(followed.live().await.nodes[&node("db")].pending, None);
}

#[tokio::test(start_paused = true)]
async fn a_restart_waits_for_a_release_and_goes_by_what_is_live_then() {
    let (followed, _) = live(SHOP).await;
    let second = followed.push(&SHOP.replace("c1", "slow"));
    let staging = |pointer: &Pointer| pointer.staged.is_some();
    followed.until("it is staging", staging).await;
    followed.order(Order::Restart(node("cache"))).await;
    followed.until_settled(&again(&second, 2)).await;
    let ends = followed.ends().await;
    assert_eq!(
        ends[1..],
        [
            (tag(&second), RunEnd::Live),
            (again(&second, 2), RunEnd::Live)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn without_room_beside_the_old_copy_it_is_handed_over() {
    // More than half of what the fake engine says it has.
    let yaml = SHOP.replace("run: c1,", "run: c1, resources: {memory: 10G},");
    let (followed, first) = live(&yaml).await;
    let before = followed.cluster.running("cache").remove(0);
    followed.order(Order::Restart(node("cache"))).await;
    followed.until_settled(&again(&first, 2)).await;
    assert_ne!(followed.cluster.running("cache").remove(0).id, before.id);
    assert!(followed.live().await.nodes[&node("cache")].squeezed);
}
