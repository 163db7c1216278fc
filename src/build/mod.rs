//! Commits become images: what each image is made from, in which order, whether it must be built at
//! all, and that the registry has it before anybody hears of it. Called by `leader` with a commit
//! that parsed; writes nothing to the store.

mod archive;
mod base;
pub mod context;
pub mod copies;
pub mod dockerfile;
pub mod external;
pub mod fake_registry;
mod foresee;
mod glob;
mod heredoc;
pub mod ignore;
mod imagebank;
mod labels;
mod lines;
mod listen;
pub mod order;
mod prepare;
pub mod reach;
pub mod registry;
mod site;
mod transfer;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Semaphore;

use crate::docker::{self, SharedEngine};
use crate::model::names::{ImageName, StackName, Tag};
use crate::model::release::{Commit, ImageRecord, NodeKind, RunId};
use crate::model::spec::ImageRef;
use crate::model::tree::Tree;
use crate::model::vikingfile::{DeployNode, ImageText, VikingFile};
use crate::wake::ProgressSink;

pub use foresee::{Fate, Forecast, Foreseen, foresee};

use imagebank::Bank;
use prepare::Prepared;
use registry::{Registry, RegistryError};

/// Most builds at once, however many cores there are: the engine has one disk. Never less than two,
/// as a build also waits for networks.
const BUILDS_MAX: usize = 8;

/// What stands for our registry's address in an input hash: where it listens changes no image.
const ADDRESS_HASHED: &str = "registry";

/// Lines of a failed build that are kept.
pub const LOG_LINES_KEPT: usize = 20;

/// A live image of another stack, if it has one.
pub type OtherStacks<'a> = &'a (dyn Fn(&StackName, &ImageName) -> Option<ImageRef> + Sync);

/// Places for builds, shared by all stacks of a host: they share its cores and its disk.
#[derive(Clone)]
pub struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(builds_at_once())))
    }
}

/// All that a build needs to know. Nothing in it is changed.
pub struct BuildJob<'a> {
    /// Builds and pushes.
    pub engine: &'a SharedEngine,
    /// Our registry.
    pub registry: &'a dyn Registry,
    /// Cluster id, for labels.
    pub cluster: &'a str,
    /// The stack.
    pub stack: &'a StackName,
    /// The release this is for.
    pub tag: &'a Tag,
    /// Its commit.
    pub commit: &'a Commit,
    /// What it says.
    pub file: &'a VikingFile,
    /// Its files.
    pub tree: &'a Tree,
    /// Records of live and recent releases, the best to reuse first.
    pub previous: &'a BTreeMap<ImageName, Vec<ImageRecord>>,
    /// Live images of other stacks.
    pub other_stacks: OtherStacks<'a>,
    /// What external references meant to the live release.
    pub external: &'a BTreeMap<String, ImageRef>,
    /// Ask registries again what external references mean.
    pub pull: bool,
    /// Where builds wait for their turn.
    pub places: &'a Places,
    /// Who watches.
    pub progress: &'a ProgressSink,
    /// The run they watch.
    pub run: Option<RunId>,
}

/// What came of it. Every manifest named here is in its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// A record for each image of `build:`, and for the files of each website.
    pub images: BTreeMap<ImageName, ImageRecord>,
    /// Each external reference of `deploy:`.
    pub external: BTreeMap<String, ImageRef>,
}

/// Why there are no images, sorted by who is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The commit's own fault: building it again would fail again.
    #[error("image {image}: {reason}")]
    Own {
        /// The image, or the external reference.
        image: String,
        /// What is wrong.
        reason: String,
        /// The end of the builder's log.
        log: Vec<String>,
    },
    /// A fault from outside (registry, engine, disk, object store): try again later.
    #[error("image {image}: {reason}")]
    Outside {
        /// The image, or the external reference.
        image: String,
        /// What happened.
        reason: String,
    },
}

impl Error {
    fn own(image: &dyn Display, reason: &dyn Display) -> Self {
        Self::Own {
            image: image.to_string(),
            reason: reason.to_string(),
            log: Vec::new(),
        }
    }

