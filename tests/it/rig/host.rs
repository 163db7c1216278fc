//! One host of a rig: its namespace, its Docker engine and its `viking host`. Starts, hurts and asks them;
//! judges nothing.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::net::{address, inside};
use super::process::{Daemon, LOOK, command, in_space};
use super::sweep::{in_one_of, kill_all, unmount_below};
use crate::e2e::docker::{Container, Docker};
use crate::e2e::http::fetch;

/// Names of hosts, in order.
const NAMES: [&str; 5] = ["alpha", "beta", "gamma", "delta", "epsilon"];

/// Where every host's API listens, in its own namespace.
const API: &str = "127.0.0.1:8791";

/// Longest wait for a daemon to answer.
const ANSWERS: Duration = Duration::from_secs(60);

/// Longest wait for one that was told to end.
const ENDS: Duration = Duration::from_secs(30);

/// Every container of viking's.
const LABEL: &str = "viking.cluster";

/// A machine with an engine and viking.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: &'static str,
    pub(crate) address: String,
    pub(crate) docker: Docker,
    pub(super) space: String,
    dir: PathBuf,
    etcd: String,
    engine: Option<Daemon>,
    viking: Option<Daemon>,
}

impl Host {
    /// A machine on which nothing runs yet.
    pub(super) fn new(n: usize, space: String, rig: &Path, etcd: &str) -> Self {
        let name = NAMES[n];
        let dir = rig.join(name);
        std::fs::create_dir(&dir).expect("a folder is made");
        std::fs::write(dir.join("daemon.json"), "{}").expect("a file is written");
        let docker = Docker::at(format!("unix://{}", dir.join("docker.sock").display()));
        Self {
            name,
            address: address(n),
            docker,
            space,
            dir,
            etcd: etcd.to_owned(),
            engine: None,
            viking: None,
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Starts the engine and waits until it answers. Where layers cannot be stacked they are copied.
    pub(crate) fn start_engine(&mut self, live_restore: bool) {
        let known = std::fs::read_to_string(self.dir.join("driver"));
        let drivers = known.map_or(vec!["overlay2".into(), "vfs".into()], |known| vec![known]);
        for driver in drivers {
            if self.try_engine(&driver, live_restore) {
                std::fs::write(self.dir.join("driver"), driver).expect("a file is written");
                return;
            }
        }
        panic!("{}: no engine\n{}", self.name, self.log("dockerd.log"));
    }

    fn try_engine(&mut self, driver: &str, live_restore: bool) -> bool {
        let mut words = in_space(&self.space, "dockerd").to_vec();
        words.extend([
            format!("--host=unix://{}", self.path("docker.sock")),
            format!("--config-file={}", self.path("daemon.json")),
            format!("--data-root={}", self.path("engine")),
            format!("--exec-root={}", self.path("exec")),
            format!("--pidfile={}", self.path("docker.pid")),
            format!("--storage-driver={driver}"),
            format!("--live-restore={live_restore}"),
            // By this the processes of its containers are found.
            format!("--cgroup-parent=/{}", self.space),
            "--exec-opt=native.cgroupdriver=cgroupfs".into(),
        ]);
        let mut engine = Daemon::start(&words, &[], &self.dir.join("dockerd.log"));
        let deadline = Instant::now() + ANSWERS;
        while self
            .docker
            .try_run(&["version", "--format", "{{.Server.Version}}"])
            .is_empty()
        {
            if engine.ended().is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "{}", self.log("dockerd.log"));
            std::thread::sleep(LOOK);
        }
        self.engine = Some(engine);
        true
    }

    /// Ends the engine as `kill -9` does.
    pub(crate) fn kill_engine(&mut self) {
        self.engine.take().expect("the engine runs").kill();
    }

    /// Ends the engine in order; without live-restore its containers with it.
    pub(crate) fn stop_engine(&mut self) {
        let mut engine = self.engine.take().expect("the engine runs");
        engine.signal("-TERM");
        engine.wait(ENDS);
    }

    /// Starts `viking host`; does not wait for anything.
    pub(crate) fn start_viking(&mut self) {
        assert!(self.viking.is_none(), "{} runs already", self.name);
        let mut words = in_space(&self.space, env!("CARGO_BIN_EXE_viking")).to_vec();
        let flags = [
            ("--api", API),
            ("--config", "/dev/null"),
            ("--data-dir", &self.path("data")),
            ("--docker", &format!("unix://{}", self.path("docker.sock"))),
            ("--host-name", self.name),
            ("--address", &self.address),
            ("--registry-image", "viking/registry:2"),
            ("--etcd", &self.etcd),
        ];
        words.push("host".into());
        words.extend(
            flags
                .iter()
                .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]),
        );
        words.push("--insecure-etcd".into());
        let log = self.dir.join("viking.log");
        self.viking = Some(Daemon::start(&words, &[], &log));
    }

    /// `kill -9`.
    pub(crate) fn kill_viking(&mut self) {
        self.viking.take().expect("viking runs").kill();
    }

    /// SIGTERM, without waiting for the end.
    pub(crate) fn signal_viking(&self, signal: &str) {
        self.viking.as_ref().expect("viking runs").signal(signal);
    }

    /// Waits until it has ended in order.
    pub(crate) fn viking_ends(&mut self) {
        let mut viking = self.viking.take().expect("viking was started");
        let status = viking.wait(ENDS);
        assert!(
            status.success(),
            "{}: {status}\n{}",
            self.name,
            self.log("viking.log")
        );
    }

    /// As a machine that loses its power: every process of it is gone at once.
    pub(crate) fn power_off(&mut self) {
        let space = self.space.clone();
        let groups = format!("/{space}/");
        kill_all(|pid| {
            let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            own.contains(&groups) || in_one_of(pid, std::slice::from_ref(&space))
        });
        drop((self.viking.take(), self.engine.take()));
        unmount_below(&self.dir);
        // In memory on a real machine, so that no process number in it outlives the power.
        std::fs::remove_dir_all(self.dir.join("exec")).expect("the engine had it");
        std::fs::remove_file(self.dir.join("docker.pid")).ok();
    }

    /// Asks the API.
    pub(crate) fn get(&self, path: &str) -> Result<Value, String> {
        let text = self.fetch(&format!("http://{API}{path}"))?;
        serde_json::from_str(&text).map_err(|error| format!("{path}: {error}: {text}"))
    }

    /// A page, as this host sees it.
    pub(crate) fn fetch(&self, url: &str) -> Result<String, String> {
        inside(&self.space, || fetch(url))
    }

    /// Runs a command of the CLI on this host.
    pub(crate) fn viking(&self, args: &[&str]) -> Output {
        let [enter, space, program] = in_space(&self.space, env!("CARGO_BIN_EXE_viking"));
        let mut command = command(&enter);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("VIKING_")) {
            command.env_remove(name);
        }
        let command = command
            .args([&space, &program])
            .args(args)
            .args(["--api", API]);
        command.output().expect("the binary runs")
    }

    /// Containers of viking's, whatever their state.
    pub(crate) fn containers(&self) -> Vec<Container> {
        self.docker.containers(LABEL)
    }

    /// Names of viking's volumes.
    pub(crate) fn volumes(&self) -> Vec<String> {
        self.docker.labelled("volume", LABEL)
    }

    /// The end of a log.
    pub(super) fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(super::LOG_LINES)..].join("\n")
    }
}
