//! Endpoints of this host: which addresses of its containers others may use. Pure; called by the
//! worker. A job has endpoints only while it is healthy and nothing is being done to it.

use std::collections::BTreeSet;

use crate::docker::Container;
use crate::model::endpoint::Endpoint;
use crate::model::job::{Instance, JobKey};
use crate::model::spec::Published;

/// The endpoints of one healthy container.
#[must_use]
pub fn of(job: &JobKey, instance: Instance, container: &Container) -> BTreeSet<Endpoint> {
    container
        .published
        .iter()
        .map(|binding| Endpoint {
            stack: job.stack.clone(),
            tag: job.tag.clone(),
            node: job.node.clone(),
            port: binding.port,
            proto: binding.proto,
            ip: binding.ip,
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
