//! The mirrors: one bare repository per remote in the data directory, and what the leader asks of
//! them. Everything that waits for a remote has a deadline and a bounded number of threads. There is
//! never a work tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::address::Address;
use super::credentials::CredentialFile;
use super::error::{Error, cut, is_unprintable, said};
use super::transport::{Attempt, SshOptions, https, prepare};
use super::{history, mirror, remote, tree};
use crate::model::release::{Commit, Source};
use crate::model::tree::Tree;

/// How long one conversation with a remote may take when nobody says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// Conversations at once, those given up but not yet ended included: hanging remotes, of which each
/// holds one place, cost at most this many threads.
const REMOTES_AT_ONCE: usize = 8;
/// Fewest digits that are taken for the beginning of a commit's id.
const ID_DIGITS_MIN: usize = 4;
/// Longest subject and author kept.
const SUBJECT_MAX_CHARS: usize = 200;
const AUTHOR_MAX_CHARS: usize = 100;

/// What the operator may set.
#[derive(Debug, Clone)]
pub struct Options {
    /// Deadline of one conversation; with a path of this machine, of one without progress.
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

/// A mirror whose remote was asked within this time is in use: reading a commit takes seconds.
const IN_USE: Duration = Duration::from_secs(600);

struct Shared {
    folder: PathBuf,
    options: Options,
    agent: ureq::Agent,
    credentials: CredentialFile,
    remotes: Arc<Semaphore>,
    /// One conversation at a time with one remote, until its thread has ended.
    talking: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// When a remote was asked last: whoever did goes on to read its mirror.
    asked: Mutex<BTreeMap<String, Instant>>,
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
        mirror::private_folder(&folder)
            .and_then(|()| mirror::sweep(&folder))
            .map_err(|error| mirror::disk(&folder, &error))?;
        let ca_file = options.ca_file.as_deref();
        let agent = https::agent(ca_file)
            .map_err(|error| mirror::disk(ca_file.unwrap_or(&folder), &error))?;
        Ok(Self(Arc::new(Shared {
            folder,
            options,
            agent,
            credentials: CredentialFile(data_dir.join("credentials")),
            remotes: Arc::new(Semaphore::new(REMOTES_AT_ONCE)),
            talking: Mutex::default(),
            asked: Mutex::default(),
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
        let head = head.to_owned();
        self.ask(address, move |attempt| {
            mirror::with_fresh(&path, |mirror| {
                if remote::has(mirror, &head) {
                    remote::keep(mirror, &head)?;
                    return Ok(head.clone());
                }
                remote::fetch(attempt, mirror, &wanted)
            })
        })
        .await
    }

    /// The commit that people mean: without a word the one that the source follows, else a branch's, or
    /// that with an id of which the word is the beginning, if it is here. Fetches it.
    ///
    /// # Errors
    /// As [`Self::head`] and [`Self::fetch`].
    pub async fn find(&self, source: &Source, word: Option<&str>) -> Result<String, Error> {
        let head = self.head(source).await?;
        let head = self.fetch(source, &head).await?;
        let Some(word) = word else {
            return Ok(head);
        };
        let asked = Source {
            branch: Some(word.to_owned()),
            ..source.clone()
        };
        let missing = match self.head(&asked).await {
            Ok(head) => return self.fetch(&asked, &head).await,
            Err(missing) => missing,
        };
        let hex = word.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex || word.len() < ID_DIGITS_MIN {
            return Err(missing);
        }
        let prefix = word.to_owned();
        let found = self.read(source, move |mirror, _| {
            let repository = mirror::open(&mirror)?;
            let commit = repository.find_commit_by_prefix(&prefix);
            Ok(commit.ok().map(|commit| commit.id().to_string()))
        });
        found.await?.ok_or(missing)
    }

    /// A fetched commit as people want to see it.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not here.
    pub async fn commit(&self, source: &Source, id: &str) -> Result<Commit, Error> {
        let id = id.to_owned();
        self.read(source, move |mirror, remote| {
            let repository = mirror::open(&mirror)?;
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
            Ok(history::is_rewritten(&mirror::open(&mirror)?, &old, &new))
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
        self.ask(address, move |attempt| {
            remote::deepen(attempt, &mirror::open(&path)?, &wanted)
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

    /// Removes the mirrors of remotes that no source has, and what the others hold besides the
    /// commits `wanted`, by source. Mirrors in use are left for the next time: somebody may be adding
    /// a source, which none has yet.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub async fn tidy(&self, wanted: &[(Source, Vec<String>)]) -> Result<(), Error> {
        let mut keep: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (source, commits) in wanted {
            // A source that cannot be read has no mirror.
            if let Ok((address, _)) = parse(source) {
                let kept = keep.entry(address.folder()).or_default();
                kept.extend(commits.iter().cloned());
            }
        }
        let mirrors = self.clone();
        let work = move || mirrors.tidy_all(&keep);
        spawn_blocking(work).await.unwrap_or_else(|panic| {
            Err(Error::Disk {
                path: self.0.folder.clone(),
                reason: said(&panic.to_string()),
            })
        })
    }

    fn tidy_all(&self, keep: &BTreeMap<String, BTreeSet<String>>) -> Result<(), Error> {
        for name in mirror::names(&self.0.folder)? {
            let turn = self.turn(&name);
            let Ok(_turn) = turn.try_lock() else { continue };
            if self.is_in_use(&name) {
                continue;
            }
            let path = self.0.folder.join(&name);
            match keep.get(&name) {
                Some(wanted) if path.exists() => mirror::tidy(&path, wanted)?,
                Some(_) => {}
                None => mirror::forget(&path)?,
            }
        }
        Ok(())
    }

    /// Whether a remote was asked a short while ago.
    fn is_in_use(&self, folder: &str) -> bool {
        let asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get(folder).is_some_and(|at| at.elapsed() < IN_USE)
    }

    fn path(&self, address: &Address) -> PathBuf {
        self.0.folder.join(address.folder())
    }

    fn turn(&self, folder: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self
            .0
            .talking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(folder.to_owned()).or_default())
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

    /// Runs `talk` on a blocking thread under the deadline, when it is this remote's turn. When the
    /// deadline passes or the caller goes away, the conversation is cancelled; its turn and its place
    /// are free once its thread has ended.
    async fn ask<T, F>(&self, address: Address, talk: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Attempt>) -> Result<T, Error> + Send + 'static,
    {
        let folder = address.folder();
        let turn = self.turn(&folder);
        {
            let mut asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.insert(folder, Instant::now());
        }
        let attempt = Arc::new(self.attempt(address));
        let _cancel = CancelOnDrop(Arc::clone(&attempt));
        let places = Arc::clone(&self.0.remotes);
        let mine = Arc::clone(&attempt);
        let answer = async move {
            // The turn first: whoever waits behind a hanging remote holds no place.
            let turn = turn.lock_owned().await;
            let place = places.acquire_owned().await.expect("never closed");
            spawn_blocking(move || {
                let _held = (turn, place);
                talk(&mine)
            })
            .await
        };
        tokio::select! {
            answer = answer => answer.unwrap_or_else(|panic| {
                Err(Error::Damaged {
                    remote: attempt.address.to_string(),
                    reason: said(&panic.to_string()),
                })
            }),
            () = over(&attempt) => Err(attempt.timed_out()),
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

/// Returns when the deadline has passed, which may move.
async fn over(attempt: &Attempt) {
    while let Some(left) = attempt.left() {
        tokio::time::sleep(left).await;
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
