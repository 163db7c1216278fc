//! Shared variables, with the real leader: one that is set anew reaches exactly the nodes that name it,
//! the way a release goes, and its value is nowhere but in its own key and in those containers. What is
//! set is written as the API writes it.

use viking::api::status::status;
use viking::docker::fake::Behaviour;
use viking::model::dump::Dump;
use viking::model::env::{SecretValue, VarRef};
use viking::model::history::RunEnd;
use viking::model::names::NodeName;
use viking::model::release::{Phase, Pointer};
use viking::model::world::World;
use viking::schedule::order::Order;
use viking::store::Selector;

use super::operate::again;
use super::source::{Followed, is_held_up, tag, web};
use super::{name, s};
use crate::e2e::repo::Commit;

/// A node that names a variable, a service with data that names another, and one that names none.
const SHOP: &str = "
viking: {name: shop}
deploy:
  web: {image: web, run: v1, expose: [80], scale: 2, env: {TOKEN: '_prod:TOKEN', PLAIN: x}}
  db: {image: db, run: d1, volume: [/data], service: true, env: {PASSWORD: '_prod:DB'}}
  cache: {image: db, run: c1, expose: [6379]}
";

impl Followed {
    async fn set(&self, name: &str, value: &str) -> u64 {
        let value = SecretValue::parse(value.to_owned()).unwrap();
        let tables = &self.cluster.clear;
        tables.set_variable(&var(name), &value, 1).await.unwrap()
    }

    /// What a variable is in each container of a node that runs.
    fn env(&self, node: &str, variable: &str) -> Vec<String> {
        let running = self.cluster.running(node).into_iter();
        let made = running.map(|c| self.cluster.engine().made(&c.name));
        let start = format!("{variable}=");
        let value = |env: Vec<String>| {
            let mut found = env.into_iter().filter_map(|line| {
                let value = line.strip_prefix(&start)?;
                Some(value.to_owned())
            });
            found.next().unwrap_or_default()
        };
        made.map(|new| value(new.env)).collect()
    }
}

fn var(name: &str) -> VarRef {
    VarRef {
        scope: "prod".parse().unwrap(),
        name: name.parse().unwrap(),
    }
}

async fn live() -> (Followed, Commit) {
    let followed = Followed::start().await;
    assert_eq!(followed.set("TOKEN", "token-one").await, 1);
    assert_eq!(followed.set("DB", "db-one").await, 1);
    let commit = followed.go_live(SHOP).await;
    (followed, commit)
}

