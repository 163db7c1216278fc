//! Repositories to follow, made with git's own commands, and small checks on mirrors.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use viking::model::release::Source;
use viking::sync::{Error, Mirrors, Options};

/// Runs git with no configuration of this machine and returns what it prints.
pub(super) fn git(dir: &Path, args: &[&str]) -> String {
    git_with(dir, args, b"")
}

pub(super) fn git_with(dir: &Path, args: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "Anna")
        .env("GIT_AUTHOR_EMAIL", "anna@example.com")
        .env("GIT_AUTHOR_DATE", "1700000000 +0100")
        .env("GIT_COMMITTER_NAME", "Anna")
        .env("GIT_COMMITTER_EMAIL", "anna@example.com")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test needs the program git: install the Debian package 'git'");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).expect("git reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("git ends");
    assert!(
        output.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A repository with a work tree, in a folder of its own.
pub(super) struct Repo {
    _dir: tempfile::TempDir,
    pub(super) path: PathBuf,
}

impl Repo {
    /// With no commit yet.
    pub(super) fn empty() -> Self {
        Self::named("repo")
    }

    pub(super) fn named(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        git(&path, &["init", "-q", "-b", "main"]);
        Self { _dir: dir, path }
    }

    /// With one commit of two files.
    pub(super) fn new() -> Self {
        let repo = Self::empty();
        repo.commit(
            &[("viking.yml", "deploy: {}\n"), ("app/run.sh", "echo hi\n")],
            "first",
        );
        repo
    }

    /// Writes files and commits all; returns the commit.
    pub(super) fn commit(&self, files: &[(&str, &str)], message: &str) -> String {
        for (path, text) in files {
            let path = self.path.join(path);
            std::fs::create_dir_all(path.parent().expect("below the repository"))
                .expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        git(&self.path, &["add", "-A"]);
        git(
            &self.path,
            &["commit", "-q", "--allow-empty", "-m", message],
        );
        self.head()
    }

    pub(super) fn head(&self) -> String {
        git(&self.path, &["rev-parse", "HEAD"])
    }

    pub(super) fn url(&self) -> String {
        self.path.display().to_string()
    }

    /// A commit whose root holds exactly these entries, names unchecked; `main` moves to it.
    pub(super) fn commit_raw(&self, entries: &[(&str, &[u8], &str)]) -> String {
        let tree = self.raw_tree(entries);
        let commit = git(&self.path, &["commit-tree", &tree, "-m", "raw"]);
        git(&self.path, &["update-ref", "refs/heads/main", &commit]);
        commit
    }

    /// A tree object that git's own commands would refuse to make.
    pub(super) fn raw_tree(&self, entries: &[(&str, &[u8], &str)]) -> String {
        let mut bytes = Vec::new();
        for (mode, name, id) in entries {
            bytes.extend_from_slice(mode.as_bytes());
            bytes.push(b' ');
            bytes.extend_from_slice(name);
            bytes.push(0);
            bytes.extend_from_slice(&hex::decode(id).expect("an object id"));
        }
        let args = ["hash-object", "-t", "tree", "--literally", "-w", "--stdin"];
        git_with(&self.path, &args, &bytes)
    }

    pub(super) fn blob(&self, text: &str) -> String {
        git_with(
            &self.path,
            &["hash-object", "-w", "--stdin"],
            text.as_bytes(),
        )
    }
}

/// A source that follows `main`.
pub(super) fn source(url: &str) -> Source {
    Source {
        v: 1,
        url: url.to_owned(),
        branch: Some("main".to_owned()),
        path: String::new(),
        poll_ms: 30_000,
        suspended_ms: None,
    }
}

/// Mirrors in a data directory of their own.
pub(super) struct Data {
    pub(super) dir: tempfile::TempDir,
    pub(super) mirrors: Mirrors,
}

impl Data {
    pub(super) fn new(options: Options) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mirrors = Mirrors::new(dir.path(), options).expect("mirrors");
        Self { dir, mirrors }
    }

    /// As another process over the same folder.
    pub(super) fn restart(&mut self) {
        self.mirrors = Mirrors::new(self.dir.path(), Options::default()).expect("mirrors");
    }

    /// Head, then fetch: what the leader does when a commit is new.
    pub(super) async fn pull(&self, source: &Source) -> Result<String, Error> {
        let head = self.mirrors.head(source).await?;
        self.mirrors.fetch(source, &head).await
    }

    /// Pull, then read the tree.
    pub(super) async fn read(&self, source: &Source) -> Result<viking::model::tree::Tree, Error> {
        let id = self.pull(source).await?;
        self.mirrors.tree(source, &id).await
    }
}

/// Names of all files below a folder, relative to it.
pub(super) fn files(below: &Path) -> Vec<String> {
    fn walk(at: &Path, root: &Path, out: &mut Vec<String>) {
        for entry in std::fs::read_dir(at).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, root, out);
            } else {
                let name = path.strip_prefix(root).expect("below");
                out.push(name.display().to_string());
            }
        }
    }
    let mut out = Vec::new();
    walk(below, below, &mut out);
    out.sort();
    out
}
