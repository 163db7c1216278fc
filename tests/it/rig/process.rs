//! Processes of a rig: commands that are run to their end, and daemons in a host's namespace that end with
//! their owner. Used by the rig's parts; knows nothing of viking.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt as _;

use super::sweep::NETNS;

/// Between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// A command that finds what is installed for root only.
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    command.stdin(Stdio::null());
    command
}

/// The command line that runs a program inside a namespace. Not `ip netns exec`, which hides the
/// cgroups that engines need.
pub(super) fn in_space(space: &str, program: &str) -> [String; 3] {
    [
        "nsenter".into(),
        format!("--net={NETNS}/{space}"),
        program.into(),
    ]
}

/// Runs a command and gives what it printed.
pub(super) fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = command(program)
        .args(args)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {said}", args.join(" ")))
}

/// Runs a command that must succeed.
pub(super) fn must(program: &str, args: &[&str]) -> String {
    run(program, args).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a command whose end does not matter.
pub(super) fn try_run(program: &str, args: &[&str]) {
    run(program, args).ok();
}

/// A process that runs until it is told otherwise.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts one; its output goes to the end of `log`.
    pub(super) fn start(words: &[String], env: &[(&str, &str)], log: &Path) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log");
        let (program, args) = words.split_first().expect("a program");
        let mut command = command(program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("VIKING_")) {
            command.env_remove(name);
        }
        let child = command
            .args(args)
            .envs(env.iter().copied())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            // Ctrl-C is for the test, which then ends these in order.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        Self { child }
    }

    pub(super) fn signal(&self, signal: &str) {
        must("kill", &[signal, &self.child.id().to_string()]);
    }

    /// Whether it has ended.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Waits until it has ended.
    pub(super) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "it has not ended in {limit:?}");
            std::thread::sleep(LOOK);
        }
    }

    /// `kill -9`, and its burial.
    pub(super) fn kill(mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
