//! Bytes to and from a remote, for libgit2: https through ureq and rustls, ssh through a child
//! process. `remote` makes an [`Attempt`] current on its thread and then calls libgit2, which calls
//! back here. It knows no objects and no mirrors, and retries nothing.

pub(super) mod https;
mod ssh;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use git2::transport::Transport;

pub use ssh::SshOptions;

use super::address::{Address, Kind};
use super::credentials::CredentialFile;
use super::error::{Error, said};

/// Most bytes of a remote's list of branches and tags: a hundred thousand refs need a tenth of it.
pub(super) const LISTING_MAX_BYTES: u64 = 64 << 20;
/// Most bytes of one pack; twice what a commit's files may have together.
pub(super) const PACK_MAX_BYTES: u64 = 2 << 30;

/// One conversation with one remote: what it needs, when it must end, and what went wrong in it.
pub(super) struct Attempt {
    pub(super) address: Address,
    pub(super) timeout: Duration,
    deadline: Mutex<Instant>,
    agent: ureq::Agent,
    credentials: CredentialFile,
    ssh: SshOptions,
    cancelled: AtomicBool,
    /// The first fault that a transport saw; libgit2 would only keep a text of it.
    fault: Mutex<Option<Error>>,
    child: Mutex<Option<Arc<ssh::Process>>>,
}

impl Attempt {
    pub(super) fn new(
        address: Address,
        timeout: Duration,
        agent: ureq::Agent,
        credentials: CredentialFile,
        ssh: SshOptions,
    ) -> Self {
        Self {
            address,
            timeout,
            deadline: Mutex::new(Instant::now() + timeout),
            agent,
            credentials,
            ssh,
            cancelled: AtomicBool::new(false),
            fault: Mutex::new(None),
            child: Mutex::new(None),
        }
    }

    /// Ends the conversation from another thread: the child is killed, loops stop at their next
    /// look, and sockets run into the deadline they were given.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if let Some(child) = self.lock_child().take() {
            child.kill();
        }
    }

    /// Whether whoever works on this must stop.
    pub(super) fn is_over(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst) || self.left().is_none()
    }

    /// Time left, if any.
    pub(super) fn left(&self) -> Option<Duration> {
        let left = self
            .lock_deadline()
            .saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// As [`Self::left`], never zero: ureq takes zero for "none".
    fn left_or_little(&self) -> Duration {
        self.left().unwrap_or(Duration::from_millis(1))
    }

    /// Something arrived. A path of this machine is copied whole, which may take long, and nobody
    /// there can make us wait by sending little: as long as it goes on, it may.
    pub(super) fn progressed(&self) {
        if self.address.is_local() {
            *self.lock_deadline() = Instant::now() + self.timeout;
        }
    }

    fn lock_deadline(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn timed_out(&self) -> Error {
        Error::TimedOut {
            remote: self.address.to_string(),
            after: self.timeout,
        }
    }

    fn unreachable(&self, reason: &str) -> Error {
        Error::Unreachable {
            remote: self.address.to_string(),
            reason: said(reason),
        }
    }

    fn denied(&self, reason: &str) -> Error {
        Error::Denied {
            remote: self.address.to_string(),
            reason: said(reason),
        }
    }

    fn not_a_repository(&self, reason: &str) -> Error {
        Error::NotARepository {
            remote: self.address.to_string(),
            reason: said(reason),
        }
    }

    fn too_big(&self, reason: &str) -> Error {
        Error::TooBig {
            what: self.address.to_string(),
            reason: said(reason),
        }
    }

    /// Keeps the first fault and gives libgit2 something to carry. The text has no zero byte:
    /// git2 aborts the process on one.
    fn failed(&self, error: Error) -> std::io::Error {
        let text = error.to_string().replace('\0', " ");
        self.lock_fault().get_or_insert(error);
        std::io::Error::other(text)
    }

    /// The fault a transport saw, if one did.
    pub(super) fn take_fault(&self) -> Option<Error> {
        self.lock_fault().take()
    }

    /// Lets [`Self::cancel`] kill the child; one that came too late is killed at once.
    fn adopt(&self, child: &Arc<ssh::Process>) {
        *self.lock_child() = Some(Arc::clone(child));
        if self.is_over() {
            self.cancel();
        }
    }

    fn lock_fault(&self) -> std::sync::MutexGuard<'_, Option<Error>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_child(&self) -> std::sync::MutexGuard<'_, Option<Arc<ssh::Process>>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    /// libgit2 makes transports on the thread that connects and hands them a URL only.
    static CURRENT: RefCell<Option<Arc<Attempt>>> = const { RefCell::new(None) };
}

/// Runs `work` with `attempt` as what this thread's transports belong to.
pub(super) fn with_attempt<T>(attempt: &Arc<Attempt>, work: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            CURRENT.with_borrow_mut(|current| *current = None);
        }
    }
    CURRENT.with_borrow_mut(|current| *current = Some(Arc::clone(attempt)));
    let _reset = Reset;
    work()
}

