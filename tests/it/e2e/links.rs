//! Links on real Docker while their targets are killed and replaced: what promise is kept to who asks all
//! the time, over TCP and over UDP, and that nobody who links is restarted for it.

use super::docker::runs;
use super::repo::Commit;
use super::router::Visitor;
use super::world::World;

/// Writes down where its link leads.
const START: &str = "\
echo $LOGIC_PORT_80_TCP_ADDR $LOGIC_PORT_80_TCP_PORT > /tmp/logic
exec httpd -f -p 80 -h /www
";

/// Asks through the link. What a process has begun when it is killed nobody can save: whose connection
/// broke asks once more, as HTTP clients do with requests that do no harm, and says so.
const ASK: &str = "\
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
ask() {
    said=$(printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 15 nc $(cat /tmp/logic) | tail -n 1)
}
ask
[ -n \"$said\" ] || { ask; said=\"again ${said:-nobody}\"; }
echo \"$said\"
";

const SHOP: &str = "
viking: {name: shop}
build:
  website: |
    FROM viking/busybox:1
    ADD ask /www/cgi-bin/ask
    ADD start /srv/start
    RUN chmod +x /www/cgi-bin/ask
deploy:
  website:
    image: viking:shop/website
    run: sh /srv/start
    expose: [80]
    link: logic
    domains: [shop.example]
    health: {tcp: 80, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}
    stop: {timeout: 1s}
  logic:
    image: viking/busybox:1
    run: sh -c 'mkdir -p /www; echo logic one > /www/index.html; exec httpd -f -p 80 -h /www'
    expose: [80]
    scale: 2
    health: {http: /, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}
    stop: {timeout: 1s}
";

/// Kills the copies of a node one after the other, the next when the one before is back.
fn kill_each(world: &World, stack: &str, node: &str, commit: &Commit) {
    for victim in world.node(stack, node) {
        world.docker.run(&["kill", "--signal", "KILL", &victim.id]);
        world.eventually("another process has taken its place", || {
            let now = world.node(stack, node);
            let same = |one: &super::docker::Container| {
                one.id == victim.id && (!one.running || one.started == victim.started)
            };
            let back = now.iter().filter(|one| one.running).count() == 2 && !now.iter().any(same);
            back.then_some(()).ok_or_else(|| format!("{now:?}"))
        });
        world.settled(stack, commit);
    }
}

#[test]
fn a_website_serves_while_both_copies_of_what_it_links_to_are_killed_and_replaced() {
    let world = World::started("linked");
    let repo = world.repo("shop");
    let files = [("viking.yml", SHOP), ("ask", ASK), ("start", START)];
    let commit = repo.commit("Open a shop", &files);
    world.add(&repo);
    world.settled("shop", &commit);
    let website = runs(&world.node("shop", "website"));
    let visitors = [1, 2].map(|_| Visitor::of(&world, "shop.example", "/cgi-bin/ask"));
    kill_each(&world, "shop", "logic", &commit);
    repo.edit("viking.yml", "logic one", "logic two");
    world.push("shop", &repo, "A second logic", &[]);
    assert_eq!(runs(&world.node("shop", "website")), website, "restarted");

    // In chunks, as the router passes on what has no length.
    let says = |page: &str, what: &str| page.lines().any(|line| line.trim() == what);
    let mut again = 0;
    for pages in visitors.map(Visitor::pages) {
        let two = pages.iter().position(|page| says(page, "logic two"));
        assert!(two.is_some_and(|two| two > 0), "{:?}", pages.last());
        for page in &pages {
            let asked_twice = says(page, "again logic one") || says(page, "again logic two");
            again += usize::from(asked_twice);
            let answered = says(page, "logic one") || says(page, "logic two") || asked_twice;
            assert!(answered, "{page:?}");
        }
    }
    // One request of each visitor was under way at each of the two kills.
    assert!(again <= 4, "{again} connections broke");
}

/// Answers datagrams and connections with its word.
const ECHO: &str = "\
const word = process.argv[2];
const socket = require('node:dgram').createSocket('udp4');
socket.on('message', (what, from) => socket.send(`${word} ${what}`, from.port, from.address));
socket.bind(53);
require('node:net').createServer((peer) => { peer.on('error', () => {}); peer.end(word); }).listen(53);
process.on('SIGTERM', () => process.exit(0));
";

/// Sends a datagram every 20 ms from one address; tells when it heard what, and what a connection says.
const PROBE: &str = "\
const { DNS_PORT_53_UDP_ADDR, DNS_PORT_53_UDP_PORT, DNS_PORT_53_TCP_ADDR, DNS_PORT_53_TCP_PORT } = process.env;
const heard = [];
const socket = require('node:dgram').createSocket('udp4');
socket.on('message', (what) => heard.push(`${Date.now()} ${what}`));
socket.on('error', () => {});
let sent = 0;
setInterval(() => socket.send(String(++sent), DNS_PORT_53_UDP_PORT, DNS_PORT_53_UDP_ADDR), 20);
require('node:http').createServer((request, response) => {
  if (request.url !== '/tcp') return response.end(heard.join('\\n'));
  const peer = require('node:net').connect(DNS_PORT_53_TCP_PORT, DNS_PORT_53_TCP_ADDR);
  peer.on('error', (error) => response.end(String(error)));
  peer.pipe(response);
}).listen(80);
process.on('SIGTERM', () => process.exit(0));
";

const NET: &str = "
viking: {name: net}
build:
  net: |
    FROM viking/node:1
    ADD echo.js probe.js /srv/
deploy:
  dns:
    image: viking:net/net
    run: node /srv/echo.js one
    expose: [53/udp, 53]
    scale: 2
    health: {tcp: 53, interval: 200ms, timeout: 1s, start_period: 20s, retries: 3}
    stop: {timeout: 1s}
  probe:
    image: viking:net/net
    run: node /srv/probe.js
    expose: [80]
    link: dns
    health: {tcp: 80, interval: 200ms, timeout: 1s, start_period: 20s, retries: 3}
    stop: {timeout: 1s}
";

/// The same from another stack.
const APP: &str = "
viking: {name: app}
deploy:
  probe:
    image: viking:net/net
    run: node /srv/probe.js
    expose: [80]
    link: net/dns
    health: {tcp: 80, interval: 200ms, timeout: 1s, start_period: 20s, retries: 3}
    stop: {timeout: 1s}
";

/// Who probes.
const STACKS: [&str; 2] = ["net", "app"];

/// Datagrams are answered again this long after a target was replaced.
const GAP_MAX_MS: u64 = 1_000;

/// When a probe was told which word.
fn heard(world: &World, stack: &str) -> Vec<(u64, String)> {
    let text = world.page(stack, "probe", "/").unwrap_or_default();
    let line = |line: &str| {
        let mut parts = line.split(' ');
        let at = parts.next()?.parse().ok()?;
        Some((at, parts.next()?.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

fn hears(world: &World, stack: &str, word: &str) {
    let last = heard(world, stack).last().map_or(0, |(at, _)| *at);
    world.eventually(&format!("{stack} hears {word}"), || {
        let now = heard(world, stack);
        let found = now.iter().any(|(at, said)| *at > last && said == word);
        found
            .then_some(())
            .ok_or_else(|| format!("{:?}", now.last()))
    });
    let said = world.page(stack, "probe", "/tcp");
    assert_eq!(said.as_deref(), Ok(word), "over TCP");
}

/// Nothing was unanswered for long, and nobody heard an old copy again once led to a new one.
fn noticed_nothing(world: &World, stack: &str) {
    let heard = heard(world, stack);
    let gaps = heard.windows(2).map(|pair| pair[1].0 - pair[0].0);
    let longest = gaps.max().unwrap_or(u64::MAX);
    let count = heard.len();
    eprintln!("{stack}: {count} answers, nothing for {longest} ms at most");
    assert!(longest < GAP_MAX_MS, "{stack}: nothing for {longest} ms");
    let mut words: Vec<&str> = heard.iter().map(|(_, word)| word.as_str()).collect();
    words.dedup();
    assert_eq!(words, ["one", "two"], "{stack}");
}

#[test]
fn datagrams_are_answered_while_copies_of_their_target_are_killed_and_replaced() {
    let mut world = World::started("datagrams");
    let (net, app) = (world.repo("net"), world.repo("app"));
    let files = [("viking.yml", NET), ("echo.js", ECHO), ("probe.js", PROBE)];
    let commit = net.commit("A net", &files);
    world.add(&net);
    world.settled("net", &commit);
    let own = app.commit("An app", &[("viking.yml", APP)]);
    world.add(&app);
    world.settled("app", &own);
    let probes = |world: &World| STACKS.map(|stack| runs(&world.node(stack, "probe")));
    let all_hear = |world: &World, word: &str| {
        for stack in STACKS {
            hears(world, stack, word);
        }
    };
    let before = probes(&world);
    all_hear(&world, "one");
    kill_each(&world, "net", "dns", &commit);
    net.edit("viking.yml", "echo.js one", "echo.js two");
    world.push("net", &net, "Two", &[]);
    all_hear(&world, "two");
    for stack in STACKS {
        noticed_nothing(&world, stack);
    }

    eprintln!("the host is killed and comes back");
    world.kill();
    world.start();
    all_hear(&world, "two");
    assert_eq!(probes(&world), before, "who links was restarted");
}
