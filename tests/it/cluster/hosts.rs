//! Hosts that go, come back, are drained and forgotten: what can move does, what has its data on a
//! host waits for it, and a store that pauses is not taken for the death of anybody.

use viking::docker::RunState;
use viking::model::host::{Member, Readiness};
use viking::model::names::HostName;
use viking::model::world::World;

use super::{Cluster, name, s};

const SHOP: &str = "
viking: {name: shop}
deploy:
  web: {image: web, run: v1, expose: [80], scale: 4}
  db: {image: db, run: v1, expose: [5432], volume: [/data]}
";

/// Where a host's containers of a node run, as its engine has it.
fn runs_on(cluster: &Cluster, n: usize, node: &str) -> usize {
    let snapshot = cluster.hosts[n].engine.snapshot();
    let of_node = |name: &str| name.split('.').nth(2) == Some(node);
    let running = snapshot.iter().filter(|c| c.state == RunState::Running);
    running.filter(|c| of_node(&c.name)).count()
}

fn placed_on(world: &World, host: &HostName) -> Vec<String> {
    let placed = world.assignments.keys().filter(|(_, at)| at == host);
    placed.map(|(job, _)| job.short()).collect()
}

/// The host that has the data, and one that has not.
async fn with_data_and_without(cluster: &Cluster) -> (usize, usize) {
    let world = cluster.world().await;
    let pinned = &world.fixed.values().next().unwrap().host;
    let at = cluster.hosts.iter().position(|host| host.name == *pinned);
    let at = at.unwrap();
    (at, (at + 1) % cluster.hosts.len())
}

pub(super) async fn set_readiness(cluster: &Cluster, n: usize, readiness: Readiness) {
    let host = &cluster.hosts[n].name;
    // The leader may write it as well.
    for _ in 0..5 {
        let (member, revision) = cluster.clear.members().await.unwrap().remove(host).unwrap();
        let member = Member {
            readiness,
            ..member
        };
        let put = cluster.clear.put_member(host, &member, revision).await;
        if matches!(put.unwrap(), viking::store::tables::Outcome::Done(_)) {
            return;
        }
    }
    panic!("{host} is changed all the time");
}

