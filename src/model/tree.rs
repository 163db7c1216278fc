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
    /// Bytes of one file, if it is there.
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

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree")
            .field("entries", &self.entries.len())
            .finish_non_exhaustive()
    }
}
