//! Whether a plan that people agreed to is still what would happen. Asked by the API when they say it and by
//! the leader right before it is done, with the same words. Pure.

use super::order::{Refused, refuse};
use crate::model::foretold::{Foretold, PlanId};
use crate::model::names::StackName;
use crate::model::world::StackWorld;

/// Checks a plan that people want to be done.
///
/// # Errors
/// When that makes no sense.
pub fn can_apply(name: &StackName, stack: &StackWorld, plan: &PlanId) -> Result<(), Refused> {
    let commit = super::order::short(&plan.commit);
    let is = |id: &str| id == plan.commit;
    if stack.live().is_some_and(|live| is(&live.commit.id)) && stack.staged().is_none() {
        return refuse(
            format!("{commit} is live already"),
            format!("viking status {name}"),
        );
    }
    if stack.staged().is_some_and(|staged| is(&staged.commit.id)) {
        return refuse(
            format!("{commit} is on its way already"),
            format!("viking status {name}"),
        );
    }
    if stack.pointer.is_set_aside(&plan.commit) {
        return refuse(
            format!("{commit} failed or was left by a rollback"),
            format!("viking status {name} says why; viking retry {name} tries it again"),
        );
    }
    if stack.suspended_ms().is_none() {
        return refuse(
            format!("{name} is not suspended: its commits are brought up as they come"),
            format!("viking suspend {name} first, to decide on each commit by its plan"),
        );
    }
    Ok(())
}

/// Checks that the newest commit would do what was planned.
///
/// # Errors
/// When it is another commit, would do something else, or would fail.
pub fn still_so(plan: &PlanId, told: &Foretold) -> Result<(), Refused> {
    let stack = &plan.stack;
    let again = format!("viking plan --stack {stack} says what would happen now");
    if told.commit.id != plan.commit {
        let newest = told.commit.short();
        let why = format!(
            "{} is not the newest commit of {stack}, {newest} is",
            super::order::short(&plan.commit)
        );
        return refuse(why, again);
    }
    if !told.refused.is_empty() {
        return refuse(format!("it would fail: {}", told.refused), again);
    }
    if told.digest != plan.to_string() {
        return refuse(
            "what would happen is not what was planned: the world has moved since",
            again,
        );
    }
    Ok(())
}
