//! Orders: what `viking rollback`, `restart` and `retry` ask for. Whether one makes sense is asked by
//! the API when people say it and by `leader::orders` when it is obeyed, with the same words; `again`
//! makes the release, which goes the same way as a commit's. Pure.

use std::fmt;

use super::again::{left, restart, rollback, root};
use super::compose::Procs;
use super::moves;
use super::rollout::{self, Room};
use super::squeeze::squeeze;
use super::variables;
use crate::model::history::RunRecord;
use crate::model::names::{NodeName, StackName, TAG_COMMIT_DIGITS, Tag};
use crate::model::release::{Again, NodeKind, Phase, Pointer, Release, ReleaseNode, RunId};
use crate::model::wire::rfc3339;
use crate::model::world::{StackWorld, World};

/// What people ask of a stack and the leader obeys without looking at its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// What this release says, once more.
    Rollback(Tag),
    /// The live release with this node anew.
    Restart(NodeName),
    /// This commit may be tried again.
    Retry(String),
}

impl Order {
    /// Reads a request; `None` when it is for somebody else.
    #[must_use]
    pub fn read(kind: &str, about: &str) -> Option<Result<Self, String>> {
        Some(match kind {
            "rollback" => Tag::parse(about)
                .map(Self::Rollback)
                .map_err(|e| e.to_string()),
            "restart" => NodeName::parse(about)
                .map(Self::Restart)
                .map_err(|e| e.to_string()),
            "retry" => Ok(Self::Retry(about.to_owned())),
            _ => return None,
        })
    }

    /// The request's kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Rollback(_) => "rollback",
            Self::Restart(_) => "restart",
            Self::Retry(_) => "retry",
        }
    }

    /// What the request is about.
    #[must_use]
    pub fn about(&self) -> &str {
        match self {
            Self::Rollback(to) => to.as_str(),
            Self::Restart(node) => node.as_str(),
            Self::Retry(commit) => commit,
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rollback(to) => write!(f, "rollback to {to}"),
            Self::Restart(node) => write!(f, "restart of {node}"),
            Self::Retry(commit) => write!(f, "retry of {}", short(commit)),
        }
    }
}

/// Why an order makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What was found.
    pub why: String,
    /// What to do.
    pub hint: String,
}

/// The answer to an order that makes no sense.
pub(super) fn refuse<T>(why: impl Into<String>, hint: impl Into<String>) -> Result<T, Refused> {
    let (why, hint) = (why.into(), hint.into());
    Err(Refused { why, hint })
}

/// The digits of a commit that people recognise.
#[must_use]
pub fn short(commit: &str) -> &str {
    commit.get(..TAG_COMMIT_DIGITS).unwrap_or(commit)
}

/// A release that is to be brought up, and what is written beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Ready {
    /// The release.
    pub release: Release,
    /// Specs it brings.
    pub procs: Procs,
    /// The pointer that stages it.
    pub pointer: Pointer,
    /// The end of the run that is taken back for it, if there is one.
    pub end: Option<RunRecord>,
}

/// What becomes of an order now.
#[derive(Debug, Clone, PartialEq)]
pub enum Obeyed {
    /// This is staged.
    Staged(Box<Ready>),
    /// The pointer changes, nothing is staged.
    Pointer(Box<Pointer>),
    /// Not now; in words.
    Wait(String),
    /// Never.
    Refused(Refused),
}

/// Obeys an order. `lived`: tags that went live, newest first, as far back as history reaches. `run`
/// is that of the release that comes of it.
#[must_use]
pub fn obey(world: &World, name: &StackName, order: &Order, lived: &[Tag], run: RunId) -> Obeyed {
    let Some(stack) = world.stacks.get(name) else {
        return Obeyed::Wait("it cannot be read".to_owned());
    };
    let obeyed = match order {
        Order::Rollback(to) => roll_back(world, (name, stack), lived, to, run),
        Order::Restart(node) => restart_one(world, (name, stack), node, run),
        Order::Retry(commit) => retry(name, stack, commit),
    };
    obeyed.unwrap_or_else(Obeyed::Refused)
}

// Going back.

/// Releases that can be gone back to by name, newest first.
#[must_use]
pub fn known(stack: &StackWorld, lived: &[Tag]) -> Vec<Tag> {
    let live = stack.pointer.live.as_ref();
    let on_record = |tag: &&Tag| stack.releases.contains_key(*tag) && Some(*tag) != live;
    lived.iter().filter(on_record).cloned().collect()
}

