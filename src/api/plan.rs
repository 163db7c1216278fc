//! What a commit would do, and doing exactly that: `viking plan` and `viking apply`. Looks at the repository
//! through the host; the leader applies.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::change::{accepted_of, ask, ask_leader, followed};
use super::error::{Answer, ApiError};
use super::operate::refused;
use super::{Ask, Shared};
use crate::model::foretold::{Foretold, PlanId};
use crate::model::names::StackName;
use crate::model::wire::{Accepted, ApplyRequest, PlanRequest};
use crate::schedule::apply;
use crate::schedule::order;

/// Longest branch name or commit id.
const WORD_BYTES_MAX: usize = 256;

type App = State<Arc<Shared>>;

/// What a commit would do.
pub(crate) async fn plan(
    State(shared): App,
    Path(name): Path<StackName>,
    Json(request): Json<PlanRequest>,
) -> Answer<Json<Foretold>> {
    let world = shared.state.world().await?;
    followed(&world, &name)?;
    let long = |word: &String| word.len() > WORD_BYTES_MAX;
    if request.revision.as_ref().is_some_and(long) {
        return Err(ApiError::bad(
            format!("a revision of more than {WORD_BYTES_MAX} bytes"),
            "name a branch, or a commit by its id",
        ));
    }
    Ok(Json(foretold(&shared, &name, request.revision).await?))
}

async fn foretold(shared: &Shared, name: &StackName, word: Option<String>) -> Answer<Foretold> {
    let stack = name.clone();
    let asked = ask(shared, |reply| Ask::Plan { stack, word, reply }).await?;
    let told = asked.map_err(|why| {
        let hint = "repair it, or name another branch or commit";
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, why, hint)
    })?;
    Ok(*told)
}

/// Brings up the commit of a plan, if it would still do what the plan says.
pub(crate) async fn apply_plan(
    State(shared): App,
    Path(name): Path<StackName>,
    Json(request): Json<ApplyRequest>,
) -> Answer<Json<Accepted>> {
    let bad = |why: String| ApiError::bad(why, "give a digest as `viking plan` prints it");
    let plan: PlanId = request.plan.parse().map_err(bad)?;
    if plan.stack != name {
        return Err(bad(format!(
            "that is a plan of {}, not of {name}",
            plan.stack
        )));
    }
    let world = shared.state.world().await?;
    let stack = followed(&world, &name)?;
    apply::can_apply(&name, stack, &plan).map_err(refused)?;
    let told = foretold(&shared, &name, None).await?;
    apply::still_so(&plan, &told).map_err(refused)?;
    ask_leader(&shared, &name, "apply", &plan.to_string()).await?;
    let accepted = format!("{} is brought up as planned", order::short(&plan.commit));
    Ok(accepted_of(name, accepted))
}
