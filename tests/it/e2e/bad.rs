//! A commit becomes live whole or not at all: each kind of bad commit, in a plain node and in one with
//! a volume, under a client that never stops asking. And a newer commit always wins.

use super::client::Client;
use super::docker::{Container, runs};
use super::repo::{Commit, Repo};
use super::world::World;

/// Which node of the stack goes bad.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Volume,
}

impl Kind {
    fn volume(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Volume => "    volume: [/data]\n",
        }
    }
}

/// What a commit holds.
struct Version {
    /// The page's text.
    page: &'static str,
    /// A line of the Dockerfile.
    step: &'static str,
    /// The command.
    run: &'static str,
    /// What is asked for health.
    health: &'static str,
}

const SERVE: &str =
    "sh -c 'date >> /data/starts; echo open for trade; exec httpd -f -p 80 -h /www'";

const GOOD: Version = Version {
    page: "one",
    step: "RUN mkdir -p /data && ln -s /data /www/data",
    run: SERVE,
    health: "/",
};

fn files(kind: Kind, version: &Version) -> [(&'static str, String); 2] {
    let Version {
        page,
        step,
        run,
        health,
    } = version;
    let volume = kind.volume();
    let file = format!(
        "viking: {{name: shop}}
build:
  page: |
    FROM viking/busybox:1
    ADD index.html /www/
    {step}
deploy:
  web:
    image: viking:shop/page
    run: {run}
    expose: [80]
{volume}    health: {{http: {health}, interval: 200ms, timeout: 1s, start_period: 1s, retries: 2}}
    stop: {{timeout: 1s}}
  beside:
    image: viking/busybox:1
    run: sleep 1000000
    stop: {{timeout: 1s}}
"
    );
    [("viking.yml", file), ("index.html", format!("{page}\n"))]
}

/// A bad commit and what must be said of it.
struct Case {
    name: &'static str,
    version: Version,
    /// Spoils `viking.yml` itself.
    spoil: Option<(&'static str, &'static str)>,
    stage: &'static str,
    /// Text of the reason.
    reason: &'static str,
    /// Text of the log's last lines.
    log: &'static str,
    /// Whether the old container of a volume has to be stopped before this is found out.
    stops_the_old: bool,
}

fn cases() -> [Case; 4] {
    [
        Case {
            name: "a YAML error",
            version: Version {
                page: "yaml",
                ..GOOD
            },
            spoil: Some(("expose: [80]", "expos: [80]")),
            stage: "parse",
            reason: "expos",
            log: "expos",
            stops_the_old: false,
        },
        Case {
            name: "a failing RUN",
            version: Version {
                page: "run",
                step: "RUN echo about to sink && false",
                ..GOOD
            },
            spoil: None,
            stage: "build",
            reason: "page",
            log: "about to sink",
            stops_the_old: false,
        },
        Case {
            name: "a process that exits at once",
            version: Version {
                page: "exit",
                run: "sh -c 'echo giving up; exit 3'",
                ..GOOD
            },
            spoil: None,
            stage: "start",
            reason: "web",
            log: "giving up",
            stops_the_old: true,
        },
        Case {
            name: "a process that never becomes healthy",
            version: Version {
                page: "sick",
                health: "/nothing-here",
                ..GOOD
            },
            spoil: None,
            stage: "health",
            reason: "web",
            log: "open for trade",
            stops_the_old: true,
        },
    ]
}

#[test]
fn a_bad_commit_of_a_plain_node_never_serves_a_request() {
    bad_commits(Kind::Plain);
}

#[test]
fn a_bad_commit_of_a_volume_node_is_taken_back_with_its_data() {
    bad_commits(Kind::Volume);
}

fn bad_commits(kind: Kind) {
    let world = World::started(if kind == Kind::Plain {
        "badplain"
    } else {
        "badvolume"
    });
    let repo = world.repo("shop");
    let mut good = commit(&repo, kind, &GOOD, "Open the shop");
    world.add(&repo);
    world.settled("shop", &good);
    for case in cases() {
        good = bad_commit(&world, &repo, kind, &case, &good);
    }
    every_run_has_one_end(&world);
    world.check_registry();
}

fn commit(repo: &Repo, kind: Kind, version: &Version, subject: &str) -> Commit {
    let files = files(kind, version);
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (*path, text.as_str()))
        .collect();
    repo.commit(subject, &files)
}

fn bad_commit(world: &World, repo: &Repo, kind: Kind, case: &Case, good: &Commit) -> Commit {
    eprintln!("{}", case.name);
    let beside = runs(&world.node("shop", "beside"));
    let old = world.only("shop", "web");
    if kind == Kind::Volume {
        world
            .docker
            .run(&["exec", &old.id, "sh", "-c", "echo treasure > /data/mark"]);
    }
    let client = Client::start(world, "shop", "web", "/");
    let files = files(kind, &case.version);
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (*path, text.as_str()))
        .collect();
    repo.write(&files);
    if let Some((from, to)) = case.spoil {
        repo.edit("viking.yml", from, to);
    }
    let bad = repo.commit(case.name, &[]);
    let status = world.failed("shop", &bad);
    the_old_release_serves(world, kind, case, &old, good);
    status_says_why(world, &status, case, &bad);
    let notes = client.stop();
    if kind == Kind::Volume && case.stops_the_old {
        notes.never_other_than(&["one"]);
        assert_eq!(notes.gaps(), 1, "{}: one stop and one start", case.name);
    } else {
        notes.all("one");
    }
    assert_eq!(
        runs(&world.node("shop", "beside")),
        beside,
        "an unchanged node moved"
    );
    good_commit_follows(world, repo, kind)
}

