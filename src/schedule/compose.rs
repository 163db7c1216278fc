//! What a commit means: turns a parsed `viking.yml` and its images into a release, keeping the tag
//! of every node whose spec did not change. Called by `leader` after the build. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::env::{self, VarRef, Variables};
use crate::model::names::{ImageName, NodeName, StackName, Tag};
use crate::model::release::{Commit, Domain, ImageRecord, NodeKind, Release, ReleaseNode, RunId};
use crate::model::route;
use crate::model::spec::{ContainerSpec, Health, ImageRef, Proto, Settings};
use crate::model::vikingfile::{DeployNode, ImageText, VikingFile};
use crate::model::world::StackWorld;

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
    /// Shared variables: a node gets the current version of what it names.
    pub env: &'a Variables,
    /// What is live now, if anything.
    pub live: Option<&'a Release>,
}

/// Specs to write under `/proc` with the release.
pub type Procs = BTreeMap<(NodeName, Tag), ContainerSpec>;

/// What a node names and is not there; it may come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Nothing made the image.
    #[error("node {node} names image {image:?}, which is not there")]
    Image {
        /// The node.
        node: NodeName,
        /// The text of its `image:`.
        image: String,
    },
    /// The shared variable is not set.
    #[error(
        "node {node} names the shared variable {var}, which is not set: viking env set {} {}",
        .var.scope, .var.name
    )]
    Variable {
        /// The node.
        node: NodeName,
        /// The variable.
        var: VarRef,
    },
}

/// Makes the release and the specs it brings.
///
/// # Errors
/// When a node's image was neither built nor resolved, or a variable it names is not set.
pub fn compose(parts: Parts<'_>) -> Result<(Release, Procs), Missing> {
    let mut procs = Procs::new();
    let mut nodes = BTreeMap::new();
    let mut before = BTreeMap::new();
    for node in &parts.file.deploy {
        let made = match node.kind {
            NodeKind::Website { .. } => website(node, &parts)?,
            NodeKind::Container => container(node, &parts, &mut procs)?,
        };
        if let Some(command) = &node.before_release {
            let job = runs_before(node, command, &made, &parts, &mut procs)?;
            before.insert(node.name.before(), job);
        }
        nodes.insert(node.name.clone(), made);
    }
    let mut release = Release {
        v: 1,
        stack: parts.file.stack.clone(),
        tag: parts.tag,
        commit: parts.commit,
        run: parts.run,
        made_ms: parts.now_ms,
        images: parts.images,
        external: parts.external,
        nodes,
        before,
        require: parts.file.require.clone(),
        stages_ms: Vec::new(),
        again: None,
    };
    route::claim(&mut release, parts.live, parts.now_ms);
    Ok((release, procs))
}

/// A website is its files: with the same ones it keeps the tag that it has.
fn website(node: &DeployNode, parts: &Parts<'_>) -> Result<ReleaseNode, Missing> {
    let image = ImageName::of_site(&node.name);
    let files = parts.images.get(&image).ok_or_else(|| Missing::Image {
        node: node.name.clone(),
        image: image.to_string(),
    })?;
    let mut made = release_node(node, parts.tag.clone());
    made.spec_hash.clone_from(&files.digest);
    let before = parts.live.and_then(|live| live.nodes.get(&node.name));
    keep_tag(&mut made, before);
    Ok(made)
}

/// A website with the files of the live one is the live one.
pub(super) fn keep_tag(site: &mut ReleaseNode, live: Option<&ReleaseNode>) {
    let website = |node: &&ReleaseNode| matches!(node.kind, NodeKind::Website { .. });
    let same = live.filter(website);
    if let Some(live) = same.filter(|live| live.spec_hash == site.spec_hash) {
        site.tag.clone_from(&live.tag);
    }
}

fn container(
    node: &DeployNode,
    parts: &Parts<'_>,
    procs: &mut Procs,
) -> Result<ReleaseNode, Missing> {
    let spec = ContainerSpec::new(image_of(node, parts)?, settings_of(node, parts)?);
    let made = release_node(node, parts.tag.clone());
    let before = parts.live.and_then(|live| live.nodes.get(&node.name));
    Ok(settle(&node.name, made, spec, before, procs))
}

