//! Answers that only read: one look at the store each, shaped for people and programs.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{Answer, ApiError, stack};
use super::status::status;
use super::text::public_url;
use super::{Shared, hosts, verdicts};
use crate::model::dump::Dump;
use crate::model::history::{EventRecord, RunRecord};
use crate::model::job::JobKey;
use crate::model::names::{NodeName, StackName, Tag};
use crate::model::release::Release;
use crate::model::status::StatusReport;
use crate::model::verdict::Verdict;
use crate::model::wire::{
    self, AllocatedJob, Allocation, EventRow, ImageRow, KeyRow, List, StackRow, TagRow, VerdictRow,
    rfc3339,
};
use crate::model::world::StackWorld;

type App = State<Arc<Shared>>;

/// Only one stack's, if it is named.
#[derive(Debug, Deserialize)]
pub(crate) struct OfStack {
    stack: Option<StackName>,
}

/// Whether the API works: it answers.
pub(crate) async fn ping() -> Json<bool> {
    Json(true)
}

/// The current state.
pub(crate) async fn info(State(shared): App) -> Answer<Json<Value>> {
    let world = shared.state.world().await?;
    let leader = shared.state.tables.leader().await?;
    Ok(Json(json!({
        "schema": "viking.info/v1",
        "version": env!("CARGO_PKG_VERSION"),
        "cluster": shared.state.tables.cluster(),
        "host": shared.state.config.host,
        "leader": leader,
        "revision": world.revision,
        "at": rfc3339(world.now_ms),
        "hosts": hosts::rows(&world, leader.as_ref()),
        "stacks": status(&world, None).stacks,
        "unreadable": world.frozen,
        "routes": shared.routes,
    })))
}

/// How all stacks are.
pub(crate) async fn status_of_all(State(shared): App) -> Answer<Json<StatusReport>> {
    let world = shared.state.world().await?;
    Ok(Json(status(&world, None)))
}

/// How one stack is.
pub(crate) async fn status_of_one(
    State(shared): App,
    Path(name): Path<StackName>,
) -> Answer<Json<StatusReport>> {
    let world = shared.state.world().await?;
    stack(&world, &name)?;
    Ok(Json(status(&world, Some(&name))))
}

/// The stacks.
pub(crate) async fn stacks(State(shared): App) -> Answer<Json<List<StackRow>>> {
    let world = shared.state.world().await?;
    let rows = world
        .stacks
        .iter()
        .map(|(name, stack)| stack_row(name, stack));
    Ok(Json(List::new("stacks", rows.collect())))
}

fn stack_row(name: &StackName, stack: &StackWorld) -> StackRow {
    let source = stack.source.as_ref();
    StackRow {
        stack: name.clone(),
        url: source.map(|source| public_url(&source.url)),
        branch: source.and_then(|source| source.branch.clone()),
        path: source.map(|source| source.path.clone()).unwrap_or_default(),
        live: stack.pointer.live.clone(),
        staged: stack.pointer.staged.clone(),
        phase: stack.pointer.phase,
    }
}

/// One stack: where it comes from and where it is.
pub(crate) async fn stack_info(
    State(shared): App,
    Path(name): Path<StackName>,
) -> Answer<Json<Value>> {
    let world = shared.state.world().await?;
    let found = stack(&world, &name)?;
    let mut source = found.source.clone();
    if let Some(source) = &mut source {
        source.url = public_url(&source.url);
    }
    Ok(Json(json!({
        "schema": "viking.stack/v1",
        "stack": name,
        "source": source,
        "pointer": found.pointer,
    })))
}

/// A stack's recorded releases, newest first.
pub(crate) async fn tags(
    State(shared): App,
    Path(name): Path<StackName>,
) -> Answer<Json<List<TagRow>>> {
    let world = shared.state.world().await?;
    let found = stack(&world, &name)?;
    let mut releases: Vec<&Release> = found.releases.values().collect();
    releases.sort_by_key(|release| (std::cmp::Reverse(release.made_ms), &release.tag));
    let rows = releases.into_iter().map(|release| TagRow {
        tag: release.tag.clone(),
        role: role(found, &release.tag).to_owned(),
        commit: release.commit.clone(),
        made: rfc3339(release.made_ms),
    });
    Ok(Json(List::new("tags", rows.collect())))
}

fn role(stack: &StackWorld, tag: &Tag) -> &'static str {
    let pointer = &stack.pointer;
    let is = |role: &Option<Tag>| role.as_ref() == Some(tag);
    match (
        is(&pointer.live),
        is(&pointer.staged),
        is(&pointer.retiring),
    ) {
        (true, _, _) => "live",
        (_, true, _) => "staged",
        (_, _, true) => "retiring",
        (false, false, false) => "",
    }
}

