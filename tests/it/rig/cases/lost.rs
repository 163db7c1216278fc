//! Hosts that are gone: killed, cut off, rebooted. What may move runs elsewhere soon, what is pinned waits, and
//! when the host is back nothing runs twice and nothing else was touched.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::Rig;
use super::super::places::{node_of, small};
use crate::e2e::docker::{Container, Runs, runs};

/// A lost host's jobs must run elsewhere by then: a lease, a decision and a start. Far above what is aimed at on
/// an idle machine (6 s), as tests share theirs; what it took is printed.
const ELSEWHERE: Duration = Duration::from_secs(20);

/// What a host that is back still has of jobs that moved must be gone by then; aimed at are 5 s.
const DROPPED: Duration = Duration::from_secs(15);

/// What runs on all hosts but one.
fn runs_beside(rig: &Rig, n: usize) -> Runs {
    let name = rig.hosts[n].name;
    let all = rig.containers();
    runs(
        all.iter()
            .filter(|(host, _)| *host != name)
            .map(|(_, container)| container),
    )
}

/// Waits until jobs run elsewhere, says when the small ones and when all did, and gives those that do. The
/// example's need not where what they wait for is pinned to the host that is gone.
fn moved(rig: &Rig, jobs: &BTreeSet<String>, from: usize, what: &str) -> BTreeSet<String> {
    let name = rig.hosts[from].name;
    assert!(
        !small(jobs).is_empty(),
        "nothing to move on {name}: {jobs:?}"
    );
    let what = format!("{what}: jobs of {name} run elsewhere");
    let (_, first) = rig.within(ELSEWHERE, &what, || rig.elsewhere(&small(jobs), from));
    rig.tell(&what, first);
    let needed = ["ragnar/redis", "ragnar/db"];
    let mut places = rig.places().into_iter();
    let gone = places.any(|(job, host)| host == name && needed.contains(&&*node_of(&job)));
    if !gone {
        let (_, rest) = rig.within(ELSEWHERE, &what, || rig.elsewhere(jobs, from));
        rig.tell(&format!("{what}, the example's too"), first + rest);
    }
    let places = rig.places();
    let left = |job: &&String| places.get(*job).is_some_and(|host| *host != name);
    jobs.iter().filter(left).cloned().collect()
}

/// Waits until a host that is back has dropped the jobs that left, and looks whether anything else was touched.
fn back(rig: &mut Rig, n: usize, left: &BTreeSet<String>, before: &[Container], what: &str) {
    let others = runs_beside(rig, n);
    let leaves = |c: &&Container| left.contains(&job(c));
    let what = format!("{what}: {} has dropped what moved", rig.hosts[n].name);
    let ((), took) = rig.within(DROPPED, &what, || {
        let now = rig.hosts[n].containers();
        let stale: Vec<String> = now.iter().filter(leaves).map(job).collect();
        stale
            .is_empty()
            .then_some(())
            .ok_or_else(|| format!("{stale:?}"))
    });
    rig.tell(&what, took);
    rig.audit(&what);
    // Some that moved may have started only now.
    let now = runs_beside(rig, n);
    let touched: Vec<_> = others
        .iter()
        .filter(|(id, since)| now.get(*id) != Some(*since))
        .collect();
    assert!(
        touched.is_empty(),
        "{what}: {touched:?} of others were touched"
    );
    let stay = runs(before.iter().filter(|c| !leaves(c)));
    let now = runs(&rig.hosts[n].containers());
    assert_eq!(now, stay, "{what}: more than that was touched");
}

fn job(container: &Container) -> String {
    let c = container;
    format!("{}/{}/{}/{}", c.stack, c.tag, c.node, c.slot)
}

/// A worker host dies with everything on it, as far as the others can tell, and comes back.
pub(super) fn worker_is_killed_and_comes_back(rig: &mut Rig) {
    let victim = rig.worker();
    let jobs = rig.movable(victim);
    let before = rig.hosts[victim].containers();
    let what = match rig.etcd.leader() == victim {
        true => "worker killed, etcd's leader with it",
        false => "worker killed",
    };
    rig.hosts[victim].kill_viking();
    rig.cut(victim);
    let jobs = moved(rig, &jobs, victim, what);
    rig.heal(victim);
    rig.hosts[victim].start_viking();
    back(rig, victim, &jobs, &before, "worker back");
}

/// A host is cut off while it lives: the others go on without it; it keeps what it has, reachable from itself,
/// since no news is no order.
pub(super) fn network_is_cut_and_healed(rig: &mut Rig, victim: usize, what: &str) {
    let jobs = rig.movable(victim);
    let before = rig.hosts[victim].containers();
    rig.cut(victim);
    let jobs = moved(rig, &jobs, victim, what);
    let during = rig.hosts[victim].containers();
    assert_eq!(
        runs(&during),
        runs(&before),
        "{what}: a host that heard nothing stopped or started something"
    );
    rig.heal(victim);
    back(rig, victim, &jobs, &before, &format!("{what}, healed"));
}

/// Power is gone and comes back at once: every process of the host, its containers and its etcd.
pub(super) fn host_is_rebooted(rig: &mut Rig) {
    let victim = rig.registry();
    let what = format!(
        "{} rebooted, which has the registry",
        rig.hosts[victim].name
    );
    rig.hosts[victim].power_off();
    rig.etcd.start_one(victim);
    rig.hosts[victim].start_engine(true);
    rig.hosts[victim].start_viking();
    let ((), took) = rig.within(Duration::from_secs(60), &what, || {
        let running = rig.hosts[victim]
            .containers()
            .iter()
            .any(|c| c.stack == "core" && c.running);
        running.then_some(()).ok_or("no registry".to_owned())
    });
    rig.tell(&what, took);
    rig.audit(&what);
}
