//! What can go wrong between a source and its commit, sorted by what a person or the leader does
//! about it. Messages hold no user name, password or query of a URL: they are made from
//! [`super::Address`], which never keeps them.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Branch names shown when the wanted one is missing: enough to spot a typing error.
const BRANCHES_SHOWN: usize = 5;
/// Longest piece of a server's own words in a message; what a server says is not ours to trust.
const SAID_MAX_CHARS: usize = 400;

/// Why there is no commit, or no tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The remote answered and does not have the branch.
    #[error(
        "find branch '{branch}' of {remote}: {}; push the branch or follow another one",
        had(available)
    )]
    BranchMissing {
        /// The remote, as shown to people.
        remote: String,
        /// What was looked for.
        branch: String,
        /// Branches it has, cut to a few.
        available: Vec<String>,
    },
    /// The remote answered and has no commit at all.
    #[error("read {remote}: the repository is empty; push a commit to it")]
    Empty {
        /// The remote, as shown to people.
        remote: String,
    },
    /// Nothing useful came back.
    #[error("reach {remote}: {reason}; it is tried again at the next poll")]
    Unreachable {
        /// The remote, as shown to people.
        remote: String,
        /// What was found.
        reason: String,
    },
    /// The remote did not finish in time.
    #[error("read {remote}: no answer within {}; it is tried again at the next poll", humantime::format_duration(*after))]
    TimedOut {
        /// The remote, as shown to people.
        remote: String,
        /// The deadline.
        after: Duration,
    },
    /// It is there and does not let us in, or is not who it should be.
    #[error("open {remote}: {reason}")]
    Denied {
        /// The remote, as shown to people.
        remote: String,
        /// What was found and what to do.
        reason: String,
    },
    /// Something answered, but it is not a git repository.
    #[error("read {remote}: {reason}; check the address")]
    NotARepository {
        /// The remote, as shown to people.
        remote: String,
        /// What was found.
        reason: String,
    },
    /// The source's own words cannot be used.
    #[error("follow '{url}': {reason}")]
    BadUrl {
        /// What was given, without user, password and query.
        url: String,
        /// What is wrong with it and what would do.
        reason: String,
    },
    /// The source's folder is not in the commit.
    #[error("find folder '{path}' in commit {commit}: {reason}; correct the stack's path")]
    PathMissing {
        /// The folder.
        path: String,
        /// The commit.
        commit: String,
        /// What was found.
        reason: String,
    },
    /// A limit was passed.
    #[error("read {what}: {reason}")]
    TooBig {
        /// A remote or a commit.
        what: String,
        /// Which limit.
        reason: String,
    },
    /// A name in the tree that could harm whoever unpacks it.
    #[error("read commit {commit}: '{path}' {reason}; rename or remove it")]
    Hostile {
        /// The commit.
        commit: String,
        /// The entry, escaped.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Objects are missing or do not parse.
    #[error("read {remote}: {reason}; check it with 'git fsck'")]
    Damaged {
        /// The remote or the mirror.
        remote: String,
        /// What was found.
        reason: String,
    },
    /// Our own disk failed, not the source.
    #[error("use {}: {reason}; check the disk", path.display())]
    Disk {
        /// The mirror, or another file of ours.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
}

impl Error {
    /// The word for [`crate::model::release::SourceState`]'s `state`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self {
            Self::BranchMissing { .. } | Self::Empty { .. } => "missing",
            Self::Unreachable { .. } | Self::TimedOut { .. } => "unreachable",
            // Ours, not the source's.
            Self::Disk { .. } => "disk",
            Self::Denied { .. } => "denied",
            Self::NotARepository { .. }
            | Self::BadUrl { .. }
            | Self::PathMissing { .. }
            | Self::TooBig { .. }
            | Self::Hostile { .. }
            | Self::Damaged { .. } => "bad",
        }
    }

    /// Whether the commit itself is at fault, so that it is to be quarantined; everything else is
    /// a fault from outside and tried again.
    #[must_use]
    pub fn is_commits_fault(&self) -> bool {
        matches!(
            self,
            Self::PathMissing { .. } | Self::TooBig { .. } | Self::Hostile { .. }
        )
    }
}

fn had(available: &[String]) -> String {
    if available.is_empty() {
        return "it has no branches".to_owned();
    }
    let mut text = String::from("it has ");
    for (n, name) in available.iter().take(BRANCHES_SHOWN).enumerate() {
        let comma = if n == 0 { "" } else { ", " };
        let _ = write!(text, "{comma}{}", said(name));
    }
    if available.len() > BRANCHES_SHOWN {
        let _ = write!(text, " and {} more", available.len() - BRANCHES_SHOWN);
    }
    text
}

/// Somebody else's words made fit for a line of ours: no control characters, no line breaks, cut.
pub(super) fn said(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if is_unprintable(c) { ' ' } else { c })
        .collect();
    let clean = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    cut(&clean, SAID_MAX_CHARS)
}

/// At most `max` characters of `text`, with a mark where it was cut.
pub(super) fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

/// Control characters, and those that reorder what a terminal shows.
pub(super) fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_branch_names_a_few_that_exist() {
        let available: Vec<String> = (0..8).map(|n| format!("b{n}")).collect();
        let error = Error::BranchMissing {
            remote: "/repo".to_owned(),
            branch: "main".to_owned(),
            available,
        };
        assert_eq!(
            error.to_string(),
            "find branch 'main' of /repo: it has b0, b1, b2, b3, b4 and 3 more; \
             push the branch or follow another one"
        );
        assert_eq!(error.state(), "missing");
    }

    #[test]
    fn a_servers_words_cannot_move_the_cursor_or_fill_the_screen() {
        let text = format!("a\u{1b}[2J\r\nb\u{202e}{}", "x".repeat(1000));
        let shown = said(&text);
        assert!(shown.starts_with("a [2J b x"));
        assert!(shown.chars().count() <= SAID_MAX_CHARS + 1);
    }
}
