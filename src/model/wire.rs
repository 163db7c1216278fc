//! What the API is asked and what it answers, besides status: the one definition that the server
//! and the CLI share. Types only.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::env::SecretValue;
use super::history::EventRecord;
use super::host::{Capacity, EngineState, Readiness};
use super::job::JobKey;
use super::names::{HostName, ImageName, NodeName, ScopeName, StackName, Tag, VarName};
use super::release::{Commit, ImageRecord, Phase, RunId};
use super::status::{Role, StackStatus, StagedStatus};
use super::verdict::{Ruling, Verdict};

/// Unix milliseconds as RFC 3339 in whole seconds, UTC.
#[must_use]
pub fn rfc3339(ms: u64) -> String {
    // The year 9999, where the format ends: a nonsensical clock must not panic.
    const SECONDS_MAX: u64 = 253_402_300_799;
    let seconds = (ms / 1000).min(SECONDS_MAX);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// A list of things; `schema` names what they are and in which version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<T> {
    /// `viking.<things>/v1`.
    pub schema: String,
    /// The things.
    pub items: Vec<T>,
}

/// Names the shape of an answer: `viking.<thing>/v1`.
#[must_use]
pub fn schema(thing: &str) -> String {
    format!("viking.{thing}/v1")
}

impl<T> List<T> {
    /// A list of version 1.
    #[must_use]
    pub fn new(things: &str, items: Vec<T>) -> Self {
        Self {
            schema: schema(things),
            items,
        }
    }
}

/// One domain and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// The domain, perhaps with a leading `*.`.
    pub domain: String,
    /// The stack that has it.
    pub stack: StackName,
    /// Its node.
    pub node: NodeName,
    /// The container port.
    pub port: Option<u16>,
    /// Copies that may be asked.
    pub copies: usize,
    /// Since when the stack has it, RFC 3339; empty when that is not on record.
    #[serde(default)]
    pub since: String,
    /// Nodes that name it too and do not have it, as `stack/node`.
    #[serde(default)]
    pub denied: Vec<String>,
    /// How its certificate by ACME stands, in words; empty where none is known of.
    #[serde(default)]
    pub certificate: String,
}

/// Where a URL leads and why: the answer of `/v1/route`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteReport {
    /// `viking.route/v1`.
    pub schema: String,
    /// The host name that was asked for.
    pub host: String,
    /// The domain that it falls under; none when it leads nowhere.
    pub route: Option<RouteRow>,
    /// In words.
    pub because: String,
    /// Every copy of the node, those that are asked first.
    pub copies: Vec<RouteCopy>,
}

/// A copy of a node, as a route sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteCopy {
    /// `stack/node.slot`.
    pub job: String,
    /// The tag it runs at.
    pub tag: Tag,
    /// Where it runs.
    pub host: HostName,
    /// Where it is dialled from the host that answers this.
    pub address: Option<String>,
    /// Whether requests are sent to it.
    pub asked: bool,
    /// Why, in words.
    pub because: String,
}

/// Body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What was attempted and what was found.
    pub error: String,
    /// What to do about it.
    pub hint: String,
    /// The request's id, also in the host's log.
    pub id: String,
}

/// Asks to follow a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// Remote: https, ssh, file or an absolute path.
    pub url: String,
    /// Branch; the remote's HEAD when absent.
    #[serde(default)]
    pub branch: Option<String>,
    /// Folder of `viking.yml`; empty for the root.
    #[serde(default)]
    pub path: String,
    /// Milliseconds between two looks.
    pub poll_ms: u64,
}

/// A repository is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// `viking.added/v1`.
    pub schema: String,
    /// The name its `viking.yml` gives.
    pub stack: StackName,
    /// Its newest commit.
    pub head: Option<Commit>,
}

/// What a commit came to, as `viking up -o json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpResult {
    /// `viking.up/v1`.
    pub schema: String,
    /// The stack.
    pub stack: StackName,
    /// The stack with its live release, if the commit went live.
    pub live: Option<StackStatus>,
    /// The commit that failed, if it did.
    pub failed: Option<StagedStatus>,
}

