//! Properties of placement, over worlds of many hosts and stacks. A world is not made up whole: it comes
//! from an empty one by plans that are carried out and by what happens in between, so that whatever is
//! there was put there by the planner.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;
use viking::model::host::{EngineState, HostRecord, Readiness};
use viking::model::job::{JobKey, Seat};
use viking::model::names::{HostName, NodeName, StackName, Tag};
use viking::model::plan::Plan;
use viking::model::release::{FilterRule, ReleaseNode};
use viking::model::resolve;
use viking::model::world::{PinKey, World};
use viking::schedule::wanted::{Role, wanted};
use viking::schedule::{check, dowding, relocate, script, sim};

/// What befalls a world between two plans.
#[derive(Debug, Clone)]
enum Event {
    /// A host is gone for good.
    Lost(Index),
    /// A host takes nothing new.
    Cordoned(Index),
    /// A host gives its jobs away.
    Draining(Index),
    /// A host takes jobs again.
    Ready(Index),
    /// Docker stops answering there.
    EngineDown(Index),
    /// A stack's next release goes live.
    Released(Index),
    /// A job has failed where it is.
    Failed(Index),
    /// A host joins.
    Joined(String),
}

fn host() -> impl Strategy<Value = String> {
    (0_u32..5, 0_u32..5, 0_usize..4).prop_map(|(cores, memory, tags)| {
        let tags = ["", "ssd", "gpu", "ssd, gpu"][tags];
        let (cores, memory) = (cores * 1000, memory * 100);
        format!("{{cpu_millis: {cores}, memory_mb: {memory}, tags: [{tags}]}}")
    })
}

fn node() -> impl Strategy<Value = String> {
    let filter = prop::sample::select(vec![
        "",
        "ssd",
        "\"!gpu\"",
        "\"ssd:flexible\"",
        "ssd, \"gpu:flexible\"",
    ]);
    let extra = prop::sample::select(vec![
        "",
        "",
        "",
        "volume: true",
        "fixed: true",
        "shared: [data]",
        "port: 8080",
        "port: 9090, volume: true",
        "link: [n0]",
    ]);
    (0_u32..4, 0_u32..4, 0_u32..4, filter, extra, prop::bool::weighted(0.2)).prop_map(
        |(scale, cpu, memory, filter, extra, spread)| {
            // Two slots that are pinned to one host can never both have one port of it.
            let scale = if extra.contains("port") { scale.min(1) } else { scale };
            let (cpu, memory) = (cpu * 100, memory * 10);
            format!(
                "{{scale: {scale}, cpu_millis: {cpu}, memory_mb: {memory}, filter: [{filter}], spread: {spread}, expose: true, {extra}}}"
            )
        },
    )
}

/// Two releases: the second keeps the tag of what did not change.
fn stack() -> impl Strategy<Value = String> {
    let nodes = || prop::collection::vec(node(), 1..4);
    (nodes(), nodes(), any::<bool>()).prop_map(|(a, b, keeps)| {
        let text = |nodes: &[String], tag: &str| {
            let nodes = nodes.iter().enumerate();
            let nodes: Vec<_> = nodes
                .map(|(n, text)| {
                    // The first node is what others link to, so it links to none.
                    let text = if n == 0 {
                        text.replace("link: [n0]", "")
                    } else {
                        text.clone()
                    };
                    format!("n{n}: {}", text.replacen('{', &format!("{{{tag}"), 1))
                })
                .collect();
            nodes.join(", ")
        };
        let mut next = b;
        if keeps {
            next[0].clone_from(&a[0]);
        }
        let next = if keeps {
            let changed = text(&next, "");
            changed.replacen("n0: {", "n0: {tag: a1, ", 1)
        } else {
            text(&next, "")
        };
        format!(
            "{{live: a1, releases: {{a1: {{{}}}, b2: {{{next}}}}}}}",
            text(&a, "")
        )
    })
}

