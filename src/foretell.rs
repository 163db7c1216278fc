//! What a commit would do, before it lands: the tree is read, images are looked up, the release is put
//! together and brought up on a copy of the world, all by the functions that do it for a commit that
//! lands. Called by `leader` for commits and by `cli` for folders. Changes nothing, asks nobody.

use std::collections::BTreeMap;
use std::path::Path;

use crate::build::{self, Fate, Forecast};
use crate::model::foretold::{Foretold, ImageFate, JobFate};
use crate::model::names::{ImageName, StackName, Tag};
use crate::model::release::{Commit, ImageRecord, Release, RunId};
use crate::model::spec::ImageRef;
use crate::model::tree::Tree;
use crate::model::vikingfile::{ImageText, VikingFile};
use crate::model::wire;
use crate::model::world::{StackWorld, World};
use crate::schedule::bring::bring_up;
use crate::schedule::compose::{self, Procs, compose, free_tag};
use crate::schedule::differ::{self, Next};
use crate::schedule::require::{self, Required};
use crate::schedule::squeeze::squeeze;
use crate::schedule::{forms, known, moves};
use crate::sync;

/// The file every stack is described by.
pub const FILE: &str = "viking.yml";

/// What stands for the digest of bytes that nobody has made yet.
const NOT_BUILT: &str = "not built yet";

/// What stands for the digest of an image that was never looked up.
const NOT_LOOKED_UP: &str = "not looked up yet";

/// What is asked about.
pub struct Draft<'a> {
    /// The stack, if it is known besides from the file.
    pub stack: Option<&'a StackName>,
    /// The commit, or what stands for one.
    pub commit: Commit,
    /// The tag it gets; else the next free one of its commit.
    pub tag: Option<Tag>,
    /// Its files.
    pub tree: &'a Tree,
    /// How people call its `viking.yml`.
    pub name: &'a str,
    /// The files of what is live, if they are at hand.
    pub before: Option<&'a Tree>,
}

/// Foretells what the files of a folder would do were they committed. Blocking.
///
/// # Errors
/// In words, when the folder cannot be read, and as [`foretell`].
pub fn of_folder(world: &World, folder: &Path) -> Result<Foretold, String> {
    let (commit, tree) = sync::folder::read(folder).map_err(|error| error.to_string())?;
    let name = folder.join(FILE).display().to_string();
    let tag = Tag::parse(&format!("dev-{}", commit.short()));
    let draft = Draft {
        stack: None,
        tag: Some(tag.map_err(|error| error.to_string())?),
        commit,
        tree: &tree,
        name: &name,
        before: None,
    };
    foretell(world, &draft)
}

/// Foretells. Blocking: it reads files, and plans a world as often as the release has steps.
///
/// # Errors
/// When there is no readable `viking.yml` that names a stack, or the one that is asked about.
pub fn foretell(world: &World, draft: &Draft<'_>) -> Result<Foretold, String> {
    let file = read(draft)?;
    let name = file.stack.clone();
    if let Some(stack) = draft.stack.filter(|stack| **stack != name) {
        return Err(format!(
            "{} names the stack {name}, not {stack}: a stack cannot be renamed",
            draft.name
        ));
    }
    let unknown = StackWorld::default();
    let stack = world.stacks.get(&name).unwrap_or(&unknown);
    let mut told = Foretold {
        schema: wire::schema("foretold"),
        stack: name,
        commit: draft.commit.clone(),
        live: stack.pointer.live.clone(),
        staged: stack.pointer.staged.clone(),
        tag: draft
            .tag
            .clone()
            .unwrap_or_else(|| tag(stack, &draft.commit)),
        refused: String::new(),
        waits_for: String::new(),
        images: Vec::new(),
        nodes: Vec::new(),
        jobs: Vec::new(),
        routes: Vec::new(),
        order: Vec::new(),
        digest: String::new(),
    };
    release(world, stack, draft, &file, &mut told);
    Ok(told.sealed())
}

/// The tag a commit would get: the one it has already if it is being built.
fn tag(stack: &StackWorld, commit: &Commit) -> Tag {
    let building = stack.pointer.building.as_ref();
    let building = building.filter(|building| building.commit.id == commit.id);
    building.map_or_else(
        || free_tag(stack, &commit.id),
        |building| building.tag.clone(),
    )
}

fn read(draft: &Draft<'_>) -> Result<VikingFile, String> {
    if let Some(what) = draft.tree.no_file(FILE) {
        return Err(format!("{} {what}: it must be a file", draft.name));
    }
    let text = draft.tree.read(FILE);
    let text = text.map_err(|error| format!("reading {}: {error}", draft.name))?;
    let text = text.ok_or_else(|| format!("there is no {}", draft.name))?;
    VikingFile::parse(draft.name, &text).map_err(|error| error.to_string())
}

