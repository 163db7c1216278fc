//! A follower's part of `viking apply`: of a suspended stack one commit is brought up, if it would still do
//! what people were shown. The request stays until that is staged, so that the next leader goes on with it.

use super::follow::{Follower, Memory};
use super::foresee;
use crate::model::foretold::PlanId;
use crate::model::world::StackWorld;
use crate::schedule::apply::{can_apply, still_so};
use crate::store::tables::Request;

/// The request's kind.
pub(super) const KIND: &str = "apply";

impl Follower {
    /// Whether the head in memory is to be brought up although the stack is suspended. Plans that are
    /// done with are forgotten.
    pub(super) async fn applies(
        &self,
        stack: &StackWorld,
        memory: &mut Memory,
        plans: &[(String, Request)],
    ) -> anyhow::Result<bool> {
        let Some((id, request)) = plans.first() else {
            memory.applies = None;
            return Ok(false);
        };
        let refused = match request.about.parse::<PlanId>() {
            Err(why) => Some(why),
            // The API has looked before: it is on its way, was dealt with, or needs no plan any more.
            Ok(plan) if can_apply(&self.stack, stack, &plan).is_err() => None,
            Ok(plan) if memory.applies.as_ref() == Some(&plan.commit) => return Ok(true),
            Ok(plan) => {
                let told = foresee(&self.parts, &self.stack, None).await?;
                match still_so(&plan, &told) {
                    Ok(()) => {
                        memory.head = Some(plan.commit.clone());
                        memory.applies = Some(plan.commit);
                        return Ok(true);
                    }
                    Err(refused) => Some(refused.why),
                }
            }
        };
        memory.applies = None;
        let about = request.about.as_str();
        let mut ops = vec![self.parts.tables.obey_op(&self.stack, id)];
        if let Some(why) = refused {
            tracing::warn!(stack = %self.stack, "refused: apply of {about}: {why}");
            ops.push(self.told("refused", &format!("apply of {about}: {why}")));
        }
        self.change(ops, |_| {}).await?;
        Ok(false)
    }
}
