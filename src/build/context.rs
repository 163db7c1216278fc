//! What a build may see: the files of a commit's folder after `.dockerignore` that the Dockerfile can
//! reach, and the hash of all that goes into an image. Called by `build` on a blocking thread. Reads
//! blobs of links and `.dockerignore` only; never writes, never leaves the folder.

use std::collections::BTreeMap;
use std::io;

use sha2::{Digest, Sha256};

use super::glob::clean;
use super::ignore::{self, Ignore};
use super::reach::Reach;
use crate::model::release::MadeOf;
use crate::model::site;
use crate::model::tree::{Entry, EntryKind, Tree};

/// Most files of one context: a repository must not fill the engine's disk with inodes.
pub const FILES_MAX: usize = 100_000;

/// Most bytes of one context, before the builder unpacks it.
pub const BYTES_MAX: u64 = 1 << 30;

/// The file that is left out of contexts unless a line names it, so that a changed `scale` is not a
/// changed image.
const VIKING_FILE: &str = "viking.yml";

/// Version of the input hash: a change of what is hashed or sent must change it.
const HASH_VERSION: &str = "v2";

/// Hex digits kept of the hash of one part: enough to tell two versions of a file list apart.
const PART_DIGITS: usize = 16;

/// Why there is no context.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The commit's own fault.
    #[error("{0}")]
    Refused(String),
    /// The object store could not be read.
    #[error("cannot read {path:?} of the commit")]
    Read {
        /// Path in the context.
        path: String,
        /// Cause.
        source: io::Error,
    },
    /// Nobody reads the tar any more: the builder ended first and knows why.
    #[error("the builder stopped reading the context")]
    Closed,
}

impl ContextError {
    /// A blob that could not be read; one above the size limit is the commit's own fault.
    pub(super) fn unreadable(path: &str, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::FileTooLarge {
            return Self::Refused(format!("{path:?} is too large: {source}"));
        }
        Self::Read {
            path: path.to_owned(),
            source,
        }
    }
}

/// One thing of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A regular file.
    File {
        /// Its blob.
        oid: String,
        /// Execute bit.
        executable: bool,
    },
    /// A symbolic link that stays inside.
    Link {
        /// Its blob.
        oid: String,
        /// Where it leads.
        target: String,
    },
    /// An empty folder: what a submodule is without its files.
    Folder,
}

/// A context, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// Everything in it; folders only as prefixes, but for empty ones.
    pub items: BTreeMap<String, Item>,
}

/// The folder of a commit that `context:` means: relative, or empty for the top.
///
/// # Errors
/// When it leads outside.
pub fn folder(text: &str) -> Result<String, ContextError> {
    let cleaned = clean(text);
    match cleaned.as_str() {
        "." => Ok(String::new()),
        path if path.starts_with('/') || path.starts_with("..") => Err(ContextError::Refused(
            format!("context {text:?} leads outside the repository"),
        )),
        _ => Ok(cleaned),
    }
}

/// The context in `folder` (as [`folder`] answers it), cut down to `reach`.
///
/// # Errors
/// When it is hostile or too large, when there is no such folder, or when it cannot be read.
pub fn select(tree: &Tree, folder: &str, reach: &Reach) -> Result<Context, ContextError> {
    let inside = inside(tree, folder)?;
    let ignore = ignore_file(tree, &inside)?;
    let kept: BTreeMap<&str, &Entry> = inside
        .into_iter()
        .filter(|(path, _)| belongs(folder, path, reach) && !ignore.excludes(path))
        .collect();
    // The builder follows a link that a source names; where it leads is then reached too.
    let follows =
        |(path, entry): (&&str, &&Entry)| entry.kind == EntryKind::Symlink && reach.follows(path);
    let everything = kept.iter().any(follows);
    let mut items = BTreeMap::new();
    for (path, entry) in kept {
        if everything || reach.covers(path) {
            items.insert(path.to_owned(), item(tree, path, entry)?);
        }
        if items.len() > FILES_MAX {
            return Err(ContextError::Refused(format!(
                "the context has more than {FILES_MAX} files"
            )));
        }
    }
    let context = Context { items };
    context.refuse_leaving_links()?;
    Ok(context)
}

fn inside<'t>(tree: &'t Tree, folder: &str) -> Result<BTreeMap<&'t str, &'t Entry>, ContextError> {
    let prefix = if folder.is_empty() {
        String::new()
    } else {
        format!("{folder}/")
    };
    let mut found = BTreeMap::new();
    for (path, entry) in tree.entries.range(prefix.clone()..) {
        let Some(relative) = path.strip_prefix(&prefix) else {
            break;
        };
        if !plain_path(relative) {
            return Err(ContextError::Refused(format!(
                "{relative:?} cannot be part of a context"
            )));
        }
        found.insert(relative, entry);
    }
    if found.is_empty() && !folder.is_empty() {
        return Err(ContextError::Refused(format!(
            "the commit has no folder {folder:?}"
        )));
    }
    Ok(found)
}

