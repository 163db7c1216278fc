//! The pointer's next step: how a staged release becomes live, is handed over slot by slot, or is
//! taken back. A pure state machine over pointer, records and what hosts saw; `roll` is its loop.

use std::collections::BTreeSet;

use super::before;
use super::dowding;
use super::fetch;
use super::judge::{self, Failure};
use super::sites;
use super::wanted::{Role, Wanted, healthy, still_to_cut, wanted};
use crate::model::history::{Change, ChangeKind, RunEnd, RunRecord};
use crate::model::host::Fetch;
use crate::model::job::JobKey;
use crate::model::names::{HostName, NodeName, StackName};
use crate::model::release::{Again, Commit, Cut, Phase, Pointer, Quarantine, Release};
use crate::model::world::{StackWorld, World};

/// After this long a newer commit takes over from a staging release that is neither done nor failed.
pub const PREEMPT_AFTER_MS: u64 = 60_000;

/// How long a hand-over that was put off waits for its next try.
pub const CUT_AGAIN_MS: u64 = 5 * 60 * 1000;

/// How long reverting waits for the kept containers to be healthy again before it says how it is.
pub const REVERT_MS_MAX: u64 = 60_000;

/// A change of one pointer, with what is written beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The new pointer.
    pub pointer: Pointer,
    /// The end of a run, if this is one.
    pub end: Option<RunRecord>,
    /// What happened, for `/event`: a word and a sentence.
    pub event: (&'static str, String),
}

/// The next step of a stack, if there is one now.
#[must_use]
pub fn step(world: &World, name: &StackName) -> Option<Step> {
    let stack = world
        .stacks
        .get(name)
        .filter(|stack| !world.frozen_stacks.contains(name) && !stack.pointer.removing)?;
    if let Some(step) = retired(world, name, stack) {
        return Some(step);
    }
    match stack.pointer.phase {
        Phase::Staging | Phase::Cutting => staged(world, name, stack),
        Phase::Reverting => reverted(world, name, stack),
        Phase::Building | Phase::Live | Phase::Failed | Phase::Superseded => None,
    }
}

fn staged(world: &World, name: &StackName, stack: &StackWorld) -> Option<Step> {
    let release = stack.staged()?;
    let all = wanted(name, stack);
    let jobs: Vec<_> = all
        .iter()
        .filter(|wanted| wanted.role == Role::Staged)
        .collect();
    if let Some(failure) = judge::failure(world, stack, &jobs) {
        return Some(fail(world, stack, release, failure));
    }
    let done = before::done(world, &jobs);
    if !done.is_empty() {
        return Some(note_ended(stack, done));
    }
    let ill = |wanted: &&&Wanted<'_>| !healthy(world, &wanted.job);
    let sick: Vec<_> = jobs.iter().filter(ill).copied().collect();
    if !sick.is_empty() {
        return held_up(world, name, stack, release, &sick);
    }
    // A release that is still draining goes first: there is one place for it in the pointer.
    if stack.pointer.retiring.is_some() {
        return None;
    }
    if sites::holds_up(world, stack).is_some() {
        return None;
    }
    match still_to_cut(stack).first() {
        Some(seat) => may_cut(world, name, stack, release, seat),
        None => Some(promote(world, stack, release)),
    }
}

/// What runs once has done so: from here on that is on record, whatever becomes of its host.
fn note_ended(stack: &StackWorld, done: Vec<NodeName>) -> Step {
    let names: Vec<_> = done.iter().map(NodeName::as_str).collect();
    let event = ("ended", format!("{} ran to its end", names.join(", ")));
    let mut pointer = stack.pointer.clone();
    pointer.ended.extend(done);
    Step {
        pointer,
        end: None,
        event,
    }
}

