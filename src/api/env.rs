//! Shared variables: what people set, unset and list. Takes values in and never gives one out; who
//! names a variable is `schedule::variables`' to say, and the leader makes the releases.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::Shared;
use super::error::{Answer, ApiError};
use crate::clock;
use crate::model::env::VarRef;
use crate::model::names::{ScopeName, StackName, VarName};
use crate::model::wire::{
    self, List, SetVariable, VariableChanged, VariableRow, VariableUse, rfc3339,
};
use crate::model::world::World;
use crate::schedule::variables::{Use, uses};
use crate::store::tables;

type App = State<Arc<Shared>>;

/// Only one scope's, if it is named.
#[derive(Debug, Deserialize)]
pub(crate) struct OfScope {
    scope: Option<ScopeName>,
}

/// Variables that are set, and who names them.
pub(crate) async fn list(
    State(shared): App,
    Query(query): Query<OfScope>,
) -> Answer<Json<List<VariableRow>>> {
    let variables = shared.state.tables.variables().await?;
    if let Some(scope) = &query.scope
        && !variables.iter().any(|known| known.var.scope == *scope)
    {
        let known: BTreeSet<&str> = variables.iter().map(|v| v.var.scope.as_str()).collect();
        return Err(ApiError::unknown("scope", scope.as_str(), known));
    }
    let uses = uses(&shared.state.world().await?);
    let wanted = |var: &VarRef| query.scope.as_ref().is_none_or(|scope| var.scope == *scope);
    let rows = variables.into_iter().filter(|one| wanted(&one.var));
    let rows = rows.map(|one| VariableRow {
        used_by: uses.get(&one.var).into_iter().flatten().map(row).collect(),
        scope: one.var.scope,
        name: one.var.name,
        version: one.version,
        set: rfc3339(one.at_ms),
    });
    Ok(Json(List::new("variables", rows.collect())))
}

fn row(of: &Use) -> VariableUse {
    VariableUse {
        stack: of.stack.clone(),
        release: of.release,
        version: of.version,
    }
}

/// Gives a variable another value.
pub(crate) async fn set(
    State(shared): App,
    Path((scope, name)): Path<(ScopeName, VarName)>,
    Json(request): Json<SetVariable>,
) -> Answer<Json<VariableChanged>> {
    let var = VarRef { scope, name };
    let tables = &shared.state.tables;
    let set = tables.set_variable(&var, &request.value, clock::now_ms());
    let version = set.await.map_err(refused)?;
    let world = shared.state.world().await?;
    let accepted = format!("is at version {version}; {}", follows(&world, &var));
    Ok(changed(var, Some(version), accepted))
}

/// What comes of a variable that was set.
fn follows(world: &World, var: &VarRef) -> String {
    let users = users(world, var);
    if users.is_empty() {
        return "no release that is live or on its way names it".to_owned();
    }
    let said = users.iter().map(|name| {
        let stack = world.stacks.get(name);
        let pointer = stack.map(|stack| &stack.pointer);
        let staged = pointer.is_some_and(|pointer| pointer.staged.is_some());
        if stack.is_some_and(|stack| stack.suspended_ms().is_some()) {
            format!("{name} gets it once it is resumed")
        } else if staged {
            format!("{name} gets it after what is on its way")
        } else {
            format!("{name} gets it in a new release")
        }
    });
    said.collect::<Vec<_>>().join("; ")
}

fn users(world: &World, var: &VarRef) -> BTreeSet<StackName> {
    let of = uses(world).remove(var).unwrap_or_default();
    of.into_iter().map(|one| one.stack).collect()
}

/// A variable has no value any more. Refused while a release that is live or on its way names it: its
/// containers could not be made again.
pub(crate) async fn unset(
    State(shared): App,
    Path((scope, name)): Path<(ScopeName, VarName)>,
) -> Answer<Json<VariableChanged>> {
    let var = VarRef { scope, name };
    let world = shared.state.world().await?;
    let users = users(&world, &var);
    if !users.is_empty() {
        let names: Vec<&str> = users.iter().map(StackName::as_str).collect();
        let error = format!("{var} is in use by {}", names.join(", "));
        let hint = format!(
            "push a commit that does not name _{}:{} any more, then unset it",
            var.scope, var.name
        );
        return Err(ApiError::new(StatusCode::CONFLICT, error, hint));
    }
    let tables = &shared.state.tables;
    if !tables.unset_variable(&var).await.map_err(refused)? {
        let known = tables.variables().await?;
        let known: Vec<String> = known.iter().map(|v| v.var.to_string()).collect();
        let known = known.iter().map(String::as_str);
        return Err(ApiError::unknown("variable", &var.to_string(), known));
    }
    let accepted = "is not set any more; its value is forgotten once no release on record names it";
    Ok(changed(var, None, accepted.to_owned()))
}

fn refused(error: tables::Error) -> ApiError {
    match error {
        tables::Error::Refused(why) => ApiError::new(
            StatusCode::CONFLICT,
            why,
            "viking env list says what is set",
        ),
        other => other.into(),
    }
}

fn changed(var: VarRef, version: Option<u64>, accepted: String) -> Json<VariableChanged> {
    Json(VariableChanged {
        schema: wire::schema("variable"),
        scope: var.scope,
        name: var.name,
        version,
        accepted,
    })
}
