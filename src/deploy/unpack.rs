//! A tar of files becomes a folder: checked once more, whoever made it, since what is written here is
//! served to everybody. Nothing is ever written through a link. Used by `sites`, blocking.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::symlink;
use std::path::Path;

use tar::{Archive, EntryType};

use crate::model::site::{BYTES_MAX, ENTRIES_MAX, FILE_BYTES_MAX, leaves, refused};

/// Unpacks into an empty folder, and has the disk keep it.
pub(super) fn unpack(tar: impl Read, into: &Path) -> Result<(), String> {
    let mut unpacking = Unpacking {
        into,
        folders: BTreeSet::from([String::new()]),
        links: BTreeMap::new(),
        entries: 0,
        bytes: 0,
    };
    let mut archive = Archive::new(tar);
    let entries = archive
        .entries()
        .map_err(|e| format!("reading the tar: {e}"))?;
    for entry in entries {
        unpacking.entry(entry.map_err(|e| format!("reading the tar: {e}"))?)?;
    }
    unpacking.finish()
}

struct Unpacking<'a> {
    into: &'a Path,
    /// Made here, so none of them is a link.
    folders: BTreeSet<String>,
    /// Made last.
    links: BTreeMap<String, String>,
    entries: usize,
    bytes: u64,
}

impl Unpacking<'_> {
    fn entry<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<(), String> {
        self.entries += 1;
        if self.entries > ENTRIES_MAX * 2 {
            return Err("it has too many entries".to_owned());
        }
        let path = String::from_utf8(entry.path_bytes().into_owned());
        let path = path.map_err(|_| "a path in it is not UTF-8".to_owned())?;
        let kind = entry.header().entry_type();
        let path = match kind {
            EntryType::Directory => path.strip_suffix('/').unwrap_or(&path).to_owned(),
            _ => path,
        };
        if let Some(why) = refused(&path) {
            return Err(format!("{path:?} {why}"));
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if !self.folders.contains(parent) {
            return Err(format!("{path:?} is in no folder of it"));
        }
        match kind {
            EntryType::Directory => {
                let made = fs::create_dir(self.into.join(&path));
                made.map_err(|e| failed(&path, &e))?;
                self.folders.insert(path);
                Ok(())
            }
            EntryType::Regular => self.file(&path, &mut entry),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().map(Cow::into_owned);
                let target = target.and_then(|bytes| String::from_utf8(bytes).ok());
                let target = target.filter(|target| !target.is_empty() && !target.contains('\0'));
                let target = target.ok_or_else(|| format!("{path:?} is not a readable link"))?;
                match self.links.insert(path.clone(), target) {
                    None => Ok(()),
                    Some(_) => Err(format!("{path:?} is there twice")),
                }
            }
            _ => Err(format!(
                "{path:?} is neither a file nor a folder nor a link"
            )),
        }
    }

    fn file<R: Read>(&mut self, path: &str, entry: &mut tar::Entry<'_, R>) -> Result<(), String> {
        let size = entry.size();
        self.bytes = self.bytes.saturating_add(size);
        if size > FILE_BYTES_MAX || self.bytes > BYTES_MAX {
            return Err(format!("{path:?} makes it too large"));
        }
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .open(self.into.join(path));
        let mut file = file.map_err(|e| failed(path, &e))?;
        let copied = io::copy(&mut entry.take(size), &mut file);
        let copied = copied.map_err(|e| failed(path, &e))?;
        if copied != size {
            return Err(format!("{path:?} is cut short"));
        }
        file.sync_all().map_err(|e| failed(path, &e))
    }

    fn finish(self) -> Result<(), String> {
        for (path, target) in &self.links {
            if leaves(path, |at| self.links.get(at).map(String::as_str)) {
                return Err(format!("link {path:?} → {target:?} leads outside"));
            }
            symlink(target, self.into.join(path)).map_err(|e| failed(path, &e))?;
        }
        // Those further in first: a folder is on disk with what it names.
        for folder in self.folders.iter().rev() {
            let synced = File::open(self.into.join(folder)).and_then(|folder| folder.sync_all());
            synced.map_err(|e| failed(folder, &e))?;
        }
        Ok(())
    }
}

fn failed(path: &str, error: &io::Error) -> String {
    format!("writing {path:?}: {error}")
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
