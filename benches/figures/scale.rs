//! P8: a node is scaled from 1 to 50; how many containers start a second, from just before the commit
//! is written to the store (as in P7) to the last of the 49 `start` events, against swarm's service
//! update and against four workers that ask the engine themselves. The three take turns, each with
//! nothing of the others left.

use std::time::Duration;

use anyhow::ensure;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;

use crate::alone::{self, LABEL, NAME};
use crate::bench::{Bench, now_ns, say};
use crate::engine::{Event, Events};
use crate::host::{Host, NEVER_MS};
use crate::repo::Repo;
use crate::stats::{Row, ms};
use crate::swarm::{Swarm, digest_of};

const ROUNDS: usize = 5;
const STACK: &str = "scale";
const SERVICE: &str = "scale";
/// Copies in the end.
const SCALE: usize = 50;
/// Those that start.
const STARTS: usize = SCALE - 1;
/// Who asks the engine, in parallel.
const WORKERS: usize = 4;
/// Between two: the engine is idle again.
const SETTLE: Duration = Duration::from_secs(1);
/// The engine takes its time to remove 50 containers.
const GONE_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(crate) async fn scale(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let host = Host::start(bench, "p8", &bench.socket).await?;
    let measured = measure(bench, &host).await;
    host.end(bench).await?;
    measured
}

async fn measure(bench: &Bench, host: &Host) -> anyhow::Result<Vec<Row>> {
    let repo = Repo::new(&bench.work.join("p8"))?;
    repo.write("viking.yml", &viking_yml(1))?;
    let first = repo.push("first")?;
    host.add(&repo.remote, NEVER_MS).await?;
    host.live(STACK, &first).await?;
    let swarm = Swarm::start(bench, digest_of(bench, STACK).await?).await?;
    let mut events = bench.engine.events().await?;
    let (mut peer, mut alone, mut viking) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=bench.rounds(ROUNDS) {
        let theirs = by_swarm(bench, &swarm, &mut events).await?;
        let bare = by_workers(bench, &mut events).await?;
        let ours = by_viking(bench, host, &repo, &mut events).await?;
        say(&format!(
            "{round}: swarm {theirs:.0} ms, the engine alone {bare:.0} ms, viking {ours:.0} ms"
        ));
        // The first one warms up.
        if round > 0 {
            peer.push(theirs);
            alone.push(bare);
            viking.push(ours);
        }
    }
    swarm.end().await?;
    let (by_swarm, by_workers) = (
        "P8 scale 1→50, starts a second, swarm",
        "P8 scale 1→50, starts a second, four workers at the engine",
    );
    Ok(vec![
        Row::rate(by_swarm, STARTS, &peer, &viking, 1.0).beside(&alone),
        Row::rate(by_workers, STARTS, &alone, &viking, 0.95),
    ])
}

async fn by_swarm(bench: &Bench, swarm: &Swarm, events: &mut Events) -> anyhow::Result<f64> {
    swarm.create(SERVICE, 1).await?;
    let fits = |event: &Event| Swarm::starts(event, SERVICE);
    events.wait("swarm's first container", fits).await?;
    tokio::time::sleep(SETTLE).await;
    events.forget();
    let begun = now_ns();
    swarm.scale(SERVICE, SCALE).await?;
    let ended = all(events, "swarm's containers", fits).await?;
    swarm.remove(SERVICE).await?;
    gone(bench, &Swarm::label(SERVICE), 0).await?;
    Ok(ms(begun, ended))
}

async fn by_workers(bench: &Bench, events: &mut Events) -> anyhow::Result<f64> {
    alone::make_network(bench).await?;
    events.forget();
    let begun = now_ns();
    let asks = (0..STARTS).map(|_| alone::run(bench));
    let asks = futures_util::stream::iter(asks).buffer_unordered(WORKERS);
    asks.try_collect::<()>().await?;
    let fits = |event: &Event| event.starts(LABEL, NAME);
    let ended = all(events, "containers of nobody", fits).await?;
    let label = format!("{LABEL}={NAME}");
    bench.engine.remove_all(&label).await?;
    gone(bench, &label, 0).await?;
    alone::remove_network(bench).await?;
    Ok(ms(begun, ended))
}

async fn by_viking(
    bench: &Bench,
    host: &Host,
    repo: &Repo,
    events: &mut Events,
) -> anyhow::Result<f64> {
    repo.write("viking.yml", &viking_yml(SCALE))?;
    let commit = repo.push("up")?;
    events.forget();
    host.sync(STACK).await?;
    let fits = |event: &Event| event.starts("viking.stack", STACK);
    let ended = all(events, "viking's containers", fits).await?;
    let begun = host.made_ns(STACK, &commit).await?;
    host.live(STACK, &commit).await?;
    repo.write("viking.yml", &viking_yml(1))?;
    let commit = repo.push("down")?;
    host.sync(STACK).await?;
    host.live(STACK, &commit).await?;
    gone(bench, &format!("viking.stack={STACK}"), 1).await?;
    Ok(ms(begun, ended))
}

/// When the last of the starts was.
async fn all(
    events: &mut Events,
    what: &str,
    fits: impl Fn(&Event) -> bool,
) -> anyhow::Result<i64> {
    let mut last = 0;
    for _ in 0..STARTS {
        last = last.max(events.wait(what, &fits).await?.at_ns);
    }
    Ok(last)
}

/// Waits until only so many containers with a label are left, and the engine is idle.
async fn gone(bench: &Bench, label: &str, left: usize) -> anyhow::Result<()> {
    let until = Instant::now() + GONE_LIMIT;
    while bench.engine.containers(label).await?.len() > left {
        ensure!(Instant::now() < until, "containers with {label} do not go");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    tokio::time::sleep(SETTLE).await;
    Ok(())
}

fn viking_yml(scale: usize) -> String {
    format!(
        "viking: {{name: {STACK}}}\ndeploy:\n  app:\n    image: viking/busybox:1\n    \
         run: sleep 1d\n    scale: {scale}\n"
    )
}
