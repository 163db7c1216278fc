//! Endpoints of this host: which addresses of its containers others may use. Pure; called by the
//! worker. A job has endpoints only while it is healthy and nothing is being done to it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::docker::Container;
use crate::model::endpoint::Endpoint;
use crate::model::job::{Instance, JobKey};
use crate::model::registry::runs_registry;
use crate::model::spec::Published;

/// Where the ports of a job are published, on a host with this address. Of the registry on loopback:
/// it asks nobody for a credential, so other hosts come through this host's gate (`router`).
#[must_use]
pub fn publish_on(job: &JobKey, address: IpAddr) -> IpAddr {
    if runs_registry(job) {
        return IpAddr::from(Ipv4Addr::LOCALHOST);
    }
    address
}

/// The endpoints of one healthy container on a host with this address. The gate of a registry
/// listens on the address, on the very port that is published on loopback.
#[must_use]
pub fn of(
    job: &JobKey,
    instance: Instance,
    container: &Container,
    address: IpAddr,
) -> BTreeSet<Endpoint> {
    let gated = runs_registry(job);
    container
        .published
        .iter()
        .map(|binding| Endpoint {
            stack: job.stack.clone(),
            tag: job.tag.clone(),
            node: job.node.clone(),
            port: binding.port,
            proto: binding.proto,
            ip: if gated { address } else { binding.ip },
            host_port: binding.host_port,
            job_id: job.id(instance),
        })
        .collect()
}

/// Published ports, the way a state record shows them.
#[must_use]
pub fn published(container: &Container) -> Vec<Published> {
    let bindings = container.published.iter();
    bindings
        .map(|binding| Published {
            port: binding.port,
            proto: binding.proto,
            ip: binding.ip,
            host_port: binding.host_port,
        })
        .collect()
}
