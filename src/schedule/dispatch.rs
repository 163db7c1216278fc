//! The loop around `dowding`: read the world, plan, check, write. Runs on the leader only. What the
//! checks refuse of one stack holds up no other.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{check, dowding};
use crate::model::world::World;
use crate::store::election::Leadership;
use crate::store::tables::Tables;
use crate::wake::{self, Ear, Next, now_ms};

/// A full look at least this often: events are hints.
const INTERVAL: Duration = Duration::from_secs(15);

/// Plans until shutdown or the end of the leadership.
pub async fn run(
    tables: Tables,
    leadership: Arc<Leadership>,
    ear: Ear,
    shutdown: CancellationToken,
) {
    wake::run("dispatch", INTERVAL, ear, shutdown, || {
        step(&tables, &leadership)
    })
    .await;
}

async fn step(tables: &Tables, leadership: &Leadership) -> anyhow::Result<Next> {
    let world = tables.world(now_ms()).await?;
    let (plan, complaints) = check::sound(&world, dowding::plan(&world));
    for check::Complaint { stack, what } in &complaints {
        tracing::warn!(%stack, "nothing of it is planned, which would break an invariant: {what}");
    }
    if !plan.is_empty() {
        for start in &plan.start {
            tracing::info!(job = %start.job, host = %start.host, "start: {}", start.reason);
        }
        for stop in &plan.stop {
            tracing::info!(job = %stop.placement.job, host = %stop.placement.host, "stop: {}", stop.reason);
        }
        tables.assign(leadership, &plan).await?;
    }
    Ok(next_look(&world))
}

/// Draining ends by the clock, so somebody must look then.
fn next_look(world: &World) -> Next {
    let left = world
        .stacks
        .values()
        .filter(|stack| stack.pointer.retiring.is_some())
        .flat_map(|stack| {
            let waited = world.now_ms.saturating_sub(stack.pointer.since_ms);
            [dowding::DRAIN_MS, dowding::DRAIN_MS_MAX].map(|end| end.saturating_sub(waited) + 1)
        })
        .filter(|left| *left > 1)
        .min();
    left.map_or(Next::OnChange, |left| {
        Next::After(Duration::from_millis(left))
    })
}
