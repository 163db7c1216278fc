//! What a commit would do, told by the real binary, and then done: a stack whose commits wait for people.

use serde_json::Value;

use super::repo::{Commit, Repo};
use super::world::World;

fn file(run: &str, scale: u32) -> String {
    format!(
        "
viking: {{name: mill}}
build:
  base: |
    FROM viking/busybox:1
    COPY base.txt /
  mill: |
    FROM viking:mill/base
    COPY www /www
deploy:
  web:
    image: viking:mill/mill
    run: {run}
    expose: [80]
    scale: {scale}
    health: {{http: /, interval: 200ms, timeout: 1s, start_period: 2s, retries: 2}}
    stop: {{timeout: 1s}}
"
    )
}

const OPEN: &str = "httpd -f -p 80 -h /www";

fn commit(repo: &Repo, text: &str, page: &str) -> Commit {
    let files = [
        ("viking.yml", text),
        ("www/index.html", page),
        ("base.txt", "flour\n"),
    ];
    repo.commit("Grind", &files)
}

fn json(world: &World, args: &[&str]) -> (Option<i32>, Value) {
    let output = world.viking(&[args, &["-o", "json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let value = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        value.unwrap_or_else(|error| panic!("{args:?}: {error}: {said}")),
    )
}

#[test]
fn a_commit_does_what_was_planned_when_people_say_so() {
    let world = World::started("plan");
    let repo = world.repo("mill");
    let first = commit(&repo, &file(OPEN, 2), "one\n");
    world.must(&["add", repo.path(), "--poll", "1s"]);
    world.settled("mill", &first);

    eprintln!("nothing differs");
    let (code, told) = json(&world, &["plan", "--stack", "mill", "--exit-code"]);
    assert_eq!(code, Some(0), "{told:#}");
    assert_eq!(world.viking(&["diff"]).status.code(), Some(0));

    eprintln!("the folder, before it is committed");
    world.must(&["suspend", "mill"]);
    repo.write(&[("www/index.html", "two\n")]);
    let (code, folder) = json(&world, &["plan", repo.path(), "--exit-code"]);
    assert_eq!(code, Some(1), "{folder:#}");
    let (_, nothing) = json(&world, &["plan", "--stack", "mill"]);
    assert_eq!(nothing["nodes"][0]["what"], "kept", "{nothing:#}");

    eprintln!("the commit");
    let second = commit(&repo, &file(OPEN, 2), "two\n");
    let (code, told) = json(&world, &["plan", "--stack", "mill", "--exit-code"]);
    assert_eq!(code, Some(1), "{told:#}");
    assert_eq!(told["commit"]["id"], second.0);
    assert_eq!(told["tag"], second.tag());
    let images = &told["images"];
    assert_eq!(
        (&images[0]["image"], &images[0]["built"]),
        (&"base".into(), &false.into())
    );
    assert_eq!(images[1]["why"], "changed: www/index.html");
    assert_eq!(told["nodes"][0]["downtime"], "none");
    assert_eq!(
        (&told["nodes"], &told["jobs"][0]["host"]),
        (&folder["nodes"], &folder["jobs"][0]["host"])
    );
    assert_eq!(world.viking(&["diff", "mill"]).status.code(), Some(1));
    // By the beginning of its id, and by its branch.
    let by_id = json(&world, &["plan", &second.0[..8], "--stack", "mill"]).1;
    let by_branch = json(&world, &["plan", "main", "--stack", "mill"]).1;
    assert_eq!(
        (&by_id["digest"], &by_branch["digest"]),
        (&told["digest"], &told["digest"])
    );

    eprintln!("it is applied");
    let digest = told["digest"].as_str().expect("a digest").to_owned();
    world.must(&["apply", "--plan", &digest]);
    world.eventually("it is live", || {
        let status = world.status("mill")?;
        let live = status["live"]["tag"] == second.tag();
        live.then_some(()).ok_or_else(|| status.to_string())
    });
    let output = world.viking(&["apply", "--plan", &digest]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is live already"), "{said}");

    eprintln!("another plan is overtaken");
    commit(&repo, &file(OPEN, 3), "two\n");
    let (_, told) = json(&world, &["plan", "--stack", "mill"]);
    assert_eq!(told["nodes"][0]["fields"][0]["field"], "scale", "{told:#}");
    commit(&repo, &file(OPEN, 1), "two\n");
    let digest = told["digest"].as_str().expect("a digest");
    let output = world.viking(&["apply", "--plan", digest]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is not the newest commit of mill"), "{said}");
}
