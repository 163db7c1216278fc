//! From the store's maps and endpoints to "this listener reaches these addresses". Pure; rebuilt
//! whole on every change and swapped at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::model::endpoint::{Copy, Endpoint, LinkKey};
use crate::model::job::{JobKey, StateRecord};
use crate::model::names::{NodeName, StackName, Tag};
use crate::model::resolve::{self, StackMap};
use crate::model::spec::Proto;

/// What the store says about reachability, from one host's point of view.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Pointers and the releases they name.
    pub stacks: BTreeMap<StackName, StackMap>,
    /// Everything under `/ports`.
    pub endpoints: Vec<Endpoint>,
    /// This host's own jobs: their containers can be dialled directly.
    pub own: BTreeMap<JobKey, StateRecord>,
}

/// Addresses per listener. A listener without addresses has nobody to talk to now.
pub type Table = BTreeMap<LinkKey, Vec<SocketAddr>>;

/// The copies each listener reaches.
#[must_use]
pub fn build<'a>(seen: &Seen, listeners: impl Iterator<Item = &'a LinkKey>) -> Table {
    listeners
        .map(|key| (key.clone(), link_addresses(seen, key)))
        .collect()
}

fn link_addresses(seen: &Seen, key: &LinkKey) -> Vec<SocketAddr> {
    let tags = resolve::copies(&seen.stacks, &key.stack, &key.tag, &key.target);
    let copies = copies_at(seen, key.target_stack(), &key.target.node, &tags, key.port);
    copies.into_iter().map(|copy| copy.address).collect()
}

/// Healthy copies of a node at some tags, by the address this host should dial: the container's own
/// where it runs here (the published port accepts for dead processes), the published one elsewhere.
#[must_use]
pub fn copies_at(
    seen: &Seen,
    stack: &StackName,
    node: &NodeName,
    tags: &[Tag],
    port: u16,
) -> Vec<Copy> {
    let here: BTreeMap<String, (&JobKey, &StateRecord)> = seen
        .own
        .iter()
        .map(|(job, state)| (job.id(state.instance).0, (job, state)))
        .collect();
    let mut copies: Vec<Copy> = seen
        .endpoints
        .iter()
        .filter(|end| end.stack == *stack && end.node == *node && tags.contains(&end.tag))
        .filter(|end| end.port == port && end.proto == Proto::Tcp)
        .map(|end| {
            let own = here.get(&end.job_id.0);
            let direct = own.and_then(|(_, state)| state.address);
            let address = direct.map_or_else(|| end.address(), |ip| SocketAddr::new(ip, port));
            Copy {
                job_id: end.job_id.clone(),
                address,
            }
        })
        .collect();
    copies.sort();
    copies.dedup();
    copies
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
