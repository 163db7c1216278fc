//! Whether a branch went on or was rewritten, from the commits a mirror happens to hold. Called by
//! `repo` on a thread of its own. Reads objects only; asks no remote.
//!
//! A mirror fetched at depth 1 holds single commits. Each commit's own text names its parents all
//! the same, which libgit2's view of a shallow commit does not; so the texts are read.

use std::collections::BTreeSet;

use git2::{Oid, Repository};

/// Most commits looked at: enough for what one deeper fetch brings, and a second's work for a whole
/// history on this machine.
const COMMITS_MAX: usize = 20_000;

/// Whether `old` is not an ancestor of `new`; `None` when too little of the history is here.
pub(super) fn is_rewritten(mirror: &Repository, old: &str, new: &str) -> Option<bool> {
    let (old, new) = (Oid::from_str(old).ok()?, Oid::from_str(new).ok()?);
    if old == new {
        return Some(false);
    }
    let below_new = ancestors(mirror, new, Some(old));
    if below_new.seen.contains(&old) {
        return Some(false);
    }
    if below_new.whole {
        return Some(true);
    }
    // A branch set back, or a commit made anew on what the old one stood on: were `old` below `new`
    // as well, it would be its own ancestor.
    let below_old = ancestors(mirror, old, None).seen;
    let back = below_old.contains(&new);
    let anew = parents(mirror, new)?.iter().all(|p| below_old.contains(p));
    (back || anew).then_some(true)
}

struct Ancestors {
    seen: BTreeSet<Oid>,
    /// Whether these are all there are.
    whole: bool,
}

/// The commits before `of`, as far as they are here, or until `wanted` is met.
fn ancestors(mirror: &Repository, of: Oid, wanted: Option<Oid>) -> Ancestors {
    let (mut seen, mut whole, mut left) = (BTreeSet::new(), true, vec![of]);
    while let Some(at) = left.pop() {
        let Some(parents) = parents(mirror, at) else {
            whole = false;
            continue;
        };
        left.extend(parents.into_iter().filter(|parent| seen.insert(*parent)));
        if wanted.is_some_and(|wanted| seen.contains(&wanted)) || seen.len() > COMMITS_MAX {
            whole = false;
            break;
        }
    }
    Ancestors { seen, whole }
}

/// The parents a commit's own text names; `None` when the commit is not here.
fn parents(mirror: &Repository, id: Oid) -> Option<Vec<Oid>> {
    let commit = mirror.find_commit(id).ok()?;
    let lines = commit.raw_header_bytes().split(|byte| *byte == b'\n');
    let ids = lines.filter_map(|line| line.strip_prefix(b"parent "));
    Some(
        ids.filter_map(|id| Oid::from_str(std::str::from_utf8(id).ok()?).ok())
            .collect(),
    )
}