fn event() -> impl Strategy<Value = Event> {
    let at = any::<Index>;
    prop_oneof![
        2 => at().prop_map(Event::Lost),
        1 => at().prop_map(Event::Cordoned),
        2 => at().prop_map(Event::Draining),
        1 => at().prop_map(Event::Ready),
        1 => at().prop_map(Event::EngineDown),
        2 => at().prop_map(Event::Released),
        1 => at().prop_map(Event::Failed),
        2 => host().prop_map(Event::Joined),
    ]
}

fn named(prefix: &str, all: &[String]) -> String {
    let all = all.iter().enumerate();
    let all: Vec<_> = all
        .map(|(n, text)| format!("{prefix}{n:02}: {text}"))
        .collect();
    all.join(", ")
}

fn world(hosts: &[String], stacks: &[String]) -> World {
    let (hosts, stacks) = (named("h", hosts), named("s", stacks));
    script::world(&format!(
        "now_ms: 1000000\nhosts: {{{hosts}}}\nstacks: {{{stacks}}}\n"
    ))
    .expect("a good world")
}

fn befall(world: &mut World, event: &Event) {
    let members: Vec<HostName> = world.members.keys().cloned().collect();
    let mut is = |at: &Index, readiness| {
        let member = world.members.get_mut(at.get(&members)).expect("a member");
        member.readiness = readiness;
    };
    match event {
        Event::Cordoned(at) => is(at, Readiness::Cordoned),
        Event::Draining(at) => is(at, Readiness::Draining),
        Event::Ready(at) => is(at, Readiness::Ready),
        Event::Lost(at) => {
            let host = at.get(&members);
            world.hosts.remove(host);
            world.lost.insert(host.clone());
            world.states.retain(|(on, _), _| on != host);
        }
        Event::EngineDown(at) => {
            if let Some(host) = world.hosts.get_mut(at.get(&members)) {
                host.engine = EngineState::Down {
                    reason: "stopped".to_owned(),
                };
            }
        }
        Event::Released(at) => {
            let names: Vec<StackName> = world.stacks.keys().cloned().collect();
            let stack = world.stacks.get_mut(at.get(&names)).expect("a stack");
            let next = Some(Tag::parse("b2").expect("a tag"));
            let before = std::mem::replace(&mut stack.pointer.live, next);
            if before != stack.pointer.live {
                stack.pointer.retiring = before;
                stack.pointer.since_ms = world.now_ms;
            }
        }
        Event::Failed(at) => {
            let placed: Vec<_> = world.assignments.values().cloned().collect();
            if !placed.is_empty() {
                let at = at.get(&placed);
                let text = format!(
                    "jobs: [{{job: {}, host: {}, failures: 2}}]",
                    at.job, at.host
                );
                let other = script::world(&text).expect("a good job");
                world.counters.extend(other.counters);
            }
        }
        Event::Joined(text) => {
            let n = members.len();
            let other = script::world(&format!("hosts: {{h{n:02}: {text}}}")).expect("a good host");
            world.hosts.extend(other.hosts);
            world.members.extend(other.members);
        }
    }
}

/// Every job that is on a host, by placement or because the host still sees it, with its node; but for
/// those that stand still, since they leave what they had to their successor.
fn on_hosts(world: &World) -> BTreeMap<&HostName, BTreeMap<&JobKey, &ReleaseNode>> {
    let mut found: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    let placed = world.assignments.keys().map(|(job, host)| (host, job));
    let seen = world.states.keys().map(|(host, job)| (host, job));
    let runs = |job: &JobKey| {
        let stack = &world.stacks[&job.stack];
        !resolve::held(&stack.pointer, stack.live(), stack.staged(), job)
    };
    for (host, job) in placed.chain(seen).filter(|(_, job)| runs(job)) {
        let releases = world.stacks[&job.stack].releases.values();
        let mut nodes = releases.filter_map(|release| release.nodes.get(&job.node));
        if let Some(node) = nodes.find(|node| node.tag == job.tag) {
            found.entry(host).or_default().insert(job, node);
        }
    }
    found
}

