//! P9: a container's process is killed; how long until its replacement starts, against swarm mode
//! with a restart delay of 0. Each job is killed once: a second failure soon after is meant to wait.

use std::time::Duration;

use anyhow::ensure;

use crate::alone::{Ask, alone};
use crate::bench::{Bench, now_ns, say};
use crate::engine::{Event, Events};
use crate::host::{Host, NEVER_MS, kill};
use crate::repo::Repo;
use crate::stats::{Row, ms};
use crate::swarm::{Swarm, digest_of};

const KILLS: usize = 30;
const STACK: &str = "kill";
const SERVICE: &str = "kill";
/// Between two kills: whatever follows the last one has ended.
const SETTLE: Duration = Duration::from_millis(700);
/// Between two looks whether all replicas run.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(crate) async fn kill_one_by_one(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let host = Host::start(bench, "p9", &bench.socket).await?;
    let measured = measure(bench, &host).await;
    host.end(bench).await?;
    measured
}

async fn measure(bench: &Bench, host: &Host) -> anyhow::Result<Vec<Row>> {
    let kills = bench.rounds(KILLS);
    let repo = Repo::new(&bench.work.join("p9"))?;
    // One more than is counted: the first pair warms up.
    repo.write("viking.yml", &viking_yml(kills + 1))?;
    let first = repo.push("first")?;
    host.add(&repo.remote, NEVER_MS).await?;
    host.live(STACK, &first).await?;
    let ours = ids(&bench
        .engine
        .containers(&format!("viking.stack={STACK}"))
        .await?);
    let swarm = Swarm::start(bench, digest_of(bench, STACK).await?).await?;
    swarm.create(SERVICE, kills + 1).await?;
    while swarm.running(SERVICE).await?.len() <= kills {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let theirs = ids(&swarm.running(SERVICE).await?);
    ensure!(
        ours.len() > kills && theirs.len() > kills,
        "not all copies run"
    );
    tokio::time::sleep(SETTLE * 3).await;
    let mut events = bench.engine.events().await?;
    let (mut peer, mut viking) = (Vec::new(), Vec::new());
    for (round, (their, our)) in theirs.iter().zip(&ours).enumerate() {
        let fits = |event: &Event| Swarm::starts(event, SERVICE);
        let theirs = replaced(bench, &mut events, their, fits).await?;
        let fits = |event: &Event| event.starts("viking.stack", STACK);
        let ours = replaced(bench, &mut events, our, fits).await?;
        say(&format!(
            "{round}: swarm {theirs:.0} ms, viking {ours:.0} ms"
        ));
        if round > 0 {
            peer.push(theirs);
            viking.push(ours);
        }
    }
    swarm.end().await?;
    let floor = alone(bench, Ask::Restart).await?;
    let name = "P9 container killed → replacement started";
    Ok(vec![Row::ratio(name, &peer, &viking, 0.5).beside(&floor)])
}

async fn replaced(
    bench: &Bench,
    events: &mut Events,
    id: &str,
    fits: impl Fn(&Event) -> bool,
) -> anyhow::Result<f64> {
    let pid = bench.engine.pid(id).await?;
    events.forget();
    let begun = now_ns();
    kill(pid, "KILL")?;
    let started = events.wait("the replacement", fits).await?;
    tokio::time::sleep(SETTLE).await;
    Ok(ms(begun, started.at_ns))
}

fn ids(containers: &[serde_json::Value]) -> Vec<String> {
    let id = |container: &serde_json::Value| container["Id"].as_str().map(str::to_owned);
    containers.iter().filter_map(id).collect()
}

fn viking_yml(scale: usize) -> String {
    format!(
        "viking: {{name: {STACK}}}\ndeploy:\n  app:\n    image: viking/busybox:1\n    \
         run: sleep 1d\n    scale: {scale}\n"
    )
}
