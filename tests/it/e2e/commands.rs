//! The command line as scripts use it: exit codes, last lines, versioned JSON.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};

use serde_json::Value;

use super::repo::{Commit, Repo};
use super::world::World;

fn file(run: &str) -> String {
    format!(
        "
viking: {{name: inn}}
build:
  inn: |
    FROM viking/busybox:1
    ADD index.html /www/
deploy:
  web:
    image: viking:inn/inn
    run: {run}
    expose: [80]
    scale: 2
    health: {{http: /, interval: 200ms, timeout: 1s, start_period: 2s, retries: 2}}
    stop: {{timeout: 1s}}
"
    )
}

const OPEN: &str = "sh -c 'echo come in; while true; do echo still open; sleep 1; done & exec httpd -f -p 80 -h /www'";

fn inn(repo: &Repo, run: &str) -> Commit {
    repo.commit(
        "Open the inn",
        &[("viking.yml", &file(run)), ("index.html", "welcome\n")],
    )
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stderr.as_slice(), &output.stdout].concat()).into_owned()
}

fn up_once(world: &World, repo: &Repo) -> Output {
    let mut command = world.command(&[
        "up",
        repo.path(),
        "--once",
        "--timeout",
        "2m",
        "--poll",
        "1s",
    ]);
    command
        .args(world.host_flags())
        .output()
        .expect("the binary runs")
}

fn ends_live(output: &Output, commit: &Commit) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let form = format!(r"(?m)^live at {}: 2 jobs on 1 hosts?\b", commit.tag());
    assert!(
        regex::Regex::new(&form).expect("a pattern").is_match(&said),
        "{said}"
    );
    let endpoint = regex::Regex::new(r"127\.0\.0\.1:[0-9]+").expect("a pattern");
    let after = said.split("live at").nth(1).unwrap_or_default();
    assert!(
        endpoint.find_iter(after).count() >= 2,
        "two endpoints follow: {said}"
    );
}

#[test]
fn up_once_ends_as_the_commit_does() {
    let mut world = World::new("up");
    let repo = world.repo("inn");

    eprintln!("with a host of its own");
    let commit = inn(&repo, OPEN);
    ends_live(&up_once(&world, &repo), &commit);
    let before = world.runs("inn");
    assert_eq!(
        before.len(),
        2,
        "containers keep running when the command has ended"
    );

    eprintln!("a bad commit");
    let bad = inn(&repo, "sh -c 'echo closed for good; exit 7'");
    let output = up_once(&world, &repo);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [bad.tag(), "start", "closed for good"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert_eq!(world.runs("inn"), before, "a bad commit moved containers");

    eprintln!("with the host that answers");
    world.start();
    let commit = repo.commit(
        "Open again",
        &[
            ("viking.yml", &file(OPEN)),
            ("index.html", "welcome back\n"),
        ],
    );
    ends_live(&up_once(&world, &repo), &commit);
    world.settled("inn", &commit);

    eprintln!("again, with nothing to do");
    let before = world.runs("inn");
    ends_live(&up_once(&world, &repo), &commit);
    assert_eq!(world.runs("inn"), before);
}

#[test]
fn commands_answer_people_and_programs() {
    let mut world = World::started("cli");
    let repo = world.repo("inn");
    let commit = inn(&repo, OPEN);
    let said = world.must(&["add", repo.path(), "--poll", "1s"]);
    assert!(said.contains("inn"), "{said}");
    world.settled("inn", &commit);
    lists(&world, &commit);
    logs(&world);
    exit_codes(&mut world, &repo);
}

fn json(world: &World, args: &[&str]) -> Value {
    let text = world.must(&[args, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
}

fn lists(world: &World, commit: &Commit) {
    let wanted: [(&[&str], &str, &str); 6] = [
        (&["status"], "viking.status/v1", "inn"),
        (&["stacks"], "viking.stacks/v1", "inn"),
        (&["hosts"], "viking.hosts/v1", "host-cli"),
        (&["images"], "viking.images/v1", "inn/inn"),
        (&["events", "inn"], "viking.events/v1", commit.tag()),
        (&["history", "inn"], "viking.history/v1", commit.tag()),
    ];
    for (args, schema, names) in wanted {
        let value = json(world, args);
        assert_eq!(value["schema"], schema, "{args:?}");
        assert!(value.to_string().contains(names), "{args:?}: {value}");
        let people = world.must(args);
        assert!(
            !people.contains('\u{1b}'),
            "no colour without a terminal: {people:?}"
        );
    }
    for path in [
        "ping",
        "info",
        "network",
        "server/host-cli",
        "stacks",
        "stack/inn",
        "tags/inn",
    ] {
        let answer = world.get(&format!("/v1/{path}"));
        assert!(answer.is_ok(), "{path}: {answer:?}");
    }
    let nodes = world
        .get(&format!("/v1/nodes/inn/{}", commit.tag()))
        .expect("nodes of a tag");
    assert!(nodes.to_string().contains("web"), "{nodes}");
    let place = world
        .get(&format!("/v1/allocate/inn/{}/web", commit.tag()))
        .expect("where it runs");
    assert!(place.to_string().contains("host-cli"), "{place}");
}

fn logs(world: &World) {
    let once = world.must(&["logs", "inn/web.0"]);
    assert!(once.contains("come in"), "{once}");
    let mut follow = world
        .command(&["logs", "inn/web", "-f", "-n", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let lines = BufReader::new(follow.stdout.take().expect("piped")).lines();
    let news = lines
        .map_while(Result::ok)
        .filter(|line| line.contains("still open"))
        .take(3)
        .count();
    follow.kill().expect("it still follows");
    follow.wait().expect("it is gone");
    assert_eq!(news, 3);
}

fn code(world: &World, args: &[&str]) -> Option<i32> {
    world.viking(args).status.code()
}

fn exit_codes(world: &mut World, repo: &Repo) {
    assert_eq!(code(world, &["status", "--exit-code"]), Some(0));
    assert_eq!(code(world, &["frobnicate"]), Some(64));
    assert_eq!(code(world, &["status", "--nonsense"]), Some(64));
    assert_ne!(code(world, &["logs", "nobody/nothing"]), Some(0));
    let bad = inn(repo, "sh -c 'exit 7'");
    world.failed("inn", &bad);
    assert_eq!(
        code(world, &["status", "--exit-code"]),
        Some(1),
        "quarantined, and healthy"
    );
    world.stop();
    assert_eq!(
        code(world, &["status", "--exit-code"]),
        Some(2),
        "nobody answers"
    );
}
