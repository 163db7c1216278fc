//! `viking status`: a world in, `viking.status/v1` out. Called by the routes; pure, so that what
//! people are told can be compared with a stored answer. Never decides what to do.

use std::collections::BTreeMap;

use crate::model::job::JobKey;
use crate::model::names::{StackName, Tag};
use crate::model::release::{
    Building, Commit, Phase, Pointer, Quarantine, Release, SET_ASIDE, Source, SourceState,
};
use crate::model::status::{
    DriftStatus, HealthWord, LiveStatus, Role, STATUS_SCHEMA, SourceStatus, StackStatus,
    StagedStatus, StatusReport, SyncWord,
};
use crate::model::wire::rfc3339;
use crate::model::world::{StackWorld, World};
use crate::schedule::{fetch, sites};

use super::jobs::{self, Grade, NodeView};
use super::text::public_url;
use super::verdicts::{self, Why};

/// What people are told: of every stack, or of the one named.
#[must_use]
pub fn status(world: &World, only: Option<&StackName>) -> StatusReport {
    let wanted = |name: &StackName| only.is_none_or(|only| only == name);
    let unplaced = verdicts::unplaced(world);
    StatusReport {
        schema: STATUS_SCHEMA.to_owned(),
        at: rfc3339(world.now_ms),
        stacks: world
            .stacks
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, stack)| stack_status(world, &unplaced, name, stack))
            .collect(),
    }
}

fn stack_status(
    world: &World,
    unplaced: &BTreeMap<JobKey, Why>,
    name: &StackName,
    stack: &StackWorld,
) -> StackStatus {
    let views = jobs::nodes(world, unplaced, name, stack);
    let (mut staged, mut next) = under_way(stack);
    for waits in staged.iter_mut().chain(&mut next) {
        wait_while_suspended(stack, waits);
    }
    if let Some(staged) = staged.as_mut().filter(|staged| staged.reason.is_empty()) {
        staged.reason = held_up(world, name, stack, &views).unwrap_or_default();
    }
    let frozen = world.frozen_stacks.contains(name);
    let sync = if frozen {
        SyncWord::Unknown
    } else {
        sync(stack)
    };
    let health = if frozen {
        HealthWord::Degraded
    } else {
        or_suspended(stack, health(stack, &views))
    };
    let pending = pending(stack, &views);
    let reason = reason(world, name, stack, &views, staged.as_ref());
    StackStatus {
        stack: name.clone(),
        live: stack.live().map(live),
        staged,
        next,
        sync,
        health,
        reason,
        source: stack
            .source
            .as_ref()
            .map(|source| source_status(source, &stack.pointer)),
        drift: drift(world, name),
        nodes: views.into_iter().map(|view| view.row).collect(),
        pending,
    }
}

fn live(release: &Release) -> LiveStatus {
    LiveStatus {
        tag: release.tag.clone(),
        commit: release.commit.id.clone(),
        subject: release.commit.subject.clone(),
        author: release.commit.author.clone(),
        at: rfc3339(release.commit.at_ms),
    }
}

/// The commit on its way, and one being built behind it.
fn under_way(stack: &StackWorld) -> (Option<StagedStatus>, Option<StagedStatus>) {
    let building = stack.pointer.building.as_ref().map(building);
    match stack.staged() {
        Some(release) => (Some(staged(release, &stack.pointer)), building),
        None if building.is_some() => (building, None),
        None => (current_quarantine(&stack.pointer).map(failed), None),
    }
}

fn on_its_way(tag: &Tag, phase: Phase, commit: &Commit, since_ms: u64) -> StagedStatus {
    StagedStatus {
        tag: tag.clone(),
        phase,
        stage: String::new(),
        reason: String::new(),
        commit: commit.id.clone(),
        subject: commit.subject.clone(),
        author: commit.author.clone(),
        since: rfc3339(since_ms),
        log: Vec::new(),
    }
}