/// Asks to look at a repository now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// Resolve external images anew as well.
    #[serde(default)]
    pub pull: bool,
}

/// Asks to bring an earlier release back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Which; the last one that was live before, when absent.
    #[serde(default)]
    pub tag: Option<Tag>,
}

/// Asks what a commit would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// A branch, or the beginning of a commit's id; the newest commit of what is followed, when absent.
    #[serde(default)]
    pub revision: Option<String>,
}

/// Asks to do what a plan says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The plan's digest.
    pub plan: String,
}

/// Gives a shared variable another value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetVariable {
    /// The value; no answer ever holds it.
    pub value: SecretValue,
}

/// A shared variable was set or unset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariableChanged {
    /// `viking.variable/v1`.
    pub schema: String,
    /// What it belongs to.
    pub scope: ScopeName,
    /// Its name there.
    pub name: VarName,
    /// Its version now; absent when it was unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// What comes of it, in words.
    pub accepted: String,
}

/// A shared variable in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariableRow {
    /// What it belongs to.
    pub scope: ScopeName,
    /// Its name there.
    pub name: VarName,
    /// Its version.
    pub version: u64,
    /// When it was set, RFC 3339.
    pub set: String,
    /// Releases that name it.
    pub used_by: Vec<VariableUse>,
}

/// A release that names a shared variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariableUse {
    /// Its stack.
    pub stack: StackName,
    /// Whether it serves or is on its way.
    pub release: Role,
    /// The version it names; what runs and what waits for a restart may name two.
    pub version: u64,
}

/// Something was asked for; the leader carries it out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// `viking.accepted/v1`.
    pub schema: String,
    /// The stack.
    pub stack: StackName,
    /// What will happen, in words.
    pub accepted: String,
}

/// One line of a log stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRow {
    /// `viking.log/v1`.
    pub schema: String,
    /// `stack/node.slot`.
    pub job: String,
    /// Tag it runs at.
    pub tag: Tag,
    /// Its host.
    pub host: HostName,
    /// From standard error.
    pub stderr: bool,
    /// The line.
    pub text: String,
}

/// A stack in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackRow {
    /// Its name.
    pub stack: StackName,
    /// The remote, without user and password; absent for the built-in stack.
    pub url: Option<String>,
    /// Branch; the remote's HEAD when absent.
    pub branch: Option<String>,
    /// Folder of `viking.yml`.
    pub path: String,
    /// Tag that serves.
    pub live: Option<Tag>,
    /// Tag that is brought up.
    pub staged: Option<Tag>,
    /// Where it is.
    pub phase: Phase,
}

/// A host in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRow {
    /// Its name.
    pub host: HostName,
    /// Whether it is alive.
    pub alive: bool,
    /// Whether it takes jobs.
    pub readiness: Readiness,
    /// Tags for `filter:`.
    pub tags: BTreeSet<String>,
    /// What it can hold.
    pub capacity: Capacity,
    /// The address ports are published on; absent when it is not alive.
    pub address: Option<String>,
    /// Where its API listens.
    pub api: Option<String>,
    /// How its Docker is.
    pub engine: Option<EngineState>,
    /// viking's version there.
    pub version: Option<String>,
    /// Jobs placed there.
    pub jobs: usize,
    /// What those jobs reserve.
    pub reserved: Capacity,
    /// Whether it leads.
    pub leader: bool,
    /// When the leader first missed it, RFC 3339; absent while it is alive.
    pub gone_since: Option<String>,
}

/// What is on a host, and whether it can leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostJobs {
    /// `viking.host-jobs/v1`.
    pub schema: String,
    /// The host.
    pub host: HostName,
    /// Whether it takes jobs.
    pub readiness: Readiness,
    /// Jobs that are there.
    pub jobs: Vec<HostJob>,
    /// Why nothing moves from hosts that are gone, in words; empty when it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub held: String,
}

