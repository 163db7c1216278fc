//! Releases that are made of what is on record, without a commit that came: by people's word, or since
//! a shared variable was set. What each repeats.

use serde::{Deserialize, Serialize};

use super::env::SharedVar;
use super::names::{NodeName, Tag};

/// Variables that are named when a release says why it was made; of more there is a count.
const NAMED_MAX: usize = 3;

/// Why a release was made of what is on record, without a new commit.
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
    /// The release that was live then, with other versions of shared variables.
    Variables {
        /// That release.
        of: Tag,
        /// The variables that changed, at the versions it got.
        names: Vec<SharedVar>,
    },
}

impl Again {
    /// The release it repeats.
    #[must_use]
    pub fn of(&self) -> &Tag {
        match self {
            Self::Rollback { of } | Self::Restart { of, .. } | Self::Variables { of, .. } => of,
        }
    }
}

impl std::fmt::Display for Again {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rollback { of } => write!(f, "rollback to {of}"),
            Self::Restart { node, .. } => write!(f, "restart of {node}"),
            Self::Variables { names, .. } => {
                let told = names.iter().take(NAMED_MAX);
                let told: Vec<String> = told.map(|at| at.var().to_string()).collect();
                write!(f, "change of {}", told.join(", "))?;
                match names.len().saturating_sub(NAMED_MAX) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
        }
    }
}
