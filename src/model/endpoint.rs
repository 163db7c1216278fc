//! Endpoints: where a healthy job can be reached (`/ports`), and the listeners of links.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::job::{Instance, JobId, JobKey};
use super::names::{NodeName, StackName, Tag};
use super::spec::{LinkTarget, Proto};

/// One key under `/ports`. The slot is not in the key: two copies differ by job id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Stack.
    pub stack: StackName,
    /// Tag the job runs at.
    pub tag: Tag,
    /// Node.
    pub node: NodeName,
    /// Container port.
    pub port: u16,
    /// Protocol.
    pub proto: Proto,
    /// The host's address.
    pub ip: IpAddr,
    /// The host's port.
    pub host_port: u16,
    /// The job that answers there.
    pub job_id: JobId,
}

impl Endpoint {
    /// `ip:hostPort`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.host_port)
    }

    /// The placement that published it; `None` when its id was not made by viking.
    #[must_use]
    pub fn placement(&self) -> Option<(JobKey, Instance)> {
        let start = format!("{}.{}.{}.", self.stack, self.tag, self.node);
        let (slot, instance) = self.job_id.0.strip_prefix(&start)?.split_once('.')?;
        let job = JobKey {
            stack: self.stack.clone(),
            tag: self.tag.clone(),
            node: self.node.clone(),
            slot: slot.parse().ok()?,
        };
        Some((job, Instance(instance.parse().ok()?)))
    }
}

/// One listener of the ambassador: who links, from which tag, to what, on which of its ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkKey {
    /// The stack that links.
    pub stack: StackName,
    /// The tag its container runs at.
    pub tag: Tag,
    /// What it links to.
    pub target: LinkTarget,
    /// The target's container port.
    pub port: u16,
    /// Its protocol.
    #[serde(default, skip_serializing_if = "Proto::is_tcp")]
    pub proto: Proto,
}

impl LinkKey {
    /// The target's stack.
    #[must_use]
    pub fn target_stack(&self) -> &StackName {
        self.target.stack.as_ref().unwrap_or(&self.stack)
    }
}

/// Asks the ambassador for a listener on a stack's gateway address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenRequest {
    /// Whose, to what.
    pub key: LinkKey,
    /// The host's address on the consumer's network, with that network's prefix: nobody outside of
    /// it is answered.
    pub gateway: IpNet,
    /// The port containers already know, after a restart; a free one when absent.
    pub port: Option<u16>,
}

/// A healthy copy that a link or a route may reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Copy {
    /// The job that answers, for logs.
    pub job_id: JobId,
    /// Where to dial.
    pub address: SocketAddr,
    /// Whether that is a container of the host that asks.
    pub here: bool,
    /// Its slot, if its id tells.
    pub slot: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_names_the_placement_that_published_it() {
        let job = JobKey {
            stack: StackName::parse("s").unwrap(),
            tag: Tag::parse("0123456789ab-2").unwrap(),
            node: NodeName::parse("web").unwrap(),
            slot: 3,
        };
        let mut endpoint = Endpoint {
            stack: job.stack.clone(),
            tag: job.tag.clone(),
            node: job.node.clone(),
            port: 80,
            proto: Proto::Tcp,
            ip: IpAddr::from([127, 0, 0, 1]),
            host_port: 20_000,
            job_id: job.id(Instance(77)),
        };
        assert_eq!(endpoint.placement(), Some((job, Instance(77))));
        endpoint.job_id = JobId("else".to_owned());
        assert_eq!(endpoint.placement(), None);
    }
}
