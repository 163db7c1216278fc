//! What people ask of a stack that is there, with the real leader and a repository: retry, suspend, and
//! orders whose leader is lost. What is asked for is written as the API writes it.

use viking::api::status::status;
use viking::docker::fake::Behaviour;
use viking::model::history::RunEnd;
use viking::model::names::Tag;
use viking::model::release::{Phase, Pointer, Release};
use viking::model::status::HealthWord;
use viking::schedule::order::Order;

use super::source::{Followed, tag, web};
use super::{name, s};
use crate::e2e::repo::Commit;

/// A website and data beside it.
pub(super) fn shop(web_runs: &str, db: &str) -> String {
    web(web_runs) + &format!("  db: {{image: db, run: {db}, expose: [5432], volume: [/data]}}\n")
}

impl Followed {
    pub(super) async fn order(&self, order: Order) {
        self.ask_about(order.kind(), order.about()).await;
    }

    pub(super) async fn roll_back(&self, to: &str) {
        self.order(Order::Rollback(Tag::parse(to).unwrap())).await;
    }

    pub(super) async fn suspend(&self, since_ms: Option<u64>) {
        let stack = name("shop");
        let mut known = self.cluster.clear.sources().await.unwrap();
        let (mut source, revision) = known.sources.remove(&stack).unwrap();
        source.suspended_ms = since_ms;
        let put = self.cluster.clear.put_source(&stack, &source, revision);
        put.await.unwrap();
    }

    pub(super) async fn pointer(&self) -> Pointer {
        let world = self.cluster.world().await;
        world.stacks[&name("shop")].pointer.clone()
    }

    pub(super) async fn live(&self) -> Release {
        let world = self.cluster.world().await;
        world.stacks[&name("shop")].live().unwrap().clone()
    }

    /// Pushes, follows if nobody does yet, and waits.
    pub(super) async fn go_live(&self, yaml: &str) -> Commit {
        let commit = self.push(yaml);
        self.add().await;
        self.until_live(&commit).await;
        commit
    }

    pub(super) fn behave(&self, command: &str, behaviour: &Behaviour) {
        for host in &self.cluster.hosts {
            host.engine.behave(command, behaviour.clone());
        }
    }

    /// Nothing happens for so long that a look at the repository would have shown.
    pub(super) async fn stays(&self, tag: &str) {
        let created = self.cluster.calls("create");
        tokio::time::sleep(s(200)).await;
        assert_eq!(self.cluster.calls("create"), created);
        let pointer = self.pointer().await;
        assert_eq!(pointer.live.unwrap().as_str(), tag);
        assert_eq!(pointer.staged, None);
    }

    pub(super) async fn until_staged(&self, commit: &Commit) {
        let staged = |pointer: &Pointer| {
            let staged = pointer.staged.as_ref();
            staged.is_some_and(|staged| staged.as_str() == commit.tag())
        };
        self.until("it is staged", staged).await;
    }
}

pub(super) fn again(commit: &Commit, nth: u32) -> String {
    format!("{}-{nth}", commit.tag())
}