/// A path that means the same everywhere.
fn plain_path(path: &str) -> bool {
    !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn belongs(folder: &str, path: &str, reach: &Reach) -> bool {
    let own_file = folder.is_empty() && path == VIKING_FILE;
    let git = path
        .split('/')
        .any(|part| part.eq_ignore_ascii_case(".git"));
    !git && (!own_file || reach.names(path))
}

fn ignore_file(tree: &Tree, inside: &BTreeMap<&str, &Entry>) -> Result<Ignore, ContextError> {
    let Some(entry) = inside.get(ignore::FILE) else {
        return Ok(Ignore::default());
    };
    let refuse = |why: &str| ContextError::Refused(format!("{}: {why}", ignore::FILE));
    if !matches!(entry.kind, EntryKind::File | EntryKind::Executable) {
        return Err(refuse("is not a regular file"));
    }
    let bytes = blob(tree, ignore::FILE, &entry.oid)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| refuse("is not UTF-8"))?;
    Ignore::parse(text).map_err(|why| refuse(&why))
}

pub(super) fn item(tree: &Tree, path: &str, entry: &Entry) -> Result<Item, ContextError> {
    let oid = entry.oid.clone();
    Ok(match entry.kind {
        EntryKind::File | EntryKind::Executable => Item::File {
            oid,
            executable: entry.kind == EntryKind::Executable,
        },
        EntryKind::Submodule => Item::Folder,
        EntryKind::Symlink => {
            let target = String::from_utf8(blob(tree, path, &oid)?)
                .ok()
                .filter(|target| !target.is_empty() && !target.contains('\0'))
                .ok_or_else(|| ContextError::Refused(format!("{path:?} is not a readable link")))?;
            Item::Link { oid, target }
        }
    })
}

fn blob(tree: &Tree, path: &str, oid: &str) -> Result<Vec<u8>, ContextError> {
    let read = tree.blobs.blob(oid);
    read.map_err(|source| ContextError::unreadable(path, source))
}

impl Context {
    pub(super) fn refuse_leaving_links(&self) -> Result<(), ContextError> {
        for (path, item) in &self.items {
            if let Item::Link { target, .. } = item
                && self.leaves(path)
            {
                return Err(ContextError::Refused(format!(
                    "link {path:?} → {target:?} leads outside the context"
                )));
            }
        }
        Ok(())
    }

    fn leaves(&self, path: &str) -> bool {
        site::leaves(path, |at| match self.items.get(at) {
            Some(Item::Link { target, .. }) => Some(target.as_str()),
            Some(Item::File { .. } | Item::Folder) | None => None,
        })
    }
}

/// What goes into an image besides its context.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The Dockerfile with parents as digests: they are hashed with it.
    pub dockerfile: &'a str,
    /// Build arguments.
    pub args: &'a BTreeMap<String, String>,
    /// Stage.
    pub target: Option<&'a str>,
    /// Platform.
    pub platform: Option<&'a str>,
}

/// Hash of everything that goes into an image; equal hash, no build. Images of other registries
/// count by the text that names them.
#[must_use]
pub fn input_hash(inputs: &Inputs<'_>, context: &Context) -> String {
    let mut hash = Hash::default();
    hash.part(HASH_VERSION);
    hash.part(inputs.dockerfile);
    hash.settings(inputs);
    hash.files(context);
    format!("{HASH_VERSION}:{}", hash.end())
}

/// Hash of files alone, in a format that has a name.
pub(super) fn files_hash(format: &str, files: &Context) -> String {
    let mut hash = Hash::default();
    hash.part(format);
    hash.files(files);
    format!("{format}:{}", hash.end())
}

/// The same in parts, for people.
#[must_use]
pub fn made_of(inputs: &Inputs<'_>, context: &Context) -> MadeOf {
    let of = |fill: &dyn Fn(&mut Hash)| {
        let mut hash = Hash::default();
        fill(&mut hash);
        hash.end()[..PART_DIGITS].to_owned()
    };
    MadeOf {
        dockerfile: of(&|hash| hash.part(inputs.dockerfile)),
        settings: of(&|hash| hash.settings(inputs)),
        files: of(&|hash| hash.files(context)),
    }
}

/// Every part goes in with its length, so that no two lists of parts are one text.
#[derive(Default)]
struct Hash(Sha256);

impl Hash {
    fn part(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text);
    }

    fn settings(&mut self, inputs: &Inputs<'_>) {
        self.part(inputs.target.unwrap_or(""));
        self.part(inputs.platform.unwrap_or(""));
        self.part(&inputs.args.len().to_string());
        for (name, value) in inputs.args {
            self.part(name);
            self.part(value);
        }
    }

    fn files(&mut self, context: &Context) {
        for (path, item) in &context.items {
            self.part(path);
            match item {
                Item::File { oid, executable } => {
                    self.part(if *executable { "x" } else { "f" });
                    self.part(oid);
                }
                Item::Link { oid, .. } => {
                    self.part("l");
                    self.part(oid);
                }
                Item::Folder => self.part("d"),
            }
        }
    }

    fn end(self) -> String {
        hex::encode(self.0.finalize())
    }
}

#[cfg(test)]
#[path = "context_tests.rs"]
pub(super) mod tests;