/// The release to go back to when none is named: what serves, if something else is on its way; else
/// the last one that was live before. One whose commit was left by an earlier rollback is passed over.
///
/// # Errors
/// When there is none.
pub fn last_before(name: &StackName, stack: &StackWorld, lived: &[Tag]) -> Result<Tag, Refused> {
    let live = live(name, stack)?;
    if let Some(staged) = stack.staged() {
        let Some(Again::Rollback { of }) = &staged.again else {
            return Ok(live.tag.clone());
        };
        let why = format!(
            "a rollback to {of} is on its way already, as {}",
            staged.tag
        );
        let hint = format!(
            "viking status {name}; to go elsewhere name a release: {}",
            listed(stack, lived)
        );
        return refuse(why, hint);
    }
    if let Some(Again::Variables { of, .. }) = &live.again
        && known(stack, lived).contains(of)
    {
        // The same commit with the values from before.
        return Ok(of.clone());
    }
    let same = &root(stack, live).tag;
    let before = known(stack, lived).into_iter().find(|tag| {
        let release = stack.releases.get(tag);
        release.is_some_and(|release| {
            root(stack, release).tag != *same && !stack.pointer.is_set_aside(&release.commit.id)
        })
    });
    match before {
        Some(tag) => Ok(tag),
        None => refuse(
            format!("no other release of {name} was live before {}", live.tag),
            match &listed(stack, lived)[..] {
                "" => "push a commit that reverts what is wrong".to_owned(),
                known => format!("name a release to go to it: {known}"),
            },
        ),
    }
}

/// Checks a release that people want to go back to.
///
/// # Errors
/// When that makes no sense.
pub fn can_go_to<'a>(
    name: &StackName,
    stack: &'a StackWorld,
    lived: &[Tag],
    to: &Tag,
) -> Result<&'a Release, Refused> {
    let live = live(name, stack)?;
    let known = || format!("viking history {name}; on record: {}", listed(stack, lived));
    let Some(release) = stack.releases.get(to) else {
        return refuse(format!("release {to} of {name} is not on record"), known());
    };
    let staged = stack.staged();
    let comes = |staged: &&Release| {
        let rollback = Again::Rollback { of: to.clone() };
        staged.tag == *to || staged.again == Some(rollback)
    };
    if let Some(staged) = staged.filter(comes) {
        let why = format!("{} is on its way already", staged.tag);
        return refuse(why, format!("viking status {name} says how far it is"));
    }
    if live.tag == *to && staged.is_none() {
        let hint = format!("viking restart {name}/NODE makes the containers of a node anew");
        return refuse(format!("{to} is live already"), hint);
    }
    if live.tag != *to && !lived.contains(to) {
        return refuse(format!("{to} never went live"), known());
    }
    Ok(release)
}

fn listed(stack: &StackWorld, lived: &[Tag]) -> String {
    let known = known(stack, lived);
    let known: Vec<_> = known.iter().map(Tag::as_str).collect();
    known.join(", ")
}

fn live<'a>(name: &StackName, stack: &'a StackWorld) -> Result<&'a Release, Refused> {
    match stack.live() {
        Some(live) => Ok(live),
        None => refuse(
            format!("nothing of {name} is live"),
            format!("viking status {name} says how far its first release is"),
        ),
    }
}

fn roll_back(
    world: &World,
    (name, stack): (&StackName, &StackWorld),
    lived: &[Tag],
    to: &Tag,
    run: RunId,
) -> Result<Obeyed, Refused> {
    let target = can_go_to(name, stack, lived, to)?;
    let end = match rollout::take_back(world, name, &format!("rolled back to {to}")) {
        Room::Free => None,
        Room::Supersedes(end) => Some(*end),
        Room::Wait(why) => return Ok(Obeyed::Wait(why)),
    };
    let (mut release, procs) = rollback(stack, target, run, world.now_ms)?;
    may_follow(name, stack, &release)?;
    squeeze(world, &mut release);
    let mut pointer = stack.pointer.clone();
    for bad in left(name, stack, target, world.now_ms) {
        pointer.set_aside(bad);
    }
    // It has the versions of then, and keeps them.
    pointer.leave_variables(variables::behind(
        &world.env,
        &variables::named(stack, &release, &procs),
    ));
    pointer.stage(&release, world.now_ms);
    Ok(Obeyed::Staged(Box::new(Ready {
        release,
        procs,
        pointer,
        end,
    })))
}

