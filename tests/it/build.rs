//! Builds: a stack that is built again and again from trees in memory, `real` against Docker and a
//! registry, `faults` against the fakes, where something must fail or be counted.

mod copies;
mod faults;
mod real;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::broadcast;
use viking::build::fake_registry::FakeManifests;
use viking::build::registry::Registry;
use viking::build::{self, BuildJob, Built, Error, Fate, Forecast, Places};
use viking::docker::SharedEngine;
use viking::docker::fake::FakeEngine;
use viking::model::names::{ImageName, NodeName, StackName, Tag};
use viking::model::progress::Progress;
use viking::model::release::{Commit, ImageRecord, NodeKind, RunId};
use viking::model::spec::{ImageRef, Settings, StopPolicy};
use viking::model::tree::{BlobSource, Entry, EntryKind, Tree};
use viking::model::vikingfile::{BuildEntry, DeployNode, DockerfileSource, ImageText, VikingFile};

/// Where the fake registry says it listens.
const FAKE_ADDRESS: &str = "127.0.0.1:5000";

struct Blobs(BTreeMap<String, Vec<u8>>);

impl BlobSource for Blobs {
    fn blob(&self, oid: &str) -> std::io::Result<Vec<u8>> {
        let found = self.0.get(oid).cloned();
        found.ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

/// A commit of (path, content); `->x` is a link to `x`.
fn tree(files: &[(&str, &str)]) -> Tree {
    let mut blobs = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for (path, content) in files {
        let (kind, bytes) = match content.strip_prefix("->") {
            Some(target) => (EntryKind::Symlink, target),
            None => (EntryKind::File, *content),
        };
        let oid = hex::encode(Sha256::digest(bytes));
        blobs.insert(oid.clone(), bytes.as_bytes().to_vec());
        entries.insert((*path).to_owned(), Entry { kind, oid });
    }
    let blobs = Arc::new(Blobs(blobs));
    Tree { entries, blobs }
}

fn image(name: &str) -> ImageName {
    ImageName::parse(name).expect("a name in a test is good")
}

fn entry(name: &str, dockerfile: &str) -> BuildEntry {
    BuildEntry {
        name: image(name),
        line: 1,
        dockerfile: DockerfileSource::Text(dockerfile.to_owned()),
        context: String::new(),
        target: None,
        args: BTreeMap::new(),
        platform: None,
    }
}

fn node(name: &str, text: &str) -> DeployNode {
    DeployNode {
        name: NodeName::parse(name).expect("a name in a test is good"),
        line: 1,
        kind: NodeKind::Container,
        image: Some(ImageText::External(text.to_owned())),
        settings: Settings::default(),
        shared: BTreeMap::new(),
        scale: 1,
        domains: Vec::new(),
        filter: Vec::new(),
        spread_required: false,
        stop: StopPolicy::default(),
        service: false,
        fixed: false,
        before_release: None,
    }
}

/// One stack that is built again and again; remembers its records as a leader would.
struct Stack {
    engine: SharedEngine,
    registry: Arc<dyn Registry>,
    name: StackName,
    known: BTreeMap<ImageName, Vec<ImageRecord>>,
    external: BTreeMap<String, ImageRef>,
    others: BTreeMap<(StackName, ImageName), ImageRef>,
    releases: u64,
    pull: bool,
    /// Whether something is wrong that no forecast knows of.
    lost: bool,
    places: Places,
    /// What people saw of the last build.
    seen: Vec<Progress>,
}

impl Stack {
    fn new(engine: SharedEngine, registry: Arc<dyn Registry>) -> Self {
        Self {
            engine,
            registry,
            name: StackName::parse("s").expect("a name in a test is good"),
            known: BTreeMap::new(),
            external: BTreeMap::new(),
            others: BTreeMap::new(),
            releases: 0,
            pull: false,
            lost: false,
            places: Places::default(),
            seen: Vec::new(),
        }
    }

    fn fake() -> (FakeEngine, Self) {
        let engine = FakeEngine::new();
        let registry = FakeManifests::new(FAKE_ADDRESS, engine.registry());
        let stack = Self::new(Arc::new(engine.clone()), Arc::new(registry));
        (engine, stack)
    }

    /// Builds the next commit.
    async fn build(
        &mut self,
        files: &[(&str, &str)],
        entries: &[BuildEntry],
        nodes: &[DeployNode],
    ) -> Result<Built, Error> {
        self.releases += 1;
        let commit = Commit {
            id: format!("{:012x}{:028}", self.releases, 0),
            subject: String::new(),
            author: String::new(),
            at_ms: 0,
        };
        let tag = self.tag();
        let file = VikingFile {
            stack: self.name.clone(),
            comment: None,
            require: Default::default(),
            build: entries.to_vec(),
            deploy: nodes.to_vec(),
        };
        let (progress, mut watcher) = broadcast::channel(4096);
        let others = |stack: &StackName, image: &ImageName| {
            self.others.get(&(stack.clone(), image.clone())).cloned()
        };
        let tree = tree(files);
        let forecast = build::foresee(&Forecast {
            stack: &self.name,
            file: &file,
            tree: &tree,
            previous: &self.known,
            other_stacks: &others,
            before: None,
        });
        let built = build::build(BuildJob {
            engine: &self.engine,
            registry: self.registry.as_ref(),
            cluster: "test-build",
            stack: &self.name,
            tag: &tag,
            commit: &commit,
            file: &file,
            tree: &tree,
            previous: &self.known,
            other_stacks: &others,
            external: &self.external,
            pull: self.pull,
            places: &self.places,
            progress: &progress,
            run: Some(RunId::new(0, 0)),
        })
        .await;
        self.seen = std::iter::from_fn(|| watcher.try_recv().ok()).collect();
        let built = built?;
        if !self.pull && !self.lost {
            let forecast = forecast.expect("what can be built can be foreseen");
            let foreseen = forecast
                .iter()
                .filter(|one| matches!(one.fate, Fate::Built(_)));
            let foreseen: BTreeSet<_> = foreseen.map(|one| one.image.clone()).collect();
            let made = built
                .images
                .iter()
                .filter(|(_, record)| record.built_by == tag);
            assert_eq!(foreseen, made.map(|(name, _)| name.clone()).collect());
        }
        for (name, record) in &built.images {
            let records = self.known.entry(name.clone()).or_default();
            records.insert(0, record.clone());
            let there = self.registry.digest(&record.repository, tag.as_str());
            let there = there.await.expect("the registry answers");
            assert_eq!(there.as_ref(), Some(&record.digest), "{name} under {tag}");
        }
        self.external.clone_from(&built.external);
        Ok(built)
    }

    fn tag(&self) -> Tag {
        Tag::parse(&format!("{:012x}", self.releases)).expect("a tag")
    }

    /// Why an image of a commit would be built, if it would.
    fn why(
        &self,
        files: &[(&str, &str)],
        before: &[(&str, &str)],
        entries: &[BuildEntry],
    ) -> Option<String> {
        let file = VikingFile {
            stack: self.name.clone(),
            comment: None,
            require: BTreeSet::new(),
            build: entries.to_vec(),
            deploy: Vec::new(),
        };
        let (now, then) = (tree(files), tree(before));
        let forecast = Forecast {
            stack: &self.name,
            file: &file,
            tree: &now,
            previous: &self.known,
            other_stacks: &|_, _| None,
            before: (!before.is_empty()).then_some(&then),
        };
        let foreseen = build::foresee(&forecast).expect("it can be foreseen");
        let last = foreseen.into_iter().last().expect("there is an image");
        match last.fate {
            Fate::Built(why) => Some(why),
            Fate::Reused(_) => None,
        }
    }

    /// Images the last build ran a builder for.
    fn ran(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .seen
            .iter()
            .filter(|p| p.line.starts_with("Step 1/"))
            .map(|p| p.about.as_str())
            .collect();
        names.sort_unstable();
        names
    }
}

fn own(result: Result<Built, Error>) -> (String, String, Vec<String>) {
    match result {
        Err(Error::Own { image, reason, log }) => (image, reason, log),
        other => panic!("wanted the commit's own fault, got {other:?}"),
    }
}

fn outside(result: Result<Built, Error>) -> String {
    match result {
        Err(Error::Outside { reason, .. }) => reason,
        other => panic!("wanted a fault from outside, got {other:?}"),
    }
}
