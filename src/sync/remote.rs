//! Talking to one remote through libgit2, blocking: what its branch points at, and bringing that
//! commit here. Called by `repo` on a thread of its own. It decides nothing about when.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use git2::{
    AutotagOption, Direction, ErrorClass, ErrorCode, FetchOptions, Oid, Remote, RemoteCallbacks,
    RemoteHead, Repository,
};

use super::error::{Error, said};
use super::transport::{Attempt, PACK_MAX_BYTES, with_attempt};

/// Refs that keep fetched commits, by commit.
pub(super) const KEPT: &str = "refs/viking/";
/// Commits fetched to see whether a history was rewritten: a branch seldom moves further between two
/// looks, and each may bring every file it changed.
const DEPTH_DEEP: i32 = 100;

/// The commit that `wanted` (`HEAD` or `refs/heads/…`) points at there.
pub(super) fn head(attempt: &Arc<Attempt>, wanted: &str) -> Result<String, Error> {
    with_attempt(attempt, || {
        let mut remote = Remote::create_detached(attempt.address.for_git())
            .map_err(|error| explain(attempt, &error))?;
        let connection = remote
            .connect_auth(Direction::Fetch, None, None)
            .map_err(|error| explain(attempt, &error))?;
        let heads = connection
            .list()
            .map_err(|error| explain(attempt, &error))?;
        pick(attempt, heads, wanted)
    })
}

/// Brings `wanted` into the mirror and says which commit it was: the branch may have moved since
/// [`head`]. Keeps it by a ref of its own, so that no clean-up of the mirror loses it.
pub(super) fn fetch(
    attempt: &Arc<Attempt>,
    mirror: &Repository,
    wanted: &str,
) -> Result<String, Error> {
    let id = download(attempt, mirror, wanted, 1)?;
    keep(mirror, &id)?;
    Ok(id)
}

/// Brings [`DEPTH_DEEP`] commits of `wanted` into the mirror, to see where it came from.
pub(super) fn deepen(
    attempt: &Arc<Attempt>,
    mirror: &Repository,
    wanted: &str,
) -> Result<(), Error> {
    download(attempt, mirror, wanted, DEPTH_DEEP).map(drop)
}

fn download(
    attempt: &Arc<Attempt>,
    mirror: &Repository,
    wanted: &str,
    depth: i32,
) -> Result<String, Error> {
    with_attempt(attempt, || {
        let failed = |error: &git2::Error| explain_in(attempt, mirror.path(), error);
        let mut remote = mirror
            .remote_anonymous(&attempt.address.for_git())
            .map_err(|error| failed(&error))?;
        let mut connection = remote
            .connect_auth(Direction::Fetch, None, None)
            .map_err(|error| failed(&error))?;
        let heads = connection.list().map_err(|error| failed(&error))?;
        let id = pick(attempt, heads, wanted)?;
        if depth > 1 || !has(mirror, &id) {
            connection
                .remote()
                .download(&[wanted], Some(&mut options(attempt, depth)))
                .map_err(|error| failed(&error))?;
            crate::failpoint::hit("fetch");
        }
        Ok(id)
    })
}

/// Whether a commit is here. libgit2 moves a pack into place whole, so then its files are, too.
pub(super) fn has(mirror: &Repository, id: &str) -> bool {
    Oid::from_str(id).is_ok_and(|oid| mirror.find_commit(oid).is_ok())
}

/// The ref that keeps a commit reachable; several sources share a mirror, so it is named by commit.
pub(super) fn keep(mirror: &Repository, id: &str) -> Result<(), Error> {
    let name = format!("{KEPT}{id}");
    let kept = Oid::from_str(id).and_then(|oid| {
        // Writing it takes a lock: not on each look at a remote.
        if mirror.refname_to_id(&name).is_ok_and(|kept| kept == oid) {
            return Ok(());
        }
        let commit = mirror.find_commit(oid)?;
        mirror
            .reference(&name, commit.id(), true, "viking")
            .map(drop)
    });
    kept.map_err(|error| match error.code() {
        ErrorCode::Locked => locked(mirror.path(), &error),
        _ => Error::Disk {
            path: mirror.path().to_owned(),
            reason: said(error.message()),
        },
    })
}

/// Nobody else is at work in a mirror: whoever locked it is gone.
fn locked(mirror: &Path, error: &git2::Error) -> Error {
    Error::Damaged {
        remote: mirror.display().to_string(),
        reason: said(error.message()),
    }
}

