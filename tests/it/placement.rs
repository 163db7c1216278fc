//! Properties of placement, over worlds of many hosts and stacks. A world is not made up whole: it comes
//! from an empty one by plans that are carried out and by what happens in between, so that whatever is
//! there was put there by the planner.

mod rules;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;
use viking::model::host::{EngineState, Readiness};
use viking::model::job::JobKey;
use viking::model::names::{HostName, StackName, Tag};
use viking::model::plan::Plan;
use viking::model::world::{Pin, PinKey, World};
use viking::schedule::wanted::{Role, wanted};
use viking::schedule::{check, dowding, script, sim};

use self::rules::{forgotten, second_best, too_early, wrong};

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
    /// Containers that were to stop are still there.
    Lingering,
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
        2 => Just(Event::Lingering),
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
        // What was seen before the hosts said how it is now: `settle` keeps it.
        Event::Lingering => {}
    }
}

/// Where data is.
fn homes(world: &World) -> BTreeMap<PinKey, HostName> {
    let home = |(key, pin): (&PinKey, &Pin)| (key.clone(), pin.host.clone());
    world.fixed.iter().map(home).collect()
}

/// As every host says that all is well, but perhaps for containers that were to stop and have not.
fn settle(world: &mut World, lingering: bool) {
    let seen = world.states.clone();
    sim::settle(world);
    let left = seen.into_iter().filter(|_| lingering);
    let left = left.filter(|((host, _), _)| world.hosts.contains_key(host));
    for (at, state) in left.collect::<Vec<_>>() {
        world.states.entry(at).or_insert(state);
    }
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
            prop_assert_eq!(second_best(&world, &plan), Vec::<String>::new(), "{}", script::plan_text(&plan));
            prop_assert_eq!(too_early(&world, &plan), Vec::<String>::new(), "{}", script::plan_text(&plan));
            let data = homes(&world);
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
            let event = events.get(n);
            settle(&mut world, matches!(event, Some(Event::Lingering)));
            world.now_ms += 5_000;
            let needs_no_host = |event: &&Event| {
                !world.members.is_empty() || matches!(event, Event::Joined(_) | Event::Released(_) | Event::Failed(_) | Event::Lingering)
            };
            if let Some(event) = event.filter(needs_no_host) {
                befall(&mut world, event);
            }
            let moved = data.iter().find(|(key, host)| world.fixed[*key].host != **host);
            prop_assert_eq!(moved, None, "where data is never changes");
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
