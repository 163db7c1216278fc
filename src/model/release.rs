//! Releases and the one pointer per stack: immutable records of what a commit means, and which of
//! them is live. Written only by the leader.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::env::SharedVar;
use super::history::{StageTimes, add_time};
use super::host::Fetch;
use super::job::JobKey;
use super::names::{ImageName, NodeName, StackName, Tag};
use super::spec::{ContainerSpec, ImageRef, LinkTarget, StopPolicy};

pub use super::again::Again;
pub use super::source::{Source, SourceState};

/// A commit, as people want to see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Full hex id.
    pub id: String,
    /// First line of the message, cut.
    pub subject: String,
    /// Author's name.
    pub author: String,
    /// Author time, Unix milliseconds.
    pub at_ms: u64,
}

impl Commit {
    /// The digits people recognise.
    #[must_use]
    pub fn short(&self) -> &str {
        self.id
            .get(..super::names::TAG_COMMIT_DIGITS)
            .unwrap_or(&self.id)
    }
}

/// Value of `/image/<stack>/<tag>/<image>`: the build record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Version of this record.
    pub v: u32,
    /// Repository path without the registry's address.
    pub repository: String,
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// Hash of everything that went in; equal hash, no build.
    pub input: String,
    /// Bytes.
    pub size_bytes: u64,
    /// How long the build took, milliseconds; 0 when reused.
    pub build_ms: u64,
    /// The commit that built these bytes.
    pub commit: String,
    /// The release that built these bytes.
    pub built_by: Tag,
    /// Digests of the images its FROM lines name, by their text there. Not part of `input`: only
    /// `--pull` compares them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bases: BTreeMap<String, String>,
    /// `input` in parts, so that what differs can be told; absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_of: Option<MadeOf>,
}

/// Hashes of what goes into an image. Nothing is decided by them: only people are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeOf {
    /// The Dockerfile, with its parents as digests.
    pub dockerfile: String,
    /// Arguments, target and platform.
    pub settings: String,
    /// The files that it can read.
    pub files: String,
}

impl ImageRecord {
    /// The image as a spec names it.
    #[must_use]
    pub fn image_ref(&self) -> ImageRef {
        ImageRef::Ours {
            repository: self.repository.clone(),
            digest: self.digest.clone(),
        }
    }
}

/// A host tag that `filter:` names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Filter {
    /// The host tag.
    pub tag: String,
    /// What it means for placement.
    pub rule: FilterRule,
}

/// How a host tag counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterRule {
    /// `tag`
    Required,
    /// `!tag`
    Forbidden,
    /// `tag:flexible`
    Preferred,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields in by reference"
)]
fn is_zero(ms: &u64) -> bool {
    *ms == 0
}

/// A domain of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Domain {
    /// Lower-case host name, perhaps with a leading `*.`.
    pub name: String,
    /// Container port; the first exposed one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Since when its stack has it, Unix milliseconds: of two stacks, the first keeps it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since_ms: u64,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum NodeKind {
    /// Runs a container.
    Container,
    /// Files of the commit, served by every router. Has no jobs: every host unpacks its files.
    Website {
        /// Path in the commit.
        document_root: String,
    },
}

/// One node of a release. What is not in the container spec is read from here, so a staged change
/// of it touches nothing live before promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseNode {
    /// The tag its jobs run at: this release's if the spec changed, else an older one, or `static`.
    pub tag: Tag,
    /// Kind.
    pub kind: NodeKind,
    /// Hash of the spec at `tag`.
    pub spec_hash: String,
    /// Copies.
    pub scale: u32,
    /// Domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<Domain>,
    /// Host tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<Filter>,
    /// `spread: required`.
    #[serde(default)]
    pub spread_required: bool,
    /// How its jobs are stopped.
    pub stop: StopPolicy,
    /// Promise 3: a push never restarts it.
    #[serde(default)]
    pub service: bool,
    /// Pinned without a volume.
    #[serde(default)]
    pub fixed: bool,
    /// Two copies of a slot must never run at once.
    #[serde(default)]
    pub exclusive: bool,
    /// It does not fit beside its live copies: handed over as an exclusive one is when this release
    /// is brought up. Says nothing of the release after it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub squeezed: bool,
    /// Links, for order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link: Vec<LinkTarget>,
    /// Names of named volumes: every node naming one goes to the same host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_volumes: Vec<super::names::VolumeName>,
    /// Whether it has any volume, so that its slots are pinned.
    #[serde(default)]
    pub has_volume: bool,
    /// Ports of the host it must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<u16>,
    /// Reserved when placing.
    #[serde(default)]
    pub resources: super::spec::Resources,
    /// A changed spec of a service: waits here until `viking restart`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Box<ContainerSpec>>,
}

impl ReleaseNode {
    /// Whether its slots must stay on the host they first started on.
    #[must_use]
    pub fn pinned(&self) -> bool {
        self.fixed || self.has_volume
    }

