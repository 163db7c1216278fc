//! A commit's files as the object store lists them: entries, and a reader of their bytes.
//! Made by `sync`, read by `build`. There is never a work tree.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// Regular file.
    File,
    /// Regular file with the execute bit.
    Executable,
    /// Symbolic link; its bytes are the target.
    Symlink,
    /// A submodule: a commit of another repository; never followed.
    Submodule,
}

/// One file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Kind.
    pub kind: EntryKind,
    /// Hex object id; equal ids, equal bytes.
    pub oid: String,
}

/// Reads blobs by object id. Blocking: call it from a blocking thread.
pub trait BlobSource: Send + Sync {
    /// The whole blob.
    ///
    /// # Errors
    /// When the object is missing, damaged or above the size limit.
    fn blob(&self, oid: &str) -> io::Result<Vec<u8>>;
}

/// All files below one folder of one commit, by path relative to that folder, `/` between segments.
#[derive(Clone)]
pub struct Tree {
    /// Files, links and submodules; folders only as prefixes.
    pub entries: BTreeMap<String, Entry>,
    /// Where the bytes are.
    pub blobs: Arc<dyn BlobSource>,
}

impl Tree {
    /// What stands at a path instead of a file, in words, if something else does.
    #[must_use]
    pub fn no_file(&self, path: &str) -> Option<&'static str> {
        self.entries.get(path)?.kind.no_file()
    }

    /// Bytes of one file, if it is there; of a link, where it leads.
    ///
    /// # Errors
    /// As [`BlobSource::blob`].
    pub fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        self.entries
            .get(path)
            .map(|entry| self.blobs.blob(&entry.oid))
            .transpose()
    }
}

impl EntryKind {
    /// What it is, in words, if its bytes are not those of a file.
    #[must_use]
    pub fn no_file(self) -> Option<&'static str> {
        match self {
            Self::File | Self::Executable => None,
            Self::Symlink => Some("is a symbolic link"),
            Self::Submodule => Some("is a submodule"),
        }
    }
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree")
            .field("entries", &self.entries.len())
            .finish_non_exhaustive()
    }
}