fn options<'a>(attempt: &'a Arc<Attempt>, depth: i32) -> FetchOptions<'a> {
    let mut callbacks = RemoteCallbacks::new();
    // Returning false ends the download: the only way to stop libgit2 between two reads.
    callbacks.transfer_progress(move |progress| {
        attempt.progressed();
        !attempt.is_over() && progress.received_bytes() as u64 <= PACK_MAX_BYTES
    });
    let mut options = FetchOptions::new();
    options
        .remote_callbacks(callbacks)
        .download_tags(AutotagOption::None)
        .update_fetchhead(false);
    // libgit2 has no shallow fetch from a path.
    if !attempt.address.is_local() {
        options.depth(depth);
    }
    options
}

fn pick(attempt: &Attempt, heads: &[RemoteHead<'_>], wanted: &str) -> Result<String, Error> {
    let named = heads
        .iter()
        .filter_map(|head| Some((name(head)?, head.oid().to_string())));
    choose(&attempt.address.to_string(), named.collect(), wanted)
}

/// git2 panics on a ref whose name is not UTF-8; one such ref must not hide the others.
fn name(head: &RemoteHead<'_>) -> Option<String> {
    catch_unwind(AssertUnwindSafe(|| head.name().to_owned())).ok()
}

fn choose(remote: &str, refs: Vec<(String, String)>, wanted: &str) -> Result<String, Error> {
    if refs.is_empty() {
        return Err(Error::Empty {
            remote: remote.to_owned(),
        });
    }
    if let Some((_, id)) = refs.iter().find(|(name, _)| name == wanted) {
        return Ok(id.clone());
    }
    let branches = refs
        .into_iter()
        .filter_map(|(name, _)| Some(name.strip_prefix("refs/heads/")?.to_owned()));
    Err(Error::BranchMissing {
        remote: remote.to_owned(),
        branch: wanted
            .strip_prefix("refs/heads/")
            .unwrap_or(wanted)
            .to_owned(),
        available: branches.collect(),
    })
}

/// What libgit2's error means: what a transport saw counts more than libgit2's text about it.
fn explain(attempt: &Attempt, error: &git2::Error) -> Error {
    explain_in(attempt, Path::new(""), error)
}

fn explain_in(attempt: &Attempt, mirror: &Path, error: &git2::Error) -> Error {
    if let Some(fault) = attempt.take_fault() {
        return fault;
    }
    if attempt.is_over() {
        return attempt.timed_out();
    }
    let remote = attempt.address.to_string();
    let reason = said(error.message());
    match (error.class(), error.code()) {
        (_, ErrorCode::User) => Error::TooBig {
            what: remote,
            reason: format!("its pack has more than {PACK_MAX_BYTES} bytes"),
        },
        (_, ErrorCode::Locked) => locked(mirror, error),
        (ErrorClass::Repository, _) | (ErrorClass::Os, ErrorCode::NotFound) => {
            Error::NotARepository { remote, reason }
        }
        (ErrorClass::Config, _) => Error::NotARepository { remote, reason },
        (ErrorClass::Os | ErrorClass::Filesystem, _) if mirror.as_os_str().is_empty() => {
            Error::NotARepository { remote, reason }
        }
        (ErrorClass::Os | ErrorClass::Filesystem, _) => Error::Disk {
            path: mirror.to_owned(),
            reason,
        },
        (ErrorClass::Net | ErrorClass::Ssl | ErrorClass::Http | ErrorClass::Ssh, _)
        | (_, ErrorCode::Eof) => Error::Unreachable { remote, reason },
        _ => Error::Damaged { remote, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs(names: &[&str]) -> Vec<(String, String)> {
        let numbered = names.iter().enumerate();
        numbered
            .map(|(n, name)| ((*name).to_owned(), n.to_string()))
            .collect()
    }

    #[test]
    fn a_branch_is_found_by_its_whole_name() {
        let all = refs(&[
            "HEAD",
            "refs/heads/main-2",
            "refs/heads/main",
            "refs/tags/main",
        ]);
        assert_eq!(choose("r", all.clone(), "refs/heads/main").unwrap(), "2");
        assert_eq!(choose("r", all, "HEAD").unwrap(), "0");
    }

    #[test]
    fn a_missing_branch_and_an_empty_repository_are_told_apart() {
        let tag_only = refs(&["refs/heads/trunk", "refs/tags/main"]);
        let error = choose("r", tag_only, "refs/heads/main").unwrap_err();
        assert!(
            matches!(&error, Error::BranchMissing { available, .. } if available == &["trunk"]),
            "{error}"
        );
        assert!(matches!(
            choose("r", Vec::new(), "HEAD"),
            Err(Error::Empty { .. })
        ));
    }
}
