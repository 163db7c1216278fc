//! From the store's maps and endpoints to "this listener reaches these addresses". Pure; rebuilt
//! whole on every change and swapped at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::model::endpoint::LinkKey;
use crate::model::reach::{Reach, Seen};
use crate::model::resolve;
use crate::model::spec::Proto;

/// Addresses per listener. A listener without addresses has nobody to talk to now.
pub type Table = BTreeMap<LinkKey, Vec<SocketAddr>>;

/// The copies each listener reaches.
#[must_use]
pub fn build<'a>(seen: &Seen, listeners: impl Iterator<Item = &'a LinkKey>) -> Table {
    let reach = Reach::of(seen);
    let addresses = |key: &LinkKey| {
        let tags = resolve::copies(&seen.stacks, &key.stack, &key.tag, &key.target);
        let (stack, node) = (key.target_stack(), &key.target.node);
        let copies = reach.copies(stack, node, &tags, key.port, Proto::Tcp);
        copies.into_iter().map(|copy| copy.address).collect()
    };
    listeners.map(|key| (key.clone(), addresses(key))).collect()
}

/// Whether anybody may still dial a listener: its tag is named by its stack's pointer, or a job of
/// this host runs at it.
#[must_use]
pub fn needed(seen: &Seen, key: &LinkKey) -> bool {
    let named = seen.stacks.get(&key.stack).is_some_and(|map| {
        let mut nodes = map
            .releases
            .values()
            .flat_map(|release| release.nodes.values());
        nodes.any(|node| node.tag == key.tag)
    });
    let runs = seen
        .own
        .keys()
        .any(|job| job.stack == key.stack && job.tag == key.tag);
    named || runs
}