fn current() -> Result<Arc<Attempt>, git2::Error> {
    CURRENT
        .with_borrow(Clone::clone)
        .ok_or_else(|| git2::Error::from_str("no conversation is under way on this thread"))
}

/// Sets libgit2 up for this process, once; everything that opens a repository calls it first.
pub(super) fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Packs are checked when they arrive and zlib checks each object; hashing every blob again
        // on reading would cost a third of the time of making a build context.
        git2::opts::strict_hash_verification(false);
        register().expect("libgit2 takes transports and options before its first use");
    });
}

#[expect(
    unsafe_code,
    reason = "libgit2's transports and options are process-global and unsynchronised: they are set \
              inside a Once, before any repository or remote exists"
)]
fn register() -> Result<(), git2::Error> {
    use git2::ConfigLevel::{Global, ProgramData, System, XDG};
    // SAFETY: called from `prepare` only, see above; nothing else in the process calls libgit2.
    unsafe {
        for scheme in ["https", "http"] {
            git2::transport::register(scheme, |remote| {
                Transport::smart(remote, true, https::Https::new(current()?)?)
            })?;
        }
        git2::transport::register("ssh", |remote| {
            Transport::smart(remote, false, ssh::Ssh::new(current()?)?)
        })?;
        // Repositories of other users are read too: we read objects and refs, and never run what
        // their configuration names (hooks, filters, helpers), which is what the check is against.
        git2::opts::set_verify_owner_validation(false)?;
        // A machine's git configuration (`insteadOf`, proxies) does not change what is followed.
        for level in [ProgramData, System, XDG, Global] {
            git2::opts::set_search_path(level, "")?;
        }
    }
    Ok(())
}

/// What `https` and `ssh` were made for, or why libgit2 chose the wrong one.
fn wrong_transport(kind: &Kind) -> git2::Error {
    let wanted = match kind {
        Kind::Local(_) => "a path",
        Kind::Http(_) => "http",
        Kind::Ssh(_) => "ssh",
    };
    git2::Error::from_str(&format!("the transport is not the one for {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(url: &str) -> Attempt {
        let address = Address::parse(url).unwrap();
        let agent = https::agent(None).unwrap();
        let none = CredentialFile("/nowhere".into());
        Attempt::new(
            address,
            Duration::from_secs(3600),
            agent,
            none,
            SshOptions::default(),
        )
    }

    #[test]
    fn only_a_path_of_this_machine_gets_more_time_as_it_goes_on() {
        for (url, more) in [("/srv/x", true), ("https://a.example/x", false)] {
            let attempt = attempt(url);
            *attempt.lock_deadline() = Instant::now();
            assert!(attempt.is_over());
            attempt.progressed();
            assert_eq!(!attempt.is_over(), more, "{url}");
        }
    }
}
