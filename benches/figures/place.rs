//! P7: from a job in the store to its container's start, on a bridge network, against
//! `POST /services/create` in swarm mode. viking's beginning is the release's own time, which is
//! taken just before the transaction that writes `/proc`, in whole milliseconds rounded down: all of
//! planning, assigning and starting lies behind it. The end is the engine's `start` event for both.

use std::time::Duration;

use crate::alone::{Ask, alone};
use crate::bench::{Bench, now_ns, say};
use crate::engine::Events;
use crate::host::{Host, NEVER_MS};
use crate::repo::Repo;
use crate::stats::{Row, ms};
use crate::swarm::{Swarm, digest_of};

const ROUNDS: usize = 30;
const STACK: &str = "place";
const SERVICE: &str = "place";
/// Between removing one and the next: the engine is idle again.
const SETTLE: Duration = Duration::from_millis(300);

pub(crate) async fn place(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let host = Host::start(bench, "p7", &bench.socket).await?;
    let measured = measure(bench, &host).await;
    host.end(bench).await?;
    measured
}

async fn measure(bench: &Bench, host: &Host) -> anyhow::Result<Vec<Row>> {
    let repo = Repo::new(&bench.work.join("p7"))?;
    repo.write("viking.yml", &viking_yml(0))?;
    let first = repo.push("first")?;
    host.add(&repo.remote, NEVER_MS).await?;
    host.live(STACK, &first).await?;
    let image = digest_of(bench, STACK).await?;
    let swarm = Swarm::start(bench, image).await?;
    let mut events = bench.engine.events().await?;
    let (mut peer, mut viking) = (Vec::new(), Vec::new());
    for round in 0..=bench.rounds(ROUNDS) {
        let theirs = create(&swarm, &mut events).await?;
        let ours = stage(host, &repo, &mut events, round + 1).await?;
        say(&format!(
            "{round}: swarm {theirs:.0} ms, viking {ours:.0} ms"
        ));
        if round > 0 {
            peer.push(theirs);
            viking.push(ours);
        }
    }
    swarm.end().await?;
    let floor = alone(bench, Ask::Start).await?;
    let name = "P7 job written → container started, bridge";
    Ok(vec![Row::ratio(name, &peer, &viking, 0.65).beside(&floor)])
}

async fn create(swarm: &Swarm, events: &mut Events) -> anyhow::Result<f64> {
    events.forget();
    let begun = now_ns();
    swarm.create(SERVICE, 1).await?;
    let fits = |event: &_| Swarm::starts(event, SERVICE);
    let started = events.wait("swarm's container", fits).await?;
    swarm.remove(SERVICE).await?;
    let id = started.id.clone();
    let gone = |event: &crate::engine::Event| event.action == "destroy" && event.id == id;
    events.wait("the end of swarm's container", gone).await?;
    tokio::time::sleep(SETTLE).await;
    Ok(ms(begun, started.at_ns))
}

async fn stage(host: &Host, repo: &Repo, events: &mut Events, round: usize) -> anyhow::Result<f64> {
    repo.write("viking.yml", &viking_yml(round))?;
    let commit = repo.push("next")?;
    events.forget();
    host.sync(STACK).await?;
    let fits = |event: &crate::engine::Event| event.starts("viking.stack", STACK);
    let started = events.wait("viking's container", fits).await?;
    let begun = host.made_ns(STACK, &commit).await?;
    host.live(STACK, &commit).await?;
    tokio::time::sleep(SETTLE).await;
    Ok(ms(begun, started.at_ns))
}

fn viking_yml(round: usize) -> String {
    format!(
        "viking: {{name: {STACK}}}\ndeploy:\n  app:\n    image: viking/busybox:1\n    \
         run: sleep 1d\n    env: {{ROUND: \"{round}\"}}\n"
    )
}
