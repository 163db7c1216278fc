//! Stacks that require others (`require`), with the real leader and a repository each.

use viking::api::status::status;
use viking::model::history::RunEnd;
use viking::model::names::Tag;
use viking::model::release::{Phase, Pointer, Source};
use viking::model::world::World;

use super::operate::again;
use super::source::{Followed, tag};
use super::{name, s};
use crate::e2e::repo::Repo;

fn stack(name: &str, require: &str, run: &str) -> String {
    format!(
        "viking: {{name: {name}, require: {require}}}\n\
         deploy:\n  web: {{image: web, run: {run}, expose: [80]}}\n"
    )
}

/// A second repository, which is followed as this stack.
async fn follow(followed: &Followed, repo: &Repo, stack: &str) {
    let source = Source {
        v: 1,
        url: repo.path().to_owned(),
        branch: None,
        path: String::new(),
        poll_ms: 2_000,
        suspended_ms: None,
    };
    let clear = &followed.cluster.clear;
    clear.put_source(&name(stack), &source, 0).await.unwrap();
}

fn pointer_of<'a>(world: &'a World, stack: &str) -> Option<&'a Pointer> {
    world.stacks.get(&name(stack)).map(|stack| &stack.pointer)
}

fn waits(pointer: &Pointer) -> bool {
    let building = pointer.building.as_ref();
    building.is_some_and(|b| b.reason == "waits for stack base, which is not live")
}

#[tokio::test(start_paused = true)]
async fn a_commit_waits_as_long_as_it_takes_until_what_it_requires_is_live() {
    let mut followed = Followed::start().await;
    let commit = followed.push(&stack("shop", "[base]", "v1"));
    followed.add().await;
    followed.until("it waits", waits).await;
    // Far longer than a release may take; another leader goes on with it.
    tokio::time::sleep(s(1_500)).await;
    followed.lead().await;
    tokio::time::sleep(s(1_500)).await;
    followed.until("it waits still", waits).await;
    assert!(followed.ends().await.is_empty());
    assert!(followed.cluster.running("web").is_empty());
    let told = status(&followed.cluster.world().await, Some(&name("shop")));
    let staged = told.stacks[0].staged.as_ref().unwrap();
    assert_eq!(staged.phase, Phase::Building);
    assert_eq!(staged.reason, "waits for stack base, which is not live");
    let dir = tempfile::tempdir().unwrap();
    let base = Repo::new(dir.path().join("base"));
    base.commit("base", &[("viking.yml", &stack("base", "[]", "v1"))]);
    follow(&followed, &base, "base").await;
    followed.until_live(&commit).await;
    let live = followed.live().await;
    assert_eq!(live.require, [name("base")].into());
    let ends = followed.ends().await;
    assert_eq!(ends, [(tag(&commit), RunEnd::Live)]);
    // What is live goes on, whatever becomes of the other; so does going back.
    let second = followed.go_live(&stack("shop", "[base]", "v2")).await;
    followed
        .cluster
        .clear
        .remove_source(&name("base"))
        .await
        .unwrap();
    let removed = |world: &World| !world.stacks.contains_key(&name("base"));
    followed.cluster.until("base is gone", s(60), removed).await;
    followed.roll_back(commit.tag()).await;
    followed.until_settled(&again(&commit, 2)).await;
    assert_ne!(again(&commit, 2), second.tag());
}

#[tokio::test(start_paused = true)]
async fn stacks_that_would_wait_for_each_other_are_told_so() {
    let followed = Followed::start().await;
    followed.push(&stack("shop", "base", "v1"));
    followed.add().await;
    followed.until("it waits", waits).await;
    let dir = tempfile::tempdir().unwrap();
    let base = Repo::new(dir.path().join("base"));
    let bad = base.commit("base", &[("viking.yml", &stack("base", "shop", "v1"))]);
    follow(&followed, &base, "base").await;
    let failed = |world: &World| {
        let pointer = pointer_of(world, "base");
        let bad = pointer.and_then(|pointer| pointer.quarantine.as_ref());
        bad.is_some_and(|bad| bad.stage == "stage")
    };
    let world = followed
        .cluster
        .until("it has failed", s(400), failed)
        .await;
    let pointer = pointer_of(&world, "base").unwrap();
    let quarantine = pointer.quarantine.as_ref().unwrap();
    assert_eq!(quarantine.tag, Tag::parse(bad.tag()).unwrap());
    assert_eq!(
        quarantine.reason,
        "stacks require each other in a circle: base → shop → base"
    );
    followed.until("the first waits on", waits).await;
    // The fix of one brings both.
    base.commit("fixed", &[("viking.yml", &stack("base", "[]", "v2"))]);
    let live = |pointer: &Pointer| pointer.live.is_some();
    followed.until("it is live", live).await;
}
