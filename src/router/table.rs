//! From the store's maps and endpoints to "this listener reaches these addresses". Pure; rebuilt
//! whole on every change and swapped at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::endpoint::{Copy, LinkKey};
use crate::model::reach::{Reach, Seen};
use crate::model::resolve;

/// Copies per listener. A listener without copies has nobody to talk to now.
pub type Table = BTreeMap<LinkKey, Arc<[Copy]>>;

/// The copies each listener reaches.
#[must_use]
pub fn build<'a>(seen: &Seen, listeners: impl Iterator<Item = &'a LinkKey>) -> Table {
    let reach = Reach::of(seen);
    let copies = |key: &LinkKey| -> Arc<[Copy]> {
        let tags = resolve::copies(&seen.stacks, &key.stack, &key.tag, &key.target);
        let (stack, node) = (key.target_stack(), &key.target.node);
        reach.copies(stack, node, &tags, key.port, key.proto).into()
    };
    listeners.map(|key| (key.clone(), copies(key))).collect()
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
