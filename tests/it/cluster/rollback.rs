//! `viking rollback`, with the real leader and a repository: what it brings back, what it leaves alone,
//! and what it meets on the way.

use viking::api::status::status;
use viking::docker::fake::Behaviour;
use viking::model::history::RunEnd;
use viking::model::names::{NodeName, Tag};
use viking::model::release::{Phase, Pointer, SET_ASIDE};
use viking::model::status::{HealthWord, SyncWord};
use viking::schedule::order::Order;

use super::copies::built;
use super::operate::{again, shop};
use super::source::{Followed, is_held_up, tag, waiting, web};
use super::{REGISTRY, name, s};

/// A commit that takes minutes to become healthy and is not given up meanwhile.
fn patient(run: &str) -> String {
    let health = "expose: [80], health: {tcp: 80, start_period: 9m}";
    web(run).replace("expose: [80]", health)
}

#[tokio::test(start_paused = true)]
async fn a_rollback_serves_what_was_live_and_sync_goes_on_with_the_next_commit_only() {
    let followed = Followed::start().await;
    let first = followed.go_live(&shop("v1", "d1")).await;
    let second = followed.go_live(&shop("v2", "d1")).await;
    let client = followed.cluster.client("shop", "web");
    let db = followed.cluster.ids("db");
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    tokio::time::sleep(s(1)).await;
    client.never_failed();
    assert_eq!(client.served(), [tag(&second), again(&first, 2)]);
    assert_eq!(followed.cluster.ids("db"), db, "what is the same runs on");
    assert!(followed.cluster.clear.requests().await.unwrap().is_empty());
    // What was left is not brought back.
    followed.stays(&again(&first, 2)).await;
    let left = followed.pointer().await.quarantine.unwrap();
    assert_eq!(
        (left.commit.id, left.stage.as_str()),
        (second.0.clone(), SET_ASIDE)
    );
    let third = followed.go_live(&shop("v3", "d1")).await;
    assert_eq!(followed.pointer().await.quarantine, None);
    let ends = [tag(&first), tag(&second), again(&first, 2), tag(&third)];
    assert_eq!(followed.ends().await, ends.map(|tag| (tag, RunEnd::Live)));
}

#[tokio::test(start_paused = true)]
async fn a_rollback_takes_back_what_is_staging_and_restarts_nothing() {
    let followed = Followed::start().await;
    let first = followed.go_live(&web("v1")).await;
    let (before, client) = (
        followed.cluster.ids("web"),
        followed.cluster.client("shop", "web"),
    );
    followed.behave("v2", &Behaviour::HealthyAfter(s(300)));
    let second = followed.push(&patient("v2"));
    followed.until_staged(&second).await;
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    followed.stays(&again(&first, 2)).await;
    assert_eq!(followed.cluster.ids("web"), before);
    client.never_failed();
    let ends = [
        (tag(&first), RunEnd::Live),
        (tag(&second), RunEnd::RolledBack),
        (again(&first, 2), RunEnd::Live),
    ];
    assert_eq!(followed.ends().await, ends);
    let taken = followed.cluster.history("shop").await;
    let taken = taken.iter().find(|run| run.end == RunEnd::RolledBack);
    assert_eq!(
        taken.unwrap().reason,
        format!("rolled back to {}", first.tag())
    );
}

#[tokio::test(start_paused = true)]
async fn a_rollback_waits_until_a_hand_over_has_its_end() {
    let followed = Followed::start().await;
    let first = followed.go_live(&shop("v1", "d1")).await;
    let db = followed.cluster.running("db").remove(0);
    let second = followed.push(&shop("v1", "slow"));
    let cutting = |pointer: &Pointer| !pointer.cut.is_empty();
    followed.until("it is cutting", cutting).await;
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    let after = followed.cluster.running("db").remove(0);
    assert_eq!(after.mounts, db.mounts, "its data is the same");
    followed.stays(&again(&first, 2)).await;
    let ends = [tag(&first), tag(&second), again(&first, 2)];
    assert_eq!(followed.ends().await, ends.map(|tag| (tag, RunEnd::Live)));
}

