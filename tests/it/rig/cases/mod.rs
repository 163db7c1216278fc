//! What befalls hosts, one module per kind of fault. Rigs are dear, so each test takes its cases one after the
//! other on one rig; every case ends with the audit and says the times it took.

mod live;

use super::Rig;

#[test]
fn three_hosts_survive_what_befalls_them() {
    let mut rig = Rig::start(3);
    live::example_is_spread_and_reachable(&mut rig);
}
