//! Follows one commit of a stack to its end: live or failed. The decision is a pure function of the
//! stack's status; the loop around it asks and shows.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::Context;
use super::client::Lines;
use super::failure::Failure;
use super::status::fetch;
use super::view::View;
use crate::model::names::StackName;
use crate::model::progress::Progress;
use crate::model::release::Phase;
use crate::model::status::{HealthWord, StackStatus, StagedStatus};

/// Time between two looks; each is one read of the store.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// One look: a status is read from memory.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// Looks that fail for longer than this end the following: a stalled disk or a host that starts
/// again is back by then, and the commit goes on without anybody looking.
const BLIND_MAX: Duration = Duration::from_secs(30);

/// How it ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The commit serves, every job of it works.
    Live(Box<StackStatus>),
    /// The commit's own fault.
    Failed(Box<StagedStatus>),
}

/// Follows `head`, or the commit that takes over from it.
pub(crate) struct Follow<'a> {
    context: &'a Context,
    stack: StackName,
    target: Target,
    stream: Option<Lines>,
    /// Since when looks fail.
    blind: Option<Instant>,
    /// The stack's last reason, for who gives up waiting.
    pub(crate) reason: String,
}

/// The commit that is waited for.
#[derive(Debug, Default)]
pub(crate) struct Target {
    /// Its id; the first one seen when nobody knows yet.
    head: Option<String>,
    /// The newest commit when the waiting began: not news.
    known: Option<String>,
}

impl<'a> Follow<'a> {
    /// Listens from now on.
    pub(crate) async fn new(
        context: &'a Context,
        stack: StackName,
        head: Option<String>,
    ) -> Follow<'a> {
        let path = format!("/v1/progress?stack={stack}");
        let stream = context.client.lines(&path).await.ok();
        Self {
            context,
            stack,
            target: Target { head, known: None },
            stream,
            blind: None,
            reason: String::new(),
        }
    }

    /// Waits for the end of the commit and shows what happens on the way.
    pub(crate) async fn end(&mut self, view: &mut View) -> Result<End, Failure> {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                progress = next(&mut self.stream) => match progress {
                    Some(progress) => view.progress(&progress),
                    // The looks go on; they alone decide.
                    None => self.stream = None,
                },
                _ = looks.tick() => {
                    let Some(stack) = self.look().await? else { continue };
                    view.status(&stack);
                    self.reason.clone_from(&stack.reason);
                    if let Some(end) = self.target.decide(stack) {
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// Waits until a commit that is not the last one is seen.
    pub(crate) async fn newer(&mut self) -> Result<(), Failure> {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let stack = self.look().await?;
            let seen = stack.and_then(|stack| stack.source?.head);
            if seen.is_some() && seen != self.target.head {
                self.target = Target {
                    known: seen.clone(),
                    head: seen,
                };
                return Ok(());
            }
        }
    }

    /// How the stack is; nothing when that could not be told this time.
    async fn look(&mut self) -> Result<Option<StackStatus>, Failure> {
        let look = tokio::time::timeout(LOOK_MAX, fetch(self.context, Some(&self.stack)));
        let silent = |_| Failure::passing("the host did not answer in time", "its log says more");
        let failure = match look.await.map_err(silent).flatten() {
            Ok(report) => {
                self.blind = None;
                return Ok(report.stacks.into_iter().next());
            }
            Err(failure) if failure.passing => failure,
            Err(failure) => return Err(failure),
        };
        if self.blind.is_none() {
            let remark = format!("{}; asking again", failure.error);
            self.context.print.remark(&remark);
        }
        let since = *self.blind.get_or_insert_with(Instant::now);
        if since.elapsed() < BLIND_MAX {
            return Ok(None);
        }
        Err(failure)
    }
}

impl Target {
    /// Whether the waiting is over. A newer commit takes over from the one waited for.
    pub(crate) fn decide(&mut self, stack: StackStatus) -> Option<End> {
        let seen = stack.source.as_ref().and_then(|source| source.head.clone());
        self.advance(seen, &stack);
        let head = self.head.as_deref()?;
        let live = stack.live.as_ref().is_some_and(|live| live.commit == head);
        if live && stack.health == HealthWord::Healthy {
            return Some(End::Live(Box::new(stack)));
        }
        let failed = |staged: &StagedStatus| staged.phase == Phase::Failed && staged.commit == head;
        let staged = stack.staged.filter(failed)?;
        Some(End::Failed(Box::new(staged)))
    }

    fn advance(&mut self, seen: Option<String>, stack: &StackStatus) {
        if self.known.is_none() {
            self.known.clone_from(&seen);
        }
        let Some(head) = &self.head else {
            self.head = seen;
            return;
        };
        let on_its_way = stack
            .staged
            .iter()
            .chain(&stack.next)
            .any(|s| s.commit == *head);
        let live = stack.live.as_ref().is_some_and(|live| live.commit == *head);
        if seen.is_some() && seen != self.known && !on_its_way && !live {
            self.head = seen;
        }
    }
}

async fn next(stream: &mut Option<Lines>) -> Option<Progress> {
    match stream {
        Some(lines) => lines.next().await.ok().flatten(),
        None => std::future::pending().await,
    }
}