#[tokio::test(start_paused = true)]
async fn a_rollback_of_what_a_failed_hand_over_left_alone_is_refused_and_told() {
    let followed = Followed::start().await;
    let first = followed.go_live(&shop("v1", "d1")).await;
    let second = followed.push(&shop("v1", "never").replace("volume", "health: {tcp: 1}, volume"));
    let cutting = |pointer: &Pointer| !pointer.cut.is_empty();
    followed.until("it is cutting", cutting).await;
    followed.roll_back(first.tag()).await;
    let failed = |pointer: &Pointer| pointer.phase == Phase::Failed;
    followed.until("it has failed", failed).await;
    tokio::time::sleep(s(5)).await;
    assert!(followed.cluster.clear.requests().await.unwrap().is_empty());
    let events = followed
        .cluster
        .clear
        .events(Some(&name("shop")))
        .await
        .unwrap();
    let refused = events.iter().find(|(_, event)| event.what == "refused");
    let why = format!("rollback to {0}: {0} is live already", first.tag());
    assert_eq!(refused.unwrap().1.why, why);
    let ends = [(tag(&first), RunEnd::Live), (tag(&second), RunEnd::Failed)];
    assert_eq!(followed.ends().await, ends);
}

#[tokio::test(start_paused = true)]
async fn a_build_goes_on_beside_a_rollback_and_its_commit_comes_next() {
    let followed = Followed::start().await;
    let first = followed.go_live(&web("v1")).await;
    let second = followed.go_live(&web("v2")).await;
    let third = followed.push(&waiting("v3"));
    followed.until("it is held up", is_held_up).await;
    let run = followed.pointer().await.building.unwrap().run;
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    tokio::time::sleep(s(100)).await;
    assert_eq!(followed.pointer().await.building.unwrap().run, run);
    let fourth = followed.go_live(&web("v4")).await;
    let ends = [
        (tag(&first), RunEnd::Live),
        (tag(&second), RunEnd::Live),
        (tag(&third), RunEnd::Superseded),
        (again(&first, 2), RunEnd::Live),
        (tag(&fourth), RunEnd::Live),
    ];
    assert_eq!(followed.ends().await, ends);
}

#[tokio::test(start_paused = true)]
async fn of_two_rollbacks_neither_lets_sync_bring_back_what_was_left() {
    let followed = Followed::start().await;
    let first = followed.go_live(&web("v1")).await;
    let second = followed.go_live(&web("v2")).await;
    let third = followed.go_live(&web("v3")).await;
    followed.roll_back(second.tag()).await;
    followed.until_settled(&again(&second, 2)).await;
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    followed.stays(&again(&first, 2)).await;
    let pointer = followed.pointer().await;
    assert_eq!(pointer.quarantine.as_ref().unwrap().commit.id, third.0);
    assert!(pointer.is_set_aside(&second.0));
    // Forward again, to what was left first.
    followed.roll_back(third.tag()).await;
    followed.until_settled(&again(&third, 2)).await;
    let world = followed.cluster.world().await;
    let told = &status(&world, Some(&name("shop"))).stacks[0];
    assert_eq!(
        (told.sync, told.health),
        (SyncWord::Synced, HealthWord::Healthy)
    );
    let fourth = followed.go_live(&web("v4")).await;
    followed.stays(fourth.tag()).await;
}

