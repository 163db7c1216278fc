//! Repositories to push to: a bare one, and a work tree that commits go into. 200 files and 1.1 MB,
//! as in the figures that P1 and P2 are measured against.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Files of the build context.
const FILES: usize = 200;
/// Bytes of each: 1.1 MB together.
const FILE_BYTES: usize = 5_500;

/// A bare repository and the work tree beside it.
#[derive(Debug)]
pub(crate) struct Repo {
    pub(crate) remote: PathBuf,
    work: PathBuf,
}

impl Repo {
    /// An empty one in `dir`.
    pub(crate) fn new(dir: &Path) -> anyhow::Result<Self> {
        let (remote, work) = (dir.join("remote.git"), dir.join("work"));
        std::fs::create_dir_all(&work)?;
        let bare = remote.to_string_lossy().into_owned();
        git(
            dir,
            &["init", "--quiet", "--bare", "--initial-branch=main", &bare],
        )?;
        git(&work, &["init", "--quiet", "--initial-branch=main"])?;
        git(&work, &["remote", "add", "origin", &bare])?;
        Ok(Self { remote, work })
    }

    pub(crate) fn write(&self, path: &str, text: &str) -> anyhow::Result<()> {
        let path = self.work.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
        Ok(())
    }

    /// The context: files whose content no other repository has, so that nobody builds from
    /// somebody else's layers.
    pub(crate) fn fill(&self, seed: u64) -> anyhow::Result<()> {
        (0..FILES).try_for_each(|n| self.change(n, seed.wrapping_mul(1_000).wrapping_add(n as u64)))
    }

    /// Gives file `n` other content.
    pub(crate) fn change(&self, n: usize, seed: u64) -> anyhow::Result<()> {
        let path = format!("src/part{}/file{n}.txt", n / 20);
        self.write(&path, &noise(seed))
    }

    /// Commits all and pushes; answers the commit.
    pub(crate) fn push(&self, subject: &str) -> anyhow::Result<String> {
        git(&self.work, &["add", "--all"])?;
        git(&self.work, &["commit", "--quiet", "--message", subject])?;
        git(&self.work, &["push", "--quiet", "origin", "main"])?;
        git(&self.work, &["rev-parse", "HEAD"])
    }

    /// A clone for who works in one.
    pub(crate) fn clone_to(&self, dir: &Path) -> anyhow::Result<()> {
        let (from, to) = (self.remote.to_string_lossy(), dir.to_string_lossy());
        git(&self.work, &["clone", "--quiet", &from, &to]).map(drop)
    }
}

/// Text that does not repeat and hardly compresses.
fn noise(seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.alphanumeric())
        .take(FILE_BYTES)
        .collect()
}

/// git without anybody's own settings, hooks or keys.
fn git(dir: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let done = Command::new("git")
        .args(["-c", "gc.auto=0", "-c", "commit.gpgsign=false"])
        .args(arguments)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .envs(["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"].map(|name| (name, "bench")))
        .envs(["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"].map(|name| (name, "bench@example.com")))
        .stdin(Stdio::null())
        .output()
        .context("running git")?;
    if !done.status.success() {
        bail!(
            "git {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}
