//! A context as a tar, streamed piece by piece from a blocking thread: equal trees give equal bytes,
//! and memory holds one file at a time. Called by `imagebank`. Decides nothing about what is in it.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::context::{BYTES_MAX, Context, ContextError, Item};
use super::ignore;
use crate::model::tree::BlobSource;

/// Name of the Dockerfile inside the tar, unless the context has such a file.
const DOCKERFILE: &str = ".viking.Dockerfile";

/// The time of every entry, 2000-01-01 UTC: fixed, so that equal trees give equal bytes, and late
/// enough for formats that know nothing before 1980.
const ENTRY_TIME: u64 = 946_684_800;

/// Size of a piece on its way to the engine.
const PIECE_BYTES: usize = 128 << 10;

/// Pieces in flight: with [`PIECE_BYTES`], what a slow engine can make us hold.
const PIECES_MAX: usize = 4;

/// A tar on its way.
pub(super) struct Archive {
    /// Path of the Dockerfile inside.
    pub(super) dockerfile: String,
    /// The bytes; an `Err` is the last.
    pub(super) pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// How it ended.
    pub(super) outcome: JoinHandle<Result<(), ContextError>>,
}

/// Starts streaming `context` with `dockerfile` in it.
pub(super) fn stream(context: Context, blobs: Arc<dyn BlobSource>, dockerfile: String) -> Archive {
    let name = dockerfile_name(&context);
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let named = name.clone();
    let outcome = tokio::task::spawn_blocking(move || {
        let mut out = Pieces {
            sender: sender.clone(),
            held: Vec::with_capacity(PIECE_BYTES),
        };
        let result = write(&context, blobs.as_ref(), &named, &dockerfile, &mut out)
            .and_then(|()| out.send().map_err(|_| ContextError::Closed));
        if let Err(error) = &result {
            // Ends the build; who waits for `outcome` knows the reason. Nobody listening is fine.
            sender
                .blocking_send(Err(io::Error::other(error.to_string())))
                .ok();
        }
        result
    });
    Archive {
        dockerfile: name,
        pieces,
        outcome,
    }
}

fn dockerfile_name(context: &Context) -> String {
    let taken = |name: &String| context.items.contains_key(name);
    std::iter::once(DOCKERFILE.to_owned())
        .chain((1_u64..).map(|n| format!("{DOCKERFILE}.{n}")))
        .find(|name| !taken(name))
        .expect("a context has fewer files than there are numbers")
}

/// Writes the tar. An `Err` of `out` means that nobody reads any more.
fn write(
    context: &Context,
    blobs: &dyn BlobSource,
    name: &str,
    dockerfile: &str,
    out: &mut impl Write,
) -> Result<(), ContextError> {
    let mut tar = Tar::new(out, BYTES_MAX);
    tar.file(name, dockerfile.as_bytes(), false)?;
    if !context.items.contains_key(ignore::FILE) {
        tar.file(ignore::FILE, &hide(name, None), false)?;
    }
    for (index, (path, item)) in context.items.iter().enumerate() {
        if index == context.items.len() / 2 {
            crate::failpoint::hit("tar");
        }
        tar.folders_of(path)?;
        match item {
            Item::Folder => tar.folder(path)?,
            Item::Link { target, .. } => tar.link(path, target)?,
            Item::File { oid, executable } => {
                let read = blobs.blob(oid);
                let read = read.map_err(|source| ContextError::unreadable(path, source))?;
                let bytes = match path.as_str() {
                    ignore::FILE => hide(name, Some(&read)),
                    _ => read,
                };
                tar.file(path, &bytes, *executable)?;
            }
        }
    }
    tar.builder.finish().map_err(|_| ContextError::Closed)
}

/// The builder takes the Dockerfile (and `.dockerignore`) out of the context again if a
/// `.dockerignore` in it says so: then `COPY .` does not put our file into images. Everything else
/// was left out already. A `.dockerignore` that belongs to the context stays in it, one line longer.
fn hide(name: &str, theirs: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = theirs.unwrap_or(ignore::FILE.as_bytes()).to_vec();
    bytes.extend_from_slice(format!("\n{name}\n").as_bytes());
    bytes
}

/// A tar of which each byte follows from what is put into it, bounded in size.
pub(super) struct Tar<W: Write> {
    builder: tar::Builder<W>,
    folders: BTreeSet<String>,
    bytes: u64,
    bytes_max: u64,
}

impl<W: Write> Tar<W> {
    pub(super) fn new(out: W, bytes_max: u64) -> Self {
        Self {
            builder: tar::Builder::new(out),
            folders: BTreeSet::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Ends it.
    pub(super) fn into_inner(self) -> io::Result<W> {
        self.builder.into_inner()
    }

    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(ENTRY_TIME);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    pub(super) fn file(
        &mut self,
        path: &str,
        bytes: &[u8],
        executable: bool,
    ) -> Result<(), ContextError> {
        let size = bytes.len() as u64;
        self.bytes += size;
        if self.bytes > self.bytes_max {
            return Err(ContextError::Refused(format!(
                "all files together are larger than {} MB",
                self.bytes_max >> 20
            )));
        }
        let mode = if executable { 0o755 } else { 0o644 };
        let mut header = Self::header(tar::EntryType::Regular, mode, size);
        let done = self.builder.append_data(&mut header, path, bytes);
        done.map_err(|error| failed(path, &error))
    }

    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<(), ContextError> {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, 0);
        let done = self.builder.append_link(&mut header, path, target);
        done.map_err(|error| failed(path, &error))
    }

    pub(super) fn folder(&mut self, path: &str) -> Result<(), ContextError> {
        if !self.folders.insert(path.to_owned()) {
            return Ok(());
        }
        let mut header = Self::header(tar::EntryType::Directory, 0o755, 0);
        let done = self
            .builder
            .append_data(&mut header, format!("{path}/"), io::empty());
        done.map_err(|error| failed(path, &error))
    }

    pub(super) fn folders_of(&mut self, path: &str) -> Result<(), ContextError> {
        path.match_indices('/')
            .filter_map(|(at, _)| path.get(..at))
            .try_for_each(|folder| self.folder(folder))
    }
}

fn failed(path: &str, error: &io::Error) -> ContextError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return ContextError::Closed;
    }
    ContextError::Refused(format!("{path:?} does not fit into a tar: {error}"))
}

/// Hands bytes over in pieces of one size.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    held: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.held, Vec::with_capacity(PIECE_BYTES));
        self.sender
            .blocking_send(Ok(Bytes::from(piece)))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES - self.held.len();
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.held.extend_from_slice(taken);
        if self.held.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
