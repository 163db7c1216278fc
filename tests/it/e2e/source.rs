//! What happens to the branch: rewritten, deleted, back again. What runs never suffers from it.

use super::repo::{Commit, Repo};
use super::world::World;

fn file(says: &str) -> String {
    format!(
        "
viking: {{name: saga}}
deploy:
  web:
    image: viking/busybox:1
    run: sh -c 'mkdir -p /www; echo {says} > /www/index.html; exec httpd -f -p 80 -h /www'
    expose: [80]
    health: {{http: /, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}}
    stop: {{timeout: 1s}}
"
    )
}

fn tell(repo: &Repo, says: &str) -> Commit {
    repo.commit(says, &[("viking.yml", &file(says))])
}

fn becomes(world: &World, state: &str) -> serde_json::Value {
    world.eventually(&format!("the source is {state}"), || {
        let status = world.status("saga")?;
        let found = status["source"]["state"] == state;
        found
            .then(|| status.clone())
            .ok_or_else(|| status.to_string())
    })
}

#[test]
fn a_branch_that_is_rewritten_or_deleted_harms_nothing_that_runs() {
    let world = World::started("source");
    let repo = world.repo("saga");
    let first = tell(&repo, "first");
    world.must(&["add", repo.path(), "--branch", "main", "--poll", "1s"]);
    world.settled("saga", &first);
    let second = tell(&repo, "second");
    world.settled("saga", &second);

    eprintln!("forced back to an older commit");
    repo.reset(&first);
    let status = world.settled("saga", &first);
    assert_eq!(
        status["live"]["tag"],
        format!("{}-2", first.tag()),
        "a second release of one commit"
    );
    assert_eq!(world.page("saga", "web", "/").as_deref(), Ok("first\n"));

    eprintln!("rewritten");
    let third = tell(&repo, "third");
    world.settled("saga", &third);

    eprintln!("the file itself is a link");
    let link = repo.file("viking.yml");
    std::fs::remove_file(&link).expect("the file is there");
    std::os::unix::fs::symlink("elsewhere.yml", &link).expect("a link is made");
    let bad = repo.commit("a link", &[]);
    let status = world.failed("saga", &bad).to_string();
    let said = "viking.yml is a symbolic link: it must be a file";
    assert!(status.contains(said), "{status}");
    std::fs::remove_file(&link).expect("the link is there");
    let third = tell(&repo, "third again");
    world.settled("saga", &third);

    eprintln!("deleted");
    let runs = world.runs("saga");
    repo.delete_branch();
    let status = becomes(&world, "missing");
    assert_eq!(status["sync"], "unknown", "{status}");
    assert_eq!(status["health"], "healthy", "{status}");
    assert!(
        !status["source"]["reason"]
            .as_str()
            .unwrap_or_default()
            .is_empty(),
        "{status}"
    );
    assert_eq!(
        world.runs("saga"),
        runs,
        "a deleted branch moved containers"
    );

    eprintln!("back again");
    repo.restore_branch(&third);
    becomes(&world, "ok");
    let fourth = tell(&repo, "fourth");
    world.settled("saga", &fourth);
    assert_eq!(world.page("saga", "web", "/").as_deref(), Ok("fourth\n"));

    eprintln!("the whole repository is away");
    let runs = world.runs("saga");
    let away = world.folder("away");
    std::fs::rename(repo.file(""), &away).expect("the folder is moved");
    let status = becomes(&world, "bad");
    assert_eq!(status["health"], "healthy", "{status}");
    assert_eq!(
        world.runs("saga"),
        runs,
        "a lost repository moved containers"
    );
    std::fs::rename(&away, repo.file("")).expect("the folder is moved back");
    let fifth = tell(&repo, "fifth");
    world.settled("saga", &fifth);
}
