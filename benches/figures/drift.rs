//! P14: somebody's hand on a job's container; how long until it is as wanted again. No peer: the
//! limits are absolute. The beginning is before the request that does the damage is sent.

use std::time::Duration;

use serde_json::json;

use crate::alone::{Ask, alone};
use crate::bench::{Bench, now_ns, say};
use crate::engine::{Event, Events};
use crate::host::{Host, NEVER_MS};
use crate::proxy::Proxy;
use crate::repo::Repo;
use crate::stats::{Row, ms};

const ROUNDS: usize = 30;
const STACK: &str = "drift";
/// Times with the event stream frozen: each takes up to a full pass.
const FROZEN_ROUNDS: usize = 3;
const SETTLE: Duration = Duration::from_millis(2_500);
/// Repairs, and removals of what viking never asked for.
const REPAIR_MS: f64 = 500.0;
const REMOVE_MS: f64 = 2_000.0;
/// With events frozen: the pass that looks at everything comes every 10 s.
const FROZEN_MS: f64 = 10_500.0;

/// What somebody does.
#[derive(Debug, Clone, Copy)]
enum Hand {
    Remove,
    Stop,
    Pause,
    Limit,
}

impl Hand {
    fn name(self) -> &'static str {
        match self {
            Self::Remove => "P14 `docker rm -f` → started again",
            Self::Stop => "P14 `docker stop` → started again",
            Self::Pause => "P14 `docker pause` → thawed",
            Self::Limit => "P14 `docker update --memory` → limit set back",
        }
    }

    /// The engine's event that says it is repaired.
    fn repaired(self) -> &'static str {
        match self {
            Self::Remove | Self::Stop => "start",
            Self::Pause => "unpause",
            Self::Limit => "update",
        }
    }
}

pub(crate) async fn drift(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let proxy = Proxy::start(bench.work.join("p14.sock"), &bench.socket)?;
    let host = Host::start(bench, "p14", &proxy.socket).await?;
    let measured = measure(bench, &host, &proxy).await;
    host.end(bench).await?;
    bench.engine.remove_all("viking.bench").await?;
    measured
}

async fn measure(bench: &Bench, host: &Host, proxy: &Proxy) -> anyhow::Result<Vec<Row>> {
    let repo = Repo::new(&bench.work.join("p14"))?;
    repo.write("viking.yml", &viking_yml())?;
    let first = repo.push("first")?;
    host.add(&repo.remote, NEVER_MS).await?;
    host.live(STACK, &first).await?;
    let mut events = bench.engine.events().await?;
    let mut rows = Vec::new();
    for hand in [Hand::Remove, Hand::Stop, Hand::Pause, Hand::Limit] {
        let mut times = Vec::new();
        for round in 0..bench.rounds(ROUNDS) {
            let time = damage(bench, &mut events, hand).await?;
            say(&format!("{hand:?} {round}: {time:.0} ms"));
            times.push(time);
            tokio::time::sleep(SETTLE).await;
        }
        let row = Row::p99(hand.name(), &times, REPAIR_MS);
        rows.push(match hand {
            Hand::Remove => row.beside(&alone(bench, Ask::Remake).await?),
            Hand::Stop => row.beside(&alone(bench, Ask::Stop).await?),
            Hand::Pause | Hand::Limit => row,
        });
    }
    rows.push(strangers(bench, &mut events).await?);
    let mut times = Vec::new();
    proxy.freeze_events(true);
    for _ in 0..bench.rounds(FROZEN_ROUNDS).min(FROZEN_ROUNDS) {
        times.push(damage(bench, &mut events, Hand::Remove).await?);
        tokio::time::sleep(SETTLE).await;
    }
    proxy.freeze_events(false);
    let name = "P14 `docker rm -f` with the event stream frozen";
    rows.push(Row::p99(name, &times, FROZEN_MS));
    Ok(rows)
}

async fn damage(bench: &Bench, events: &mut Events, hand: Hand) -> anyhow::Result<f64> {
    let found = bench
        .engine
        .containers(&format!("viking.stack={STACK}"))
        .await?;
    let running = found
        .iter()
        .find(|container| container["State"] == "running");
    let id = running.and_then(|container| container["Id"].as_str());
    let id = id.unwrap_or_default().to_owned();
    events.forget();
    let begun = now_ns();
    match hand {
        Hand::Remove => bench.engine.remove(&id).await?,
        Hand::Stop => post(bench, &id, "stop?t=0").await?,
        Hand::Pause => post(bench, &id, "pause").await?,
        Hand::Limit => limit(bench, events, &id).await?,
    }
    let fits = |event: &Event| event.action == hand.repaired() && event.has("viking.stack", STACK);
    let repaired = events.wait("the repair", fits).await?;
    Ok(ms(begun, repaired.at_ns))
}

async fn post(bench: &Bench, id: &str, what: &str) -> anyhow::Result<()> {
    let path = format!("/containers/{id}/{what}");
    bench.engine.post(&path, json!({})).await.map(drop)
}

/// Sets another limit, and waits for the event of that so that the next one is the repair.
async fn limit(bench: &Bench, events: &mut Events, id: &str) -> anyhow::Result<()> {
    let other = json!({ "Memory": 99 << 20, "MemorySwap": 99 << 20 });
    let path = format!("/containers/{id}/update");
    bench.engine.post(&path, other).await?;
    events
        .wait("the update", |event| event.action == "update")
        .await
        .map(drop)
}

/// Containers started by hand with the labels of a job: nobody asked for them, so they go.
async fn strangers(bench: &Bench, events: &mut Events) -> anyhow::Result<Row> {
    let found = bench
        .engine
        .containers(&format!("viking.stack={STACK}"))
        .await?;
    let labels = found.first().map(|container| container["Labels"].clone());
    let mut labels = labels.unwrap_or_default();
    labels["viking.bench"] = json!("stranger");
    let body = json!({
        "Image": "viking/busybox:1",
        "Cmd": ["sleep", "1d"],
        "Labels": labels,
        // Without it the process ignores the signal to stop, and is given all the time it has.
        "HostConfig": { "Init": true },
    });
    let mut times = Vec::new();
    for round in 0..bench.rounds(ROUNDS) {
        events.forget();
        let begun = now_ns();
        let made = bench
            .engine
            .post("/containers/create", body.clone())
            .await?;
        let id = made["Id"].as_str().unwrap_or_default();
        // It may be gone before it runs.
        post(bench, id, "start").await.ok();
        let gone = |event: &Event| event.action == "destroy" && event.id == id;
        let gone = events.wait("the stranger's end", gone).await?;
        times.push(ms(begun, gone.at_ns));
        say(&format!(
            "stranger {round}: {:.0} ms",
            ms(begun, gone.at_ns)
        ));
    }
    let name = "P14 container started by hand with a job's labels → removed";
    Ok(Row::p99(name, &times, REMOVE_MS))
}

fn viking_yml() -> String {
    format!(
        "viking: {{name: {STACK}}}\ndeploy:\n  app:\n    image: viking/busybox:1\n    \
         run: sleep 1d\n    resources: {{memory: 64M}}\n    stop: {{timeout: 1s}}\n"
    )
}
