//! Scripted worlds: each file of `plans/` is a world; the plan's text and the rollout's next steps
//! are compared with stored ones. A found bug first becomes a file there.

use viking::model::world::World;
use viking::schedule::{check, dowding, rollout, script, sim, squeeze};

fn steps(world: &World) -> String {
    let step = |name| rollout::step(world, name).map(|step| (name, step));
    let lines = world.stacks.keys().filter_map(step).map(|(name, step)| {
        format!(
            "step    {name}: {} ({}) → {}",
            step.event.0, step.event.1, step.pointer.phase
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn each_world_gives_its_plan() {
    insta::glob!("plans/*.yml", |path| {
        let text = std::fs::read_to_string(path).expect("the world can be read");
        let world =
            script::world(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let plan = dowding::plan(&world);
        assert_eq!(
            check::plan(&world, &plan),
            Vec::<check::Complaint>::new(),
            "{}",
            path.display()
        );
        let shown = format!("{text}---\n{}{}", script::plan_text(&plan), steps(&world));
        insta::assert_snapshot!(shown);
    });
}

#[test]
fn a_plan_that_is_refused_for_one_stack_is_written_for_the_others() {
    let text = "hosts: {alpha: {}}\nstacks:\n  \
        bad: {live: a1, releases: {a1: {web: {volume: true}}}}\n  \
        good: {live: a1, releases: {a1: {web: {volume: true}}}}\n";
    let world = script::world(text).expect("a good world");
    let mut plan = dowding::plan(&world);
    assert_eq!((plan.start.len(), plan.pins.len()), (2, 2));
    plan.start.push(plan.start[0].clone());
    let (sound, complaints) = check::sound(&world, plan);
    assert!(complaints.iter().all(|c| c.stack.as_str() == "bad") && !complaints.is_empty());
    let lines = script::plan_text(&sound);
    let changes: Vec<_> = lines.lines().filter(|l| !l.starts_with(' ')).collect();
    assert_eq!(
        changes,
        [
            "start   good/a1/web/0 on alpha",
            "pin     good/web.0 to alpha: its volume is there"
        ]
    );
}

#[test]
fn what_has_no_room_beside_its_live_copy_is_squeezed_and_nothing_else() {
    let squeezed = |text: &str| -> Vec<String> {
        let world = script::world(text).expect("a good world");
        let mut staged = world
            .stacks
            .values()
            .find_map(|s| s.staged())
            .expect("one")
            .clone();
        squeeze::squeeze(&world, &mut staged);
        let nodes = staged.nodes.into_iter().filter(|(_, node)| node.squeezed);
        nodes.map(|(name, _)| name.to_string()).collect()
    };
    let one = "hosts: {alpha: {memory_mb: 1000}}\nstacks:\n  ragnar:\n    live: a1\n    staged: b2\n    phase: staging\n    \
        releases: {a1: {web: {memory_mb: 600}, api: {memory_mb: 100}}, b2: {web: {memory_mb: 600}, api: {memory_mb: 100}}}\n\
        jobs:\n  - {job: ragnar/a1/web/0, host: alpha, state: healthy}\n  - {job: ragnar/a1/api/0, host: alpha, state: healthy}\n";
    assert_eq!(squeezed(one), ["web"]);
    // Another host has room.
    let two = one.replace(
        "{alpha: {memory_mb: 1000}}",
        "{alpha: {memory_mb: 1000}, beta: {memory_mb: 700}}",
    );
    assert!(squeezed(&two).is_empty());
    // The host lacks what a hand-over would not bring.
    assert!(squeezed(&one.replace("alpha: {", "alpha: {engine_down: true, ")).is_empty());
    let more = one.replace("b2: {web: {memory_mb: 600}", "b2: {web: {memory_mb: 2000}");
    assert!(squeezed(&more).is_empty());
    // Unchanged, exclusive, or without a live copy.
    let same = one.replace(
        "b2: {web: {memory_mb: 600}",
        "b2: {web: {tag: a1, memory_mb: 600}",
    );
    assert!(squeezed(&same).is_empty());
    let data = one.replace(
        "b2: {web: {memory_mb: 600}",
        "b2: {web: {volume: true, memory_mb: 600}",
    );
    assert!(squeezed(&data).is_empty());
    let new = one.replace("a1: {web: {memory_mb: 600}, ", "a1: {");
    assert!(squeezed(&new).is_empty());
    // What runs first has left its room when the others come.
    let first = one.replace(
        "web: {memory_mb: 600}",
        "web: {memory_mb: 350, before: true}",
    );
    assert!(squeezed(&first).is_empty());
    // What drains leaves its room.
    let drains = one
        .replace("live: a1", "live: a1\n    retiring: c3")
        .replace("releases: {", "releases: {c3: {web: {memory_mb: 500}}, ")
        .replace("memory_mb: 600", "memory_mb: 400")
        .replace(
            "jobs:\n",
            "jobs:\n  - {job: ragnar/c3/web/0, host: alpha, state: healthy}\n",
        );
    assert!(squeezed(&drains).is_empty());
}

/// A world in which the host still sees a job that is placed there no more.
fn only_seen(text: &str, job: &str) -> World {
    let mut world = script::world(text).expect("a good world");
    let mut placed = world.assignments.keys();
    let seat = placed.find(|(placed, _)| placed.to_string() == job);
    let seat = seat.expect("the job").clone();
    world.assignments.remove(&seat);
    world.run.remove(&seat.0);
    world
}

/// What becomes of each job, without the verdicts.
fn changes(world: &World) -> Vec<String> {
    let text = script::plan_text(&dowding::plan(world));
    let lines = text.lines().filter(|line| !line.starts_with(' '));
    lines.map(str::to_owned).collect()
}

#[test]
fn who_links_and_is_still_seen_keeps_what_it_links_to() {
    let text = "now_ms: 1000\nhosts: {alpha: {}}\nstacks:\n  ragnar:\n    live: b2\n    retiring: a1\n    \
        releases: {a1: {web: {link: [logic]}, logic: {}}, b2: {web: {}, logic: {}}}\n\
        jobs:\n  - {job: ragnar/a1/web/0, host: alpha, state: stopping}\n  \
        - {job: ragnar/a1/logic/0, host: alpha, state: healthy}\n  \
        - {job: ragnar/b2/web/0, host: alpha, state: healthy}\n  \
        - {job: ragnar/b2/logic/0, host: alpha, state: healthy}\n";
    let mut world = only_seen(text, "ragnar/a1/web/0");
    let stop = "stop    ragnar/a1/logic/0 on alpha: replaced by b2".to_owned();
    assert!(!changes(&world).contains(&stop), "{:?}", changes(&world));
    world
        .states
        .retain(|(_, job), _| job.to_string() != "ragnar/a1/web/0");
    assert!(changes(&world).contains(&stop), "{:?}", changes(&world));
}

#[test]
fn what_is_still_seen_has_its_room_until_it_is_gone() {
    let text = "hosts: {alpha: {memory_mb: 1000}}\nstacks:\n  ragnar:\n    live: a1\n    \
        releases: {a1: {api: {memory_mb: 600}, web: {memory_mb: 600, scale: 0}}}\n\
        jobs: [{job: ragnar/a1/web/0, host: alpha, state: stopping}]\n";
    let mut world = only_seen(text, "ragnar/a1/web/0");
    let blocked = "blocked ragnar/a1/api/0: 1× no room: ";
    assert!(
        changes(&world)[0].starts_with(blocked),
        "{:?}",
        changes(&world)
    );
    world.states.clear();
    assert_eq!(changes(&world), ["start   ragnar/a1/api/0 on alpha"]);
}

#[test]
fn an_old_container_of_the_same_slot_does_not_keep_the_port_from_it() {
    let text = "hosts: {alpha: {}}\nstacks: {ragnar: {live: a1, releases: {a1: {dns: {port: 53}, names: {port: 53}}}}}\n\
        jobs: [{job: ragnar/a1/dns/0, host: alpha, state: stopping}]\n";
    let world = only_seen(text, "ragnar/a1/dns/0");
    let held = "blocked ragnar/a1/names/0: 1× port 53 is held by ragnar/dns.0";
    assert_eq!(changes(&world), ["start   ragnar/a1/dns/0 on alpha", held]);
}

#[test]
fn of_hosts_that_are_as_full_the_one_that_has_run_the_image_is_taken() {
    let text = "hosts: {alpha: {}, beta: {}}\nstacks:\n  \
        other: {live: c3, releases: {c3: {site: {}}}}\n  \
        ragnar: {live: a1, releases: {a1: {api: {}, web: {}}}}\n\
        jobs:\n  - {job: other/c3/site/0, host: alpha}\n  - {job: ragnar/a1/api/0, host: beta}\n";
    let mut world = script::world(text).expect("a good world");
    let lines = changes(&world);
    assert!(
        lines.contains(&"start   ragnar/a1/web/0 on alpha".to_owned()),
        "{lines:?}"
    );
    sim::settle(&mut world);
    let lines = changes(&world);
    assert!(
        lines.contains(&"start   ragnar/a1/web/0 on beta".to_owned()),
        "{lines:?}"
    );
}

/// The next pointer of `ragnar`.
fn next_pointer(world: &World) -> Option<viking::model::release::Pointer> {
    let name = viking::model::names::StackName::parse("ragnar").expect("a name");
    rollout::step(world, &name).map(|step| step.pointer)
}

const TWO_SLOTS: &str = "hosts: {alpha: {}}\nstacks:\n  ragnar:\n    live: a1\n    staged: b2\n    phase: staging\n    \
    fetched: [alpha]\n    releases: {a1: {db: {volume: true, scale: 2}}, b2: {db: {volume: true, scale: 2}}}\n\
    jobs:\n  - {job: ragnar/a1/db/0, host: alpha, state: healthy}\n  - {job: ragnar/a1/db/1, host: alpha, state: healthy}\n\
    fixed: {ragnar/db.0: alpha, ragnar/db.1: alpha}\n";

#[test]
fn a_replaced_copy_goes_on_while_a_router_waits_for_its_answer_though_not_for_ever() {
    let text = include_str!("plans/draining.yml");
    let mut world = script::world(text).expect("a good world");
    let stops = |world: &World| {
        let plan = dowding::plan(world);
        let stopped = plan
            .stop
            .iter()
            .map(|stop| stop.placement.job.node.to_string());
        stopped.collect::<Vec<_>>()
    };
    let of_web = |placed: &&viking::model::job::Assignment| {
        placed.job.tag.as_str().starts_with("a1") && placed.job.node.as_str() == "web"
    };
    let old = world
        .assignments
        .values()
        .find(of_web)
        .expect("it is placed");
    let id = old.job.id(old.instance);
    let alpha = world.hosts.values_mut().next().expect("alpha");
    alpha.draining.push(id);
    world.now_ms = 500 + 2_000;
    assert_eq!(stops(&world), ["cron"], "it has a request");
    world.now_ms = 500 + 30_000;
    assert!(
        stops(&world).contains(&"web".to_owned()),
        "that is long enough"
    );
    world.now_ms = 500 + 2_000;
    world
        .hosts
        .values_mut()
        .next()
        .expect("alpha")
        .draining
        .clear();
    assert!(stops(&world).contains(&"web".to_owned()));
}

#[test]
fn slots_are_handed_over_one_at_a_time() {
    let world = script::world(TWO_SLOTS).expect("a good world");
    let pointer = next_pointer(&world).expect("a step");
    let cut: Vec<_> = pointer.cut.iter().map(|(_, slot)| *slot).collect();
    assert_eq!(cut, [0]);
}

#[test]
fn a_hand_over_that_was_put_off_is_tried_again_only_after_a_while() {
    let mut world = script::world(TWO_SLOTS).expect("a good world");
    for stack in world.stacks.values_mut() {
        stack.pointer.reason = "hand-over put off: test".to_owned();
    }
    world.now_ms = rollout::CUT_AGAIN_MS - 1;
    assert_eq!(next_pointer(&world), None);
    world.now_ms += 1;
    assert_eq!(next_pointer(&world).expect("a step").cut.len(), 1);
}

#[test]
fn what_was_live_retires_when_a_release_goes_live() {
    let text = "hosts: {alpha: {}}\nstacks:\n  ragnar:\n    live: a1\n    staged: b2\n    phase: staging\n    \
        releases: {a1: {web: {}}, b2: {web: {}}}\n\
        jobs:\n  - {job: ragnar/a1/web/0, host: alpha, state: healthy}\n  - {job: ragnar/b2/web/0, host: alpha, state: healthy}\n";
    let world = script::world(text).expect("a good world");
    let pointer = next_pointer(&world).expect("a step");
    let tags = [&pointer.live, &pointer.staged, &pointer.retiring];
    let tags = tags.map(|tag| tag.as_ref().map(viking::model::names::Tag::as_str));
    assert_eq!(tags, [Some("b2"), None, Some("a1")]);
}

mod properties {
    use super::*;
    use proptest::prelude::*;
    use viking::model::host::Readiness;
    use viking::model::job::JobKey;
    use viking::schedule::relocate;
    use viking::schedule::wanted::Role;

    fn node() -> impl Strategy<Value = String> {
        let flags = (prop::bool::ANY, prop::bool::ANY, prop::bool::weighted(0.3));
        (0..3_u32, prop::bool::ANY, prop::bool::ANY, 0..4_u8, flags).prop_map(
            |(scale, volume, service, port, (link, big, before))| {
                // Two slots that are pinned to one host can never both have one port of it.
                let port = if port == 0 && scale < 2 { "port: 8080," } else { "" };
                let link = if link { "link: [aa]," } else { "" };
                // Two copies have room on `alpha`, a third or another host has not.
                let big = if big && !volume && port.is_empty() { "memory_mb: 400," } else { "" };
                // What runs first has to have room beside what is live.
                let before = before && big.is_empty();
                format!("{{scale: {scale}, volume: {volume}, service: {service}, before: {before}, {port} {link} {big} expose: true}}")
            },
        )
    }

    fn release() -> impl Strategy<Value = String> {
        (node(), node(), node()).prop_map(|(a, b, c)| {
            // Only `bb` and `cc` may link, so that there is no cycle.
            let a = a.replace("link: [aa],", "");
            let small = |node: String| {
                node.replace("port: 8080,", "")
                    .replace("memory_mb: 400,", "")
            };
            let (b, c) = (small(b), small(c));
            format!("{{aa: {a}, bb: {b}, cc: {c}}}")
        })
    }

    fn state() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "healthy",
            "starting",
            "backoff",
            "exited",
            "unhealthy",
        ])
    }

    fn job() -> impl Strategy<Value = String> {
        let tag = prop::sample::select(vec!["a1", "b2", "c3", "static"]);
        let node = prop::sample::select(vec!["aa", "bb", "cc", "dd", "aa.before", "bb.before"]);
        let host = prop::sample::select(vec!["alpha", "beta", "gamma"]);
        (tag, node, 0..3_u32, host, state(), 0..4_u32).prop_map(|(tag, node, slot, host, state, failures)| {
            format!("  - {{job: ragnar/{tag}/{node}/{slot}, host: {host}, state: {state}, failures: {failures}}}\n")
        })
    }

    fn world() -> impl Strategy<Value = String> {
        let phase = prop::sample::select(vec!["staging", "cutting", "live", "reverting", "failed"]);
        let releases = (release(), release(), release());
        let jobs = prop::collection::vec(job(), 0..12);
        let host = prop::sample::select(vec![
            "{memory_mb: 300}",
            "{memory_mb: 300, dead: true}",
            "{memory_mb: 300, lost: true}",
            "{memory_mb: 300, readiness: draining}",
            "{memory_mb: 300, engine_down: true}",
        ]);
        let hosts = (host.clone(), host);
        let cut = prop::sample::subsequence(vec!["aa.0", "bb.0", "cc.1"], 0..3);
        let pointers = (prop::bool::ANY, prop::bool::ANY, 0..5_000_u64);
        (phase, releases, jobs, hosts, cut, pointers).prop_map(|(phase, (a, b, c), jobs, (h1, h2), cut, (live, retiring, now))| {
            let live = if live { "live: a1" } else { "removed: false" };
            let retiring = if retiring { "retiring: c3" } else { "since_ms: 0" };
            let staged = if matches!(phase, "staging" | "cutting" | "reverting") { "staged: b2" } else { "removing: false" };
            // Slots are being handed over in one phase only.
            let cut = if phase == "cutting" { cut } else { Vec::new() };
            let mut text = format!(
                "now_ms: {now}\nhosts: {{alpha: {{memory_mb: 1000}}, beta: {h1}, gamma: {h2}}}\nstacks:\n  ragnar:\n    phase: {phase}\n    {live}\n    {retiring}\n    {staged}\n    cut: [{}]\n    releases: {{a1: {a}, b2: {b}, c3: {c}}}\n",
                cut.join(", ")
            );
            if !jobs.is_empty() {
                text.push_str("jobs:\n");
                text.extend(jobs);
            }
            text
        })
    }

    /// A world in which the staged release was staged as the leader does it.
    fn staged_world(text: &str) -> World {
        let mut world = script::world(text).expect("a generated world is good");
        let staged = world.stacks.values().find_map(|stack| stack.staged());
        if let Some(mut staged) = staged.cloned() {
            // As it was then: nothing of it was placed.
            let mut before = world.clone();
            let live = world.stacks[&staged.stack].live().cloned();
            let is_live = |job: &JobKey| {
                let node = live.as_ref().and_then(|live| live.nodes.get(&job.node));
                node.is_some_and(|node| node.tag == job.tag)
            };
            before.assignments.retain(|(job, _), _| is_live(job));
            before.run.retain(|job, _| is_live(job));
            before.states.retain(|(_, job), _| is_live(job));
            squeeze::squeeze(&before, &mut staged);
            let stack = world.stacks.entry(staged.stack.clone()).or_default();
            stack.releases.insert(staged.tag.clone(), staged);
        }
        world
    }

    /// Every host has what it was asked to fetch.
    fn all_fetched(world: &mut World) {
        let pointers = world.stacks.values().map(|stack| &stack.pointer);
        let asked: Vec<_> = pointers.flat_map(|p| p.fetch.clone()).collect();
        for viking::model::host::Fetch { host, image } in asked {
            let error = String::new();
            if let Some(record) = world.hosts.get_mut(&host) {
                record
                    .fetched
                    .push(viking::model::host::Fetched { image, error });
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn a_plan_breaks_no_invariant_and_is_empty_after_its_writes(text in world()) {
            let mut world = staged_world(&text);
            let plan = dowding::plan(&world);
            prop_assert_eq!(check::plan(&world, &plan), Vec::<check::Complaint>::new());
            prop_assert_eq!(&plan, &dowding::plan(&world));
            sim::carry_out(&mut world, &plan);
            let mut again = dowding::plan(&world);
            if !plan.flip.is_empty() {
                // The copy that no longer answers may end, and what links to the one that does has waited for it.
                prop_assert!(again.flip.is_empty(), "{}", script::plan_text(&again));
                sim::carry_out(&mut world, &again);
                again = dowding::plan(&world);
            }
            prop_assert!(again.is_empty(), "{}", script::plan_text(&again));
        }

        #[test]
        fn a_drained_host_ends_up_with_what_must_stay_and_no_job_is_without_a_copy(text in world()) {
            let mut world = staged_world(&text);
            let name = viking::model::names::StackName::parse("ragnar").unwrap();
            let serving = |world: &World, job: &JobKey| {
                let hosts = world.hosts.keys();
                hosts.filter_map(|host| world.placed_on(job, host)).any(|at| relocate::serves(world, at))
            };
            for _ in 0..16 {
                let before: Vec<_> = world.run.keys().filter(|job| serving(&world, job)).cloned().collect();
                let plan = dowding::plan(&world);
                prop_assert_eq!(check::plan(&world, &plan), Vec::<check::Complaint>::new());
                sim::carry_out(&mut world, &plan);
                let wanted = viking::schedule::wanted::wanted(&name, &world.stacks[&name]);
                for job in wanted.iter().filter(|w| w.role != Role::Retiring).map(|w| &w.job) {
                    prop_assert!(!before.contains(job) || serving(&world, job), "{job}\n{}", script::plan_text(&plan));
                }
                sim::settle(&mut world);
                world.now_ms += 1_000;
            }
            let plan = dowding::plan(&world);
            prop_assert!(plan.is_empty(), "{}", script::plan_text(&plan));
            for wanted in viking::schedule::wanted::wanted(&name, &world.stacks[&name]) {
                let Some(placed) = world.placement(&wanted.job) else { continue };
                let draining = world.members[&placed.host].readiness == Readiness::Draining;
                let somewhere = dowding::would_take(&world, &wanted.job).is_some();
                let stays = relocate::stays(wanted.node).is_some() || wanted.role == Role::Retiring;
                prop_assert!(!draining || stays || !somewhere, "{}", placed.job);
            }
        }

        #[test]
        fn a_release_that_works_goes_live_and_nothing_else_is_left(text in world()) {
            let mut world = staged_world(&text);
            let name = viking::model::names::StackName::parse("ragnar").unwrap();
            for host in ["alpha", "beta", "gamma"] {
                let host = viking::model::names::HostName::parse(host).unwrap();
                let record = world.hosts.values().next().unwrap().clone();
                let record = viking::model::host::HostRecord { engine: viking::model::host::EngineState::Up { version: String::new() }, ..record };
                world.hosts.insert(host.clone(), record);
                world.members.get_mut(&host).unwrap().readiness = Default::default();
            }
            world.lost.clear();
            let staged = world.stacks[&name].pointer.staged.clone();
            let reverting = world.stacks[&name].pointer.phase == viking::model::release::Phase::Reverting;
            for _ in 0..100 {
                let plan = dowding::plan(&world);
                prop_assert_eq!(check::plan(&world, &plan), Vec::<check::Complaint>::new());
                sim::carry_out(&mut world, &plan);
                sim::settle(&mut world);
                all_fetched(&mut world);
                world.now_ms += 1_000;
                if let Some(step) = rollout::step(&world, &name) {
                    let stack = world.stacks.get_mut(&name).unwrap();
                    stack.pointer = step.pointer;
                }
            }
            let stack = &world.stacks[&name];
            let blocked = dowding::plan(&world).blocked;
            prop_assert!(blocked.is_empty(), "{:?}", blocked);
            prop_assert_eq!(&stack.pointer.staged, &None);
            prop_assert_eq!(&stack.pointer.retiring, &None);
            if let (Some(staged), false) = (staged, reverting) {
                prop_assert_eq!(stack.pointer.live.as_ref(), Some(&staged));
            }
            let wanted = viking::schedule::wanted::wanted(&name, stack).len();
            prop_assert_eq!(world.run.len(), wanted);
        }
    }
}