fn may_follow(name: &StackName, stack: &StackWorld, next: &Release) -> Result<(), Refused> {
    match stack.live().and_then(|live| moves::refused(live, next)) {
        Some(why) => refuse(why, format!("viking history {name}")),
        None => Ok(()),
    }
}

// Making a node anew.

/// Checks a node that people want to make anew.
///
/// # Errors
/// When that makes no sense.
pub fn can_restart<'a>(
    name: &StackName,
    stack: &'a StackWorld,
    node: &NodeName,
) -> Result<&'a ReleaseNode, Refused> {
    let live = live(name, stack)?;
    let Some(found) = live.nodes.get(node) else {
        let known: Vec<_> = live.nodes.keys().map(NodeName::as_str).collect();
        let hint = format!("it has: {}", known.join(", "));
        return refuse(format!("{} has no node {node}", live.tag), hint);
    };
    if found.slots() == 0 {
        let why = match found.kind {
            NodeKind::Website { .. } => format!("{node} is files, without a container"),
            NodeKind::Container => format!("{node} is scaled to 0"),
        };
        return refuse(why, format!("viking status {name}"));
    }
    Ok(found)
}

fn restart_one(
    world: &World,
    (name, stack): (&StackName, &StackWorld),
    node: &NodeName,
    run: RunId,
) -> Result<Obeyed, Refused> {
    can_restart(name, stack, node)?;
    if let Some(staged) = stack.staged() {
        let why = format!("{} is {}", staged.tag, stack.pointer.phase);
        return Ok(Obeyed::Wait(why));
    }
    let live = live(name, stack)?;
    let (mut release, procs) = restart(stack, live, node, run, world.now_ms)?;
    may_follow(name, stack, &release)?;
    squeeze(world, &mut release);
    let mut pointer = stack.pointer.clone();
    pointer.stage(&release, world.now_ms);
    Ok(Obeyed::Staged(Box::new(Ready {
        release,
        procs,
        pointer,
        end: None,
    })))
}

// Trying again.

/// The commit that `viking retry` tries again: the newest one seen, if it failed or was set aside.
///
/// # Errors
/// When there is none.
pub fn retryable(name: &StackName, stack: &StackWorld) -> Result<String, Refused> {
    let pointer = &stack.pointer;
    let state = pointer.source.as_ref();
    let seen = state.and_then(|state| state.seen.as_ref());
    let newest = seen.or(pointer.quarantine.as_ref().map(|bad| &bad.commit));
    let status = format!("viking status {name}");
    let Some(newest) = newest else {
        return refuse(format!("no commit of {name} was seen yet"), status);
    };
    let commit = newest.short();
    if let Some(since_ms) = stack.suspended_ms() {
        let since = rfc3339(since_ms);
        let why = format!("{name} is suspended since {since}: nothing new is brought up");
        return refuse(why, format!("viking resume {name} first"));
    }
    if pointer.is_set_aside(&newest.id) {
        return Ok(newest.id.clone());
    }
    let building = pointer.building.as_ref();
    if building.is_some_and(|building| building.commit.id == newest.id) {
        let hint = format!("viking sync {name} tries at once");
        return refuse(format!("{commit} is being built already"), hint);
    }
    let is = |release: Option<&Release>| release.is_some_and(|r| r.commit.id == newest.id);
    if is(stack.staged()) {
        return refuse(format!("{commit} is on its way already"), status);
    }
    if is(stack.live()) {
        let why = format!("{commit}, the newest commit of {name}, is live");
        let hint = format!("viking restart {name}/NODE makes the containers of a node anew");
        return refuse(why, hint);
    }
    let why = format!("{commit}, the newest commit of {name}, has not failed");
    refuse(
        why,
        format!("viking sync {name} looks at the repository now"),
    )
}

/// The pointer once a commit may be tried again; its stack's follower does the rest.
fn retry(name: &StackName, stack: &StackWorld, commit: &str) -> Result<Obeyed, Refused> {
    let mut pointer = stack.pointer.clone();
    if !pointer.is_set_aside(commit) {
        let hint = format!("viking status {name}");
        return refuse(format!("{} has not failed", short(commit)), hint);
    }
    pointer.forgive(commit);
    if pointer.staged.is_none() {
        pointer.reason = String::new();
        if pointer.live.is_some() {
            pointer.phase = Phase::Live;
        }
    }
    Ok(Obeyed::Pointer(Box::new(pointer)))
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