/// A job on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostJob {
    /// The job, `stack/node.slot`.
    pub job: String,
    /// Whether it leaves a host that is drained.
    pub leaves: bool,
    /// Where it goes, or why it stays, in words.
    pub why: String,
}

/// A recorded release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRow {
    /// Tag.
    pub tag: Tag,
    /// `live`, `staged`, `retiring`, or empty for a release that does not run.
    pub role: String,
    /// The commit it was made from.
    pub commit: Commit,
    /// When it was made, RFC 3339.
    pub made: String,
}

/// A build record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRow {
    /// Stack.
    pub stack: StackName,
    /// Tag.
    pub tag: Tag,
    /// Image.
    pub image: ImageName,
    /// The record.
    pub record: ImageRecord,
}

/// An event of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// Stack.
    pub stack: StackName,
    /// When, RFC 3339.
    pub at: String,
    /// The record.
    #[serde(flatten)]
    pub event: EventRecord,
}

/// One key of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// The key.
    pub key: String,
    /// Its value as text.
    pub value: String,
}

/// Where the jobs of a node run or would run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// `viking.allocation/v1`.
    pub schema: String,
    /// Stack.
    pub stack: StackName,
    /// The release that was asked for.
    pub tag: Tag,
    /// Node.
    pub node: NodeName,
    /// One per slot.
    pub jobs: Vec<AllocatedJob>,
}

/// Where one job runs or would run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocatedJob {
    /// The job.
    pub job: JobKey,
    /// Where it runs.
    pub host: Option<HostName>,
    /// Its id there.
    pub id: Option<String>,
    /// Whether the verdicts are those stored with the decision; else they are of now.
    pub decided: bool,
    /// What the rules said of every host when it was placed, or say now of a job that is not.
    pub verdicts: Vec<VerdictRow>,
}

/// Answer of `/v1/why`: `viking.why/v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyReport {
    /// Schema.
    pub schema: String,
    /// One per job, in their order.
    pub jobs: Vec<WhyJob>,
}

/// Why one job is where it is, or nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyJob {
    /// The job.
    pub job: JobKey,
    /// Which release wants it: `live`, `staged` or `retiring`.
    pub role: String,
    /// `placed`, `waiting`, `blocked`, `starting` when it is about to be placed, `gone` when it has
    /// ended, `frozen` when something of its stack cannot be read.
    pub state: String,
    /// Its host, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// Why, in a sentence.
    pub because: String,
    /// The decision on record that put it there; without one the verdicts are of now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Decided>,
    /// What the rules said, or say, of hosts: of all of them now, of some then.
    pub verdicts: Vec<VerdictRow>,
    /// The host that was asked about, and why it is not that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not: Option<WhyNot>,
}

/// When a job was placed, and on what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Unix milliseconds.
    pub at_ms: u64,
    /// The same, for people.
    pub at: String,
    /// The run it was placed for.
    pub run: RunId,
    /// Revision of the store that it was decided on.
    pub revision: i64,
}

/// Why a job is not on some host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyNot {
    /// The host.
    pub host: HostName,
    /// Why, in a sentence.
    pub because: String,
    /// Whether that was said with the decision; else it is what the rules say now.
    pub decided: bool,
}

/// What the rules said of one host, in words and in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictRow {
    /// The host.
    pub host: HostName,
    /// Whether it may run the job.
    pub fits: bool,
    /// Why, in words.
    pub reason: String,
    /// Why, in numbers.
    #[serde(flatten)]
    pub ruling: Ruling,
}

impl From<Verdict> for VerdictRow {
    fn from(verdict: Verdict) -> Self {
        Self {
            fits: verdict.fits(),
            reason: verdict.ruling.to_string(),
            host: verdict.host,
            ruling: verdict.ruling,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(rfc3339(1_700_000_000_999), "2023-11-14T22:13:20Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
