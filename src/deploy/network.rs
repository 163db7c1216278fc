//! Networks: one bridge per stack and host, made with the first container and taken away after the
//! last. Called by the worker. Never touches a network without our labels.

use std::collections::{BTreeMap, BTreeSet};

use super::volume::cluster_short;
use crate::docker::{Network, label};
use crate::model::names::StackName;

/// The name of a stack's network. The cluster's part has a fixed length, so no two stacks share one.
#[must_use]
pub fn name(cluster: &str, stack: &StackName) -> String {
    format!("viking-{}-{stack}", cluster_short(cluster))
}

/// Its labels.
#[must_use]
pub fn labels(cluster: &str, stack: &StackName) -> BTreeMap<String, String> {
    [
        (label::CLUSTER.to_owned(), cluster.to_owned()),
        (label::STACK.to_owned(), stack.to_string()),
    ]
    .into()
}

/// Names of networks that nothing here needs any more. `used` holds the stacks that have a
/// container or a job on this host, or that cannot be read.
#[must_use]
pub fn unused(cluster: &str, networks: &[Network], used: &BTreeSet<StackName>) -> Vec<String> {
    let stack_of = |network: &Network| {
        let ours = network.labels.get(label::CLUSTER).map(String::as_str) == Some(cluster);
        let stack = network.labels.get(label::STACK).filter(|_| ours)?;
        let stack = StackName::parse(stack).ok()?;
        // A network of ours under another name was not made here.
        (network.name == name(cluster, &stack)).then_some(stack)
    };
    networks
        .iter()
        .filter(|network| stack_of(network).is_some_and(|stack| !used.contains(&stack)))
        .map(|network| network.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str, labels: BTreeMap<String, String>) -> Network {
        Network {
            id: name.to_owned(),
            name: name.to_owned(),
            labels,
            gateway: None,
        }
    }

    #[test]
    fn only_our_networks_without_containers_go() {
        let a = StackName::parse("a").unwrap();
        let b = StackName::parse("b").unwrap();
        let cluster = "0123456789";
        let networks = [
            network(&name(cluster, &a), labels(cluster, &a)),
            network(&name(cluster, &b), labels(cluster, &b)),
            network("bridge", BTreeMap::new()),
            network(&name(cluster, &a), labels("another", &a)),
        ];
        let gone = unused(cluster, &networks, &BTreeSet::from([b]));
        assert_eq!(gone, vec![name(cluster, &a)]);
    }
}
