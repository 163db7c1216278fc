//! A commit's files below one folder, straight from the object store: bounded, and refused with a
//! reason when a name could harm whoever unpacks them. Called by `repo`. It never writes a file.
//! Links and submodules stay entries; `build` decides about them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use git2::{ObjectType, Odb, Oid, Repository};

use super::error::{Error, cut, said};
use super::hostile::refusal;
use crate::model::tree::{BlobSource, Entry, EntryKind, Tree};

/// Most files and folders of a commit. A loop of folders ends here, too.
pub const ENTRIES_MAX: usize = 100_000;
/// Deepest folder.
pub const DEPTH_MAX: usize = 64;
/// Biggest file.
pub const BLOB_MAX_BYTES: u64 = 100 << 20;
/// All files together.
pub const TOTAL_MAX_BYTES: u64 = 1 << 30;
/// Longest path: what Linux can open.
const PATH_MAX_BYTES: usize = 4096;
/// All paths together; they are kept in memory.
const PATHS_MAX_BYTES: usize = 64 << 20;
/// One folder's own object; [`ENTRIES_MAX`] entries need less.
const FOLDER_MAX_BYTES: usize = 32 << 20;
/// Repositories kept open for readers of one tree: as many as build at once.
const IDLE_MAX: usize = 4;

/// Reads the tree of commit `id` below `path` (empty: its root).
pub(super) fn read(mirror: PathBuf, remote: &str, id: &str, path: &str) -> Result<Tree, Error> {
    let repository = super::mirror::open(&mirror)?;
    let entries = {
        let commit = find_commit(&repository, remote, id)?;
        let mut walk = Walk::new(&repository, remote, id)?;
        let root = descend(&walk, commit.tree_id(), path)?;
        walk.folder(root, "", 0)?;
        walk.entries
    };
    let blobs = Arc::new(Blobs {
        mirror,
        idle: Mutex::new(vec![repository]),
    });
    Ok(Tree { entries, blobs })
}

/// A commit that must be here.
pub(super) fn find_commit<'r>(
    repository: &'r Repository,
    remote: &str,
    id: &str,
) -> Result<git2::Commit<'r>, Error> {
    let found = Oid::from_str(id).and_then(|oid| repository.find_commit(oid));
    found.map_err(|error| Error::Damaged {
        remote: remote.to_owned(),
        reason: format!(
            "commit {id} is not in the mirror: {}",
            said(error.message())
        ),
    })
}

struct Walk<'r> {
    repository: &'r Repository,
    odb: Odb<'r>,
    remote: &'r str,
    commit: &'r str,
    entries: BTreeMap<String, Entry>,
    /// Files and folders met, and their sizes so far.
    met: usize,
    bytes: u64,
    path_bytes: usize,
}

impl<'r> Walk<'r> {
    fn new(repository: &'r Repository, remote: &'r str, commit: &'r str) -> Result<Self, Error> {
        let odb = repository.odb().map_err(|error| damaged(remote, &error))?;
        Ok(Self {
            repository,
            odb,
            remote,
            commit,
            entries: BTreeMap::new(),
            met: 0,
            bytes: 0,
            path_bytes: 0,
        })
    }

