//! A follower's last part: what was made of a commit is put together against what is live now, and
//! written down as staged when the pointer has room for it.

use std::time::Duration;

use super::follow::{Follower, Memory};
use super::make::{self, Made};
use crate::clock::now_ms;
use crate::model::release::Release;
use crate::model::world::{StackWorld, World};
use crate::schedule::compose::{Procs, compose};
use crate::schedule::require::{self, Required};
use crate::schedule::rollout::{self, Room};
use crate::schedule::squeeze::squeeze;
use crate::schedule::{forms, known, moves};
use crate::store;
use crate::store::tables::{self, Outcome};
use crate::wake::Next;

/// How soon a waiting release asks again whether there is room, besides being rung.
const ROOM_AGAIN: Duration = Duration::from_secs(1);

/// How soon a release that cannot be put together is tried again.
const STAGE_AGAIN: Duration = Duration::from_secs(15);

impl Follower {
    /// Writes the made release down as staged, if the pointer has room for it.
    pub(super) async fn stage(&self, memory: &mut Memory) -> anyhow::Result<Next> {
        let Some(made) = &memory.made else {
            return Ok(Next::OnChange);
        };
        let world = self.parts.tables.world(now_ms()).await?;
        let stack = world.stacks.get(&self.stack);
        if stack.is_some_and(|stack| stack.releases.contains_key(&made.tag)) {
            // Staged already; only the store's answer was lost.
            memory.made = None;
            return Ok(Next::OnChange);
        }
        let applies = memory.applies.as_ref() == Some(&made.commit.id);
        if !applies && stack.is_some_and(|stack| stack.suspended_ms().is_some()) {
            return Ok(Next::OnChange);
        }
        if stack.is_some_and(|stack| stack.pointer.is_set_aside(&made.commit.id)) {
            memory.made = None;
            self.left(stack).await?;
            return Ok(Next::OnChange);
        }
        let required = require::judge(&world, &self.stack, &made.file.require);
        if let Required::Circle(why) = required {
            return self.refuse(memory, why).await;
        }
        if self.waits_for_stacks(&required, made, stack).await? {
            return Ok(Next::After(ROOM_AGAIN));
        }
        let mut extra = Vec::new();
        let mut forgives = None;
        match rollout::room(&world, &self.stack, &made.commit) {
            Room::Free => {}
            Room::Supersedes(mut end) => {
                end.placed = self.parts.tables.placed_in(&self.stack, &end.run).await?;
                extra.push(self.parts.tables.history_op(&self.stack, &end));
                // What a rollback was to leave serves still.
                let left = stack.filter(|s| s.staged().is_some_and(|r| r.again.is_some()));
                forgives = left
                    .and_then(StackWorld::live)
                    .map(|live| live.commit.id.clone());
            }
            Room::Wait(_) => return Ok(Next::After(ROOM_AGAIN)),
        }
        let (mut release, procs) = match self.compose(made, stack, &world) {
            Ok(composed) => composed,
            Err(error) => {
                // An image of another stack went away meanwhile, or a shared variable is not set yet:
                // it is looked at again as soon as one is.
                self.held_up(&format!("{error:#}")).await?;
                return Ok(Next::After(STAGE_AGAIN));
            }
        };
        let live = stack.and_then(StackWorld::live);
        if let Some(reason) = live.and_then(|live| moves::refused(live, &release)) {
            return self.refuse(memory, reason).await;
        }
        if let Some(why) = forms::waits(&world, &release, &procs) {
            self.held_up(&why).await?;
            return Ok(Next::After(STAGE_AGAIN));
        }
        squeeze(&world, &mut release);
        release.stages_ms = made.times();
        let mut pointer = stack.map(|stack| stack.pointer.clone()).unwrap_or_default();
        pointer.stage(&release, world.now_ms);
        pointer.building = None;
        if let Some(commit) = forgives {
            pointer.forgive(&commit);
        }
        let revision = stack.map_or(0, |stack| stack.pointer_revision);
        let registry = self.parts.config.registry();
        let outcome = self
            .parts
            .tables
            .stage(
                &self.leadership,
                &release,
                &procs,
                &registry,
                &pointer,
                revision,
                extra,
            )
            .await;
        let outcome = match outcome {
            Err(tables::Error::Refused(why) | tables::Error::Store(store::Error::Refused(why))) => {
                // Too large to be written, which trying again does not change.
                return self.refuse(memory, why).await;
            }
            other => other?,
        };
        match outcome {
            Outcome::Done(_) => {
                make::tell_staged(&self.parts, &release, &procs);
                memory.made = None;
                Ok(Next::OnChange)
            }
            Outcome::Conflict => {
                // A tag that is on record already: an answer was lost. What is there counts.
                if stack.is_some_and(|stack| stack.releases.contains_key(&release.tag)) {
                    memory.made = None;
                }
                Ok(Next::After(ROOM_AGAIN))
            }
            Outcome::Deposed => Ok(Next::OnChange),
        }
    }

    /// Whether the commit waits for another stack. Says so, and what it requires: one of those may come
    /// to require this stack, which would wait for ever.
    async fn waits_for_stacks(
        &self,
        required: &Required,
        made: &Made,
        stack: Option<&StackWorld>,
    ) -> anyhow::Result<bool> {
        if let Required::Waits(why) = required {
            self.change(vec![], |pointer| {
                if let Some(building) = &mut pointer.building {
                    why.clone_into(&mut building.reason);
                    building.require.clone_from(&made.file.require);
                }
            })
            .await?;
            return Ok(true);
        }
        // What it waits for now is a release of its own stack, if anything.
        let building = stack.and_then(|stack| stack.pointer.building.as_ref());
        if building.is_some_and(|building| require::is_wait(&building.reason)) {
            self.held_up("").await?;
        }
        Ok(false)
    }

    /// People went back while it was made: only `retry` brings it up now.
    async fn left(&self, stack: Option<&StackWorld>) -> anyhow::Result<()> {
        let by = stack.and_then(|stack| stack.pointer.named().next().cloned());
        let by = by.map_or_else(|| "a rollback".to_owned(), |tag| tag.to_string());
        self.superseded(&by).await
    }

    /// The commit's own fault, found when what was made of it met what is live.
    async fn refuse(&self, memory: &mut Memory, reason: String) -> anyhow::Result<Next> {
        if let Some(made) = memory.made.take() {
            let bad = make::own(&made, "stage", reason);
            self.quarantine(bad, made.times()).await?;
        }
        Ok(Next::OnChange)
    }

    fn compose(
        &self,
        made: &Made,
        stack: Option<&StackWorld>,
        world: &World,
    ) -> anyhow::Result<(Release, Procs)> {
        let parts = crate::schedule::compose::Parts {
            file: &made.file,
            commit: made.commit.clone(),
            tag: made.tag.clone(),
            run: made.run.clone(),
            now_ms: world.now_ms,
            images: made.images.clone(),
            external: made.external.clone(),
            foreign: known::foreign(&made.file, world),
            env: &world.env,
            live: stack.and_then(StackWorld::live),
        };
        Ok(compose(parts)?)
    }
}