/// Everything that must never be, of a world after a plan was written.
fn wrong(world: &World, plan: &Plan) -> Vec<String> {
    let mut wrong = Vec::new();
    let node = |job: &JobKey| -> &ReleaseNode {
        let releases = world.stacks[&job.stack].releases.values();
        let mut nodes = releases.filter_map(|release| release.nodes.get(&job.node));
        nodes.find(|node| node.tag == job.tag).expect("a node")
    };
    for start in &plan.start {
        let (job, host) = (&start.job, &start.host);
        let (member, node) = (&world.members[host], node(job));
        let alive = world.hosts.get(host).is_some_and(HostRecord::engine_up);
        if !alive || member.readiness != Readiness::Ready {
            wrong.push(format!("{job} starts on {host}, which takes nothing"));
        }
        for filter in &node.filter {
            let bad = match filter.rule {
                FilterRule::Required => !member.tags.contains(&filter.tag),
                FilterRule::Forbidden => member.tags.contains(&filter.tag),
                FilterRule::Preferred => false,
            };
            if bad {
                wrong.push(format!("{job} starts on {host} against {filter:?}"));
            }
        }
        let volumes = node.shared_volumes.iter();
        let mut pins: Vec<_> = volumes
            .map(|v| PinKey::Volume(job.stack.clone(), v.clone()))
            .collect();
        pins.push(PinKey::Seat(job.seat()));
        for pin in pins.iter().filter(|_| node.pinned()) {
            if world.fixed.get(pin).is_none_or(|pin| pin.host != *host) {
                wrong.push(format!("{job} starts on {host}, away from its data"));
            }
        }
    }
    for (host, jobs) in on_hosts(world) {
        let Some(member) = world.members.get(host) else {
            continue;
        };
        let sum = |of: fn(&ReleaseNode) -> Option<u64>| {
            jobs.values().filter_map(|node| of(node)).sum::<u64>()
        };
        let cpu = sum(|node| node.resources.cpu_millis);
        let memory = sum(|node| node.resources.memory_bytes);
        if cpu > member.capacity.cpu_millis || memory > member.capacity.memory_bytes {
            wrong.push(format!(
                "{host} has given away more than it has: {cpu}m, {memory}B"
            ));
        }
        let mut ports: BTreeMap<u16, BTreeSet<Seat>> = BTreeMap::new();
        let mut copies: BTreeMap<(&StackName, &Tag, &NodeName), u32> = BTreeMap::new();
        for (job, node) in &jobs {
            for port in &node.host_ports {
                ports.entry(*port).or_default().insert(job.seat());
            }
            if node.spread_required {
                *copies.entry((&job.stack, &job.tag, &job.node)).or_insert(0) += 1;
            }
        }
        wrong.extend(
            ports
                .iter()
                .filter(|(_, seats)| seats.len() > 1)
                .map(|port| format!("{host}: {port:?}")),
        );
        wrong.extend(
            copies
                .iter()
                .filter(|(_, n)| **n > 1)
                .map(|copies| format!("{host}: {copies:?}")),
        );
    }
    for job in world.run.keys() {
        let placed = world
            .members
            .keys()
            .filter(|host| world.placed_on(job, host).is_some())
            .count();
        let most = if relocate::stays(node(job)).is_some() {
            1
        } else {
            2
        };
        if placed > most {
            wrong.push(format!("{job} is placed {placed} times"));
        }
    }
    for unplaced in plan.waiting.iter().chain(&plan.blocked) {
        if unplaced.reason.is_empty() {
            wrong.push(format!("nobody says why {} has no host", unplaced.job));
        }
    }
    wrong
}

