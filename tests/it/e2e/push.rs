//! Only what changed moves: pushes to `examples/ragnar`, counted in build calls, container ids and
//! start times.

use std::path::Path;

use serde_json::Value;

use super::docker::{Runs, runs};
use super::http::fetch;
use super::repo::Repo;
use super::world::World;

/// Pushes through which data must live.
const PUSHES: usize = 10;

fn ragnar(world: &World) -> Repo {
    let repo = world.repo("ragnar");
    repo.copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ragnar"));
    repo
}

fn without(world: &World, node: &str) -> Runs {
    runs(
        world
            .containers("ragnar")
            .iter()
            .filter(|container| container.node != node),
    )
}

fn redis(world: &World, words: &[&str]) -> String {
    let id = world.only("ragnar", "redis").id;
    world
        .docker
        .run(&[&["exec", &id, "redis-cli"], words].concat())
}

fn tags(status: &Value, node: &str) -> Vec<String> {
    let rows = status["nodes"].as_array().into_iter().flatten();
    let rows = rows.filter(|row| row["node"] == node);
    rows.map(|row| row["tag"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn a_push_moves_only_what_it_changes() {
    let world = World::started("push");
    let repo = ragnar(&world);
    let first = repo.commit("Ragnar sets sail", &[]);
    world.add(&repo);
    world.settled("ragnar", &first);

    readme_moves_nothing(&world, &repo);
    scale_restarts_nobody(&world, &repo);
    website_alone_restarts(&world, &repo);
    data_outlives_pushes(&world, &repo);
    a_service_waits_with_its_changed_spec(&world, &repo);
    world.check_registry();
}

fn readme_moves_nothing(world: &World, repo: &Repo) {
    let (builds, before) = (world.builds(), world.runs("ragnar"));
    world.push(
        "ragnar",
        repo,
        "Tell more",
        &[("README.md", "# ragnar\n\nMore words.\n")],
    );
    assert_eq!(world.builds() - builds, 0, "build calls for a README");
    assert_eq!(world.runs("ragnar"), before, "a README moved containers");
}

fn scale_restarts_nobody(world: &World, repo: &Repo) {
    let (builds, before) = (world.builds(), world.runs("ragnar"));
    repo.edit("viking.yml", "scale: 2", "scale: 3");
    world.push("ragnar", repo, "A third ship", &[]);
    assert_eq!(world.builds() - builds, 0, "build calls for a scale");
    let after = world.runs("ragnar");
    assert_eq!(after.len(), before.len() + 1, "one copy more");
    let kept: Runs = after
        .into_iter()
        .filter(|(id, _)| before.contains_key(id))
        .collect();
    assert_eq!(kept, before, "a scale restarted containers");

    repo.edit("viking.yml", "scale: 3", "scale: 2");
    world.push("ragnar", repo, "Two are enough", &[]);
    assert_eq!(world.builds() - builds, 0, "build calls for a scale");
    assert_eq!(
        world.runs("ragnar"),
        before,
        "the third goes and nobody else"
    );
}

fn website_alone_restarts(world: &World, repo: &Repo) {
    let (builds, others) = (world.builds(), without(world, "website"));
    let old: Vec<String> = world
        .node("ragnar", "website")
        .into_iter()
        .map(|c| c.id)
        .collect();
    repo.edit("website/page.html", "has landed", "is back");
    let commit = repo.commit("Better words", &[]);
    world.must(&["sync", "ragnar"]);
    status_shows_both_tags(world, commit.tag());
    world.settled("ragnar", &commit);
    assert_eq!(world.builds() - builds, 1, "one image changed");
    assert_eq!(
        without(world, "website"),
        others,
        "only the website may restart"
    );
    let new = world.node("ragnar", "website");
    assert!(
        new.iter()
            .all(|c| !old.contains(&c.id) && c.tag == commit.tag()),
        "{new:?}"
    );
    let page = world
        .page("ragnar", "website", "/")
        .expect("the page is served");
    assert!(page.contains("is back"), "{page}");

    let status: Value = serde_json::from_str(&world.must(&["status", "-o", "json"])).expect("JSON");
    assert_eq!(status["schema"], "viking.status/v1");
    let stacks = status["stacks"].as_array().expect("stacks");
    let ragnar = stacks
        .iter()
        .find(|stack| stack["stack"] == "ragnar")
        .expect("ragnar");
    assert_eq!(tags(ragnar, "website"), [commit.tag()]);
    assert_ne!(
        tags(ragnar, "db"),
        tags(ragnar, "website"),
        "an unchanged node keeps its tag"
    );
}

fn status_shows_both_tags(world: &World, new: &str) {
    world.eventually("status shows the website at both tags", || {
        let status = world.status("ragnar")?;
        let seen = tags(&status, "website");
        let both = seen.len() == 2 && seen.iter().any(|tag| tag == new);
        both.then_some(()).ok_or_else(|| status.to_string())
    });
}

fn data_outlives_pushes(world: &World, repo: &Repo) {
    redis(world, &["SET", "e2e:mark", "kept"]);
    let db = format!("http://{}/", world.endpoints("ragnar", "db")[0]);
    let answer = ureq::post(&db).send("a line of the first day");
    assert!(answer.is_ok(), "{answer:?}");
    let service = runs(&world.node("ragnar", "redis"));
    for n in 0..PUSHES {
        // Every second push hands over the volume as well.
        if n % 2 == 1 {
            repo.write(&[("db/round.js", &format!("// {n}\n"))]);
            repo.write(&[("db/Dockerfile", &dockerfile(n))]);
        }
        let page = format!("<p>{{{{visits}}}} push {n}</p>\n");
        world.push(
            "ragnar",
            repo,
            &format!("Push {n}"),
            &[("website/page.html", &page)],
        );
    }
    assert_eq!(
        runs(&world.node("ragnar", "redis")),
        service,
        "a push restarted a service"
    );
    assert_eq!(redis(world, &["GET", "e2e:mark"]), "kept");
    let end = world.endpoints("ragnar", "db");
    let book = fetch(&format!("http://{}/", end[0])).expect("the book is open");
    assert!(book.contains("a line of the first day"), "{book}");
}

fn dockerfile(n: usize) -> String {
    format!("FROM viking:ragnar/base\nADD index.js round.js /srv/db/\nENV ROUND={n}\n")
}

fn a_service_waits_with_its_changed_spec(world: &World, repo: &Repo) {
    let service = runs(&world.node("ragnar", "redis"));
    repo.edit(
        "viking.yml",
        "--appendonly yes",
        "--appendonly yes --loglevel verbose",
    );
    world.push("ragnar", repo, "Louder redis", &[]);
    assert_eq!(
        runs(&world.node("ragnar", "redis")),
        service,
        "a push restarted a service"
    );
    let status = world.status("ragnar").expect("status answers");
    let rows = status["nodes"].as_array().into_iter().flatten();
    let row = rows
        .clone()
        .find(|row| row["node"] == "redis")
        .expect("redis");
    assert_eq!(row["pending"], true, "{row}");
    assert!(status["pending"].as_u64() >= Some(1), "{status}");
    assert_eq!(redis(world, &["GET", "e2e:mark"]), "kept");
    let code = world
        .viking(&["status", "ragnar", "--exit-code"])
        .status
        .code();
    assert_eq!(code, Some(1), "something is pending");
}
