//! What people see while a commit goes live: one line of one stage. Sent by the stages, shown by
//! `viking up` and `viking sync`. Never read by anything that decides.

use serde::{Deserialize, Serialize};

use super::names::StackName;
use super::release::RunId;

/// A step on the way of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The stack, once its name is known.
    pub stack: StackName,
    /// The run, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Where it is.
    pub stage: Stage,
    /// What it is about: an image, `stack/node.slot`, or empty for the whole stack.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// A line for people.
    pub line: String,
}

/// Stages, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The commit is fetched.
    Fetch,
    /// `viking.yml` is read.
    Parse,
    /// An image is built (`line` is the builder's log).
    Build,
    /// An image is sent to the registry.
    Push,
    /// The release is written down.
    Stage,
    /// A job is placed or started.
    Start,
    /// A job became healthy or not.
    Health,
    /// The release serves.
    Live,
    /// The commit failed.
    Failed,
}
