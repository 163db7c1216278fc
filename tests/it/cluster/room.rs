//! What has no room beside its live copy: handed over, and back when it fails.

use super::{Cluster, name, s};

/// More than half of what the fake engine says it has.
const BIG: &str = "10G";

fn web(run: &str, memory: &str) -> String {
    format!(
        "viking: {{name: shop}}\ndeploy:\n  \
         web: {{image: web, run: {run}, expose: [80], resources: {{memory: {memory}}}}}\n"
    )
}

#[tokio::test(start_paused = true)]
async fn a_node_without_room_beside_its_live_copy_is_handed_over() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.go_live(&web("v1", BIG)).await;
    let before = cluster.running("web").remove(0);
    let client = cluster.client("shop", "web");
    // What is no good is taken back to the very container that was kept.
    let bad = cluster.push(&web("crash", BIG)).await;
    cluster.until_failed(&bad).await;
    assert_eq!(cluster.running("web").remove(0).id, before.id);
    assert_eq!(client.served(), [first.to_string()]);
    let second = cluster.go_live(&web("v2", BIG)).await;
    assert_eq!(client.served(), [first.to_string(), second.to_string()]);
    assert!(client.longest_gap() < s(5), "{:?}", client.longest_gap());
    let world = cluster.world().await;
    let live = world.stacks[&name("shop")].live().unwrap();
    assert!(live.nodes.values().all(|node| node.squeezed));
}

#[tokio::test(start_paused = true)]
async fn a_smaller_release_starts_beside_one_that_was_handed_over() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(&web("v1", BIG)).await;
    cluster.go_live(&web("v2", BIG)).await;
    let client = cluster.client("shop", "web");
    cluster.go_live(&web("v3", "16M")).await;
    client.never_failed();
}

#[tokio::test(start_paused = true)]
async fn what_runs_before_a_release_needs_no_room_beside_what_is_live() {
    let mut cluster = Cluster::start(1).await;
    let with = |run: &str| web(run, BIG).replace("expose", "before_release: migrate, expose");
    cluster.go_live(&with("v1")).await;
    cluster.go_live(&with("v2")).await;
}
