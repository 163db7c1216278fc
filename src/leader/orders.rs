//! Obeys what people ask of a stack apart from looks at its source: rollback, restart, retry; and gives
//! stacks the shared variables that were set anew. One loop for all stacks; what becomes of an order is
//! `schedule::order`'s to say, and who gets which variables `schedule::variables`'. A request is
//! deleted by the very transaction that obeys or refuses it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Parts, follow, make};
use crate::clock::now_ms;
use crate::model::history::RunEnd;
use crate::model::names::{StackName, Tag};
use crate::model::release::{Again, Pointer, Release, RunId};
use crate::model::world::{StackWorld, World};
use crate::schedule::order::{self, Obeyed, Order, Ready, Refused};
use crate::schedule::variables;
use crate::store;
use crate::store::Op;
use crate::store::election::Leadership;
use crate::store::tables::{self, Outcome};
use crate::wake::{self, Ear, Next};

/// A full look at least this often: events are hints.
const INTERVAL: Duration = Duration::from_secs(15);

/// How soon an order is looked at again when something else was written meanwhile.
const CONFLICT_AGAIN: Duration = Duration::from_secs(1);

/// How long the registry may take to name the images of a release anew.
const NAMING_MAX: Duration = Duration::from_secs(5);

/// Orders of one stack, oldest first: request id, and what it asks for.
type Orders = Vec<(String, Result<Order, String>)>;

/// What came of an order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Came {
    /// The request is done with.
    Done,
    /// It has to wait.
    Waits,
    /// The store has changed since it was read.
    Conflict,
}

impl Came {
    fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done(_) => Self::Done,
            Outcome::Conflict | Outcome::Deposed => Self::Conflict,
        }
    }
}

/// Obeys until shutdown or the end of the leadership.
pub(super) async fn run(
    parts: Parts,
    leadership: Arc<Leadership>,
    ear: Ear,
    shutdown: CancellationToken,
) {
    wake::run("orders", INTERVAL, ear, shutdown, || {
        step(&parts, &leadership)
    })
    .await;
}

async fn step(parts: &Parts, leadership: &Leadership) -> anyhow::Result<Next> {
    let mut stacks: BTreeMap<StackName, Orders> = BTreeMap::new();
    for (stack, id, request) in parts.tables.requests().await? {
        if let Some(order) = Order::read(&request.kind, &request.about) {
            stacks.entry(stack).or_default().push((id, order));
        }
    }
    let mut next = Next::OnChange;
    let mut failed = Vec::new();
    for (name, orders) in &stacks {
        match obey_first(parts, leadership, name, orders).await {
            // Another one may be obeyed now.
            Ok(Came::Done) => next = Next::After(Duration::ZERO),
            Ok(Came::Conflict) if matches!(next, Next::OnChange) => {
                next = Next::After(CONFLICT_AGAIN);
            }
            // What they wait for is in the pointer, whose change is heard of.
            Ok(Came::Conflict | Came::Waits) => {}
            // The others are obeyed all the same.
            Err(error) => failed.push(format!("{name}: {error:#}")),
        }
    }
    // After what people ask for: it may stage something.
    for name in variables::due(&parts.tables.world(now_ms()).await?) {
        match renew(parts, leadership, &name).await {
            Ok(Came::Conflict) if matches!(next, Next::OnChange) => {
                next = Next::After(CONFLICT_AGAIN);
            }
            // When it has come to its end, there may be more.
            Ok(Came::Conflict | Came::Done | Came::Waits) => {}
            Err(error) => failed.push(format!("variables of {name}: {error:#}")),
        }
    }
    if !failed.is_empty() {
        anyhow::bail!("obeying {}", failed.join("; "));
    }
    Ok(next)
}

/// Stages a release with the current versions of the shared variables that a stack names.
async fn renew(parts: &Parts, leadership: &Leadership, name: &StackName) -> anyhow::Result<Came> {
    let world = parts.tables.world(now_ms()).await?;
    let Some(stack) = world.stacks.get(name) else {
        return Ok(Came::Waits);
    };
    let run = RunId::new(world.now_ms, fastrand::u16(..));
    let Some(ready) = variables::renew(&world, name, run.clone()) else {
        return Ok(Came::Waits);
    };
    let desk = Desk {
        parts,
        leadership,
        name,
        stack,
        id: None,
        run,
    };
    let again = ready.release.again.clone();
    let said = again.as_ref().map(ToString::to_string).unwrap_or_default();
    match desk.stage("variables", &said, ready).await? {
        Staged::Came(came) => Ok(came),
        Staged::TooLarge(why) => {
            // Trying again would not change it; another version is another matter.
            let mut pointer = stack.pointer.clone();
            if let Some(Again::Variables { names, .. }) = again {
                pointer.leave_variables(names);
            }
            let told = desk.event("refused", &format!("{said}: {why}"));
            desk.set(&pointer, vec![told]).await
        }
    }
}

/// Obeys the oldest order that need not wait.
async fn obey_first(
    parts: &Parts,
    leadership: &Leadership,
    name: &StackName,
    orders: &Orders,
) -> anyhow::Result<Came> {
    let world = parts.tables.world(now_ms()).await?;
    let stack = world.stacks.get(name);
    let followed = |stack: &&StackWorld| stack.source.is_some() && !stack.pointer.removing;
    let Some(stack) = stack.filter(followed) else {
        return Ok(Came::Waits); // its requests go when it is seen off
    };
    if world.frozen_stacks.contains(name) {
        return Ok(Came::Waits);
    }
    let lived = lived(parts, name).await?;
    for (id, order) in orders {
        let desk = Desk {
            parts,
            leadership,
            name,
            stack,
            id: Some(id),
            run: RunId::new(world.now_ms, fastrand::u16(..)),
        };
        let came = desk.obey(&world, order, &lived).await?;
        if came != Came::Waits {
            return Ok(came);
        }
    }
    Ok(Came::Waits)
}

