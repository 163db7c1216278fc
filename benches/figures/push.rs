//! P1 and P2: from the push to the start of the first new container, against `peer-push.sh`. Both
//! build the same kind of context with the same Dockerfile, push to a registry of the same kind, and
//! run the same command; the end is the engine's own `start` event for both.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{bail, ensure};
use serde_json::json;
use tokio::process::Command;

use crate::alone::{Ask, alone};
use crate::bench::{Bench, now_ns, say};
use crate::engine::Events;
use crate::host::{Host, NEVER_MS, free_port};
use crate::proxy::Proxy;
use crate::repo::Repo;
use crate::stats::{Row, ms};

const ROUNDS: usize = 20;
const STACK: &str = "push";
const PEER: &str = "peer";
const DOCKERFILE: &str = "\
FROM viking/busybox:1
ADD . /srv
RUN find /srv -type f | wc -l > /srv.count
";
/// Seeds of both sides' files, apart so that neither builds from layers of the other.
const SEED_VIKING: u64 = 1_000_000;
const SEED_PEER: u64 = 2_000_000;

/// What a commit changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// One file of the image.
    File,
    /// Only `viking.yml`, which is in no image.
    Deploy,
}

/// P1.
pub(crate) async fn changed_file(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let sides = Sides::start(bench, "p1", None).await?;
    let measured = sides.measure(bench, Change::File).await;
    sides.end(bench).await?;
    let (peer, viking) = measured?;
    let name = "P1 push of one changed file → container started";
    Ok(vec![Row::ratio(name, &peer, &viking, 1.10)])
}

/// P2: both through the same counting proxy, which must see the peer's builds and none of viking's.
pub(crate) async fn changed_deploy(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let proxy = Proxy::start(bench.work.join("p2.sock"), &bench.socket)?;
    let sides = Sides::start(bench, "p2", Some(&proxy)).await?;
    let measured = sides.measure(bench, Change::Deploy).await;
    sides.end(bench).await?;
    let (peer, viking) = measured?;
    let name = "P2 push of a changed `deploy:` → container started (0 builds)";
    let floor = alone(bench, Ask::Start).await?;
    Ok(vec![Row::ratio(name, &peer, &viking, 0.65).beside(&floor)])
}

/// viking and the script, each with a repository of its own.
struct Sides<'a> {
    host: Host,
    viking: Repo,
    peer: Repo,
    clone: PathBuf,
    image: String,
    socket: PathBuf,
    proxy: Option<&'a Proxy>,
}

impl<'a> Sides<'a> {
    async fn start(bench: &Bench, name: &str, proxy: Option<&'a Proxy>) -> anyhow::Result<Self> {
        let dir = bench.work.join(name);
        let repo = |side: &str| {
            let dir = dir.join(side);
            std::fs::create_dir_all(&dir)?;
            Repo::new(&dir)
        };
        let (viking, peer) = (repo("viking")?, repo("peer")?);
        viking.fill(SEED_VIKING)?;
        viking.write("viking.yml", &viking_yml(0))?;
        peer.fill(SEED_PEER)?;
        peer.write("Dockerfile", DOCKERFILE)?;
        peer.write(
            ".dockerignore",
            ".git\nDockerfile\n.dockerignore\nviking.yml\n",
        )?;
        let clone = dir.join("clone");
        peer.push("first")?;
        peer.clone_to(&clone)?;
        let socket = proxy.map_or(&bench.socket, |proxy| &proxy.socket).clone();
        let sides = Self {
            host: Host::start(bench, name, &socket).await?,
            viking,
            peer,
            clone,
            image: format!("127.0.0.1:{}/app", registry(bench).await?),
            socket,
            proxy,
        };
        let first = sides.viking.push("first")?;
        sides.host.add(&sides.viking.remote, NEVER_MS).await?;
        sides.host.live(STACK, &first).await?;
        // The first release had to be built.
        proxy.map(Proxy::builds);
        Ok(sides)
    }