    /// How many jobs it has.
    #[must_use]
    pub fn slots(&self) -> u32 {
        match self.kind {
            NodeKind::Container => self.scale,
            NodeKind::Website { .. } => 0,
        }
    }
}

/// Value of `/release/<stack>/<tag>`; written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Version of this record.
    pub v: u32,
    /// Stack.
    pub stack: StackName,
    /// Tag.
    pub tag: Tag,
    /// The commit it was made from.
    pub commit: Commit,
    /// The run that made it.
    pub run: RunId,
    /// Unix milliseconds.
    pub made_ms: u64,
    /// Images of this release: the tag under `/image` whose record holds the bytes is this one's.
    #[serde(default)]
    pub images: BTreeMap<ImageName, ImageRecord>,
    /// Texts of external references and what they resolved to, kept until the text changes.
    #[serde(default)]
    pub external: BTreeMap<String, ImageRef>,
    /// Nodes.
    pub nodes: BTreeMap<NodeName, ReleaseNode>,
    /// Jobs that run once, to their end, before nodes of the release start: by `<node>.before`. One at
    /// an older tag ran for the release of that tag and does not run again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub before: BTreeMap<NodeName, ReleaseNode>,
    /// Stacks that had to be live before it was staged.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub require: BTreeSet<StackName>,
    /// How long it took to be made, per stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages_ms: StageTimes,
    /// Why it was made, if not by a commit that came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Again>,
}

impl Release {
    /// A slot of one of its nodes, as a job.
    #[must_use]
    pub fn job(&self, node: &NodeName, slot: u32) -> Option<JobKey> {
        let tag = self.nodes.get(node)?.tag.clone();
        Some(JobKey {
            stack: self.stack.clone(),
            tag,
            node: node.clone(),
            slot,
        })
    }

    /// The websites that have files, each with the image that these are. One of a version that did not
    /// serve sites has none.
    pub fn sites(&self) -> impl Iterator<Item = (&NodeName, &ImageRecord)> {
        let nodes = self.nodes.iter();
        let sites = nodes.filter(|(_, node)| matches!(node.kind, NodeKind::Website { .. }));
        sites.filter_map(|(name, _)| Some((name, self.images.get(&ImageName::of_site(name))?)))
    }

    /// Whether any node's jobs run under this release's own tag or are new services of it.
    #[must_use]
    pub fn runs_at(&self, node: &NodeName, tag: &Tag) -> bool {
        self.nodes.get(node).is_some_and(|n| n.tag == *tag)
    }
}

/// A run: one attempt to bring one commit live. Unique, sortable by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub String);

impl RunId {
    /// A run started at `now_ms`; `salt` tells two of the same millisecond apart.
    #[must_use]
    pub fn new(now_ms: u64, salt: u16) -> Self {
        Self(format!("{now_ms:013}-{salt:04x}"))
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a stack is between two releases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A commit is being read and its images built.
    Building,
    /// Changed jobs start beside the live ones.
    Staging,
    /// Exclusive jobs are handed over, one slot at a time.
    Cutting,
    /// Nothing is under way.
    #[default]
    Live,
    /// A failed release is being taken back.
    Reverting,
    /// The last commit failed; the previous release serves.
    Failed,
    /// A newer commit took over.
    Superseded,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Building => "building",
            Self::Staging => "staging",
            Self::Cutting => "cutting",
            Self::Live => "live",
            Self::Reverting => "reverting",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        })
    }
}

/// Lines of a log kept with a failure.
pub const LOG_TAIL_LINES: usize = 20;

/// Failed commits besides the newest that a pointer remembers: it stays small. More would need as
/// many failures in a row, and a forced push back to the oldest of them.
const QUARANTINED_MAX: usize = 16;

/// Stage of a [`Quarantine`] that people's rollback made: the commit did not fail, it was left.
pub const SET_ASIDE: &str = "rollback";

/// Why a commit is not tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The commit.
    pub commit: Commit,
    /// Its tag.
    pub tag: Tag,
    /// The run.
    pub run: RunId,
    /// `parse`, `build`, `stage`, `before_release`, `start`, `health`, or [`SET_ASIDE`].
    pub stage: String,
    /// Why, in words.
    pub reason: String,
    /// Last lines of the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// A commit being turned into a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Building {
    /// The commit.
    pub commit: Commit,
    /// The tag it will have.
    pub tag: Tag,
    /// The run.
    pub run: RunId,
    /// Unix milliseconds.
    pub since_ms: u64,
    /// A fault from outside that holds it up, if any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Stacks that it waits for, or may come to wait for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub require: BTreeSet<StackName>,
}

/// One slot of an exclusive node whose hand-over has begun: the live copy stands still.
pub type Cut = (NodeName, u32);

