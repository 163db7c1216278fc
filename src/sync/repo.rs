//! The mirrors: one bare repository per remote in the data directory, and what the leader asks of
//! them. Everything that waits for a remote has a deadline and a bounded number of threads. There is
//! never a work tree, and a mirror is only a copy: one that cannot be opened is made anew.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use git2::{Repository, RepositoryInitOptions, RepositoryOpenFlags};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::address::Address;
use super::credentials::CredentialFile;
use super::error::{Error, cut, is_unprintable, said};
use super::transport::{Attempt, SshOptions, https, prepare};
use super::{history, remote, tree};
use crate::model::release::{Commit, Source};
use crate::model::tree::Tree;

/// How long one conversation with a remote may take when nobody says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// Conversations at once, those given up but not yet ended included: a hanging remote costs at most
/// this many threads.
const REMOTES_AT_ONCE: usize = 8;
/// Longest subject and author kept.
const SUBJECT_MAX_CHARS: usize = 200;
const AUTHOR_MAX_CHARS: usize = 100;
/// libgit2's name for a pack that is still arriving.
const HALF_PACK: &str = "pack_git2_";

/// What the operator may set.
#[derive(Debug, Clone)]
pub struct Options {
    /// Deadline of one conversation.
    pub timeout: Duration,
    /// Authorities trusted besides the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// For ssh remotes.
    pub ssh: SshOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: TIMEOUT_DEFAULT,
            ca_file: None,
            ssh: SshOptions::default(),
        }
    }
}

impl Options {
    /// The defaults, with `SSL_CERT_FILE` as git and others read it.
    #[must_use]
    pub fn from_env() -> Self {
        Self {
            ca_file: std::env::var_os("SSL_CERT_FILE").map(PathBuf::from),
            ..Self::default()
        }
    }
}

/// All mirrors of this process; clones share them.
#[derive(Clone)]
pub struct Mirrors(Arc<Shared>);

struct Shared {
    folder: PathBuf,
    options: Options,
    agent: ureq::Agent,
    credentials: CredentialFile,
    remotes: Arc<Semaphore>,
    /// One fetch at a time into one mirror.
    fetching: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Mirrors {
    /// Mirrors in `<data_dir>/mirrors`, credentials in `<data_dir>/credentials`. Removes what a
    /// killed process left half fetched, so it is called once per data directory.
    ///
    /// # Errors
    /// When the folder cannot be made, or a certificate file cannot be read.
    pub fn new(data_dir: &Path, options: Options) -> Result<Self, Error> {
        prepare();
        let folder = data_dir.join("mirrors");
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| Error::Disk {
                path,
                reason: error.to_string(),
            }
        };
        private_folder(&folder).map_err(disk(&folder))?;
        sweep(&folder).map_err(disk(&folder))?;
        let agent = https::agent(options.ca_file.as_deref())
            .map_err(disk(options.ca_file.as_deref().unwrap_or(&folder)))?;
        Ok(Self(Arc::new(Shared {
            folder,
            options,
            agent,
            credentials: CredentialFile(data_dir.join("credentials")),
            remotes: Arc::new(Semaphore::new(REMOTES_AT_ONCE)),
            fetching: Mutex::default(),
        })))
    }

    /// The commit that the source's branch (or the remote's HEAD) points at now. Asks for the list
    /// of refs only. libgit2 speaks protocol version 0, which lists every ref: 120 bytes each, on
    /// each poll.
    ///
    /// # Errors
    /// [`Error::Empty`] and [`Error::BranchMissing`] when there is none; else as its kinds say.
    pub async fn head(&self, source: &Source) -> Result<String, Error> {
        let (address, wanted) = parse(source)?;
        self.ask(address, move |attempt| remote::head(attempt, &wanted))
            .await
    }

