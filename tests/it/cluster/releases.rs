//! What a push moves and what it leaves alone, in nodes without data.

use std::collections::BTreeSet;
use std::time::Duration;

use viking::model::history::RunEnd;
use viking::model::job::JobState;

use super::{Cluster, name, s};

/// A website and something it links to.
const SHOP: &str = "
viking: {name: shop}
deploy:
  web: {image: web, run: v1, expose: [80], scale: 2, link: db}
  db: {image: db, run: v1, expose: [5432]}
";

fn shop(from: &str, to: &str) -> String {
    assert!(SHOP.contains(from), "{from}");
    SHOP.replace(from, to)
}

/// The same stack with another `web`.
fn web(run: &str) -> String {
    shop("image: web, run: v1", &format!("image: web, run: {run}"))
}

#[tokio::test(start_paused = true)]
async fn a_release_goes_live_and_answers_until_the_next_one_does() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.go_live(SHOP).await;
    let client = cluster.client("shop", "web");
    let second = cluster.go_live(&web("v2")).await;
    client.never_failed();
    assert_eq!(client.served(), [first.to_string(), second.to_string()]);
    let ends = cluster.ends("shop").await;
    assert_eq!(ends, [(first, RunEnd::Live), (second, RunEnd::Live)]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_changes_no_node_restarts_nothing() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.go_live(SHOP).await;
    let (web, db) = (cluster.ids("web"), cluster.ids("db"));
    let (created, stopped) = (cluster.calls("create"), cluster.calls("stop"));
    let second = cluster.go_live(SHOP).await;
    assert_ne!(first, second);
    assert_eq!((cluster.ids("web"), cluster.ids("db")), (web, db));
    let calls = (cluster.calls("create"), cluster.calls("stop"));
    assert_eq!(calls, (created, stopped));
}

#[tokio::test(start_paused = true)]
async fn scaling_up_and_down_restarts_nothing() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(SHOP).await;
    let two = cluster.ids("web");
    let client = cluster.client("shop", "web");
    cluster.go_live(&shop("scale: 2", "scale: 4")).await;
    let four = cluster.ids("web");
    assert!(four.len() == 4 && two.iter().all(|id| four.contains(id)));
    cluster.go_live(&shop("scale: 2", "scale: 1")).await;
    let one = cluster.ids("web");
    assert!(
        one.len() == 1 && two.contains(&one[0]),
        "{one:?} of {two:?}"
    );
    client.never_failed();
    assert_eq!(cluster.calls("create"), 5);
}

#[tokio::test(start_paused = true)]
async fn only_the_changed_node_moves() {
    let mut cluster = Cluster::start(2).await;
    let first = cluster.go_live(SHOP).await;
    let (web_before, db) = (cluster.ids("web"), cluster.ids("db"));
    let client = cluster.client("shop", "db");
    let second = cluster.go_live(&web("v2")).await;
    assert_eq!(cluster.ids("db"), db);
    let web_after = cluster.ids("web");
    assert!(web_after.iter().all(|id| !web_before.contains(id)));
    client.never_failed();
    let world = cluster.world().await;
    let tags: BTreeSet<_> = world.run.keys().map(|job| &job.tag).collect();
    assert_eq!(tags, BTreeSet::from([&first, &second]));
}

