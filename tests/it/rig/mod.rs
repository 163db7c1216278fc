//! Several real hosts on one machine: network namespaces on a bridge, each with a Docker engine and a
//! `viking host` of its own, and an etcd of three members across them. What only several machines can
//! show is shown here, after every fault with the same [`audit`]; everything weaker has a cheaper test.
//!
//! Needs root, `ip`, `nsenter`, `iptables`, `dockerd` and `etcd` (`tests/run.sh` installs them), and an engine
//! with the images of `deploy/base-images.sh`. Fails where they are missing. The binary is cargo's.

mod audit;
mod cases;
mod etcd;
mod figures;
mod host;
mod load;
mod net;
mod places;
mod process;
mod stack;
mod sweep;
mod watch;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::etcd::Etcd;
use self::host::Host;
use self::net::Network;
use crate::e2e::docker::Docker;
use crate::e2e::repo::Repo;

/// Longest wait for what a test does not measure.
const LONG: Duration = Duration::from_secs(90);

/// Lines of each log that a failing test prints.
const LOG_LINES: usize = 40;

/// What a leader's engine needs to build, and any engine to run what nobody built.
const IMAGES: [&str; 4] = [
    "viking/registry:2",
    "viking/busybox:1",
    "viking/node:1",
    "viking/redis:1",
];

/// Hosts that are machines of their own, as far as anything that runs there can tell.
pub(crate) struct Rig {
    name: String,
    dir: PathBuf,
    network: Network,
    pub(crate) hosts: Vec<Host>,
    pub(crate) etcd: Etcd,
    /// Hosts that the others cannot reach: those are not asked.
    away: BTreeSet<usize>,
    volumes: audit::Volumes,
}

impl Rig {
    /// Makes the machines and waits until viking answers on all of them.
    pub(crate) fn start(count: usize) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let started = Instant::now();
        sweep::check_machine();
        sweep::leftovers();
        let name = sweep::name(MADE.fetch_add(1, Ordering::SeqCst));
        let dir = sweep::claim(&name);
        // From here on a panic clears everything away.
        let broom = Broom(name.clone());
        let images = dir.join("images.tar");
        let tar = images.display().to_string();
        let save = [&["image", "save", "--output", &tar][..], &IMAGES].concat();
        Docker::of_tests().run(&save);
        let network = Network::new(&name, count);
        let members = count.min(3);
        let addresses = Etcd::addresses(members);
        let host = |n| Host::new(n, network.space(n), &dir, &addresses);
        let mut hosts: Vec<Host> = (0..count).map(host).collect();
        let etcd = std::thread::scope(|scope| {
            for host in &mut hosts {
                let tar = &tar;
                scope.spawn(move || {
                    host.start_engine(true);
                    host.docker
                        .run(&["image", "load", "--quiet", "--input", tar]);
                });
            }
            Etcd::start(&network, members, &dir)
        });
        std::fs::remove_file(&images).expect("the archive was there");
        hosts.iter_mut().for_each(Host::start_viking);
        std::mem::forget(broom);
        let rig = Self {
            name,
            dir,
            network,
            hosts,
            etcd,
            away: BTreeSet::new(),
            volumes: audit::Volumes::default(),
        };
        rig.until("all hosts are known to each other", || rig.all_ready());
        rig.tell("started", started.elapsed());
        rig
    }

    fn all_ready(&self) -> Result<(), String> {
        for host in &self.hosts {
            let list = host.get("/v1/hosts")?;
            let rows = list["items"].as_array().cloned().unwrap_or_default();
            let ready = rows.iter().filter(|row| row["alive"] == true).count();
            if ready != self.hosts.len() {
                return Err(format!("{}: {list}", host.name));
            }
        }
        Ok(())
    }

    /// A repository that all hosts can read.
    pub(crate) fn repo(&self, name: &str) -> Repo {
        Repo::new(self.dir.join("repositories").join(name))
    }

    /// Says a measured time, also when nobody asked for the output of tests that pass.
    pub(crate) fn tell(&self, what: &str, took: Duration) {
        let line = format!("rig: {what}: {:.2} s\n", took.as_secs_f64());
        std::io::stderr().write_all(line.as_bytes()).ok();
    }

    /// Pulls a host's cable.
    pub(crate) fn cut(&mut self, n: usize) {
        self.away.insert(n);
        self.network.cut(n);
    }

    /// Plugs it in again.
    pub(crate) fn heal(&mut self, n: usize) {
        self.network.heal(n);
        self.away.remove(&n);
    }

    /// Stops a host's viking with SIGSTOP: it answers nobody.
    pub(crate) fn freeze(&mut self, n: usize) {
        self.away.insert(n);
        self.hosts[n].signal_viking("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&mut self, n: usize) {
        self.hosts[n].signal_viking("-CONT");
        self.away.remove(&n);
    }

    /// Asks any host that answers.
    pub(crate) fn get(&self, path: &str) -> Result<Value, String> {
        let mut last = "no host".to_owned();
        for (n, host) in self.hosts.iter().enumerate() {
            if self.away.contains(&n) {
                continue;
            }
            match host.get(path) {
                Ok(value) => return Ok(value),
                Err(error) => last = format!("{}: {error}", host.name),
            }
        }
        Err(last)
    }

    /// Runs a command on the first host, which must succeed.
    pub(crate) fn must(&self, args: &[&str]) -> String {
        self.must_on(0, args)
    }

    /// Runs a command on a host, which must succeed.
    pub(crate) fn must_on(&self, n: usize, args: &[&str]) -> String {
        let output = self.hosts[n].viking(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "viking {}: {said}\n{}",
            args.join(" "),
            self.report()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until it is so; gives how long that took.
    pub(crate) fn until<T>(&self, what: &str, look: impl FnMut() -> Result<T, String>) -> T {
        self.within(LONG, what, look).0
    }

    /// Waits until it is so and says how long that took, which must be within a limit.
    pub(crate) fn within<T>(
        &self,
        limit: Duration,
        what: &str,
        mut look: impl FnMut() -> Result<T, String>,
    ) -> (T, Duration) {
        let started = Instant::now();
        loop {
            let found = match look() {
                Ok(found) => return (found, started.elapsed()),
                Err(found) => found,
            };
            if started.elapsed() > limit {
                panic!(
                    "waited {limit:?} in vain until {what}; last: {found}\n{}",
                    self.report()
                );
            }
            std::thread::sleep(process::LOOK);
        }
    }

    /// Everything that helps to understand a failure.
    fn report(&self) -> String {
        let mut text = String::new();
        for host in &self.hosts {
            let status = host.viking(&["status", "-o", "wide"]);
            let said = [status.stdout, status.stderr].concat();
            let containers = host.docker.try_run(&["ps", "--all"]);
            text += &format!(
                "--- {}: status\n{}\n--- containers\n{containers}\n--- log\n{}\n",
                host.name,
                String::from_utf8_lossy(&said),
                host.log("viking.log")
            );
        }
        text
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::env::var_os("VIKING_TEST_KEEP").is_some() && std::thread::panicking() {
            // Its owner is dead when somebody looks at it: the next rig sweeps it away.
            eprintln!("kept: {}", self.dir.display());
            return;
        }
        sweep::clear(&self.name);
    }
}

/// Clears away a rig that is not whole yet.
struct Broom(String);

impl Drop for Broom {
    fn drop(&mut self) {
        sweep::clear(&self.0);
    }
}
