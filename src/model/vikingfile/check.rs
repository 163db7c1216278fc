//! What must hold between the entries of one file: images that exist, links that lead somewhere
//! and in no circle, domains that are unique and have a port. Called by `VikingFile::parse` last.

use std::collections::{BTreeMap, BTreeSet};

use super::super::names::{NodeName, StackName};
use super::super::release::NodeKind;
use super::super::spec::Proto;
use super::deploy::Draft;
use super::error::{At, Error, nearest};
use super::{BuildEntry, ImageText};

/// Names shown of a circle of links; a longer one is cut in its middle.
const CHAIN_SHOWN_MAX: usize = 12;

/// Most jobs of one stack, all nodes together: each is several keys in the store and a line in every
/// plan, and a host runs a few hundred.
const JOBS_MAX: u32 = 10_000;

/// Checks everything that needs the whole file, in file order.
pub(super) fn all(stack: &StackName, build: &[BuildEntry], deploy: &[Draft]) -> Result<(), Error> {
    let nodes: BTreeMap<&NodeName, &Draft> = deploy.iter().map(|d| (&d.node.name, d)).collect();
    let mut domains = BTreeMap::new();
    for draft in deploy {
        image(stack, build, draft)?;
        links(&nodes, draft)?;
        domains_of(draft, &mut domains)?;
    }
    jobs(deploy)?;
    circle(&nodes, deploy)
}

fn jobs(deploy: &[Draft]) -> Result<(), Error> {
    let mut total: u32 = 0;
    for draft in deploy {
        total = total.saturating_add(draft.node.scale);
        if total > JOBS_MAX {
            let message = format!(
                "deploy.{}.scale: with this node the stack has {total} jobs, more than {JOBS_MAX}",
                draft.node.name
            );
            return Err(Error::at(draft.scale_at, message));
        }
    }
    Ok(())
}

fn image(stack: &StackName, build: &[BuildEntry], draft: &Draft) -> Result<(), Error> {
    let Some(ImageText::Viking { stack: of, image }) = &draft.node.image else {
        return Ok(());
    };
    if of != stack || build.iter().any(|entry| entry.name == *image) {
        return Ok(());
    }
    let names = || build.iter().map(|entry| entry.name.as_str());
    let message = format!(
        "deploy.{}.image: {:?} is not in build",
        draft.node.name,
        image.as_str()
    );
    Err(Error::at(draft.image_at, message)
        .with_found(image.as_str())
        .with_allowed(names())
        .with_nearest(nearest(image.as_str(), names())))
}

fn links(nodes: &BTreeMap<&NodeName, &Draft>, draft: &Draft) -> Result<(), Error> {
    for (node, at) in own_links(draft) {
        let wrong = |what: String| {
            let message = format!("deploy.{}.link: {what}", draft.node.name);
            Error::at(at, message).with_found(node.as_str())
        };
        let Some(target) = nodes.get(node) else {
            let names = || nodes.keys().map(|name| name.as_str());
            return Err(wrong(format!("this stack has no node {:?}", node.as_str()))
                .with_allowed(names())
                .with_nearest(nearest(node.as_str(), names())));
        };
        if target.node.kind != NodeKind::Container {
            return Err(wrong(format!("{node} is a website, it cannot be linked")));
        }
        if target.node.settings.expose.is_empty() {
            return Err(wrong(format!("{node} exposes no port to link to")));
        }
    }
    Ok(())
}

fn tcp_ports(draft: &Draft) -> impl Iterator<Item = u16> {
    let exposed = draft.node.settings.expose.iter();
    exposed.filter(|e| e.proto == Proto::Tcp).map(|e| e.port)
}

/// Links into this stack, with their places.
fn own_links(draft: &Draft) -> impl Iterator<Item = (&NodeName, At)> {
    let places = draft.link_at.iter().copied();
    let links = draft.node.settings.link.iter().zip(places);
    links
        .filter(|(link, _)| link.stack.is_none())
        .map(|(link, at)| (&link.node, at))
}

