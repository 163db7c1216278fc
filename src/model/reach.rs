//! What one host can reach: pointers, endpoints, and its own jobs' addresses, looked up by node and
//! port. Made from the store by whoever routes; the ambassador, the router and the API ask it. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::endpoint::{Copy, Endpoint};
use super::job::{JobKey, StateRecord};
use super::names::{NodeName, StackName, Tag};
use super::resolve::StackMap;
use super::spec::Proto;

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

/// [`Seen`], ordered for asking.
#[derive(Debug)]
pub struct Reach<'a> {
    endpoints: BTreeMap<(&'a StackName, &'a NodeName), Vec<&'a Endpoint>>,
    own: BTreeMap<String, &'a StateRecord>,
}

impl<'a> Reach<'a> {
    /// Orders what was seen.
    #[must_use]
    pub fn of(seen: &'a Seen) -> Self {
        let mut endpoints: BTreeMap<_, Vec<&Endpoint>> = BTreeMap::new();
        for end in &seen.endpoints {
            let of_node = endpoints.entry((&end.stack, &end.node)).or_default();
            of_node.push(end);
        }
        let own = seen.own.iter();
        let own = own.map(|(job, state)| (job.id(state.instance).0, state));
        Self {
            endpoints,
            own: own.collect(),
        }
    }

    /// Healthy copies of a node at some tags, by the address this host should dial: the container's own
    /// where it runs here (the published port accepts for dead processes), the published one elsewhere.
    #[must_use]
    pub fn copies(
        &self,
        stack: &StackName,
        node: &NodeName,
        tags: &[Tag],
        port: u16,
        proto: Proto,
    ) -> Vec<Copy> {
        let ends = self.endpoints.get(&(stack, node));
        let mut copies: Vec<Copy> = ends
            .into_iter()
            .flatten()
            .filter(|end| tags.contains(&end.tag) && end.port == port && end.proto == proto)
            .map(|end| {
                let direct = self.own.get(&end.job_id.0).and_then(|state| state.address);
                Copy {
                    job_id: end.job_id.clone(),
                    address: direct.map_or_else(|| end.address(), |ip| SocketAddr::new(ip, port)),
                    here: direct.is_some(),
                    slot: end.placement().map(|(job, _)| job.slot),
                }
            })
            .collect();
        copies.sort();
        copies.dedup();
        copies
    }

    /// The lowest TCP port that copies of a node are reached at.
    #[must_use]
    pub fn lowest_port(&self, stack: &StackName, node: &NodeName) -> Option<u16> {
        let ends = self.endpoints.get(&(stack, node));
        let tcp = ends.into_iter().flatten();
        let tcp = tcp.filter(|end| end.proto == Proto::Tcp);
        tcp.map(|end| end.port).min()
    }
}
