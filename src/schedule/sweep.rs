//! Clean-up, the deciding half: which releases nobody can need any more, and which manifests nobody
//! names. Pure; `leader::sweep` is its loop. Never names a volume, and nothing of a stack that is on
//! its way somewhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::history::KEPT_LIVE;
use crate::model::names::{ImageName, NodeName, StackName, Tag};
use crate::model::release::{Again, ImageRecord, Release};
use crate::model::spec::ImageRef;
use crate::model::trash::{Dropped, Manifest};
use crate::model::world::{StackWorld, World};

/// Newest releases, whatever became of them: the next commit may use their images again.
pub const KEPT_NEWEST: usize = 10;

/// A build record and the release it stands under.
pub type ImageKey = (Tag, ImageName);

/// What of a stack nobody can need any more, by tag. `lived`: tags that went live, newest first, as
/// far back as history reaches. Nothing while a release is built, staged, drained or removed.
#[must_use]
pub fn dropped(
    world: &World,
    name: &StackName,
    lived: &[Tag],
    images: &BTreeMap<ImageKey, ImageRecord>,
) -> BTreeMap<Tag, Dropped> {
    let Some(stack) = world.stacks.get(name).filter(|stack| at_rest(stack)) else {
        return BTreeMap::new();
    };
    if world.frozen_stacks.contains(name) {
        return BTreeMap::new();
    }
    let kept = kept(stack, lived);
    let mut dropped: BTreeMap<Tag, Dropped> = BTreeMap::new();
    for (tag, release) in stack
        .releases
        .iter()
        .filter(|(tag, _)| !kept.contains(*tag))
    {
        let of_tag = dropped.entry(tag.clone()).or_default();
        of_tag.release = true;
        of_tag.manifests.extend(manifests(release));
    }
    for (node, tag) in stack.procs.keys() {
        if !proc_needed(world, name, stack, &kept, node, tag) {
            let of_tag = dropped.entry(tag.clone()).or_default();
            of_tag.procs.insert(node.clone());
        }
    }
    // A release that uses an older one's image compares that record when it is staged.
    let mut needed = kept.clone();
    let of_kept = stack.releases.iter().filter(|(tag, _)| kept.contains(*tag));
    needed.extend(of_kept.flat_map(|(_, r)| r.images.values().map(|i| i.built_by.clone())));
    for ((tag, image), record) in images.iter().filter(|((tag, _), _)| !needed.contains(tag)) {
        let of_tag = dropped.entry(tag.clone()).or_default();
        of_tag.images.insert(image.clone());
        of_tag.manifests.extend(manifest(&record.image_ref()));
    }
    dropped
}

fn at_rest(stack: &StackWorld) -> bool {
    let pointer = &stack.pointer;
    let moving = pointer.building.is_some() || pointer.staged.is_some();
    pointer.live.is_some() && !moving && pointer.retiring.is_none() && !pointer.removing
}

fn kept(stack: &StackWorld, lived: &[Tag]) -> BTreeSet<Tag> {
    let mut newest: Vec<&Release> = stack.releases.values().collect();
    newest.sort_by_key(|release| std::cmp::Reverse(release.made_ms));
    let newest = newest.into_iter().take(KEPT_NEWEST).map(|r| r.tag.clone());
    let restarted = |tag: &Tag| {
        let again = stack.releases.get(tag).and_then(|r| r.again.as_ref());
        matches!(again, Some(Again::Restart { .. } | Again::Variables { .. }))
    };
    let mut others = 0;
    // However often something is restarted or a variable set, what can be gone back to stays.
    let lived = lived.iter().take_while(|tag| {
        others += usize::from(!restarted(tag));
        others <= KEPT_LIVE
    });
    let lived = lived.cloned();
    stack
        .pointer
        .named()
        .cloned()
        .chain(newest)
        .chain(lived)
        .collect()
}

fn proc_needed(
    world: &World,
    name: &StackName,
    stack: &StackWorld,
    kept: &BTreeSet<Tag>,
    node: &NodeName,
    tag: &Tag,
) -> bool {
    let releases = stack.releases.iter().filter(|(of, _)| kept.contains(*of));
    let mut nodes = releases.filter_map(|(_, release)| release.node(node));
    let placed = world.assignments.keys().map(|(job, _)| job);
    let mut here = placed.chain(world.states.keys().map(|(_, job)| job));
    nodes.any(|one| one.tag == *tag)
        || here.any(|job| job.stack == *name && job.node == *node && job.tag == *tag)
}

/// Manifests of our registry that a release needs, running or rolled back to.
pub(super) fn manifests(release: &Release) -> BTreeSet<Manifest> {
    let own = release.images.values().map(ImageRecord::image_ref);
    let external = release.external.values().cloned();
    let pending = release
        .nodes
        .values()
        .filter_map(|node| node.pending.as_ref());
    let pending = pending.map(|spec| spec.image.clone());
    let all = own.chain(external).chain(pending);
    all.filter_map(|image| manifest(&image)).collect()
}

/// The manifest behind a reference, if it is in our registry.
pub(super) fn manifest(image: &ImageRef) -> Option<Manifest> {
    match image {
        ImageRef::Ours { repository, digest } => Some(Manifest {
            repository: repository.clone(),
            digest: digest.clone(),
        }),
        ImageRef::External { .. } | ImageRef::Local { .. } => None,
    }
}