type Taken<'d> = BTreeMap<&'d str, (&'d NodeName, u64)>;

fn domains_of<'d>(draft: &'d Draft, taken: &mut Taken<'d>) -> Result<(), Error> {
    let node = &draft.node;
    for (domain, at) in node.domains.iter().zip(&draft.domain_at) {
        let wrong = |what: String| {
            let message = format!("deploy.{}.domains: {what}", node.name);
            Error::at(*at, message).with_found(&domain.name)
        };
        if let Some((other, line)) = taken.insert(&domain.name, (&node.name, at.line)) {
            let what = format!("{:?} belongs to {other} already, line {line}", domain.name);
            return Err(wrong(what));
        }
        if node.kind != NodeKind::Container {
            continue;
        }
        if node.settings.expose.is_empty() {
            return Err(wrong("the node exposes no port to route to".into()));
        }
        if tcp_ports(draft).next().is_none() {
            let what = "the node exposes only UDP, and a domain needs a TCP port";
            return Err(wrong(what.into()));
        }
        if let Some(port) = domain.port
            && !tcp_ports(draft).any(|tcp| tcp == port)
        {
            let ports = tcp_ports(draft).map(|port| port.to_string());
            let what = if node.settings.expose.iter().any(|e| e.port == port) {
                format!("port {port} is UDP, and a domain needs a TCP port")
            } else {
                format!("port {port} is not exposed")
            };
            return Err(wrong(what).with_allowed(ports));
        }
    }
    Ok(())
}

/// Takes away nodes that link to nothing left; what remains holds a circle.
fn circle(nodes: &BTreeMap<&NodeName, &Draft>, deploy: &[Draft]) -> Result<(), Error> {
    let mut waiting: BTreeMap<&NodeName, usize> = BTreeMap::new();
    let mut wanted_by: BTreeMap<&NodeName, Vec<&NodeName>> = BTreeMap::new();
    for draft in deploy {
        waiting.insert(&draft.node.name, own_links(draft).count());
        for (target, _) in own_links(draft) {
            wanted_by.entry(target).or_default().push(&draft.node.name);
        }
    }
    let free = waiting.iter().filter(|(_, left)| **left == 0);
    let mut ready: Vec<&NodeName> = free.map(|(name, _)| *name).collect();
    while let Some(name) = ready.pop() {
        waiting.remove(name);
        for consumer in wanted_by.get(name).into_iter().flatten() {
            if let Some(left) = waiting.get_mut(*consumer) {
                *left -= 1;
                if *left == 0 {
                    ready.push(consumer);
                }
            }
        }
    }
    let stuck = deploy.iter().find(|d| waiting.contains_key(&d.node.name));
    stuck.map_or(Ok(()), |draft| Err(circle_from(draft, nodes, &waiting)))
}

/// Follows links among the stuck nodes until one comes again.
fn circle_from(
    start: &Draft,
    nodes: &BTreeMap<&NodeName, &Draft>,
    stuck: &BTreeMap<&NodeName, usize>,
) -> Error {
    let mut chain: Vec<(&NodeName, At)> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut draft = start;
    let mut at = start.image_at;
    while seen.insert(&draft.node.name) {
        let next = own_links(draft).find(|(target, _)| stuck.contains_key(target));
        let Some((target, place)) = next else { break };
        chain.push((&draft.node.name, place));
        at = place;
        let Some(target) = nodes.get(target) else {
            break;
        };
        draft = target;
    }
    let again = &draft.node.name;
    let first = chain.iter().position(|(name, _)| *name == again);
    let mut names: Vec<&str> = chain
        .iter()
        .skip(first.unwrap_or(0))
        .map(|(n, _)| n.as_str())
        .collect();
    names.push(again.as_str());
    if names.len() > CHAIN_SHOWN_MAX {
        names.splice(
            CHAIN_SHOWN_MAX / 2..names.len() - CHAIN_SHOWN_MAX / 2,
            ["…"],
        );
    }
    Error::at(at, format!("links go in a circle: {}", names.join(" → ")))
}
