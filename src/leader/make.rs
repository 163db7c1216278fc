//! From a commit id to everything a release needs: the tree is read, `viking.yml` parsed, images
//! built and pushed. Called by a stack's follower; writes only that a build is under way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

use super::Parts;
use super::bootstrap::registry_up;
use super::follow::Follower;
use super::people::{FILE, file_of};
use super::replicate::everywhere;
use super::timing::{Watch, millis};
use crate::build::{self, BuildJob};
use crate::clock::now_ms;
use crate::model::history::{StageTimes, add_time};
use crate::model::names::{ImageName, StackName, Tag};
use crate::model::progress::{Progress, Stage};
use crate::model::release::{Building, Commit, ImageRecord, Quarantine, Release, RunId, Source};
use crate::model::spec::ImageRef;
use crate::model::tree::Tree;
use crate::model::vikingfile::VikingFile;
use crate::model::world::{StackWorld, World};
use crate::schedule::compose::{Procs, free_tag};
use crate::schedule::{known, replicate};

/// How long a build waits for the registry before it says so and tries again.
const REGISTRY_WAIT: Duration = Duration::from_secs(60);

/// Between two looks for the registry.
const REGISTRY_LOOK: Duration = Duration::from_millis(200);

/// Everything made of one commit, waiting to be staged.
pub(super) struct Made {
    pub(super) commit: Commit,
    pub(super) tag: Tag,
    pub(super) run: RunId,
    pub(super) file: VikingFile,
    pub(super) images: BTreeMap<ImageName, ImageRecord>,
    pub(super) external: BTreeMap<String, ImageRef>,
    /// How long each stage took.
    pub(super) stages_ms: StageTimes,
    /// Since when it waits to be staged.
    pub(super) since: Instant,
}

impl Made {
    /// The times of its stages, the wait for its turn included.
    pub(super) fn times(&self) -> StageTimes {
        let mut times = self.stages_ms.clone();
        add_time(&mut times, "turn", millis(self.since.elapsed()));
        times
    }
}

/// Why nothing was made.
pub(super) enum Failed {
    /// The commit's own fault: not tried again until a newer one.
    Own(Box<(Quarantine, StageTimes)>),
    /// Tried again with backoff.
    Outside(anyhow::Error),
    /// A newer head came.
    Superseded,
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::Outside(error)
    }
}

/// Makes a commit.
pub(super) async fn make(
    follower: &Follower,
    source: &Source,
    head: &str,
    pull: bool,
) -> Result<Made, Failed> {
    let mirrors = &follower.parts.mirrors;
    let watch = Watch::start();
    let commit = mirrors
        .commit(source, head)
        .await
        .context("reading the commit")?;
    let world = follower
        .parts
        .tables
        .world(now_ms())
        .await
        .context("reading the store")?;
    let stack = world
        .stacks
        .get(&follower.stack)
        .cloned()
        .unwrap_or_default();
    let mut draft = Draft::of(follower, commit, &stack, watch);
    draft.begin().await?;
    let tree = mirrors
        .tree(source, head)
        .await
        .map_err(|error| draft.tree_failed(&error))?;
    draft.watch.enter("parse");
    let file = draft.parse(&tree, &file_of(source)).await?;
    draft.watch.enter("build");
    let built = draft.build(&file, &tree, &stack, &world, pull).await?;
    draft.copy(&built).await?;
    let stages_ms = draft.times();
    let Draft {
        commit, tag, run, ..
    } = draft;
    Ok(Made {
        commit,
        tag,
        run,
        file,
        images: built.images,
        external: built.external,
        stages_ms,
        since: Instant::now(),
    })
}

struct Draft<'a> {
    follower: &'a Follower,
    commit: Commit,
    tag: Tag,
    run: RunId,
    since_ms: u64,
    /// Unix milliseconds when this try began; later than `since_ms` if there was one before.
    began_ms: u64,
    reason: String,
    watch: Watch,
}

