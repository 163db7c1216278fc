//! The registry's two copies, under the product's own leader: a second one where there is a second
//! host, releases that wait until both have them, and hosts with a copy that go and come back.

use std::collections::BTreeSet;

use viking::docker::RunState;
use viking::model::job::JobId;
use viking::model::names::StackName;
use viking::model::trash::Manifest;
use viking::model::world::World;
use viking::schedule::replicate;

use super::source::Followed;
use super::{Cluster, s};

/// A stack with an image of its own; another text is another image.
pub(super) fn built(n: u32) -> String {
    format!(
        "viking: {{name: shop}}\nbuild:\n  app: |\n    FROM web\n    ENV N={n}\ndeploy:\n  \
         web: {{image: \"viking:shop/app\", run: v{n}, expose: [80]}}\n"
    )
}

/// Each copy that runs: the host and the container's id.
fn running(cluster: &Cluster) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (n, host) in cluster.hosts.iter().enumerate() {
        let all = host.engine.snapshot().into_iter();
        let copies = all.filter(|c| c.state == RunState::Running && c.name.starts_with("core."));
        found.extend(copies.map(|c| (n, c.id)));
    }
    found
}

/// The manifests of the live release are in this many copies.
fn live_images_are_in(followed: &Followed, world: &World, copies: usize) -> bool {
    let Some(live) = world.stacks[&super::name("shop")].live() else {
        return false;
    };
    let held = followed.copies.held();
    let working = replicate::copies(world).healthy;
    let held: Vec<_> = held
        .iter()
        .filter(|(c, _)| working.contains_key(c))
        .collect();
    let holders = |manifest: &Manifest| held.iter().filter(|(_, m)| m == manifest).count();
    let images = replicate::of_made(&live.tag, &live.images, &live.external);
    !images.is_empty() && images.keys().all(|m| holders(m) == copies)
}

/// The job ids of the copies that work.
async fn healthy(cluster: &Cluster) -> Vec<JobId> {
    let seen = replicate::copies(&cluster.world().await);
    seen.healthy.into_keys().collect()
}

async fn whole(cluster: &Cluster) -> BTreeSet<JobId> {
    let host = &cluster.hosts[0].name;
    cluster.clear.routes(host).await.unwrap().whole
}

async fn until_copies(cluster: &Cluster, number: usize) {
    let what = format!("{number} copies work");
    let work = |world: &World| replicate::copies(world).healthy.len() == number;
    cluster.until(&what, s(60), work).await;
}

async fn until_whole(followed: &Followed, number: usize) {
    for _ in 0..600 {
        if whole(&followed.cluster).await.len() == number {
            return;
        }
        tokio::time::sleep(s(1)).await;
    }
    panic!(
        "never {number} whole copies: {:?}",
        whole(&followed.cluster).await
    );
}

#[tokio::test(start_paused = true)]
async fn a_second_host_gets_a_second_copy_and_the_first_is_not_touched() {
    let mut followed = Followed::start_on(1).await;
    let first = followed.push(&built(1));
    followed.add().await;
    followed.until_live(&first).await;
    let before = running(&followed.cluster);
    assert_eq!(before.len(), 1);
    followed.cluster.add_host(1, None).await;
    followed.cluster.start_worker(1);
    until_copies(&followed.cluster, 2).await;
    let after = running(&followed.cluster);
    assert_eq!((after.len(), &after[0], after[1].0), (2, &before[0], 1));
    // It began empty: what is on record is brought to it, the registry's own image too.
    until_whole(&followed, 2).await;
    let world = followed.cluster.world().await;
    assert!(live_images_are_in(&followed, &world, 2));
    let own = world.stacks[&StackName::core()].live().unwrap();
    let own = replicate::of_made(&own.tag, &own.images, &own.external);
    assert_eq!(own.len(), 1);
    let held = followed.copies.held();
    assert_eq!(held.iter().filter(|(_, m)| own.contains_key(m)).count(), 2);
    // A third one changes nothing.
    followed.cluster.add_host(2, None).await;
    followed.cluster.start_worker(2);
    tokio::time::sleep(s(700)).await;
    assert_eq!(running(&followed.cluster), after);
}

