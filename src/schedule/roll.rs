//! The loop around `rollout`: read the world, take each stack's next step, write it. Runs on the
//! leader only.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::losses;
use super::rollout::{self, Step};
use crate::clock::now_ms;
use crate::model::history::EventRecord;
use crate::model::names::StackName;
use crate::model::progress::{Progress, Stage};
use crate::model::release::{Phase, RunId};
use crate::model::world::World;
use crate::store::election::Leadership;
use crate::store::tables::{Outcome, Tables, event_number};
use crate::wake::{self, Ear, Next, ProgressSink};

/// A full look at least this often: events are hints.
const INTERVAL: Duration = Duration::from_secs(15);

/// Steps until shutdown or the end of the leadership.
pub async fn run(
    tables: Tables,
    leadership: Arc<Leadership>,
    progress: ProgressSink,
    ear: Ear,
    shutdown: CancellationToken,
) {
    wake::run("rollout", INTERVAL, ear, shutdown, || {
        step(&tables, &leadership, &progress)
    })
    .await;
}

async fn step(
    tables: &Tables,
    leadership: &Leadership,
    progress: &ProgressSink,
) -> anyhow::Result<Next> {
    let mut world = tables.world(now_ms()).await?;
    // What a rollout says of its plan is only said; dispatch decides what is lost.
    world.lost = losses::noted(&world);
    let mut moved = false;
    let mut failed = Vec::new();
    for name in world.stacks.keys() {
        let Some(step) = rollout::step(&world, name) else {
            continue;
        };
        match write(tables, leadership, progress, &world, name, step).await {
            Ok(written) => moved |= written,
            // The others still get their step.
            Err(error) => failed.push(format!("{name}: {error:#}")),
        }
    }
    if !failed.is_empty() {
        anyhow::bail!("writing the next step of {}", failed.join("; "));
    }
    // The next step of a stack that moved may be due already.
    Ok(if moved {
        Next::After(Duration::ZERO)
    } else {
        Next::OnChange
    })
}

async fn write(
    tables: &Tables,
    leadership: &Leadership,
    progress: &ProgressSink,
    world: &World,
    name: &StackName,
    step: Step,
) -> anyhow::Result<bool> {
    let expected = world
        .stacks
        .get(name)
        .map_or(0, |stack| stack.pointer_revision);
    let run = step
        .pointer
        .run
        .clone()
        .unwrap_or_else(|| RunId::new(world.now_ms, 0));
    let event = EventRecord {
        v: 1,
        at_ms: world.now_ms,
        who: "leader".to_owned(),
        about: name.to_string(),
        what: step.event.0.to_owned(),
        why: step.event.1.clone(),
        placed: Vec::new(),
    };
    let mut extra = vec![tables.event_op(name, &run, event_number(world.now_ms), &event)];
    if let Some(mut end) = step.end {
        end.placed = tables.placed_in(name, &end.run).await?;
        extra.push(tables.history_op(name, &end));
    }
    if step.event.0 == "live" {
        crate::failpoint::hit("promote");
    }
    if step.event.0 == "cutting" {
        crate::failpoint::hit("cut");
    }
    let outcome = tables
        .set_pointer(leadership, name, &step.pointer, expected, extra)
        .await?;
    if !matches!(outcome, Outcome::Done(_)) {
        return Ok(false);
    }
    tracing::info!(stack = %name, phase = %step.pointer.phase, "{}: {}", step.event.0, step.event.1);
    let stage = match step.pointer.phase {
        Phase::Failed => Stage::Failed,
        Phase::Live => Stage::Live,
        Phase::Building
        | Phase::Staging
        | Phase::Cutting
        | Phase::Reverting
        | Phase::Superseded => Stage::Stage,
    };
    let line = format!("{}: {}", step.event.0, step.event.1);
    let at_ms = world.now_ms;
    // Nobody listening is fine.
    drop(progress.send(Progress {
        stack: name.clone(),
        run: Some(run),
        at_ms,
        stage,
        about: String::new(),
        line,
    }));
    Ok(true)
}