/// The job that runs before a node: what the node is made from, with another command, but for ports,
/// volumes and the health check. At this release's tag if it must run for it.
fn runs_before(
    node: &DeployNode,
    command: &[String],
    made: &ReleaseNode,
    parts: &Parts<'_>,
    procs: &mut Procs,
) -> Result<ReleaseNode, Missing> {
    let settings = Settings {
        run: Some(command.to_vec()),
        expose: Vec::new(),
        volume: Vec::new(),
        health: Health::default(),
        ..settings_of(node, parts)?
    };
    let spec = ContainerSpec::new(image_of(node, parts)?, settings);
    let mut job = ReleaseNode {
        scale: 1,
        domains: Vec::new(),
        spread_required: false,
        fixed: false,
        ..release_node(node, parts.tag.clone())
    };
    describe(&mut job, &spec);
    let name = node.name.before();
    let known = parts.live.and_then(|live| live.before.get(&name));
    match known.filter(|known| known.spec_hash == job.spec_hash && made.tag != parts.tag) {
        Some(known) => job.tag.clone_from(&known.tag),
        None => {
            procs.insert((name, job.tag.clone()), spec);
        }
    }
    Ok(job)
}

/// What becomes of a node that is to have this spec beside the live one: it runs on, its spec waits,
/// or it gets the release's tag, which `made` has, and a record of its spec.
pub(super) fn settle(
    name: &NodeName,
    mut made: ReleaseNode,
    spec: ContainerSpec,
    before: Option<&ReleaseNode>,
    procs: &mut Procs,
) -> ReleaseNode {
    describe(&mut made, &spec);
    let before = before.filter(|before| before.kind == NodeKind::Container);
    match before {
        // Also one that became a service, or is none any more: it runs on under the tag it has.
        Some(before) if before.spec_hash == made.spec_hash => made.tag.clone_from(&before.tag),
        Some(before) if made.service && before.service => {
            keep_running_facts(&mut made, before);
            made.pending = Some(Box::new(spec));
        }
        _ => {
            // Under `static` there is one spec, which a live copy may be running.
            let taken = before.is_some_and(|before| before.tag.is_static());
            if made.service && !taken {
                made.tag = Tag::of_services();
            }
            procs.insert((name.clone(), made.tag.clone()), spec);
        }
    }
    made
}

/// Writes down of a node what the planner must know of its spec.
pub(super) fn describe(made: &mut ReleaseNode, spec: &ContainerSpec) {
    let settings = &spec.settings;
    made.spec_hash = spec.hash();
    made.exclusive = settings.exclusive();
    made.link.clone_from(&settings.link);
    let names = settings.volume.iter().filter_map(|v| v.name.clone());
    made.shared_volumes = names.collect();
    made.has_volume = !settings.volume.is_empty();
    let ports = settings.expose.iter().filter_map(|e| e.host_port);
    made.host_ports = ports.collect();
    made.resources = settings.resources;
    made.pending = None;
}

/// Of a service whose changed spec waits, the planner must go by what runs.
fn keep_running_facts(made: &mut ReleaseNode, before: &ReleaseNode) {
    made.tag.clone_from(&before.tag);
    made.spec_hash.clone_from(&before.spec_hash);
    made.exclusive = before.exclusive;
    made.has_volume = before.has_volume;
    made.shared_volumes.clone_from(&before.shared_volumes);
    made.host_ports.clone_from(&before.host_ports);
    made.resources = before.resources;
    made.link.clone_from(&before.link);
}

/// Settings with the current version of every shared variable that the node names.
fn settings_of(node: &DeployNode, parts: &Parts<'_>) -> Result<Settings, Missing> {
    let mut settings = node.settings.clone();
    for (name, var) in &node.shared {
        let version = env::current(parts.env, var).ok_or_else(|| Missing::Variable {
            node: node.name.clone(),
            var: var.clone(),
        })?;
        settings.shared.insert(name.clone(), var.at(version));
    }
    Ok(settings)
}