/// What follows from jobs of the release that are not healthy, or not yet.
fn held_up(
    world: &World,
    name: &StackName,
    stack: &StackWorld,
    release: &Release,
    sick: &[&Wanted<'_>],
) -> Option<Step> {
    let cutting = stack.pointer.phase == Phase::Cutting;
    if let Some(reason) = judge::stranded(world, stack, sick).filter(|_| cutting) {
        return Some(put_off(world, stack, &reason));
    }
    let mut overdue = sick.iter().filter_map(|w| judge::overdue(world, stack, w));
    if let Some(overdue) = overdue.next() {
        return Some(fail(world, stack, release, overdue));
    }
    if stack.pointer.retiring.is_some() {
        return None;
    }
    let seat = judge::cut_first(world, name, stack, release, sick)?;
    may_cut(world, name, stack, release, &seat)
}

/// Hands a slot over, unless the new copy would have to wait while nobody serves.
fn may_cut(
    world: &World,
    name: &StackName,
    stack: &StackWorld,
    release: &Release,
    seat: &Cut,
) -> Option<Step> {
    let waited_ms = world.now_ms.saturating_sub(stack.pointer.since_ms);
    let was_put_off = stack.pointer.phase == Phase::Staging && !stack.pointer.reason.is_empty();
    if was_put_off && waited_ms < CUT_AGAIN_MS {
        return None;
    }
    if judge::cut_waits_for(world, name, stack, release, seat).is_some() {
        return None;
    }
    let step = cut(world, stack, seat.clone());
    let host = takes(world, name, release, seat, &step)?;
    if let Some(asked) = ask_for_images(world, name, stack, release, (seat, host)) {
        return Some(asked);
    }
    let Some(reason) = fetch::missing(world, &stack.pointer.fetch) else {
        return Some(step);
    };
    // Between two slots old and new copies serve side by side: not for ever.
    let stuck = stack.pointer.phase == Phase::Cutting && waited_ms >= judge::CUT_OUTSIDE_MS_MAX;
    stuck.then(|| put_off(world, stack, &reason))
}

/// The host that would take the new copy, were the old one told to stand still.
fn takes(
    world: &World,
    name: &StackName,
    release: &Release,
    (node, slot): &Cut,
    step: &Step,
) -> Option<HostName> {
    let job = release.job(node, *slot)?;
    let mut then = world.clone();
    if let Some(stack) = then.stacks.get_mut(name) {
        stack.pointer = step.pointer.clone();
    }
    dowding::would_take(&then, &job)
}

/// Asks hosts for the images of all slots that are still to be handed over, if one that the next slot
/// needs was not asked for yet.
fn ask_for_images(
    world: &World,
    name: &StackName,
    stack: &StackWorld,
    release: &Release,
    (seat, host): (&Cut, HostName),
) -> Option<Step> {
    let next = fetch::needed(world, stack, release, seat, &host)?;
    if stack.pointer.fetch.contains(&next) {
        return None;
    }
    let others = still_to_cut(stack).into_iter().filter_map(|other| {
        let step = cut(world, stack, other.clone());
        let host = takes(world, name, release, &other, &step)?;
        fetch::needed(world, stack, release, &other, &host)
    });
    let mut pointer = stack.pointer.clone();
    pointer.fetch = others.chain([next.clone()]).collect();
    if pointer.phase == Phase::Cutting {
        pointer.enter(Phase::Cutting, world.now_ms);
    }
    let Fetch { host, .. } = next;
    let event = (
        "fetching",
        format!("{host} fetches the image of {}.{}", seat.0, seat.1),
    );
    Some(Step {
        pointer,
        end: None,
        event,
    })
}

/// Nobody serves a slot whose new copy cannot start: takes the hand-over back without blaming the
/// commit, to try again later.
fn put_off(world: &World, stack: &StackWorld, reason: &str) -> Step {
    let mut pointer = stack.pointer.clone();
    pointer.enter(Phase::Reverting, world.now_ms);
    pointer.cut = BTreeSet::new();
    pointer.fetch = BTreeSet::new();
    pointer.reason = format!("hand-over put off: {reason}");
    let event = ("reverting", pointer.reason.clone());
    Step {
        pointer,
        end: None,
        event,
    }
}

fn cut(world: &World, stack: &StackWorld, seat: Cut) -> Step {
    let mut pointer = stack.pointer.clone();
    let event = ("cutting", format!("hands over {}.{}", seat.0, seat.1));
    pointer.enter(Phase::Cutting, world.now_ms);
    pointer.reason = String::new();
    pointer.cut.insert(seat);
    Step {
        pointer,
        end: None,
        event,
    }
}

fn promote(world: &World, stack: &StackWorld, release: &Release) -> Step {
    let mut pointer = stack.pointer.clone();
    pointer.retiring = pointer.live.take();
    pointer.live = pointer.staged.take();
    pointer.enter(Phase::Live, world.now_ms);
    pointer.cut = BTreeSet::new();
    pointer.ended = BTreeSet::new();
    pointer.fetch = BTreeSet::new();
    match &release.again {
        // A newer commit that failed while this one was staged stays quarantined.
        None => {
            pointer.forgive_before(&release.run);
            // It has the versions that were current.
            pointer.variables_aside.clear();
        }
        // No commit came: what was set aside stays so, but for what serves now.
        Some(_) => pointer.forgive(&release.commit.id),
    }
    pointer.reason = String::new();
    let end = Some(record(world, stack, &mut pointer, release, RunEnd::Live));
    let what = match &release.again {
        None => release.commit.subject.clone(),
        Some(again) => again.to_string(),
    };
    let event = ("live", format!("{} serves: {what}", release.tag));
    Step {
        pointer,
        end,
        event,
    }
}

fn fail(world: &World, stack: &StackWorld, release: &Release, failure: Failure) -> Step {
    let mut pointer = stack.pointer.clone();
    let reverting = !pointer.cut.is_empty();
    let bad = Quarantine {
        commit: release.commit.clone(),
        tag: release.tag.clone(),
        run: release.run.clone(),
        stage: failure.stage.to_owned(),
        reason: failure.reason.clone(),
        log: failure.log,
        at_ms: world.now_ms,
    };
    match &release.again {
        None => {
            pointer.set_aside(bad.clone());
            pointer.reason.clone_from(&failure.reason);
        }
        // No commit's fault.
        Some(again) => {
            pointer.reason = format!("{again} failed at {}: {}", failure.stage, failure.reason);
            if let Again::Variables { names, .. } = again {
                // Else it would be made again and again.
                pointer.leave_variables(names.iter().cloned());
            }
        }
    }
    pointer.reverting = Some(bad);
    pointer.cut = BTreeSet::new();
    pointer.fetch = BTreeSet::new();
    if reverting {
        pointer.enter(Phase::Reverting, world.now_ms);
        let event = ("reverting", failure.reason);
        return Step {
            pointer,
            end: None,
            event,
        };
    }
    ended(world, stack, pointer, release)
}

/// The last step of a failed release.
fn ended(world: &World, stack: &StackWorld, mut pointer: Pointer, release: &Release) -> Step {
    pointer.staged = None;
    pointer.ended = BTreeSet::new();
    if let Some(live) = stack.live().filter(|_| release.again.is_some()) {
        // A rollback has set it aside, and it serves on. Not earlier: as long as something is staged
        // in its place, its follower would make it anew.
        pointer.forgive(&live.commit.id);
    }
    pointer.enter(Phase::Failed, world.now_ms);
    let mut end = record(world, stack, &mut pointer, release, RunEnd::Failed);
    if let Some(failure) = pointer.reverting.take() {
        end.reason = match &release.again {
            None => failure.reason,
            Some(again) => format!("{again}: {}", failure.reason),
        };
        end.stage = failure.stage;
        end.log = failure.log;
    }
    let event = ("failed", format!("{}: {}", release.tag, pointer.reason));
    Step {
        pointer,
        end: Some(end),
        event,
    }
}

/// Done once nothing of the failed release runs and the kept copies are healthy again.
fn reverted(world: &World, name: &StackName, stack: &StackWorld) -> Option<Step> {
    let release = stack.staged()?;
    let live: BTreeSet<JobKey> = wanted(name, stack).into_iter().map(|w| w.job).collect();
    let gone = world
        .run
        .keys()
        .filter(|job| job.stack == *name)
        .all(|job| live.contains(job));
    let back = live.iter().all(|job| healthy(world, job));
    let waited = world.now_ms.saturating_sub(stack.pointer.since_ms);
    if !gone || (!back && waited < REVERT_MS_MAX) {
        return None;
    }
    if stack.pointer.reverting.is_some() {
        return Some(ended(world, stack, stack.pointer.clone(), release));
    }
    // Put off, not failed: it stays staged.
    let mut pointer = stack.pointer.clone();
    pointer.enter(Phase::Staging, world.now_ms);
    let event = ("staging", pointer.reason.clone());
    Some(Step {
        pointer,
        end: None,
        event,
    })
}

/// Forgets the drained release once nothing of it is placed.
fn retired(world: &World, name: &StackName, stack: &StackWorld) -> Option<Step> {
    let tag = stack.pointer.retiring.clone()?;
    let kept = wanted(name, stack);
    let left = kept
        .iter()
        .filter(|wanted| wanted.role == Role::Retiring)
        .any(|wanted| world.run.contains_key(&wanted.job));
    if left {
        return None;
    }
    let mut pointer = stack.pointer.clone();
    pointer.retiring = None;
    Some(Step {
        pointer,
        end: None,
        event: ("retired", format!("{tag} is gone")),
    })
}

/// The one end of a run. `pointer` has left its last phase; its times go into the record.
fn record(
    world: &World,
    stack: &StackWorld,
    pointer: &mut Pointer,
    release: &Release,
    end: RunEnd,
) -> RunRecord {
    let mut stages_ms = release.stages_ms.clone();
    stages_ms.append(&mut pointer.stages_ms);
    RunRecord {
        v: 1,
        run: release.run.clone(),
        commit: release.commit.clone(),
        tag: release.tag.clone(),
        end,
        reason: release
            .again
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        again: release.again.clone(),
        stage: String::new(),
        log: Vec::new(),
        stages_ms,
        plan: changes(stack.live(), release),
        placed: Vec::new(),
        ended_ms: world.now_ms,
    }
}

/// What a release makes of each node of the live one.
pub(super) fn changes(live: Option<&Release>, release: &Release) -> Vec<Change> {
    let before = |node: &NodeName| live.and_then(|live| live.nodes.get(node));
    let after = release.nodes.iter().map(|(name, node)| {
        let what = match before(name) {
            Some(before) if before.tag == node.tag => ChangeKind::Kept,
            Some(_) => ChangeKind::Changed,
            None => ChangeKind::New,
        };
        (name, what)
    });
    let gone = live.into_iter().flat_map(|live| live.nodes.keys());
    let gone = gone.filter(|name| !release.nodes.contains_key(*name));
    let first = release
        .runs_first()
        .map(|(job, _)| (job, ChangeKind::First));
    let after = after.chain(first);
    let all = after.chain(gone.map(|name| (name, ChangeKind::Gone)));
    all.map(|(node, what)| Change {
        node: node.clone(),
        what,
    })
    .collect()
}

/// Whether a newer release may take the place of what is staged, and if so how the old run ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Room {
    /// Nothing is staged.
    Free,
    /// The staged release gives way.
    Supersedes(Box<RunRecord>),
    /// Not now; in words.
    Wait(String),
}