fn release<'a>(stack: &'a StackWorld, tag: &Tag) -> Answer<&'a Release> {
    let known = || stack.releases.keys().map(Tag::as_str);
    let found = stack.releases.get(tag);
    found.ok_or_else(|| ApiError::unknown("recorded release", tag.as_str(), known()))
}

/// The nodes of a recorded release, with the spec each runs.
pub(crate) async fn nodes(
    State(shared): App,
    Path((name, tag)): Path<(StackName, Tag)>,
) -> Answer<Json<Value>> {
    let world = shared.state.world().await?;
    let found = stack(&world, &name)?;
    let release = release(found, &tag)?;
    let nodes = release.nodes.iter().chain(&release.before);
    let nodes = nodes.map(|(node, wanted)| {
        let spec = found.procs.get(&(node.clone(), wanted.tag.clone()));
        (node.to_string(), json!({ "node": wanted, "spec": spec }))
    });
    Ok(Json(json!({
        "schema": "viking.nodes/v1",
        "stack": name,
        "tag": tag,
        "nodes": nodes.collect::<serde_json::Map<_, _>>(),
    })))
}

/// Where the jobs of a node run or would run.
pub(crate) async fn allocate(
    State(shared): App,
    Path((name, tag, node)): Path<(StackName, Tag, NodeName)>,
) -> Answer<Json<Allocation>> {
    let world = shared.state.world().await?;
    let release = release(stack(&world, &name)?, &tag)?;
    let events = shared.state.tables.events(Some(&name)).await?;
    let known = || release.nodes.keys().map(NodeName::as_str);
    let wanted = release
        .node(&node)
        .ok_or_else(|| ApiError::unknown("node", node.as_str(), known()))?;
    let jobs = (0..wanted.slots()).map(|slot| {
        let job = JobKey {
            stack: name.clone(),
            tag: wanted.tag.clone(),
            node: node.clone(),
            slot,
        };
        let placement = world.placement(&job);
        let decided = placement.and_then(|_| decided(&events, &job));
        let said = decided.is_some();
        let verdicts = decided.unwrap_or_else(|| verdicts::explain(&world, release, &job));
        AllocatedJob {
            decided: said,
            host: placement.map(|at| at.host.clone()),
            id: placement.map(|at| job.id(at.instance).to_string()),
            verdicts: verdicts.into_iter().map(VerdictRow::from).collect(),
            job,
        }
    });
    Ok(Json(Allocation {
        schema: wire::schema("allocation"),
        jobs: jobs.collect(),
        stack: name.clone(),
        tag,
        node: node.clone(),
    }))
}

/// The verdicts stored with a job's last placement, unless its event was trimmed since.
fn decided(events: &[(StackName, EventRecord)], job: &JobKey) -> Option<Vec<Verdict>> {
    let placed = events.iter().rev().flat_map(|(_, event)| &event.placed);
    placed
        .into_iter()
        .find(|start| start.job == *job)
        .map(|start| start.verdicts.clone())
}

/// The world, for who wants to try things out on it.
pub(crate) async fn dump(State(shared): App) -> Answer<Json<Dump>> {
    Ok(Json(Dump::of(shared.state.world().await?)))
}

/// Build records.
pub(crate) async fn images(
    State(shared): App,
    Query(of): Query<OfStack>,
) -> Answer<Json<List<ImageRow>>> {
    let images = shared.state.tables.images(of.stack.as_ref()).await?;
    let rows = images.into_iter().map(|image| ImageRow {
        stack: image.stack,
        tag: image.tag,
        image: image.image,
        record: image.record,
    });
    Ok(Json(List::new("images", rows.collect())))
}

/// What happened, oldest first.
pub(crate) async fn events(
    State(shared): App,
    Query(of): Query<OfStack>,
) -> Answer<Json<List<EventRow>>> {
    let events = shared.state.tables.events(of.stack.as_ref()).await?;
    let rows = events.into_iter().map(|(stack, event)| EventRow {
        stack,
        at: rfc3339(event.at_ms),
        event,
    });
    Ok(Json(List::new("events", rows.collect())))
}

/// How a stack's runs ended, newest first.
pub(crate) async fn history(
    State(shared): App,
    Path(name): Path<StackName>,
) -> Answer<Json<List<RunRecord>>> {
    let runs = shared.state.tables.history(&name).await?;
    if runs.is_empty() {
        stack(&shared.state.world().await?, &name)?;
    }
    Ok(Json(List::new("history", runs)))
}

/// Every key and value but secret ones.
pub(crate) async fn keys(State(shared): App) -> Answer<Json<List<KeyRow>>> {
    let dump = shared.state.tables.dump().await?;
    let rows = dump.into_iter().map(|(key, value)| KeyRow { key, value });
    Ok(Json(List::new("keys", rows.collect())))
}
