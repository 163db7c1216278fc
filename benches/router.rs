//! P13: what a request through the front door costs, beside nginx and HAProxy from Debian, each with one
//! worker, in front of one nginx that serves files. Processor time per request is the measure that holds
//! on a noisy machine; requests a second tell less where load, proxy and server share two cores.
//! `benches/run.sh p13` runs it; it needs nginx, haproxy and wrk.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use viking::model::endpoint::Endpoint;
use viking::model::job::{Instance, JobKey};
use viking::model::reach::Seen;
use viking::model::release::Domain;
use viking::model::resolve::StackMap;
use viking::model::spec::Proto;
use viking::router::front::{self, Front, Settings, Speaks};
use viking::schedule::script;

/// Rounds of each figure; the first is not counted.
const ROUNDS: usize = 6;

/// Seconds of load in each.
const LOAD_S: u64 = 4;

/// Connections of the load.
const CONNECTIONS: usize = 64;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().position(|arg| arg == "--serve") {
        Some(at) => serve(&args[at + 1..]),
        None => measure(),
    }
}

/// This binary as the router alone: port, backend, number of domains.
fn serve(args: &[String]) -> anyhow::Result<()> {
    let [address, backend, domains] = args else {
        bail!("--serve ADDRESS BACKEND DOMAINS");
    };
    let (backend, domains): (SocketAddr, usize) = (backend.parse()?, domains.parse()?);
    let settings = Settings {
        trusted: Vec::new(),
        access_log: 0,
        body_max: 1 << 30,
        head_max: Duration::from_secs(30),
        certificates: Arc::default(),
        hsts_s: 0,
        threads: 1,
        sites: None,
    };
    let front = Front::new(settings, watch::channel(Vec::new()).0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        front.update(&seen(backend, domains)?, &BTreeSet::new());
        let listener = TcpListener::bind(address)?;
        front::run(front, listener, Speaks::Http, CancellationToken::new()).await
    })
}

/// One node with so many domains, `d0.test` the first of them, and one copy.
fn seen(backend: SocketAddr, domains: usize) -> anyhow::Result<Seen> {
    let text = "hosts: {h: {}}\nstacks:\n  s: {live: a1, phase: live, releases: {a1: {web: {expose: true}}}}\n";
    let world = script::world(text).map_err(anyhow::Error::msg)?;
    let mut seen = Seen::default();
    for (name, stack) in world.stacks {
        let mut releases = stack.releases;
        for release in releases.values_mut() {
            for (node, of) in &mut release.nodes {
                of.domains = (0..domains)
                    .map(|n| Domain {
                        name: format!("d{n}.test"),
                        port: Some(80),
                        since_ms: 1,
                    })
                    .collect();
                let job = JobKey {
                    stack: name.clone(),
                    tag: of.tag.clone(),
                    node: node.clone(),
                    slot: 0,
                };
                seen.endpoints.push(Endpoint {
                    stack: name.clone(),
                    tag: of.tag.clone(),
                    node: node.clone(),
                    port: 80,
                    proto: Proto::Tcp,
                    ip: backend.ip(),
                    host_port: backend.port(),
                    job_id: job.id(Instance(1)),
                });
            }
        }
        let pointer = stack.pointer;
        seen.stacks.insert(name, StackMap { pointer, releases });
    }
    Ok(seen)
}

