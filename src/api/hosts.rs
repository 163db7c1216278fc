//! Hosts: what people see of them and decide about them. The decision is a field of `/member`; the
//! leader moves what has to move.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Shared;
use super::error::{Answer, ApiError};
use crate::model::host::{Capacity, Member, Readiness};
use crate::model::job::Assignment;
use crate::model::names::HostName;
use crate::model::verdict::Verdict;
use crate::model::wire::{self, HostJob, HostJobs, HostRow, List, rfc3339};
use crate::model::world::World;
use crate::schedule::wanted::wanted;
use crate::schedule::{dowding, losses, relocate};
use crate::store::tables::Outcome;

type App = State<Arc<Shared>>;

/// Tries at a record that others write too.
const TRIES: usize = 5;

/// The hosts.
pub(crate) async fn list(State(shared): App) -> Answer<Json<List<HostRow>>> {
    let world = shared.state.world().await?;
    let leader = shared.state.tables.leader().await?;
    Ok(Json(List::new("hosts", rows(&world, leader.as_ref()))))
}

/// A row for each host.
pub(crate) fn rows(world: &World, leader: Option<&HostName>) -> Vec<HostRow> {
    let names: BTreeSet<&HostName> = world.members.keys().chain(world.hosts.keys()).collect();
    names
        .into_iter()
        .map(|name| row(world, name, leader))
        .collect()
}

fn row(world: &World, name: &HostName, leader: Option<&HostName>) -> HostRow {
    let alive = world.hosts.get(name);
    let member = world.members.get(name).cloned().unwrap_or_default();
    let here: Vec<_> = world
        .assignments
        .values()
        .filter(|at| at.host == *name)
        .collect();
    let gone = member.gone_ms > 0 && alive.is_none();
    HostRow {
        host: name.clone(),
        alive: alive.is_some(),
        readiness: member.readiness,
        tags: member.tags,
        capacity: member.capacity,
        address: alive.map(|host| host.address.to_string()),
        api: alive.map(|host| host.api.clone()),
        engine: alive.map(|host| host.engine.clone()),
        version: alive.map(|host| host.version.clone()),
        jobs: here.len(),
        reserved: reserved(world, &here),
        leader: leader == Some(name),
        gone_since: gone.then(|| rfc3339(member.gone_ms)),
    }
}

fn reserved(world: &World, here: &[&Assignment]) -> Capacity {
    let mut sum = Capacity::default();
    for node in here.iter().filter_map(|at| world.node(&at.job)) {
        sum.cpu_millis += node.resources.cpu_millis.unwrap_or(0);
        sum.memory_bytes += node.resources.memory_bytes.unwrap_or(0);
    }
    sum
}

/// One host, with its jobs.
pub(crate) async fn server(State(shared): App, Path(name): Path<HostName>) -> Answer<Json<Value>> {
    let world = shared.state.world().await?;
    known(&world, &name)?;
    let leader = shared.state.tables.leader().await?;
    let here = world.assignments.values().filter(|at| at.host == name);
    let jobs = here
        .map(|at| json!({ "job": at.job, "id": at.job.id(at.instance), "state": world.state(at) }));
    Ok(Json(json!({
        "schema": "viking.server/v1",
        "host": row(&world, &name, leader.as_ref()),
        "jobs": jobs.collect::<Vec<_>>(),
    })))
}

fn known(world: &World, name: &HostName) -> Answer<()> {
    if world.members.contains_key(name) || world.hosts.contains_key(name) {
        return Ok(());
    }
    let known = world.members.keys().chain(world.hosts.keys());
    let known = known.map(HostName::as_str);
    Err(ApiError::unknown("host", name.as_str(), known))
}

/// What is on a host, and for each job whether it leaves when the host is drained.
pub(crate) async fn jobs(State(shared): App, Path(name): Path<HostName>) -> Answer<Json<HostJobs>> {
    let world = shared.state.world().await?;
    known(&world, &name)?;
    Ok(Json(report(&world, &name)))
}

fn report(world: &World, name: &HostName) -> HostJobs {
    let here = world.assignments.values().filter(|at| at.host == *name);
    HostJobs {
        schema: wire::schema("host-jobs"),
        host: name.clone(),
        readiness: readiness(world, name),
        jobs: here.map(|at| job(world, at)).collect(),
        held: losses::majority_gone(world).unwrap_or_default(),
    }
}

