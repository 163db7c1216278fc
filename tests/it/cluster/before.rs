//! What runs once before a release starts (`before_release`): when it runs, how often, and what becomes
//! of a release whose job fails, whose host or leader goes, or that is given up meanwhile.

use viking::api::status::status;
use viking::docker::fake::Behaviour;
use viking::docker::{Container, label};
use viking::model::history::{ChangeKind, RunEnd};
use viking::model::job::{JobKey, JobState, StateRecord};
use viking::model::names::{HostName, NodeName, Tag};
use viking::model::world::World;
use viking::schedule::why::{Question, why};

use super::operate::again;
use super::source::Followed;
use super::{Cluster, name, s};

/// A website that brings its database up to date first.
const SHOP: &str = "
viking: {name: shop}
deploy:
  web: {image: web, run: v1, expose: [80], scale: 2, link: db, before_release: migrate v1}
  db: {image: db, run: v1, expose: [5432], volume: [/data]}
";

/// One without a database.
const SMALL: &str = "
viking: {name: shop}
deploy:
  web: {image: web, run: v1, expose: [80], before_release: migrate v1}
";

fn shop(run: &str, before: &str) -> String {
    changed(SHOP, run, before)
}

fn small(run: &str, before: &str) -> String {
    changed(SMALL, run, before)
}

fn changed(yaml: &str, run: &str, before: &str) -> String {
    yaml.replace("image: web, run: v1", &format!("image: web, run: {run}"))
        .replace("migrate v1", before)
}

fn job() -> NodeName {
    NodeName::parse("web.before").unwrap()
}

/// Where the job is placed, at which tag.
fn placed(world: &World) -> Vec<(Tag, HostName)> {
    let jobs = world.run.iter().filter(|(job, _)| job.node == self::job());
    jobs.map(|(job, host)| (job.tag.clone(), host.clone()))
        .collect()
}

/// Every container of the job that there is, running or not.
fn containers(cluster: &Cluster) -> Vec<Container> {
    let all = cluster.hosts.iter().flat_map(|host| host.engine.snapshot());
    let of = |c: &Container| c.labels.get(label::NODE).map(String::as_str) == Some("web.before");
    all.filter(of).collect()
}

/// How often the job of a stack was given a host, as events tell.
async fn placements(cluster: &Cluster) -> usize {
    let events = cluster.clear.events(Some(&name("shop"))).await.unwrap();
    let placed = events.iter().flat_map(|(_, event)| &event.placed);
    placed.filter(|start| start.job.node == job()).count()
}

