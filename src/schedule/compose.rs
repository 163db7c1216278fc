//! What a commit means: turns a parsed `viking.yml` and its images into a release, keeping the tag
//! of every node whose spec did not change. Called by `leader` after the build. Pure.

use std::collections::BTreeMap;

use crate::model::names::{ImageName, NodeName, StackName, Tag};
use crate::model::release::{Commit, ImageRecord, NodeKind, Release, ReleaseNode, RunId};
use crate::model::spec::{ContainerSpec, ImageRef};
use crate::model::vikingfile::{DeployNode, ImageText, VikingFile};

/// Everything a release is made from.
pub struct Parts<'a> {
    /// The parsed file.
    pub file: &'a VikingFile,
    /// The commit.
    pub commit: Commit,
    /// The tag it gets.
    pub tag: Tag,
    /// The run.
    pub run: RunId,
    /// Unix milliseconds.
    pub now_ms: u64,
    /// This release's images.
    pub images: BTreeMap<ImageName, ImageRecord>,
    /// External references and what they resolved to.
    pub external: BTreeMap<String, ImageRef>,
    /// Live images of other stacks that nodes name.
    pub foreign: BTreeMap<(StackName, ImageName), ImageRef>,
    /// What is live now, if anything.
    pub live: Option<&'a Release>,
}

/// Specs to write under `/proc` with the release.
pub type Procs = BTreeMap<(NodeName, Tag), ContainerSpec>;

/// A node names an image that nothing made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {node} names image {image:?}, which is not there")]
pub struct MissingImage {
    /// The node.
    pub node: NodeName,
    /// The text of its `image:`.
    pub image: String,
}

/// Makes the release and the specs it brings.
///
/// # Errors
/// When a node's image was neither built nor resolved.
pub fn compose(parts: Parts<'_>) -> Result<(Release, Procs), MissingImage> {
    let mut procs = Procs::new();
    let mut nodes = BTreeMap::new();
    for node in &parts.file.deploy {
        let made = match node.kind {
            NodeKind::Website { .. } => website(node, &parts.tag),
            NodeKind::Container => container(node, &parts, &mut procs)?,
        };
        nodes.insert(node.name.clone(), made);
    }
    let release = Release {
        v: 1,
        stack: parts.file.stack.clone(),
        tag: parts.tag,
        commit: parts.commit,
        run: parts.run,
        made_ms: parts.now_ms,
        images: parts.images,
        external: parts.external,
        nodes,
    };
    Ok((release, procs))
}

fn website(node: &DeployNode, tag: &Tag) -> ReleaseNode {
    release_node(node, tag.clone(), String::new(), None)
}

fn container(
    node: &DeployNode,
    parts: &Parts<'_>,
    procs: &mut Procs,
) -> Result<ReleaseNode, MissingImage> {
    let spec = ContainerSpec::new(image_of(node, parts)?, node.settings.clone());
    let hash = spec.hash();
    let before = parts
        .live
        .and_then(|live| live.nodes.get(&node.name))
        .filter(|before| before.kind == NodeKind::Container && before.service == node.service);
    Ok(match before {
        Some(before) if before.spec_hash == hash => {
            release_node(node, before.tag.clone(), hash, None)
        }
        Some(before) if node.service => {
            let mut made = release_node(
                node,
                before.tag.clone(),
                before.spec_hash.clone(),
                Some(spec),
            );
            keep_running_facts(&mut made, before);
            made
        }
        _ => {
            let tag = if node.service {
                Tag::of_services()
            } else {
                parts.tag.clone()
            };
            procs.insert((node.name.clone(), tag.clone()), spec);
            release_node(node, tag, hash, None)
        }
    })
}

/// Of a service whose changed spec waits, the planner must go by what runs.
fn keep_running_facts(made: &mut ReleaseNode, before: &ReleaseNode) {
    made.exclusive = before.exclusive;
    made.has_volume = before.has_volume;
    made.shared_volumes.clone_from(&before.shared_volumes);
    made.host_ports.clone_from(&before.host_ports);
    made.resources = before.resources;
    made.link.clone_from(&before.link);
}

fn image_of(node: &DeployNode, parts: &Parts<'_>) -> Result<ImageRef, MissingImage> {
    let missing = |image: String| MissingImage {
        node: node.name.clone(),
        image,
    };
    match &node.image {
        None => Err(missing(String::new())),
        Some(ImageText::External(text)) => parts
            .external
            .get(text)
            .cloned()
            .ok_or_else(|| missing(text.clone())),
        Some(ImageText::Viking { stack, image }) if *stack == parts.file.stack => parts
            .images
            .get(image)
            .map(ImageRecord::image_ref)
            .ok_or_else(|| missing(format!("viking:{stack}/{image}"))),
        Some(ImageText::Viking { stack, image }) => parts
            .foreign
            .get(&(stack.clone(), image.clone()))
            .cloned()
            .ok_or_else(|| missing(format!("viking:{stack}/{image}"))),
    }
}

fn release_node(
    node: &DeployNode,
    tag: Tag,
    spec_hash: String,
    pending: Option<ContainerSpec>,
) -> ReleaseNode {
    let settings = &node.settings;
    ReleaseNode {
        tag,
        kind: node.kind.clone(),
        spec_hash,
        scale: node.scale,
        domains: node.domains.clone(),
        filter: node.filter.clone(),
        spread_required: node.spread_required,
        stop: node.stop.clone(),
        service: node.service,
        fixed: node.fixed,
        exclusive: settings.exclusive(),
        link: settings.link.clone(),
        shared_volumes: settings
            .volume
            .iter()
            .filter_map(|v| v.name.clone())
            .collect(),
        has_volume: !settings.volume.is_empty(),
        host_ports: settings.expose.iter().filter_map(|e| e.host_port).collect(),
        resources: settings.resources,
        pending: pending.map(Box::new),
    }
}

/// The tag of another release of a commit: `-2`, `-3` when the commit was released before.
///
/// # Panics
/// Never: ids come from the object store and are hex.
#[must_use]
pub fn next_tag(commit: &str, taken: impl Fn(&Tag) -> bool) -> Tag {
    (1..)
        .filter_map(|nth| Tag::of_commit(commit, nth).ok())
        .find(|tag| !taken(tag))
        .expect("some number is free")
}