fn readiness(world: &World, name: &HostName) -> Readiness {
    let member = world.members.get(name);
    member.map(|member| member.readiness).unwrap_or_default()
}

fn job(world: &World, at: &Assignment) -> HostJob {
    let (leaves, why) = leaves(world, at);
    HostJob {
        job: at.job.short(),
        leaves,
        why,
    }
}

/// Whether a job leaves its host once that is drained, and where to or why not.
fn leaves(world: &World, at: &Assignment) -> (bool, String) {
    if let Some(answers) = world.run.get(&at.job).filter(|host| **host != at.host) {
        return (true, format!("{answers} has taken over"));
    }
    let stack = world.stacks.get(&at.job.stack);
    let all = stack
        .map(|stack| wanted(&at.job.stack, stack))
        .unwrap_or_default();
    let Some(wanted) = all.iter().find(|wanted| wanted.job == at.job) else {
        return (true, "ends: nobody wants it any more".to_owned());
    };
    if at.job.node.is_before() {
        return (true, "ends by itself before long".to_owned());
    }
    if let Some(why) = relocate::stays(wanted.node) {
        return (false, why.to_owned());
    }
    if let Some(other) = world
        .beside(&at.job)
        .find(|other| relocate::goes_on(world, other))
    {
        return (true, format!("starts on {}", other.host));
    }
    let verdicts = dowding::explain(world, &at.job).unwrap_or_default();
    match elsewhere(&verdicts, &at.host) {
        Some(host) => (true, format!("goes to {host}")),
        None => (
            false,
            format!("no other host takes it: {}", reasons(&verdicts, &at.host)),
        ),
    }
}

fn elsewhere<'a>(verdicts: &'a [Verdict], here: &HostName) -> Option<&'a HostName> {
    let mut fit = verdicts.iter().filter(|v| v.fits() && v.host != *here);
    fit.next().map(|verdict| &verdict.host)
}

fn reasons(verdicts: &[Verdict], here: &HostName) -> String {
    let others = verdicts.iter().filter(|v| v.host != *here);
    let reasons: Vec<_> = others
        .map(|v| format!("{}: {}", v.host, v.ruling))
        .collect();
    if reasons.is_empty() {
        return "there is no other".to_owned();
    }
    reasons.join("; ")
}

/// Takes no new jobs, keeps what it has.
pub(crate) async fn cordon(state: App, name: Path<HostName>) -> Answer<Json<HostJobs>> {
    decide(state, name, Readiness::Cordoned).await
}

/// Takes jobs again.
pub(crate) async fn uncordon(state: App, name: Path<HostName>) -> Answer<Json<HostJobs>> {
    decide(state, name, Readiness::Ready).await
}

/// Takes no new jobs and gives away those that may move.
pub(crate) async fn drain(state: App, name: Path<HostName>) -> Answer<Json<HostJobs>> {
    decide(state, name, Readiness::Draining).await
}

async fn decide(
    State(shared): App,
    Path(name): Path<HostName>,
    readiness: Readiness,
) -> Answer<Json<HostJobs>> {
    let tables = &shared.state.tables;
    for _ in 0..TRIES {
        let world = shared.state.world().await?;
        known(&world, &name)?;
        let members = tables.members().await?;
        let Some((member, revision)) = members.get(&name) else {
            return Err(not_joined(&name));
        };
        if member.readiness == readiness {
            return Ok(Json(report(&world, &name)));
        }
        let member = Member {
            readiness,
            ..member.clone()
        };
        if let Outcome::Done(_) = tables.put_member(&name, &member, *revision).await? {
            let world = shared.state.world().await?;
            return Ok(Json(report(&world, &name)));
        }
    }
    Err(ApiError::later(
        format!("others change {name} all the time"),
        "try again in a moment",
    ))
}

fn not_joined(name: &HostName) -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        format!("{name} has not joined yet"),
        "it joins as soon as its Docker answers",
    )
}

/// A host that is gone for good: what may move from it does, without waiting any longer.
pub(crate) async fn forget(
    State(shared): App,
    Path(name): Path<HostName>,
) -> Answer<Json<HostJobs>> {
    let world = shared.state.world().await?;
    known(&world, &name)?;
    if world.hosts.contains_key(&name) {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("{name} is alive"),
            format!("`viking hosts drain {name}`, stop viking there, then forget it"),
        ));
    }
    let before = report(&world, &name);
    shared.state.tables.forget_member(&name).await?;
    Ok(Json(before))
}
