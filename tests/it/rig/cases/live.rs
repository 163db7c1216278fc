//! The example on three hosts, with no fault at all.

use std::time::Instant;

use super::super::Rig;
use super::super::stack::Stack;

/// The example goes live over hosts that have never seen its images; the audit reaches every endpoint from
/// every host.
pub(super) fn example_is_spread_and_reachable(rig: &mut Rig) -> Stack {
    let started = Instant::now();
    rig.ragnar();
    rig.tell(
        "ragnar: from `add` to live on three hosts",
        started.elapsed(),
    );
    let started = Instant::now();
    let fleet = rig.fleet();
    rig.tell(
        "fleet: from `add` to live on three hosts",
        started.elapsed(),
    );
    rig.audit("two stacks went live");
    let hosts = rig.hosts.iter();
    let idle: Vec<&str> = hosts
        .filter(|host| host.containers().is_empty())
        .map(|host| host.name)
        .collect();
    assert!(idle.is_empty(), "nothing runs on {idle:?}");
    fleet
}
