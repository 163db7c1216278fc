//! A folder of this machine as if it were committed now: its files as git would add them, in a repository
//! of their own that is thrown away. Called for `viking plan PATH`. Reads the folder, writes only below the
//! system's folder for temporary files; the folder's own repository is not touched.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use git2::{IndexAddOption, Repository, Signature, Time};
use tempfile::TempDir;

use super::error::{Error, said};
use super::transport::prepare;
use super::tree::{self, BLOB_MAX_BYTES, ENTRIES_MAX, TOTAL_MAX_BYTES};
use crate::model::release::Commit;
use crate::model::tree::{BlobSource, Tree};

/// Who "commits" a folder; with a fixed time, so that equal files are the same commit.
const AUTHOR: &str = "viking";

/// The files below `folder`, without those that `.gitignore` leaves out, and a commit that stands for
/// them. Blocking.
///
/// # Errors
/// [`Error::Disk`] when it cannot be read, [`Error::TooBig`] and [`Error::Hostile`] as for a commit.
pub fn read(folder: &Path) -> Result<(Commit, Tree), Error> {
    prepare();
    let folder = folder
        .canonicalize()
        .map_err(|error| unreadable(folder, &error))?;
    if !folder.is_dir() {
        return Err(unreadable(&folder, &"it is no folder"));
    }
    let own = Repository::discover(&folder).ok();
    let root = own.as_ref().and_then(Repository::workdir);
    // What is above the folder leaves files out as well.
    let root = root.and_then(|root| root.canonicalize().ok());
    let root = root.filter(|root| folder.starts_with(root));
    let root = root.unwrap_or_else(|| folder.clone());
    let inside = folder.strip_prefix(&root).unwrap_or(Path::new(""));
    let path = inside
        .to_str()
        .ok_or_else(|| unreadable(&folder, &"its name is not UTF-8"))?;
    let made = TempDir::with_prefix("viking-plan-").map_err(|error| unreadable(&folder, &error))?;
    let id = commit(made.path(), &root, &folder, path, own.as_ref())
        .map_err(|error| git(&folder, &error))??;
    let shown = folder.display().to_string();
    let Tree { entries, blobs } = tree::read(made.path().to_owned(), &shown, &id, path)?;
    let commit = Commit {
        id,
        // The same wherever a folder lies: the plan's digest has it in it.
        subject: format!("the files of {}", said(&named(&folder))),
        author: AUTHOR.to_owned(),
        at_ms: 0,
    };
    let blobs = Arc::new(Kept { blobs, _made: made });
    Ok((commit, Tree { entries, blobs }))
}

/// Adds everything and commits it in a repository of its own; answers the commit's id.
fn commit(
    made: &Path,
    root: &Path,
    folder: &Path,
    path: &str,
    own: Option<&Repository>,
) -> Result<Result<String, Error>, git2::Error> {
    let repository = Repository::init_bare(made)?;
    repository.set_workdir(root, false)?;
    let mut index = repository.index()?;
    let mut weighed = Weighed::new(root, folder);
    let wanted = if path.is_empty() { "*" } else { path };
    let mut weigh = |path: &Path, _: &[u8]| i32::from(!weighed.add(path)).saturating_neg();
    let added = index.add_all([wanted], IndexAddOption::DEFAULT, Some(&mut weigh));
    if let Some(refused) = weighed.refused.take() {
        return Ok(Err(refused));
    }
    added?;
    // What is followed although a rule leaves it out.
    for entry in own
        .iter()
        .flat_map(|own| own.index().ok())
        .flat_map(|index| index.iter().collect::<Vec<_>>())
    {
        let Ok(known) = std::str::from_utf8(&entry.path) else {
            continue;
        };
        let known = Path::new(known);
        let there = root
            .join(known)
            .symlink_metadata()
            .is_ok_and(|found| !found.is_dir());
        if known.starts_with(path) && there && index.get_path(known, 0).is_none() {
            if !weighed.add(known) {
                break;
            }
            index.add_path(known)?;
        }
    }
    if let Some(refused) = weighed.refused {
        return Ok(Err(refused));
    }
    let tree = repository.find_tree(index.write_tree()?)?;
    let who = Signature::new(AUTHOR, AUTHOR, &Time::new(0, 0))?;
    let id = repository.commit(None, &who, &who, "", &tree, &[])?;
    Ok(Ok(id.to_string()))
}