/// A process that serves, ended with this value.
struct Server {
    name: &'static str,
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    fn start(
        name: &'static str,
        address: SocketAddr,
        command: &mut Command,
    ) -> anyhow::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {name}: is it installed?"))?;
        let server = Self {
            name,
            child,
            address,
        };
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(address).is_err() {
            if Instant::now() > until {
                bail!("{name} does not listen on {address}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Ticks of processor time of its process so far.
    fn ticks(&self) -> anyhow::Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let rest = stat.rsplit_once(')').context("a line of /proc")?.1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field =
            |n: usize| -> anyhow::Result<u64> { Ok(fields.get(n).context("a field")?.parse()?) };
        Ok(field(11)? + field(12)?)
    }
}

fn free() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

const NGINX: &str =
    "daemon off; worker_processes 1; master_process off; pid PID; error_log /dev/null;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000; sendfile on; tcp_nodelay on; ";

fn nginx(
    dir: &Path,
    name: &'static str,
    rest: &str,
    address: SocketAddr,
) -> anyhow::Result<Server> {
    let pid = dir.join(format!("{name}.pid"));
    let text = NGINX.replace("PID", &pid.display().to_string()) + rest + " }\n";
    let file = dir.join(format!("{name}.conf"));
    std::fs::write(&file, text)?;
    Server::start(
        name,
        address,
        Command::new("nginx")
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(dir),
    )
}

fn start_all(dir: &Path) -> anyhow::Result<(Server, Vec<Server>)> {
    for (name, bytes) in [("1k", 1 << 10), ("64k", 1 << 16)] {
        std::fs::write(dir.join(name), vec![b'x'; bytes])?;
    }
    let backend = free()?;
    let files = format!("server {{ listen {backend}; root {}; }}", dir.display());
    let server = nginx(dir, "backend", &files, backend)?;
    let proxy = free()?;
    let front = format!(
        "upstream u {{ server {backend}; keepalive 256; keepalive_requests 1000000000; }}
         server {{ listen {proxy}; location / {{ proxy_pass http://u; proxy_http_version 1.1;
         proxy_set_header Connection \"\"; proxy_set_header Host $host;
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Request-Id $request_id; }} }}"
    );
    let nginx = nginx(dir, "nginx", &front, proxy)?;
    let ha = free()?;
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  \
         timeout server 30s\n  option forwardfor\nfrontend f\n  bind {ha}\n  default_backend b\nbackend b\n  \
         http-reuse always\n  server s {backend}\n"
    );
    let file = dir.join("haproxy.cfg");
    std::fs::write(&file, text)?;
    let haproxy = Server::start("haproxy", ha, Command::new("haproxy").arg("-f").arg(&file))?;
    let mut servers = vec![nginx, haproxy];
    for (name, domains) in [("viking", 1), ("viking, 10,000 domains", 10_000)] {
        let address = free()?;
        let own = std::env::current_exe()?;
        let mut command = Command::new(own);
        command.args([
            "--serve",
            &address.to_string(),
            &backend.to_string(),
            &domains.to_string(),
        ]);
        servers.push(Server::start(name, address, &mut command)?);
    }
    Ok((server, servers))
}

/// What one round of load came to.
#[derive(Clone, Copy)]
struct Round {
    rate: f64,
    /// Processor time of a request, microseconds.
    cpu_us: f64,
}

fn load(server: &Server, path: &str) -> anyhow::Result<Round> {
    let before = server.ticks()?;
    let output = Command::new("wrk")
        .args([
            "-t1",
            "-c",
            &CONNECTIONS.to_string(),
            "-d",
            &format!("{LOAD_S}s"),
        ])
        .args(["-H", "Host: d0.test"])
        .arg(format!("http://{}{path}", server.address))
        .output()
        .context("running wrk: is it installed?")?;
    let ticks = server.ticks()? - before;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!("{}: requests failed:\n{text}", server.name);
    }
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "));
    let requests: f64 = requests.context("wrk's count")?.0.parse()?;
    Ok(Round {
        rate: requests / LOAD_S as f64,
        // A tick is 10 ms on every Linux that says otherwise to nobody (USER_HZ).
        cpu_us: ticks as f64 * 10_000.0 / requests,
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (_backend, servers) = start_all(dir.path())?;
    println!("| P13 | CPU µs/request | ÷ nginx | requests/s | ÷ nginx |");
    println!("|---|---|---|---|---|");
    for path in ["/1k", "/64k"] {
        let mut rounds: BTreeMap<&str, Vec<Round>> = BTreeMap::new();
        for round in 0..ROUNDS {
            for server in &servers {
                let came = load(server, path)?;
                if round > 0 {
                    rounds.entry(server.name).or_default().push(came);
                }
            }
        }
        // Each round beside nginx's of the same minute: the machine drifts.
        let peers = rounds.get("nginx").cloned().unwrap_or_default();
        for (name, of) in &rounds {
            let against = |value: fn(&Round) -> f64| {
                let pairs = of.iter().zip(&peers);
                median(pairs.map(|(own, peer)| value(own) / value(peer)).collect())
            };
            println!(
                "| {name}, {path} | {:.1} | {:.2} | {:.0} | {:.2} |",
                median(of.iter().map(|round| round.cpu_us).collect()),
                against(|round| round.cpu_us),
                median(of.iter().map(|round| round.rate).collect()),
                against(|round| round.rate),
            );
        }
    }
    Ok(())
}