async fn until_it_runs(cluster: &Cluster, tag: &Tag) -> World {
    cluster
        .until("its job runs", s(100), |world| {
            let at_tag = placed(world).iter().any(|(at, _)| at == tag);
            at_tag && cluster.running("web.before").len() == 1
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn it_runs_when_the_database_is_up_and_before_anything_else_and_is_gone_then() {
    let mut cluster = Cluster::start(1).await;
    let tag = cluster.push(SHOP).await;
    let world = until_it_runs(&cluster, &tag).await;
    assert_eq!(cluster.running("db").len(), 1);
    let db = world
        .states
        .values()
        .filter(|s| s.state == JobState::Healthy);
    assert_eq!(db.count(), 1);
    // Nothing of what waits for it was even made.
    assert_eq!(
        (cluster.calls("create"), cluster.running("web").len()),
        (2, 0)
    );
    let plan = viking::schedule::dowding::plan(&world);
    let waits: Vec<_> = plan.waiting.iter().map(|w| w.reason.as_str()).collect();
    assert_eq!(waits, ["web.before has to end first"; 2]);
    cluster.until_live(&tag).await;
    assert_eq!((cluster.calls("create"), cluster.calls("start")), (4, 4));
    assert!(containers(&cluster).is_empty());
    let pointer = &cluster.world().await.stacks[&name("shop")].pointer;
    assert!(pointer.ended.is_empty());
    let history = cluster.history("shop").await;
    let changes = history[0].plan.iter();
    let first: Vec<_> = changes.filter(|c| c.what == ChangeKind::First).collect();
    assert_eq!((first.len(), &first[0].node), (1, &job()));
}

#[tokio::test(start_paused = true)]
async fn people_are_told_what_runs_and_what_waits_for_it() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(SMALL).await;
    let tag = cluster.push(&small("v2", "long")).await;
    until_it_runs(&cluster, &tag).await;
    tokio::time::sleep(s(1)).await;
    let world = cluster.world().await;
    let told = status(&world, Some(&name("shop"))).stacks.remove(0);
    let runs = "shop/web.before starting: runs to its end before its release starts";
    assert_eq!(told.staged.unwrap().reason, runs);
    let row = told.nodes.iter().find(|row| row.node == job()).unwrap();
    assert_eq!((row.want, row.running, &row.tag), (1, 1, &tag));
    let web = NodeName::parse("web").unwrap();
    let because = |node: &NodeName| {
        let question = Question {
            stack: &name("shop"),
            node,
            slot: None,
            not: None,
        };
        let mut told = why(&world, &[], &question);
        told.retain(|one| one.role == "staged");
        (told[0].state.clone(), told[0].because.clone())
    };
    let waits = (
        "waiting".to_owned(),
        "web.before has to end first".to_owned(),
    );
    assert_eq!(because(&web), waits);
    assert_eq!(because(&job()).0, "placed");
    cluster.until_live(&tag).await;
    let events = cluster.clear.events(Some(&name("shop"))).await.unwrap();
    let ended = events.iter().filter(|(_, event)| event.what == "ended");
    let ended: Vec<_> = ended.map(|(_, event)| event.why.as_str()).collect();
    assert_eq!(ended, ["web.before ran to its end"; 2]);
}

#[tokio::test(start_paused = true)]
async fn what_it_is_made_from_is_the_nodes_without_ports_and_volumes() {
    let mut cluster = Cluster::start(1).await;
    let yaml = "
viking: {name: shop}
deploy:
  web: {image: web, run: v1, cwd: /srv, user: app, env: {A: b}, link: db, expose: [80], volume: [/cache],
        resources: {memory: 64M}, before_release: [migrate, all]}
  db: {image: db, run: v1, expose: [5432], service: true}
";
    let tag = cluster.push(yaml).await;
    until_it_runs(&cluster, &tag).await;
    let found = containers(&cluster).remove(0);
    let made = cluster.engine().made(&found.name);
    assert_eq!(made.command, Some(vec!["migrate".into(), "all".into()]));
    assert_eq!(
        (made.cwd.as_deref(), made.user.as_deref()),
        (Some("/srv"), Some("app"))
    );
    assert!(made.env.iter().any(|one| one == "A=b"));
    assert!(made.env.iter().any(|one| one == "VIKING_NODE=web.before"));
    // It was told how to reach the database.
    assert!(
        made.env
            .iter()
            .any(|one| one.starts_with("DB_PORT_5432_TCP_ADDR="))
    );
    assert_eq!(made.memory_bytes, 64 << 20);
    assert!(made.ports.is_empty() && made.mounts.is_empty() && made.aliases.is_empty());
    cluster.until_live(&tag).await;
}

#[tokio::test(start_paused = true)]
async fn a_release_that_changes_neither_the_node_nor_the_command_does_not_run_it() {
    let mut cluster = Cluster::start(2).await;
    cluster.go_live(SHOP).await;
    assert_eq!(placements(&cluster).await, 1);
    // The database, its own scale, and a commit that changes nothing.
    let db = SHOP.replace("image: db, run: v1", "image: db, run: v2");
    for yaml in [db.clone(), db.replace("scale: 2", "scale: 3"), db.clone()] {
        cluster.go_live(&yaml).await;
        assert_eq!(placements(&cluster).await, 1, "{yaml}");
    }
    // The command alone: the node runs on.
    let before = cluster.ids("web");
    cluster
        .go_live(&db.replace("migrate v1", "migrate v2"))
        .await;
    assert_eq!(
        (placements(&cluster).await, cluster.ids("web")),
        (2, before)
    );
    cluster.go_live(&shop("v2", "migrate v2")).await;
    assert_eq!(placements(&cluster).await, 3);
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_fails_its_commit_at_once_and_nothing_of_it_ever_served() {
    let mut cluster = Cluster::start(2).await;
    let first = cluster.go_live(SHOP).await;
    let (client, web) = (cluster.client("shop", "web"), cluster.ids("web"));
    let (made, started) = (cluster.calls("create"), cluster.calls("start"));
    for host in &cluster.hosts {
        host.engine.prints("bad v2", &["no such column: price"]);
    }
    let second = cluster.push(&shop("v2", "bad v2")).await;
    cluster.until_failed(&second).await;
    let gone = |_: &World| containers(&cluster).is_empty();
    cluster.until("its container is gone", s(10), gone).await;
    // Once, and nothing else was made.
    let calls = (cluster.calls("create"), cluster.calls("start"));
    assert_eq!(calls, (made + 1, started + 1));
    assert_eq!(cluster.ids("web"), web);
    client.never_failed();
    assert_eq!(client.served(), [first.to_string()]);
    let history = cluster.history("shop").await;
    let failed = history.iter().find(|run| run.tag == second).unwrap();
    assert_eq!(
        (failed.end, failed.stage.as_str()),
        (RunEnd::Failed, "before_release")
    );
    assert_eq!(failed.reason, "shop/web.before.0: exited with code 3");
    assert_eq!(failed.log, ["no such column: price"]);
    // It is quarantined: nothing more comes of it.
    tokio::time::sleep(s(600)).await;
    assert_eq!(cluster.calls("create"), made + 1);
    // The fix runs its own.
    let third = cluster.go_live(&shop("v3", "migrate v3")).await;
    assert_eq!(placements(&cluster).await, 3);
    let ends = cluster.ends("shop").await;
    assert_eq!(ends.last(), Some(&(third, RunEnd::Live)));
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_started_fails_its_commit_and_one_that_cannot_be_pulled_waits() {
    let mut cluster = Cluster::start(1).await;
    cluster.go_live(SMALL).await;
    let absent = cluster.push(&small("v2", "absent")).await;
    cluster.until_failed(&absent).await;
    cluster.registry.down(true);
    let other = small("v3", "migrate v3").replace("image: web", "image: other");
    let third = cluster.push(&other).await;
    tokio::time::sleep(s(11 * 60)).await;
    let world = cluster.world().await;
    let pointer = &world.stacks[&name("shop")].pointer;
    assert_eq!(pointer.staged.as_ref(), Some(&third), "{pointer:?}");
    cluster.registry.down(false);
    cluster.until_live(&third).await;
}

#[tokio::test(start_paused = true)]
async fn wherever_a_leader_is_lost_it_runs_once() {
    let commits = {
        let mut cluster = Cluster::start(1).await;
        cluster.go_live(SHOP).await;
        let before = cluster.store.leader_commits();
        cluster.go_live(&shop("v2", "migrate v2")).await;
        cluster.store.leader_commits() - before
    };
    assert!(commits >= 7, "{commits}");
    for n in 0..commits {
        let mut cluster = Cluster::start(2).await;
        cluster.go_live(SHOP).await;
        let client = cluster.client("shop", "web");
        let started = cluster.calls("start");
        cluster.store.depose_before(n);
        cluster.go_live(&shop("v2", "migrate v2")).await;
        client.never_failed();
        // Two websites, and what ran before them.
        assert_eq!(
            cluster.calls("start"),
            started + 3,
            "before transaction {n}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_nobody_has_seen_is_not_believed_and_it_runs_again() {
    let mut cluster = Cluster::start(1).await;
    let tag = cluster.push(SMALL).await;
    until_it_runs(&cluster, &tag).await;
    // Nobody leads, and then nobody even watches.
    cluster.stop_candidates().await;
    cluster.kill_worker(0).await;
    tokio::time::sleep(s(20)).await;
    assert_eq!(containers(&cluster)[0].exit_code, 0);
    cluster.start_worker(0);
    let told = |world: &World| world.states.values().any(StateRecord::is_done);
    cluster.until("its end is told", s(30), told).await;
    cluster.start_candidate(0);
    cluster.until_live(&tag).await;
    assert_eq!(cluster.calls("start"), 3);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_told_before_viking_was_restarted_counts() {
    let mut cluster = Cluster::start(1).await;
    let tag = cluster.push(SMALL).await;
    until_it_runs(&cluster, &tag).await;
    cluster.stop_candidates().await;
    let told = |world: &World| world.states.values().any(StateRecord::is_done);
    cluster.until("its end is told", s(30), told).await;
    cluster.kill_worker(0).await;
    cluster.start_worker(0);
    tokio::time::sleep(s(20)).await;
    cluster.start_candidate(0);
    cluster.until_live(&tag).await;
    assert_eq!(cluster.calls("start"), 2);
}

#[tokio::test(start_paused = true)]
async fn once_its_end_is_on_record_the_loss_of_its_host_brings_it_back_no_more() {
    let mut cluster = Cluster::start(3).await;
    // What comes after it takes long enough to be disturbed.
    let tag = cluster.push(&small("slow", "migrate v1")).await;
    let world = until_it_runs(&cluster, &tag).await;
    let host = placed(&world).remove(0).1;
    let recorded = |world: &World| {
        let stack = world.stacks.get(&name("shop"));
        stack.is_some_and(|stack| stack.pointer.ended.contains(&job()))
    };
    cluster.until("its end is on record", s(10), recorded).await;
    let n = cluster.hosts.iter().position(|h| h.name == host).unwrap();
    cluster.kill_worker(n).await;
    cluster.store.depose_before(0);
    let lost = |world: &World| !world.hosts.contains_key(&host);
    cluster.until("its host is lost", s(10), lost).await;
    cluster
        .until("it is live", s(60), |world| {
            world.stacks[&name("shop")].pointer.live.as_ref() == Some(&tag)
        })
        .await;
    assert_eq!(placements(&cluster).await, 1);
    cluster.start_worker(n);
    cluster.until_live(&tag).await;
    assert!(containers(&cluster).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_lost_while_it_runs_there_makes_it_run_elsewhere() {
    let mut cluster = Cluster::start(3).await;
    let tag = cluster.push(&small("v1", "long")).await;
    let world = until_it_runs(&cluster, &tag).await;
    let lost = placed(&world).remove(0).1;
    let n = cluster.hosts.iter().position(|h| h.name == lost).unwrap();
    cluster.kill_worker(n).await;
    let moved = |world: &World| placed(world).iter().any(|(_, host)| *host != lost);
    cluster.until("it is placed elsewhere", s(20), moved).await;
    assert!(cluster.running("web").is_empty());
    cluster
        .until("it is live", s(90), |world| {
            world.stacks[&name("shop")].pointer.live.as_ref() == Some(&tag)
        })
        .await;
    assert_eq!(placements(&cluster).await, 2);
    // It comes back, and drops what it has of it.
    cluster.start_worker(n);
    cluster.until_live(&tag).await;
    assert!(containers(&cluster).is_empty());
    let ends = cluster.ends("shop").await;
    assert_eq!(ends, [(tag, RunEnd::Live)]);
}

#[tokio::test(start_paused = true)]
async fn one_that_somebody_stops_or_removes_by_hand_runs_again() {
    for by_hand in ["stop", "kill", "rm"] {
        let mut cluster = Cluster::start(1).await;
        let tag = cluster.push(&small("v1", "long")).await;
        until_it_runs(&cluster, &tag).await;
        let victim = containers(&cluster).remove(0).name;
        match by_hand {
            "stop" => cluster.engine().stop_outside(&victim),
            "kill" => cluster.engine().kill(&victim),
            _ => cluster.engine().rm_f(&victim),
        }
        tokio::time::sleep(s(5)).await;
        assert_eq!(cluster.running("web.before").len(), 1, "{by_hand}");
        cluster.until_live(&tag).await;
        let ends = cluster.ends("shop").await;
        assert_eq!(ends, [(tag, RunEnd::Live)], "{by_hand}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_that_gives_way_meanwhile_leaves_nothing_and_the_next_ones_comes_after_it() {
    let mut cluster = Cluster::start(2).await;
    cluster.go_live(SMALL).await;
    // It does not end, and takes its time to be stopped.
    for host in &cluster.hosts {
        host.engine.behave("endless", Behaviour::IgnoresStop);
    }
    let second = cluster.push(&small("v2", "endless")).await;
    until_it_runs(&cluster, &second).await;
    let third = cluster.push(&small("v3", "migrate v3")).await;
    let mut together = 0;
    let of_third = |world: &World| placed(world).iter().any(|(tag, _)| *tag == third);
    for _ in 0..10_000 {
        together = together.max(cluster.running("web.before").len());
        if of_third(&cluster.world().await) {
            break;
        }
        tokio::time::sleep(super::LOOK).await;
    }
    cluster.until_live(&third).await;
    assert_eq!(together, 1, "never two hands on one database");
    assert!(containers(&cluster).is_empty());
    let ends = cluster.ends("shop").await;
    let ended: Vec<_> = ends.iter().map(|(_, end)| *end).collect();
    assert_eq!(ended, [RunEnd::Live, RunEnd::Superseded, RunEnd::Live]);
}

#[tokio::test(start_paused = true)]
async fn one_that_never_ends_fails_its_commit_after_ten_minutes() {
    let mut cluster = Cluster::start(1).await;
    cluster.hosts[0].engine.prints("endless", &["table 3 of 9"]);
    let tag = cluster.push(&small("v1", "endless")).await;
    until_it_runs(&cluster, &tag).await;
    tokio::time::sleep(s(9 * 60)).await;
    assert!(cluster.ends("shop").await.is_empty());
    cluster.until_failed(&tag).await;
    let failed = cluster.history("shop").await.remove(0);
    assert_eq!(failed.stage, "before_release");
    assert_eq!(
        failed.reason,
        "shop/web.before.0: did not end within 10 minutes"
    );
    assert_eq!(failed.log, ["table 3 of 9"], "it says how far it came");
}

#[tokio::test(start_paused = true)]
async fn of_a_node_with_data_it_runs_before_the_first_start_and_before_each_hand_over() {
    let mut cluster = Cluster::start(1).await;
    let yaml = |run: &str| {
        format!(
            "viking: {{name: shop}}\ndeploy:\n  \
             web: {{image: web, run: {run}, expose: [80], volume: [/data], before_release: long}}\n"
        )
    };
    let first = cluster.push(&yaml("v1")).await;
    until_it_runs(&cluster, &first).await;
    assert!(cluster.running("web").is_empty());
    cluster.until_live(&first).await;
    let live = cluster.ids("web");
    let second = cluster.push(&yaml("v2")).await;
    until_it_runs(&cluster, &second).await;
    tokio::time::sleep(s(20)).await;
    // The live copy serves on until the job has ended.
    assert_eq!(cluster.ids("web"), live);
    cluster.until_live(&second).await;
    assert_ne!(cluster.ids("web"), live);
}

#[tokio::test(start_paused = true)]
async fn a_drained_host_lets_it_come_to_its_end() {
    let mut cluster = Cluster::start(2).await;
    let tag = cluster.push(&small("v1", "long")).await;
    let world = until_it_runs(&cluster, &tag).await;
    let host = placed(&world).remove(0).1;
    let n = cluster.hosts.iter().position(|h| h.name == host).unwrap();
    super::hosts::set_readiness(&cluster, n, viking::model::host::Readiness::Draining).await;
    cluster.until_live(&tag).await;
    assert_eq!(placements(&cluster).await, 1);
    let web = |job: &JobKey| job.node.as_str() == "web";
    let world = cluster.world().await;
    let on = world.run.iter().find(|(job, _)| web(job)).unwrap().1;
    assert_ne!(*on, host);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_and_a_restart_do_not_run_it() {
    let followed = Followed::start().await;
    let yaml = |run: &str| small(run, &format!("migrate {run}"));
    let go_live = async |run: &str| {
        let done = Behaviour::ExitsAfter(s(1), 0);
        followed.behave(&format!("migrate {run}"), &done);
        followed.go_live(&yaml(run)).await
    };
    let first = go_live("v1").await;
    go_live("v2").await;
    assert_eq!(placements(&followed.cluster).await, 2);
    followed.roll_back(first.tag()).await;
    followed.until_settled(&again(&first, 2)).await;
    let restart = viking::schedule::order::Order::Restart(NodeName::parse("web").unwrap());
    followed.order(restart).await;
    followed.until_settled(&again(&first, 3)).await;
    assert_eq!(placements(&followed.cluster).await, 2);
    go_live("v3").await;
    assert_eq!(placements(&followed.cluster).await, 3);
}