fn staged(release: &Release, pointer: &Pointer) -> StagedStatus {
    let fault = pointer.reverting.as_ref();
    let own = &pointer.reason;
    let why = fault.map(|fault| &fault.reason).filter(|_| own.is_empty());
    StagedStatus {
        stage: fault.map(|fault| fault.stage.clone()).unwrap_or_default(),
        reason: why.unwrap_or(own).clone(),
        log: fault.map(|fault| fault.log.clone()).unwrap_or_default(),
        ..on_its_way(
            &release.tag,
            pointer.phase,
            &release.commit,
            pointer.since_ms,
        )
    }
}

/// What holds a staged release up that has not failed: its job that cannot run, or does not.
fn held_up(
    world: &World,
    name: &StackName,
    stack: &StackWorld,
    views: &[NodeView],
) -> Option<String> {
    let release = stack.staged()?;
    let of = |grade| job_reason(name, Role::Staged, views, grade);
    let jobs = of(Grade::Blocked).or_else(|| of(Grade::Failing));
    jobs.or_else(|| fetch::holds_up(world, &stack.pointer))
        .or_else(|| sites::holds_up(world, stack))
        .or_else(|| runs_first(name, stack, release, views))
}

/// How the job is that the rest of a staged release waits for.
fn runs_first(
    name: &StackName,
    stack: &StackWorld,
    release: &Release,
    views: &[NodeView],
) -> Option<String> {
    let (node, _) = release.still_to_end(&stack.pointer).next()?;
    let view = views.iter().find(|view| view.row.node == *node)?;
    let job = view.row.jobs.first()?;
    Some(format!("{name}/{node} {}: {}", job.state, job.reason))
}

fn building(building: &Building) -> StagedStatus {
    let (tag, commit) = (&building.tag, &building.commit);
    StagedStatus {
        reason: building.reason.clone(),
        ..on_its_way(tag, Phase::Building, commit, building.since_ms)
    }
}

fn failed(fault: &Quarantine) -> StagedStatus {
    StagedStatus {
        stage: fault.stage.clone(),
        reason: fault.reason.clone(),
        log: fault.log.clone(),
        ..on_its_way(&fault.tag, Phase::Failed, &fault.commit, fault.at_ms)
    }
}

/// The failure that still matters: no newer commit was seen since.
fn current_quarantine(pointer: &Pointer) -> Option<&Quarantine> {
    let seen = pointer
        .source
        .as_ref()
        .and_then(|source| source.seen.as_ref());
    pointer.quarantine.as_ref().filter(|fault| match seen {
        Some(seen) => seen.id == fault.commit.id,
        None => pointer.phase == Phase::Failed,
    })
}

fn sync(stack: &StackWorld) -> SyncWord {
    let pointer = &stack.pointer;
    let live = stack.live().map(|release| release.commit.id.as_str());
    let at_rest = if live.is_some() {
        SyncWord::Synced
    } else {
        SyncWord::Behind
    };
    if pointer.removing {
        return SyncWord::Behind;
    }
    if stack.source.is_none() {
        return at_rest;
    }
    if unreadable(pointer.source.as_ref()) {
        return SyncWord::Unknown;
    }
    if pointer.building.is_some() || pointer.staged.is_some() {
        return SyncWord::Behind;
    }
    if current_quarantine(pointer).is_some() {
        return SyncWord::Quarantined;
    }
    let seen = pointer
        .source
        .as_ref()
        .and_then(|source| source.seen.as_ref());
    match seen {
        None => SyncWord::Unknown,
        Some(seen) if live == Some(seen.id.as_str()) => SyncWord::Synced,
        Some(_) => SyncWord::Behind,
    }
}

/// Whether nobody can tell what the newest commit is. A rewritten history can be read.
fn unreadable(source: Option<&SourceState>) -> bool {
    source.is_none_or(|source| !matches!(source.state.as_str(), "ok" | "rewritten"))
}

