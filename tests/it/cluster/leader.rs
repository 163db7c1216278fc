//! Candidates for leadership: the product's loops, and in place of the follower of a git
//! repository one that stages what a test pushed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use viking::clock::now_ms;
use viking::leader;
use viking::model::names::{StackName, Tag};
use viking::model::release::{Commit, RunId};
use viking::model::spec::ImageRef;
use viking::model::vikingfile::VikingFile;
use viking::model::world::{StackWorld, World};
use viking::schedule::compose::{self, compose};
use viking::schedule::rollout::{self, Room};
use viking::schedule::squeeze::squeeze;
use viking::schedule::{dispatch, roll};
use viking::store::election::{self, Leadership};
use viking::store::keys::{Family, Key};
use viking::store::tables::{Outcome, Tables};
use viking::wake::{self, Bell, Next};

use super::REGISTRY;

/// What makes the leader look again.
const WATCHED: [Family; 7] = [
    Family::Stack,
    Family::Member,
    Family::Release,
    Family::Deploy,
    Family::Host,
    Family::State,
    Family::Counter,
];

const INTERVAL: Duration = Duration::from_secs(15);
const TTL: Duration = Duration::from_secs(3);

/// A commit that was read and built, waiting to be staged.
#[derive(Clone)]
pub(super) struct Pushed {
    pub(super) file: VikingFile,
    pub(super) commit: Commit,
    pub(super) tag: Tag,
    pub(super) run: RunId,
    pub(super) external: BTreeMap<String, ImageRef>,
}

/// The newest push of each stack that is not staged yet.
#[derive(Clone, Default)]
pub(super) struct Pushes {
    waiting: Arc<Mutex<BTreeMap<StackName, Pushed>>>,
    bell: Bell,
}

impl Pushes {
    pub(super) fn push(&self, pushed: Pushed) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(pushed.file.stack.clone(), pushed);
        self.bell.ring();
    }

    pub(super) fn waiting(&self) -> Vec<Pushed> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.values().cloned().collect()
    }

    fn done(&self, done: &Pushed) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, pushed| pushed.tag != done.tag);
    }
}

/// Leads whenever elected.
pub(super) async fn candidate(
    name: String,
    tables: Tables,
    pushes: Pushes,
    runtime: Handle,
    shutdown: CancellationToken,
) {
    let key = tables.keys().text(&Key::Leader);
    while !shutdown.is_cancelled() {
        let store = tables.store();
        let elected = election::campaign(store, &key, &name, TTL, &runtime, &shutdown).await;
        let Some(leadership) = elected else { return };
        let leadership = Arc::new(leadership);
        lead(&tables, &leadership, &pushes, &shutdown).await;
        if let Some(leadership) = Arc::into_inner(leadership) {
            leadership.resign().await;
        }
    }
}

async fn lead(
    tables: &Tables,
    leadership: &Arc<Leadership>,
    pushes: &Pushes,
    shutdown: &CancellationToken,
) {
    let stop = shutdown.child_token();
    let tasks = TaskTracker::new();
    let bell = Bell::new();
    let prefixes = WATCHED.map(|family| tables.keys().family(family));
    let (rung, ring, until) = (tables.clone(), bell.clone(), stop.clone());
    tasks.spawn(async move { rung.ring(&ring, &prefixes, &until).await });
    let (t, l) = (tables.clone(), Arc::clone(leadership));
    tasks.spawn(dispatch::run(t, l, bell.ear(), stop.clone()));
    let (t, l) = (tables.clone(), Arc::clone(leadership));
    let (progress, _) = broadcast::channel(16);
    tasks.spawn(roll::run(t, l, progress, bell.ear(), stop.clone()));
    let (t, l) = (tables.clone(), Arc::clone(leadership));
    tasks.spawn(see_off(t, l, bell.clone(), stop.clone()));
    let (t, l, p) = (tables.clone(), Arc::clone(leadership), pushes.clone());
    tasks.spawn(follow(t, l, p, stop.clone()));
    tokio::select! {
        () = stop.cancelled() => {}
        () = leadership.lost().cancelled_owned() => {}
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

async fn see_off(tables: Tables, leadership: Arc<Leadership>, bell: Bell, stop: CancellationToken) {
    wake::run("stacks", INTERVAL, bell.ear(), stop, || async {
        let world = tables.world(now_ms()).await?;
        leader::see_off(&tables, &leadership, &world).await?;
        Ok(Next::OnChange)
    })
    .await;
}

async fn follow(
    tables: Tables,
    leadership: Arc<Leadership>,
    pushes: Pushes,
    stop: CancellationToken,
) {
    wake::run("follow", INTERVAL, pushes.bell.ear(), stop, || async {
        let mut next = Next::OnChange;
        for pushed in pushes.waiting() {
            let world = tables.world(now_ms()).await?;
            match stage(&tables, &leadership, &world, &pushed).await? {
                Staged::Done => pushes.done(&pushed),
                Staged::Later => next = Next::After(Duration::from_secs(1)),
            }
        }
        Ok(next)
    })
    .await;
}

pub(super) enum Staged {
    Done,
    Later,
}

pub(super) async fn stage(
    tables: &Tables,
    leadership: &Leadership,
    world: &World,
    pushed: &Pushed,
) -> anyhow::Result<Staged> {
    let name = &pushed.file.stack;
    let stack = world.stacks.get(name);
    if world.frozen_stacks.contains(name) {
        return Ok(Staged::Later);
    }
    if stack.is_some_and(|stack| stack.releases.contains_key(&pushed.tag)) {
        return Ok(Staged::Done); // its answer got lost
    }
    let mut extra = Vec::new();
    match rollout::room(world, name, &pushed.commit) {
        Room::Free => {}
        Room::Supersedes(end) => extra.push(tables.history_op(name, &end)),
        Room::Wait(_) => return Ok(Staged::Later),
    }
    let (mut release, procs) = compose(compose::Parts {
        file: &pushed.file,
        commit: pushed.commit.clone(),
        tag: pushed.tag.clone(),
        run: pushed.run.clone(),
        now_ms: world.now_ms,
        images: BTreeMap::new(),
        external: pushed.external.clone(),
        foreign: BTreeMap::new(),
        env: &world.env,
        live: stack.and_then(StackWorld::live),
    })?;
    squeeze(world, &mut release);
    let mut pointer = stack.map(|stack| stack.pointer.clone()).unwrap_or_default();
    pointer.stage(&release, world.now_ms);
    let revision = stack.map_or(0, |stack| stack.pointer_revision);
    let outcome = tables
        .stage(
            leadership, &release, &procs, REGISTRY, &pointer, revision, extra,
        )
        .await?;
    Ok(match outcome {
        Outcome::Done(_) => Staged::Done,
        Outcome::Conflict | Outcome::Deposed => Staged::Later,
    })
}
