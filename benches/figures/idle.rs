//! P16: what viking costs while nothing happens: 50 containers with a health check each, of 20
//! stacks that are polled, for 60 s. Memory against the engine's; the cores' time from
//! `/proc/<pid>/stat`, read before and after.

use std::time::Duration;

use anyhow::Context as _;

use crate::bench::{Bench, say};
use crate::host::Host;
use crate::repo::Repo;
use crate::stats::Row;

const STACKS: usize = 20;
/// With the registry 50: nine stacks have three, eleven two.
const CONTAINERS: usize = 49;
/// `viking add` asks a server every 30 s.
const POLL_MS: u64 = 30_000;
const IDLE: Duration = Duration::from_secs(60);
/// What follows the last start has ended: the first polls, drains, the ring of a first full pass.
const SETTLE: Duration = Duration::from_secs(20);
const SHARE_MAX: f64 = 0.35;
const CPU_MAX: f64 = 0.3;
/// `sysconf(_SC_CLK_TCK)`, which Linux fixes for programs.
const TICKS_PER_S: f64 = 100.0;

pub(crate) async fn idle(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let host = Host::start(bench, "p16", &bench.socket).await?;
    let measured = measure(bench, &host).await;
    host.end(bench).await?;
    measured
}

async fn measure(bench: &Bench, host: &Host) -> anyhow::Result<Vec<Row>> {
    for n in 0..STACKS {
        let dir = bench.work.join("p16").join(format!("stack{n}"));
        std::fs::create_dir_all(&dir)?;
        let repo = Repo::new(&dir)?;
        let scale = CONTAINERS / STACKS + usize::from(n < CONTAINERS % STACKS);
        repo.write("viking.yml", &viking_yml(n, scale))?;
        let first = repo.push("first")?;
        host.add(&repo.remote, POLL_MS).await?;
        host.live(&format!("idle{n}"), &first).await?;
        say(&format!("stack {n} is live"));
    }
    tokio::time::sleep(SETTLE).await;
    let pid = host.pid()?;
    let (used, engine_used) = (ticks(pid)?, ticks(bench.dockerd)?);
    tokio::time::sleep(IDLE).await;
    let cpu = |before: f64, after: f64| (after - before) / TICKS_PER_S / IDLE.as_secs_f64() * 100.0;
    let cpu = (
        cpu(used, ticks(pid)?),
        cpu(engine_used, ticks(bench.dockerd)?),
    );
    let (ours, theirs) = (resident_mb(pid)?, resident_mb(bench.dockerd)?);
    let mb = |value: f64| format!("{value:.1} MB");
    let share = ours / theirs;
    Ok(vec![
        Row::single(
            "P16 idle, 50 containers of 20 stacks: resident memory (peer: dockerd)",
            mb(theirs),
            mb(ours),
            Some(share),
            format!("≤ {SHARE_MAX:.2}"),
            share <= SHARE_MAX,
        ),
        Row::single(
            "P16 the same: CPU of one core in 60 s",
            format!("{:.2} %", cpu.1),
            format!("{:.2} %", cpu.0),
            None,
            format!("≤ {CPU_MAX} %"),
            cpu.0 <= CPU_MAX,
        ),
    ])
}

/// User and system time of a process, in ticks.
fn ticks(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold spaces and parentheses; nothing after its end does.
    let (_, rest) = text.rsplit_once(')').context("no stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok());
    let (user, system) = (field(11).context("utime")?, field(12).context("stime")?);
    Ok(user + system)
}

fn resident_mb(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let line = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
    Ok(line.parse::<f64>()? / 1024.0)
}

fn viking_yml(n: usize, scale: usize) -> String {
    format!(
        "viking: {{name: idle{n}}}\ndeploy:\n  app:\n    image: viking/busybox:1\n    \
         run: httpd -f -p 80\n    expose: [80]\n    scale: {scale}\n"
    )
}
