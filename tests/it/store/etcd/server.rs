//! Real etcds for tests: one or three members on free ports of this machine, each a child process
//! that ends with its test, whatever ends that. Ready when it says so, never after a wait.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use viking::store::Store;
use viking::store::etcd::{EtcdStore, Options};

/// Longest wait for members to be ready; they take half a second.
const READY: Duration = Duration::from_secs(30);

/// A port may be taken between its choice and its use.
const STARTS: usize = 3;

/// Starts a command and ends it as soon as its own input ends: also when the test is killed.
const GUARD: &str = r#""$@" </dev/null & echo $!; cat >/dev/null; kill -9 $! 2>/dev/null; wait"#;

/// Members that know one another.
pub(crate) struct Etcd {
    pub(crate) members: Vec<Member>,
    pub(crate) dir: tempfile::TempDir,
}

/// One process.
pub(crate) struct Member {
    pub(crate) endpoint: String,
    command: Vec<String>,
    log: PathBuf,
    process: Option<Process>,
}

struct Process {
    guard: Child,
    pid: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        self.guard.wait().ok();
    }
}

impl Process {
    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid]).status();
        assert!(sent.expect("kill runs").success(), "kill {signal}");
    }

    /// Whether none of its threads runs any more: a signal takes its time.
    fn stands_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).expect("it runs");
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // After the name, which is in parentheses and may hold anything.
            stat.rsplit(") ")
                .next()
                .is_none_or(|rest| rest.starts_with('T'))
        })
    }
}

impl Member {
    /// One that does not run yet: its command becomes etcd, and its clients find it at `endpoint`.
    pub(crate) fn new(endpoint: String, command: Vec<String>, log: PathBuf) -> Self {
        Self {
            endpoint,
            command,
            log,
            process: None,
        }
    }

    pub(crate) fn start(&mut self) {
        assert!(
            Command::new("etcd").arg("--version").output().is_ok(),
            "etcd is not installed; tests/run.sh installs it (Debian: apt-get install etcd-server)"
        );
        let log = std::fs::File::create(&self.log).expect("a log");
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .args(&self.command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("sh runs");
        let mut pid = String::new();
        let stdout = guard.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut pid).expect("a line");
        let pid = pid.trim().to_owned();
        self.process = Some(Process { guard, pid });
    }

    /// As a machine that loses its power.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("runs").signal("-KILL");
    }

    /// As a machine that stands still.
    pub(crate) fn freeze(&self) {
        let process = self.process.as_ref().expect("runs");
        process.signal("-STOP");
        while !process.stands_still() {
            std::thread::yield_now();
        }
    }

    pub(crate) fn thaw(&self) {
        self.process.as_ref().expect("runs").signal("-CONT");
    }

    /// What it complained of.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn healthy(&self) -> bool {
        let asked = reqwest::get(format!("{}/health", self.endpoint)).await;
        match asked {
            Ok(answer) => answer
                .text()
                .await
                .is_ok_and(|text| text.contains("\"true\"")),
            Err(_) => false,
        }
    }

    /// Waits until it answers; false when it has ended instead.
    pub(crate) async fn ready(&mut self) -> bool {
        let until = Instant::now() + READY;
        loop {
            if self.healthy().await {
                return true;
            }
            let log = self.log();
            if log.contains("address already in use") {
                return false;
            }
            assert!(Instant::now() < until, "etcd is not ready: {log}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// As many ports as wanted, free a moment ago.
pub(crate) fn ports(count: usize) -> Vec<u16> {
    let listen = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let held: Vec<TcpListener> = (0..count).map(|_| listen()).collect();
    let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
    held.iter().map(port).collect()
}

impl Etcd {
    /// Starts members and waits until each of them answers.
    pub(crate) async fn start(count: usize) -> Self {
        for _ in 0..STARTS {
            let mut etcd = Self::prepare(count, "http", &[]);
            etcd.members.iter_mut().for_each(Member::start);
            let mut ready = true;
            for member in &mut etcd.members {
                ready = ready && member.ready().await;
            }
            if ready {
                return etcd;
            }
        }
        panic!("no free ports");
    }

    /// Members that are not started yet. Their clocks run fast: a leader is missed after half a
    /// second, and a lease may be as short as one.
    pub(crate) fn prepare(count: usize, scheme: &str, more: &[String]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ports = ports(2 * count);
        let (clients, peers) = ports.split_at(count);
        let peer = |n: usize| format!("http://127.0.0.1:{}", peers[n]);
        let all: Vec<String> = (0..count).map(|n| format!("m{n}={}", peer(n))).collect();
        let member = |n: usize| {
            let endpoint = format!("{scheme}://127.0.0.1:{}", clients[n]);
            let name = format!("m{n}");
            let data = dir.path().join(&name).display().to_string();
            let args = [
                ("name", name.as_str()),
                ("data-dir", &data),
                ("listen-client-urls", &endpoint),
                ("advertise-client-urls", &endpoint),
                ("listen-peer-urls", &peer(n)),
                ("initial-advertise-peer-urls", &peer(n)),
                ("initial-cluster", &all.join(",")),
                ("initial-cluster-token", &dir.path().display().to_string()),
                ("heartbeat-interval", "50"),
                ("election-timeout", "500"),
                ("log-level", "error"),
            ];
            let args = args.map(|(flag, value)| format!("--{flag}={value}"));
            let command = ["etcd".to_owned()].into_iter().chain(args);
            let command = command.chain(more.iter().cloned()).collect();
            Member::new(endpoint, command, dir.path().join(format!("{name}.log")))
        };
        Self {
            members: (0..count).map(member).collect(),
            dir,
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        let endpoint = |member: &Member| member.endpoint.clone();
        self.members.iter().map(endpoint).collect()
    }

    pub(crate) async fn store(&self) -> Arc<EtcdStore> {
        let options = Options {
            endpoints: self.endpoints(),
            ..Options::default()
        };
        EtcdStore::connect(&options).await.expect("connects")
    }

    /// A client past the store, for what only etcd's operators do.
    pub(crate) async fn client(&self) -> etcd_client::Client {
        let client = etcd_client::Client::connect(self.endpoints(), None).await;
        client.expect("connects")
    }

    /// The member that leads.
    pub(crate) async fn leader(&self) -> usize {
        for (n, member) in self.members.iter().enumerate() {
            let client = etcd_client::Client::connect([&member.endpoint], None).await;
            let status = client.expect("connects").status().await.expect("answers");
            let own = status.header().expect("has a head").member_id();
            if status.leader() == own {
                return n;
            }
        }
        panic!("nobody leads");
    }
}

/// Waits until the store answers again, and says after how long.
pub(crate) async fn answers(store: &EtcdStore, within: Duration) -> Duration {
    let started = Instant::now();
    while let Err(error) = store.range(&[]).await {
        assert!(started.elapsed() < within, "{error}");
    }
    started.elapsed()
}