fn health(stack: &StackWorld, views: &[NodeView]) -> HealthWord {
    let role = role(stack);
    let worst = views
        .iter()
        .filter(|view| view.row.release == role)
        .flat_map(|view| view.grades.iter().copied())
        .max();
    match worst {
        Some(Grade::Blocked) => HealthWord::Blocked,
        Some(Grade::Failing) => HealthWord::Degraded,
        Some(Grade::Underway) => HealthWord::Progressing,
        Some(Grade::Healthy) | None if stack.live().is_some() => HealthWord::Healthy,
        _ if current_quarantine(&stack.pointer).is_some() => HealthWord::Degraded,
        _ => HealthWord::Progressing,
    }
}

/// What works or is on its way to is called suspended; what does not is called by its trouble.
fn or_suspended(stack: &StackWorld, health: HealthWord) -> HealthWord {
    let calm = matches!(health, HealthWord::Healthy | HealthWord::Progressing);
    match stack.suspended_ms().filter(|_| calm) {
        Some(_) => HealthWord::Suspended,
        None => health,
    }
}

/// A commit that was taken up before its stack was suspended is built to its end and not staged.
fn wait_while_suspended(stack: &StackWorld, waits: &mut StagedStatus) {
    let building = waits.phase == Phase::Building && waits.reason.is_empty();
    if building && stack.suspended_ms().is_some() {
        waits.reason = "it waits until its stack is resumed".to_owned();
    }
}

/// Jobs not yet as wanted, placements to go, services that wait, and the step from one release to
/// the next.
fn pending(stack: &StackWorld, views: &[NodeView]) -> usize {
    let jobs = views.iter().flat_map(|view| &view.grades);
    let unready = jobs.filter(|grade| **grade != Grade::Healthy).count();
    let leaving: usize = views.iter().map(|view| view.leaving).sum();
    let waiting = views.iter().filter(|view| view.row.pending).count();
    let pointer = &stack.pointer;
    let steps = usize::from(pointer.building.is_some()) + usize::from(pointer.staged.is_some());
    unready + leaving + waiting + steps + usize::from(pointer.removing)
}

/// The one reason a row shows: what hurts most, first.
fn reason(
    world: &World,
    name: &StackName,
    stack: &StackWorld,
    views: &[NodeView],
    staged: Option<&StagedStatus>,
) -> String {
    let role = role(stack);
    frozen(world, name)
        .or_else(|| {
            stack
                .pointer
                .removing
                .then(|| "is being removed; volumes stay".to_owned())
        })
        .or_else(|| job_reason(name, role, views, Grade::Blocked))
        .or_else(|| job_reason(name, role, views, Grade::Failing))
        .or_else(|| suspended_reason(name, stack))
        .or_else(|| order_failed(stack))
        .or_else(|| staged.map(staged_reason))
        .or_else(|| source_reason(stack))
        .or_else(|| job_reason(name, role, views, Grade::Underway))
        .or_else(|| behind_reason(stack))
        .or_else(|| pending_reason(name, views))
        .unwrap_or_default()
}

fn frozen(world: &World, name: &StackName) -> Option<String> {
    let inside = format!("/{name}");
    let whose = |key: &&String| key.ends_with(&inside) || key.contains(&format!("{inside}/"));
    world.frozen_stacks.contains(name).then(|| {
        let unread = world.frozen.keys().find(whose);
        match unread.and_then(|key| Some((key, world.frozen.get(key)?))) {
            Some((key, why)) => {
                format!("nothing of it is started or stopped: cannot read {key}: {why}")
            }
            None => "nothing of it is started or stopped: a key of it cannot be read".to_owned(),
        }
    })
}

/// The release that counts: the one that serves, or the first one ever.
fn role(stack: &StackWorld) -> Role {
    match stack.live() {
        Some(_) => Role::Live,
        None => Role::Staged,
    }
}

