//! Why a job is where it is or nowhere: the one place where the API asks the planner, so that people
//! are told the planner's own words. Pure.

use std::collections::BTreeMap;

use crate::model::job::JobKey;
use crate::model::plan::{Plan, Unplaced};
use crate::model::release::{Pointer, Release, ReleaseNode};
use crate::model::verdict::Verdict;
use crate::model::world::{PinKey, World};
use crate::schedule::dowding;

/// What the rules say of every host for one job of a recorded release; where no pointer wants it,
/// what they would say if its release were live.
pub(crate) fn explain(world: &World, release: &Release, job: &JobKey) -> Vec<Verdict> {
    let now = dowding::explain(world, job);
    let if_live = || {
        let mut then = world.clone();
        let stack = then.stacks.get_mut(&job.stack)?;
        stack.pointer = Pointer {
            live: Some(release.tag.clone()),
            ..Pointer::default()
        };
        dowding::explain(&then, job)
    };
    now.or_else(if_live).unwrap_or_default()
}

/// Why a wanted job has no placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its turn has not come.
    Waiting(String),
    /// No host may run it now.
    Blocked(String),
}

/// Why the wanted jobs without a placement have none.
pub(crate) fn unplaced(world: &World) -> BTreeMap<JobKey, Why> {
    let Plan {
        start,
        waiting,
        blocked,
        ..
    } = dowding::plan(world);
    let start = start.into_iter().map(|start| {
        let why = format!("is about to start on {}", start.host);
        (start.job, Why::Waiting(why))
    });
    let waiting = waiting
        .into_iter()
        .map(|waits| (waits.job, Why::Waiting(waits.reason)));
    let blocked = blocked
        .into_iter()
        .map(|blocked| (blocked.job.clone(), Why::Blocked(reason(&blocked))));
    start.chain(waiting).chain(blocked).collect()
}

/// The reason, with what the rules say of each host where that adds something.
fn reason(blocked: &Unplaced) -> String {
    let against: Vec<String> = blocked
        .verdicts
        .iter()
        .filter(|verdict| !verdict.fits())
        .map(|verdict| (&verdict.host, verdict.ruling.to_string()))
        .filter(|(_, why)| !blocked.reason.contains(why))
        .map(|(host, why)| format!("{host}: {why}"))
        .collect();
    if against.is_empty() {
        blocked.reason.clone()
    } else {
        format!("{} ({})", blocked.reason, against.join("; "))
    }
}

/// Why a pinned job cannot run: its host is not alive.
pub(crate) fn pin_lost(world: &World, node: &ReleaseNode, job: &JobKey) -> Option<String> {
    let seat = world.fixed.get(&PinKey::Seat(job.seat()));
    let volume = || {
        node.shared_volumes.iter().find_map(|volume| {
            let key = PinKey::Volume(job.stack.clone(), volume.clone());
            world.fixed.get(&key)
        })
    };
    let host = &seat.or_else(volume)?.host;
    (!world.hosts.contains_key(host)).then(|| format!("pinned to {host}, which is not alive"))
}
