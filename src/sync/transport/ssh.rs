//! The user's own `ssh` as a child process, so that keys, agent, known hosts and configuration apply.
//! Called by libgit2 through `transport`. It never asks anybody anything, never accepts an unknown
//! host key by itself, and what `ssh` says on its standard error is the error people see.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream};

use super::super::address::{Kind, SshTarget};
use super::super::error::Error;
use super::{Attempt, LISTING_MAX_BYTES, PACK_MAX_BYTES, wrong_transport};

/// What of the child's standard error is kept.
const STDERR_MAX_BYTES: usize = 8 * 1024;
/// How long an ended child may take to say its last words and exit.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Upper bound of `ssh`'s own connect timeout; the deadline ends it anyway.
const CONNECT_MAX_S: u64 = 30;

/// What the operator sets for `ssh` beyond the user's own configuration.
#[derive(Debug, Clone, Default)]
pub struct SshOptions {
    /// Only this private key.
    pub identity: Option<PathBuf>,
    /// Host keys that are trusted, instead of the user's.
    pub known_hosts: Option<PathBuf>,
}

/// One conversation.
pub(super) struct Ssh {
    attempt: Arc<Attempt>,
    target: SshTarget,
}

impl Ssh {
    pub(super) fn new(attempt: Arc<Attempt>) -> Result<Self, git2::Error> {
        let Kind::Ssh(target) = &attempt.address.kind else {
            return Err(wrong_transport(&attempt.address.kind));
        };
        let target = target.clone();
        Ok(Self { attempt, target })
    }
}

impl SmartSubtransport for Ssh {
    fn action(
        &self,
        _url: &str,
        service: Service,
    ) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        match service {
            Service::UploadPackLs | Service::UploadPack => {
                let pipe = Pipe::open(Arc::clone(&self.attempt), &self.target)
                    .map_err(|error| git2::Error::from_str(&error.to_string()))?;
                Ok(Box::new(pipe))
            }
            Service::ReceivePackLs | Service::ReceivePack => {
                Err(git2::Error::from_str("nothing is ever pushed"))
            }
        }
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

/// The child, killable from another thread.
pub(super) struct Process {
    child: Mutex<Child>,
    said: Arc<LastWords>,
}

#[derive(Default)]
struct LastWords {
    /// What was said, and whether that was all.
    text: Mutex<(Vec<u8>, bool)>,
    ended: Condvar,
}

impl Process {
    pub(super) fn kill(&self) {
        // It fails only when the child has exited already.
        self.lock().kill().unwrap_or(());
    }

    /// Kills and reaps, so that nothing is left behind.
    fn end(&self) -> Option<ExitStatus> {
        let mut child = self.lock();
        child.kill().unwrap_or(());
        child.wait().ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Standard error, waiting a moment for its end: a proxy the user configured may hold it open.
    fn last_words(&self) -> String {
        let text = self
            .said
            .text
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (text, _) = self
            .said
            .ended
            .wait_timeout_while(text, LAST_WORDS, |(_, ended)| !*ended)
            .unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text.0).into_owned()
    }
}

/// Both directions of the child.
struct Pipe {
    attempt: Arc<Attempt>,
    process: Arc<Process>,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// Bytes that may still come: the list first, the pack once something was asked for.
    budget: u64,
}

impl Pipe {
    fn open(attempt: Arc<Attempt>, target: &SshTarget) -> io::Result<Self> {
        let connect_s = attempt.left_or_little().as_secs().clamp(1, CONNECT_MAX_S);
        let mut child = Command::new("ssh")
            .args(arguments(target, &attempt.ssh, connect_s))
            // Its messages are matched below.
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                attempt.failed(attempt.unreachable(&format!(
                    "the program 'ssh' does not start ({error}); install an ssh client"
                )))
            })?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let said = listen(child.stderr.take())?;
        let process = Arc::new(Process {
            child: Mutex::new(child),
            said,
        });
        attempt.adopt(&process);
        Ok(Self {
            attempt,
            process,
            stdin: stdin.expect("piped above"),
            stdout: stdout.expect("piped above"),
            budget: LISTING_MAX_BYTES,
        })
    }

    /// Why the child ended.
    fn fault(&self) -> Error {
        if self.attempt.is_over() {
            return self.attempt.timed_out();
        }
        let words = self.process.last_words();
        let status = self.process.end();
        explain(&self.attempt, &words, status)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _status = self.process.end();
    }
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.stdout.read(into)?;
        if count == 0 {
            return Err(self.attempt.failed(self.fault()));
        }
        self.budget = match self.budget.checked_sub(count as u64) {
            Some(left) => left,
            None => {
                let error = self
                    .attempt
                    .too_big("it sends more than the limit of bytes");
                return Err(self.attempt.failed(error));
            }
        };
        Ok(count)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.budget = PACK_MAX_BYTES;
        self.stdin
            .write(bytes)
            .map_err(|_| self.attempt.failed(self.fault()))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdin.flush()
    }
}