#[tokio::test(start_paused = true)]
async fn what_a_rollback_left_is_brought_back_by_retry() {
    let followed = Followed::start().await;
    let first = followed.go_live(&web("v1")).await;
    let second = followed.go_live(&web("v2")).await;
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    followed.order(Order::Retry(second.0.clone())).await;
    followed.until_settled(&again(&second, 2)).await;
    assert_eq!(followed.pointer().await.quarantine, None);
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_is_tried_again_when_people_say_so() {
    let followed = Followed::start().await;
    let first = followed.go_live(&web("v1")).await;
    let failing = followed.push(&web("crash"));
    let failed = |pointer: &Pointer| pointer.phase == Phase::Failed;
    followed.until("it has failed", failed).await;
    followed.stays(first.tag()).await;
    followed.behave("crash", &Behaviour::HealthyAfter(s(1)));
    followed.order(Order::Retry(failing.0.clone())).await;
    followed.until_settled(&again(&failing, 2)).await;
    let ends = [
        (tag(&first), RunEnd::Live),
        (tag(&failing), RunEnd::Failed),
        (again(&failing, 2), RunEnd::Live),
    ];
    assert_eq!(followed.ends().await, ends);
    assert!(followed.cluster.clear.requests().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_suspended_stack_takes_nothing_new_until_it_is_resumed() {
    let followed = Followed::start().await;
    let first = followed.go_live(&web("v1")).await;
    let second = followed.go_live(&web("v2")).await;
    followed.suspend(Some(1)).await;
    let third = followed.push(&web("v3"));
    followed.stays(second.tag()).await;
    let world = followed.cluster.world().await;
    let told = &status(&world, Some(&name("shop"))).stacks[0];
    assert_eq!(told.health, HealthWord::Suspended);
    assert!(
        told.reason.starts_with("suspended since 1970-"),
        "{}",
        told.reason
    );
    // What runs is kept running.
    let killed = followed.cluster.running("web").remove(0);
    followed.cluster.engine().kill(&killed.name);
    let runs = |_: &viking::model::world::World| !followed.cluster.running("web").is_empty();
    followed
        .cluster
        .until("it is started again", s(30), runs)
        .await;
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    followed.stays(&again(&first, 2)).await;
    followed.suspend(None).await;
    followed.until_live(&third).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_when_a_stack_is_suspended_comes_to_its_end() {
    let followed = Followed::start().await;
    followed.go_live(&web("v1")).await;
    let second = followed.push(&web("slow"));
    followed.until_staged(&second).await;
    followed.suspend(Some(1)).await;
    followed.until_live(&second).await;
}

#[tokio::test(start_paused = true)]
async fn an_order_that_no_leader_has_heard_is_obeyed_once_by_the_next() {
    for alone in [true, false] {
        let mut followed = Followed::start().await;
        let first = followed.go_live(&web("v1")).await;
        let second = followed.go_live(&web("v2")).await;
        if alone {
            followed.stop_leading();
            tokio::time::sleep(s(5)).await;
        }
        followed.roll_back(first.tag()).await;
        if alone {
            tokio::time::sleep(s(20)).await;
            assert_eq!(
                followed.pointer().await.live.unwrap().as_str(),
                second.tag()
            );
        }
        // Or with the old one in the middle of it.
        followed.lead().await;
        followed.until_settled(&again(&first, 2)).await;
        followed.stays(&again(&first, 2)).await;
        assert!(followed.cluster.clear.requests().await.unwrap().is_empty());
        let ends = [tag(&first), tag(&second), again(&first, 2)];
        assert_eq!(followed.ends().await, ends.map(|tag| (tag, RunEnd::Live)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_is_obeyed_once_whichever_write_its_leader_is_lost_at() {
    for n in 0..4 {
        let mut followed = Followed::start().await;
        let first = followed.go_live(&shop("v1", "d1")).await;
        let second = followed.go_live(&shop("v2", "d2")).await;
        followed.cluster.store.depose_before(n);
        followed.roll_back(first.tag()).await;
        tokio::time::sleep(s(20)).await;
        followed.lead().await;
        followed.until_settled(&again(&first, 2)).await;
        followed.stays(&again(&first, 2)).await;
        let ends = [tag(&first), tag(&second), again(&first, 2)];
        assert_eq!(followed.ends().await, ends.map(|tag| (tag, RunEnd::Live)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_whose_answers_are_lost_is_obeyed_once() {
    for times in 1..4 {
        let followed = Followed::start().await;
        let first = followed.go_live(&web("v1")).await;
        let second = followed.go_live(&web("v2")).await;
        followed.cluster.store.lose_answers(times);
        followed.roll_back(first.tag()).await;
        followed.until_settled(&again(&first, 2)).await;
        followed.stays(&again(&first, 2)).await;
        let ends = [tag(&first), tag(&second), again(&first, 2)];
        assert_eq!(followed.ends().await, ends.map(|tag| (tag, RunEnd::Live)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_left_nothing_on_record_is_tried_again_under_its_own_tag() {
    let followed = Followed::start().await;
    followed.go_live(&web("v1")).await;
    let bad = followed.push("nonsense");
    let failed = |pointer: &Pointer| pointer.quarantine.is_some();
    followed.until("it has failed", failed).await;
    let run = followed.pointer().await.quarantine.unwrap().run;
    followed.order(Order::Retry(bad.0.clone())).await;
    let again = |pointer: &Pointer| {
        pointer
            .quarantine
            .as_ref()
            .is_some_and(|bad| bad.run != run)
    };
    followed.until("it has failed once more", again).await;
    let ends = followed.ends().await;
    let failed = (tag(&bad), RunEnd::Failed);
    assert_eq!(ends[1..], [failed.clone(), failed]);
}
