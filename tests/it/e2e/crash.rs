//! `kill -9` where it hurts most. After a restart the push is live, nothing that ran was restarted, the
//! old release served meanwhile, and the registry holds no tag without its manifest.

use std::collections::BTreeMap;

use super::client::Client;
use super::docker::{Container, Runs, runs};
use super::repo::{Commit, Repo};
use super::world::World;

const FILE: &str = "
viking: {name: ship}
build:
  page: |
    FROM viking/busybox:1
    ADD index.html /www/
    RUN echo built
deploy:
  web:
    image: viking:ship/page
    run: httpd -f -p 80 -h /www
    expose: [80]
    scale: 2
    health: {http: /, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}
    stop: {timeout: 1s}
  book:
    image: viking:ship/page
    run: sh -c 'date >> /data/starts; exec httpd -f -p 80 -h /www'
    expose: [80]
    volume: [/data]
    health: {http: /, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}
    stop: {timeout: 1s}
  still:
    image: viking/busybox:1
    run: sleep 1000000
    stop: {timeout: 1s}
";

/// Nodes without a copy, so many that their specs do not fit into one transaction.
const IDLE: usize = 150;

/// The file that a point needs.
fn file(point: &str) -> String {
    let idle = if point == "stage.half" { IDLE } else { 0 };
    let node = |n| format!("  idle{n}: {{image: 'viking:ship/page', run: sleep 1, scale: 0}}\n");
    FILE.to_owned() + &(0..idle).map(node).collect::<String>()
}

/// Points on the way from a commit to a release on record.
const MAKING: [&str; 6] = [
    "fetch",
    "tar",
    "build.mid",
    "build.untagged",
    "push.mid",
    "push.unrecorded",
];

/// Points on the way from there to live.
const ROLLING: [&str; 5] = ["stage.half", "start", "started", "cut", "promote"];

#[test]
fn a_crash_while_a_commit_is_made_loses_nothing() {
    crashes("crashmake", &MAKING);
}

#[test]
fn a_crash_while_a_release_comes_up_restarts_nothing() {
    crashes("crashroll", &ROLLING);
}

fn crashes(name: &str, points: &[&str]) {
    let mut world = World::started(name);
    let repo = world.repo("ship");
    let first = repo.commit(
        "Set sail",
        &[("viking.yml", FILE), ("index.html", "set sail\n")],
    );
    world.add(&repo);
    world.settled("ship", &first);
    let mut page = "set sail".to_owned();
    for point in points {
        page = crash(&mut world, &repo, point, &page);
    }
    assert!(world.stop().success(), "SIGTERM is an orderly end");
}

/// Pushes a commit that kills the host at a point; answers the page it brings.
fn crash(world: &mut World, repo: &Repo, point: &str, old: &str) -> String {
    eprintln!("{point}");
    let at_rest = world.runs("ship");
    world.kill();
    world.start_to_die_at(point);
    let client = Client::start(world, "ship", "web", "/");
    let page = format!("after {point}");
    let text = format!("{page}\n");
    let commit = repo.commit(
        &page,
        &[("viking.yml", &file(point)), ("index.html", &text)],
    );
    let ended = world.wait_for_end();
    assert!(
        !ended.success(),
        "{point}: ended with {ended} (built with --features failpoints?)"
    );
    let found = world.containers("ship");
    the_old_release_runs(point, &at_rest, &found);
    world.start();
    world.settled("ship", &commit);
    nothing_was_restarted(world, point, &found);
    one_container_for_each_job(world, point, &commit);
    world.check_registry();
    client.stop().all_of(&[old, &page]);
    page
}

/// A host that dies takes no container with it; only the hand-over of a volume may have begun.
fn the_old_release_runs(point: &str, before: &Runs, found: &[Container]) {
    let now = runs(found);
    let book: Runs = runs(found.iter().filter(|c| c.node == "book"));
    for (id, started) in before {
        let handed_over = found
            .iter()
            .any(|c| c.id == *id && c.node == "book" && !c.running);
        assert!(
            handed_over || now.get(id) == Some(started),
            "{point}: {id} of {found:?} does not run on"
        );
    }
    assert!(
        book.len() <= 1,
        "{point}: two copies on one volume: {found:?}"
    );
}

/// What ran when the host died runs still, or is gone because the new release replaced it.
fn nothing_was_restarted(world: &World, point: &str, at_death: &[Container]) {
    let now: BTreeMap<String, Container> = world
        .containers("ship")
        .into_iter()
        .map(|c| (c.id.clone(), c))
        .collect();
    for old in at_death.iter().filter(|c| c.running) {
        if let Some(new) = now.get(&old.id) {
            assert_eq!(
                new.started, old.started,
                "{point}: {} was restarted",
                old.name
            );
        }
        assert!(
            old.node != "still" || now.contains_key(&old.id),
            "{point}: {} moved",
            old.name
        );
    }
}

fn one_container_for_each_job(world: &World, point: &str, commit: &Commit) {
    let found = world.containers("ship");
    let mut jobs: Vec<String> = found
        .iter()
        .map(|c| format!("{}.{} {}", c.node, c.slot, c.running))
        .collect();
    jobs.sort();
    assert_eq!(
        jobs,
        ["book.0 true", "still.0 true", "web.0 true", "web.1 true"],
        "{point}: {found:?}"
    );
    let changed = found.iter().filter(|c| c.node != "still");
    let tags: Vec<&str> = changed.map(|c| c.tag.as_str()).collect();
    assert_eq!(tags, [commit.tag(); 3], "{point}");
}
