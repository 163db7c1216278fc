//! `viking host` as a child process, and what the figures ask of its API.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::bench::Bench;

/// How long the host may take to answer, and a stack to be whole.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const LIVE_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Between two questions; nothing is measured while waiting.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Polls come so seldom that only `sync` makes viking look.
pub(crate) const NEVER_MS: u64 = 24 * 3600 * 1000;

/// A running host.
#[derive(Debug)]
pub(crate) struct Host {
    child: Child,
    client: reqwest::Client,
    api: String,
    data: PathBuf,
}

impl Host {
    /// Starts one whose engine is at `socket`.
    pub(crate) async fn start(bench: &Bench, name: &str, socket: &Path) -> anyhow::Result<Self> {
        let data = bench.work.join(name).join("data");
        std::fs::create_dir_all(&data)?;
        let log = std::fs::File::create(bench.work.join(name).join("host.log"))?;
        let (api, registry) = (free_port()?, free_port()?);
        let api = format!("127.0.0.1:{api}");
        let child = Command::new(&bench.viking)
            .args(["host", "--config", "/dev/null"])
            .arg("--data-dir")
            .arg(&data)
            .arg("--docker")
            .arg(format!("unix://{}", socket.display()))
            .args(["--api", &api, "--registry-port", &registry.to_string()])
            .args(["--registry-image", "viking/registry:2"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting viking host")?;
        let host = Self {
            child,
            client: reqwest::Client::builder().no_proxy().build()?,
            api,
            data,
        };
        let until = Instant::now() + ANSWER_LIMIT;
        while host.get("/v1/ping").await.is_err() {
            if Instant::now() > until {
                bail!("viking host does not answer");
            }
            sleep(ASK_AGAIN).await;
        }
        Ok(host)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("viking host has ended")
    }

    /// The label of all that it makes, with its value.
    pub(crate) fn label(&self) -> anyhow::Result<String> {
        let id = std::fs::read_to_string(self.data.join("cluster"))?;
        Ok(format!("viking.cluster={}", id.trim()))
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.client.get(format!("http://{}{path}", self.api));
        let answer = answer.send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }

    async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        let request = self.client.post(format!("http://{}{path}", self.api));
        let answer = request.json(&body).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            bail!("POST {path}: {status} {text}");
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Follows a repository.
    pub(crate) async fn add(&self, remote: &Path, poll_ms: u64) -> anyhow::Result<()> {
        let body = json!({ "url": remote, "path": "", "poll_ms": poll_ms });
        self.post("/v1/stacks", body).await.map(drop)
    }

    /// What `viking sync` asks.
    pub(crate) async fn sync(&self, stack: &str) -> anyhow::Result<()> {
        let body = json!({ "pull": false });
        self.post(&format!("/v1/stack/{stack}/sync"), body)
            .await
            .map(drop)
    }

    /// Waits until `commit` is live, healthy, and nothing older is left.
    pub(crate) async fn live(&self, stack: &str, commit: &str) -> anyhow::Result<()> {
        let until = Instant::now() + LIVE_LIMIT;
        loop {
            let found = self.get(&format!("/v1/status/{stack}")).await;
            let found = found.unwrap_or(Value::Null);
            if is_live(&found["stacks"][0], commit) {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{stack} is not live at {commit}: {found}");
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// When the newest release of a stack was made: just before its `/proc` records were written.
    pub(crate) async fn made_ns(&self, stack: &str, commit: &str) -> anyhow::Result<i64> {
        let keys = self.get("/v1/debug/keys").await?;
        let rows = keys["items"].as_array().cloned().unwrap_or_default();
        let prefix = format!("/release/{stack}/");
        let releases = rows
            .iter()
            .filter(|row| row["key"].as_str().is_some_and(|k| k.starts_with(&prefix)))
            .filter_map(|row| serde_json::from_str::<Value>(row["value"].as_str()?).ok());
        let made = releases
            .filter(|release| release["commit"]["id"] == commit)
            .filter_map(|release| release["made_ms"].as_i64())
            .max();
        Ok(made.with_context(|| format!("no release of {commit}"))? * 1_000_000)
    }

    /// Ends it and removes all that it made.
    pub(crate) async fn end(mut self, bench: &Bench) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()?)?;
        kill(pid, "TERM")?;
        if timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        bench.engine.remove_all(&self.label()?).await
    }
}

fn is_live(stack: &Value, commit: &str) -> bool {
    let live = stack["live"]["commit"] == commit && stack["staged"].is_null();
    let nodes = stack["nodes"].as_array().cloned().unwrap_or_default();
    live && stack["health"] == "healthy" && nodes.iter().all(|node| node["release"] == "live")
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    Ok(listener.local_addr()?.port())
}

/// Sends a signal, such as `KILL`, to one process.
pub(crate) fn kill(pid: i32, signal: &str) -> anyhow::Result<()> {
    let pid = pid.to_string();
    let done = std::process::Command::new("kill")
        .args(["-s", signal, &pid])
        .status()?;
    if !done.success() {
        bail!("kill -s {signal} {pid}: {done}");
    }
    Ok(())
}
