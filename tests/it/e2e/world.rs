//! One `viking host` of a test's own: data directory, ports, Docker through a counting proxy. Starts,
//! kills and asks it; waits for what should come true and says everything it knows when it does not.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::docker::{Container, Docker, Runs, runs};
use super::http::{fetch, free_port, page};
use super::proxy::Proxy;
use super::repo::{Commit, Repo};

/// For what takes a push or a repair on a busy machine: far above what it takes, since only a
/// failing test waits this long.
pub(crate) const LONG: Duration = Duration::from_secs(90);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Lines of the host's log that a failing test prints.
const LOG_LINES: usize = 60;

/// A host of the test's own.
pub(crate) struct World {
    name: String,
    dir: tempfile::TempDir,
    api: String,
    pub(crate) registry_port: u16,
    /// Where the router listens.
    pub(crate) front: String,
    pub(crate) docker: Docker,
    proxy: Proxy,
    host: Option<Child>,
}

/// The rows of `/v1/debug/keys`.
pub(crate) fn keys_of(list: &Value) -> Result<BTreeMap<String, String>, String> {
    let rows = list["items"]
        .as_array()
        .ok_or_else(|| format!("no list of keys: {list}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pair = |row: &Value| (text(&row["key"]), text(&row["value"]));
    Ok(rows.iter().map(pair).collect())
}

impl World {
    /// Everything a host needs; nothing runs yet.
    pub(crate) fn new(name: &str) -> Self {
        let docker = Docker::of_tests();
        let dir = tempfile::Builder::new()
            .prefix("viking-e2e-")
            .tempdir()
            .expect("a folder");
        let proxy = Proxy::start(dir.path().join("docker.sock"), docker.socket());
        Self {
            name: name.to_owned(),
            api: format!("127.0.0.1:{}", free_port()),
            registry_port: free_port(),
            front: format!("127.0.0.1:{}", free_port()),
            dir,
            docker,
            proxy,
            host: None,
        }
    }

    /// A host that answers.
    pub(crate) fn started(name: &str) -> Self {
        let mut world = Self::new(name);
        world.start();
        world
    }

    /// A repository in this world's folder.
    pub(crate) fn repo(&self, name: &str) -> Repo {
        Repo::new(self.dir.path().join("repositories").join(name))
    }

    /// A folder for whatever a test needs.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `ip:port` of the API.
    pub(crate) fn api(&self) -> &str {
        &self.api
    }

    /// The name of this world's host.
    pub(crate) fn host_name(&self) -> String {
        format!("host-{}", self.name)
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("host.log")
    }

    /// The label of everything that is this world's.
    pub(crate) fn label(&self) -> String {
        format!("viking.cluster={}", self.cluster())
    }

    fn cluster(&self) -> String {
        let id = std::fs::read_to_string(self.data_dir().join("cluster"));
        id.map(|text| text.trim().to_owned())
            .unwrap_or_else(|_| "none yet".to_owned())
    }

    /// Flags that a process needs to be this world's host.
    pub(crate) fn host_flags(&self) -> Vec<String> {
        let data = self.data_dir().display().to_string();
        let flags = [
            ["--data-dir", &data],
            ["--docker", &self.proxy.address()],
            ["--registry-port", &self.registry_port.to_string()],
            ["--http", &self.front],
            ["--https", "off"],
            ["--registry-image", "viking/registry:2"],
            ["--host-name", &self.host_name()],
        ];
        flags.into_iter().flatten().map(str::to_owned).collect()
    }

    /// `viking` with arguments, asking this world's host.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_viking"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("VIKING_")) {
            command.env_remove(name);
        }
        command
            .args(args)
            .args(["--api", &self.api])
            .stdin(Stdio::null());
        command
    }

    /// Starts the host and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts the host so that it ends at a failpoint.
    pub(crate) fn start_to_die_at(&mut self, failpoint: &str) {
        self.start_with(&[("VIKING_FAILPOINT", failpoint)]);
    }

    fn start_with(&mut self, env: &[(&str, &str)]) {
        assert!(self.host.is_none(), "the host runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("a log");
        let child = self
            .command(&["host", "--config", "/dev/null"])
            .args(self.host_flags())
            .envs(env.iter().copied())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("the binary is built");
        self.host = Some(child);
        self.eventually("the host answers", || self.get("/v1/ping").map(drop));
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut host) = self.host.take() {
            // It may have ended by itself.
            host.kill().ok();
            host.wait().ok();
        }
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let id = self.host.as_ref().expect("the host runs").id();
        let sent = Command::new("kill")
            .arg(id.to_string())
            .status()
            .expect("kill is installed");
        assert!(sent.success());
        self.wait_for_end()
    }

    /// Waits until the host has ended.
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let mut host = self.host.take().expect("the host was started");
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = host.try_wait().expect("the child can be asked") {
                return status;
            }
            if Instant::now() > deadline {
                self.host = Some(host);
                panic!("the host did not end\n{}", self.report());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Asks the API.
    pub(crate) fn get(&self, path: &str) -> Result<Value, String> {
        let text = fetch(&format!("http://{}{path}", self.api))?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// The page of a domain through the router.
    pub(crate) fn visit(&self, domain: &str, path: &str) -> Result<String, String> {
        page(&self.front, domain, path)
    }

    /// Runs a command of the CLI.
    pub(crate) fn viking(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    /// Runs a command of the CLI that must succeed, and gives what it printed.
    pub(crate) fn must(&self, args: &[&str]) -> String {
        let output = self.viking(args);
        assert!(
            output.status.success(),
            "viking {} ended with {}: {}{}\n{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.report()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Follows a repository. The short interval is for what must come "by itself".
    pub(crate) fn add(&self, repo: &Repo) {
        self.must(&["add", repo.path(), "--poll", "1s"]);
    }

    /// Commits, says so to the host, and waits until the commit is live and nothing else runs.
    pub(crate) fn push(
        &self,
        stack: &str,
        repo: &Repo,
        subject: &str,
        files: &[(&str, &str)],
    ) -> Commit {
        let commit = repo.commit(subject, files);
        self.must(&["sync", stack]);
        self.settled(stack, &commit);
        commit
    }

    /// The status of a stack.
    pub(crate) fn status(&self, stack: &str) -> Result<Value, String> {
        let report = self.get(&format!("/v1/status/{stack}"))?;
        let stacks = report["stacks"].as_array().cloned().unwrap_or_default();
        let found = stacks.into_iter().find(|found| found["stack"] == stack);
        found.ok_or_else(|| format!("status knows no stack {stack}: {report}"))
    }

    /// Waits until a commit is live, all its jobs are healthy and no other release has any.
    pub(crate) fn settled(&self, stack: &str, commit: &Commit) -> Value {
        let what = format!("{} of {stack} is live and alone", commit.tag());
        self.eventually(&what, || {
            let status = self.status(stack)?;
            at_rest(&status, commit)?;
            self.nothing_else_is_there(stack, &status).map(|()| status)
        })
    }

    /// Whether Docker has the containers of the live release, and no others of the stack.
    fn nothing_else_is_there(&self, stack: &str, status: &Value) -> Result<(), String> {
        let rows = status["nodes"].as_array().into_iter().flatten();
        let live = rows.filter(|row| row["release"] == "live");
        let jobs = live.flat_map(|row| row["jobs"].as_array().into_iter().flatten());
        let named = jobs.filter_map(|job| job["container"].as_str().map(str::to_owned));
        let mut named: Vec<String> = named.collect();
        named.sort();
        let found = self
            .containers(stack)
            .into_iter()
            .map(|container| container.name);
        let found: Vec<String> = found.collect();
        let same = found == named;
        same.then_some(())
            .ok_or_else(|| format!("status names {named:?}, Docker has {found:?}"))
    }

    /// Waits until a commit has failed, and gives the row that says so.
    pub(crate) fn failed(&self, stack: &str, commit: &Commit) -> Value {
        self.eventually(&format!("{} of {stack} has failed", commit.tag()), || {
            let status = self.status(stack)?;
            let staged = &status["staged"];
            let failed = staged["phase"] == "failed" && staged["commit"] == commit.0.as_str();
            // The live release's kept containers are started again after that was said.
            if !failed || status["health"] != "healthy" {
                return Err(status.to_string());
            }
            self.nothing_else_is_there(stack, &status).map(|()| status)
        })
    }

    /// Every key that the store lets people see.
    pub(crate) fn keys(&self) -> Result<BTreeMap<String, String>, String> {
        keys_of(&self.get("/v1/debug/keys")?)
    }

    /// Events of a stack, oldest first.
    pub(crate) fn events(&self, stack: &str) -> Vec<Value> {
        let list = self
            .get(&format!("/v1/events?stack={stack}"))
            .unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// This world's containers of a stack.
    pub(crate) fn containers(&self, stack: &str) -> Vec<Container> {
        let all = self.docker.containers(&self.label());
        all.into_iter()
            .filter(|container| container.stack == stack)
            .collect()
    }

    /// This world's containers of a node.
    pub(crate) fn node(&self, stack: &str, node: &str) -> Vec<Container> {
        let all = self.containers(stack);
        all.into_iter()
            .filter(|container| container.node == node)
            .collect()
    }

    /// The only container of a node.
    pub(crate) fn only(&self, stack: &str, node: &str) -> Container {
        let mut all = self.node(stack, node);
        assert_eq!(all.len(), 1, "{stack}/{node}: {all:?}\n{}", self.report());
        all.remove(0)
    }

    /// What runs of a stack.
    pub(crate) fn runs(&self, stack: &str) -> Runs {
        runs(&self.containers(stack))
    }

    /// Build calls so far.
    pub(crate) fn builds(&self) -> usize {
        self.proxy.builds()
    }

    /// Where the healthy copies of a node of the live release answer.
    pub(crate) fn endpoints(&self, stack: &str, node: &str) -> Vec<String> {
        let status = self.status(stack).unwrap_or_default();
        let rows = status["nodes"].as_array().cloned().unwrap_or_default();
        let rows = rows
            .iter()
            .filter(|row| row["node"] == node && row["release"] == "live");
        let jobs = rows.flat_map(|row| row["jobs"].as_array().cloned().unwrap_or_default());
        let ends = jobs.flat_map(|job| job["endpoints"].as_array().cloned().unwrap_or_default());
        ends.filter_map(|end| end["address"].as_str().map(str::to_owned))
            .collect()
    }

    /// The body of a page of a node, from any healthy copy.
    pub(crate) fn page(&self, stack: &str, node: &str, path: &str) -> Result<String, String> {
        let ends = self.endpoints(stack, node);
        let end = ends
            .first()
            .ok_or_else(|| format!("{stack}/{node} has no endpoint"))?;
        fetch(&format!("http://{end}{path}"))
    }

    /// Looks until it is so, and gives what was found.
    pub(crate) fn eventually<T>(
        &self,
        what: &str,
        mut look: impl FnMut() -> Result<T, String>,
    ) -> T {
        let deadline = Instant::now() + LONG;
        loop {
            let found = match look() {
                Ok(found) => return found,
                Err(found) => found,
            };
            if Instant::now() > deadline {
                panic!(
                    "waited {LONG:?} in vain until {what}; last: {found}\n{}",
                    self.report()
                );
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Everything that helps to understand a failure.
    pub(crate) fn report(&self) -> String {
        let status = self.viking(&["status", "-o", "wide"]);
        let status = String::from_utf8_lossy(&[status.stdout, status.stderr].concat()).into_owned();
        let containers = self.docker.try_run(&[
            "ps",
            "--all",
            "--filter",
            &format!("label={}", self.label()),
            "--format",
            "{{.Names}}\t{{.Status}}",
        ]);
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        let name = &self.name;
        format!(
            "--- {name}: status\n{status}\n--- {name}: containers\n{containers}\n--- {name}: log\n{tail}\n---"
        )
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
        if std::env::var_os("VIKING_TEST_KEEP").is_some() && std::thread::panicking() {
            eprintln!("kept: {}", self.dir.path().display());
            self.dir.disable_cleanup(true);
            return;
        }
        self.docker.remove_labelled(&self.label());
    }
}

/// Whether a commit is live, everything of it is healthy, and nothing of another release is left.
fn at_rest(status: &Value, commit: &Commit) -> Result<(), String> {
    let live = status["live"]["commit"] == commit.0.as_str();
    let rows = status["nodes"].as_array().cloned().unwrap_or_default();
    let full = rows.iter().all(|row| {
        let jobs = row["jobs"].as_array().map_or(0, Vec::len);
        let want = row["want"].as_u64().unwrap_or(u64::MAX);
        row["release"] == "live" && row["healthy"].as_u64() == Some(want) && jobs as u64 == want
    });
    let quiet = status["staged"].is_null() && status["health"] == "healthy";
    let settled = live && full && quiet;
    settled.then_some(()).ok_or_else(|| status.to_string())
}
