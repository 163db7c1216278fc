//! The one resolver: which copies of a node somebody at a given tag should reach. Used by the
//! ambassador, link waits, and later the router and `viking route`. And which copy of an exclusive
//! slot may run. Pure.

use super::job::JobKey;
use super::names::{NodeName, StackName, Tag};
use super::release::{Phase, Pointer, Release, ReleaseNode};
use super::spec::LinkTarget;
use std::collections::BTreeMap;

/// What the resolver needs of a stack: its pointer and the releases the pointer names.
#[derive(Debug, Clone, Default)]
pub struct StackMap {
    /// The pointer.
    pub pointer: Pointer,
    /// Releases by tag.
    pub releases: BTreeMap<Tag, Release>,
}

impl StackMap {
    fn named(&self, tag: Option<&Tag>) -> Option<&Release> {
        tag.and_then(|tag| self.releases.get(tag))
    }

    /// The release that serves.
    #[must_use]
    pub fn live(&self) -> Option<&Release> {
        self.named(self.pointer.live.as_ref())
    }

    /// The release being brought up.
    #[must_use]
    pub fn staged(&self) -> Option<&Release> {
        self.named(self.pointer.staged.as_ref())
    }

    /// The releases whose maps a consumer running at `tag` goes by: live if it names the tag, then
    /// staged, then retiring. (`static` is named by several: a new service finds what only its own
    /// release has.)
    fn maps_of(&self, consumer: &Tag) -> Vec<&Release> {
        let names = |release: &&Release| release.nodes.values().any(|node| node.tag == *consumer);
        let retiring = self.named(self.pointer.retiring.as_ref());
        [self.live(), self.staged(), retiring]
            .into_iter()
            .flatten()
            .filter(names)
            .collect()
    }
}

/// The tags at which copies of `target` may be reached by a container of `stack` at `consumer`.
/// Several only for exclusive nodes, of which never more than one copy of a slot runs: whichever
/// runs serves both releases.
#[must_use]
pub fn copies(
    stacks: &BTreeMap<StackName, StackMap>,
    stack: &StackName,
    consumer: &Tag,
    target: &LinkTarget,
) -> Vec<Tag> {
    let other = target.stack.as_ref().filter(|other| *other != stack);
    let Some(map) = stacks.get(other.unwrap_or(stack)) else {
        return Vec::new();
    };
    let releases: Vec<&Release> = if other.is_some() {
        map.live().into_iter().collect()
    } else {
        map.maps_of(consumer)
    };
    let nodes = releases
        .iter()
        .filter_map(|release| release.nodes.get(&target.node));
    let Some(node) = nodes.into_iter().find(|node| node.slots() > 0) else {
        return Vec::new();
    };
    let mut tags = vec![node.tag.clone()];
    tags.extend(shared_tags(map, &target.node));
    tags.sort();
    tags.dedup();
    tags
}

/// Of a node that is exclusive in the live or the staged release, the tags of both: whichever copy
/// of a slot runs serves both releases.
fn shared_tags(map: &StackMap, node: &NodeName) -> Vec<Tag> {
    let nodes: Vec<&ReleaseNode> = [map.live(), map.staged()]
        .into_iter()
        .flatten()
        .filter_map(|release| release.nodes.get(node))
        .collect();
    if !nodes.iter().any(|node| node.exclusive) {
        return Vec::new();
    }
    nodes.into_iter().map(|node| node.tag.clone()).collect()
}

/// Whether a job must stand still: stopped, but kept. Of an exclusive node's slot only one tag may
/// run: the live one until the slot is cut over, then the staged one; every other tag is held until
/// its placement ends or it may run again. A held container that may run again is started again.
#[must_use]
pub fn held(
    pointer: &Pointer,
    live: Option<&Release>,
    staged: Option<&Release>,
    job: &JobKey,
) -> bool {
    let live = live.and_then(|release| release.nodes.get(&job.node));
    let staged = staged.and_then(|release| release.nodes.get(&job.node));
    if ![live, staged].into_iter().flatten().any(|n| n.exclusive) {
        return false;
    }
    let has_slot = |node: &&ReleaseNode| job.slot < node.slots();
    let cut =
        pointer.phase == Phase::Cutting && pointer.cut.contains(&(job.node.clone(), job.slot));
    let live = live.filter(has_slot);
    let staged = staged.filter(has_slot);
    let runner = if cut {
        staged.or(live)
    } else {
        live.or(staged)
    };
    runner.is_some_and(|node| node.tag != job.tag)
}