/// Jobs that have no host although one would do.
fn forgotten(world: &World, plan: &Plan) -> Vec<JobKey> {
    let blocked = plan.blocked.iter().map(|unplaced| &unplaced.job);
    let one_would = |job: &&JobKey| dowding::would_take(world, job).is_some();
    blocked.filter(one_would).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_880))]

    #[test]
    fn whatever_befalls_a_world_its_plans_keep_the_rules(
        hosts in prop::collection::vec(host(), 0..8),
        stacks in prop::collection::vec(stack(), 1..4),
        events in prop::collection::vec(event(), 0..8),
    ) {
        let mut world = world(&hosts, &stacks);
        for n in 0..=events.len() {
            let plan = dowding::plan(&world);
            prop_assert_eq!(check::plan(&world, &plan), Vec::<check::Complaint>::new());
            sim::carry_out(&mut world, &plan);
            prop_assert_eq!(wrong(&world, &plan), Vec::<String>::new(), "{}", script::plan_text(&plan));
            let again = dowding::plan(&world);
            if plan.flip.is_empty() {
                prop_assert!(again.is_empty(), "{}", script::plan_text(&again));
            }
            prop_assert_eq!(forgotten(&world, &again), Vec::<JobKey>::new());
            for (name, stack) in &world.stacks {
                let all = wanted(name, stack);
                let pinned = all.iter().filter(|w| w.node.pinned() && w.role == Role::Live);
                for job in pinned.map(|wanted| &wanted.job) {
                    let at_home = world.run.get(job).is_none_or(|host| world.fixed[&PinKey::Seat(job.seat())].host == *host);
                    prop_assert!(at_home, "{} is away from its data", job);
                }
            }
            sim::settle(&mut world);
            world.now_ms += 5_000;
            let data: Vec<_> = world.fixed.iter().map(|(key, pin)| (key.clone(), pin.host.clone())).collect();
            let needs_no_host = |event: &&Event| {
                !world.members.is_empty() || matches!(event, Event::Joined(_) | Event::Released(_) | Event::Failed(_))
            };
            if let Some(event) = events.get(n).filter(needs_no_host) {
                befall(&mut world, event);
            }
            for (key, host) in data {
                prop_assert_eq!(&world.fixed[&key].host, &host, "where data is never changes");
            }
        }
    }

    #[test]
    fn a_host_that_joins_stops_no_job(
        hosts in prop::collection::vec(host(), 1..8),
        stacks in prop::collection::vec(stack(), 1..4),
        events in prop::collection::vec(event(), 0..4),
        joins in host(),
    ) {
        let mut world = world(&hosts, &stacks);
        for event in &events {
            drop(sim::rounds(&mut world));
            befall(&mut world, event);
        }
        let without = dowding::plan(&world);
        befall(&mut world, &Event::Joined(joins));
        let with = dowding::plan(&world);
        let stopped = |plan: &Plan| -> BTreeSet<_> { plan.stop.iter().map(|stop| stop.placement.clone()).collect() };
        let more: Vec<_> = stopped(&with).difference(&stopped(&without)).cloned().collect();
        // What ends on a lost host runs no more; it goes on elsewhere now.
        let more: Vec<_> = more.into_iter().filter(|placed| !world.is_lost(&placed.host)).collect();
        prop_assert!(more.is_empty(), "{:?}", more);
        let kept: BTreeSet<_> = with.kept.iter().collect();
        prop_assert!(without.kept.iter().all(|job| kept.contains(job) || with.start.iter().any(|s| s.job == *job && s.beside)));
    }

    #[test]
    fn a_world_that_was_dumped_and_read_back_has_the_same_plan(
        hosts in prop::collection::vec(host(), 1..8),
        stacks in prop::collection::vec(stack(), 1..4),
        events in prop::collection::vec(event(), 0..4),
    ) {
        let mut world = world(&hosts, &stacks);
        for event in &events {
            drop(sim::rounds(&mut world));
            befall(&mut world, event);
        }
        let dumped = serde_json::to_vec(&world).expect("JSON");
        let back: World = serde_json::from_slice(&dumped).expect("a world");
        prop_assert_eq!(&back, &world);
        prop_assert_eq!(dowding::plan(&world), dowding::plan(&back));
    }
}
