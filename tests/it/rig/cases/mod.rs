//! What befalls hosts, one module per kind of fault. Rigs are dear, so each test takes its cases one after the
//! other on one rig; every case ends with the audit and says the times it took.

mod engine;
mod leader;
mod live;
mod lost;
pub(super) mod store;

use std::time::Duration;

use super::Rig;

#[test]
fn three_hosts_survive_what_befalls_them() {
    let mut rig = Rig::start(3);
    let fleet = live::example_is_spread_and_reachable(&mut rig);
    let worker = rig.worker();
    lost::network_is_cut_and_healed(&mut rig, worker, "worker cut off");
    leader::leader_stands_still(&mut rig, &fleet, Duration::from_secs(8));
    engine::registry_is_killed_during_a_deploy(&mut rig, &fleet);
    lost::host_is_rebooted(&mut rig);
    lost::worker_is_killed_and_comes_back(&mut rig);
    leader::leader_is_killed(&mut rig, &fleet);
    leader::leader_hands_over(&mut rig);
    store::one_member_is_killed(&mut rig);
    store::all_members_are_killed(&mut rig);
    engine::engine_is_restarted_with_live_restore(&mut rig);
}

#[test]
#[ignore = "takes minutes: run by tests/run.sh --long"]
fn three_hosts_survive_what_takes_longer() {
    let mut rig = Rig::start(3);
    let fleet = live::example_is_spread_and_reachable(&mut rig);
    engine::engine_is_restarted_without_live_restore(&mut rig);
    let leader = rig.until("somebody leads", || rig.leader());
    lost::network_is_cut_and_healed(&mut rig, leader, "leader cut off");
    leader::leader_stands_still(&mut rig, &fleet, Duration::from_secs(60));
    for round in 0..20 {
        let pause = Duration::from_millis(1_000 + 473 * round);
        store::all_members_stand_still(&mut rig, pause);
    }
}