fn the_old_release_serves(world: &World, kind: Kind, case: &Case, old: &Container, good: &Commit) {
    let now = world.only("shop", "web");
    // The same placement. While it stood still its port may have gone to another host of this
    // machine, which takes a new container.
    assert_eq!(now.name, old.name, "{}: the old placement", case.name);
    if kind == Kind::Plain || !case.stops_the_old {
        let (now, old) = ((now.id, now.started), (&old.id, &old.started));
        assert_eq!((&now.0, &now.1), old, "{}: was restarted", case.name);
    }
    let status = world.status("shop").expect("status answers");
    assert_eq!(status["live"]["commit"], good.0.as_str());
    if kind == Kind::Volume {
        let mark = world
            .page("shop", "web", "/data/mark")
            .expect("the volume is served");
        assert_eq!(mark.trim(), "treasure");
    }
}

fn status_says_why(world: &World, status: &serde_json::Value, case: &Case, bad: &Commit) {
    let staged = &status["staged"];
    assert_eq!(staged["stage"], case.stage, "{}: {staged}", case.name);
    let reason = staged["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(case.reason), "{}: {staged}", case.name);
    let log = staged["log"].as_array().cloned().unwrap_or_default();
    let has = |text: &serde_json::Value| text.as_str().is_some_and(|t| t.contains(case.log));
    assert!(log.iter().any(has), "{}: {staged}", case.name);
    assert!(log.len() <= 20, "{}: {} lines", case.name, log.len());
    assert_eq!(status["sync"], "quarantined", "{}: {status}", case.name);
    let text = world.must(&["status", "shop"]);
    for part in [bad.tag(), case.stage, case.log] {
        assert!(text.contains(part), "{}: no {part:?} in\n{text}", case.name);
    }
}

/// The next good commit goes live by itself, without `viking sync` and beside the quarantine.
fn good_commit_follows(world: &World, repo: &Repo, kind: Kind) -> Commit {
    let good = commit(repo, kind, &GOOD, "Mend it");
    world.settled("shop", &good);
    if kind == Kind::Volume {
        let mark = world
            .page("shop", "web", "/data/mark")
            .expect("the volume is served");
        assert_eq!(mark.trim(), "treasure");
    }
    good
}

fn every_run_has_one_end(world: &World) {
    let text = world.must(&["history", "shop", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let runs = list["items"].as_array().expect("a list");
    let ends: Vec<&str> = runs.iter().filter_map(|run| run["end"].as_str()).collect();
    let of = |end: &str| ends.iter().filter(|found| **found == end).count();
    assert_eq!((of("live"), of("failed"), ends.len()), (5, 4, 9), "{text}");
}

#[test]
fn a_newer_commit_overtakes_a_build_that_never_ends() {
    let world = World::started("overtake");
    let repo = world.repo("shop");
    let first = commit(&repo, Kind::Plain, &GOOD, "Open the shop");
    world.add(&repo);
    world.settled("shop", &first);
    let slow = Version {
        page: "slow",
        step: "RUN sleep 100000",
        ..GOOD
    };
    let slow = commit(&repo, Kind::Plain, &slow, "Takes its time");
    world.eventually("the slow commit is being built", || {
        let status = world.status("shop")?;
        let building = &status["staged"];
        let there = building["phase"] == "building" && building["commit"] == slow.0.as_str();
        there.then_some(()).ok_or_else(|| status.to_string())
    });
    let client = Client::start(&world, "shop", "web", "/");
    let newer = Version {
        page: "two",
        ..GOOD
    };
    let newer = commit(&repo, Kind::Plain, &newer, "Overtake");
    world.settled("shop", &newer);
    client.stop().never_other_than(&["one", "two"]);
    let text = world.must(&["history", "shop", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut runs = list["items"].as_array().into_iter().flatten();
    let run = runs
        .find(|run| run["tag"] == slow.tag())
        .unwrap_or_else(|| panic!("{text}"));
    assert_eq!(run["end"], "superseded", "{run}");
}

#[test]
fn a_build_that_prints_without_end_fails_with_its_last_lines() {
    let world = World::started("chatty");
    let repo = world.repo("shop");
    let first = commit(&repo, Kind::Plain, &GOOD, "Open the shop");
    world.add(&repo);
    world.settled("shop", &first);
    let step = "RUN yes row the boat | head -c 20000000; echo ran aground; false";
    let loud = commit(
        &repo,
        Kind::Plain,
        &Version {
            page: "loud",
            step,
            ..GOOD
        },
        "Shout",
    );
    let status = world.failed("shop", &loud);
    let log = status["staged"]["log"].to_string();
    assert!(log.contains("ran aground"), "{log}");
    assert!(log.len() < 64 * 1024, "{} bytes of log kept", log.len());
}