    /// The times of both, in turns; the first pair only warms up.
    async fn measure(&self, bench: &Bench, change: Change) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
        let mut events = bench.engine.events().await?;
        let (mut peer, mut viking) = (Vec::new(), Vec::new());
        for round in 0..=bench.rounds(ROUNDS) {
            let mut pair = (0.0, 0.0);
            if round % 2 == 0 {
                pair.0 = self.push_peer(bench, &mut events, change, round).await?;
                pair.1 = self.push_viking(&mut events, change, round).await?;
            } else {
                pair.1 = self.push_viking(&mut events, change, round).await?;
                pair.0 = self.push_peer(bench, &mut events, change, round).await?;
            }
            say(&format!(
                "{change:?} {round}: peer {:.0} ms, viking {:.0} ms",
                pair.0, pair.1
            ));
            if round > 0 {
                peer.push(pair.0);
                viking.push(pair.1);
            }
        }
        Ok((peer, viking))
    }

    async fn push_peer(
        &self,
        bench: &Bench,
        events: &mut Events,
        change: Change,
        round: usize,
    ) -> anyhow::Result<f64> {
        match change {
            Change::File => self.peer.change(round, SEED_PEER * 2 + round as u64)?,
            Change::Deploy => self.peer.write("viking.yml", &viking_yml(round + 1))?,
        }
        self.peer.push("next")?;
        self.count(0)?;
        events.forget();
        let begun = now_ns();
        let script = peer_push(bench, &self.socket, &self.clone, &self.image);
        let started = events.wait("the script's container", |e| e.starts("viking.bench", PEER));
        let (script, started) = tokio::join!(script, started);
        script?;
        let ended = started?.at_ns;
        self.count(1)?;
        Ok(ms(begun, ended))
    }

    async fn push_viking(
        &self,
        events: &mut Events,
        change: Change,
        round: usize,
    ) -> anyhow::Result<f64> {
        match change {
            Change::File => self.viking.change(round, SEED_VIKING * 2 + round as u64)?,
            Change::Deploy => self.viking.write("viking.yml", &viking_yml(round + 1))?,
        }
        let commit = self.viking.push("next")?;
        self.count(0)?;
        events.forget();
        let begun = now_ns();
        self.host.sync(STACK).await?;
        let started = events.wait("viking's container", |e| e.starts("viking.stack", STACK));
        let ended = started.await?.at_ns;
        self.host.live(STACK, &commit).await?;
        self.count(0)?;
        Ok(ms(begun, ended))
    }

    /// Fails unless the proxy saw this many builds since it was last asked.
    fn count(&self, wanted: usize) -> anyhow::Result<()> {
        let Some(proxy) = self.proxy else {
            return Ok(());
        };
        let builds = proxy.builds();
        ensure!(
            builds == wanted,
            "{builds} builds where {wanted} were expected"
        );
        Ok(())
    }

    async fn end(self, bench: &Bench) -> anyhow::Result<()> {
        self.host.end(bench).await?;
        bench.engine.remove_all("viking.bench").await
    }
}

async fn peer_push(bench: &Bench, socket: &Path, clone: &Path, image: &str) -> anyhow::Result<()> {
    let done = Command::new(bench.root.join("benches/peer-push.sh"))
        .args([clone.as_os_str(), image.as_ref(), PEER.as_ref()])
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .stdin(Stdio::null())
        .output()
        .await?;
    if !done.status.success() {
        bail!("peer-push.sh: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

/// A registry for the script, of the image that viking's is made of; answers its port.
async fn registry(bench: &Bench) -> anyhow::Result<u16> {
    let port = free_port()?;
    let body = json!({
        "Image": "viking/registry:2",
        "Labels": { "viking.bench": "registry" },
        "Volumes": { "/var/lib/registry": {} },
        "HostConfig": { "PortBindings": {
            "5000/tcp": [{ "HostIp": "127.0.0.1", "HostPort": port.to_string() }],
        } },
    });
    let made = bench.engine.post("/containers/create", body).await?;
    let id = made["Id"].as_str().unwrap_or_default();
    let start = format!("/containers/{id}/start");
    bench.engine.post(&start, json!({})).await?;
    let url = format!("http://127.0.0.1:{port}/v2/");
    while reqwest::get(&url).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(port)
}

fn viking_yml(round: usize) -> String {
    let dockerfile = DOCKERFILE.replace('\n', "\n    ");
    format!(
        "viking: {{name: {STACK}}}\nbuild:\n  app: |\n    {dockerfile}\ndeploy:\n  app:\n    \
         image: viking:{STACK}/app\n    run: sleep 1d\n    env: {{ROUND: \"{round}\"}}\n"
    )
}
