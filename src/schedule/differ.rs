//! What differs between the live release and the one that would follow it: node by node, field by field,
//! and what that costs those who use it. Called by `foretell`. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::compose::Procs;
use super::rollout::changes;
use super::wanted::hands_over;
use crate::model::foretold::{Downtime, FieldChange, NodeFate, RouteFate};
use crate::model::history::ChangeKind;
use crate::model::job::Seat;
use crate::model::names::{NodeName, StackName};
use crate::model::release::{Domain, NodeKind, Release, ReleaseNode};
use crate::model::spec::ContainerSpec;
use crate::model::world::{PinKey, StackWorld, World};

/// Longest value that is shown.
const VALUE_CHARS_MAX: usize = 80;

/// Digits of a digest that people tell apart.
const DIGEST_SHOWN: usize = "sha256:".len() + 12;

/// A release that would follow, with the specs it brings.
#[derive(Debug, Clone, Copy)]
pub struct Next<'a> {
    /// The release.
    pub release: &'a Release,
    /// Its new specs.
    pub procs: &'a Procs,
}

/// What becomes of each node, by name.
#[must_use]
pub fn nodes(world: &World, name: &StackName, stack: &StackWorld, next: Next<'_>) -> Vec<NodeFate> {
    let live = stack.live();
    let mut fates: Vec<_> = changes(live, next.release)
        .into_iter()
        .map(|change| {
            let before = live.and_then(|live| live.nodes.get(&change.node));
            let after = next.release.nodes.get(&change.node);
            NodeFate {
                what: change.what,
                pending: after.is_some_and(|after| after.pending.is_some()),
                fields: fields(stack, next.procs, &change.node, before, after),
                downtime: downtime(before, after),
                volumes: volumes(world, name, stack, &change.node, before.or(after)),
                node: change.node,
            }
        })
        .collect();
    fates.sort_by(|a, b| a.node.cmp(&b.node));
    fates
}

fn downtime(before: Option<&ReleaseNode>, after: Option<&ReleaseNode>) -> Downtime {
    let (Some(before), Some(after)) = (before, after) else {
        return Downtime::None;
    };
    if !(0..after.slots()).any(|slot| hands_over(before, after, slot)) {
        return Downtime::None;
    }
    if before.has_volume && after.has_volume {
        return Downtime::Data;
    }
    Downtime::StopFirst
}

/// Where the data of a node is; of one that goes, where it stays.
fn volumes(
    world: &World,
    name: &StackName,
    stack: &StackWorld,
    node: &NodeName,
    is: Option<&ReleaseNode>,
) -> Vec<String> {
    let Some(is) = is.filter(|is| is.has_volume) else {
        return Vec::new();
    };
    let at = |key: &PinKey| world.fixed.get(key).map(|pin| format!(" on {}", pin.host));
    let shared = is.shared_volumes.iter().map(|volume| {
        let key = PinKey::Volume(name.clone(), volume.clone());
        format!("{volume}{}", at(&key).unwrap_or_default())
    });
    let spec = stack.procs.get(&(node.clone(), is.tag.clone()));
    let mounts = spec.map_or(&[][..], |spec| &spec.settings.volume);
    let own: Vec<_> = mounts.iter().filter(|mount| mount.name.is_none()).collect();
    let own = (0..is.slots()).flat_map(|slot| {
        let seat = Seat {
            stack: name.clone(),
            node: node.clone(),
            slot,
        };
        let place = at(&PinKey::Seat(seat)).unwrap_or_default();
        own.iter()
            .map(move |mount| format!("{} of {node}.{slot}{place}", mount.path))
            .collect::<Vec<_>>()
    });
    shared.chain(own).collect()
}

/// The spec that a node is to run: of a service, the one that waits.
fn spec_of<'a>(
    stack: &'a StackWorld,
    procs: &'a Procs,
    name: &NodeName,
    node: &'a ReleaseNode,
) -> Option<&'a ContainerSpec> {
    let key = (name.clone(), node.tag.clone());
    let recorded = || procs.get(&key).or_else(|| stack.procs.get(&key));
    node.pending.as_deref().or_else(recorded)
}

