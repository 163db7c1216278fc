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
        stages_ms: Vec::new(),
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
        .filter(|before| before.kind == NodeKind::Container);
    Ok(match before {
        // Also one that became a service, or is none any more: it runs on under the tag it has.
        Some(before) if before.spec_hash == hash => {
            release_node(node, before.tag.clone(), hash, None)
        }
        Some(before) if node.service && before.service => {
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
            // Under `static` there is one spec, which a live copy may be running.
            let taken = before.is_some_and(|before| before.tag.is_static());
            let tag = if node.service && !taken {
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
        squeezed: false,
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

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "viking: {name: shop}\ndeploy:\n  web: {image: web, run: v1}\n";

    /// The releases of these files, one after the other, at the tags `c1`, `c2`, ….
    fn releases(files: &[&str]) -> Vec<(ReleaseNode, Vec<Tag>)> {
        let mut made: Vec<(ReleaseNode, Vec<Tag>)> = Vec::new();
        let mut live: Option<Release> = None;
        for (n, file) in files.iter().enumerate() {
            let file = VikingFile::parse("viking.yml", file.as_bytes()).unwrap();
            let image = ImageRef::External {
                name: "web".to_owned(),
                digest: "sha256:1".to_owned(),
            };
            let (release, procs) = compose(Parts {
                file: &file,
                commit: Commit {
                    id: String::new(),
                    subject: String::new(),
                    author: String::new(),
                    at_ms: 0,
                },
                tag: Tag::parse(&format!("c{}", n + 1)).unwrap(),
                run: RunId(String::new()),
                now_ms: 0,
                images: BTreeMap::new(),
                external: BTreeMap::from([("web".to_owned(), image)]),
                foreign: BTreeMap::new(),
                live: live.as_ref(),
            })
            .unwrap();
            let node = release.nodes.values().next().unwrap().clone();
            made.push((node, procs.into_keys().map(|(_, tag)| tag).collect()));
            live = Some(release);
        }
        made
    }

    fn tags(files: &[&str]) -> Vec<String> {
        let made = releases(files).into_iter();
        made.map(|(node, _)| node.tag.to_string()).collect()
    }

    fn service(run: &str) -> String {
        web(run)
            .replace("}\n", ", service: true}\n")
            .replace("shop, service: true", "shop")
    }

    fn web(run: &str) -> String {
        WEB.replace("v1", run)
    }

    #[test]
    fn becoming_a_service_or_ceasing_to_be_one_restarts_nothing() {
        let (web, service) = (web("v1"), service("v1"));
        assert_eq!(tags(&[&web, &service, &web]), ["c1", "c1", "c1"]);
        assert_eq!(
            tags(&[&service, &web, &service]),
            ["static", "static", "static"]
        );
        let written: Vec<_> = releases(&[&web, &service])
            .into_iter()
            .map(|(_, p)| p.len())
            .collect();
        assert_eq!(written, [1, 0]);
    }

    #[test]
    fn a_changed_spec_waits_only_where_a_service_runs_already() {
        let nodes = releases(&[&web("v1"), &service("v1"), &service("v2")]);
        assert!(nodes[2].0.pending.is_some() && nodes[2].0.tag.as_str() == "c1");
        let nodes = releases(&[&web("v1"), &service("v2")]);
        assert!(nodes[1].0.pending.is_none() && nodes[1].0.tag.is_static());
        let nodes = releases(&[&service("v1"), &web("v2")]);
        assert!(nodes[1].0.pending.is_none() && nodes[1].0.tag.as_str() == "c2");
    }

    #[test]
    fn the_spec_a_live_copy_runs_is_never_overwritten() {
        // It ceased to be a service and runs on as `static`.
        let nodes = releases(&[&service("v1"), &web("v1"), &service("v2")]);
        assert_eq!(nodes[1].0.tag.as_str(), "static");
        assert_eq!(nodes[2].0.tag.as_str(), "c3");
        assert_eq!(nodes[2].1, [nodes[2].0.tag.clone()]);
    }
}
