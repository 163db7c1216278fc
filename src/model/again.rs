//! Releases that people had made of what is on record, without a commit that came: what each repeats.

use serde::{Deserialize, Serialize};

use super::names::{NodeName, Tag};

/// What people asked for when they had a release made of what is on record, without a new commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Again {
    /// Everything as an earlier release says.
    Rollback {
        /// That release.
        of: Tag,
    },
    /// One node of the release that was live then, made anew.
    Restart {
        /// That release; if it was made by a restart itself, what the first of them repeated: those
        /// between are forgotten with time.
        of: Tag,
        /// The node.
        node: NodeName,
    },
}

impl Again {
    /// The release it repeats.
    #[must_use]
    pub fn of(&self) -> &Tag {
        match self {
            Self::Rollback { of } | Self::Restart { of, .. } => of,
        }
    }
}

impl std::fmt::Display for Again {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rollback { of } => write!(f, "rollback to {of}"),
            Self::Restart { node, .. } => write!(f, "restart of {node}"),
        }
    }
}