/// What differs of a node that is there before and after.
fn fields(
    stack: &StackWorld,
    procs: &Procs,
    name: &NodeName,
    before: Option<&ReleaseNode>,
    after: Option<&ReleaseNode>,
) -> Vec<FieldChange> {
    let (Some(before), Some(after)) = (before, after) else {
        return Vec::new();
    };
    let none = Procs::new();
    let mut found = Vec::new();
    let old = spec_of(stack, &none, name, before);
    let new = spec_of(stack, procs, name, after);
    let image = |spec: Option<&ContainerSpec>| spec.map(|spec| shown_digest(spec.image.digest()));
    let (old_image, new_image) = (image(old), image(new));
    if old_image != new_image {
        found.push(change("image", old_image, new_image));
    }
    let files = |node: &ReleaseNode| {
        let site = matches!(node.kind, NodeKind::Website { .. });
        site.then(|| shown_digest(&node.spec_hash))
    };
    if let (Some(old), Some(new)) = (files(before), files(after))
        && old != new
    {
        found.push(change("files", Some(old), Some(new)));
    }
    let settings = |spec: Option<&ContainerSpec>| spec.map(|spec| value(&spec.settings));
    compare(
        "",
        settings(old).as_ref(),
        settings(new).as_ref(),
        &mut found,
    );
    compare(
        "",
        Some(&value(&Said::of(before))),
        Some(&value(&Said::of(after))),
        &mut found,
    );
    found
}

/// What a node's entry says besides its container spec.
#[derive(Serialize)]
struct Said<'a> {
    #[serde(rename = "type")]
    kind: &'a NodeKind,
    scale: u32,
    domains: Vec<String>,
    filter: &'a [crate::model::release::Filter],
    spread: &'a str,
    stop: &'a crate::model::spec::StopPolicy,
    service: bool,
    fixed: bool,
}

impl<'a> Said<'a> {
    fn of(node: &'a ReleaseNode) -> Self {
        Self {
            kind: &node.kind,
            scale: node.scale,
            domains: node.domains.iter().map(domain_text).collect(),
            filter: &node.filter,
            spread: if node.spread_required {
                "required"
            } else {
                "preferred"
            },
            stop: &node.stop,
            service: node.service,
            fixed: node.fixed,
        }
    }
}

fn domain_text(domain: &Domain) -> String {
    match domain.port {
        Some(port) => format!("{}:{port}", domain.name),
        None => domain.name.clone(),
    }
}

/// These are types of ours without maps of odd keys: they can be written.
fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

/// Walks both sides down to what differs. Lists are compared whole: of a command, one word says little.
fn compare(place: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<FieldChange>) {
    if old == new {
        return;
    }
    let empty = serde_json::Map::new();
    let (before, after) = match (old, new) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => (before, after),
        (Some(Value::Object(before)), None) => (before, &empty),
        (None, Some(Value::Object(after))) => (&empty, after),
        _ => {
            let hidden = place == "env" || place.starts_with("env.");
            let show = |value: Option<&Value>| value.filter(|_| !hidden).map(shown);
            found.push(change(place, show(old), show(new)));
            return;
        }
    };
    let mut keys: Vec<_> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let deeper = if place.is_empty() {
            key.clone()
        } else {
            format!("{place}.{key}")
        };
        compare(&deeper, before.get(key), after.get(key), found);
    }
}

fn change(field: &str, before: Option<String>, after: Option<String>) -> FieldChange {
    FieldChange {
        field: field.to_owned(),
        before: before.unwrap_or_default(),
        after: after.unwrap_or_default(),
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn shown_digest(digest: &str) -> String {
    digest.get(..DIGEST_SHOWN).unwrap_or(digest).to_owned()
}

/// What becomes of each domain, by name.
#[must_use]
pub fn routes(
    world: &World,
    name: &StackName,
    live: Option<&Release>,
    next: &Release,
) -> Vec<RouteFate> {
    let before = served(live);
    let after = served(Some(next));
    let held = |domain: &str| {
        let others = world.stacks.iter().filter(|(other, _)| *other != name);
        let mut others = others.filter_map(|(other, stack)| Some((other, stack.live()?)));
        let found = others.find(|(_, live)| served(Some(live)).contains_key(domain));
        found.map(|(other, _)| other.clone())
    };
    let gone = before
        .iter()
        .filter(|(domain, _)| !after.contains_key(*domain));
    let gone = gone.map(|(domain, (node, _))| (domain, *node, ChangeKind::Gone));
    let stays = after.iter().map(|(domain, served)| {
        let what = match before.get(domain) {
            None => ChangeKind::New,
            Some(before) if before == served => ChangeKind::Kept,
            Some(_) => ChangeKind::Changed,
        };
        (domain, served.0, what)
    });
    let mut fates: Vec<_> = gone
        .chain(stays)
        .map(|(domain, node, what)| RouteFate {
            held_by: held(domain).filter(|_| what != ChangeKind::Gone),
            domain: domain.clone(),
            node: node.clone(),
            what,
        })
        .collect();
    fates.sort_by(|a, b| a.domain.cmp(&b.domain));
    fates
}

/// Domains of a release: the node of each and its port.
fn served(release: Option<&Release>) -> BTreeMap<String, (&NodeName, Option<u16>)> {
    let nodes = release.into_iter().flat_map(|release| &release.nodes);
    let domains = nodes.flat_map(|(name, node)| {
        let domains = node.domains.iter();
        domains.map(move |domain| (domain.name.clone(), (name, domain.port)))
    });
    domains.collect()
}