/// Value of `/release/<stack>`: the small pointer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pointer {
    /// Version of this record.
    pub v: u32,
    /// Serves.
    #[serde(default)]
    pub live: Option<Tag>,
    /// Is being brought up beside it.
    #[serde(default)]
    pub staged: Option<Tag>,
    /// Is being drained.
    #[serde(default)]
    pub retiring: Option<Tag>,
    /// Where it is.
    #[serde(default)]
    pub phase: Phase,
    /// Since when, Unix milliseconds.
    #[serde(default)]
    pub since_ms: u64,
    /// The run that brought it here.
    #[serde(default)]
    pub run: Option<RunId>,
    /// Slots handed over so far, while cutting.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub cut: BTreeSet<Cut>,
    /// Jobs of the staged release that have run to their end: none of them runs again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ended: BTreeSet<NodeName>,
    /// Images that hosts fetch before slots are handed over: nobody pulls while nobody serves.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub fetch: BTreeSet<Fetch>,
    /// How long the staged release has been in each phase before this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages_ms: StageTimes,
    /// Why it is in this phase, in words; empty when all is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why the staged release is taken back for good; absent when its hand-over is only put off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverting: Option<Quarantine>,
    /// The newest commit that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
    /// Older commits that failed since something went live: id, and the run that said so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quarantined: BTreeMap<String, RunId>,
    /// Versions of shared variables that are not given to what is live: a release with them failed, or
    /// people went back from it. Another version is, and the next commit gets these too.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub variables_aside: BTreeSet<SharedVar>,
    /// A commit that is being built, perhaps while another is staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub building: Option<Building>,
    /// The source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceState>,
    /// The stack is being removed: nothing of it is wanted any more.
    #[serde(default)]
    pub removing: bool,
    /// Fields of newer versions, kept on rewrite.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl Pointer {
    /// Goes to another phase, or begins this one anew; the time in the last one is kept.
    pub fn enter(&mut self, phase: Phase, now_ms: u64) {
        let took_ms = now_ms.saturating_sub(self.since_ms);
        add_time(&mut self.stages_ms, &self.phase.to_string(), took_ms);
        self.phase = phase;
        self.since_ms = now_ms;
    }

    /// A release is to be brought up, in the place of what was staged before.
    pub fn stage(&mut self, release: &Release, now_ms: u64) {
        self.v = 1;
        self.staged = Some(release.tag.clone());
        self.phase = Phase::Staging;
        self.since_ms = now_ms;
        self.run = Some(release.run.clone());
        self.cut.clear();
        self.ended.clear();
        self.fetch.clear();
        self.stages_ms.clear();
        self.reason = String::new();
    }

    /// Tags that the pointer names, live first.
    pub fn named(&self) -> impl Iterator<Item = &Tag> {
        [&self.live, &self.staged, &self.retiring]
            .into_iter()
            .flatten()
    }

    /// Takes a failed commit down. Of two the one that was taken up later is the newest, whichever
    /// failed first: a release may fail while a newer commit did not even parse.
    pub fn set_aside(&mut self, bad: Quarantine) {
        let (newest, older) = match self.quarantine.take() {
            Some(newer) if newer.run > bad.run => (newer, Some(bad)),
            before => (bad, before),
        };
        if let Some(older) = older {
            self.quarantined.insert(older.commit.id, older.run);
        }
        self.quarantined.remove(&newest.commit.id);
        self.quarantine = Some(newest);
        while self.quarantined.len() > QUARANTINED_MAX {
            let oldest = self.quarantined.iter().min_by_key(|(_, run)| *run);
            let Some(oldest) = oldest.map(|(commit, _)| commit.clone()) else {
                return;
            };
            self.quarantined.remove(&oldest);
        }
    }

    /// Whether a commit failed and is not tried again.
    #[must_use]
    pub fn is_set_aside(&self, commit: &str) -> bool {
        let newest = self.quarantine.as_ref();
        newest.is_some_and(|bad| bad.commit.id == commit) || self.quarantined.contains_key(commit)
    }

    /// Forgets failures of commits that were taken up before `run`, which went live.
    pub fn forgive_before(&mut self, run: &RunId) {
        self.quarantine = self.quarantine.take().filter(|bad| bad.run > *run);
        self.quarantined.retain(|_, bad| *bad > *run);
    }

    /// A commit may be tried again.
    pub fn forgive(&mut self, commit: &str) {
        self.quarantine = self.quarantine.take().filter(|bad| bad.commit.id != commit);
        self.quarantined.remove(commit);
    }

    /// These versions of variables are not given to what is live; of each variable the last one counts.
    pub fn leave_variables(&mut self, left: impl IntoIterator<Item = SharedVar>) {
        for at in left {
            self.variables_aside
                .retain(|other| (&other.scope, &other.name) != (&at.scope, &at.name));
            self.variables_aside.insert(at);
        }
    }

    /// Forgets all failures: people went back to what serves.
    pub fn forgive_all(&mut self) {
        self.quarantine = None;
        self.quarantined.clear();
    }
}