#[tokio::test(start_paused = true)]
async fn two_orders_at_once_are_each_obeyed_once() {
    let followed = Followed::start().await;
    let first = followed.go_live(&web("v1")).await;
    let second = followed.go_live(&web("v2")).await;
    followed.roll_back(first.tag()).await;
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    followed.stays(&again(&first, 2)).await;
    let ends = [tag(&first), tag(&second), again(&first, 2)];
    assert_eq!(followed.ends().await, ends.map(|tag| (tag, RunEnd::Live)));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_removed_since_comes_back_with_its_data() {
    let followed = Followed::start().await;
    let first = followed.go_live(&shop("v1", "d1")).await;
    let before = followed.cluster.running("db").remove(0);
    followed.go_live(&web("v1")).await;
    assert!(followed.cluster.running("db").is_empty());
    let web_ids = followed.cluster.ids("web");
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    let after = followed.cluster.running("db").remove(0);
    assert_ne!(after.name, before.name);
    assert_eq!(after.mounts, before.mounts);
    assert_eq!(followed.cluster.ids("web"), web_ids);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_uses_the_images_that_were_built_also_while_the_registry_is_away() {
    for away in [false, true] {
        let followed = Followed::start().await;
        let first = followed.go_live(&built(1)).await;
        let image = followed.cluster.running("web").remove(0).image_id;
        let second = followed.go_live(&built(2)).await;
        assert_ne!(followed.cluster.running("web").remove(0).image_id, image);
        let builds = followed.cluster.calls("build");
        followed.cluster.registry.down(away);
        followed.roll_back(first.tag()).await;
        followed.until_settled(&again(&first, 2)).await;
        assert_eq!(followed.cluster.running("web").remove(0).image_id, image);
        assert_eq!(followed.cluster.calls("build"), builds);
        let tags = followed.cluster.registry.tags();
        let name = format!("{REGISTRY}/shop/app:{}", again(&first, 2));
        assert_eq!(tags.contains_key(&name), !away, "{tags:?}");
        followed.cluster.registry.down(false);
        // The next commit finds what it shares with either.
        let third = followed
            .go_live(&built(2).replace("run: v2", "run: v3"))
            .await;
        assert_eq!(
            followed.cluster.calls("build"),
            builds,
            "{second:?} built it"
        );
        followed.stays(third.tag()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_is_not_restarted_by_a_rollback_its_old_spec_waits() {
    let followed = Followed::start().await;
    let service = |web: &str, db: &str| shop(web, db).replace("volume:", "service: true, volume:");
    let first = followed.go_live(&service("v1", "d1")).await;
    let second = followed.go_live(&service("v2", "d2")).await;
    let db = followed.cluster.ids("db");
    let node = NodeName::parse("db").unwrap();
    assert!(followed.live().await.nodes[&node].pending.is_some());
    followed.order(Order::Restart(node.clone())).await;
    followed.until_settled(&again(&second, 2)).await;
    assert_ne!(followed.cluster.ids("db"), db);
    let db = followed.cluster.ids("db");
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    assert_eq!(followed.cluster.ids("db"), db);
    let waits = followed.live().await.nodes[&node].pending.clone().unwrap();
    assert_eq!(waits.settings.run.unwrap(), ["d1"]);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_does_not_get_healthy_has_failed_and_what_serves_goes_on() {
    for (bad, stage) in [
        (Behaviour::NeverHealthy, "health"),
        (Behaviour::FailsToStart, "start"),
    ] {
        let followed = Followed::start().await;
        let first = followed.go_live(&shop("v1", "d1")).await;
        let second = followed.go_live(&shop("v2", "d2")).await;
        let (web_ids, db) = (followed.cluster.ids("web"), followed.cluster.ids("db"));
        let client = followed.cluster.client("shop", "web");
        followed.behave("v1", &bad);
        followed.roll_back(first.tag()).await;
        let failed = |pointer: &Pointer| pointer.phase == Phase::Failed;
        followed.until("it has failed", failed).await;
        followed.stays(second.tag()).await;
        assert_eq!(
            (followed.cluster.ids("web"), followed.cluster.ids("db")),
            (web_ids, db)
        );
        client.never_failed();
        let ends = [
            (tag(&first), RunEnd::Live),
            (tag(&second), RunEnd::Live),
            (again(&first, 2), RunEnd::Failed),
        ];
        assert_eq!(followed.ends().await, ends);
        assert_eq!(followed.pointer().await.quarantine, None);
        let world = followed.cluster.world().await;
        let told = &status(&world, Some(&name("shop"))).stacks[0];
        let why = format!("the rollback to {} failed at {stage}: ", first.tag());
        assert!(told.reason.starts_with(&why), "{}", told.reason);
        assert_eq!(
            (told.sync, told.health),
            (SyncWord::Synced, HealthWord::Healthy)
        );
        followed.go_live(&shop("v3", "d2")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_fails_at_its_hand_over_starts_what_was_stopped_again() {
    let followed = Followed::start().await;
    let first = followed.go_live(&shop("v1", "d1")).await;
    let second = followed.go_live(&shop("v1", "d2")).await;
    let db = followed.cluster.running("db").remove(0);
    followed.behave("d1", &Behaviour::FailsToStart);
    followed.roll_back(first.tag()).await;
    let failed = |pointer: &Pointer| pointer.phase == Phase::Failed;
    followed.until("it has failed", failed).await;
    followed.stays(second.tag()).await;
    assert_eq!(followed.cluster.running("db").remove(0).id, db.id);
    assert!(
        followed
            .ends()
            .await
            .contains(&(again(&first, 2), RunEnd::Failed))
    );
}

#[tokio::test(start_paused = true)]
async fn a_newer_commit_takes_over_from_a_rollback_that_does_not_get_anywhere() {
    let followed = Followed::start().await;
    let first = followed.go_live(&patient("v1")).await;
    let second = followed.go_live(&web("v2")).await;
    followed.behave("v1", &Behaviour::HealthyAfter(s(500)));
    followed.roll_back(first.tag()).await;
    let rollback = again(&first, 2);
    let staged = |pointer: &Pointer| pointer.staged.as_ref().map(Tag::as_str) == Some(&rollback);
    followed.until("it is staged", staged).await;
    tokio::time::sleep(s(100)).await;
    let third = followed.go_live(&web("v3")).await;
    followed.stays(third.tag()).await;
    assert_eq!(followed.pointer().await.quarantine, None);
    let ends = [
        (tag(&first), RunEnd::Live),
        (tag(&second), RunEnd::Live),
        (rollback.clone(), RunEnd::Superseded),
        (tag(&third), RunEnd::Live),
    ];
    assert_eq!(followed.ends().await, ends);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_was_made_again_before_a_rollback_left_it_does_not_come_back() {
    let followed = Followed::start().await;
    let first = followed.go_live(&web("v1")).await;
    let second = followed.go_live(&web("v2")).await;
    followed.behave("v3", &Behaviour::HealthyAfter(s(300)));
    let third = followed.push(&patient("v3"));
    followed.until_staged(&third).await;
    // The branch goes back to what is live: that is made again, and waits for room.
    followed.repo.reset(&second);
    followed.ask_about("sync", "").await;
    let is_second = |pointer: &Pointer| {
        let building = pointer.building.as_ref();
        building.is_some_and(|building| building.commit.id == second.0)
    };
    followed.until("it is made again", is_second).await;
    tokio::time::sleep(s(5)).await;
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    followed.stays(&again(&first, 2)).await;
    assert_eq!(followed.pointer().await.building, None);
}

#[tokio::test(start_paused = true)]
async fn looking_up_external_images_does_not_bring_back_what_a_rollback_left() {
    let followed = Followed::start().await;
    let first = followed.go_live(&web("v1")).await;
    followed.go_live(&web("v2")).await;
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    followed.ask_about("pull", "").await;
    followed.stays(&again(&first, 2)).await;
    assert!(followed.cluster.clear.requests().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_way_forward_again_is_not_undone_by_a_branch_that_went_back_too() {
    let followed = Followed::start().await;
    let first = followed.go_live(&web("v1")).await;
    let second = followed.go_live(&web("v2")).await;
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    followed.repo.reset(&first);
    followed.ask_about("sync", "").await;
    let forgiven = |pointer: &Pointer| pointer.quarantine.is_none();
    followed.until("what was left is forgiven", forgiven).await;
    followed.roll_back(second.tag()).await;
    followed.until_settled(&again(&second, 2)).await;
    followed.stays(&again(&second, 2)).await;
}
