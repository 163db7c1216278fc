//! Shared variables in the store: numbers that are given once, values that only a worker gets.

use super::*;
use crate::model::env::{SecretValue, VarRef};
use crate::store::copy;

fn var(name: &str) -> VarRef {
    VarRef {
        scope: "prod".parse().unwrap(),
        name: name.parse().unwrap(),
    }
}

async fn set(tables: &Tables, name: &str, text: &str) -> Result<u64> {
    let value = SecretValue::parse(text.to_owned()).unwrap();
    tables.set_variable(&var(name), &value, 5).await
}

async fn value(tables: &Tables, name: &str, version: u64) -> Option<String> {
    let at = var(name).at(version);
    let found = tables.secrets(&[at.clone()].into()).await.unwrap();
    found.get(&at).map(|value| value.expose().to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_version_is_written_once_and_its_number_never_given_again() {
    let t = tables().await;
    let l = lead(&t).await;
    assert_eq!(set(&t, "A", "one").await, Ok(1));
    assert_eq!(set(&t, "A", "one").await, Ok(2));
    assert_eq!(set(&t, "B", "").await, Ok(1));
    let listed = t.variables().await.unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|v| (v.var.to_string(), v.version, v.at_ms))
        .collect();
    assert_eq!(
        listed,
        [("prod/A".to_owned(), 2, 5), ("prod/B".to_owned(), 1, 5)]
    );
    assert!(t.unset_variable(&var("A")).await.unwrap());
    assert!(!t.unset_variable(&var("A")).await.unwrap());
    let world = t.world(0).await.unwrap();
    assert_eq!(world.env[&var("A")].current(), None);
    // A release that can be gone back to may name them.
    assert_eq!(value(&t, "A", 1).await.as_deref(), Some("one"));
    let all = [var("A").at(1), var("A").at(2)].into();
    for _ in 0..2 {
        let world = t.world(0).await.unwrap();
        t.forget_values(&l, &world.env, &all).await.unwrap();
        assert_eq!(value(&t, "A", 1).await, None);
        assert_eq!(value(&t, "A", 2).await, None);
    }
    let world = t.world(0).await.unwrap();
    assert_eq!(world.env[&var("A")].versions, [2].into());
    assert_eq!(set(&t, "A", "three").await, Ok(3));
    assert_eq!(value(&t, "A", 3).await.as_deref(), Some("three"));
    assert_eq!(value(&t, "B", 1).await.as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn two_who_set_it_at_once_get_a_version_each() {
    let t = tables().await;
    let (one, two) = tokio::join!(set(&t, "A", "one"), set(&t, "A", "two"));
    let versions: BTreeSet<u64> = [one.unwrap(), two.unwrap()].into();
    assert_eq!(versions, [1, 2].into());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_put_back_goes_on_far_above_what_it_may_have_forgotten() {
    let t = tables().await;
    set(&t, "A", "one").await.unwrap();
    let copy = copy::read(t.store(), "", 0).await.unwrap();
    // Lost with the store; containers run with it.
    set(&t, "A", "two").await.unwrap();
    set(&t, "B", "one").await.unwrap();
    let other: SharedStore = LocalStore::in_memory();
    copy::write(&other, "", &copy).await.unwrap();
    let t = Tables::open(other, "", Some(t.cluster()), t.seen())
        .await
        .unwrap();
    assert_eq!(value(&t, "A", 1).await.as_deref(), Some("one"));
    assert_eq!(set(&t, "A", "three").await, Ok(1_001));
    assert_eq!(set(&t, "A", "four").await, Ok(1_002));
    assert_eq!(set(&t, "B", "two").await, Ok(1_000));
}

#[tokio::test(start_paused = true)]
async fn a_world_has_versions_and_a_key_that_is_none_of_ours_holds_up_nobody() {
    let t = tables().await;
    set(&t, "A", "hunter2").await.unwrap();
    write(
        &t,
        vec![
            Op::put("/env/prod/A/x", "hunter2"),
            Op::put("/env/prod/A/01", "hunter2"),
            Op::put("/env/Prod/A", "hunter2"),
        ],
    )
    .await;
    let world = t.world(0).await.unwrap();
    assert_eq!(world.env.len(), 1);
    assert_eq!(world.env[&var("A")].current(), Some(1));
    assert_eq!(world.frozen.len(), 3);
    assert_eq!(world.frozen_stacks, BTreeSet::new());
    assert!(!format!("{world:?}").contains("hunter2"));
    let json = serde_json::to_string(&world).unwrap();
    assert_eq!(serde_json::from_str::<World>(&json).unwrap().env, world.env);
}

#[tokio::test(start_paused = true)]
async fn how_many_there_may_be_is_bounded() {
    let t = tables().await;
    for _ in 0..1_000 {
        set(&t, "A", "x").await.unwrap();
    }
    let why = set(&t, "A", "x").await.unwrap_err().to_string();
    let many = "1000 versions of prod/A are on record";
    assert!(why.starts_with(many), "{why}");
    for n in 0..499 {
        set(&t, &format!("N{n}"), "x").await.unwrap();
    }
    let why = set(&t, "B", "x").await.unwrap_err().to_string();
    assert!(why.starts_with("scope prod has 500 variables"), "{why}");
    assert_eq!(
        set(&t, "N1", "y").await,
        Ok(2),
        "what is there can be changed"
    );
}
