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
        // What runs before a release has its tag, also when no node has.
        let names = |release: &&Release| {
            release.tag == *consumer || release.nodes.values().any(|node| node.tag == *consumer)
        };
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
    tags.extend(shared_tags(map, &target.node, &node.tag));
    tags.sort();
    tags.dedup();
    tags
}

/// Further tags that may serve in place of `tag`. Of a node that is exclusive in the live or the
/// staged release, or squeezed in the staged one, those of both: whichever copy of a slot runs serves
/// both releases. One that was squeezed once serves whoever still goes by the release before it.
fn shared_tags(map: &StackMap, node: &NodeName, tag: &Tag) -> Vec<Tag> {
    let live = map.live().and_then(|release| release.nodes.get(node));
    let staged = map.staged().and_then(|release| release.nodes.get(node));
    let both = one_runs(live, staged);
    let again =
        live.is_some_and(|live| live.squeezed) && staged.is_none_or(|staged| staged.tag != *tag);
    let nodes = [live.filter(|_| both || again), staged.filter(|_| both)];
    let tags = nodes.into_iter().flatten().map(|node| node.tag.clone());
    tags.collect()
}

/// Whether of each slot of a node only one copy may run, the live or the staged one.
fn one_runs(live: Option<&ReleaseNode>, staged: Option<&ReleaseNode>) -> bool {
    [live, staged].into_iter().flatten().any(|n| n.exclusive)
        || staged.is_some_and(|staged| staged.squeezed)
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
    let one_runs = one_runs(live, staged);
    let has_slot = |node: &&ReleaseNode| job.slot < node.slots();
    let cut =
        pointer.phase == Phase::Cutting && pointer.cut.contains(&(job.node.clone(), job.slot));
    let live = live.filter(has_slot);
    let staged = staged.filter(has_slot);
    if !one_runs {
        // What stood still for want of room stays so until it is gone; the next release is new.
        let other = |node: &ReleaseNode| node.tag != job.tag;
        return live.is_some_and(|live| live.squeezed && other(live)) && staged.is_none_or(other);
    }
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
            squeezed: false,
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
            stages_ms: Vec::new(),
            before: Default::default(),
            require: Default::default(),
            again: None,
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
    fn what_has_no_room_beside_its_live_copy_is_held_like_an_exclusive_one() {
        let squeezed = |at| ReleaseNode {
            squeezed: true,
            ..node(at, false, 1)
        };
        let live = release("old", &[("db", node("old", false, 1))]);
        let staged = release("new", &[("db", squeezed("new"))]);
        let with =
            |phase, cut: &[_], job| held(&pointer(phase, cut), Some(&live), Some(&staged), &job);
        assert!(with(Phase::Staging, &[], job("new", 0)));
        assert!(!with(Phase::Staging, &[], job("old", 0)));
        assert!(with(Phase::Cutting, &[("db", 0)], job("old", 0)));
        assert!(!with(Phase::Cutting, &[("db", 0)], job("new", 0)));
        assert!(!with(Phase::Reverting, &[], job("old", 0)));
        // Promoted: the old copy never comes back, and the next release is judged anew.
        let next = release("next", &[("db", node("next", false, 1))]);
        let staging = pointer(Phase::Staging, &[]);
        let after = |staged_now, job| held(&staging, Some(&staged), staged_now, &job);
        assert!(after(None, job("old", 0)) && after(Some(&next), job("old", 0)));
        assert!(!after(None, job("new", 0)) && !after(Some(&next), job("new", 0)));
        assert!(!after(Some(&next), job("next", 0)));
    }

    #[test]
    fn what_is_not_exclusive_is_never_held() {
        let live = release("old", &[("db", node("old", false, 1))]);
        let staged = release("new", &[("db", node("new", false, 1))]);
        let cutting = pointer(Phase::Cutting, &[("db", 0)]);
        assert!(!held(&cutting, Some(&live), Some(&staged), &job("old", 0)));
    }
}