    fn outside(image: &dyn Display, reason: &dyn Display) -> Self {
        Self::Outside {
            image: image.to_string(),
            reason: reason.to_string(),
        }
    }

    fn registry(image: &dyn Display, error: &RegistryError) -> Self {
        Self::outside(image, error)
    }

    fn context(image: &ImageName, error: context::ContextError) -> Self {
        match error {
            context::ContextError::Refused(reason) => Self::own(image, &reason),
            context::ContextError::Read { path, source } => Self::outside(
                image,
                &format!("cannot read {path:?} of the commit: {source}"),
            ),
            closed @ context::ContextError::Closed => Self::outside(image, &closed),
        }
    }

    /// An error of the engine; `log` is kept only where the commit is at fault.
    fn engine(image: &dyn Display, error: docker::Error, log: Vec<String>) -> Self {
        let image = image.to_string();
        match error {
            docker::Error::BuildFailed(text) | docker::Error::BadSpec(text) => {
                // The engine's text ends with the lines that `log` has already.
                let reason = text.lines().next().unwrap_or_default().to_owned();
                Self::Own { image, reason, log }
            }
            docker::Error::Unreachable(_)
            | docker::Error::NotFound(_)
            | docker::Error::Conflict(_)
            | docker::Error::PortTaken(_)
            | docker::Error::DiskFull(_)
            | docker::Error::Other(_) => Self::outside(&image, &error),
        }
    }
}

/// Finds the mistakes that can be found without an engine or a registry: in Dockerfiles, and in what
/// images are built on one another.
///
/// # Errors
/// The first one; also when the commit cannot be read.
pub async fn check(stack: &StackName, file: &VikingFile, tree: &Tree) -> Result<(), Error> {
    let tree = Arc::new(tree.clone());
    prepare::read(stack, file, &tree).await?;
    sites(file, &tree).await.map(drop)
}

async fn sites(file: &VikingFile, tree: &Arc<Tree>) -> Result<Vec<site::Site>, Error> {
    let (file, tree) = (file.clone(), Arc::clone(tree));
    tokio::task::spawn_blocking(move || site::read(&file, &tree))
        .await
        .expect("reading a tree does not panic and is not cancelled")
}

/// Whether [`build`] has anything to do with our registry; `external` is what external references
/// meant so far.
#[must_use]
pub fn needs_registry(file: &VikingFile, external: &BTreeMap<String, ImageRef>) -> bool {
    // An unknown one may be an image of this engine alone, which goes there.
    let elsewhere = |text| matches!(external.get(text), Some(ImageRef::External { .. }));
    let site = |node: &DeployNode| matches!(node.kind, NodeKind::Website { .. });
    !file.build.is_empty()
        || file.deploy.iter().any(site)
        || !external_texts(file).into_iter().all(elsewhere)
}

fn external_texts(file: &VikingFile) -> BTreeSet<&str> {
    let images = file.deploy.iter().filter_map(|node| node.image.as_ref());
    let texts = images.filter_map(|image| match image {
        ImageText::External(text) => Some(text.as_str()),
        ImageText::Viking { .. } => None,
    });
    texts.collect()
}

/// Builds what must be built, and makes sure that the registry has all of it under the release's
/// tag. Dropping the future ends running builds. Doing it twice is the same as once.
///
/// # Errors
/// The first image that failed; other builds are ended.
pub async fn build(job: BuildJob<'_>) -> Result<Built, Error> {
    let tree = Arc::new(job.tree.clone());
    let prepared = prepare::read(job.stack, job.file, &tree).await?;
    let bank = Bank { job: &job, tree };
    let sites = sites(job.file, &bank.tree).await?;
    let (mut images, sites, external) = tokio::try_join!(
        images(&bank, &prepared),
        site_images(&job, sites),
        externals(&job)
    )?;
    images.extend(sites);
    Ok(Built { images, external })
}

