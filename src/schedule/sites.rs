//! Which hosts have the files of a website: a release with one becomes live only when each that serves
//! people has them, since any may be asked for it. What a host cannot have is a fault from outside, never
//! the commit's. Asked by `rollout`, and by the API to say what one waits for. Pure; the unpacking is done
//! by `deploy::sites` on the hosts.

use super::forms::SITES;
use crate::model::host::{HostRecord, Readiness};
use crate::model::names::HostName;
use crate::model::release::{Phase, Release};
use crate::model::world::{StackWorld, World};

/// How far a site has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spread {
    /// Hosts that have it whole.
    pub on: usize,
    /// Hosts that are to have it.
    pub of: usize,
    /// The first host that has it not, and why if it said so.
    pub lacks: Option<(HostName, String)>,
}

/// Where a site is; `digest` is its image's.
#[must_use]
pub fn spread(world: &World, digest: &str) -> Spread {
    let mut spread = Spread::default();
    for (name, host) in asked(world) {
        spread.of += 1;
        let here = host.sites.iter().find(|site| site.digest == digest);
        match here {
            Some(site) if site.error.is_empty() => spread.on += 1,
            _ if spread
                .lacks
                .as_ref()
                .is_some_and(|(_, why)| !why.is_empty()) => {}
            _ => {
                let why = here.map(|site| site.error.clone()).unwrap_or_default();
                if spread.lacks.is_none() || !why.is_empty() {
                    spread.lacks = Some((name.clone(), why));
                }
            }
        }
    }
    spread
}

/// Hosts that are alive and ready, however their engines are: files need none. If none is ready, those
/// that are alive.
fn asked(world: &World) -> impl Iterator<Item = (&HostName, &HostRecord)> {
    let ready = |name: &HostName| {
        let member = world.members.get(name);
        member.is_some_and(|member| member.readiness == Readiness::Ready)
    };
    let any = world.hosts.keys().any(ready);
    // One of an older version would never answer.
    let hosts = world.hosts.iter().filter(|(_, host)| host.reads >= SITES);
    hosts.filter(move |(name, _)| !any || ready(name))
}

/// The first site of a release that is not everywhere yet, in words.
#[must_use]
pub fn missing(world: &World, release: &Release) -> Option<String> {
    release.sites().find_map(|(node, image)| {
        let Spread { on, of, lacks } = spread(world, &image.digest);
        let (host, why) = lacks?;
        Some(match why.as_str() {
            "" => format!("the files of {node} are on {on} of {of} hosts, {host} fetches them"),
            why => format!("{host} cannot have the files of {node}: {why}"),
        })
    })
}

/// What a staged release waits for, in words. A release that hands slots over has been everywhere: a host
/// that came since gets the files soon, and nobody is kept waiting between two copies.
#[must_use]
pub fn holds_up(world: &World, stack: &StackWorld) -> Option<String> {
    let staging = stack.pointer.phase == Phase::Staging;
    missing(world, stack.staged().filter(|_| staging)?)
}

#[cfg(test)]
#[path = "sites_tests.rs"]
mod tests;