/// Every manifest that some record names: of any stack, since one may run another's image. `None`
/// while anything is built or staged, or cannot be read: what it needs is not on record yet.
#[must_use]
pub fn named(
    world: &World,
    images: &BTreeMap<(StackName, ImageKey), ImageRecord>,
) -> Option<BTreeSet<Manifest>> {
    let moving = |stack: &StackWorld| stack.pointer.building.is_some() || stack.staged().is_some();
    if !world.frozen_stacks.is_empty() || world.stacks.values().any(moving) {
        return None;
    }
    let stacks = world.stacks.values();
    let releases = stacks.clone().flat_map(|stack| stack.releases.values());
    let mut named: BTreeSet<Manifest> = releases.flat_map(manifests).collect();
    let specs = stacks.flat_map(|stack| stack.procs.values());
    named.extend(specs.filter_map(|spec| manifest(&spec.image)));
    let records = images.values().map(ImageRecord::image_ref);
    named.extend(records.filter_map(|image| manifest(&image)));
    Some(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::release::{Building, Commit, Phase, RunId};

    fn tag(n: usize) -> Tag {
        Tag::parse(&format!("a{n}")).unwrap()
    }

    fn name() -> StackName {
        StackName::parse("shop").unwrap()
    }

    fn commit() -> Commit {
        Commit {
            id: "c".into(),
            subject: String::new(),
            author: String::new(),
            at_ms: 0,
        }
    }

    fn image(n: usize, built_by: usize) -> ImageRecord {
        ImageRecord {
            v: 1,
            repository: "shop/web".into(),
            digest: format!("sha256:{n}"),
            input: String::new(),
            size_bytes: 0,
            build_ms: 0,
            commit: String::new(),
            built_by: tag(built_by),
            bases: BTreeMap::new(),
            made_of: None,
        }
    }

    /// Release `n` of `count`, each with an image of its own; the last one is live.
    fn world(count: usize) -> (World, BTreeMap<ImageKey, ImageRecord>) {
        let web = ImageName::parse("web").unwrap();
        let mut stack = StackWorld::default();
        let mut images = BTreeMap::new();
        for n in 0..count {
            images.insert((tag(n), web.clone()), image(n, n));
            let release = Release {
                v: 1,
                stack: name(),
                tag: tag(n),
                commit: commit(),
                run: RunId::new(n as u64, 0),
                made_ms: n as u64,
                images: [(web.clone(), image(n, n))].into(),
                external: BTreeMap::new(),
                nodes: BTreeMap::new(),
                stages_ms: Vec::new(),
                before: Default::default(),
                require: Default::default(),
                again: None,
            };
            stack.releases.insert(tag(n), release);
        }
        stack.pointer.live = count.checked_sub(1).map(tag);
        stack.pointer.phase = Phase::Live;
        let stacks = [(name(), stack)].into();
        let world = World {
            stacks,
            ..World::default()
        };
        (world, images)
    }

    #[test]
    fn what_can_be_rolled_back_to_is_kept_and_the_rest_goes() {
        let (world, images) = world(30);
        // The ten newest failed, but for the live one.
        let lived: Vec<Tag> = [29].into_iter().chain((0..20).rev()).map(tag).collect();
        let dropped = dropped(&world, &name(), &lived, &images);
        let gone: Vec<&Tag> = dropped.keys().collect();
        let expected: Vec<Tag> = (0..=10).map(tag).collect();
        assert_eq!(gone.len(), expected.len());
        assert!(expected.iter().all(|tag| gone.contains(&tag)));
        let first = &dropped[&tag(0)];
        assert!(first.release && first.images.len() == 1 && first.manifests.len() == 1);
    }

    #[test]
    fn restarts_do_not_use_up_what_can_be_rolled_back_to() {
        let (mut world, images) = world(40);
        let stack = world.stacks.get_mut(&name()).unwrap();
        for n in 25..40 {
            let (of, node) = (tag(24), NodeName::parse("web").unwrap());
            let release = stack.releases.get_mut(&tag(n)).unwrap();
            release.again = Some(Again::Restart { of, node });
        }
        let lived: Vec<Tag> = (0..40).rev().map(tag).collect();
        let dropped = dropped(&world, &name(), &lived, &images);
        let gone: Vec<Tag> = dropped.into_keys().collect();
        assert!(
            !gone.contains(&tag(15)) && gone.contains(&tag(14)),
            "{gone:?}"
        );
    }

    #[test]
    fn nothing_goes_while_something_is_on_its_way() {
        let (mut world, images) = world(30);
        let stack = world.stacks.get_mut(&name()).unwrap();
        stack.pointer.building = Some(Building {
            commit: commit(),
            tag: tag(99),
            run: RunId::new(0, 0),
            since_ms: 0,
            reason: String::new(),
            require: Default::default(),
        });
        assert!(dropped(&world, &name(), &[], &images).is_empty());
        assert_eq!(named(&world, &BTreeMap::new()), None);
    }

    #[test]
    fn a_record_that_a_kept_release_was_built_from_stays() {
        let (mut world, images) = world(30);
        let web = ImageName::parse("web").unwrap();
        let stack = world.stacks.get_mut(&name()).unwrap();
        let live = stack.releases.get_mut(&tag(29)).unwrap();
        live.images.insert(web, image(0, 0));
        let dropped = dropped(&world, &name(), &[], &images);
        assert!(dropped[&tag(0)].release);
        assert!(dropped[&tag(0)].images.is_empty());
        let named = named(&world, &BTreeMap::new()).unwrap();
        let first = manifest(&image(0, 0).image_ref()).unwrap();
        assert!(named.contains(&first));
    }
}
