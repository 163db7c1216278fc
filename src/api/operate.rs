//! What people ask of a stack that is there: leave it alone for a while, and take it up again.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::Shared;
use super::change::{accepted_of, followed};
use super::error::{Answer, ApiError};
use crate::clock;
use crate::model::names::StackName;
use crate::model::release::Source;
use crate::model::wire::{Accepted, rfc3339};
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
