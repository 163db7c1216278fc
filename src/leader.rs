//! What the elected host runs besides its worker: the built-in registry, one follower per stack,
//! dispatch and rollout. Started by `host` with a `Leadership`, ended when that is lost. Decides
//! nothing itself: it reads, asks the stages, and writes what they say.

mod apply;
mod bootstrap;
mod follow;
mod foresee;
mod make;
mod orders;
mod people;
mod replicate;
mod stage;
mod sweep;
mod timing;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::acme::{self, Covered};
use crate::build::Places;
use crate::build::copies::Copies;
use crate::build::registry::Registry;
use crate::clock::now_ms;
use crate::config::Config;
use crate::docker::SharedEngine;
use crate::model::names::StackName;
use crate::schedule::{dispatch, roll};
use crate::store::election::Leadership;
use crate::store::keys::Family;
use crate::store::tables::Tables;
use crate::sync::Mirrors;
use crate::wake::{self, Bell, Next, ProgressSink};

pub use foresee::{Unforeseen, foresee};
pub use people::{add, see_off};

/// A full look at the list of stacks at least this often.
const INTERVAL: Duration = Duration::from_secs(15);

/// Between two looks at the length of histories.
const TRIM_EVERY: Duration = Duration::from_secs(300);

/// What makes the leader look again.
const WATCHED: &[Family] = &[
    Family::Stack,
    Family::Member,
    Family::Release,
    Family::Deploy,
    Family::Host,
    Family::State,
    Family::Counter,
];

/// What makes it look for orders: people gave one or set a variable, a pointer has room, or a stack is
/// resumed.
const ORDERED: &[Family] = &[Family::Request, Family::Env, Family::Release, Family::Stack];

/// What every part of the leader needs.
#[derive(Clone)]
pub struct Parts {
    /// The store's typed side.
    pub tables: Tables,
    /// This host's Docker, where images are built.
    pub engine: SharedEngine,
    /// Mirrors of the stacks' repositories.
    pub mirrors: Mirrors,
    /// Where images go.
    pub registry: Arc<dyn Registry>,
    /// Its copies, one at a time.
    pub copies: Arc<dyn Copies>,
    /// Where builds of all stacks wait for their turn.
    pub builds: Places,
    /// Which domains the operator's own certificates cover.
    pub covered: Covered,
    /// What the operator decided.
    pub config: Config,
    /// Where people hear how it goes.
    pub progress: ProgressSink,
}

