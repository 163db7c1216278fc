//! Mirrors as folders of the data directory: opened, made, swept, moved aside, removed. Called by
//! `repo` on a thread of its own. It talks to no remote; a mirror is only a copy, so one that cannot
//! be used is made anew.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use git2::{Repository, RepositoryInitOptions, RepositoryOpenFlags};

use super::error::{Error, said};
use super::remote::KEPT;
use super::transport::prepare;

/// libgit2's name for a pack that is still arriving.
const HALF_PACK: &str = "pack_git2_";
/// How git names the lock of a file.
const LOCK: &str = ".lock";
/// What a mirror that turned out damaged is called besides its name; one is kept, for people.
const ASIDE: &str = "aside";
/// Each fetch adds a pack and libgit2 joins none; from here on a fresh mirror is cheaper than
/// looking through them all.
const PACKS_MAX: usize = 200;

/// Opens a mirror: exactly this folder, never one above it.
pub(super) fn open(path: &Path) -> Result<Repository, Error> {
    prepare();
    let flags = RepositoryOpenFlags::NO_SEARCH | RepositoryOpenFlags::BARE;
    let none: [&Path; 0] = [];
    Repository::open_ext(path, flags, none).map_err(|error| git(path, &error))
}

/// Opens a mirror; one that is not there or cannot be opened is made.
pub(super) fn open_or_make(path: &Path) -> Result<Repository, Error> {
    if path.exists() {
        if let Ok(repository) = open(path) {
            return Ok(repository);
        }
        // Half made by a killed process, or damaged.
        fs::remove_dir_all(path).map_err(|error| disk(path, &error))?;
    }
    private_folder(path).map_err(|error| disk(path, &error))?;
    let mut options = RepositoryInitOptions::new();
    // No template: nothing of the machine's configuration, no sample hooks.
    options.bare(true).no_reinit(true).external_template(false);
    Repository::init_opts(path, &options).map_err(|error| git(path, &error))
}

/// Runs `work` on a mirror; if that shows it damaged, once more on a fresh one. The damaged one is
/// put aside, or back where it was when the fresh one fares no better: then it is not to blame.
pub(super) fn with_fresh<T>(
    path: &Path,
    work: impl Fn(&Repository) -> Result<T, Error>,
) -> Result<T, Error> {
    let first = work(&open_or_make(path)?);
    if !matches!(first, Err(Error::Damaged { .. })) {
        return first;
    }
    let aside = path.with_extension(ASIDE);
    remove(&aside)?;
    fs::rename(path, &aside).map_err(|error| disk(path, &error))?;
    let second = open_or_make(path).and_then(|fresh| work(&fresh));
    if second.is_err() {
        remove(path)?;
        fs::rename(&aside, path).map_err(|error| disk(path, &error))?;
    }
    second
}

/// Makes a folder that only this user may look into.
pub(super) fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Removes what a killed process left half done in all mirrors: packs that were arriving, and locks,
/// which would be respected for ever. Only before anybody uses them.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    for mirror in fs::read_dir(folder)? {
        let mirror = mirror?.path();
        remove_files(&mirror.join("objects/pack"), |name| {
            name.starts_with(HALF_PACK)
        })?;
        remove_files(&mirror, |name| name.ends_with(LOCK))?;
        remove_locks_below(&mirror.join("refs"))?;
    }
    Ok(())
}

fn remove_locks_below(folder: &Path) -> io::Result<()> {
    remove_files(folder, |name| name.ends_with(LOCK))?;
    for entry in entries(folder)? {
        if entry.file_type()?.is_dir() {
            remove_locks_below(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_files(folder: &Path, doomed: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in entries(folder)? {
        if !entry.file_type()?.is_dir() && doomed(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Nothing, where there is no such folder.
fn entries(folder: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Names of all mirrors, with those put aside under the name they had.
pub(super) fn names(folder: &Path) -> Result<BTreeSet<String>, Error> {
    let found = entries(folder).map_err(|error| disk(folder, &error))?;
    let paths = found.iter().map(|entry| PathBuf::from(entry.file_name()));
    Ok(paths
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect())
}

/// Removes a mirror, and what was put aside of it.
pub(super) fn forget(path: &Path) -> Result<(), Error> {
    remove(path)?;
    remove(&path.with_extension(ASIDE))
}

/// Forgets which commits were fetched, but for `wanted`, and the whole mirror when it has grown too
/// many packs: what is wanted of it is fetched again.
pub(super) fn tidy(path: &Path, wanted: &BTreeSet<String>) -> Result<(), Error> {
    let packs = entries(&path.join("objects/pack")).map_err(|error| disk(path, &error))?;
    let is_pack = |entry: &&DirEntry| entry.path().extension().is_some_and(|end| end == "pack");
    if packs.iter().filter(is_pack).count() > PACKS_MAX {
        return remove(path);
    }
    let mirror = open(path)?;
    let failed = |error: &git2::Error| git(path, error);
    let kept = mirror
        .references_glob(&format!("{KEPT}*"))
        .map_err(|error| failed(&error))?;
    for reference in kept {
        let mut reference = reference.map_err(|error| failed(&error))?;
        let id = reference.target().map(|id| id.to_string());
        if id.is_none_or(|id| !wanted.contains(&id)) {
            reference.delete().map_err(|error| failed(&error))?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(path, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn git(path: &Path, error: &git2::Error) -> Error {
    Error::Disk {
        path: path.to_owned(),
        reason: said(error.message()),
    }
}

/// An error of our own disk.
pub(super) fn disk(path: &Path, error: &io::Error) -> Error {
    Error::Disk {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
