//! Which manifests every copy of the registry must hold, which copies there are to count on, and from
//! where to where one must travel. Pure; `leader::replicate` is its loop.

use std::collections::{BTreeMap, BTreeSet};

use super::sweep::{manifest, manifests};
use super::wanted::{healthy, wanted};
use crate::model::job::{JobId, JobKey};
use crate::model::names::{ImageName, StackName, Tag};
use crate::model::registry::{IMAGE_REPOSITORY, image_tag, runs_registry};
use crate::model::release::{ImageRecord, Release};
use crate::model::spec::ImageRef;
use crate::model::trash::Manifest;
use crate::model::world::World;

/// Manifests, each with the tags it is to have.
pub type Tagged = BTreeMap<Manifest, BTreeSet<String>>;

/// The registry's copies as the world has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Those that their hosts see healthy.
    pub healthy: BTreeMap<JobId, JobKey>,
    /// Those that should run and are not healthy.
    pub down: BTreeSet<JobKey>,
}

impl Seen {
    /// How many copies there are to be.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.healthy.len() + self.down.len()
    }
}

/// The registry's copies.
#[must_use]
pub fn copies(world: &World) -> Seen {
    let core = StackName::core();
    let mut seen = Seen::default();
    let Some(stack) = world.stacks.get(&core) else {
        return seen;
    };
    let jobs = wanted(&core, stack).into_iter().map(|wanted| wanted.job);
    for job in jobs.filter(runs_registry) {
        let placed = world.placement(&job);
        match placed.filter(|_| healthy(world, &job)) {
            Some(placed) => drop(seen.healthy.insert(job.id(placed.instance), job)),
            None => drop(seen.down.insert(job)),
        }
    }
    seen
}

/// What some record names and must therefore be in every copy: of releases that serve, come up, drain
/// or can be rolled back to, and of specs that run.
#[must_use]
pub fn must_be_everywhere(world: &World) -> Tagged {
    let mut all = Tagged::new();
    for stack in world.stacks.values() {
        for release in stack.releases.values() {
            add_release(&mut all, release);
        }
        let specs = stack.procs.values();
        for named in specs.filter_map(|spec| manifest(&spec.image)) {
            all.entry(named).or_default();
        }
    }
    all
}

fn add_release(all: &mut Tagged, release: &Release) {
    for named in manifests(release) {
        all.entry(named).or_default();
    }
    for (named, tags) in of_images(&release.tag, &release.images) {
        all.entry(named).or_default().extend(tags);
    }
    // The registry's own image is pulled by its tag.
    for image in release.external.values() {
        let ids = release.external.values().filter_map(|image| match image {
            ImageRef::Local { id } => Some(image_tag(id)),
            ImageRef::Ours { .. } | ImageRef::External { .. } => None,
        });
        if let Some(named) = manifest(image).filter(|named| named.repository == IMAGE_REPOSITORY) {
            all.entry(named).or_default().extend(ids);
        }
    }
}

/// The manifests of a release that is being made.
#[must_use]
pub fn of_made(
    tag: &Tag,
    images: &BTreeMap<ImageName, ImageRecord>,
    external: &BTreeMap<String, ImageRef>,
) -> Tagged {
    let mut all = of_images(tag, images);
    for named in external.values().filter_map(manifest) {
        all.entry(named).or_default();
    }
    all
}

fn of_images(tag: &Tag, images: &BTreeMap<ImageName, ImageRecord>) -> Tagged {
    let mut all = Tagged::new();
    let named = images
        .values()
        .filter_map(|image| manifest(&image.image_ref()));
    for named in named {
        all.entry(named).or_default().insert(tag.to_string());
    }
    all
}

/// A manifest's way to a copy that lacks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Copies that have it, in the order they are to be asked.
    pub from: Vec<JobId>,
    /// Who lacks it.
    pub to: JobId,
}

/// Who lacks a manifest that somebody has; `None` is a copy that did not say. What nobody has cannot
/// be had from anybody.
#[must_use]
pub fn transfers(held: &BTreeMap<JobId, Option<bool>>) -> Vec<Transfer> {
    let having = held.iter().filter(|(_, held)| **held == Some(true));
    let from: Vec<JobId> = having.map(|(copy, _)| copy.clone()).collect();
    if from.is_empty() {
        return Vec::new();
    }
    let lacking = held.iter().filter(|(_, held)| **held == Some(false));
    let transfer = |(copy, _): (&JobId, _)| Transfer {
        from: from.clone(),
        to: copy.clone(),
    };
    lacking.map(transfer).collect()
}