/// As far as it gets: an image that cannot be built has no jobs.
fn release(
    world: &World,
    stack: &StackWorld,
    draft: &Draft<'_>,
    file: &VikingFile,
    told: &mut Foretold,
) {
    let images = match images(world, stack, draft, file, told) {
        Ok(images) => images,
        Err(build::Error::Own { image, reason, .. }) => {
            told.refused = format!("image {image}: {reason}");
            return;
        }
        Err(build::Error::Outside { image, reason }) => {
            told.waits_for = format!("image {image}: {reason}");
            return;
        }
    };
    if let Some(missing) = known::missing_foreign(file, world) {
        told.waits_for = missing;
        return;
    }
    let parts = compose::Parts {
        file,
        commit: draft.commit.clone(),
        tag: told.tag.clone(),
        run: RunId::new(world.now_ms, 0),
        now_ms: world.now_ms,
        images,
        external: externals(stack, file),
        foreign: known::foreign(file, world),
        env: &world.env,
        live: stack.live(),
    };
    let (mut next, procs) = match compose(parts) {
        Ok(composed) => composed,
        Err(missing) => {
            // What is missing may come; only images of its own never do.
            told.waits_for = missing.to_string();
            return;
        }
    };
    match require::judge(world, &told.stack, &file.require) {
        Required::Live => {}
        Required::Waits(why) => told.waits_for = why,
        Required::Circle(why) => told.refused = why,
    }
    if let Some(why) = forms::waits(world, &next, &procs) {
        told.waits_for = why;
    }
    if let Some(why) = stack.live().and_then(|live| moves::refused(live, &next)) {
        told.refused = why;
    }
    squeeze(world, &mut next);
    let following = Next {
        release: &next,
        procs: &procs,
    };
    told.nodes = differ::nodes(world, &told.stack, stack, following);
    told.routes = differ::routes(world, &told.stack, stack.live(), &next);
    if told.refused.is_empty() {
        up(world, stack, &next, &procs, told);
    }
}

/// The images of the release; of those that are built, with a digest that no image has.
fn images(
    world: &World,
    stack: &StackWorld,
    draft: &Draft<'_>,
    file: &VikingFile,
    told: &mut Foretold,
) -> Result<BTreeMap<ImageName, ImageRecord>, build::Error> {
    let previous = known::images(stack);
    let other = |stack: &StackName, image: &ImageName| known::live_image(world, stack, image);
    let forecast = Forecast {
        stack: &file.stack,
        file,
        tree: draft.tree,
        previous: &previous,
        other_stacks: &other,
        before: draft.before,
    };
    let mut records = BTreeMap::new();
    for build::Foreseen { image, fate } in build::foresee(&forecast)? {
        let (record, built, why) = match fate {
            Fate::Reused(record) => {
                let why = format!("unchanged since {}", record.built_by);
                (*record, false, why)
            }
            Fate::Built(why) => (unmade(&file.stack, &image, draft, told), true, why),
        };
        records.insert(image.clone(), record);
        told.images.push(ImageFate { image, built, why });
    }
    for image in told.images.iter().filter(|image| image.built) {
        told.order.push(format!("build {}", image.image));
    }
    Ok(records)
}

fn unmade(stack: &StackName, image: &ImageName, draft: &Draft<'_>, told: &Foretold) -> ImageRecord {
    let repository = match image.site() {
        Some(node) => build::registry::site_repository(stack, &node),
        None => build::registry::repository(stack, image),
    };
    ImageRecord {
        v: 1,
        repository,
        digest: NOT_BUILT.to_owned(),
        input: String::new(),
        size_bytes: 0,
        build_ms: 0,
        commit: draft.commit.id.clone(),
        built_by: told.tag.clone(),
        bases: BTreeMap::new(),
        made_of: None,
    }
}

/// What external references mean, as far as it is known without asking their registries.
fn externals(stack: &StackWorld, file: &VikingFile) -> BTreeMap<String, ImageRef> {
    let mut known = known::externals(stack);
    for node in &file.deploy {
        if let Some(ImageText::External(text)) = &node.image {
            let unknown = || ImageRef::External {
                name: text.clone(),
                digest: NOT_LOOKED_UP.to_owned(),
            };
            known.entry(text.clone()).or_insert_with(unknown);
        }
    }
    known
}

/// Brings the release up on a copy of the world, and reads off it where jobs are then.
fn up(world: &World, stack: &StackWorld, next: &Release, procs: &Procs, told: &mut Foretold) {
    let mut then = world.clone();
    let brought = bring_up(&mut then, &told.stack, next, procs);
    told.order.extend(brought.order);
    if told.waits_for.is_empty() {
        told.waits_for = brought.held;
    }
    let live = stack.live();
    let nodes = live.into_iter().chain([next]);
    let mut seats: Vec<_> = nodes
        .flat_map(|release| &release.nodes)
        .flat_map(|(name, node)| (0..node.slots()).map(move |slot| (name, slot)))
        .collect();
    seats.sort();
    seats.dedup();
    for (node, slot) in seats {
        let in_release = |release: &Release| {
            let has = release
                .nodes
                .get(node)
                .is_some_and(|node| slot < node.slots());
            release.job(node, slot).filter(|_| has)
        };
        let before = live.and_then(in_release);
        let after = in_release(next);
        let was = before.as_ref().and_then(|job| world.run.get(job)).cloned();
        let host = after.as_ref().and_then(|job| then.run.get(job)).cloned();
        let instance = |world: &World, job| World::placement(world, job).map(|p| p.instance);
        let runs_on = match (&before, &after) {
            (Some(before), Some(after)) if before == after => {
                instance(world, before) == instance(&then, after)
            }
            _ => false,
        };
        told.jobs.push(JobFate {
            node: node.clone(),
            slot,
            tag: after.map(|job| job.tag),
            was,
            host,
            restarts: !runs_on,
        });
    }
}
