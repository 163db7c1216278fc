//! Hosts beside each other on one Docker, and hosts that go and come back.

use super::docker::Runs;
use super::http::fetch;
use super::repo::{Commit, Repo};
use super::world::World;

fn file(says: &str) -> String {
    format!(
        "
viking: {{name: twin}}
deploy:
  web:
    image: viking/busybox:1
    run: sh -c 'mkdir -p /www; echo {says} > /www/index.html; exec httpd -f -p 80 -h /www'
    expose: [80]
    scale: 2
    health: {{http: /, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}}
    stop: {{timeout: 1s}}
  book:
    image: viking/busybox:1
    run: sh -c 'date >> /data/starts; exec httpd -f -p 80 -h /data'
    expose: [80]
    volume: [/data]
    link: web
    health: {{tcp: 80, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}}
    stop: {{timeout: 1s}}
"
    )
}

struct Twin {
    world: World,
    repo: Repo,
    commit: Commit,
}

impl Twin {
    fn born(name: &str) -> Self {
        let world = World::started(name);
        let repo = world.repo("twin");
        let commit = repo.commit("Born", &[("viking.yml", &file(name))]);
        world.add(&repo);
        Self {
            world,
            repo,
            commit,
        }
    }

    fn settled(&self) -> Runs {
        self.world.settled("twin", &self.commit);
        self.world.runs("twin")
    }

    fn says(&self) -> String {
        let text = self.world.page("twin", "web", "/");
        text.map(|text| text.trim().to_owned())
            .unwrap_or_else(|error| error)
    }

    fn mark(&self, text: &str) {
        let id = self.world.only("twin", "book").id;
        self.world.docker.run(&[
            "exec",
            &id,
            "sh",
            "-c",
            &format!("echo {text} > /data/mark"),
        ]);
    }

    fn marked(&self) -> String {
        self.world
            .page("twin", "book", "/mark")
            .unwrap_or_else(|error| error)
            .trim()
            .to_owned()
    }
}

#[test]
fn hosts_beside_each_other_do_not_meet_and_find_their_containers_again() {
    let (mut one, mut two) = (Twin::born("one"), Twin::born("two"));
    let (first, second) = (one.settled(), two.settled());
    assert!(first.keys().all(|id| !second.contains_key(id)));
    assert_eq!((one.says().as_str(), two.says().as_str()), ("one", "two"));
    one.mark("mine");
    two.mark("yours");

    eprintln!("an orderly end leaves everything running");
    let ends = one.world.endpoints("twin", "web");
    let ended = one.world.stop();
    assert!(ended.success(), "{ended}");
    assert_eq!(one.world.runs("twin"), first, "SIGTERM stopped containers");
    for end in &ends {
        assert_eq!(fetch(&format!("http://{end}/")).as_deref(), Ok("one\n"));
    }

    eprintln!("a kill leaves everything running");
    two.world.kill();
    assert_eq!(two.world.runs("twin"), second, "a kill stopped containers");

    eprintln!("a restart adopts");
    one.world.start();
    assert_eq!(one.settled(), first, "the restart moved containers");
    assert_eq!(one.world.endpoints("twin", "web"), ends, "endpoints moved");

    eprintln!("one goes on while the other is away");
    one.commit = one
        .world
        .push("twin", &one.repo, "Grow", &[("viking.yml", &file("grown"))]);
    assert_eq!(one.says(), "grown");
    assert_eq!(one.marked(), "mine");
    assert_eq!(
        two.world.runs("twin"),
        second,
        "somebody else's containers moved"
    );
    two.world.start();
    assert_eq!(two.settled(), second, "the restart moved containers");

    eprintln!("one removes its stack");
    one.world.must(&["remove", "twin", "--confirm", "twin"]);
    one.world.eventually("one's twin is gone", || {
        let left = one.world.containers("twin");
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    });
    assert_eq!(two.settled(), second);
    assert_eq!(
        (two.says().as_str(), two.marked().as_str()),
        ("two", "yours")
    );
}

#[test]
fn containers_lost_while_the_host_was_away_come_back_with_their_data() {
    let mut twin = Twin::born("lost");
    twin.settled();
    twin.mark("kept");
    twin.world.stop();
    // As after a reboot without live-restore: the registry's container too.
    for container in twin.world.docker.containers(&twin.world.label()) {
        twin.world.docker.run(&["rm", "--force", &container.id]);
    }
    twin.world.start();
    twin.settled();
    assert_eq!(
        (twin.says().as_str(), twin.marked().as_str()),
        ("lost", "kept")
    );
    twin.world.check_registry();
}