#[tokio::test(start_paused = true)]
async fn a_release_is_written_down_when_every_copy_has_it() {
    let followed = Followed::start_on(2).await;
    followed.add().await;
    until_copies(&followed.cluster, 2).await;
    for n in 1..4 {
        let commit = followed.push(&built(n));
        let tag = viking::model::names::Tag::parse(commit.tag()).unwrap();
        let staged = |world: &World| {
            let stack = world.stacks.get(&super::name("shop"));
            stack.is_some_and(|stack| stack.releases.contains_key(&tag))
        };
        followed.cluster.until("it is staged", s(60), staged).await;
        let world = followed.cluster.world().await;
        let release = &world.stacks[&super::name("shop")].releases[&tag];
        let held = followed.copies.held();
        for manifest in replicate::of_made(&tag, &release.images, &release.external).keys() {
            assert_eq!(held.iter().filter(|(_, m)| m == manifest).count(), 2);
        }
        followed.until_live(&commit).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_lost_delays_nothing_and_is_filled_when_it_is_back() {
    let mut followed = Followed::start_on(2).await;
    let first = followed.push(&built(1));
    followed.add().await;
    followed.until_live(&first).await;
    until_copies(&followed.cluster, 2).await;
    until_whole(&followed, 2).await;
    let before = running(&followed.cluster);
    followed.cluster.kill_worker(1).await;
    until_copies(&followed.cluster, 1).await;
    until_whole(&followed, 1).await;
    let second = followed.push(&built(2));
    followed.until_live(&second).await;
    let world = followed.cluster.world().await;
    assert!(live_images_are_in(&followed, &world, 1));
    // It stays where its data is.
    let seen = replicate::copies(&world);
    assert_eq!((seen.healthy.len(), seen.down.len()), (1, 1));
    followed.cluster.start_worker(1);
    until_copies(&followed.cluster, 2).await;
    until_whole(&followed, 2).await;
    let world = followed.cluster.world().await;
    assert!(live_images_are_in(&followed, &world, 2));
    assert_eq!(running(&followed.cluster), before);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_takes_nothing_delays_a_release_only_a_little() {
    let followed = Followed::start_on(2).await;
    followed.add().await;
    until_copies(&followed.cluster, 2).await;
    let first = followed.push(&built(1));
    followed.until_live(&first).await;
    until_whole(&followed, 2).await;
    let copies = healthy(&followed.cluster).await;
    let front = &followed.copies.held().first().unwrap().0.clone();
    followed.copies.front(front);
    let other = copies.iter().find(|copy| *copy != front).unwrap();
    followed.copies.full(other, true);
    let second = followed.push(&built(2));
    followed.until_live(&second).await;
    let world = followed.cluster.world().await;
    assert!(live_images_are_in(&followed, &world, 1));
    until_whole(&followed, 1).await;
    assert_eq!(whole(&followed.cluster).await, [front.clone()].into());
    followed.copies.full(other, false);
    until_whole(&followed, 2).await;
    let world = followed.cluster.world().await;
    assert!(live_images_are_in(&followed, &world, 2));
}

#[tokio::test(start_paused = true)]
async fn both_copies_lost_stop_nothing_and_what_is_pushed_waits() {
    let mut followed = Followed::start_on(2).await;
    let first = followed.push(&built(1));
    followed.add().await;
    followed.until_live(&first).await;
    until_copies(&followed.cluster, 2).await;
    let before = (running(&followed.cluster), followed.cluster.ids("web"));
    for n in [0, 1] {
        followed.cluster.kill_worker(n).await;
    }
    followed.cluster.registry.down(true);
    until_copies(&followed.cluster, 0).await;
    let second = followed.push(&built(2));
    let held_up = |pointer: &viking::model::release::Pointer| {
        let building = pointer.building.as_ref();
        building.is_some_and(|building| building.reason.contains("registry"))
    };
    followed.until("it is held up", held_up).await;
    let now = (running(&followed.cluster), followed.cluster.ids("web"));
    assert_eq!(now, before);
    followed.cluster.registry.down(false);
    for n in [0, 1] {
        followed.cluster.start_worker(n);
    }
    followed.until_live(&second).await;
    assert_eq!(running(&followed.cluster), before.0);
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_host_is_forgotten_starts_anew_elsewhere_and_is_filled() {
    let mut followed = Followed::start_on(3).await;
    let first = followed.push(&built(1));
    followed.add().await;
    followed.until_live(&first).await;
    until_copies(&followed.cluster, 2).await;
    until_whole(&followed, 2).await;
    let copies = running(&followed.cluster);
    // The first copy is where the leader was: its image is known to be there.
    let (lost, _) = copies.iter().find(|(n, _)| *n != 0).unwrap();
    followed.cluster.kill_worker(*lost).await;
    until_copies(&followed.cluster, 1).await;
    tokio::time::sleep(s(60)).await;
    assert_eq!(healthy(&followed.cluster).await.len(), 1);
    let name = followed.cluster.hosts[*lost].name.clone();
    followed.cluster.clear.forget_member(&name).await.unwrap();
    until_copies(&followed.cluster, 2).await;
    until_whole(&followed, 2).await;
    let world = followed.cluster.world().await;
    assert!(world.run.values().all(|host| *host != name));
    assert!(live_images_are_in(&followed, &world, 2));
}
