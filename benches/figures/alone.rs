//! What the engine alone needs, asked in the same way and in the same run: the floor below which
//! nobody gets who uses it. Containers stand on a network of their own, as each stack's do; swarm's
//! and the script's stand on Docker's default one, whose start costs less (no resolver is set up).

use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::{Bench, now_ns, say};
use crate::engine::{Event, Events};
use crate::host::kill;
use crate::stats::{median, ms};

const ROUNDS: usize = 10;
pub(crate) const LABEL: &str = "viking.bench";
pub(crate) const NAME: &str = "alone";
const NETWORK: &str = "viking-bench-alone";
const IMAGE: &str = "viking/busybox:1";
/// Between two rounds: the engine is idle again.
const SETTLE: Duration = Duration::from_millis(500);

/// What is asked of the engine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    /// A container is made and started.
    Start,
    /// One whose process was killed is started again, as soon as its end is heard of.
    Restart,
    /// One that was stopped, without being given any time.
    Stop,
    /// One that was removed is made and started again.
    Remake,
}

/// Milliseconds until the engine's `start` event, round by round.
pub(crate) async fn alone(bench: &Bench, ask: Ask) -> anyhow::Result<Vec<f64>> {
    make_network(bench).await?;
    let mut events = bench.engine.events().await?;
    let mut times = Vec::new();
    for _ in 0..bench.rounds(ROUNDS).min(ROUNDS) {
        times.push(once(bench, &mut events, ask).await?);
        bench.engine.remove_all(&format!("{LABEL}={NAME}")).await?;
        tokio::time::sleep(SETTLE).await;
    }
    remove_network(bench).await?;
    say(&format!("engine alone, {ask:?}: {:.0} ms", median(&times)));
    Ok(times)
}

/// Makes the network that containers of [`run`] stand on.
pub(crate) async fn make_network(bench: &Bench) -> anyhow::Result<()> {
    let network = json!({ "Name": NETWORK, "Driver": "bridge", "CheckDuplicate": true });
    bench
        .engine
        .post("/networks/create", network)
        .await
        .map(drop)
}

/// Removes it again; nothing may be left on it.
pub(crate) async fn remove_network(bench: &Bench) -> anyhow::Result<()> {
    let path = format!("/networks/{NETWORK}");
    bench.engine.delete(&path).await.map(drop)
}

/// Makes and starts one container.
pub(crate) async fn run(bench: &Bench) -> anyhow::Result<()> {
    let id = create(bench).await?;
    start(bench, &id).await.map(drop)
}

async fn once(bench: &Bench, events: &mut Events, ask: Ask) -> anyhow::Result<f64> {
    let mut begun = now_ns();
    events.forget();
    let mut id = create(bench).await?;
    start(bench, &id).await?;
    if !matches!(ask, Ask::Start) {
        wait_start(events).await?;
        tokio::time::sleep(SETTLE).await;
        let pid = bench.engine.pid(&id).await?;
        events.forget();
        begun = now_ns();
        match ask {
            Ask::Start => {}
            Ask::Restart => {
                kill(pid, "KILL")?;
                let ended = |event: &Event| event.action == "die";
                events.wait("its end", ended).await?;
            }
            Ask::Stop => {
                let path = format!("/containers/{id}/stop?t=0");
                bench.engine.post(&path, json!({})).await?;
            }
            Ask::Remake => {
                bench.engine.remove(&id).await?;
                id = create(bench).await?;
            }
        }
        start(bench, &id).await?;
    }
    let started = wait_start(events).await?;
    Ok(ms(begun, started.at_ns))
}

async fn wait_start(events: &mut Events) -> anyhow::Result<Event> {
    events.wait("its start", |e| e.starts(LABEL, NAME)).await
}

async fn create(bench: &Bench) -> anyhow::Result<String> {
    let body = json!({
        "Image": IMAGE,
        "Cmd": ["sleep", "1d"],
        "Labels": { LABEL: NAME },
        "HostConfig": { "Init": true, "NetworkMode": NETWORK },
    });
    let made = bench.engine.post("/containers/create", body).await?;
    let id = made["Id"].as_str().unwrap_or_default();
    Ok(id.to_owned())
}

async fn start(bench: &Bench, id: &str) -> anyhow::Result<Value> {
    let path = format!("/containers/{id}/start");
    bench.engine.post(&path, json!({})).await
}