impl<'a> Draft<'a> {
    /// Goes on with the run of an earlier try at the same commit: each run has one end.
    fn of(follower: &'a Follower, commit: Commit, stack: &StackWorld, watch: Watch) -> Self {
        let began_ms = now_ms();
        let before = stack
            .pointer
            .building
            .clone()
            .filter(|b| b.commit.id == commit.id);
        if let Some(Building {
            tag,
            run,
            since_ms,
            reason,
            ..
        }) = before
        {
            return Self {
                follower,
                commit,
                tag,
                run,
                since_ms,
                began_ms,
                reason,
                watch,
            };
        }
        let tag = free_tag(stack, &commit.id);
        let run = RunId::new(began_ms, fastrand::u16(..));
        Self {
            follower,
            commit,
            tag,
            run,
            since_ms: began_ms,
            began_ms,
            reason: String::new(),
            watch,
        }
    }

    /// Times of this try, after what faults from outside took before it.
    fn times(&self) -> StageTimes {
        let mut times = StageTimes::new();
        let before_ms = self.began_ms.saturating_sub(self.since_ms);
        if before_ms > 0 {
            add_time(&mut times, "held up", before_ms);
        }
        times.extend(self.watch.times());
        times
    }

    async fn begin(&self) -> anyhow::Result<()> {
        self.tell(
            Stage::Fetch,
            "",
            format!("{} {:?}", self.commit.short(), self.commit.subject),
        );
        let building = Building {
            commit: self.commit.clone(),
            tag: self.tag.clone(),
            run: self.run.clone(),
            since_ms: self.since_ms,
            reason: self.reason.clone(),
            require: Default::default(),
        };
        self.follower
            .change_with(|pointer| {
                let same = pointer.building.as_ref().is_some_and(|b| b.run == self.run);
                let ends = if same {
                    Vec::new()
                } else {
                    self.follower.end_building(pointer, &self.commit.id)
                };
                pointer.building = Some(building.clone());
                ends
            })
            .await
    }

    fn tree_failed(&self, error: &crate::sync::Error) -> Failed {
        if error.is_commits_fault() {
            return self.own("parse", format!("{error}"), Vec::new());
        }
        Failed::Outside(anyhow::anyhow!("reading the commit's files: {error}"))
    }

    async fn parse(&self, tree: &Tree, name: &str) -> Result<VikingFile, Failed> {
        if let Some(what) = tree.no_file(FILE) {
            let reason = format!("{name} {what}: it must be a file");
            return Err(self.own("parse", reason, Vec::new()));
        }
        let reader = tree.clone();
        let text = tokio::task::spawn_blocking(move || reader.read(FILE))
            .await
            .context("reading viking.yml")?
            .map_err(|error| self.unreadable(&error))?;
        let Some(text) = text else {
            return Err(self.own("parse", format!("no {name} in this commit"), Vec::new()));
        };
        let file = VikingFile::parse(name, &text).map_err(|error| {
            let log = error.to_string().lines().map(str::to_owned).collect();
            self.own("parse", error.one_line(), log)
        })?;
        if file.stack != self.follower.stack {
            let reason = format!(
                "{FILE} names the stack {}, but it is followed as {}: a stack cannot be renamed; \
                 remove it and add it again under the new name",
                file.stack, self.follower.stack
            );
            return Err(self.own("parse", reason, Vec::new()));
        }
        self.tell(
            Stage::Parse,
            "",
            format!("{} images, {} nodes", file.build.len(), file.deploy.len()),
        );
        Ok(file)
    }

    async fn build(
        &self,
        file: &VikingFile,
        tree: &Tree,
        stack: &StackWorld,
        world: &World,
        pull: bool,
    ) -> Result<build::Built, Failed> {
        // The commit's own mistakes first: they wait for nobody.
        build::check(&self.follower.stack, file, tree)
            .await
            .map_err(|error| self.build_failed(error))?;
        if let Some(missing) = known::missing_foreign(file, world) {
            return Err(Failed::Outside(anyhow::anyhow!(missing)));
        }
        let external = known::externals(stack);
        if build::needs_registry(file, &external) {
            self.await_registry().await?;
        }
        let parts = &self.follower.parts;
        let previous = known::images(stack);
        let registry = Arc::clone(&parts.registry);
        let other = |stack: &StackName, image: &ImageName| known::live_image(world, stack, image);
        let job = BuildJob {
            engine: &parts.engine,
            registry: registry.as_ref(),
            cluster: parts.tables.cluster(),
            stack: &self.follower.stack,
            tag: &self.tag,
            commit: &self.commit,
            file,
            tree,
            previous: &previous,
            other_stacks: &other,
            external: &external,
            pull,
            places: &parts.builds,
            progress: &parts.progress,
            run: Some(self.run.clone()),
        };
        build::build(job)
            .await
            .map_err(|error| self.build_failed(error))
    }

