//! What containers are told, what the keys say, and links that outlive their targets.

use std::collections::BTreeMap;

use super::docker::runs;
use super::repo::Repo;
use super::world::World;

const START: &str = "\
env > /tmp/env
echo $TILL_PORT_80_TCP_ADDR $TILL_PORT_80_TCP_PORT > /tmp/till
echo $STORE_PORT_80_TCP_ADDR $STORE_PORT_80_TCP_PORT > /tmp/store
exec httpd -f -p 80 -h /www
";

/// Says what the container was told, or what a link's target answers.
const CALL: &str = "\
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
case $QUERY_STRING in
    env) cat /tmp/env ;;
    name) address=$(nslookup till | sed -n '/^Name:/,$ s/^Address[^ ]* //p' | head -n 1)
        printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 2 nc $address 80 | tail -n 1 ;;
    *) answer=$(printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 2 nc $(cat /tmp/$QUERY_STRING) | tail -n 1)
        echo \"${answer:-unreachable}\" ;;
esac
";

const SHOP: &str = "
viking: {name: shop}
build:
  web: |
    FROM viking/busybox:1
    ADD call /www/cgi-bin/call
    ADD start /srv/start
    RUN chmod +x /www/cgi-bin/call
deploy:
  web:
    image: viking:shop/web
    run: sh /srv/start
    cwd: /srv
    env: {COLOUR: blue}
    expose: [80]
    link: [till, depot/store]
    health: {tcp: 80, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}
    stop: {timeout: 1s}
  till:
    image: viking/busybox:1
    run: sh -c 'mkdir -p /www; echo till one > /www/index.html; exec httpd -f -p 80 -h /www'
    expose: [80, 80/udp, 514/udp]
    health: {http: /, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}
    stop: {timeout: 1s}
";

const DEPOT: &str = "
viking: {name: depot}
deploy:
  store:
    image: viking/busybox:1
    run: sh -c 'mkdir -p /www; echo depot one > /www/index.html; exec httpd -f -p 80 -h /www'
    expose: [80]
    volume: [/data]
    health: {http: /, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}
    stop: {timeout: 1s}
";

struct Town {
    world: World,
    shop: Repo,
    depot: Repo,
}

impl Town {
    fn built(name: &str) -> Self {
        let world = World::started(name);
        let (shop, depot) = (world.repo("shop"), world.repo("depot"));
        let commit = depot.commit("Build a depot", &[("viking.yml", DEPOT)]);
        world.add(&depot);
        world.settled("depot", &commit);
        let files = [("viking.yml", SHOP), ("call", CALL), ("start", START)];
        let commit = shop.commit("Open a shop", &files);
        world.add(&shop);
        world.settled("shop", &commit);
        Self { world, shop, depot }
    }

    fn call(&self, what: &str) -> Result<String, String> {
        let answer = self
            .world
            .page("shop", "web", &format!("/cgi-bin/call?{what}"))?;
        Ok(answer.trim().to_owned())
    }

    fn call_becomes(&self, what: &str, answer: &str) {
        self.world
            .eventually(&format!("{what} answers {answer:?}"), || {
                let found = self.call(what)?;
                (found == answer).then_some(()).ok_or(found)
            });
    }
}

#[test]
fn containers_and_keys_say_what_they_promise() {
    let town = Town::built("inside");
    containers_are_told(&town);
    keys_are_those_of_the_design(&town.world);
    ports_and_placements_name_the_job(&town.world);
}

fn containers_are_told(town: &Town) {
    let container = town.world.only("shop", "web");
    let text = town.call("env").expect("the page is served");
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let env: BTreeMap<&str, &str> = pairs.collect();
    let host = town.world.host_name();
    let status = town.world.status("shop").expect("status answers");
    let live = status["live"]["tag"].as_str().expect("a tag");
    let expected = [
        ("VIKING_ID", container.name.as_str()),
        ("VIKING_STACK", "shop"),
        ("VIKING_TAG", live),
        ("VIKING_NODE", "web"),
        ("VIKING_SLOT", "0"),
        ("VIKING_HOST", host.as_str()),
        ("COLOUR", "blue"),
        ("PWD", "/srv"),
    ];
    for (name, value) in expected {
        assert_eq!(env.get(name), Some(&value), "{name} in\n{text}");
    }
    let parts = container.name.split('.').collect::<Vec<_>>();
    assert_eq!(parts[..4], ["shop", live, "web", "0"], "{}", container.name);
    links_are_told(&env);
    // Who is on the same host is found by its name, too.
    assert_eq!(town.call("name").as_deref(), Ok("till one"));
}

