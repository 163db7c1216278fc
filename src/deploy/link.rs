//! Links: what a container is told of the nodes it links to, and how that survives a restart of
//! viking. Pure; called when a container is made and, for labels, when viking starts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::docker::{Container, label};
use crate::model::endpoint::LinkKey;
use crate::model::job::JobKey;
use crate::model::resolve::copies;
use crate::model::spec::{ContainerSpec, LinkTarget, Proto};
use crate::store::tables::Assigned;

/// Most listeners one container may have: bounds what a label can make us do.
pub const LISTENERS_MAX: usize = 256;

/// A listener a container was told of, and the port it listens on.
pub type Listener = (LinkKey, u16);

/// The listeners a job's links need: one for each exposed port of each target, as the targets'
/// specs say at the tags the resolver names. A target that is not on record yet has none.
#[must_use]
pub fn needs(assigned: &Assigned, job: &JobKey, spec: &ContainerSpec) -> Vec<LinkKey> {
    let keys = spec.settings.link.iter().flat_map(|target| {
        let ports = target_ports(assigned, job, target);
        ports.into_iter().map(|(port, proto)| LinkKey {
            stack: job.stack.clone(),
            tag: job.tag.clone(),
            target: target.clone(),
            port,
            proto,
        })
    });
    keys.take(LISTENERS_MAX).collect()
}

/// In the order of the target's file, so that its first port stays the first.
fn target_ports(assigned: &Assigned, job: &JobKey, target: &LinkTarget) -> Vec<(u16, Proto)> {
    let stack = target.stack.as_ref().unwrap_or(&job.stack);
    let mut seen = BTreeSet::new();
    copies(&assigned.stacks, &job.stack, &job.tag, target)
        .into_iter()
        .filter_map(|tag| {
            assigned
                .specs
                .get(&(stack.clone(), target.node.clone(), tag))
        })
        .flat_map(|spec| &spec.settings.expose)
        .map(|expose| (expose.port, expose.proto))
        .filter(|port| seen.insert(*port))
        .collect()
}

/// The variables that point at the listeners.
#[must_use]
pub fn variables(gateway: IpAddr, listeners: &[Listener]) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    // The target's first TCP port is the one people mean; the first UDP port where there is no other.
    let (tcp, udp): (Vec<_>, Vec<_>) = listeners.iter().partition(|(key, _)| key.proto.is_tcp());
    for (key, listen) in tcp.into_iter().chain(udp) {
        let (name, proto) = (variable_name(key.target.node.as_str()), key.proto);
        let url = format!("{proto}://{}", SocketAddr::new(gateway, *listen));
        let of_proto = proto.to_string().to_ascii_uppercase();
        let port = format!("{name}_PORT_{}_{of_proto}", key.port);
        variables.insert(format!("{port}_ADDR"), gateway.to_string());
        variables.insert(format!("{port}_PORT"), listen.to_string());
        variables.insert(format!("{port}_PROTO"), proto.to_string());
        variables.insert(port, url.clone());
        variables.insert(format!("{name}_HOST"), gateway.to_string());
        variables.entry(format!("{name}_PORT")).or_insert(url);
    }
    variables
}

fn variable_name(node: &str) -> String {
    let letter = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    node.chars().map(letter).collect()
}

/// The label that keeps the listeners; `None` when there are none.
#[must_use]
pub fn to_label(listeners: &[Listener]) -> Option<String> {
    if listeners.is_empty() {
        return None;
    }
    serde_json::to_string(listeners).ok()
}

/// The listeners a container was told of when it was made; none when the label cannot be read.
#[must_use]
pub fn from_label(container: &Container) -> Vec<Listener> {
    let text = container.labels.get(label::LINKS);
    let mut listeners: Vec<Listener> = text
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    listeners.truncate(LISTENERS_MAX);
    listeners
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::{NodeName, StackName, Tag};

    fn listener(node: &str, port: u16, listen: u16) -> Listener {
        let key = LinkKey {
            stack: StackName::parse("s").unwrap(),
            tag: Tag::parse("t").unwrap(),
            target: LinkTarget {
                stack: None,
                node: NodeName::parse(node).unwrap(),
            },
            port,
            proto: Proto::Tcp,
        };
        (key, listen)
    }

    #[test]
    fn variables_point_at_the_listener_and_not_at_the_target() {
        let gateway = "172.18.0.1".parse().unwrap();
        let vars = variables(gateway, &[listener("my-redis", 6379, 31000)]);
        let lines: Vec<_> = vars.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            lines,
            [
                "MY_REDIS_HOST=172.18.0.1",
                "MY_REDIS_PORT=tcp://172.18.0.1:31000",
                "MY_REDIS_PORT_6379_TCP=tcp://172.18.0.1:31000",
                "MY_REDIS_PORT_6379_TCP_ADDR=172.18.0.1",
                "MY_REDIS_PORT_6379_TCP_PORT=31000",
                "MY_REDIS_PORT_6379_TCP_PROTO=tcp",
            ]
        );
    }

    fn over_udp((mut key, listen): Listener) -> Listener {
        key.proto = Proto::Udp;
        (key, listen)
    }

    #[test]
    fn a_port_of_both_protocols_has_variables_for_each() {
        let gateway = "10.0.0.1".parse().unwrap();
        let both = [over_udp(listener("dns", 53, 7)), listener("dns", 53, 8)];
        let vars = variables(gateway, &both);
        let lines: Vec<_> = vars.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            lines,
            [
                "DNS_HOST=10.0.0.1",
                "DNS_PORT=tcp://10.0.0.1:8",
                "DNS_PORT_53_TCP=tcp://10.0.0.1:8",
                "DNS_PORT_53_TCP_ADDR=10.0.0.1",
                "DNS_PORT_53_TCP_PORT=8",
                "DNS_PORT_53_TCP_PROTO=tcp",
                "DNS_PORT_53_UDP=udp://10.0.0.1:7",
                "DNS_PORT_53_UDP_ADDR=10.0.0.1",
                "DNS_PORT_53_UDP_PORT=7",
                "DNS_PORT_53_UDP_PROTO=udp",
            ]
        );
        let alone = variables(gateway, &both[..1]);
        assert_eq!(alone["DNS_PORT"], "udp://10.0.0.1:7");
    }

    #[test]
    fn what_containers_were_told_before_there_were_udp_links_is_still_read() {
        let old = r#"[[{"stack": "s", "tag": "t", "target": {"node": "db"}, "port": 80}, 31000]]"#;
        let read: Vec<Listener> = serde_json::from_str(old).unwrap();
        assert_eq!(read[0].0.proto, Proto::Tcp);
        assert!(!to_label(&read).unwrap().contains("proto"));
        let udp = [over_udp(listener("dns", 53, 7))];
        let text = to_label(&udp).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Listener>>(&text).unwrap(), udp);
    }

    #[test]
    fn the_first_port_is_the_one_without_a_number() {
        let gateway = "10.0.0.1".parse().unwrap();
        let both = [listener("db", 9000, 1), listener("db", 80, 2)];
        assert_eq!(variables(gateway, &both)["DB_PORT"], "tcp://10.0.0.1:1");
    }
}