/// Reads standard error to its end on a thread of its own, keeping the first few kilobytes.
fn listen(stderr: Option<impl Read + Send + 'static>) -> io::Result<Arc<LastWords>> {
    let words = Arc::new(LastWords::default());
    let mut stderr = stderr.expect("piped by the caller");
    let ear = Arc::clone(&words);
    std::thread::Builder::new()
        .name("ssh-stderr".to_owned())
        .spawn(move || {
            let mut piece = [0; 1024];
            while let Ok(count @ 1..) = stderr.read(&mut piece) {
                let mut text = ear.text.lock().unwrap_or_else(PoisonError::into_inner);
                let room = STDERR_MAX_BYTES.saturating_sub(text.0.len());
                text.0.extend_from_slice(&piece[..count.min(room)]);
            }
            ear.text.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
            ear.ended.notify_all();
        })?;
    Ok(words)
}

/// What `ssh` is called with. The last argument is the only text of ours that a shell reads, on the
/// other machine.
fn arguments(target: &SshTarget, options: &SshOptions, connect_s: u64) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["-T".into(), "-x".into(), "-a".into()];
    let mut option = |text: String| args.extend(["-o".into(), OsString::from(text)]);
    option("BatchMode=yes".to_owned());
    option(format!("ConnectTimeout={connect_s}"));
    option("ClearAllForwardings=yes".to_owned());
    option("PermitLocalCommand=no".to_owned());
    // A shared connection may be used, not founded: its process would outlive this one.
    option("ControlMaster=no".to_owned());
    if let Some(path) = &options.identity {
        option("IdentitiesOnly=yes".to_owned());
        option(format!("IdentityFile={}", quoted_path(path)));
    }
    if let Some(path) = &options.known_hosts {
        option(format!("UserKnownHostsFile={}", quoted_path(path)));
    }
    if let Some(port) = target.port {
        args.extend(["-p".into(), port.to_string().into()]);
    }
    let login = match &target.user {
        Some(user) => format!("{user}@{}", target.host),
        None => target.host.clone(),
    };
    args.push("--".into());
    args.push(login.into());
    args.push(format!("git-upload-pack {}", quoted_for_shell(&target.path)).into());
    args
}

/// As `ssh`'s configuration syntax wants a path with spaces.
fn quoted_path(path: &std::path::Path) -> String {
    format!("\"{}\"", path.display())
}

/// One word for any shell, the C shell's `!` included.
fn quoted_for_shell(path: &str) -> String {
    let mut word = String::from("'");
    for c in path.chars() {
        match c {
            '\'' | '!' => {
                word.push_str("'\\");
                word.push(c);
                word.push('\'');
            }
            _ => word.push(c),
        }
    }
    word.push('\'');
    word
}

/// Sorts by what `ssh` and `git-upload-pack` say; their words are kept.
fn explain(attempt: &Attempt, words: &str, status: Option<ExitStatus>) -> Error {
    let lower = words.to_lowercase();
    let has = |needles: &[&str]| needles.iter().any(|needle| lower.contains(needle));
    if has(&[
        "host key verification failed",
        "host identification has changed",
    ]) {
        return attempt.denied(&format!(
            "its host key is not the trusted one ({words}); check it with the server's owner, \
             then put it into known_hosts"
        ));
    }
    if has(&["permission denied", "too many authentication failures"]) {
        return attempt.denied(&format!(
            "no key of this user was accepted ({words}); add the public key on the server"
        ));
    }
    if has(&[
        "not appear to be a git repository",
        "not found",
        "does not exist",
        "no such file",
    ]) {
        return attempt.not_a_repository(words);
    }
    match status.and_then(|status| status.code()) {
        Some(0) | None if words.trim().is_empty() => {
            attempt.unreachable("the connection ended in the middle")
        }
        _ if words.trim().is_empty() => attempt.unreachable("ssh ended without a word"),
        _ => attempt.unreachable(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> SshTarget {
        SshTarget {
            user: Some("git".to_owned()),
            host: "example.com".to_owned(),
            port: Some(2222),
            path: path.to_owned(),
        }
    }

    #[test]
    fn nothing_is_asked_and_options_end_before_the_host() {
        let options = SshOptions {
            identity: Some("/keys/a b".into()),
            known_hosts: None,
        };
        let args = arguments(&target("/srv/a.git"), &options, 7);
        let args: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
        assert!(args.contains(&"BatchMode=yes"));
        assert!(args.contains(&"ConnectTimeout=7"));
        assert!(args.contains(&"IdentityFile=\"/keys/a b\""));
        assert_eq!(
            args[args.len() - 5..],
            [
                "-p",
                "2222",
                "--",
                "git@example.com",
                "git-upload-pack '/srv/a.git'"
            ]
        );
    }

    #[test]
    fn a_path_stays_one_word_for_the_other_shell() {
        for path in ["/a b", "/it's", "/$(id)`id`", "/a!b;c", "/a\\'b", "''"] {
            let word = quoted_for_shell(path);
            let words = shell_words::split(&word).expect("closed quotes");
            assert_eq!(words, [path], "{word}");
        }
    }
}