/// Every variable of every port of both links, and no other; their addresses are the ambassador's on this
/// host, not those of the targets.
fn links_are_told(env: &BTreeMap<&str, &str>) {
    let gateway = env["TILL_HOST"];
    assert!(gateway.ends_with(".1"), "{gateway}");
    let mut expected = BTreeMap::new();
    for (name, ports) in [
        ("TILL", &[(80, "tcp"), (80, "udp"), (514, "udp")][..]),
        ("STORE", &[(80, "tcp")]),
    ] {
        let first = env[format!("{name}_PORT_80_TCP").as_str()];
        expected.insert(format!("{name}_HOST"), gateway.to_owned());
        expected.insert(format!("{name}_PORT"), first.to_owned());
        for (port, proto) in ports {
            let variable = format!("{name}_PORT_{port}_{}", proto.to_uppercase());
            let listens = env[format!("{variable}_PORT").as_str()];
            assert!(listens.parse::<u16>().is_ok(), "{variable}_PORT={listens}");
            expected.insert(format!("{variable}_ADDR"), gateway.to_owned());
            expected.insert(format!("{variable}_PORT"), listens.to_owned());
            expected.insert(format!("{variable}_PROTO"), (*proto).to_owned());
            expected.insert(variable, format!("{proto}://{gateway}:{listens}"));
        }
    }
    let links = |name: &str| name.starts_with("TILL_") || name.starts_with("STORE_");
    let told = env.iter().filter(|(name, _)| links(name));
    let told: BTreeMap<String, String> = told
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    assert_eq!(told, expected);
    // Who goes on over TCP where a datagram was too short finds it at the same number.
    assert_eq!(env["TILL_PORT_80_UDP_PORT"], env["TILL_PORT_80_TCP_PORT"]);
    assert_ne!(env["STORE_PORT_80_TCP_PORT"], env["TILL_PORT_80_TCP_PORT"]);
}

/// `design.md` §5: every key has one of these forms.
fn forms() -> Vec<(&'static str, regex::Regex)> {
    let name = r"[a-z0-9][a-z0-9_.-]*";
    let job = format!("{name}/{name}/{name}/[0-9]+");
    let forms = [
        ("stack", format!("/stack/{name}")),
        ("member", format!("/member/{name}")),
        ("request", format!("/request/{name}/[^/]+")),
        ("cluster", "/cluster".to_owned()),
        ("leader", "/leader".to_owned()),
        ("image", format!("/image/{name}/{name}/{name}")),
        ("images", format!("/images/{name}/{name}/{name}")),
        ("proc", format!("/proc/{name}/{name}/{name}")),
        ("release", format!("/release/{name}/{name}")),
        ("pointer", format!("/release/{name}")),
        ("deploy", format!("/deploy/{name}/{job}")),
        ("run", format!("/run/{job}")),
        ("fixed", format!("/fixed/{name}/{name}(/[0-9]+)?")),
        ("history", format!("/history/{name}/[0-9a-f-]+")),
        ("host", format!("/host/{name}")),
        ("state", format!("/state/{name}/{job}")),
        ("counter", format!("/counter/{name}/{job}")),
        (
            "ports",
            format!(r"/ports/{name}/{name}/{name}/[0-9]+/(tcp|udp)/[0-9.]+/[0-9]+/{name}"),
        ),
        ("event", format!("/event/{name}/[0-9a-f-]+-[0-9]+")),
        ("secret", "/secret/registry/hosts".to_owned()),
        ("whole", "/registry/whole".to_owned()),
    ];
    let compile = |(kind, form): (&'static str, String)| {
        (
            kind,
            regex::Regex::new(&format!("^{form}$")).expect("a pattern"),
        )
    };
    forms.into_iter().map(compile).collect()
}