    /// Brings `head` here unless it is already, and returns the commit that is here now: `head`, or
    /// a newer one if the branch moved since. Depth 1 over https and ssh; no tags.
    ///
    /// # Errors
    /// As [`Self::head`], [`Error::TooBig`], [`Error::Disk`].
    pub async fn fetch(&self, source: &Source, head: &str) -> Result<String, Error> {
        let (address, wanted) = parse(source)?;
        let path = self.path(&address);
        let lock = self.fetch_lock(&address);
        let _one = tokio::time::timeout(self.0.options.timeout, lock.lock())
            .await
            .map_err(|_| self.attempt(address.clone()).timed_out())?;
        let head = head.to_owned();
        self.ask(address, move |attempt| {
            let mirror = open_or_make(&path)?;
            if remote::has(&mirror, &head) {
                remote::keep(&mirror, &head)?;
                return Ok(head);
            }
            remote::fetch(attempt, &mirror, &wanted)
        })
        .await
    }

    /// A fetched commit as people want to see it.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not here.
    pub async fn commit(&self, source: &Source, id: &str) -> Result<Commit, Error> {
        let id = id.to_owned();
        self.read(source, move |mirror, remote| {
            let repository = open(&mirror)?;
            let commit = tree::find_commit(&repository, &remote, &id)?;
            Ok(described(&commit))
        })
        .await
    }

    /// The files of a fetched commit below the source's path, from the object store.
    ///
    /// # Errors
    /// [`Error::PathMissing`], [`Error::Hostile`] and [`Error::TooBig`] are the commit's own
    /// faults; [`Error::Damaged`] when objects are missing.
    pub async fn tree(&self, source: &Source, id: &str) -> Result<Tree, Error> {
        let (id, path) = (id.to_owned(), source.path.clone());
        self.read(source, move |mirror, remote| {
            tree::read(mirror, &remote, &id, &path)
        })
        .await
    }

    /// Whether the history was rewritten between two commits seen: `old` is not an ancestor of
    /// `new`. Where the mirror does not hold enough of the history to tell, more of it is fetched
    /// once; `None` when that is not enough either.
    pub async fn rewritten(&self, source: &Source, old: &str, new: &str) -> Option<bool> {
        if let Some(known) = self.is_rewritten(source, old, new).await {
            return Some(known);
        }
        self.deepen(source).await.ok()?;
        self.is_rewritten(source, old, new).await
    }

    async fn is_rewritten(&self, source: &Source, old: &str, new: &str) -> Option<bool> {
        let (old, new) = (old.to_owned(), new.to_owned());
        let known = self.read(source, move |mirror, _| {
            Ok(history::is_rewritten(&open(&mirror)?, &old, &new))
        });
        known.await.ok().flatten()
    }

    /// Brings a bounded part of the branch's history here.
    async fn deepen(&self, source: &Source) -> Result<(), Error> {
        let (address, wanted) = parse(source)?;
        if address.is_local() {
            // A path is always fetched whole.
            return Ok(());
        }
        let path = self.path(&address);
        let lock = self.fetch_lock(&address);
        let _one = lock.lock().await;
        self.ask(address, move |attempt| {
            remote::deepen(attempt, &open(&path)?, &wanted)
        })
        .await
    }

    /// Where the source's mirror is, for tests and clean-up.
    ///
    /// # Errors
    /// [`Error::BadUrl`].
    pub fn mirror(&self, source: &Source) -> Result<PathBuf, Error> {
        Ok(self.path(&parse(source)?.0))
    }

    fn path(&self, address: &Address) -> PathBuf {
        self.0.folder.join(address.folder())
    }

