//! Follows one stack's source: looks at the remote when it is due or asked, turns a new head into a
//! release, and has it staged when there is room (`stage`). One task per stack, so that a slow one holds up
//! nobody else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::make::{self, Failed, Made};
use super::{Parts, apply};
use crate::clock::now_ms;
use crate::model::history::{EventRecord, RunEnd, RunRecord, StageTimes};
use crate::model::names::{StackName, TAG_COMMIT_DIGITS};
use crate::model::release::{Commit, Phase, Pointer, Quarantine, Release, RunId, Source};
use crate::model::world::StackWorld;
use crate::store::Op;
use crate::store::election::Leadership;
use crate::store::keys::{Family, Key};
use crate::store::tables::{Outcome, Request, Tables, event_number};
use crate::sync::{self, poll};
use crate::wake::{self, Bell, Next};

/// The longest a follower sleeps; polls are scheduled by the source's own interval.
const INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Kinds of requests that are for a follower; `orders` obeys the others.
const LOOKS: [&str; 3] = ["sync", "pull", apply::KIND];

/// Requests deleted in one transaction.
const OBEY_AT_ONCE: usize = 32;

/// Tries of a pointer change that others change too.
const POINTER_TRIES: u32 = 10;

/// One stack's follower.
pub(super) struct Follower {
    pub(super) parts: Parts,
    pub(super) leadership: Arc<Leadership>,
    pub(super) stack: StackName,
    bell: Bell,
}

/// What a follower remembers between two looks.
pub(super) struct Memory {
    next_poll: Instant,
    failures: u32,
    pub(super) head: Option<String>,
    pub(super) made: Option<Made>,
    /// The commit that people want of a suspended stack.
    pub(super) applies: Option<String>,
    held_up: Option<HeldUp>,
}

/// A commit that something outside keeps from being made, and when it is tried again. Not left to the
/// loop's own backoff: that would not hear what people ask for meanwhile.
struct HeldUp {
    head: String,
    failures: u32,
    until: Instant,
}

/// Follows until the stack's source goes away or the leadership ends.
pub(super) async fn run(
    parts: Parts,
    leadership: Arc<Leadership>,
    stack: StackName,
    stop: CancellationToken,
) {
    let bell = Bell::new();
    let tasks = TaskTracker::new();
    let keys = parts.tables.keys();
    let prefixes = [
        keys.family_of(Family::Request, stack.as_str()),
        keys.text(&Key::Pointer(stack.clone())),
        keys.text(&Key::Stack(stack.clone())),
        keys.family(Family::Env), // a commit may wait for a variable
    ];
    let (tables, rung, until) = (parts.tables.clone(), bell.clone(), stop.clone());
    tasks.spawn(async move { tables.ring(&rung, &prefixes, &until).await });
    let memory = Memory {
        next_poll: Instant::now(),
        failures: 0,
        head: None,
        made: None,
        applies: None,
        held_up: None,
    };
    let memory = Mutex::new(memory);
    let follower = Follower {
        parts,
        leadership,
        stack: stack.clone(),
        bell: bell.clone(),
    };
    wake::run(stack.as_str(), INTERVAL, bell.ear(), stop, || async {
        follower.step(&mut *memory.lock().await).await
    })
    .await;
}

impl Follower {
    async fn step(&self, memory: &mut Memory) -> anyhow::Result<Next> {
        let stack = self.parts.tables.stack(&self.stack, now_ms()).await?;
        let Some(stack) = &stack else {
            return Ok(Next::OnChange);
        };
        let Some(source) = stack.source.clone() else {
            return Ok(Next::OnChange);
        };
        if stack.pointer.removing {
            return Ok(Next::OnChange);
        }
        let (plans, mut asked): (Vec<_>, Vec<_>) = self
            .requests()
            .await?
            .into_iter()
            .partition(|(_, request)| request.kind == apply::KIND);
        let applies = self.applies(stack, memory, &plans).await?;
        if applies {
            // Its head is what people were shown; nobody looks for another meanwhile.
            memory.next_poll = Instant::now() + Duration::from_millis(source.poll_ms);
            asked.clear();
        } else if stack.suspended_ms().is_some() {
            // What is asked for waits; once it is followed again, it is looked at at once.
            memory.next_poll = Instant::now();
            return Ok(Next::OnChange);
        }
        let pull = asked.iter().any(|(_, request)| request.kind == "pull");
        if memory.head.is_none() {
            memory.head = self.seen_before(&source, stack).await;
        }
        if !asked.is_empty() || memory.next_poll <= Instant::now() {
            self.look(&source, stack, memory).await?;
        }
        // What people left, or what has failed, only `retry` brings back.
        let aside = |head: &String| stack.pointer.is_set_aside(head);
        let idle = pull && memory.head.as_ref().is_some_and(aside);
        let mut pulled = idle;
        if (pull && !idle) || self.must_make(stack, memory) {
            if !asked.is_empty() || due(memory) {
                pulled |= self.make(&source, memory, pull).await? && pull;
            }
        } else {
            self.drop_leftovers(stack, memory).await?;
        }
        // Only now: a pull that came to nothing from outside is asked for still.
        let done = asked
            .into_iter()
            .filter(|(_, request)| pulled || request.kind != "pull")
            .map(|(id, _)| id);
        self.obey(&done.collect::<Vec<_>>()).await?;
        let next = self.stage(memory).await?;
        Ok(soonest(next, memory))
    }