#[tokio::test(start_paused = true)]
async fn a_bad_commit_never_serves_and_the_next_good_one_goes_live() {
    for (bad, stage) in [("crash", "start"), ("absent", "start"), ("never", "health")] {
        let mut cluster = Cluster::start(1).await;
        let first = cluster.go_live(SHOP).await;
        let (web_before, client) = (cluster.ids("web"), cluster.client("shop", "web"));
        let failed = cluster.push(&web(bad)).await;
        cluster.until_failed(&failed).await;
        assert_eq!(cluster.ids("web"), web_before, "{bad}");
        let world = cluster.world().await;
        let pointer = &world.stacks[&name("shop")].pointer;
        let quarantine = pointer.quarantine.clone().unwrap();
        assert_eq!(
            (quarantine.tag, quarantine.stage.as_str()),
            (failed.clone(), stage)
        );
        // It is not tried again.
        let created = cluster.calls("create");
        tokio::time::sleep(s(120)).await;
        assert_eq!(cluster.calls("create"), created, "{bad}");
        assert_eq!(client.served(), [first.to_string()]);
        let good = cluster.go_live(&web("v2")).await;
        client.never_failed();
        assert_eq!(client.last().unwrap(), vec![good.to_string(); 2]);
        let ends = cluster.ends("shop").await;
        let wanted = [
            (first, RunEnd::Live),
            (failed, RunEnd::Failed),
            (good, RunEnd::Live),
        ];
        assert_eq!(ends, wanted, "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_doomed_release_is_seen_at_its_first_copy() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(SHOP).await;
    let failed = cluster
        .push(&web("never").replace("scale: 2", "scale: 5"))
        .await;
    cluster.until_failed(&failed).await;
    let world = cluster.world().await;
    assert!(world.run.keys().all(|job| job.tag != failed));
    // Three for what is live, one of the bad one.
    assert_eq!(cluster.calls("create"), 4);
}

#[tokio::test(start_paused = true)]
async fn further_copies_wait_for_the_first_to_be_healthy() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(SHOP).await;
    let tag = cluster
        .push(&web("slow").replace("scale: 2", "scale: 3"))
        .await;
    let started =
        |world: &viking::model::world::World| world.run.keys().filter(|job| job.tag == tag).count();
    cluster
        .until("the first is started", s(5), |world| started(world) == 1)
        .await;
    tokio::time::sleep(s(4)).await;
    assert_eq!(started(&cluster.world().await), 1);
    cluster
        .until("the others follow", s(5), |world| started(world) == 3)
        .await;
    cluster.until_live(&tag).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_waits_for_what_it_links_to() {
    let mut cluster = Cluster::start(1).await;
    let yaml = shop("image: db, run: v1", "image: db, run: slow");
    let tag = cluster.push(&yaml).await;
    cluster
        .until("the target runs", s(5), |_| {
            !cluster.running("db").is_empty()
        })
        .await;
    tokio::time::sleep(s(4)).await;
    assert!(cluster.running("web").is_empty());
    cluster.until_live(&tag).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_linked_to_stops_last() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.go_live(SHOP).await;
    cluster.engine().latency("stop", s(1));
    let second = cluster.push(&SHOP.replace("run: v1", "run: v2")).await;
    cluster
        .until("it serves", s(20), |world| {
            world.stacks[&name("shop")].pointer.live.as_ref() == Some(&second)
        })
        .await;
    let left = |world: &viking::model::world::World, node: &str| {
        let mut seen = world.states.keys();
        seen.any(|(_, job)| job.tag == first && job.node.as_str() == node)
    };
    let world = cluster
        .until("the old web is gone", s(10), |world| !left(world, "web"))
        .await;
    assert!(left(&world, "db"), "its target went first");
    cluster.until_live(&second).await;
}

#[tokio::test(start_paused = true)]
async fn going_back_to_an_older_commit_is_another_release() {
    let mut cluster = Cluster::start(1).await;
    let a = "a".repeat(40);
    let first = cluster.push_commit(SHOP, &a, 1).await;
    cluster.until_live(&first).await;
    let client = cluster.client("shop", "web");
    let second = cluster.go_live(&web("v2")).await;
    let third = cluster.push_commit(SHOP, &a, 2).await;
    cluster.until_live(&third).await;
    client.never_failed();
    let tags = [&first, &second, &third].map(ToString::to_string);
    assert_eq!(client.served(), tags);
    assert_eq!(third.as_str(), format!("{first}-2"));
}

#[tokio::test(start_paused = true)]
async fn a_newer_commit_takes_over_from_a_failing_one() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.go_live(SHOP).await;
    let client = cluster.client("shop", "web");
    // It has failed once and is not given up yet.
    let bad = cluster.push(&web("crash")).await;
    cluster
        .until("it has failed once", s(20), |world| {
            !world.counters.is_empty()
        })
        .await;
    let good = cluster.push(&web("v2")).await;
    cluster.until_live(&good).await;
    client.never_failed();
    assert_eq!(client.served(), [first.to_string(), good.to_string()]);
    let ends = cluster.ends("shop").await;
    assert!(
        ends.contains(&(bad, RunEnd::Superseded)) || ends.len() == 3,
        "{ends:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_newer_commit_waits_a_minute_for_one_that_is_neither_done_nor_failed() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(SHOP).await;
    cluster.hosts[0]
        .engine
        .behave("v2", viking::docker::fake::Behaviour::HealthyAfter(s(300)));
    let slow = web("v2").replace(
        "expose: [80]",
        "expose: [80], health: {tcp: 80, start_period: 5m}",
    );
    let slow = cluster.push(&slow).await;
    cluster
        .until("it is staged", s(5), |world| {
            world.stacks[&name("shop")].pointer.staged.as_ref() == Some(&slow)
        })
        .await;
    let good = cluster.push(&web("v3")).await;
    tokio::time::sleep(s(50)).await;
    let world = cluster.world().await;
    assert_eq!(
        world.stacks[&name("shop")].pointer.staged.as_ref(),
        Some(&slow)
    );
    cluster.until_live(&good).await;
    assert!(
        cluster
            .ends("shop")
            .await
            .contains(&(slow, RunEnd::Superseded))
    );
}

#[tokio::test(start_paused = true)]
async fn of_two_quick_commits_the_newer_one_is_live_at_the_end() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(SHOP).await;
    let client = cluster.client("shop", "web");
    cluster.push(&web("v2")).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    let third = cluster.push(&web("v3")).await;
    cluster.until_live(&third).await;
    client.never_failed();
}

#[tokio::test(start_paused = true)]
async fn a_removed_node_stops_with_the_release_that_drops_it() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(SHOP).await;
    let web_before = cluster.ids("web");
    let client = cluster.client("shop", "web");
    let alone =
        "viking: {name: shop}\ndeploy:\n  web: {image: web, run: v1, expose: [80], scale: 2}\n";
    cluster.go_live(alone).await;
    assert!(cluster.running("db").is_empty());
    client.never_failed();
    // The link is part of what a container is made from.
    assert_ne!(cluster.ids("web"), web_before);
}