    fn folder(&mut self, id: Oid, prefix: &str, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(self.too_big(&format!("its folders are deeper than {DEPTH_MAX}")));
        }
        let tree = self.tree(id)?;
        let mut names = BTreeSet::new();
        for entry in &tree {
            let name = entry.name_bytes();
            let shown = || shown(prefix, name);
            if let Some(why) = refusal(name) {
                return Err(self.hostile(shown(), why));
            }
            if !names.insert(name.to_vec()) {
                return Err(self.hostile(shown(), "is there twice"));
            }
            let path = format!("{prefix}{}", String::from_utf8_lossy(name));
            self.count(&path)?;
            match entry.filemode_raw() & 0o170_000 {
                0o040_000 => self.folder(entry.id(), &format!("{path}/"), depth + 1)?,
                _ => self.leaf(path, entry.id(), entry.filemode_raw())?,
            }
        }
        Ok(())
    }

    fn leaf(&mut self, path: String, id: Oid, mode: i32) -> Result<(), Error> {
        let kind = match mode & 0o170_000 {
            0o100_000 if mode & 0o111 != 0 => EntryKind::Executable,
            0o100_000 => EntryKind::File,
            0o120_000 => EntryKind::Symlink,
            0o160_000 => EntryKind::Submodule,
            _ => {
                let why = format!("is of an unknown kind (mode {mode:o})");
                return Err(self.hostile(shown("", path.as_bytes()), &why));
            }
        };
        // A submodule names a commit of another repository, which is not here.
        if kind != EntryKind::Submodule {
            self.weigh(&path, id)?;
        }
        let oid = id.to_string();
        self.entries.insert(path, Entry { kind, oid });
        Ok(())
    }

    fn count(&mut self, path: &str) -> Result<(), Error> {
        self.met += 1;
        self.path_bytes += path.len();
        if self.met > ENTRIES_MAX {
            return Err(self.too_big(&format!("it has more than {ENTRIES_MAX} files and folders")));
        }
        if path.len() > PATH_MAX_BYTES || self.path_bytes > PATHS_MAX_BYTES {
            return Err(self.too_big("its paths are too long"));
        }
        Ok(())
    }

    fn weigh(&mut self, path: &str, id: Oid) -> Result<(), Error> {
        let (size, kind) = self
            .odb
            .read_header(id)
            .map_err(|error| damaged(self.remote, &error))?;
        let size = size as u64;
        let name = shown("", path.as_bytes());
        if kind != ObjectType::Blob {
            return Err(self.hostile(name, "is listed as a file and is none"));
        }
        if size > BLOB_MAX_BYTES {
            return Err(self.too_big(&format!(
                "'{name}' has {size} bytes, the limit is {BLOB_MAX_BYTES}"
            )));
        }
        self.bytes += size;
        if self.bytes > TOTAL_MAX_BYTES {
            return Err(self.too_big(&format!(
                "its files have more than {TOTAL_MAX_BYTES} bytes together"
            )));
        }
        Ok(())
    }

    fn tree(&self, id: Oid) -> Result<git2::Tree<'r>, Error> {
        let failed = |error| damaged(self.remote, &error);
        let (size, _) = self.odb.read_header(id).map_err(failed)?;
        if size > FOLDER_MAX_BYTES {
            return Err(self.too_big(&format!("a folder's list has {size} bytes")));
        }
        self.repository.find_tree(id).map_err(failed)
    }

    fn hostile(&self, path: String, reason: &str) -> Error {
        Error::Hostile {
            commit: self.commit.to_owned(),
            path,
            reason: reason.to_owned(),
        }
    }

    fn too_big(&self, reason: &str) -> Error {
        Error::TooBig {
            what: format!("commit {}", self.commit),
            reason: reason.to_owned(),
        }
    }
}

/// The folder that a source names.
fn descend(walk: &Walk<'_>, root: Oid, path: &str) -> Result<Oid, Error> {
    let missing = |reason: String| Error::PathMissing {
        path: shown("", path.as_bytes()),
        commit: walk.commit.to_owned(),
        reason,
    };
    let mut at = root;
    for segment in path.split('/').filter(|s| !s.is_empty() && *s != ".") {
        let part = shown("", segment.as_bytes());
        if let Some(why) = refusal(segment.as_bytes()) {
            return Err(missing(format!("'{part}' {why}")));
        }
        let tree = walk.tree(at)?;
        let entry = tree
            .get_name(segment)
            .ok_or_else(|| missing(format!("there is no '{part}'")))?;
        if entry.filemode_raw() & 0o170_000 != 0o040_000 {
            return Err(missing(format!("'{part}' is not a folder")));
        }
        at = entry.id();
    }
    Ok(at)
}

fn damaged(remote: &str, error: &git2::Error) -> Error {
    Error::Damaged {
        remote: remote.to_owned(),
        reason: said(error.message()),
    }
}

/// A path fit for a message.
fn shown(prefix: &str, name: &[u8]) -> String {
    let text = format!("{prefix}{}", String::from_utf8_lossy(name));
    cut(&text.escape_debug().to_string(), 200)
}

/// Reads blobs of one mirror. A git2 repository is for one thread at a time, so each reader takes
/// one and puts it back; parallel builds do not wait for one another.
struct Blobs {
    mirror: PathBuf,
    idle: Mutex<Vec<Repository>>,
}

impl Blobs {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Repository>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlobSource for Blobs {
    fn blob(&self, oid: &str) -> io::Result<Vec<u8>> {
        let taken = self.idle().pop();
        let repository = match taken {
            Some(repository) => repository,
            None => super::mirror::open(&self.mirror).map_err(io::Error::other)?,
        };
        let bytes = blob(&repository, oid);
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(repository);
        }
        bytes
    }
}

fn blob(repository: &Repository, oid: &str) -> io::Result<Vec<u8>> {
    let failed = |error: git2::Error| {
        io::Error::other(format!("read object {oid}: {}", said(error.message())))
    };
    let id = Oid::from_str(oid).map_err(failed)?;
    let odb = repository.odb().map_err(failed)?;
    let (size, kind) = odb.read_header(id).map_err(failed)?;
    if kind != ObjectType::Blob || size as u64 > BLOB_MAX_BYTES {
        // Tells the caller that trying again cannot help.
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!(
                "read object {oid}: it is a {kind} of {size} bytes, not a file within the limit"
            ),
        ));
    }
    Ok(odb.read(id).map_err(failed)?.data().to_vec())
}