/// Every job of the stack works, but for these.
fn all_work_but(world: &World, but: &str) -> bool {
    let stack = &world.stacks[&name("shop")];
    let wanted = viking::schedule::wanted::wanted(&name("shop"), stack);
    let works = |job| viking::schedule::wanted::healthy(world, job);
    wanted
        .iter()
        .all(|w| works(&w.job) != (w.job.node.as_str() == but))
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_host_ran_is_started_elsewhere_and_its_data_is_waited_for() {
    let mut cluster = Cluster::start(4).await;
    let tag = cluster.go_live(SHOP).await;
    let (with_data, _) = with_data_and_without(&cluster).await;
    let lost = cluster.hosts[with_data].name.clone();
    cluster.kill_worker(with_data).await;
    let moved = |world: &World| !world.hosts.contains_key(&lost) && all_work_but(world, "db");
    cluster.until("what can move has moved", s(6), moved).await;
    let world = cluster.world().await;
    assert_eq!(placed_on(&world, &lost), ["shop/db.0"]);
    assert!(world.members[&lost].gone_ms > 0);
    // It comes back: it drops what was moved, and goes on with what was not.
    let before = cluster.hosts[with_data].engine.calls()["start"];
    cluster.start_worker(with_data);
    cluster.until_live(&tag).await;
    assert_eq!(runs_on(&cluster, with_data, "web"), 0);
    assert_eq!(runs_on(&cluster, with_data, "db"), 1);
    assert_eq!(cluster.hosts[with_data].engine.calls()["start"], before);
    assert_eq!(cluster.world().await.members[&lost].gone_ms, 0);
    assert_eq!(cluster.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_back_before_its_loss_is_believed_keeps_everything() {
    let mut cluster = Cluster::start(4).await;
    let tag = cluster.go_live(SHOP).await;
    let before = cluster.ids("web");
    // Two at once are doubted for a time to live.
    for n in [1, 2] {
        cluster.kill_worker(n).await;
    }
    let two = |world: &World| world.hosts.len() == 2;
    cluster.until("two hosts are not seen", s(6), two).await;
    for n in [1, 2] {
        cluster.start_worker(n);
    }
    cluster.until_live(&tag).await;
    tokio::time::sleep(s(10)).await;
    assert_eq!(cluster.ids("web"), before);
}

#[tokio::test(start_paused = true)]
async fn most_hosts_gone_at_once_move_nothing_until_people_forget_them() {
    let mut cluster = Cluster::start(3).await;
    cluster.go_live(SHOP).await;
    let (with_data, _) = with_data_and_without(&cluster).await;
    let others: Vec<_> = (0..3).filter(|n| *n != with_data).collect();
    for n in &others {
        cluster.kill_worker(*n).await;
    }
    let alone = |world: &World| world.hosts.len() == 1;
    cluster.until("one host is left", s(6), alone).await;
    let before = cluster.world().await.run;
    tokio::time::sleep(s(60)).await;
    assert_eq!(cluster.world().await.run, before);
    for n in others {
        cluster
            .clear
            .forget_member(&cluster.hosts[n].name)
            .await
            .unwrap();
    }
    let works = |world: &World| all_work_but(world, "");
    cluster
        .until("the last host runs everything", s(15), works)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_store_moves_nothing() {
    let mut cluster = Cluster::start(4).await;
    let tag = cluster.go_live(SHOP).await;
    let before = cluster.ids("web");
    for pause in 1..=10 {
        cluster.store.set_down(true);
        tokio::time::sleep(s(pause)).await;
        cluster.store.set_down(false);
        cluster.until_live(&tag).await;
        tokio::time::sleep(s(10)).await;
        assert_eq!(cluster.ids("web"), before, "after a pause of {pause} s");
    }
    let world = cluster.world().await;
    assert!(world.members.values().all(|member| member.gone_ms == 0));
}

#[tokio::test(start_paused = true)]
async fn a_drained_host_is_emptied_start_first_and_nobody_notices() {
    let mut cluster = Cluster::start(3).await;
    cluster
        .go_live(&SHOP.replace("web, run: v1", "web, run: slow"))
        .await;
    let (with_data, other) = with_data_and_without(&cluster).await;
    let client = cluster.client("shop", "web");
    for (n, left) in [(other, vec![]), (with_data, vec!["shop/db.0".to_owned()])] {
        set_readiness(&cluster, n, Readiness::Draining).await;
        let host = cluster.hosts[n].name.clone();
        let empty = |world: &World| placed_on(world, &host) == left && all_work_but(world, "");
        cluster
            .until("it has nothing left to give", s(60), empty)
            .await;
        tokio::time::sleep(s(5)).await;
        assert_eq!(runs_on(&cluster, n, "web"), 0);
        set_readiness(&cluster, n, Readiness::Ready).await;
    }
    client.never_failed();
    assert_eq!(cluster.running("web").len(), 4);
    assert_eq!(cluster.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_taken_back_leaves_one_copy_of_each_job() {
    let mut cluster = Cluster::start(3).await;
    let tag = cluster
        .go_live(&SHOP.replace("web, run: v1", "web, run: slow"))
        .await;
    let (_, other) = with_data_and_without(&cluster).await;
    let client = cluster.client("shop", "web");
    set_readiness(&cluster, other, Readiness::Draining).await;
    let begun = |world: &World| world.assignments.len() > world.run.len();
    cluster
        .until("a second copy is on its way", s(10), begun)
        .await;
    set_readiness(&cluster, other, Readiness::Ready).await;
    cluster.until_live(&tag).await;
    assert_eq!(cluster.running("web").len(), 4);
    client.never_failed();
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_host_that_comes_back_joins_anew() {
    let mut cluster = Cluster::start(4).await;
    let tag = cluster.go_live(SHOP).await;
    cluster.kill_worker(3).await;
    let host = cluster.hosts[3].name.clone();
    cluster
        .until("it is gone", s(6), |world| !world.hosts.contains_key(&host))
        .await;
    cluster.clear.forget_member(&host).await.unwrap();
    cluster.until_live(&tag).await;
    cluster.start_worker(3);
    let back = |world: &World| world.members.contains_key(&host) && world.hosts.len() == 4;
    cluster.until("it has joined", s(10), back).await;
    cluster.until_live(&tag).await;
    assert_eq!(cluster.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_cut_off_runs_on_and_drops_what_moved_when_it_is_back() {
    let mut cluster = Cluster::start(4).await;
    let tag = cluster.go_live(SHOP).await;
    let (with_data, other) = with_data_and_without(&cluster).await;
    for n in [with_data, other] {
        let before = runs_on(&cluster, n, "web");
        cluster.hosts[n].link.cut(true);
        let host = cluster.hosts[n].name.clone();
        let but = if n == with_data { "db" } else { "" };
        let moved = |world: &World| !world.hosts.contains_key(&host) && all_work_but(world, but);
        cluster.until("what can move has moved", s(15), moved).await;
        // It knows no better than to go on.
        assert_eq!(runs_on(&cluster, n, "web"), before);
        cluster.hosts[n].link.cut(false);
        let dropped = |_: &World| runs_on(&cluster, n, "web") == 0;
        cluster
            .until("it has dropped what moved", s(15), dropped)
            .await;
        cluster.until_live(&tag).await;
        assert_eq!(cluster.running("web").len(), 4);
        assert_eq!(cluster.running("db").len(), 1);
    }
    assert_eq!(cluster.violations(), Vec::<String>::new());
}