    /// The commit seen last by whoever led before, if it is here: a new leader goes on with it also
    /// while the remote is away.
    async fn seen_before(&self, source: &Source, stack: &StackWorld) -> Option<String> {
        let seen = stack.pointer.source.as_ref()?.seen.as_ref()?;
        let found = self.parts.mirrors.commit(source, &seen.id).await;
        found.ok().map(|commit| commit.id)
    }

    /// Asks the remote for its head and records how the source is, when that changed.
    async fn look(
        &self,
        source: &Source,
        stack: &StackWorld,
        memory: &mut Memory,
    ) -> anyhow::Result<()> {
        let before = stack.pointer.source.as_ref();
        let seen = before.and_then(|before| before.seen.clone());
        let found = self.head_commit(source, seen.as_ref()).await;
        memory.failures = if found.is_ok() {
            0
        } else {
            memory.failures.saturating_add(1)
        };
        let delay = poll::poll_delay(source.poll_ms, memory.failures, fastrand::f64());
        memory.next_poll = Instant::now() + delay;
        let rewritten = match (&found, &seen) {
            (Ok(commit), Some(seen)) if seen.id != commit.id => {
                self.parts
                    .mirrors
                    .rewritten(source, &seen.id, &commit.id)
                    .await
            }
            _ => None,
        };
        if let Ok(commit) = &found {
            memory.head = Some(commit.id.clone());
        }
        let state = poll::state_of(found.as_ref(), rewritten, before, now_ms());
        if before == Some(&state) {
            return Ok(());
        }
        if found.is_err() {
            tracing::warn!(stack = %self.stack, "source {}: {}", state.state, state.reason);
        }
        self.change(vec![], |pointer| pointer.source = Some(state.clone()))
            .await
    }

    /// The commit the remote's head is now, fetched unless it is the one seen last.
    async fn head_commit(
        &self,
        source: &Source,
        seen: Option<&Commit>,
    ) -> Result<Commit, sync::Error> {
        let mirrors = &self.parts.mirrors;
        let head = mirrors.head(source).await?;
        // Fetching what is here already asks nobody, and finds out when the mirror was lost.
        let head = mirrors.fetch(source, &head).await?;
        match seen.filter(|seen| seen.id == head) {
            Some(seen) => Ok(seen.clone()),
            None => mirrors.commit(source, &head).await,
        }
    }

    /// What people asked of the source, by request id.
    async fn requests(&self) -> anyhow::Result<Vec<(String, Request)>> {
        let all = self.parts.tables.requests().await?;
        let own = all.into_iter().filter(|(stack, _, request)| {
            *stack == self.stack && LOOKS.contains(&request.kind.as_str())
        });
        Ok(own.map(|(_, id, request)| (id, request)).collect())
    }

    /// Deletes the requests in the same transaction that shows they were obeyed.
    pub(super) async fn obey(&self, asked: &[String]) -> anyhow::Result<()> {
        for some in asked.chunks(OBEY_AT_ONCE) {
            let ops = some
                .iter()
                .map(|id| self.parts.tables.obey_op(&self.stack, id));
            self.change(ops.collect(), |_| {}).await?;
        }
        Ok(())
    }

    /// Whether the head is a commit that nothing was made of yet. One that failed is not tried again
    /// before a newer one came; the live one is made again only to take the place of a staged one.
    fn must_make(&self, stack: &StackWorld, memory: &Memory) -> bool {
        let Some(head) = &memory.head else {
            return false;
        };
        let made = memory
            .made
            .as_ref()
            .is_some_and(|made| made.commit.id == *head);
        let is = |release: Option<&Release>| release.is_some_and(|r| r.commit.id == *head);
        let bad = stack.pointer.is_set_aside(head);
        let serves = is(stack.live()) && stack.staged().is_none();
        !made && !bad && !is(stack.staged()) && !serves
    }

