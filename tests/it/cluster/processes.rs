//! What runs in the containers of fake engines whose networks are on loopback: each port of a running
//! container answers on real sockets, over TCP and UDP, with the tag it runs at. And hosts with real
//! ambassadors, so that links lead there.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use viking::docker::fake::FakeEngine;
use viking::docker::{Container, PortBinding, RunState, label};
use viking::model::registry::{CopyAddresses, Turn};
use viking::model::spec::Proto;
use viking::router::ambassador::{self, Ambassador};

use super::Cluster;
use crate::e2e::http::free_port;

/// Between two looks at what should run.
const LOOK: Duration = Duration::from_millis(2);

/// A process that answers.
struct Process {
    stop: CancellationToken,
    sockets: TaskTracker,
}

impl Process {
    /// Listens where a container is reached; `None` while something else is there.
    async fn start(container: &Container) -> Option<Self> {
        let says = container.labels.get(label::TAG)?.clone();
        let own: IpAddr = container.networks.values().find_map(|ip| *ip)?;
        let (stop, sockets) = (CancellationToken::new(), TaskTracker::new());
        let process = Self { stop, sockets };
        for binding in &container.published {
            let published = SocketAddr::new(binding.ip, binding.host_port);
            for address in [SocketAddr::new(own, binding.port), published] {
                process.listen(binding, address, says.clone()).await?;
            }
        }
        Some(process)
    }

    async fn listen(&self, binding: &PortBinding, at: SocketAddr, says: String) -> Option<()> {
        let stop = self.stop.clone();
        match binding.proto {
            Proto::Tcp => {
                let listener = TcpListener::bind(at).await.ok()?;
                self.sockets.spawn(async move {
                    stop.run_until_cancelled(answer(listener, says)).await;
                });
            }
            Proto::Udp => {
                let socket = UdpSocket::bind(at).await.ok()?;
                self.sockets.spawn(async move {
                    stop.run_until_cancelled(echo(socket, says)).await;
                });
            }
        }
        Some(())
    }

    /// Nothing is open any more afterwards.
    async fn end(self) {
        self.stop.cancel();
        self.sockets.close();
        self.sockets.wait().await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One request and one answer for each connection.
async fn answer(listener: TcpListener, says: String) {
    while let Ok((mut peer, _)) = listener.accept().await {
        let mut request = [0; 64];
        if peer.read(&mut request).await.is_ok_and(|read| read > 0) {
            peer.write_all(says.as_bytes()).await.ok();
        }
    }
}

/// The tag, and what it was sent.
async fn echo(socket: UdpSocket, says: String) {
    let mut buffer = [0; 64];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let said = [says.as_bytes(), b" ", &buffer[..length]].concat();
        socket.send_to(&said, from).await.ok();
    }
}

type Running = Arc<Mutex<BTreeMap<String, Process>>>;

/// All processes of a cluster.
pub(super) struct Processes {
    running: Running,
    engines: Vec<FakeEngine>,
    _stop: DropGuard,
}

impl Processes {
    fn of(engines: Vec<FakeEngine>) -> Self {
        let (running, stop) = (Running::default(), CancellationToken::new());
        let follow = follow(engines.clone(), Arc::clone(&running));
        let until = stop.clone();
        tokio::spawn(async move { until.run_until_cancelled(follow).await });
        Self {
            running,
            engines,
            _stop: stop.drop_guard(),
        }
    }

    /// A process ends as killed: whatever it had open is closed before anybody is told.
    pub(super) async fn kill(&self, name: &str) {
        let mut running = self.running.lock().await;
        let process = running.remove(name).expect("it runs");
        process.end().await;
        let has = |engine: &&FakeEngine| engine.snapshot().iter().any(|c| c.name == name);
        let engine = self.engines.iter().find(has).expect("an engine has it");
        engine.kill(name);
    }
}

/// Starts and ends processes as the engines say.
async fn follow(engines: Vec<FakeEngine>, running: Running) {
    loop {
        {
            let mut running = running.lock().await;
            let all = engines.iter().flat_map(FakeEngine::snapshot);
            let up = all.filter(|c| c.state == RunState::Running);
            let up: BTreeMap<String, Container> = up.map(|c| (c.name.clone(), c)).collect();
            let over: Vec<String> = running
                .keys()
                .filter(|n| !up.contains_key(*n))
                .cloned()
                .collect();
            for name in over {
                if let Some(process) = running.remove(&name) {
                    process.end().await;
                }
            }
            for (name, container) in up {
                if !running.contains_key(&name)
                    && let Some(process) = Process::start(&container).await
                {
                    running.insert(name, process);
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Cluster {
    /// In real time: every host has a real ambassador, and what runs in its containers answers.
    pub(super) async fn with_ambassadors(hosts: usize) -> (Self, Processes) {
        // Tests run side by side: each host has its own addresses.
        static BLOCKS: AtomicU8 = AtomicU8::new(100);
        let mut cluster = Self::start(hosts).await;
        for n in 0..hosts {
            cluster.kill_worker(n).await;
            let host = &mut cluster.hosts[n];
            let block = BLOCKS.fetch_add(1, Ordering::Relaxed);
            host.engine.networks_on_loopback(block);
            let (ask, asked) = mpsc::channel(16);
            let ambassador = Ambassador {
                tables: host.tables.clone(),
                host: host.name.clone(),
                registry_port: free_port(),
                front: None,
                asked,
                copies: watch::channel(CopyAddresses::new()).0,
                turn: Turn::default(),
            };
            tokio::spawn(ambassador::run(ambassador, CancellationToken::new()));
            host.ambassador = Some(ask);
            cluster.start_worker(n);
        }
        let engines = cluster.hosts.iter().map(|host| host.engine.clone());
        let processes = Processes::of(engines.collect());
        (cluster, processes)
    }

    /// The variables of a node's only container that runs at a tag.
    pub(super) fn told(&self, node: &str, tag: &str) -> BTreeMap<String, String> {
        let mut running = self.running(node);
        running.retain(|c| c.labels.get(label::TAG).is_some_and(|at| at == tag));
        assert_eq!(running.len(), 1, "{node} at {tag}: {running:?}");
        let name = &running[0].name;
        let has = |engine: &&FakeEngine| engine.snapshot().iter().any(|c| c.name == *name);
        let mut engines = self.hosts.iter().map(|host| &host.engine);
        let env = engines.find(has).expect("an engine has it").made(name).env;
        let pairs = env.iter().filter_map(|line| line.split_once('='));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        pairs.collect()
    }
}