#[cfg(test)]
mod held_tests {
    use super::*;
    use crate::model::release::{Commit, NodeKind, RunId};
    use crate::model::spec::{Resources, StopPolicy};

    fn tag(text: &str) -> Tag {
        Tag::parse(text).unwrap()
    }

    fn node(at: &str, exclusive: bool, scale: u32) -> ReleaseNode {
        ReleaseNode {
            tag: tag(at),
            kind: NodeKind::Container,
            spec_hash: String::new(),
            scale,
            domains: Vec::new(),
            filter: Vec::new(),
            spread_required: false,
            stop: StopPolicy::default(),
            service: false,
            fixed: false,
            exclusive,
            link: Vec::new(),
            shared_volumes: Vec::new(),
            has_volume: exclusive,
            host_ports: Vec::new(),
            resources: Resources::default(),
            pending: None,
        }
    }

    fn release(at: &str, nodes: &[(&str, ReleaseNode)]) -> Release {
        let nodes = nodes
            .iter()
            .map(|(name, node)| (NodeName::parse(name).unwrap(), node.clone()))
            .collect();
        Release {
            v: 1,
            stack: StackName::parse("s").unwrap(),
            tag: tag(at),
            commit: Commit {
                id: String::new(),
                subject: String::new(),
                author: String::new(),
                at_ms: 0,
            },
            run: RunId(String::new()),
            made_ms: 0,
            images: BTreeMap::new(),
            external: BTreeMap::new(),
            nodes,
        }
    }

    fn pointer(phase: Phase, cut: &[(&str, u32)]) -> Pointer {
        let cut = cut
            .iter()
            .map(|(node, slot)| (NodeName::parse(node).unwrap(), *slot));
        Pointer {
            phase,
            cut: cut.collect(),
            ..Pointer::default()
        }
    }

    fn job(at: &str, slot: u32) -> JobKey {
        JobKey {
            stack: StackName::parse("s").unwrap(),
            tag: tag(at),
            node: NodeName::parse("db").unwrap(),
            slot,
        }
    }

    #[test]
    fn while_cutting_the_live_copy_stands_still_only_in_slots_that_were_cut() {
        let live = release("old", &[("db", node("old", true, 2))]);
        let staged = release("new", &[("db", node("new", true, 2))]);
        let pointer = pointer(Phase::Cutting, &[("db", 0)]);
        let held = |job| held(&pointer, Some(&live), Some(&staged), &job);
        assert!(held(job("old", 0)) && !held(job("new", 0)));
        assert!(!held(job("old", 1)) && held(job("new", 1)));
    }

    #[test]
    fn when_the_release_fails_the_kept_copy_runs_again_and_the_new_one_not() {
        let live = release("old", &[("db", node("old", true, 1))]);
        let staged = release("new", &[("db", node("new", true, 1))]);
        let pointer = pointer(Phase::Reverting, &[("db", 0)]);
        let held = |job| held(&pointer, Some(&live), Some(&staged), &job);
        assert!(!held(job("old", 0)) && held(job("new", 0)));
    }

    #[test]
    fn after_promotion_the_old_copy_never_comes_back() {
        let live = release("new", &[("db", node("new", true, 1))]);
        let pointer = pointer(Phase::Live, &[]);
        assert!(held(&pointer, Some(&live), None, &job("old", 0)));
        assert!(!held(&pointer, Some(&live), None, &job("new", 0)));
    }

    #[test]
    fn a_slot_without_a_live_copy_and_an_unchanged_node_run_while_staging() {
        let live = release("old", &[("db", node("old", true, 1))]);
        let staged = release("new", &[("db", node("new", true, 2))]);
        let staging = pointer(Phase::Staging, &[]);
        assert!(held(&staging, Some(&live), Some(&staged), &job("new", 0)));
        assert!(!held(&staging, Some(&live), Some(&staged), &job("new", 1)));
        assert!(!held(&staging, None, Some(&staged), &job("new", 0)));
        let same = release("new", &[("db", node("old", true, 1))]);
        assert!(!held(&staging, Some(&live), Some(&same), &job("old", 0)));
    }

    #[test]
    fn what_is_not_exclusive_is_never_held() {
        let live = release("old", &[("db", node("old", false, 1))]);
        let staged = release("new", &[("db", node("new", false, 1))]);
        let cutting = pointer(Phase::Cutting, &[("db", 0)]);
        assert!(!held(&cutting, Some(&live), Some(&staged), &job("old", 0)));
    }
}
