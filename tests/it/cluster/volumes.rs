//! Nodes with data: handed over one slot at a time, put back when the new one fails, pinned, and
//! never without their volume.

use viking::docker::RunState;
use viking::model::history::RunEnd;
use viking::model::host::Readiness;
use viking::model::job::Seat;
use viking::model::names::{NodeName, Tag};
use viking::model::release::Phase;
use viking::model::world::{PinKey, World};
use viking::store::keys::Key;
use viking::store::{Op, Txn};

use super::{Cluster, name, s};

const DATA: &str = "
viking: {name: data}
deploy:
  db: {image: db, run: v1, expose: [5432], volume: [/data]}
  web: {image: web, run: v1, expose: [80], link: db}
";

fn db(run: &str) -> String {
    DATA.replace("image: db, run: v1", &format!("image: db, run: {run}"))
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_slot_is_handed_over_within_one_stop_and_one_start() {
    let mut cluster = Cluster::start(2).await;
    let first = cluster.go_live(DATA).await;
    let (web, client) = (cluster.ids("web"), cluster.client("data", "db"));
    let second = cluster.go_live(&db("v2")).await;
    assert_eq!(client.served(), [first.to_string(), second.to_string()]);
    assert!(client.longest_gap() < s(1), "{:?}", client.longest_gap());
    assert_eq!(cluster.ids("web"), web);
    // Two containers on one volume would be a violation.
    assert_eq!(cluster.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_slow_pull_is_over_before_the_old_copy_stops() {
    let mut cluster = Cluster::start(2).await;
    cluster.go_live(DATA).await;
    let client = cluster.client("data", "db");
    for host in &cluster.hosts {
        host.engine.latency("pull", s(30));
    }
    let pulls = cluster.calls("pull");
    let other = DATA.replace("db: {image: db, run: v1", "db: {image: other, run: v2");
    cluster.go_live(&other).await;
    assert!(
        cluster.calls("pull") > pulls,
        "the new copy's image is not here yet"
    );
    assert!(client.longest_gap() < s(1), "{:?}", client.longest_gap());
    assert_eq!(cluster.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_ends_slowly_still_ends_before_the_next_starts() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(&db("stubborn")).await;
    let client = cluster.client("data", "db");
    cluster.go_live(&db("v2")).await;
    // The default time to stop is 10 s.
    assert!(client.longest_gap() < s(11), "{:?}", client.longest_gap());
    assert_eq!(cluster.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn reverting_starts_the_very_container_that_was_kept() {
    for bad in ["crash", "absent", "never"] {
        let mut cluster = Cluster::start(1).await;
        let first = cluster.go_live(DATA).await;
        let before = cluster.running("db").remove(0);
        let client = cluster.client("data", "db");
        let failed = cluster.push(&db(bad)).await;
        cluster.until_failed(&failed).await;
        let after = cluster.running("db").remove(0);
        assert_eq!(after.id, before.id, "{bad}");
        assert_eq!(client.served(), [first.to_string()], "{bad}");
        client.last().unwrap();
        let limit = if bad == "never" { s(45) } else { s(5) };
        assert!(
            client.longest_gap() < limit,
            "{bad}: {:?}",
            client.longest_gap()
        );
        let good = cluster.go_live(&db("v2")).await;
        assert_eq!(client.last().unwrap(), [good.to_string()]);
        let ends = cluster.ends("data").await;
        assert_eq!(
            ends[1..],
            [(failed, RunEnd::Failed), (good, RunEnd::Live)],
            "{bad}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn slots_are_handed_over_one_after_the_other() {
    let mut cluster = Cluster::start(1).await;
    let two = |run: &str| db(run).replace("volume: [/data]", "volume: [/data], scale: 2");
    cluster.go_live(&two("v1")).await;
    cluster.engine().latency("start", s(1));
    let second = cluster.push(&two("slow")).await;
    let mut fewest = usize::MAX;
    while fewest > 0 {
        let world = cluster.world().await;
        if super::look::settled(&world, &second) {
            break;
        }
        fewest = fewest.min(cluster.running("db").len());
        tokio::time::sleep(super::LOOK).await;
    }
    assert_eq!(fewest, 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_in_the_second_slot_the_first_is_put_back_too() {
    let mut cluster = Cluster::start(1).await;
    let two = |run: &str| db(run).replace("volume: [/data]", "volume: [/data], scale: 2");
    cluster.go_live(&two("v1")).await;
    let before: Vec<_> = cluster.running("db").into_iter().map(|c| c.id).collect();
    let second = cluster.push(&two("slow")).await;
    let world = cluster
        .until("the second slot is cut", s(20), |world| {
            world.stacks[&name("data")].pointer.cut.len() == 2
        })
        .await;
    let bad = world
        .run
        .keys()
        .find(|job| job.tag == second && job.slot == 0);
    assert!(bad.is_some());
    cluster
        .engine()
        .behave("slow", viking::docker::fake::Behaviour::NeverHealthy);
    cluster.until_failed(&second).await;
    let after: Vec<_> = cluster.running("db").into_iter().map(|c| c.id).collect();
    assert_eq!(after, before);
}

#[tokio::test(start_paused = true)]
async fn cutting_ends_before_a_newer_commit_takes_over() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(DATA).await;
    let second = cluster.push(&db("slow")).await;
    cluster
        .until("it is cutting", s(10), |world| {
            world.stacks[&name("data")].pointer.phase == Phase::Cutting
        })
        .await;
    let third = cluster.push(&db("v3")).await;
    cluster.until_live(&third).await;
    let ends = cluster.ends("data").await;
    assert_eq!(ends[1..], [(second, RunEnd::Live), (third, RunEnd::Live)]);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_port_is_handed_over_like_a_volume() {
    let mut cluster = Cluster::start(1).await;
    let fixed =
        |run: &str| db(run).replace("expose: [5432], volume: [/data]", "expose: [\"5432:5432\"]");
    cluster.go_live(&fixed("v1")).await;
    let client = cluster.client("data", "db");
    cluster.go_live(&fixed("v2")).await;
    assert!(client.longest_gap() < s(1), "{:?}", client.longest_gap());
    let before = cluster.ids("db");
    let bad = cluster.push(&fixed("crash")).await;
    cluster.until_failed(&bad).await;
    assert_eq!(before[0].0, cluster.ids("db")[0].0);
}

#[tokio::test(start_paused = true)]
async fn a_changed_service_waits_and_is_not_restarted() {
    let mut cluster = Cluster::start(1).await;
    let yaml = |run: &str, web: &str| {
        db(run)
            .replace("volume: [/data]", "volume: [/data], service: true")
            .replace("image: web, run: v1", &format!("image: web, run: {web}"))
    };
    cluster.go_live(&yaml("v1", "v1")).await;
    let (before, client) = (cluster.ids("db"), cluster.client("data", "db"));
    for n in 2..5 {
        cluster
            .go_live(&yaml(&format!("v{n}"), &format!("v{n}")))
            .await;
    }
    assert_eq!(cluster.ids("db"), before);
    client.never_failed();
    assert_eq!(client.served(), [Tag::of_services().to_string()]);
    let world = cluster.world().await;
    let live = world.stacks[&name("data")].live().unwrap();
    let pending = live.nodes.values().find_map(|node| node.pending.clone());
    assert_eq!(pending.unwrap().settings.run.unwrap(), ["v4"]);
    // Back to what runs, nothing waits.
    cluster.go_live(&yaml("v1", "v5")).await;
    let world = cluster.world().await;
    let live = world.stacks[&name("data")].live().unwrap();
    assert!(live.nodes.values().all(|node| node.pending.is_none()));
    assert_eq!(cluster.ids("db"), before);
}

#[tokio::test(start_paused = true)]
async fn a_removed_stack_leaves_its_volumes_and_pins() {
    let mut cluster = Cluster::start(2).await;
    cluster.go_live(DATA).await;
    let before = cluster.running("db").remove(0);
    let volumes = |cluster: &Cluster| -> Vec<_> {
        cluster
            .hosts
            .iter()
            .map(|h| h.engine.volume_names())
            .collect()
    };
    let kept = volumes(&cluster);
    cluster.clear.remove_source(&name("data")).await.unwrap();
    cluster
        .until("it is gone", s(60), |world| world.stacks.is_empty())
        .await;
    let all = cluster.hosts.iter().flat_map(|h| h.engine.snapshot());
    assert_eq!(all.count(), 0);
    assert_eq!(volumes(&cluster), kept);
    let world = cluster.world().await;
    let pin = world.fixed.keys().next().unwrap();
    assert!(matches!(pin, PinKey::Seat(seat) if seat.node.as_str() == "db"));
    assert!(world.run.is_empty() && world.assignments.is_empty());
    // Back again it finds its data.
    cluster.go_live(DATA).await;
    let after = cluster.running("db").remove(0);
    assert_eq!(
        (after.mounts, after.state),
        (before.mounts, RunState::Running)
    );
    assert_eq!(volumes(&cluster), kept);
}

#[tokio::test(start_paused = true)]
async fn a_pinned_slot_never_starts_elsewhere_on_an_empty_disk() {
    let mut cluster = Cluster::start(2).await;
    cluster.go_live(DATA).await;
    let at = cluster.hosts.iter().position(|host| {
        let snapshot = host.engine.snapshot();
        snapshot.iter().any(|c| c.name.contains(".db."))
    });
    let at = at.unwrap();
    cluster.hosts[at].engine.down(true);
    cluster.kill_worker(at).await;
    tokio::time::sleep(s(30)).await;
    cluster.push(&db("v2")).await;
    tokio::time::sleep(s(60)).await;
    let other = &cluster.hosts[1 - at].engine;
    assert!(other.snapshot().iter().all(|c| !c.name.contains(".db.")));
    cluster.hosts[at].engine.down(false);
    cluster.start_worker(at);
    let tag = cluster.world().await.stacks[&name("data")]
        .pointer
        .staged
        .clone();
    cluster.until_live(&tag.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_handed_over_while_no_host_could_take_the_new_copy() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(DATA).await;
    let client = cluster.client("data", "db");
    let host = cluster.hosts[0].name.clone();
    for readiness in [Readiness::Cordoned, Readiness::Ready] {
        let (mut member, revision) = cluster.clear.members().await.unwrap()[&host].clone();
        member.readiness = readiness;
        let put = cluster.clear.put_member(&host, &member, revision);
        put.await.unwrap();
        if readiness == Readiness::Cordoned {
            cluster.push(&db("v2")).await;
            tokio::time::sleep(s(120)).await;
            client.never_failed();
        }
    }
    let staged = cluster.world().await.stacks[&name("data")]
        .pointer
        .staged
        .clone();
    cluster.until_live(&staged.unwrap()).await;
    assert!(client.longest_gap() < s(1), "{:?}", client.longest_gap());
}

/// As when an older copy of the store was put back: the job, where it was and its pin are on record no longer.
#[tokio::test(start_paused = true)]
async fn data_is_found_again_when_its_pin_is_lost() {
    let mut cluster = Cluster::start(3).await;
    cluster.go_live(DATA).await;
    let seat = PinKey::Seat(Seat {
        stack: name("data"),
        node: NodeName::parse("db").unwrap(),
        slot: 0,
    });
    let world = cluster.world().await;
    let home = world.fixed[&seat].host.clone();
    let said = |world: &World| world.hosts[&home].volumes == Some(vec![seat.clone()]);
    cluster
        .until("its host says what it has", s(60), said)
        .await;

    let keys = cluster.clear.keys();
    let (job, placed) = (world.run.keys(), world.assignments.keys());
    let job = job.filter(|job| job.node.as_str() == "db");
    let placed = placed.filter(|(job, _)| job.node.as_str() == "db");
    let gone = job.map(|job| Key::Run(job.clone()));
    let gone = gone.chain(placed.map(|(job, host)| Key::Deploy(host.clone(), job.clone())));
    let gone = gone.chain([Key::Fixed(seat.clone())]);
    let ops = gone.map(|key| Op::delete(keys.text(&key))).collect();
    let compares = Vec::new();
    let txn = Txn { compares, ops };
    cluster.clear.store().commit(txn).await.unwrap();

    let pinned = |world: &World| world.fixed.contains_key(&seat);
    let world = cluster.until("it is pinned again", s(60), pinned).await;
    assert_eq!(world.fixed[&seat].host, home);
    assert_eq!(cluster.violations(), Vec::<String>::new());
}