/// Bounds what is read, before it is.
struct Weighed<'a> {
    root: &'a Path,
    folder: &'a Path,
    files: usize,
    bytes: u64,
    refused: Option<Error>,
}

impl<'a> Weighed<'a> {
    fn new(root: &'a Path, folder: &'a Path) -> Self {
        Self {
            root,
            folder,
            files: 0,
            bytes: 0,
            refused: None,
        }
    }

    fn add(&mut self, path: &Path) -> bool {
        let bytes = self
            .root
            .join(path)
            .symlink_metadata()
            .map_or(0, |found| found.len());
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        let reason = if bytes > BLOB_MAX_BYTES {
            format!(
                "{} has {bytes} bytes, the limit is {BLOB_MAX_BYTES}",
                path.display()
            )
        } else if self.files > ENTRIES_MAX {
            format!("it has more than {ENTRIES_MAX} files")
        } else if self.bytes > TOTAL_MAX_BYTES {
            format!("its files have more than {TOTAL_MAX_BYTES} bytes together")
        } else {
            return true;
        };
        self.refused = Some(Error::TooBig {
            what: self.folder.display().to_string(),
            reason,
        });
        false
    }
}

fn named(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or(folder.as_os_str());
    name.to_string_lossy().into_owned()
}

fn unreadable(folder: &Path, why: &impl std::fmt::Display) -> Error {
    Error::Disk {
        path: PathBuf::from(folder),
        reason: said(&why.to_string()),
    }
}

fn git(folder: &Path, error: &git2::Error) -> Error {
    unreadable(folder, &error.message())
}

/// Blobs, and the repository that they are read from.
struct Kept {
    blobs: Arc<dyn BlobSource>,
    _made: TempDir,
}

impl BlobSource for Kept {
    fn blob(&self, oid: &str) -> std::io::Result<Vec<u8>> {
        self.blobs.blob(oid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, path: &str, text: &str) {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.entries.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_folder_reads_as_git_would_add_it() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "viking.yml", "a");
        write(dir.path(), "src/app.js", "b");
        write(dir.path(), "target/big.o", "c");
        write(dir.path(), ".gitignore", "target/\n");
        let (commit, tree) = read(dir.path()).unwrap();
        assert_eq!(paths(&tree), [".gitignore", "src/app.js", "viking.yml"]);
        assert_eq!(tree.read("src/app.js").unwrap().unwrap(), b"b");
        assert_eq!(read(dir.path()).unwrap().0, commit);
        write(dir.path(), "src/app.js", "B");
        assert_ne!(read(dir.path()).unwrap().0.id, commit.id);
    }

    #[test]
    fn a_folder_of_a_repository_is_read_with_what_its_rules_and_its_index_say() {
        let dir = tempfile::tempdir().unwrap();
        let own = Repository::init(dir.path()).unwrap();
        write(dir.path(), "shop/viking.yml", "a");
        write(dir.path(), "shop/app.log", "b");
        write(dir.path(), "shop/kept.log", "c");
        write(dir.path(), "other/viking.yml", "d");
        write(dir.path(), ".gitignore", "*.log\n");
        let mut index = own.index().unwrap();
        index.add_path(Path::new("shop/kept.log")).unwrap();
        index.write().unwrap();
        let before = std::fs::read(dir.path().join(".git/index")).unwrap();
        let (_, tree) = read(&dir.path().join("shop")).unwrap();
        assert_eq!(paths(&tree), ["kept.log", "viking.yml"]);
        assert_eq!(
            std::fs::read(dir.path().join(".git/index")).unwrap(),
            before
        );
    }

    #[test]
    fn what_is_no_folder_is_said_to_be_none() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "file", "");
        let error = read(&dir.path().join("file")).unwrap_err();
        assert!(error.to_string().contains("it is no folder"), "{error}");
        assert!(read(&dir.path().join("none")).is_err());
    }
}