#[tokio::test(start_paused = true)]
async fn a_variable_that_is_set_moves_the_node_that_names_it_and_nothing_else() {
    let (followed, first) = live().await;
    assert_eq!(followed.env("web", "TOKEN"), ["token-one", "token-one"]);
    assert_eq!(followed.env("web", "PLAIN"), ["x", "x"]);
    assert_eq!(followed.env("db", "PASSWORD"), ["db-one"]);
    let (old, db) = (followed.cluster.ids("web"), followed.cluster.ids("db"));
    let cache = followed.cluster.ids("cache");
    let client = followed.cluster.client("shop", "web");
    assert_eq!(followed.set("TOKEN", "token-two").await, 2);
    followed.until_settled(&again(&first, 2)).await;
    tokio::time::sleep(s(1)).await;
    client.never_failed();
    assert_eq!(followed.env("web", "TOKEN"), ["token-two", "token-two"]);
    assert!(
        followed
            .cluster
            .ids("web")
            .iter()
            .all(|id| !old.contains(id))
    );
    let others = (followed.cluster.ids("db"), followed.cluster.ids("cache"));
    assert_eq!(others, (db, cache));
    // Once.
    followed.stays(&again(&first, 2)).await;
    let ends = [tag(&first), again(&first, 2)];
    assert_eq!(followed.ends().await, ends.map(|tag| (tag, RunEnd::Live)));
    let last = followed.cluster.history("shop").await.remove(0);
    assert_eq!(last.reason, "change of prod/TOKEN");
    // A commit goes on from there.
    let second = followed.push(&SHOP.replace("run: v1", "run: v2"));
    followed.until_live(&second).await;
    assert_eq!(followed.env("web", "TOKEN"), ["token-two", "token-two"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_goes_on_and_takes_the_new_value_when_it_is_restarted() {
    let (followed, first) = live().await;
    let before = followed.cluster.running("db").remove(0);
    followed.set("DB", "db-two").await;
    followed.until_settled(&again(&first, 2)).await;
    followed.stays(&again(&first, 2)).await;
    assert_eq!(followed.cluster.running("db").remove(0).id, before.id);
    let db = NodeName::parse("db").unwrap();
    assert!(followed.live().await.nodes[&db].pending.is_some());
    let world = followed.cluster.world().await;
    let told = &status(&world, Some(&name("shop"))).stacks[0];
    assert!(
        told.nodes
            .iter()
            .any(|node| node.node == db && node.pending)
    );
    followed.order(Order::Restart(db)).await;
    followed.until_settled(&again(&first, 3)).await;
    assert_eq!(followed.env("db", "PASSWORD"), ["db-two"]);
    assert_eq!(
        followed.cluster.running("db").remove(0).mounts,
        before.mounts
    );
    followed.stays(&again(&first, 3)).await;
}

#[tokio::test(start_paused = true)]
async fn a_value_that_does_not_work_is_tried_once_and_the_next_one_is() {
    let (followed, first) = live().await;
    let before = followed.cluster.ids("web");
    followed.behave("v1", &Behaviour::FailsToStart);
    followed.set("TOKEN", "token-bad").await;
    let failed = |pointer: &Pointer| pointer.phase == Phase::Failed;
    followed.until("it has failed", failed).await;
    followed.stays(first.tag()).await;
    assert_eq!(followed.cluster.ids("web"), before);
    let pointer = followed.pointer().await;
    assert_eq!(pointer.quarantine, None, "no commit failed");
    let why = "change of prod/TOKEN failed at start";
    assert!(pointer.reason.starts_with(why), "{}", pointer.reason);
    let ends = followed.ends().await;
    assert_eq!(ends[1..], [(again(&first, 2), RunEnd::Failed)]);
    // What else is set is given to what is live, without the one that failed.
    followed.behave("v1", &Behaviour::HealthyAfter(s(1)));
    followed.set("DB", "db-two").await;
    followed.until_settled(&again(&first, 3)).await;
    assert_eq!(followed.cluster.ids("web"), before);
    followed.set("TOKEN", "token-good").await;
    followed.until_settled(&again(&first, 4)).await;
    assert_eq!(followed.env("web", "TOKEN"), ["token-good", "token-good"]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_gets_the_version_that_failed_without_it() {
    let (followed, _) = live().await;
    followed.behave("v1", &Behaviour::FailsToStart);
    followed.set("TOKEN", "token-two").await;
    let failed = |pointer: &Pointer| pointer.phase == Phase::Failed;
    followed.until("it has failed", failed).await;
    let second = followed.push(&SHOP.replace("run: v1", "run: v2"));
    followed.until_live(&second).await;
    assert_eq!(followed.env("web", "TOKEN"), ["token-two", "token-two"]);
    assert!(followed.pointer().await.variables_aside.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_commit_waits_for_a_variable_that_is_not_set_and_goes_on_when_it_is() {
    let followed = Followed::start().await;
    let first = followed.go_live(&web("v1")).await;
    let yaml = web("v2").replace("expose", "env: {TOKEN: '_prod:TOKEN'}, expose");
    let second = followed.push(&yaml);
    followed.until("it is held up", is_held_up).await;
    followed.stays(first.tag()).await;
    let pointer = followed.pointer().await;
    assert_eq!(pointer.quarantine, None);
    let reason = pointer.building.unwrap().reason;
    assert!(reason.ends_with("viking env set prod TOKEN"), "{reason}");
    followed.set("TOKEN", "token-one").await;
    let tag = viking::model::names::Tag::parse(second.tag()).unwrap();
    let live = |world: &World| super::look::settled(world, &tag);
    followed
        .cluster
        .until("it goes on at once", s(5), live)
        .await;
    assert_eq!(followed.env("web", "TOKEN"), ["token-one"]);
}

#[tokio::test(start_paused = true)]
async fn while_something_is_on_its_way_or_people_want_nothing_new_it_waits() {
    let (followed, first) = live().await;
    let second = followed.push(&SHOP.replace("run: v1", "run: slow"));
    followed.until_staged(&second).await;
    followed.set("TOKEN", "token-two").await;
    followed.until_settled(&again(&second, 2)).await;
    assert_eq!(followed.env("web", "TOKEN"), ["token-two", "token-two"]);
    followed.suspend(Some(1)).await;
    followed.set("TOKEN", "token-three").await;
    followed.stays(&again(&second, 2)).await;
    followed.suspend(None).await;
    followed.until_settled(&again(&second, 3)).await;
    assert_eq!(followed.env("web", "TOKEN"), ["token-three", "token-three"]);
    let ends: Vec<_> = followed
        .ends()
        .await
        .into_iter()
        .map(|(tag, _)| tag)
        .collect();
    let all = [
        tag(&first),
        tag(&second),
        again(&second, 2),
        again(&second, 3),
    ];
    assert_eq!(ends, all);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_goes_back_to_the_value_of_then_and_stays_there() {
    let (followed, first) = live().await;
    followed.set("TOKEN", "token-two").await;
    followed.until_settled(&again(&first, 2)).await;
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 3)).await;
    assert_eq!(followed.env("web", "TOKEN"), ["token-one", "token-one"]);
    followed.stays(&again(&first, 3)).await;
    followed.set("TOKEN", "token-three").await;
    followed.until_settled(&again(&first, 4)).await;
    assert_eq!(followed.env("web", "TOKEN"), ["token-three", "token-three"]);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_made_once_whichever_write_its_leader_is_lost_at() {
    for n in 0..4 {
        let (mut followed, first) = live().await;
        followed.cluster.store.depose_before(n);
        followed.set("TOKEN", "token-two").await;
        tokio::time::sleep(s(20)).await;
        followed.lead().await;
        followed.until_settled(&again(&first, 2)).await;
        followed.stays(&again(&first, 2)).await;
        let ends = [tag(&first), again(&first, 2)];
        assert_eq!(followed.ends().await, ends.map(|tag| (tag, RunEnd::Live)));
        assert_eq!(followed.env("web", "TOKEN"), ["token-two", "token-two"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_is_in_its_own_key_and_nowhere_else() {
    let (followed, first) = live().await;
    followed.set("TOKEN", "token-two").await;
    followed.set("DB", "db-two").await;
    followed.until_settled(&again(&first, 2)).await;
    followed.behave("v1", &Behaviour::FailsToStart);
    followed.set("TOKEN", "token-three").await;
    let failed = |pointer: &Pointer| pointer.phase == Phase::Failed;
    followed.until("it has failed", failed).await;
    let secret = |text: &str| {
        ["token-", "db-one", "db-two"]
            .iter()
            .any(|s| text.contains(s))
    };
    let all = [Selector::Prefix("/".to_owned())];
    let snapshot = followed.cluster.store.inner().range(&all).await.unwrap();
    let mut values = 0;
    for kv in &snapshot.lists[0] {
        let text = String::from_utf8_lossy(&kv.value);
        let own = kv.key.starts_with("/env/prod/") && kv.key.split('/').count() == 5;
        assert_eq!(secret(&text), own, "{}: {text}", kv.key);
        values += usize::from(own);
    }
    assert_eq!(values, 5);
    let world = followed.cluster.world().await;
    assert!(!secret(&format!("{world:?}")));
    assert!(!secret(
        &serde_json::to_string(&Dump::of(world.clone())).unwrap()
    ));
    assert!(!secret(
        &serde_json::to_string(&status(&world, None)).unwrap()
    ));
    let dump = followed.cluster.clear.dump().await.unwrap();
    assert!(dump.iter().all(|(_, value)| !secret(value)));
    for container in followed.cluster.engine().snapshot() {
        assert!(container.labels.values().all(|label| !secret(label)));
    }
}

#[tokio::test(start_paused = true)]
async fn values_that_no_record_names_are_forgotten_and_their_numbers_are_not() {
    let (followed, first) = live().await;
    followed.set("OTHER", "other-one").await;
    followed.set("TOKEN", "token-two").await;
    followed.until_settled(&again(&first, 2)).await;
    assert!(
        followed
            .cluster
            .clear
            .unset_variable(&var("OTHER"))
            .await
            .unwrap()
    );
    let forgotten = async |at| {
        let wanted = [at].into();
        let found = followed.cluster.clear.secrets(&wanted).await.unwrap();
        found.is_empty()
    };
    // Two looks.
    tokio::time::sleep(s(250)).await;
    assert!(!forgotten(var("OTHER").at(1)).await);
    tokio::time::sleep(s(500)).await;
    assert!(forgotten(var("OTHER").at(1)).await);
    // The first release can be gone back to, and names it.
    assert!(!forgotten(var("TOKEN").at(1)).await);
    assert!(!forgotten(var("TOKEN").at(2)).await);
    assert_eq!(followed.set("OTHER", "other-two").await, 2);
}
