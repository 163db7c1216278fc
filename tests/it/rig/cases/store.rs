//! An etcd that loses members, dies, or stands still: control pauses, and nothing that runs notices.

use std::time::{Duration, Instant};

use super::super::Rig;
use super::super::load::Load;

/// How long all members stay dead: longer than any lease.
const DEAD: Duration = Duration::from_secs(6);

/// Kills the member that leads; the other two go on.
pub(super) fn one_member_is_killed(rig: &mut Rig) {
    let (runs, places) = (rig.runs(), rig.places());
    let load = Load::start(rig);
    let victim = rig.etcd.leader();
    let started = Instant::now();
    rig.etcd.kill(victim);
    rig.until("the keys can be read and say who leads", || rig.leader());
    rig.tell(
        "etcd's leader killed: the store answers again",
        started.elapsed(),
    );
    rig.audit("etcd's leader killed");
    rig.etcd.start_one(victim);
    rig.etcd.healthy(victim);
    rig.audit("etcd's member started again");
    let answered = load.all_answered();
    eprintln!("{answered} requests were answered");
    assert_eq!((rig.runs(), rig.places()), (runs, places));
}

/// Kills every member and starts them again. A viking that is started in between waits for them.
pub(super) fn all_members_are_killed(rig: &mut Rig) {
    let (runs, places, late) = (rig.runs(), rig.places(), rig.worker());
    let load = Load::start(rig);
    rig.etcd.kill_all();
    rig.hosts[late].kill_viking();
    rig.hosts[late].start_viking();
    // The fault itself: so long nobody can say anything to anybody.
    std::thread::sleep(DEAD);
    let started = Instant::now();
    rig.etcd.start_all();
    rig.tell(
        "all etcds killed: healthy again after their start",
        started.elapsed(),
    );
    rig.until("somebody leads", || rig.leader());
    rig.tell(
        "all etcds killed: somebody leads after their start",
        started.elapsed(),
    );
    rig.audit("all etcds killed");
    rig.tell(
        "all etcds killed: all is well after their start",
        started.elapsed(),
    );
    let answered = load.all_answered();
    eprintln!("{answered} requests were answered");
    assert_eq!((rig.runs(), rig.places()), (runs, places));
}

/// All members stand still for a while: every lease may end, and nobody is dead.
pub(crate) fn all_members_stand_still(rig: &mut Rig, pause: Duration) {
    let (runs, places) = (rig.runs(), rig.places());
    let load = Load::start(rig);
    rig.etcd.freeze();
    // The fault itself.
    std::thread::sleep(pause);
    rig.etcd.thaw();
    rig.audit(&format!("all etcds stood still for {pause:?}"));
    load.all_answered();
    let after = format!("after a pause of {pause:?}");
    assert_eq!((rig.runs(), rig.places()), (runs, places), "{after}");
}