    /// What is left of a commit that is not wanted any more: a made release or a build that came to
    /// nothing, when the branch went back to what is live or staged.
    async fn drop_leftovers(&self, stack: &StackWorld, memory: &mut Memory) -> anyhow::Result<()> {
        let Some(head) = memory.head.clone() else {
            return Ok(());
        };
        memory.made = memory.made.take().filter(|made| made.commit.id == head);
        let building = stack
            .pointer
            .building
            .as_ref()
            .map(|building| &building.commit.id);
        if memory.made.is_none() && building.is_some() {
            self.superseded(&head).await?;
        }
        let live = stack.live().is_some_and(|live| live.commit.id == head);
        if live && stack.staged().is_none() && stack.pointer.quarantine.is_some() {
            self.change(vec![], |pointer| {
                pointer.forgive_all();
                pointer.phase = Phase::Live;
                pointer.reason = String::new();
            })
            .await?;
        }
        Ok(())
    }

    /// Reads, builds and keeps the result; a commit's own fault quarantines it. A newer head ends
    /// the work and is looked for at once. Whether it came to its end.
    async fn make(&self, source: &Source, memory: &mut Memory, pull: bool) -> anyhow::Result<bool> {
        let Some(head) = memory.head.clone() else {
            return Ok(false);
        };
        memory.made = None;
        let newer = self.newer(source, &head);
        let outcome = tokio::select! {
            made = make::make(self, source, &head, pull) => made,
            () = newer => Err(Failed::Superseded),
        };
        let failures = memory.held_up.take().filter(|held| held.head == head);
        match outcome {
            Ok(made) => memory.made = Some(made),
            Err(Failed::Superseded) => {
                // It is not here yet, and may never be: until it is, nothing has changed.
                memory.next_poll = Instant::now();
                memory.applies = None;
                self.bell.ring();
                return Ok(false);
            }
            Err(Failed::Own(failed)) => {
                let (bad, stages_ms) = *failed;
                self.quarantine(bad, stages_ms).await?;
            }
            Err(Failed::Outside(error)) => {
                let failures = failures.map_or(0, |held| held.failures).saturating_add(1);
                tracing::warn!(stack = %self.stack, failures, "{error:#}");
                let until = Instant::now() + wake::backoff(failures, fastrand::f64());
                memory.held_up = Some(HeldUp {
                    head,
                    failures,
                    until,
                });
                self.held_up(&format!("{error:#}")).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Says what outside keeps the commit from going on.
    pub(super) async fn held_up(&self, reason: &str) -> anyhow::Result<()> {
        self.change(vec![], |pointer| {
            if let Some(building) = &mut pointer.building {
                reason.clone_into(&mut building.reason);
            }
        })
        .await
    }

    /// Waits until the remote's head is another commit than `head`.
    async fn newer(&self, source: &Source, head: &str) {
        let mut ear = self.bell.ear();
        loop {
            let delay = poll::poll_delay(source.poll_ms, 0, fastrand::f64());
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.asked(&mut ear) => {}
            }
            match self.parts.mirrors.head(source).await {
                Ok(found) if found != head => return,
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Returns when a request for this stack is waiting.
    async fn asked(&self, ear: &mut wake::Ear) {
        loop {
            ear.heard().await;
            if self.requests().await.is_ok_and(|asked| !asked.is_empty()) {
                return;
            }
        }
    }

    pub(super) async fn superseded(&self, newer: &str) -> anyhow::Result<()> {
        self.change_with(|pointer| self.end_building(pointer, newer))
            .await
    }

    /// Ends the run of the build under way, if there is one: to go with the change that drops it.
    pub(super) fn end_building(&self, pointer: &mut Pointer, newer: &str) -> Vec<Op> {
        let Some(building) = pointer.building.take() else {
            return Vec::new();
        };
        let ended_ms = now_ms();
        let took_ms = ended_ms.saturating_sub(building.since_ms);
        let end = RunRecord {
            v: 1,
            run: building.run,
            commit: building.commit,
            tag: building.tag,
            end: RunEnd::Superseded,
            reason: format!("{} came", &newer[..newer.len().min(TAG_COMMIT_DIGITS)]),
            again: None,
            stage: "build".to_owned(),
            log: Vec::new(),
            stages_ms: vec![("build".to_owned(), took_ms)],
            plan: Vec::new(),
            placed: Vec::new(),
            ended_ms,
        };
        vec![self.parts.tables.history_op(&self.stack, &end)]
    }

    pub(super) async fn quarantine(
        &self,
        bad: Quarantine,
        stages_ms: StageTimes,
    ) -> anyhow::Result<()> {
        let end = RunRecord {
            v: 1,
            run: bad.run.clone(),
            commit: bad.commit.clone(),
            tag: bad.tag.clone(),
            end: RunEnd::Failed,
            reason: bad.reason.clone(),
            again: None,
            stage: bad.stage.clone(),
            log: bad.log.clone(),
            stages_ms,
            plan: Vec::new(),
            placed: Vec::new(),
            ended_ms: bad.at_ms,
        };
        let extra = vec![
            self.parts.tables.history_op(&self.stack, &end),
            self.event(
                &bad.run,
                "failed",
                &format!("{} at {}: {}", bad.tag, bad.stage, bad.reason),
            ),
        ];
        tracing::warn!(stack = %self.stack, tag = %bad.tag, "failed at {}: {}", bad.stage, bad.reason);
        make::tell_failed(self, &bad);
        self.change(extra, |pointer| {
            pointer.building = None;
            pointer.set_aside(bad.clone());
            if pointer.staged.is_none() {
                pointer.phase = Phase::Failed;
                pointer.since_ms = bad.at_ms;
                pointer.run = Some(bad.run.clone());
                pointer.reason.clone_from(&bad.reason);
            }
        })
        .await
    }

    fn event(&self, run: &RunId, what: &str, why: &str) -> Op {
        event(&self.parts.tables, &self.stack, run, what, why)
    }

    /// An event that belongs to no run.
    pub(super) fn told(&self, what: &str, why: &str) -> Op {
        let run = RunId::new(now_ms(), fastrand::u16(..));
        self.event(&run, what, why)
    }

    /// Changes the pointer whatever else changes it at the same time.
    pub(super) async fn change(
        &self,
        extra: Vec<Op>,
        edit: impl Fn(&mut Pointer),
    ) -> anyhow::Result<()> {
        self.change_with(|pointer| {
            edit(pointer);
            extra.clone()
        })
        .await
    }

    /// As [`Self::change`]; what is written beside it comes of the very pointer that it replaces.
    pub(super) async fn change_with(
        &self,
        edit: impl Fn(&mut Pointer) -> Vec<Op>,
    ) -> anyhow::Result<()> {
        for _ in 0..POINTER_TRIES {
            let world = self.parts.tables.world(now_ms()).await?;
            let stack = world.stacks.get(&self.stack);
            let mut pointer = stack.map(|stack| stack.pointer.clone()).unwrap_or_default();
            pointer.v = 1;
            let extra = edit(&mut pointer);
            if extra.is_empty() && stack.is_some_and(|stack| stack.pointer == pointer) {
                return Ok(());
            }
            let revision = stack.map_or(0, |stack| stack.pointer_revision);
            let tables = &self.parts.tables;
            let outcome = tables
                .set_pointer(&self.leadership, &self.stack, &pointer, revision, extra)
                .await?;
            match outcome {
                Outcome::Done(_) | Outcome::Deposed => return Ok(()),
                Outcome::Conflict => {}
            }
        }
        anyhow::bail!(
            "the pointer of {} changed {POINTER_TRIES} times in a row",
            self.stack
        )
    }
}

/// Writes down what happened to a stack; to go with the change that it tells of.
pub(super) fn event(tables: &Tables, stack: &StackName, run: &RunId, what: &str, why: &str) -> Op {
    let event = EventRecord {
        v: 1,
        at_ms: now_ms(),
        who: "leader".to_owned(),
        about: stack.to_string(),
        what: what.to_owned(),
        why: why.to_owned(),
        placed: Vec::new(),
    };
    tables.event_op(stack, run, event_number(event.at_ms), &event)
}

/// Whether the head may be tried now.
fn due(memory: &Memory) -> bool {
    let held = memory.held_up.as_ref();
    let held = held.filter(|held| memory.head.as_ref() == Some(&held.head));
    held.is_none_or(|held| held.until <= Instant::now())
}

/// When to look again: for room, at the remote, or at what is held up from outside.
fn soonest(next: Next, memory: &Memory) -> Next {
    let left = |at: Instant| at.saturating_duration_since(Instant::now());
    let mut wait = left(memory.next_poll);
    if let Next::After(room) = next {
        wait = wait.min(room);
    }
    if let Some(held) = &memory.held_up {
        wait = wait.min(left(held.until));
    }
    Next::After(wait)
}