fn image_of(node: &DeployNode, parts: &Parts<'_>) -> Result<ImageRef, Missing> {
    let missing = |image: String| Missing::Image {
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

/// The domains of a node, each with the port that is meant.
fn domains(node: &DeployNode) -> Vec<Domain> {
    let mut exposed = node.settings.expose.iter();
    let first = exposed.find(|expose| expose.proto == Proto::Tcp);
    let first = first.map(|expose| expose.port);
    let with_port = |domain: &Domain| Domain {
        port: domain.port.or(first),
        ..domain.clone()
    };
    node.domains.iter().map(with_port).collect()
}

/// A node as the file says; [`describe`] adds what follows from its spec.
fn release_node(node: &DeployNode, tag: Tag) -> ReleaseNode {
    let settings = &node.settings;
    ReleaseNode {
        tag,
        kind: node.kind.clone(),
        spec_hash: String::new(),
        scale: node.scale,
        domains: domains(node),
        filter: node.filter.clone(),
        spread_required: node.spread_required,
        stop: node.stop.clone(),
        service: node.service,
        fixed: node.fixed,
        exclusive: false,
        squeezed: false,
        link: settings.link.clone(),
        shared_volumes: Vec::new(),
        has_volume: false,
        host_ports: Vec::new(),
        resources: settings.resources,
        pending: None,
    }
}

/// The tag of the next release of a commit: one that nothing on record or under way goes by. A
/// release may be forgotten while a node of it still runs.
#[must_use]
pub fn free_tag(stack: &StackWorld, commit: &str) -> Tag {
    let pointer = &stack.pointer;
    let releases = stack.releases.values();
    let nodes = releases.flat_map(|release| release.nodes.values());
    let used = stack.releases.keys().chain(pointer.named());
    let used = used.chain(pointer.building.iter().map(|building| &building.tag));
    let used = used.chain(nodes.map(|node| &node.tag));
    let used: BTreeSet<&Tag> = used.chain(stack.procs.keys().map(|(_, tag)| tag)).collect();
    next_tag(commit, |tag| used.contains(tag))
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

    fn release(
        tag: &str,
        file: &str,
        env: &Variables,
        live: Option<&Release>,
    ) -> Result<(Release, Procs), Missing> {
        let image = ImageRef::External {
            name: "web".to_owned(),
            digest: "sha256:1".to_owned(),
        };
        compose(Parts {
            file: &VikingFile::parse("viking.yml", file.as_bytes()).unwrap(),
            commit: Commit {
                id: String::new(),
                subject: String::new(),
                author: String::new(),
                at_ms: 0,
            },
            tag: Tag::parse(tag).unwrap(),
            run: RunId(String::new()),
            now_ms: 0,
            images: BTreeMap::new(),
            external: BTreeMap::from([("web".to_owned(), image)]),
            foreign: BTreeMap::new(),
            env,
            live,
        })
    }

    /// The one node of each of these, and the tags of the specs that it brings.
    fn releases(files: &[&str]) -> Vec<(ReleaseNode, Vec<Tag>)> {
        let node = |(release, procs): (Release, Procs)| {
            let node = release.nodes.into_values().next().unwrap();
            (node, procs.into_keys().map(|(_, tag)| tag).collect())
        };
        composed(files).into_iter().map(node).collect()
    }

    /// The releases of these files, one after the other, at the tags `c1`, `c2`, ….
    fn composed(files: &[&str]) -> Vec<(Release, Procs)> {
        let mut made: Vec<(Release, Procs)> = Vec::new();
        let mut live: Option<Release> = None;
        for (n, file) in files.iter().enumerate() {
            let tag = format!("c{}", n + 1);
            let (release, procs) = release(&tag, file, &Variables::new(), live.as_ref()).unwrap();
            live = Some(release.clone());
            made.push((release, procs));
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

    #[test]
    fn a_shared_variable_is_named_at_its_current_version_or_waited_for() {
        let file = web("v1, env: {A: '_prod:TOKEN'}");
        let mut env = Variables::new();
        let missing = release("c1", &file, &env, None).unwrap_err();
        let said = "node web names the shared variable prod/TOKEN, which is not set: \
                    viking env set prod TOKEN";
        assert_eq!(missing.to_string(), said);
        let var = VarRef {
            scope: "prod".parse().unwrap(),
            name: "TOKEN".parse().unwrap(),
        };
        let index = env.entry(var.clone()).or_default();
        index.versions.extend([1, 2]);
        assert!(release("c1", &file, &env, None).is_err(), "it was unset");
        env.get_mut(&var).unwrap().set = true;
        let (first, procs) = release("c1", &file, &env, None).unwrap();
        let spec = procs.values().next().unwrap();
        assert_eq!(spec.settings.shared["A"], var.at(2));
        assert!(!spec.settings.env.contains_key("A"));
        // The same version is the same spec.
        let (_, procs) = release("c2", &file, &env, Some(&first)).unwrap();
        assert!(procs.is_empty());
        env.get_mut(&var).unwrap().versions.insert(3);
        let (_, procs) = release("c2", &file, &env, Some(&first)).unwrap();
        assert_eq!(procs.len(), 1);
    }

    #[test]
    fn a_job_before_a_node_runs_again_only_when_the_node_or_its_command_changed() {
        let file = |run: &str, before: &str, more: &str| {
            let before = format!("before_release: {before}, {more}volume: [/data], expose: [80]");
            web(run).replace("web, run:", &format!("web, {before}, run:"))
        };
        let files = [
            file("v1", "migrate", ""),
            file("v1", "migrate", "scale: 2, "),
            file("v1", "migrate --all", ""),
            file("v2", "migrate --all", ""),
            web("v2").replace("web, run:", "web, volume: [/data], expose: [80], run:"),
            file("v2", "migrate --all", ""),
        ];
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let made = composed(&files);
        let first = made.iter().map(|(release, procs)| {
            let first = release.runs_first().map(|(name, _)| name.to_string());
            let before = procs.keys().filter(|(name, _)| name.is_before()).count();
            (first.collect::<Vec<_>>(), before)
        });
        let (runs, kept) = ((vec!["web.before".to_owned()], 1), (vec![], 0));
        let want = [&runs, &kept, &runs, &runs, &kept, &runs].map(Clone::clone);
        assert_eq!(first.collect::<Vec<_>>(), want);
        // The image and what it is run with, without what only a running copy may have.
        let (release, procs) = &made[0];
        let name = NodeName::parse("web.before").unwrap();
        let job = &release.before[&name];
        assert!(!job.exclusive && !job.has_volume && job.slots() == 1);
        let settings = &procs[&(name, release.tag.clone())].settings;
        assert_eq!(settings.run, Some(vec!["migrate".to_owned()]));
        assert!(settings.expose.is_empty() && settings.volume.is_empty());
        // Of the node's own spec it is no part.
        let web = |made: &(Release, Procs)| made.0.nodes.values().next().unwrap().spec_hash.clone();
        assert_eq!(web(&made[3]), web(&made[4]));
    }

    #[test]
    fn a_tag_that_something_still_runs_at_is_not_given_again() {
        let text = "stacks: {s: {live: c3, releases: {c3: {web: {tag: a1b2c3d4e5f6}}}}}";
        let mut world = crate::schedule::script::world(text).unwrap();
        let mut stack = world.stacks.pop_first().unwrap().1;
        let commit = format!("{:0<40}", "a1b2c3d4e5f6");
        let tag = |stack: &StackWorld| free_tag(stack, &commit).to_string();
        // Its own release is not on record any more.
        assert_eq!(tag(&stack), "a1b2c3d4e5f6-2");
        let spec = stack.procs.pop_first().unwrap().1;
        let second = Tag::parse("a1b2c3d4e5f6-2").unwrap();
        let web = NodeName::parse("web").unwrap();
        stack.procs.insert((web, second), spec);
        assert_eq!(tag(&stack), "a1b2c3d4e5f6-3");
    }
}