    /// What was built is in every copy of the registry before anybody hears of it.
    async fn copy(&self, built: &build::Built) -> anyhow::Result<()> {
        let made = replicate::of_made(&self.tag, &built.images, &built.external);
        let tell = |line| self.tell(Stage::Push, "", line);
        everywhere(&self.follower.parts, &made, tell).await
    }

    fn build_failed(&self, error: build::Error) -> Failed {
        if matches!(error, build::Error::Outside { .. }) {
            // Perhaps it is the copy that this host's Docker is led to.
            self.follower.parts.copies.turn();
        }
        match error {
            build::Error::Own { image, reason, log } => {
                self.own("build", format!("image {image}: {reason}"), log)
            }
            build::Error::Outside { .. } => Failed::Outside(anyhow::Error::new(error)),
        }
    }

    /// The registry is a job like any other and may still be starting.
    async fn await_registry(&self) -> anyhow::Result<()> {
        let until = Instant::now() + REGISTRY_WAIT;
        while Instant::now() < until {
            let world = self.follower.parts.tables.world(now_ms()).await?;
            if registry_up(&world) {
                return Ok(());
            }
            tokio::time::sleep(REGISTRY_LOOK).await;
        }
        anyhow::bail!("the registry (core/registry) is not healthy: see `viking status core`")
    }

    /// Only a file above the limit is the commit's fault; all else is our disk or mirror.
    fn unreadable(&self, error: &std::io::Error) -> Failed {
        if error.kind() == std::io::ErrorKind::FileTooLarge {
            return self.own("parse", format!("{FILE}: {error}"), Vec::new());
        }
        Failed::Outside(anyhow::anyhow!("reading {FILE} from the mirror: {error}"))
    }

    fn own(&self, stage: &str, reason: String, log: Vec<String>) -> Failed {
        let bad = Quarantine {
            commit: self.commit.clone(),
            tag: self.tag.clone(),
            run: self.run.clone(),
            stage: stage.to_owned(),
            reason,
            log,
            at_ms: now_ms(),
        };
        Failed::Own(Box::new((bad, self.times())))
    }

    fn tell(&self, stage: Stage, about: &str, line: String) {
        let Follower { parts, stack, .. } = self.follower;
        tell(parts, stack, &self.run, stage, about, line);
    }
}

fn tell(parts: &Parts, stack: &StackName, run: &RunId, stage: Stage, about: &str, line: String) {
    let progress = Progress {
        stack: stack.clone(),
        run: Some(run.clone()),
        at_ms: now_ms(),
        stage,
        about: about.to_owned(),
        line,
    };
    // Nobody listening is fine.
    drop(parts.progress.send(progress));
}

/// A fault of the commit's own in what was made of it.
pub(super) fn own(made: &Made, stage: &str, reason: String) -> Quarantine {
    Quarantine {
        commit: made.commit.clone(),
        tag: made.tag.clone(),
        run: made.run.clone(),
        stage: stage.to_owned(),
        reason,
        log: Vec::new(),
        at_ms: now_ms(),
    }
}

/// Tells people that a commit failed before it was staged.
pub(super) fn tell_failed(follower: &Follower, bad: &Quarantine) {
    let line = format!("{} failed at {}: {}", bad.tag, bad.stage, bad.reason);
    let Follower { parts, stack, .. } = follower;
    tell(parts, stack, &bad.run, Stage::Failed, "", line);
}

/// Tells people what a release will change.
pub(super) fn tell_staged(parts: &Parts, release: &Release, procs: &Procs) {
    let changed: Vec<_> = procs.keys().map(|(node, _)| node.to_string()).collect();
    let mut line = if changed.is_empty() {
        format!("{}: no container changes", release.tag)
    } else {
        format!("{}: changes {}", release.tag, changed.join(", "))
    };
    let squeezed = release.nodes.iter().filter(|(_, node)| node.squeezed);
    let squeezed: Vec<_> = squeezed.map(|(name, _)| name.as_str()).collect();
    if !squeezed.is_empty() {
        let names = squeezed.join(", ");
        line.push_str(&format!(
            "; no room beside what is live, so handed over: {names}"
        ));
    }
    tell(parts, &release.stack, &release.run, Stage::Stage, "", line);
}