#[tokio::test(start_paused = true)]
async fn once_settled_nothing_is_written_any_more() {
    let mut cluster = Cluster::start(2).await;
    cluster.go_live(SHOP).await;
    let yaml = "viking: {name: data}\ndeploy:\n  db: {image: db, run: v1, expose: [5432], volume: [/data]}\n";
    cluster.go_live(yaml).await;
    tokio::time::sleep(s(70)).await;
    let (writes, created) = (cluster.store.writes(), cluster.calls("create"));
    tokio::time::sleep(s(60)).await;
    assert_eq!(
        cluster.store.writes(),
        writes,
        "{:?}",
        cluster.store.trace()
    );
    assert_eq!(cluster.calls("create"), created);
}

#[tokio::test(start_paused = true)]
async fn the_fix_of_a_service_is_not_blamed_for_the_release_before() {
    let yaml = |run: &str| {
        format!(
            "viking: {{name: shop}}\ndeploy:\n  db: {{image: db, run: {run}, expose: [80], service: true}}\n"
        )
    };
    for bad in ["crash", "never", "absent"] {
        let mut cluster = Cluster::start(1).await;
        let failed = cluster.push(&yaml(bad)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        // It waits for room, and takes it in the moment the bad one fails.
        let fixed = cluster.push(&yaml("v2")).await;
        cluster.until_live(&fixed).await;
        let ends = cluster.ends("shop").await;
        assert!(ends.contains(&(fixed, RunEnd::Live)), "{bad}: {ends:?}");
        assert!(!ends.contains(&(failed, RunEnd::Live)), "{bad}: {ends:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_healthy_says_nothing_of_the_spec_that_replaces_it() {
    let yaml = |db: &str, web: &str| {
        format!(
            "viking: {{name: shop}}\ndeploy:\n  \
             db: {{image: db, run: {db}, expose: [80], service: true}}\n  \
             web: {{image: web, run: {web}, expose: [80]}}\n"
        )
    };
    let mut cluster = Cluster::start(1).await;
    // Its service works; what else is in it does not.
    let first = cluster.push(&yaml("v1", "crash")).await;
    cluster
        .until(
            "the service is healthy and the rest has failed",
            s(20),
            |world| {
                let up = world
                    .states
                    .values()
                    .any(|state| state.state == JobState::Healthy);
                up && !world.counters.is_empty()
            },
        )
        .await;
    let second = cluster.push(&yaml("never", "v1")).await;
    cluster.until_failed(&second).await;
    let ends = cluster.ends("shop").await;
    assert_eq!(
        ends,
        [(first, RunEnd::Superseded), (second, RunEnd::Failed)]
    );
}
