//! Where a stack comes from, as people say, and how that was when it was last looked at.

use serde::{Deserialize, Serialize};

use super::release::Commit;

/// Value of `/stack/<stack>`: where it comes from. Written by people through the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Version of this record.
    pub v: u32,
    /// Remote: https, ssh, file or a path. Never holds a password.
    pub url: String,
    /// Branch; the remote's HEAD when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Folder in the repository that holds `viking.yml`; empty for its root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Milliseconds between two polls.
    pub poll_ms: u64,
    /// Since when people want nothing new of it, Unix milliseconds: nobody looks at the repository and
    /// no commit is staged. What runs is kept healthy, and can be rolled back and restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_ms: Option<u64>,
}

/// How the stack's source is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// `ok`, `missing` (branch gone), `rewritten`, `unreachable`, `denied`, `bad`, `disk` (our own).
    pub state: String,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The newest commit seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Commit>,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
}
