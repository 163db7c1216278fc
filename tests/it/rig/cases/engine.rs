//! Docker engines that die and come back, and a registry that dies under a deploy.

use std::time::{Duration, Instant};

use super::super::Rig;
use super::super::stack::Stack;
use crate::e2e::docker::runs;

/// How long the engine stays dead: longer than a host's lease and its look at the engine.
const DEAD: Duration = Duration::from_secs(8);

/// An engine that is away says nothing about its containers: nothing moves, and with live-restore nothing even
/// restarts.
pub(super) fn engine_is_restarted_with_live_restore(rig: &mut Rig) {
    let victim = rig.worker();
    let (runs, places) = (rig.runs(), rig.places());
    rig.hosts[victim].kill_engine();
    // The fault itself.
    std::thread::sleep(DEAD);
    assert_eq!(rig.places(), places, "moved while an engine was away");
    rig.hosts[victim].start_engine(true);
    rig.audit("engine killed and started, live-restore");
    assert_eq!((rig.runs(), rig.places()), (runs, places));
}

/// Without live-restore the engine takes its containers with it; they come back where they were.
pub(super) fn engine_is_restarted_without_live_restore(rig: &mut Rig) {
    let victim = rig.worker();
    rig.hosts[victim].stop_engine();
    rig.hosts[victim].start_engine(false);
    rig.audit("engine told to forgo live-restore");
    let places = rig.places();
    let name = rig.hosts[victim].name;
    let beside = |rig: &Rig| {
        let all = rig.containers();
        runs(all.iter().filter(|(host, _)| *host != name).map(|(_, c)| c))
    };
    let others = beside(rig);
    let started = Instant::now();
    rig.hosts[victim].stop_engine();
    rig.hosts[victim].start_engine(false);
    rig.tell(
        "engine restarted, containers with it: it answers",
        started.elapsed(),
    );
    rig.audit("engine restarted, containers with it");
    rig.tell(
        "engine restarted, containers with it: all is well",
        started.elapsed(),
    );
    assert_eq!((beside(rig), rig.places()), (others, places));
    rig.hosts[victim].stop_engine();
    rig.hosts[victim].start_engine(true);
    rig.audit("engine has live-restore again");
}

/// The registry dies again and again while a push needs it: the push arrives all the same.
pub(super) fn registry_is_killed_during_a_deploy(rig: &mut Rig, fleet: &Stack) {
    let home = rig.registry();
    let started = Instant::now();
    let commit = fleet.change("while the registry fell over");
    rig.until("the push is being built or staged", || {
        let keys = rig.keys()?;
        let pointer = keys.get("/release/fleet").ok_or("no pointer")?;
        let begun = pointer.contains(&commit.0) || pointer.contains(commit.tag());
        begun.then_some(()).ok_or_else(|| pointer.clone())
    });
    for _ in 0..2 {
        let containers = rig.hosts[home].containers();
        let registry = containers.iter().find(|c| c.stack == "core" && c.running);
        if let Some(registry) = registry {
            rig.hosts[home].docker.try_run(&["kill", &registry.id]);
        }
        rig.until("the registry runs again", || {
            let containers = rig.hosts[home].containers();
            let up = containers.iter().any(|c| c.stack == "core" && c.running);
            up.then_some(()).ok_or("not yet".to_owned())
        });
    }
    rig.live("fleet", &commit);
    rig.tell(
        "registry killed twice during a deploy: from the push to live",
        started.elapsed(),
    );
    rig.audit("registry killed during a deploy");
}
