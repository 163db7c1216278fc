//! A follower's part of `viking apply`: of a suspended stack one commit is brought up, if it would still do
//! what people were shown. The request stays until that is staged, so that the next leader goes on with it.

use super::follow::{Follower, Memory};
use super::foresee::{Unforeseen, foresee};
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
        // Ids begin with the time: what people said last counts.
        let Some(((id, request), older)) = plans.split_last() else {
            memory.applies = None;
            return Ok(false);
        };
        if !older.is_empty() {
            let ids: Vec<String> = older.iter().map(|(id, _)| id.clone()).collect();
            self.obey(&ids).await?;
        }
        let refused = match request.about.parse::<PlanId>() {
            Err(why) => Some(why),
            // It was done.
            Ok(plan) if is_named(stack, &plan.commit) => None,
            Ok(plan) => match self.holds(stack, memory, &plan).await? {
                Ok(()) => {
                    memory.head = Some(plan.commit.clone());
                    memory.applies = Some(plan.commit);
                    return Ok(true);
                }
                Err(why) => Some(why),
            },
        };
        match refused {
            Some(why) => {
                self.drop_plan(memory, stack, id, &request.about, &why)
                    .await?;
            }
            None => {
                memory.applies = None;
                self.obey(std::slice::from_ref(id)).await?;
            }
        }
        Ok(false)
    }

    /// Whether a plan is to be gone on with; why not, in words, if people must make another.
    async fn holds(
        &self,
        stack: &StackWorld,
        memory: &mut Memory,
        plan: &PlanId,
    ) -> anyhow::Result<Result<(), String>> {
        if let Err(refused) = can_apply(&self.stack, stack, plan) {
            return Ok(Err(refused.why));
        }
        if memory.applies.as_ref() == Some(&plan.commit) {
            return Ok(Ok(()));
        }
        memory.made = memory
            .made
            .take()
            .filter(|made| made.commit.id == plan.commit);
        match foresee(&self.parts, &self.stack, None).await {
            Ok(told) => Ok(still_so(plan, &told).map_err(|refused| refused.why)),
            Err(Unforeseen::Commit(why)) => Ok(Err(why)),
            // Nobody can say for now.
            Err(Unforeseen::Outside(error)) => Err(error),
        }
    }

    /// Forgets a plan that cannot be done, and says so. What was begun for it has its end.
    async fn drop_plan(
        &self,
        memory: &mut Memory,
        stack: &StackWorld,
        id: &str,
        about: &str,
        why: &str,
    ) -> anyhow::Result<()> {
        tracing::warn!(stack = %self.stack, "refused: apply of {about}: {why}");
        memory.applies = None;
        memory.made = None;
        if stack.pointer.building.is_some() {
            self.superseded("another plan").await?;
        }
        let told = self.told("refused", &format!("apply of {about}: {why}"));
        let obeyed = self.parts.tables.obey_op(&self.stack, id);
        self.change(vec![obeyed, told], |_| {}).await
    }
}

/// Whether a commit serves or is on its way.
fn is_named(stack: &StackWorld, commit: &str) -> bool {
    let named = [stack.live(), stack.staged()];
    named
        .into_iter()
        .flatten()
        .any(|release| release.commit.id == commit)
}
