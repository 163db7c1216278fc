//! Hosts that are gone: killed, cut off, rebooted. What may move runs elsewhere soon, what is pinned waits, and
//! when the host is back nothing runs twice and nothing else was touched.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::Rig;
use crate::e2e::docker::{Runs, runs};

/// A lost host's jobs must run elsewhere by then: a lease, a decision and a start. Twice what is aimed at on an
/// idle machine (6 s), as tests share theirs.
const ELSEWHERE: Duration = Duration::from_secs(12);

/// What a host that is back still has of jobs that moved must be gone by then.
const DROPPED: Duration = Duration::from_secs(10);

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

/// What runs on a host and does not belong to these jobs.
fn runs_that_stay(rig: &Rig, n: usize, moved: &BTreeSet<String>) -> Runs {
    let containers = rig.hosts[n].containers();
    let stays = containers.iter().filter(|c| {
        let job = format!("{}/{}/{}/{}", c.stack, c.tag, c.node, c.slot);
        !moved.contains(&job)
    });
    runs(stays)
}

/// The small servers of a set of jobs: how long these take is viking's own time.
fn small(jobs: &BTreeSet<String>) -> BTreeSet<String> {
    jobs.iter()
        .filter(|job| job.starts_with("fleet/"))
        .cloned()
        .collect()
}

/// Waits until jobs run elsewhere, and says when the small ones and when all did. The example's wait for what
/// they link to, so they are left out where that is pinned to the host that is gone.
fn moved(rig: &Rig, jobs: &BTreeSet<String>, from: usize, what: &str) {
    let places = rig.places();
    let pinned = |node: &str| {
        let mut all = places.iter();
        let found =
            all.find(|(job, _)| job.starts_with("ragnar/") && job.contains(&format!("/{node}/")));
        found.is_none_or(|(_, host)| *host == rig.hosts[from].name)
    };
    assert!(
        !small(jobs).is_empty(),
        "nothing to move on {}: {jobs:?}",
        rig.hosts[from].name
    );
    let what = format!("{what}: jobs of {} run elsewhere", rig.hosts[from].name);
    let (_, first) = rig.within(ELSEWHERE, &what, || rig.elsewhere(&small(jobs), from));
    rig.tell(&what, first);
    if !pinned("redis") && !pinned("db") {
        let (_, rest) = rig.within(ELSEWHERE, &what, || rig.elsewhere(jobs, from));
        rig.tell(&format!("{what}, the example's too"), first + rest);
    }
}

/// Waits until a host that is back has dropped what moved, and looks whether anything else was touched.
fn back(rig: &mut Rig, n: usize, jobs: &BTreeSet<String>, stayed: &Runs, what: &str) {
    let others = runs_beside(rig, n);
    let what = format!("{what}: {} has dropped what moved", rig.hosts[n].name);
    let ((), took) = rig.within(DROPPED, &what, || {
        let left = rig.hosts[n].containers();
        let left = left
            .iter()
            .map(|c| format!("{}/{}/{}/{}", c.stack, c.tag, c.node, c.slot));
        let left: Vec<String> = left.filter(|job| jobs.contains(job)).collect();
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    });
    rig.tell(&what, took);
    rig.audit(&what);
    assert_eq!(runs_beside(rig, n), others, "{what}: others were touched");
    assert_eq!(
        runs_that_stay(rig, n, &BTreeSet::new()),
        *stayed,
        "{what}: more than that was touched"
    );
}

/// A worker host dies with everything on it, as far as the others can tell, and comes back.
pub(super) fn worker_is_killed_and_comes_back(rig: &mut Rig) {
    let victim = rig.worker();
    let jobs = rig.movable(victim);
    let stay = runs_that_stay(rig, victim, &jobs);
    let what = match rig.etcd.leader() == victim {
        true => "worker killed, etcd's leader with it",
        false => "worker killed",
    };
    rig.hosts[victim].kill_viking();
    rig.cut(victim);
    moved(rig, &jobs, victim, what);
    rig.heal(victim);
    rig.hosts[victim].start_viking();
    back(rig, victim, &jobs, &stay, "worker back");
}

/// A host is cut off while it lives: the others go on without it; it keeps what it has, reachable from itself,
/// since no news is no order.
pub(super) fn network_is_cut_and_healed(rig: &mut Rig, victim: usize, what: &str) {
    let jobs = rig.movable(victim);
    let before = runs(&rig.hosts[victim].containers());
    let stay = runs_that_stay(rig, victim, &jobs);
    rig.cut(victim);
    moved(rig, &jobs, victim, what);
    let during = runs(&rig.hosts[victim].containers());
    assert_eq!(
        during, before,
        "{what}: a host that heard nothing stopped or started something"
    );
    rig.heal(victim);
    back(rig, victim, &jobs, &stay, &format!("{what}, healed"));
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