/// Tags of releases that went live, newest first.
async fn lived(parts: &Parts, name: &StackName) -> anyhow::Result<Vec<Tag>> {
    let history = parts.tables.history(name).await?.into_iter();
    let live = history.filter(|run| run.end == RunEnd::Live);
    Ok(live.map(|run| run.tag).collect())
}

/// What came of writing a release down.
enum Staged {
    /// It is staged, or the store has changed.
    Came(Came),
    /// The store takes no release as large as this.
    TooLarge(String),
}

/// One order in hand.
struct Desk<'a> {
    parts: &'a Parts,
    leadership: &'a Leadership,
    name: &'a StackName,
    stack: &'a StackWorld,
    /// The request, if people asked.
    id: Option<&'a str>,
    /// The run of the release that comes of it.
    run: RunId,
}

impl Desk<'_> {
    async fn obey(
        &self,
        world: &World,
        order: &Result<Order, String>,
        lived: &[Tag],
    ) -> anyhow::Result<Came> {
        let order = match order {
            Ok(order) => order,
            Err(unreadable) => return self.refuse(unreadable).await,
        };
        match order::obey(world, self.name, order, lived, self.run.clone()) {
            Obeyed::Wait(why) => {
                tracing::debug!(stack = %self.name, "{order} waits: {why}");
                Ok(Came::Waits)
            }
            Obeyed::Refused(Refused { why, .. }) => self.refuse(&format!("{order}: {why}")).await,
            Obeyed::Pointer(pointer) => {
                let told = self.event(order.kind(), &order.to_string());
                self.set(&pointer, vec![told]).await
            }
            Obeyed::Staged(ready) => {
                let said = order.to_string();
                match self.stage(order.kind(), &said, *ready).await? {
                    Staged::Came(came) => Ok(came),
                    Staged::TooLarge(why) => self.refuse(&format!("{said}: {why}")).await,
                }
            }
        }
    }

    /// Writes a release down as staged; `said` is what it comes of, in words.
    async fn stage(&self, kind: &str, said: &str, ready: Ready) -> anyhow::Result<Staged> {
        let Ready {
            release,
            procs,
            pointer,
            end,
        } = ready;
        let tables = &self.parts.tables;
        let told = self.event(kind, &format!("{said}, as {}", release.tag));
        let mut extra: Vec<Op> = self.obeyed().into_iter().chain([told]).collect();
        if let Some(mut end) = end {
            end.placed = tables.placed_in(self.name, &end.run).await?;
            extra.push(tables.history_op(self.name, &end));
        }
        let registry = self.parts.config.registry();
        let revision = self.stack.pointer_revision;
        let staged = tables.stage(
            self.leadership,
            &release,
            &procs,
            &registry,
            &pointer,
            revision,
            extra,
        );
        match staged.await {
            Ok(Outcome::Done(_)) => {
                tracing::info!(stack = %self.name, tag = %release.tag, "{said}");
                make::tell_staged(self.parts, &release, &procs);
                self.name_images(&release);
                Ok(Staged::Came(Came::Done))
            }
            Ok(other) => Ok(Staged::Came(Came::of(other))),
            Err(tables::Error::Refused(why) | tables::Error::Store(store::Error::Refused(why))) => {
                Ok(Staged::TooLarge(why))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the registry know the images by the new tag too, for people: whatever runs goes by digests,
    /// so that nothing waits for this.
    fn name_images(&self, release: &Release) {
        let (registry, stack) = (Arc::clone(&self.parts.registry), self.name.clone());
        let (tag, images) = (release.tag.clone(), release.images.clone());
        let named = async move {
            for image in images.values() {
                let (repository, digest) = (&image.repository, &image.digest);
                registry.tag(repository, digest, tag.as_str()).await?;
            }
            anyhow::Ok(())
        };
        tokio::spawn(async move {
            match tokio::time::timeout(NAMING_MAX, named).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%stack, "images not named: {error:#}"),
                Err(_) => tracing::debug!(%stack, "images not named in time"),
            }
        });
    }

    /// What makes no sense any more is told and forgotten.
    async fn refuse(&self, why: &str) -> anyhow::Result<Came> {
        tracing::warn!(stack = %self.name, "refused: {why}");
        let told = self.event("refused", why);
        self.set(&self.stack.pointer, vec![told]).await
    }

    async fn set(&self, pointer: &Pointer, mut extra: Vec<Op>) -> anyhow::Result<Came> {
        let tables = &self.parts.tables;
        extra.extend(self.obeyed());
        let revision = self.stack.pointer_revision;
        let pointer = Pointer {
            v: 1,
            ..pointer.clone()
        };
        let set = tables.set_pointer(self.leadership, self.name, &pointer, revision, extra);
        Ok(Came::of(set.await?))
    }

    /// Deletes the request, if there is one.
    fn obeyed(&self) -> Option<Op> {
        let id = self.id?;
        Some(self.parts.tables.obey_op(self.name, id))
    }

    fn event(&self, what: &str, why: &str) -> Op {
        follow::event(&self.parts.tables, self.name, &self.run, what, why)
    }
}
