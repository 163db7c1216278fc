//! What must hold between the entries of one file: images that exist, links that lead somewhere
//! and in no circle, domains that are unique and have a port. Called by `VikingFile::parse` last.

use std::collections::{BTreeMap, BTreeSet};

use super::super::names::{NodeName, StackName};
use super::super::release::NodeKind;
use super::deploy::Draft;
use super::error::{At, Error, nearest};
use super::{BuildEntry, ImageText};

/// Names shown of a circle of links; a longer one is cut in its middle.
const CHAIN_SHOWN_MAX: usize = 12;

/// Checks everything that needs the whole file, in file order.
pub(super) fn all(stack: &StackName, build: &[BuildEntry], deploy: &[Draft]) -> Result<(), Error> {
    let nodes: BTreeMap<&NodeName, &Draft> = deploy.iter().map(|d| (&d.node.name, d)).collect();
    let mut domains = BTreeMap::new();
    for draft in deploy {
        image(stack, build, draft)?;
        links(&nodes, draft)?;
        domains_of(draft, &mut domains)?;
    }
    circle(&nodes, deploy)
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
        let exposed = &node.settings.expose;
        if exposed.is_empty() {
            return Err(wrong("the node exposes no port to route to".into()));
        }
        if let Some(port) = domain.port
            && !exposed.iter().any(|e| e.port == port)
        {
            let ports = exposed.iter().map(|e| e.port.to_string());
            return Err(wrong(format!("port {port} is not exposed")).with_allowed(ports));
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