    fn fetch_lock(&self, address: &Address) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self
            .0
            .fetching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(address.folder()).or_default())
    }

    fn attempt(&self, address: Address) -> Attempt {
        let shared = &self.0;
        Attempt::new(
            address,
            shared.options.timeout,
            shared.agent.clone(),
            shared.credentials.clone(),
            shared.options.ssh.clone(),
        )
    }

    /// Runs `talk` on a blocking thread under the deadline. When the deadline passes or the caller
    /// goes away, the conversation is cancelled; its place is free once its thread has ended.
    async fn ask<T, F>(&self, address: Address, talk: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Attempt>) -> Result<T, Error> + Send + 'static,
    {
        let attempt = Arc::new(self.attempt(address));
        let _cancel = CancelOnDrop(Arc::clone(&attempt));
        let places = Arc::clone(&self.0.remotes);
        let mine = Arc::clone(&attempt);
        let answer = async move {
            let place = places.acquire_owned().await.expect("never closed");
            spawn_blocking(move || {
                let _place = place;
                talk(&mine)
            })
            .await
        };
        match tokio::time::timeout(attempt.timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => Err(Error::Damaged {
                remote: attempt.address.to_string(),
                reason: said(&panic.to_string()),
            }),
            Err(_) => Err(attempt.timed_out()),
        }
    }

    /// Runs `work` on a blocking thread; it touches the mirror only.
    async fn read<T, F>(&self, source: &Source, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(PathBuf, String) -> Result<T, Error> + Send + 'static,
    {
        let (address, _) = parse(source)?;
        let (mirror, remote) = (self.path(&address), address.to_string());
        let shown = remote.clone();
        let done = spawn_blocking(move || work(mirror, remote)).await;
        done.unwrap_or_else(|panic| {
            Err(Error::Damaged {
                remote: shown,
                reason: said(&panic.to_string()),
            })
        })
    }
}

struct CancelOnDrop(Arc<Attempt>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The remote and the ref that a source follows.
fn parse(source: &Source) -> Result<(Address, String), Error> {
    let address = Address::parse(&source.url)?;
    let wanted = match source.branch.as_deref() {
        None => "HEAD".to_owned(),
        Some(branch) => format!(
            "refs/heads/{}",
            branch.strip_prefix("refs/heads/").unwrap_or(branch)
        ),
    };
    // The name goes into a refspec, where `:` and `*` mean something.
    if !git2::Reference::is_valid_name(&wanted) {
        return Err(Error::BadUrl {
            url: address.to_string(),
            reason: format!("'{}' is not a branch name", said(&wanted)),
        });
    }
    Ok((address, wanted))
}

/// Opens a mirror: exactly this folder, never one above it.
pub(super) fn open(path: &Path) -> Result<Repository, Error> {
    prepare();
    let flags = RepositoryOpenFlags::NO_SEARCH | RepositoryOpenFlags::BARE;
    let none: [&Path; 0] = [];
    Repository::open_ext(path, flags, none).map_err(|error| disk(path, &error))
}

fn open_or_make(path: &Path) -> Result<Repository, Error> {
    if path.exists() {
        if let Ok(repository) = open(path) {
            return Ok(repository);
        }
        // Half made by a killed process, or damaged: it is only a copy.
        std::fs::remove_dir_all(path).map_err(|error| Error::Disk {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    private_folder(path).map_err(|error| Error::Disk {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let mut options = RepositoryInitOptions::new();
    // No template: nothing of the machine's configuration, no sample hooks.
    options.bare(true).no_reinit(true).external_template(false);
    Repository::init_opts(path, &options).map_err(|error| disk(path, &error))
}

fn disk(path: &Path, error: &git2::Error) -> Error {
    Error::Disk {
        path: path.to_owned(),
        reason: said(error.message()),
    }
}

fn private_folder(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Removes packs that a killed process was still receiving.
fn sweep(folder: &Path) -> io::Result<()> {
    for mirror in std::fs::read_dir(folder)? {
        let Ok(packs) = std::fs::read_dir(mirror?.path().join("objects/pack")) else {
            continue;
        };
        for pack in packs {
            let pack = pack?;
            if pack.file_name().to_string_lossy().starts_with(HALF_PACK) {
                std::fs::remove_file(pack.path())?;
            }
        }
    }
    Ok(())
}

fn described(commit: &git2::Commit<'_>) -> Commit {
    let line = |bytes: &[u8], max| {
        let text = String::from_utf8_lossy(bytes);
        let clean: String = text.chars().filter(|c| !is_unprintable(*c)).collect();
        cut(clean.trim(), max)
    };
    let author = commit.author();
    let seconds = u64::try_from(author.when().seconds()).unwrap_or(0);
    Commit {
        id: commit.id().to_string(),
        subject: line(
            commit.summary_bytes().unwrap_or_default(),
            SUBJECT_MAX_CHARS,
        ),
        author: line(author.name_bytes(), AUTHOR_MAX_CHARS),
        at_ms: seconds.saturating_mul(1000),
    }
}