fn keys_are_those_of_the_design(world: &World) {
    let forms = forms();
    let keys = world.keys().expect("the host answers");
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for key in keys.keys() {
        let kind = forms.iter().find(|(_, form)| form.is_match(key));
        let (kind, _) = kind.unwrap_or_else(|| panic!("no key has this form: {key}"));
        *seen.entry(kind).or_default() += 1;
    }
    for (kind, _) in &forms {
        // These come and go, or come with a second host.
        let passing = matches!(*kind, "request" | "counter" | "whole");
        assert!(
            passing || seen.contains_key(kind),
            "no key of kind {kind} in {keys:#?}"
        );
    }
    let dump = world.must(&["debug", "keys"]);
    let listed: Vec<&str> = dump
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(key, _)| key)
        .collect();
    for key in keys
        .keys()
        .filter(|key| key.starts_with("/release/") || key.starts_with("/ports/"))
    {
        assert!(
            listed.contains(&key.as_str()),
            "debug keys left out {key}:\n{dump}"
        );
    }
    for line in dump.lines() {
        let secret = ["/env/", "/secret/", "/token/"];
        let secret = secret.iter().any(|start| line.starts_with(start));
        assert!(!secret || line.ends_with("\t(hidden)"), "{line}");
    }
}

fn ports_and_placements_name_the_job(world: &World) {
    let keys = world.keys().expect("the host answers");
    let host = world.host_name();
    let container = world.only("shop", "web");
    let job = format!("shop/{}/web/0", container.tag);
    let end = world.endpoints("shop", "web").remove(0);
    let (ip, port) = end.split_once(':').expect("ip:port");
    let ports = format!(
        "/ports/shop/{}/web/80/tcp/{ip}/{port}/{}",
        container.tag, container.name
    );
    let expected = [
        (ports, end.clone()),
        (format!("/run/{job}"), host.clone()),
        (format!("/deploy/{host}/{job}"), container.name.clone()),
    ];
    for (key, value) in expected {
        assert_eq!(keys.get(&key), Some(&value), "{key} in {keys:#?}");
    }
    for key in [
        format!("/state/{host}/{job}"),
        "/fixed/depot/store/0".to_owned(),
    ] {
        let value = keys
            .get(&key)
            .unwrap_or_else(|| panic!("no {key} in {keys:#?}"));
        let value: serde_json::Value = serde_json::from_str(value).expect("JSON");
        assert!(value["v"].is_u64(), "{key} has no version: {value}");
    }
}

#[test]
fn a_link_outlives_its_target() {
    let town = Town::built("links");
    let Town { world, shop, depot } = &town;
    let consumer = runs(&world.node("shop", "web"));
    town.call_becomes("till", "till one");
    town.call_becomes("store", "depot one");

    eprintln!("the target changes its tag");
    shop.edit("viking.yml", "till one", "till two");
    world.push("shop", shop, "A second till", &[]);
    town.call_becomes("till", "till two");

    eprintln!("a target of another stack is cut over");
    depot.edit("viking.yml", "depot one", "depot two");
    world.push("depot", depot, "A second depot", &[]);
    town.call_becomes("store", "depot two");

    eprintln!("the target's container is lost");
    let till = world.only("shop", "till");
    world.docker.run(&["rm", "--force", &till.id]);
    world.eventually("the till has another container", || {
        let now = world.node("shop", "till");
        now.iter()
            .any(|c| c.id != till.id && c.running)
            .then_some(())
            .ok_or_else(|| format!("{now:?}"))
    });
    town.call_becomes("till", "till two");

    eprintln!("the target's stack is removed and comes back");
    world.must(&["remove", "depot", "--confirm", "depot"]);
    town.call_becomes("store", "unreachable");
    world.eventually("the depot is gone", || {
        let left = world.containers("depot");
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    });
    world.add(depot);
    town.call_becomes("store", "depot two");

    eprintln!("the host is killed and comes back");
    let mut town = town;
    town.world.kill();
    town.world.start();
    town.call_becomes("store", "depot two");
    town.call_becomes("till", "till two");
    assert_eq!(
        runs(&town.world.node("shop", "web")),
        consumer,
        "the consumer was restarted"
    );
}
