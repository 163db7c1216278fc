//! Images that must be on a host before a slot is handed over there: a pull takes as long as a
//! registry likes, and between the stop of the old copy and the start of the new one nobody serves.
//! Called by `rollout` before each hand-over, and by the API to say what one waits for. Pure; the
//! fetching is done by `deploy::fetch` on the host.

use std::collections::BTreeSet;

use crate::model::host::{Fetch, Fetched};
use crate::model::job::JobKey;
use crate::model::names::HostName;
use crate::model::release::{Cut, Pointer, Release};
use crate::model::world::{StackWorld, World};

/// What a host must have before it takes a slot over; `None` when the live copy there is made from
/// the same image.
#[must_use]
pub fn needed(
    world: &World,
    stack: &StackWorld,
    release: &Release,
    (node, slot): &Cut,
    host: &HostName,
) -> Option<Fetch> {
    let image = |job: &JobKey| {
        let spec = stack.procs.get(&(job.node.clone(), job.tag.clone()))?;
        Some(spec.image.clone())
    };
    let image_after = image(&release.job(node, *slot)?)?;
    let before = stack.live().and_then(|live| live.job(node, *slot));
    let runs_there = |job: &JobKey| world.run.get(job) == Some(host);
    let same = |job: &JobKey| image(job).is_some_and(|image| image == image_after);
    if before.is_some_and(|job| runs_there(&job) && same(&job)) {
        return None;
    }
    Some(Fetch {
        host: host.clone(),
        image: image_after,
    })
}

/// The first of these that is not where it must be yet, in words.
#[must_use]
pub fn missing(world: &World, fetches: &BTreeSet<Fetch>) -> Option<String> {
    fetches.iter().find_map(|fetch| {
        let reference = reference(fetch);
        match answer(world, fetch) {
            Some(fetched) if fetched.error.is_empty() => None,
            Some(Fetched { error, .. }) => {
                let host = &fetch.host;
                Some(format!("{host} cannot fetch {reference}: {error}"))
            }
            None => Some(format!("{} fetches {reference}", fetch.host)),
        }
    })
}

/// What the next hand-over waits for, in words.
#[must_use]
pub fn holds_up(world: &World, pointer: &Pointer) -> Option<String> {
    let reason = missing(world, &pointer.fetch)?;
    Some(format!("nothing is handed over yet: {reason}"))
}

fn answer<'a>(world: &'a World, fetch: &Fetch) -> Option<&'a Fetched> {
    let host = world.hosts.get(&fetch.host)?;
    host.fetched.iter().find(|f| f.image == fetch.image)
}

/// Our own registry's address is the same for everybody and tells nobody anything.
fn reference(fetch: &Fetch) -> String {
    let reference = fetch.image.reference("");
    reference.trim_start_matches('/').to_owned()
}
