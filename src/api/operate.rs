//! What people ask of a stack that is there: bring an earlier release back, try its commit again,
//! make a node anew, leave it alone for a while. Refuses early what makes no sense, in words; the leader does the rest.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::Shared;
use super::change::{accepted_of, ask_leader, followed};
use super::error::{Answer, ApiError};
use crate::clock;
use crate::model::history::RunEnd;
use crate::model::names::{NodeName, StackName, Tag};
use crate::model::release::{RunId, Source};
use crate::model::wire::{Accepted, RollbackRequest, rfc3339};
use crate::model::world::StackWorld;
use crate::schedule::order::{self, Obeyed, Order, Refused};
use crate::store::tables::Outcome;

type App = State<Arc<Shared>>;

/// Looks at the repository no longer and brings up nothing new; what runs is kept.
pub(crate) async fn suspend(
    State(shared): App,
    Path(name): Path<StackName>,
) -> Answer<Json<Accepted>> {
    let world = shared.state.world().await?;
    if let Some(since_ms) = followed(&world, &name)?.suspended_ms() {
        let accepted = format!("was suspended already, since {}", rfc3339(since_ms));
        return Ok(accepted_of(name, accepted));
    }
    let now_ms = clock::now_ms();
    rewrite(&shared, &name, |source| source.suspended_ms = Some(now_ms)).await?;
    let accepted = "its repository is not looked at and nothing new is brought up until `viking resume`; \
                    what runs is kept running";
    Ok(accepted_of(name, accepted))
}

/// Follows the repository again.
pub(crate) async fn resume(
    State(shared): App,
    Path(name): Path<StackName>,
) -> Answer<Json<Accepted>> {
    let world = shared.state.world().await?;
    if followed(&world, &name)?.suspended_ms().is_none() {
        return Ok(accepted_of(name, "was not suspended"));
    }
    rewrite(&shared, &name, |source| source.suspended_ms = None).await?;
    Ok(accepted_of(name, "its repository is looked at now"))
}

/// Changes what people say of a source, unless somebody else just did.
async fn rewrite(shared: &Shared, name: &StackName, edit: impl Fn(&mut Source)) -> Answer<()> {
    let tables = &shared.state.tables;
    let mut known = tables.sources().await?;
    let Some((mut source, revision)) = known.sources.remove(name) else {
        return Err(changed(name));
    };
    edit(&mut source);
    match tables.put_source(name, &source, revision).await? {
        Outcome::Done(_) => Ok(()),
        Outcome::Conflict | Outcome::Deposed => Err(changed(name)),
    }
}

fn changed(name: &StackName) -> ApiError {
    let error = format!("{name} was changed by somebody else just now");
    ApiError::new(StatusCode::CONFLICT, error, "try again")
}

/// Tries the newest commit again, which failed or was set aside.
pub(crate) async fn retry(
    State(shared): App,
    Path(name): Path<StackName>,
) -> Answer<Json<Accepted>> {
    let world = shared.state.world().await?;
    let stack = followed(&world, &name)?;
    let commit = order::retryable(&name, stack).map_err(refused)?;
    let accepted = format!("{} is made again", order::short(&commit));
    leave(&shared, name, &Order::Retry(commit), accepted).await
}

/// Brings an earlier release back, as a release of its own.
pub(crate) async fn rollback(
    State(shared): App,
    Path(name): Path<StackName>,
    Json(request): Json<RollbackRequest>,
) -> Answer<Json<Accepted>> {
    let world = shared.state.world().await?;
    let stack = followed(&world, &name)?;
    let history = shared.state.tables.history(&name).await?.into_iter();
    let live = history.filter(|run| run.end == RunEnd::Live);
    let lived: Vec<Tag> = live.map(|run| run.tag).collect();
    let to = match request.tag {
        Some(tag) if stack.releases.contains_key(&tag) => tag,
        Some(tag) => {
            let known = order::known(stack, &lived);
            let known = known.iter().map(Tag::as_str);
            return Err(ApiError::unknown("release", tag.as_str(), known));
        }
        None => order::last_before(&name, stack, &lived).map_err(refused)?,
    };
    let asked = Order::Rollback(to.clone());
    let obeyed = order::obey(&world, &name, &asked, &lived, RunId::new(world.now_ms, 0));
    if let Obeyed::Refused(why) = obeyed {
        return Err(refused(why));
    }
    let accepted = accepted_rollback(stack, &to, &obeyed);
    leave(&shared, name, &asked, accepted).await
}

/// Where it goes, when, and what is left for it.
fn accepted_rollback(stack: &StackWorld, to: &Tag, obeyed: &Obeyed) -> String {
    let subject = stack
        .releases
        .get(to)
        .map(|release| &release.commit.subject);
    let mut text = format!("goes back to {to} {:?}", subject.map_or("", String::as_str));
    match obeyed {
        Obeyed::Wait(why) => text.push_str(&format!(" once it may: {why}")),
        Obeyed::Staged(ready) if ready.end.is_some() => {
            let taken = stack.pointer.staged.as_ref();
            let taken = taken.map(|tag| format!("; {tag} is taken back"));
            text.push_str(&taken.unwrap_or_default());
        }
        Obeyed::Staged(_) | Obeyed::Pointer(_) | Obeyed::Refused(_) => {}
    }
    text
}

/// Makes a node's containers anew, from the spec that waits if one does.
pub(crate) async fn restart(
    State(shared): App,
    Path((name, node)): Path<(StackName, NodeName)>,
) -> Answer<Json<Accepted>> {
    let world = shared.state.world().await?;
    let stack = followed(&world, &name)?;
    if let Some(live) = stack.live().filter(|live| !live.nodes.contains_key(&node)) {
        let known = live.nodes.keys().map(NodeName::as_str);
        return Err(ApiError::unknown("node", node.as_str(), known));
    }
    let asked = Order::Restart(node.clone());
    let run = RunId::new(world.now_ms, 0);
    let accepted = match order::obey(&world, &name, &asked, &[], run) {
        Obeyed::Refused(why) => return Err(refused(why)),
        Obeyed::Wait(why) => format!("{node} is made anew once it may: {why}"),
        Obeyed::Staged(_) | Obeyed::Pointer(_) => accepted_restart(stack, &node),
    };
    leave(&shared, name, &asked, accepted).await
}

fn accepted_restart(stack: &StackWorld, node: &NodeName) -> String {
    let found = stack.live().and_then(|live| live.nodes.get(node));
    match found.filter(|found| found.pending.is_some()) {
        Some(_) => format!("{node} is made anew, from its changed spec"),
        None => format!("{node} is made anew"),
    }
}

/// Leaves an order for the leader.
async fn leave(
    shared: &Shared,
    name: StackName,
    order: &Order,
    accepted: String,
) -> Answer<Json<Accepted>> {
    ask_leader(shared, &name, order.kind(), order.about()).await?;
    Ok(accepted_of(name, accepted))
}

/// The answer to what makes no sense.
pub(super) fn refused(refused: Refused) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, refused.why, refused.hint)
}
