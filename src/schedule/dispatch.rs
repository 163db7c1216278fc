//! The loop around `dowding`: read the world, plan, check, write. Runs on the leader only. What the
//! checks refuse of one stack holds up no other.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::losses::{Judgement, Losses, Signs};
use super::{check, dowding, relocate, retire};
use crate::clock::now_ms;
use crate::model::host::LEASE_TTL;
use crate::model::names::HostName;
use crate::model::plan::Plan;
use crate::model::world::World;
use crate::store::election::Leadership;
use crate::store::tables::{Outcome, Tables};
use crate::wake::{self, Ear, Next};

/// A full look at least this often: events are hints.
const INTERVAL: Duration = Duration::from_secs(15);

/// Until the next look when something else was written meanwhile, or somebody else leads, which is
/// heard of in a moment.
const AGAIN: Duration = Duration::from_millis(100);

/// Lines of the log about one plan, of a kind: of each the store has an event besides.
const SAID_MAX: usize = 100;

/// Plans until shutdown or the end of the leadership.
pub async fn run(
    tables: Tables,
    leadership: Arc<Leadership>,
    ear: Ear,
    shutdown: CancellationToken,
) {
    let losses = Mutex::new(Watch::default());
    wake::run("dispatch", INTERVAL, ear, shutdown, || {
        step(&tables, &leadership, &losses)
    })
    .await;
}

/// What dispatch remembers between two steps.
#[derive(Default)]
struct Watch {
    losses: Losses,
    /// What was said last of hosts that are gone.
    said: String,
}

impl Watch {
    fn judge(&mut self, world: &World, tables: &Tables, leadership: &Leadership) -> Judgement {
        let signs = Signs {
            now: leadership.since().elapsed(),
            leads_since: Duration::ZERO,
            stalled: tables.stalled_within(LEASE_TTL),
        };
        let judgement = self.losses.judge(world, signs);
        let lost: Vec<_> = judgement.lost.iter().map(HostName::as_str).collect();
        let say = match (&judgement.held, &lost[..]) {
            (Some(held), _) => held.clone(),
            (None, []) => String::new(),
            (None, lost) => format!("lost, so what can move does: {}", lost.join(", ")),
        };
        if say != self.said && !say.is_empty() {
            tracing::warn!("{say}");
        }
        self.said = say;
        judgement
    }
}

async fn step(
    tables: &Tables,
    leadership: &Leadership,
    watch: &Mutex<Watch>,
) -> anyhow::Result<Next> {
    let mut world = tables.world(now_ms()).await?;
    let judgement = {
        let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.judge(&world, tables, leadership)
    };
    world.lost = judgement.lost;
    tables.note_gone(leadership, &world).await?;
    let (plan, complaints) = check::sound(&world, dowding::plan(&world));
    for check::Complaint { stack, what } in &complaints {
        tracing::warn!(%stack, "nothing of it is planned, which would break an invariant: {what}");
    }
    if !plan.is_empty() {
        say(&plan);
        let outcome = tables.assign(leadership, &plan).await?;
        if !matches!(outcome, Outcome::Done(_)) {
            tracing::debug!(?outcome, "the plan was not written whole: planning anew");
            return Ok(Next::After(AGAIN));
        }
    }
    Ok(next_look(&world, judgement.again))
}

/// Tells the log what is about to be done.
fn say(plan: &Plan) {
    let Plan {
        start, flip, stop, ..
    } = plan;
    for start in start.iter().take(SAID_MAX) {
        tracing::info!(job = %start.job, host = %start.host, "start: {}", start.reason());
    }
    for flip in flip.iter().take(SAID_MAX) {
        tracing::info!(job = %flip.job, from = %flip.from, to = %flip.to, "moved: {}", flip.reason);
    }
    for stop in stop.iter().take(SAID_MAX) {
        tracing::info!(job = %stop.placement.job, host = %stop.placement.host, "stop: {}", stop.reason);
    }
    if [start.len(), flip.len(), stop.len()]
        .iter()
        .any(|n| *n > SAID_MAX)
    {
        let (start, flip, stop) = (start.len(), flip.len(), stop.len());
        tracing::info!("in all: {start} start, {flip} moved, {stop} stop");
    }
}

/// Draining ends by the clock, and so do doubts: somebody must look then.
fn next_look(world: &World, doubts: Option<Duration>) -> Next {
    let moved = world
        .assignments
        .values()
        .filter_map(|placed| relocate::drain_left_ms(world, placed))
        .map(|left| left + 1);
    let left = world
        .stacks
        .values()
        .filter_map(|stack| Some((stack, stack.retiring()?)))
        .flat_map(|(stack, retiring)| {
            let waited = world.now_ms.saturating_sub(stack.pointer.since_ms);
            let limits = retiring.nodes.values().map(retire::drain_limit_ms);
            let ends = limits.chain([retire::DRAIN_MS]);
            ends.map(move |end| end.saturating_sub(waited) + 1)
        })
        .chain(moved)
        .filter(|left| *left > 1)
        .map(Duration::from_millis)
        .chain(doubts)
        .min();
    left.map_or(Next::OnChange, Next::After)
}
