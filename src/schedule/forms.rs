//! Whether every host can read what a release would write down. A host of an older version leaves out
//! what it does not know: it would start a process without its variables. So a release that needs a
//! newer form waits until all hosts have been upgraded. Asked by `leader` right before a release is
//! staged, by `variables` and by `foretell`. Pure.

use super::compose::Procs;
use crate::model::release::{Again, NodeKind, Release, ReleaseNode};
use crate::model::spec::ContainerSpec;
use crate::model::world::World;

/// What hosts read that say nothing of it: everything but what follows.
const FIRST: u32 = 1;

/// Shared variables in specs, jobs that run before a release, and releases made of other variables.
const SHARED_AND_BEFORE: u32 = 2;

/// Websites whose files every host unpacks.
pub(super) const SITES: u32 = 3;

/// Why a release is not written down yet, in words: a host that could not read it. Of hosts that are
/// away nothing is known; they are looked at when they are back, as nothing starts there before.
#[must_use]
pub fn waits(world: &World, release: &Release, procs: &Procs) -> Option<String> {
    let needed = needed(release, procs);
    let mut hosts = world.hosts.iter();
    let (host, old) = hosts.find(|(_, host)| host.reads < needed)?;
    Some(format!(
        "waits for {host}, whose viking {} cannot read such a release: upgrade it",
        old.version
    ))
}

/// The newest form that a release and the specs it brings have.
fn needed(release: &Release, procs: &Procs) -> u32 {
    let website = |node: &ReleaseNode| matches!(node.kind, NodeKind::Website { .. });
    if release.nodes.values().any(website) {
        return SITES;
    }
    let shared = |spec: &ContainerSpec| !spec.settings.shared.is_empty();
    let variables = matches!(release.again, Some(Again::Variables { .. }));
    let pending = release.nodes.values();
    let mut pending = pending.filter_map(|node| node.pending.as_deref());
    if variables || !release.before.is_empty() || procs.values().any(shared) || pending.any(shared)
    {
        return SHARED_AND_BEFORE;
    }
    FIRST
}
