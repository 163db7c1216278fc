//! What a release may not do in one step: give a fixed port or a named volume of one node to another
//! while the first still runs. The new owner would wait for ever for the port, or run beside the old
//! one on its data. Asked right before a release is staged. Pure.

use crate::model::names::NodeName;
use crate::model::release::{Release, ReleaseNode};

/// Why a release cannot follow the live one, in words.
#[must_use]
pub fn refused(live: &Release, next: &Release) -> Option<String> {
    next.nodes.iter().find_map(|(name, node)| {
        let taken = taken_over(live, next, name, node)?;
        Some(format!(
            "{name} takes {} over from {}, which still runs with it: first push a commit that takes it \
             from {}, then one that gives it to {name}",
            taken.what, taken.from, taken.from
        ))
    })
}

struct Taken<'a> {
    what: String,
    from: &'a NodeName,
}

/// What a node gets that another one has now and will not have any more.
fn taken_over<'a>(
    live: &'a Release,
    next: &Release,
    name: &NodeName,
    node: &ReleaseNode,
) -> Option<Taken<'a>> {
    let before = live.nodes.get(name);
    let port = |of: &ReleaseNode, port: &u16| of.slots() > 0 && of.host_ports.contains(port);
    let ports = node.host_ports.iter().filter_map(|wanted| {
        let from = loser(live, next, name, |of| port(of, wanted))?;
        let new = node.slots() > 0 && !before.is_some_and(|before| port(before, wanted));
        new.then(|| Taken {
            what: format!("port {wanted} of the host"),
            from,
        })
    });
    let volumes = node.shared_volumes.iter().filter_map(|wanted| {
        let names = |of: &ReleaseNode| of.slots() > 0 && of.shared_volumes.contains(wanted);
        let from = loser(live, next, name, names)?;
        let new = node.slots() > 0 && !before.is_some_and(names);
        new.then(|| Taken {
            what: format!("the volume {wanted}"),
            from,
        })
    });
    ports.chain(volumes).next()
}

/// A node other than `name` that has something now and not in the next release.
fn loser<'a>(
    live: &'a Release,
    next: &Release,
    name: &NodeName,
    has: impl Fn(&ReleaseNode) -> bool,
) -> Option<&'a NodeName> {
    let mut others = live.nodes.iter().filter(|(other, _)| *other != name);
    let loses = |other: &NodeName| !next.nodes.get(other).is_some_and(&has);
    others
        .find(|(other, node)| has(node) && loses(other))
        .map(|(other, _)| other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::script;

    fn judged(live: &str, next: &str) -> Option<String> {
        let text = format!(
            "stacks: {{s: {{live: a1, staged: b2, phase: staging, \
             releases: {{a1: {{{live}}}, b2: {{{next}}}}}}}}}"
        );
        let world = script::world(&text).unwrap();
        let stack = world.stacks.values().next().unwrap();
        refused(stack.live().unwrap(), stack.staged().unwrap())
    }

    #[test]
    fn a_port_or_a_named_volume_goes_to_another_node_in_two_commits() {
        let why = judged("web: {port: 8080}", "site: {port: 8080}").unwrap();
        assert!(
            why.starts_with("site takes port 8080 of the host over from web,"),
            "{why}"
        );
        let why = judged("old: {shared: [data]}", "new: {shared: [data]}").unwrap();
        assert!(
            why.starts_with("new takes the volume data over from old,"),
            "{why}"
        );
        assert!(judged("a: {port: 1}, b: {}", "a: {port: 2}, b: {port: 1}").is_some());
        // Two commits.
        assert_eq!(judged("web: {port: 8080}", ""), None);
        assert_eq!(judged("", "site: {port: 8080}"), None);
        assert_eq!(
            judged("web: {port: 8080, scale: 0}", "site: {port: 8080}"),
            None
        );
    }

    #[test]
    fn what_stays_or_is_shared_is_no_move() {
        assert_eq!(
            judged("web: {port: 8080}", "web: {port: 8080}, b: {}"),
            None
        );
        assert_eq!(judged("web: {port: 8080}", "web: {port: 9090}"), None);
        // A volume that more and fewer nodes use.
        assert_eq!(
            judged("a: {shared: [d]}", "a: {shared: [d]}, b: {shared: [d]}"),
            None
        );
        assert_eq!(
            judged("a: {shared: [d]}, b: {shared: [d]}", "b: {shared: [d]}"),
            None
        );
    }
}
