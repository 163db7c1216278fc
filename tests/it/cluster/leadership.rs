//! Leaders come and go between any two transactions.

use viking::model::history::RunEnd;

use super::{Cluster, s};

const SHOP: &str = "
viking: {name: shop}
deploy:
  web: {image: web, run: v1, expose: [80], link: db}
  db: {image: db, run: v1, expose: [5432], volume: [/data]}
";

/// How a whole push looks: every transaction of a leader in it is a place to lose leadership.
async fn leader_commits_of_a_push() -> u32 {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(SHOP).await;
    let before = cluster.store.leader_commits();
    cluster.go_live(&SHOP.replace("v1", "v2")).await;
    cluster.store.leader_commits() - before
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_goes_on_after_any_transaction_of_the_old_one() {
    let commits = leader_commits_of_a_push().await;
    assert!(commits >= 6, "{commits}");
    for n in 0..commits {
        let mut cluster = Cluster::start(2).await;
        let first = cluster.go_live(SHOP).await;
        let client = cluster.client("shop", "web");
        cluster.store.depose_before(n);
        let second = cluster.go_live(&SHOP.replace("v1", "v2")).await;
        client.never_failed();
        let ends = cluster.ends("shop").await;
        let wanted = [(first, RunEnd::Live), (second, RunEnd::Live)];
        assert_eq!(ends, wanted, "deposed before transaction {n}");
        // A deposed leader's write is a violation: see `faulty`.
        assert_eq!(cluster.violations(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_goes_on_reverting_after_any_transaction_of_the_old_one() {
    for n in 0..9 {
        let mut cluster = Cluster::start(2).await;
        cluster.go_live(SHOP).await;
        let before = cluster.running("db").remove(0).id;
        cluster.store.depose_before(n);
        let bad = cluster
            .push(&SHOP.replace("image: db, run: v1", "image: db, run: crash"))
            .await;
        cluster.until_failed(&bad).await;
        assert_eq!(
            cluster.running("db").remove(0).id,
            before,
            "transaction {n}"
        );
        cluster.go_live(&SHOP.replace("v1", "v3")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn leaders_that_change_all_the_time_still_bring_releases_live() {
    let mut cluster = Cluster::start(3).await;
    cluster.go_live(SHOP).await;
    let client = cluster.client("shop", "web");
    let store = std::sync::Arc::clone(&cluster.store);
    let unrest = tokio::spawn(async move {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(1_700)).await;
            store.depose().await;
        }
    });
    for n in 2..6 {
        cluster.go_live(&SHOP.replace("v1", &format!("v{n}"))).await;
    }
    unrest.abort();
    client.never_failed();
    tokio::time::sleep(s(10)).await;
    assert_eq!(cluster.ends("shop").await.len(), 5);
}