/// The first wanted job of a release with this grade.
fn job_reason(name: &StackName, role: Role, views: &[NodeView], grade: Grade) -> Option<String> {
    views
        .iter()
        .filter(|view| view.row.release == role)
        .find_map(|view| {
            let index = view.grades.iter().position(|found| *found == grade)?;
            let slot = u32::try_from(index).ok()?;
            let Some(job) = view.row.jobs.iter().find(|job| job.slot == slot) else {
                // A website is as its hosts say.
                let site = view.row.jobs.is_empty() && !view.row.note.is_empty();
                return site.then(|| format!("{name}/{}: {}", view.row.node, view.row.note));
            };
            Some(format!(
                "{name}/{}.{slot} {}: {}",
                view.row.node, job.state, job.reason
            ))
        })
}

fn staged_reason(staged: &StagedStatus) -> String {
    let tag = &staged.tag;
    match (staged.phase, staged.reason.is_empty()) {
        (Phase::Failed, _) if staged.stage == SET_ASIDE => format!("{tag} is {}", staged.reason),
        (Phase::Failed, _) => format!("{tag} failed at {}: {}", staged.stage, staged.reason),
        (phase, true) => format!("{tag} is {phase}"),
        (phase, false) => format!("{tag} is {phase}: {}", staged.reason),
    }
}

/// A rollback or restart that came to nothing, and nothing since.
fn order_failed(stack: &StackWorld) -> Option<String> {
    let pointer = &stack.pointer;
    let last = pointer.phase == Phase::Failed && pointer.building.is_none();
    let run = pointer.run.as_ref().filter(|_| last)?;
    let mut releases = stack.releases.values();
    let release = releases.find(|release| release.run == *run && release.again.is_some())?;
    Some(format!("the {}, as {}", pointer.reason, release.tag))
}

fn suspended_reason(name: &StackName, stack: &StackWorld) -> Option<String> {
    let since = rfc3339(stack.suspended_ms()?);
    Some(format!(
        "suspended since {since}: its repository is not looked at, nothing new is brought up; \
         `viking resume {name}` ends that"
    ))
}

fn source_reason(stack: &StackWorld) -> Option<String> {
    stack.source.as_ref()?;
    let Some(source) = &stack.pointer.source else {
        return Some("its repository was not read yet".to_owned());
    };
    let since = rfc3339(source.since_ms);
    match (source.state.as_str(), source.reason.is_empty()) {
        ("ok", _) => None,
        (state, true) => Some(format!("its repository is {state} since {since}")),
        (state, false) => Some(format!(
            "its repository is {state} since {since}: {}",
            source.reason
        )),
    }
}

fn behind_reason(stack: &StackWorld) -> Option<String> {
    let seen = stack.pointer.source.as_ref()?.seen.as_ref()?;
    (sync(stack) == SyncWord::Behind).then(|| format!("{} was seen, not begun", seen.short()))
}

fn pending_reason(name: &StackName, views: &[NodeView]) -> Option<String> {
    let waits = views.iter().find(|view| view.row.pending)?;
    let node = &waits.row.node;
    Some(format!(
        "{name}/{node} is a service: its changed spec waits for `viking restart {name}/{node}`"
    ))
}

fn source_status(source: &Source, pointer: &Pointer) -> SourceStatus {
    let state = pointer.source.as_ref();
    SourceStatus {
        url: public_url(&source.url),
        branch: source.branch.clone(),
        path: source.path.clone(),
        state: state.map_or("new", |state| state.state.as_str()).to_owned(),
        reason: state.map(|state| state.reason.clone()).unwrap_or_default(),
        head: state
            .and_then(|state| state.seen.as_ref())
            .map(|seen| seen.id.clone()),
    }
}

fn drift(world: &World, name: &StackName) -> Vec<DriftStatus> {
    let ours = world
        .assignments
        .values()
        .filter(|at| at.job.stack == *name);
    ours.flat_map(|at| {
        let found = world.state(at).map(|state| state.drift.as_slice());
        found.unwrap_or_default().iter().map(|drift| DriftStatus {
            job: at.job.short(),
            what: drift.what.clone(),
            found: drift.found.clone(),
            wanted: drift.wanted.clone(),
            since: rfc3339(drift.since_ms),
            action: drift.action.clone(),
        })
    })
    .collect()
}
