//! What a commit would do, before it lands: what `viking plan` prints and `viking apply` compares. Made by
//! `foretell`; types only, but for the digest.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::history::ChangeKind;
use super::names::{HostName, ImageName, NodeName, StackName, Tag};
use super::release::Commit;

/// Hex digits of a digest: as many as make two plans of one commit differ beyond doubt.
const DIGEST_DIGITS: usize = 16;

/// Answer of `viking plan`: `viking.foretold/v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foretold {
    /// Schema.
    pub schema: String,
    /// The stack.
    pub stack: StackName,
    /// The commit, or a stand-in for the files of a folder.
    pub commit: Commit,
    /// What serves now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Tag>,
    /// What is on its way and would give way to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Tag>,
    /// The tag it would get.
    pub tag: Tag,
    /// Why it would fail, in words; what follows is then as far as it went.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub refused: String,
    /// What it would wait for, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waits_for: String,
    /// Images, parents first.
    pub images: Vec<ImageFate>,
    /// Nodes, by name.
    pub nodes: Vec<NodeFate>,
    /// Jobs, by node and slot.
    pub jobs: Vec<JobFate>,
    /// Domains.
    pub routes: Vec<RouteFate>,
    /// What happens, one after the other, if every container starts well.
    pub order: Vec<String>,
    /// `<stack>@<commit>:<hash>` of all of this but times and reasons of builds.
    pub digest: String,
}

/// What becomes of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFate {
    /// The image.
    pub image: ImageName,
    /// Whether it is built; else one that is there is used again.
    pub built: bool,
    /// Why, in words.
    pub why: String,
}

/// What becomes of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFate {
    /// The node.
    pub node: NodeName,
    /// What becomes of its containers.
    pub what: ChangeKind,
    /// Its changed spec waits for `viking restart`: it is a service.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// What differs from the live release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
    /// How long it is away.
    pub downtime: Downtime,
    /// Its volumes, and where they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Its name, as in `viking.yml`.
    pub field: String,
    /// What it was, and what it will be; both are empty where values are not shown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub before: String,
    /// See `before`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub after: String,
}

/// What a change costs those who use a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Downtime {
    /// New copies are healthy before old ones go.
    None,
    /// Each slot is away for one stop and one start.
    StopFirst,
    /// As `StopFirst`, and the new copy works on the data of the old one, which going back does not
    /// restore.
    Data,
}

/// Where a job is, and where it will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFate {
    /// The node.
    pub node: NodeName,
    /// The slot.
    pub slot: u32,
    /// The tag its container will run at; absent when it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// Where the live one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<HostName>,
    /// Where it will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// Whether its container is another one then.
    pub restarts: bool,
}

/// What becomes of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFate {
    /// The domain.
    pub domain: String,
    /// Who serves it then, or did if it is `gone`.
    pub node: NodeName,
    /// `kept`, `new`, `gone`, or `changed` when another node or port serves it.
    pub what: ChangeKind,
    /// The stack that has it already and keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<StackName>,
}

impl NodeFate {
    /// Whether anything of it is other than it was.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.what != ChangeKind::Kept || !self.fields.is_empty()
    }
}

impl JobFate {
    /// Whether it moves, or gets another container.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.restarts || self.was != self.host
    }
}

impl RouteFate {
    /// Whether it leads elsewhere than it did.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.what != ChangeKind::Kept
    }
}

impl Foretold {
    /// Whether anything would be other than it is, or that cannot be told yet.
    #[must_use]
    pub fn changes(&self) -> bool {
        let images = self.images.iter().any(|image| image.built);
        let nodes = self.nodes.iter().any(NodeFate::differs);
        let jobs = self.jobs.iter().any(JobFate::differs);
        let routes = self.routes.iter().any(RouteFate::differs);
        images || nodes || jobs || routes || !self.waits_for.is_empty()
    }

    /// Puts the digest in, now that all else is said.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        let mut told = self.clone();
        told.digest.clear();
        for image in &mut told.images {
            // Told by what is at hand, which is not the same everywhere.
            image.why.clear();
        }
        // A type of ours without maps of odd keys: it can be written.
        let text = serde_json::to_string(&told).unwrap_or_default();
        let hash = hex::encode(Sha256::digest(text.as_bytes()));
        let id = PlanId {
            stack: self.stack.clone(),
            commit: self.commit.id.clone(),
            hash: hash[..DIGEST_DIGITS].to_owned(),
        };
        self.digest = id.to_string();
        self
    }
}

/// A plan's digest, which names what it is a plan of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanId {
    /// The stack.
    pub stack: StackName,
    /// The commit's full id.
    pub commit: String,
    /// Hash of what would happen.
    pub hash: String,
}

impl std::fmt::Display for PlanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}:{}", self.stack, self.commit, self.hash)
    }
}

impl std::str::FromStr for PlanId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected STACK@COMMIT:HASH, as `viking plan` prints it".to_owned();
        let (stack, rest) = text.split_once('@').ok_or_else(wrong)?;
        let (commit, hash) = rest.split_once(':').ok_or_else(wrong)?;
        let hex = |text: &str, digits: &[usize]| {
            let plain = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            digits.contains(&text.len()) && text.bytes().all(plain)
        };
        if !hex(commit, &[40, 64]) || !hex(hash, &[DIGEST_DIGITS]) {
            return Err(wrong());
        }
        Ok(Self {
            stack: StackName::parse(stack).map_err(|error| error.to_string())?,
            commit: commit.to_owned(),
            hash: hash.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_names_its_commit_and_nothing_else_is_one() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let text = format!("shop@{commit}:0011223344556677");
        let id: PlanId = text.parse().unwrap();
        assert_eq!((id.stack.as_str(), id.commit.as_str()), ("shop", commit));
        assert_eq!(id.to_string(), text);
        for bad in [
            "",
            "shop",
            "shop@abc:0011223344556677",
            &text[..text.len() - 1],
        ] {
            assert!(bad.parse::<PlanId>().is_err(), "{bad:?}");
        }
    }
}