/// The copies that hold everything which some copy holds. `held`: by manifest, the copies that are
/// known to hold it.
#[must_use]
pub fn whole(
    copies: &BTreeSet<JobId>,
    wanted: &Tagged,
    held: &BTreeMap<Manifest, BTreeSet<JobId>>,
) -> BTreeSet<JobId> {
    let lacks = |copy: &JobId| {
        let holders = wanted.keys().filter_map(|named| held.get(named));
        let mut elsewhere = holders.filter(|holders| !holders.is_empty());
        elsewhere.any(|holders| !holders.contains(copy))
    };
    copies.iter().filter(|copy| !lacks(copy)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::job::{Assignment, Instance, JobState, StateRecord};
    use crate::model::names::{HostName, NodeName};
    use crate::schedule::script;

    fn id(name: &str) -> JobId {
        JobId(name.to_owned())
    }

    fn named(digest: &str) -> Manifest {
        Manifest {
            repository: "shop/web".to_owned(),
            digest: digest.to_owned(),
        }
    }

    #[test]
    fn what_a_copy_lacks_comes_from_whoever_has_it() {
        let held = [
            (id("a"), Some(true)),
            (id("b"), Some(false)),
            (id("c"), None),
            (id("d"), Some(true)),
        ];
        let expected = Transfer {
            from: vec![id("a"), id("d")],
            to: id("b"),
        };
        assert_eq!(transfers(&held.clone().into()), [expected]);
        let nobody = held.map(|(copy, held)| (copy, held.map(|_| false)));
        assert_eq!(transfers(&nobody.into()), []);
    }

    #[test]
    fn a_copy_is_whole_when_it_lacks_nothing_that_another_has() {
        let copies = BTreeSet::from([id("a"), id("b")]);
        let wanted: Tagged = ["one", "two", "lost"]
            .map(|digest| (named(digest), BTreeSet::new()))
            .into();
        let both = copies.clone();
        let only = BTreeSet::from([id("a")]);
        let mut held = BTreeMap::from([
            (named("one"), both.clone()),
            (named("two"), only.clone()),
            (named("lost"), BTreeSet::new()),
        ]);
        assert_eq!(whole(&copies, &wanted, &held), only);
        held.insert(named("two"), both.clone());
        assert_eq!(whole(&copies, &wanted, &held), both);
        // What nobody wants any more counts for nothing.
        held.insert(named("old"), only);
        assert_eq!(whole(&copies, &wanted, &held), both);
    }

    #[test]
    fn copies_are_those_of_the_built_in_stack_that_their_hosts_see_healthy() {
        let text = "stacks: {core: {live: static, releases: {static: {registry: {scale: 2}}}}}";
        let mut world = script::world(text).unwrap();
        let host = HostName::parse("a").unwrap();
        let job = JobKey {
            stack: StackName::core(),
            tag: Tag::of_services(),
            node: NodeName::registry(),
            slot: 0,
        };
        assert_eq!(copies(&world).down.len(), 2);
        let placed = Assignment {
            job: job.clone(),
            host: host.clone(),
            instance: Instance(4),
            container: None,
        };
        world.run.insert(job.clone(), host.clone());
        world
            .assignments
            .insert((job.clone(), host.clone()), placed);
        let text = r#"{"v": 1, "instance": 4, "state": "healthy", "since_ms": 0}"#;
        let mut state: StateRecord = serde_json::from_str(text).unwrap();
        world
            .states
            .insert((host.clone(), job.clone()), state.clone());
        let seen = copies(&world);
        assert_eq!(seen.healthy, [(job.id(Instance(4)), job.clone())].into());
        assert_eq!((seen.down.len(), seen.slots()), (1, 2));
        state.state = JobState::Unhealthy;
        world.states.insert((host, job), state);
        assert_eq!(copies(&world).down.len(), 2);
    }

    #[test]
    fn every_image_on_record_must_be_everywhere_under_its_releases_tag() {
        let text = "stacks: {shop: {live: a1, releases: {a1: {web: {}}, b2: {web: {}}}}}";
        let mut world = script::world(text).unwrap();
        let stack = world.stacks.values_mut().next().unwrap();
        stack.procs.clear();
        for (tag, digest) in [("a1", "sha256:1"), ("b2", "sha256:1")] {
            let text = format!(
                r#"{{"v": 1, "repository": "shop/web", "digest": "{digest}", "input": "",
                "size_bytes": 0, "build_ms": 0, "commit": "", "built_by": "a1"}}"#
            );
            let record: ImageRecord = serde_json::from_str(&text).unwrap();
            let release = stack.releases.get_mut(&Tag::parse(tag).unwrap()).unwrap();
            let image = ImageName::parse("web").unwrap();
            release.images.insert(image, record);
            let ours = ImageRef::Ours {
                repository: "shop/external.1".to_owned(),
                digest: "sha256:2".to_owned(),
            };
            release.external.insert("local".to_owned(), ours);
        }
        let all = must_be_everywhere(&world);
        let tags = &all[&named("sha256:1")];
        assert_eq!(tags.iter().collect::<Vec<_>>(), ["a1", "b2"]);
        assert_eq!(all.len(), 2);
    }
}
