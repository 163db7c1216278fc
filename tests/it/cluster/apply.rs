//! `viking apply`, with the real leader and a repository: a suspended stack's newest commit comes up by its
//! plan, and only if that still holds.

use viking::leader;
use viking::model::foretold::Foretold;
use viking::model::history::RunEnd;

use super::source::{Followed, tag, web};
use super::{name, s};

/// A stack with one release live, suspended.
async fn suspended() -> (Followed, String) {
    let followed = Followed::start().await;
    let first = followed.go_live(&web("v1")).await;
    followed.suspend(Some(1)).await;
    (followed, tag(&first))
}

async fn plan(followed: &Followed) -> Foretold {
    let told = leader::foresee(&followed.parts(), &name("shop"), None).await;
    told.map_err(anyhow::Error::from).unwrap()
}

async fn until_forgotten(followed: &Followed) {
    let asked = async || followed.cluster.clear.requests().await.unwrap().len();
    while asked().await > 0 {
        tokio::time::sleep(s(1)).await;
    }
}

async fn refusals(followed: &Followed) -> Vec<String> {
    let events = followed.cluster.clear.events(Some(&name("shop"))).await;
    let refused = events.unwrap().into_iter().map(|(_, event)| event);
    let refused = refused.filter(|event| event.what == "refused");
    refused.map(|event| event.why).collect()
}

#[tokio::test(start_paused = true)]
async fn a_planned_commit_of_a_suspended_stack_goes_live_and_no_other() {
    let (followed, first) = suspended().await;
    let second = followed.push(&web("v2"));
    followed.stays(&first).await;
    let told = plan(&followed).await;
    assert_eq!(told.commit.id, second.0);
    followed.ask_about("apply", &told.digest).await;
    followed.until_live(&second).await;
    until_forgotten(&followed).await;
    followed.push(&web("v3"));
    followed.stays(second.tag()).await;
    let ends = [(first, RunEnd::Live), (tag(&second), RunEnd::Live)];
    assert_eq!(followed.ends().await, ends);
    assert_eq!(refusals(&followed).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_refused_when_a_newer_commit_has_come() {
    let (followed, first) = suspended().await;
    followed.push(&web("v2"));
    let told = plan(&followed).await;
    followed.push(&web("v3"));
    followed.ask_about("apply", &told.digest).await;
    until_forgotten(&followed).await;
    followed.stays(&first).await;
    let refused = refusals(&followed).await;
    assert!(
        refused[0].contains("is not the newest commit of shop"),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_refused_when_the_world_has_moved() {
    let (followed, first) = suspended().await;
    let second = followed.push(&web("v2"));
    let told = plan(&followed).await;
    let restart = viking::schedule::order::Order::Restart("web".parse().unwrap());
    followed.order(restart).await;
    followed.until_settled(&format!("{first}-2")).await;
    followed.ask_about("apply", &told.digest).await;
    until_forgotten(&followed).await;
    followed.stays(&format!("{first}-2")).await;
    let refused = refusals(&followed).await;
    assert!(
        refused[0].contains("the world has moved since"),
        "{refused:?}"
    );
    // Planned again, it goes.
    followed
        .ask_about("apply", &plan(&followed).await.digest)
        .await;
    followed.until_live(&second).await;
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_waits_gives_way_to_the_plan_of_its_fix() {
    let (followed, _) = suspended().await;
    followed.push(&super::source::waiting("v2"));
    let waits = plan(&followed).await;
    assert!(waits.waits_for.contains("other"), "{}", waits.waits_for);
    followed.ask_about("apply", &waits.digest).await;
    followed
        .until("it is held up", super::source::is_held_up)
        .await;
    let fixed = followed.push(&web("v3"));
    followed
        .ask_about("apply", &plan(&followed).await.digest)
        .await;
    followed.until_live(&fixed).await;
    until_forgotten(&followed).await;
    followed
        .until("nothing is built", |pointer| pointer.building.is_none())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_refused_when_the_newest_commit_cannot_be_read() {
    let (followed, first) = suspended().await;
    followed.push(&web("v2"));
    let told = plan(&followed).await;
    followed.push("nonsense");
    followed.ask_about("apply", &told.digest).await;
    until_forgotten(&followed).await;
    followed.stays(&first).await;
    assert_eq!(refusals(&followed).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_goes_on_with_a_plan_that_is_being_applied() {
    let (mut followed, _) = suspended().await;
    let second = followed.push(&web("slow"));
    let told = plan(&followed).await;
    followed.stop_leading();
    tokio::time::sleep(s(10)).await;
    followed.ask_about("apply", &told.digest).await;
    followed.lead().await;
    followed.until_live(&second).await;
    until_forgotten(&followed).await;
    assert_eq!(refusals(&followed).await, Vec::<String>::new());
}