/// Leads until shutdown or until the leadership is lost.
pub async fn run(parts: Parts, leadership: Arc<Leadership>, shutdown: CancellationToken) {
    let stop = shutdown.child_token();
    let tasks = TaskTracker::new();
    let bell = Bell::new();
    watch(&parts.tables, &bell, WATCHED, &stop, &tasks);

    let essential = |part: BoxFuture<'static, ()>| {
        // When a part ends before its time, by a panic too, all stand down and campaign anew.
        let guard = stop.clone().drop_guard();
        tasks.spawn(async move {
            part.await;
            drop(guard);
        });
    };
    let (tables, ear) = (&parts.tables, || bell.ear());
    let lead = || Arc::clone(&leadership);
    essential(Box::pin(bootstrap::run(
        parts.clone(),
        lead(),
        ear(),
        stop.clone(),
    )));
    essential(Box::pin(replicate::run(
        parts.clone(),
        lead(),
        ear(),
        stop.clone(),
    )));
    essential(Box::pin(dispatch::run(
        tables.clone(),
        lead(),
        ear(),
        stop.clone(),
    )));
    let progress = parts.progress.clone();
    essential(Box::pin(roll::run(
        tables.clone(),
        lead(),
        progress,
        ear(),
        stop.clone(),
    )));
    let orders = Bell::new();
    watch(&parts.tables, &orders, ORDERED, &stop, &tasks);
    essential(Box::pin(orders::run(
        parts.clone(),
        lead(),
        orders.ear(),
        stop.clone(),
    )));
    essential(Box::pin(acme::run(
        certificates(&parts),
        lead(),
        ear(),
        stop.clone(),
    )));
    essential(Box::pin(trim(tables.clone(), lead(), stop.clone())));
    essential(Box::pin(sweep::run(parts.clone(), lead(), stop.clone())));
    let follow = follow_all(
        parts.clone(),
        lead(),
        bell.clone(),
        stop.clone(),
        tasks.clone(),
    );
    essential(Box::pin(follow));

    let lost = leadership.lost();
    tokio::select! {
        () = stop.cancelled() => {}
        () = lost.cancelled() => tracing::warn!("leadership lost: standing down"),
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

fn certificates(parts: &Parts) -> acme::Parts {
    acme::Parts {
        tables: parts.tables.clone(),
        settings: parts.config.front.acme.clone(),
        covered: Arc::clone(&parts.covered),
    }
}

/// Keeps histories and events within their bounds.
async fn trim(tables: Tables, leadership: Arc<Leadership>, stop: CancellationToken) {
    wake::run("trim", TRIM_EVERY, Bell::new().ear(), stop, || async {
        tables.trim(&leadership).await?;
        Ok(Next::OnChange)
    })
    .await;
}

/// Rings a bell whenever something in these families changes.
fn watch(
    tables: &Tables,
    bell: &Bell,
    families: &[Family],
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let prefixes: Vec<_> = families
        .iter()
        .map(|family| tables.keys().family(*family))
        .collect();
    let (tables, bell, stop) = (tables.clone(), bell.clone(), stop.clone());
    tasks.spawn(async move { tables.ring(&bell, &prefixes, &stop).await });
}

/// Keeps of the mirrors what stacks still follow, and there the commits they are at.
async fn tidy_mirrors(parts: &Parts) -> anyhow::Result<()> {
    let world = parts.tables.world(now_ms()).await?;
    let wanted = world.stacks.values().filter_map(|stack| {
        let pointer = &stack.pointer;
        let seen = pointer.source.iter().filter_map(|s| s.seen.as_ref());
        let building = pointer.building.iter().map(|b| &b.commit);
        let released = [stack.live(), stack.staged()];
        let released = released.into_iter().flatten().map(|r| &r.commit);
        let commits = seen.chain(building).chain(released).map(|c| c.id.clone());
        Some((stack.source.clone()?, commits.collect()))
    });
    let wanted: Vec<_> = wanted.collect();
    Ok(parts.mirrors.tidy(&wanted).await?)
}

/// Keeps one follower per stack with a source, and sees removed stacks off.
async fn follow_all(
    parts: Parts,
    leadership: Arc<Leadership>,
    bell: Bell,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    // Before anybody looks at a remote again.
    if let Err(error) = tidy_mirrors(&parts).await {
        tracing::warn!("tidying the mirrors: {error:#}");
    }
    let followers: Mutex<BTreeMap<StackName, (CancellationToken, JoinHandle<()>)>> =
        Mutex::default();
    wake::run("stacks", INTERVAL, bell.ear(), stop.clone(), || async {
        let world = parts.tables.world(now_ms()).await?;
        {
            let mut running = followers.lock().unwrap_or_else(PoisonError::into_inner);
            running.retain(|name, (token, task)| {
                let stays = world
                    .stacks
                    .get(name)
                    .is_some_and(|stack| stack.source.is_some());
                if !stays {
                    token.cancel();
                }
                // One that panicked is started again.
                stays && !task.is_finished()
            });
            for (name, stack) in &world.stacks {
                if stack.source.is_some() && !running.contains_key(name) {
                    let token = stop.child_token();
                    let (parts, leadership) = (parts.clone(), leadership.clone());
                    let follow = follow::run(parts, leadership, name.clone(), token.clone());
                    running.insert(name.clone(), (token, tasks.spawn(follow)));
                }
            }
        }
        see_off(&parts.tables, &leadership, &world).await?;
        Ok(Next::OnChange)
    })
    .await;
}
