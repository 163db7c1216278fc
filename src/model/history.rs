//! The past of a stack: how each run ended, and what happened on the way. Written by the leader and
//! by hosts beside the change it tells of; bounded by `Tables::trim`; nothing is decided from it.

use serde::{Deserialize, Deserializer, Serialize};

use super::again::Again;
use super::names::{NodeName, Tag};
use super::plan::Start;
use super::release::{Commit, RunId};

/// Placements kept with a run's end.
pub const PLACED_MAX: usize = 200;

/// Verdicts kept with a run's end: about 100 bytes each, on a cluster of 200 hosts as many as ten
/// placements have. Those beyond are in `/event` for a while longer.
pub const VERDICTS_MAX: usize = 2_000;

/// Releases of a stack that once were live and can be gone back to: their runs and their records stay,
/// however much happened since.
pub const KEPT_LIVE: usize = 10;

/// Milliseconds per stage, in order.
pub type StageTimes = Vec<(String, u64)>;

/// Adds time spent in a stage; one that was left and entered again is one stage.
pub fn add_time(times: &mut StageTimes, stage: &str, ms: u64) {
    match times.iter_mut().find(|(known, _)| known == stage) {
        Some((_, before)) => *before = before.saturating_add(ms),
        None => times.push((stage.to_owned(), ms)),
    }
}

/// What a release makes of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The node.
    pub node: NodeName,
    /// What becomes of it.
    pub what: ChangeKind,
}

/// What becomes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// Its containers run on.
    Kept,
    /// New containers take over.
    Changed,
    /// There was none.
    New,
    /// There is none any more.
    Gone,
    /// It runs once, before the others.
    First,
}

/// Placements as a run's end keeps them: no more than a record may hold.
#[must_use]
pub fn bounded(mut placed: Vec<Start>) -> Vec<Start> {
    placed.truncate(PLACED_MAX);
    let mut left = VERDICTS_MAX;
    for start in &mut placed {
        if start.verdicts.len() > left {
            start.verdicts.retain(|verdict| verdict.host == start.host);
        }
        left = left.saturating_sub(start.verdicts.len());
    }
    placed
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunEnd {
    /// Serves.
    Live,
    /// The commit's own fault.
    Failed,
    /// A newer commit took over.
    Superseded,
    /// Taken back by a person's rollback before it was live. The rollback has a run of its own, with
    /// an end of its own; a run that went live has ended, whatever is rolled back later.
    RolledBack,
}

/// Value of `/history/<stack>/<run>`: exactly one end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of this record.
    pub v: u32,
    /// The run.
    pub run: RunId,
    /// The commit.
    pub commit: Commit,
    /// The release's tag.
    pub tag: Tag,
    /// The one end.
    pub end: RunEnd,
    /// Why, in words; empty when a commit went live. Of a rollback or restart, what it was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What it repeated, when people asked for it and no commit came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Again>,
    /// The stage it failed at.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// Last lines of the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// Milliseconds per stage, in order.
    #[serde(default)]
    pub stages_ms: StageTimes,
    /// What it was to change; empty when it was never staged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<Change>,
    /// What was placed for it and what the rules said, the first [`PLACED_MAX`] of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placed: Vec<Start>,
    /// Unix milliseconds of the end.
    pub ended_ms: u64,
}

impl RunRecord {
    /// Whether it brought what people go back to: it went live, and was not what was live before with
    /// a node anew or with other versions of variables.
    #[must_use]
    pub fn is_new_live(&self) -> bool {
        self.end == RunEnd::Live
            && !matches!(
                self.again,
                Some(Again::Restart { .. } | Again::Variables { .. })
            )
    }
}

/// Value of `/event/<stack>/<run>-<n>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Version of this record.
    pub v: u32,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Who acted: `leader`, or a host's name.
    pub who: String,
    /// What it was about: `stack`, `stack/node` or `stack/node.slot`.
    pub about: String,
    /// What happened: `drift`, `started`, `promoted`, `failed`, …
    pub what: String,
    /// In words.
    pub why: String,
    /// Of placements: the jobs and what the rules said of hosts then. (Once it was one.)
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub placed: Vec<Start>,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Start>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Placed {
        Many(Vec<Start>),
        One(Box<Start>),
    }
    Ok(match Placed::deserialize(deserializer)? {
        Placed::Many(all) => all,
        Placed::One(one) => vec![*one],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_one_placement_is_read_as_one_of_several() {
        let start = r#"{"job":{"stack":"s","tag":"a1","node":"web","slot":0},"run":"r","host":"h","reason":"why","verdicts":[]}"#;
        let event = |placed: &str| {
            let text = format!(
                r#"{{"v":1,"at_ms":1,"who":"leader","about":"s","what":"placed","why":"","placed":{placed}}}"#
            );
            serde_json::from_str::<EventRecord>(&text).unwrap()
        };
        assert_eq!(event(start), event(&format!("[{start}]")));
    }
}
