//! `viking rollback`, `retry`, `restart`, `suspend` and `resume`: asked for here, done by the leader.
//! None waits for the end, as `sync` does not: they say where to look.

use serde::Serialize;

use super::Context;
use super::args::{RestartArgs, RollbackArgs};
use super::failure::Outcome;
use super::sources::say;
use crate::model::names::StackName;
use crate::model::wire::{Accepted, RollbackRequest};

/// Asks for an earlier release.
pub(crate) async fn rollback(context: &Context, args: &RollbackArgs) -> Outcome {
    let request = RollbackRequest {
        tag: args.tag.clone(),
    };
    ask(context, &args.stack, "rollback", &request).await
}

/// Asks for another try of the newest commit.
pub(crate) async fn retry(context: &Context, stack: &StackName) -> Outcome {
    ask(context, stack, "retry", &serde_json::json!({})).await
}

/// Asks for new containers of a node.
pub(crate) async fn restart(context: &Context, args: &RestartArgs) -> Outcome {
    let (stack, node) = &args.what;
    let what = format!("restart/{node}");
    ask(context, stack, &what, &serde_json::json!({})).await
}

/// Asks that nothing new is brought up.
pub(crate) async fn suspend(context: &Context, stack: &StackName) -> Outcome {
    ask(context, stack, "suspend", &serde_json::json!({})).await
}

/// Ends that.
pub(crate) async fn resume(context: &Context, stack: &StackName) -> Outcome {
    ask(context, stack, "resume", &serde_json::json!({})).await
}

async fn ask(
    context: &Context,
    stack: &StackName,
    what: &str,
    request: &(impl Serialize + Sync),
) -> Outcome {
    let path = format!("/v1/stack/{stack}/{what}");
    let accepted: Accepted = context.client.post(&path, request).await?;
    say(context, &accepted)?;
    let remark = format!("see how it goes: viking status {stack}");
    context.print.remark(&remark);
    Ok(0)
}