/// Starts each image as soon as its parents are pushed, a bounded number at once.
async fn images(
    bank: &Bank<'_>,
    prepared: &[Prepared],
) -> Result<BTreeMap<ImageName, ImageRecord>, Error> {
    let mut waiting: Vec<&Prepared> = prepared.iter().collect();
    let mut done: BTreeMap<ImageName, ImageRecord> = BTreeMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < builds_at_once() {
            let ready = waiting
                .iter()
                .position(|image| image.parents.iter().all(|p| done.contains_key(p)));
            let Some(index) = ready else { break };
            let image = waiting.remove(index);
            let text = Resolved {
                text: resolve(
                    &bank.job.parents(),
                    image,
                    &done,
                    bank.job.registry.address(),
                )?,
                hashed: resolve(&bank.job.parents(), image, &done, ADDRESS_HASHED)?,
            };
            running.push(async move {
                let record = bank.image(image, &text).await?;
                Ok::<_, Error>((image.entry.name.clone(), record))
            });
        }
        match running.next().await {
            Some(finished) => done.extend([finished?]),
            None => return Ok(done),
        }
    }
}

/// One after the other: each goes through one disk.
async fn site_images(
    job: &BuildJob<'_>,
    sites: Vec<site::Site>,
) -> Result<BTreeMap<ImageName, ImageRecord>, Error> {
    let mut done = BTreeMap::new();
    for site in sites {
        done.insert(site.image.clone(), site.record(job).await?);
    }
    Ok(done)
}

fn builds_at_once() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.clamp(2, BUILDS_MAX)
}

/// A Dockerfile's text with every `viking:` reference as a digest.
struct Resolved {
    /// As the engine reads it.
    text: String,
    /// As it is hashed.
    hashed: String,
}

/// Whom images are built on.
struct Parents<'a> {
    stack: &'a StackName,
    other_stacks: OtherStacks<'a>,
}

impl BuildJob<'_> {
    fn parents(&self) -> Parents<'_> {
        Parents {
            stack: self.stack,
            other_stacks: self.other_stacks,
        }
    }
}

/// The Dockerfile's text with every `viking:` reference as a digest in the registry at `address`.
fn resolve(
    parents: &Parents<'_>,
    image: &Prepared,
    done: &BTreeMap<ImageName, ImageRecord>,
    address: &str,
) -> Result<String, Error> {
    image.dockerfile.rewrite(|stack, parent| {
        let found = if stack == parents.stack {
            done.get(parent).map(ImageRecord::image_ref)
        } else {
            (parents.other_stacks)(stack, parent)
        };
        // The other stack may go live any time without a newer commit here.
        found.map(|found| found.reference(address)).ok_or_else(|| {
            let reason = format!("is built on viking:{stack}/{parent}, which is not live");
            Error::outside(&image.entry.name, &reason)
        })
    })
}

async fn externals(job: &BuildJob<'_>) -> Result<BTreeMap<String, ImageRef>, Error> {
    let mut found = BTreeMap::new();
    for text in external_texts(job.file) {
        let resolved = external::resolve(job, text).await?;
        found.insert(text.to_owned(), resolved);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_to_the_registry_waits_for_it() {
        let needs = |rest: &str, known: &BTreeMap<String, ImageRef>| {
            let text = format!("viking: {{name: s}}\n{rest}\n");
            let file = VikingFile::parse("f", text.as_bytes()).unwrap();
            needs_registry(&file, known)
        };
        let name = "redis".to_owned();
        let digest = "sha256:1".to_owned();
        let elsewhere = ImageRef::External { name, digest };
        let known = BTreeMap::from([("redis".to_owned(), elsewhere)]);
        let none = BTreeMap::new();
        assert!(!needs("deploy: {a: {image: 'viking:other/x'}}", &none));
        assert!(needs("deploy: {a: {image: redis}}", &none));
        assert!(!needs("deploy: {a: {image: redis}}", &known));
        assert!(needs("build: {x: FROM redis}\ndeploy:", &known));
    }

    #[test]
    fn a_build_can_run_on_any_thread() {
        fn send<T: Send>(_: impl FnOnce(BuildJob<'static>) -> T) {}
        send(build);
    }
}
