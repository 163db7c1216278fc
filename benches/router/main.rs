//! P13: what a request through the front door, a site and a link costs, beside nginx and HAProxy from
//! Debian, each with one worker; and how soon a change of `/ports` is seen. Processor time per request is
//! the measure that holds on a noisy machine; requests a second tell less where load, proxy and server
//! share two cores. `benches/run.sh p13` runs it; it needs nginx, haproxy and wrk.

mod change;
mod peers;
mod serve;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use peers::{Server, free, haproxy, nginx, viking};
use serve::Role;

/// Rounds of each figure; the first is not counted.
const ROUNDS: usize = 6;

/// Seconds of load in each.
const LOAD_S: u64 = 4;

/// Connections of the load.
const CONNECTIONS: usize = 64;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--serve") {
        return serve::serve(&args[at + 1..]);
    }
    let dir = tempfile::tempdir()?;
    let sites = dir.path().join("sites");
    let files = serve::site_folder(&sites);
    std::fs::create_dir_all(&files)?;
    for (name, bytes) in [("1k", 1 << 10), ("64k", 1 << 16), ("1m", 1 << 20)] {
        std::fs::write(files.join(name), vec![b'x'; bytes])?;
    }
    let words: Vec<&str> = args[1..].iter().map(String::as_str).collect();
    let wanted = |word: &str| !words.iter().any(|w| PARTS.contains(w)) || words.contains(&word);
    let backend = files_of(dir.path(), &files)?;
    println!("| P13 | CPU µs/request | ÷ peer | requests/s | ÷ peer |");
    println!("|---|---|---|---|---|");
    if wanted("front") {
        measure(&fronts(dir.path(), &backend)?, &["/1k", "/64k"])?;
    }
    if wanted("site") {
        let site = viking("viking, site", &Role::Site(&sites))?;
        measure(&[files_of(dir.path(), &files)?, site], &["/1k", "/1m"])?;
    }
    if wanted("link") {
        let peer = haproxy(dir.path(), "haproxy, tcp", "  mode tcp\n", backend.address)?;
        let link = viking("viking, link", &Role::Link(backend.address))?;
        measure(&[peer, link], &["/1k", "/64k"])?;
    }
    if wanted("change") {
        change::measure()?;
    }
    Ok(())
}

/// What can be measured alone.
const PARTS: [&str; 4] = ["front", "site", "link", "change"];

/// nginx that serves files.
fn files_of(dir: &Path, files: &Path) -> anyhow::Result<Server> {
    let address = free()?;
    let rest = format!("server {{ listen {address}; root {}; }}", files.display());
    nginx(dir, "nginx, files", &rest, address)
}

fn fronts(dir: &Path, backend: &Server) -> anyhow::Result<Vec<Server>> {
    let (backend, proxy) = (backend.address, free()?);
    let front = format!(
        "upstream u {{ server {backend}; keepalive 256; keepalive_requests 1000000000; }}
         server {{ listen {proxy}; location / {{ proxy_pass http://u; proxy_http_version 1.1;
         proxy_set_header Connection \"\"; proxy_set_header Host $host;
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Request-Id $request_id; }} }}"
    );
    let http = "  mode http\n  option forwardfor\n  http-reuse always\n";
    Ok(vec![
        nginx(dir, "nginx", &front, proxy)?,
        haproxy(dir, "haproxy", http, backend)?,
        viking("viking", &Role::Front(backend, 1))?,
        viking("viking, 10,000 domains", &Role::Front(backend, 10_000))?,
    ])
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

/// Prints what each path costs; the first of the servers is the peer of the others.
fn measure(servers: &[Server], paths: &[&str]) -> anyhow::Result<()> {
    let first = servers.first().context("a peer")?.name;
    for path in paths {
        let mut rounds: BTreeMap<&str, Vec<Round>> = BTreeMap::new();
        for round in 0..ROUNDS {
            for server in servers {
                let came = load(server, path)?;
                if round > 0 {
                    rounds.entry(server.name).or_default().push(came);
                }
            }
        }
        // Each round beside the peer's of the same minute: the machine drifts.
        let peers = rounds.get(first).cloned().unwrap_or_default();
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
