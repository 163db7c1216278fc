//! `viking suspend` and `resume`.

use super::Context;
use super::failure::Outcome;
use super::sources::say;
use crate::model::names::StackName;
use crate::model::wire::Accepted;

/// Asks that nothing new is brought up.
pub(crate) async fn suspend(context: &Context, stack: &StackName) -> Outcome {
    ask(context, stack, "suspend").await
}

/// Ends that.
pub(crate) async fn resume(context: &Context, stack: &StackName) -> Outcome {
    ask(context, stack, "resume").await
}

async fn ask(context: &Context, stack: &StackName, what: &str) -> Outcome {
    let path = format!("/v1/stack/{stack}/{what}");
    let accepted: Accepted = context.client.post(&path, &serde_json::json!({})).await?;
    say(context, &accepted)?;
    let remark = format!("see how it goes: viking status {stack}");
    context.print.remark(&remark);
    Ok(0)
}
