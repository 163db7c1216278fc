//! Leaders that end, in order and not, and one that stands still and wakes up deposed.

use std::time::{Duration, Instant};

use super::super::Rig;
use super::super::stack::Stack;

/// Between the end of one leadership and the next, when it is handed over.
const HANDED_OVER: Duration = Duration::from_millis(500);

/// Until another leads after a leader was killed: a lease, and some time for etcd to notice.
const FOLLOWED: Duration = Duration::from_secs(10);

/// What only the leader writes.
const DECIDED: [&str; 6] = [
    "/release/",
    "/proc/",
    "/image",
    "/run/",
    "/fixed/",
    "/deploy/",
];

/// `kill -9` of the leader and a push at once: the next one elected brings it live.
pub(super) fn leader_is_killed(rig: &mut Rig, fleet: &Stack) {
    let old = rig.until("somebody leads", || rig.leader());
    let started = Instant::now();
    rig.hosts[old].kill_viking();
    let commit = fleet.change("after the leader's death");
    let new = rig.next_leader(old);
    let took = started.elapsed();
    assert!(took < FOLLOWED, "{took:?}");
    rig.tell("leader killed: another leads", took);
    rig.live("fleet", &commit);
    rig.tell(
        "leader killed: what was pushed then is live",
        started.elapsed(),
    );
    rig.hosts[old].start_viking();
    rig.audit("leader killed");
    assert_eq!(rig.leader(), Ok(new), "leadership moved back");
}

/// SIGTERM: leadership is given up, not left to run out.
pub(super) fn leader_hands_over(rig: &mut Rig) {
    let old = rig.until("somebody leads", || rig.leader());
    let before = rig.runs();
    let watch = rig.etcd.watch(old);
    let started = Instant::now();
    rig.hosts[old].signal_viking("-TERM");
    rig.next_leader(old);
    rig.hosts[old].viking_ends();
    rig.tell("leader told to end: it has ended", started.elapsed());
    let seen = rig.until("the watch has seen both", || {
        let seen = watch.seen("/leader");
        (seen.len() >= 2)
            .then_some(seen.clone())
            .ok_or_else(|| format!("{seen:?}"))
    });
    assert!(seen[0].deleted && !seen[1].deleted, "{seen:?}");
    let gap = seen[1].at - seen[0].at;
    rig.tell(
        "leader told to end: from its resignation to the next one's election",
        gap,
    );
    assert!(gap < HANDED_OVER, "{gap:?}");
    rig.hosts[old].start_viking();
    rig.audit("leader told to end");
    assert_eq!(rig.runs(), before, "a change of leaders touched containers");
}

/// SIGSTOP of the leader for longer than its lease. Meanwhile another leads and a push goes live; after SIGCONT
/// the first one writes nothing that it had in mind.
pub(super) fn leader_stands_still(rig: &mut Rig, fleet: &Stack, pause: Duration) {
    let old = rig.until("somebody leads", || rig.leader());
    let started = Instant::now();
    rig.freeze(old);
    let commit = fleet.change("while the leader stood still");
    let new = rig.next_leader(old);
    rig.tell("leader stopped: another leads", started.elapsed());
    rig.live("fleet", &commit);
    // The rest of the pause is the fault itself, not a wait for anything.
    std::thread::sleep(pause.saturating_sub(started.elapsed()));
    let watch = rig.etcd.watch(new);
    let before = rig.keys().expect("the new leader answers");
    rig.thaw(old);
    rig.audit(&format!("leader stopped for {pause:?}"));
    assert_eq!(rig.leader(), Ok(new), "the deposed leader leads again");
    let own = format!("/deploy/{}/", rig.hosts[old].name);
    let written: Vec<_> = watch
        .seen("/")
        .into_iter()
        .filter(|change| DECIDED.iter().any(|family| change.key.starts_with(family)))
        .filter(|change| !change.key.starts_with(&own))
        .collect();
    let after = rig.keys().expect("a host answers");
    let changed: Vec<_> = written
        .iter()
        .filter(|change| before.get(&change.key) != after.get(&change.key))
        .collect();
    assert!(changed.is_empty(), "decided after SIGCONT: {changed:?}");
}
