//! What is done behind viking's back is repaired and told, and what is not viking's is left alone.

use serde_json::Value;

use super::docker::{Container, runs};
use super::world::World;

const FILE: &str = "
viking: {name: fjord}
deploy:
  web:
    image: viking/busybox:1
    run: sh -c 'mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www'
    expose: [80]
    resources: {memory: 64M, cpu: 0.5}
    health: {http: /, interval: 200ms, timeout: 1s, start_period: 5s, retries: 2}
    stop: {timeout: 1s}
  book:
    image: viking/busybox:1
    run: sh -c 'mkdir -p /data; exec httpd -f -p 80 -h /data'
    expose: [80]
    volume: [/data]
    health: {tcp: 80, interval: 200ms, timeout: 1s, start_period: 5s, retries: 2}
    stop: {timeout: 1s}
  redis:
    image: viking/redis:1
    service: true
    expose: [6379]
    volume: [/data]
    health: {tcp: 6379, interval: 200ms, timeout: 1s, start_period: 5s, retries: 2}
";

/// One way to meddle, and the words by which an event must name it.
struct Meddling {
    verb: &'static [&'static str],
    what: &'static str,
    /// Other words for it, seen when Docker is not done yet.
    or: &'static str,
    /// Whether the process may go on as it was.
    keeps_running: bool,
}

const MEDDLINGS: [Meddling; 4] = [
    Meddling {
        verb: &["rm", "--force"],
        what: "found gone",
        or: "found dead",
        keeps_running: false,
    },
    Meddling {
        verb: &["stop", "--time", "1"],
        what: "found exited",
        or: "found exited",
        keeps_running: false,
    },
    Meddling {
        verb: &["pause"],
        what: "found paused",
        or: "found paused",
        keeps_running: true,
    },
    Meddling {
        verb: &["update", "--memory", "100m", "--memory-swap", "200m"],
        what: "memory",
        or: "memory",
        keeps_running: true,
    },
];

#[test]
fn what_is_done_behind_its_back_is_repaired_and_told() {
    let world = World::started("drift");
    let repo = world.repo("fjord");
    let commit = repo.commit("A quiet fjord", &[("viking.yml", FILE)]);
    world.add(&repo);
    world.settled("fjord", &commit);
    let strangers = Strangers::start(&world);
    let redis = world.only("fjord", "redis").id;
    world
        .docker
        .run(&["exec", &redis, "redis-cli", "SET", "mark", "kept"]);
    for node in ["web", "book", "redis"] {
        for meddling in &MEDDLINGS {
            meddle(&world, node, meddling);
        }
    }
    world.settled("fjord", &commit);
    let redis = world.only("fjord", "redis").id;
    assert_eq!(
        world
            .docker
            .run(&["exec", &redis, "redis-cli", "GET", "mark"]),
        "kept"
    );
    strangers.are_untouched();
    world.must(&["remove", "fjord", "--confirm", "fjord"]);
    world.eventually("fjord is gone", || {
        let left = world.containers("fjord");
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    });
    strangers.are_untouched();
}

fn meddle(world: &World, node: &str, meddling: &Meddling) {
    let before = world.only("fjord", node);
    let others = runs(world.containers("fjord").iter().filter(|c| c.node != node));
    let told = world.events("fjord").len();
    world.docker.run(&[meddling.verb, &[&before.id]].concat());
    let what = format!("{node} is as it was after docker {}", meddling.verb[0]);
    let after = world.eventually(&what, || repaired(world, node, &before));
    if meddling.keeps_running {
        let same = (after.id, after.started) == (before.id, before.started);
        // A limit the engine cannot set back is a reason to make the container anew.
        assert!(same || meddling.verb[0] == "update", "{what}");
    }
    world.eventually(
        &format!("an event tells that {node} was {}", meddling.what),
        || {
            let events = world.events("fjord");
            let news = events.get(told..).unwrap_or_default();
            let names = |event: &&Value| {
                let about = event["about"].as_str().unwrap_or_default();
                let text = event.to_string();
                let named = text.contains(meddling.what) || text.contains(meddling.or);
                event["what"] == "drift" && about.contains(node) && named
            };
            let found = news.iter().find(names);
            found.map(|_| ()).ok_or_else(|| format!("{news:?}"))
        },
    );
    let now = runs(world.containers("fjord").iter().filter(|c| c.node != node));
    assert_eq!(now, others, "{what}: others moved");
}

/// Running, healthy, with the limits it should have.
fn repaired(world: &World, node: &str, before: &Container) -> Result<Container, String> {
    let mut all = world.node("fjord", node);
    let [now] = all.as_slice() else {
        return Err(format!("{all:?}"));
    };
    let right = now.running && !now.paused && now.memory == before.memory;
    let healthy = !world.endpoints("fjord", node).is_empty();
    match right && healthy {
        true => Ok(all.remove(0)),
        false => Err(format!("{now:?}, healthy: {healthy}")),
    }
}

/// Containers that look a bit like viking's and are not.
struct Strangers<'a> {
    world: &'a World,
    ids: Vec<String>,
    before: Vec<Container>,
}

impl<'a> Strangers<'a> {
    fn start(world: &'a World) -> Self {
        let network = world.docker.labelled("network", &world.label());
        let network = network.first().expect("the stack has a network").clone();
        let name = world.only("fjord", "web").name;
        let labels: [&[&str]; 4] = [
            &["--label", "somebody=else"],
            // Another cluster's.
            &[
                "--label",
                "viking.cluster=other",
                "--label",
                "viking.stack=fjord",
                "--label",
                "viking.node=web",
            ],
            // Nobody's, with everything but the cluster.
            &[
                "--label",
                "viking.stack=fjord",
                "--label",
                "viking.node=web",
                "--label",
                "viking.slot=0",
            ],
            // A neighbour on the stack's own network.
            &["--network", &network, "--network-alias", &name],
        ];
        let run = |flags: &&[&str]| {
            let args = [
                &["run", "--detach"],
                *flags,
                &["viking/busybox:1", "sleep", "1000000"],
            ];
            world.docker.run(&args.concat())
        };
        let ids: Vec<String> = labels.iter().map(run).collect();
        world.docker.run(&["pause", &ids[1]]);
        let before = Self::look(world, &ids);
        Self { world, ids, before }
    }

    fn look(world: &World, ids: &[String]) -> Vec<Container> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        world.docker.inspect(&ids)
    }

    fn are_untouched(&self) {
        assert_eq!(Self::look(self.world, &self.ids), self.before);
    }
}

impl Drop for Strangers<'_> {
    fn drop(&mut self) {
        let ids: Vec<&str> = self.ids.iter().map(String::as_str).collect();
        self.world
            .docker
            .try_run(&[&["rm", "--force"], ids.as_slice()].concat());
    }
}
