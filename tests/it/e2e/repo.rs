//! A git repository that tests push commits to. Nobody's own git settings take part.

use std::fs;
use std::path::{Path, PathBuf};

use git2::{IndexAddOption, Repository, RepositoryInitOptions, ResetType, Signature};

/// The branch of every test repository.
const BRANCH: &str = "main";

/// Hex digits of a commit in a tag.
const TAG_DIGITS: usize = 12;

/// A repository with a work tree.
pub(crate) struct Repo {
    dir: PathBuf,
    git: Repository,
}

impl Repo {
    /// An empty one.
    pub(crate) fn new(dir: PathBuf) -> Self {
        let mut options = RepositoryInitOptions::new();
        options.initial_head(BRANCH);
        let git = Repository::init_opts(&dir, &options).expect("a repository is made");
        Self { dir, git }
    }

    /// Its path, for `viking add`.
    pub(crate) fn path(&self) -> &str {
        self.dir.to_str().expect("test folders are UTF-8")
    }

    /// A file of its work tree.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// Writes files without committing them.
    pub(crate) fn write(&self, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = self.dir.join(path);
            let folder = path.parent().expect("a file has a folder");
            fs::create_dir_all(folder).expect("folders are made");
            fs::write(&path, text).expect("a file is written");
        }
    }

    /// Copies a folder into the work tree.
    pub(crate) fn copy(&self, from: &Path) {
        copy_folder(from, &self.dir);
    }

    /// Commits these files and whatever else changed in the work tree.
    pub(crate) fn commit(&self, subject: &str, files: &[(&str, &str)]) -> Commit {
        self.write(files);
        let mut index = self.git.index().expect("an index");
        index
            .add_all(["*"], IndexAddOption::DEFAULT, None)
            .expect("files are added");
        index
            .update_all(["*"], None)
            .expect("lost files are left out");
        index.write().expect("the index is written");
        let tree = index.write_tree().expect("a tree is written");
        let tree = self.git.find_tree(tree).expect("the tree is there");
        let who = Signature::now("Lagertha", "lagertha@example.com").expect("a signature");
        let parent = self
            .git
            .head()
            .ok()
            .and_then(|head| head.peel_to_commit().ok());
        let parents: Vec<_> = parent.iter().collect();
        let id = self
            .git
            .commit(Some("HEAD"), &who, &who, subject, &tree, &parents)
            .expect("a commit is made");
        Commit(id.to_string())
    }

    /// Replaces text in a file of the work tree; commit it after.
    pub(crate) fn edit(&self, path: &str, from: &str, to: &str) {
        let path = self.dir.join(path);
        let text = fs::read_to_string(&path).expect("the file is there");
        assert!(text.contains(from), "{} has no {from:?}", path.display());
        fs::write(&path, text.replace(from, to)).expect("the file is written");
    }

    /// Moves the branch to a commit, as a forced push would.
    pub(crate) fn reset(&self, commit: &Commit) {
        let id = git2::Oid::from_str(&commit.0).expect("an id");
        let object = self.git.find_object(id, None).expect("the commit is there");
        self.git
            .reset(&object, ResetType::Hard, None)
            .expect("the branch is moved");
    }

    /// Takes the branch away. Commit ids made before stay valid for [`Repo::restore_branch`].
    pub(crate) fn delete_branch(&self) {
        let name = format!("refs/heads/{BRANCH}");
        let mut branch = self.git.find_reference(&name).expect("the branch is there");
        branch.delete().expect("the branch is deleted");
    }

    /// Makes the branch again.
    pub(crate) fn restore_branch(&self, commit: &Commit) {
        let id = git2::Oid::from_str(&commit.0).expect("an id");
        self.git
            .reference(
                &format!("refs/heads/{BRANCH}"),
                id,
                true,
                "restored by a test",
            )
            .expect("the branch is made");
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder is made");
    for entry in fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())) {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file is copied");
        }
    }
}

/// A commit id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit(pub(crate) String);

impl Commit {
    /// The tag of its first release.
    pub(crate) fn tag(&self) -> &str {
        &self.0[..TAG_DIGITS]
    }
}