/// Decides promise 9: a newer commit wins, a failing deploy can never block its fix.
#[must_use]
pub fn room(world: &World, name: &StackName, by: &Commit) -> Room {
    let Some(stack) = world.stacks.get(name) else {
        return Room::Free;
    };
    let Some(release) = stack.staged() else {
        return Room::Free;
    };
    match stack.pointer.phase {
        Phase::Cutting | Phase::Reverting => {
            return Room::Wait(format!("{} is {}", release.tag, stack.pointer.phase));
        }
        Phase::Building | Phase::Staging | Phase::Live | Phase::Failed | Phase::Superseded => {}
    }
    let waited = world.now_ms.saturating_sub(stack.pointer.since_ms);
    let failing = wanted(name, stack)
        .iter()
        .filter(|wanted| wanted.role == Role::Staged)
        .any(|wanted| {
            judge::counter(world, &wanted.job).is_some_and(|counter| counter.failures > 0)
        });
    if !failing && waited < PREEMPT_AFTER_MS {
        return Room::Wait(format!("{} is staging", release.tag));
    }
    let reason = format!("{} came", by.short());
    gives_way(world, stack, release, RunEnd::Superseded, reason)
}

/// Whether a rollback may take the place of what is staged: at once, but for a hand-over, which
/// comes to its end first.
#[must_use]
pub fn take_back(world: &World, name: &StackName, reason: &str) -> Room {
    let stack = world.stacks.get(name);
    let Some((stack, release)) = stack.and_then(|stack| Some((stack, stack.staged()?))) else {
        return Room::Free;
    };
    match stack.pointer.phase {
        Phase::Cutting | Phase::Reverting => {
            Room::Wait(format!("{} is {}", release.tag, stack.pointer.phase))
        }
        Phase::Building | Phase::Staging | Phase::Live | Phase::Failed | Phase::Superseded => {
            gives_way(world, stack, release, RunEnd::RolledBack, reason.to_owned())
        }
    }
}

/// The end of what is staged, when something else takes its place.
fn gives_way(
    world: &World,
    stack: &StackWorld,
    release: &Release,
    end: RunEnd,
    reason: String,
) -> Room {
    let mut pointer = stack.pointer.clone();
    pointer.enter(Phase::Superseded, world.now_ms);
    let mut end = record(world, stack, &mut pointer, release, end);
    end.reason = reason;
    Room::Supersedes(Box::new(end))
}
