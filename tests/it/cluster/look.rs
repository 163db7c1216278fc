//! What a test sees of the cluster: the store past all faults, the engines, and waiting for
//! something to be so in virtual time.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;
use viking::clock::now_ms;
use viking::docker::{Container, RunState, label};
use viking::model::history::{RunEnd, RunRecord};
use viking::model::job::{JobKey, JobState};
use viking::model::names::{StackName, Tag};
use viking::model::world::{StackWorld, World};
use viking::schedule::wanted::wanted;

use super::client::Client;
use super::{Cluster, LOOK, name};

impl Cluster {
    pub(super) async fn world(&self) -> World {
        self.clear.world(now_ms()).await.unwrap()
    }

    /// Waits in virtual time; says what was the matter when that was not enough.
    pub(super) async fn until(
        &self,
        what: &str,
        within: Duration,
        is: impl Fn(&World) -> bool,
    ) -> World {
        let until = Instant::now() + within;
        let mut world = self.world().await;
        loop {
            // Read again only when something was written.
            if self.store.inner().range(&[]).await.unwrap().revision > world.revision {
                world = self.world().await;
            }
            if is(&world) {
                return world;
            }
            assert!(
                Instant::now() < until,
                "not within {within:?}: {what}\n{}",
                self.describe(&world)
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) fn describe(&self, world: &World) -> String {
        let mut text = String::new();
        for (name, stack) in &world.stacks {
            writeln!(text, "{name}: {:?}", stack.pointer).unwrap();
        }
        for (job, host) in &world.run {
            let placement = world.placement(job);
            let state = placement.and_then(|p| world.state(p));
            let counter = placement.and_then(|p| world.counter(p));
            writeln!(text, "{job} on {host}: {state:?} {counter:?}").unwrap();
        }
        let plan = viking::schedule::dowding::plan(world);
        writeln!(
            text,
            "waiting {:?}\nblocked {:?}",
            plan.waiting, plan.blocked
        )
        .unwrap();
        writeln!(text, "start {:?}\nstop {:?}", plan.start, plan.stop).unwrap();
        writeln!(text, "frozen {:?}", world.frozen).unwrap();
        for host in &self.hosts {
            for c in host.engine.snapshot() {
                writeln!(
                    text,
                    "{}: {} {:?} {}",
                    host.name, c.name, c.state, c.exit_code
                )
                .unwrap();
            }
        }
        text
    }

    /// Containers of a node that run, by engine id, on any host.
    pub(super) fn running(&self, node: &str) -> Vec<Container> {
        let all = self.hosts.iter().flat_map(|host| host.engine.snapshot());
        let of = |c: &Container| c.labels.get(label::NODE).map(String::as_str) == Some(node);
        all.filter(|c| of(c) && c.state == RunState::Running)
            .collect()
    }

    pub(super) fn ids(&self, node: &str) -> Vec<(String, u64)> {
        let running = self.running(node).into_iter();
        running.map(|c| (c.name, c.started_ms)).collect()
    }

    pub(super) fn client(&self, stack: &str, node: &str) -> Client {
        let engines = self.hosts.iter().map(|h| (h.address, h.engine.clone()));
        let host = self.hosts[0].name.clone();
        Client::start(self.clear.clone(), host, engines.collect(), (stack, node))
    }

    pub(super) fn calls(&self, verb: &str) -> u32 {
        let calls = self.hosts.iter().map(|h| h.engine.calls());
        calls.filter_map(|calls| calls.get(verb).copied()).sum()
    }

    /// A key's value, past all faults.
    pub(super) async fn read(&self, key: &str) -> Vec<u8> {
        let selector = viking::store::Selector::Key(key.to_owned());
        let snapshot = self.store.inner().range(&[selector]).await.unwrap();
        snapshot.lists[0][0].value.clone()
    }

    pub(super) async fn history(&self, stack: &str) -> Vec<RunRecord> {
        self.clear.history(&name(stack)).await.unwrap()
    }

    pub(super) async fn ends(&self, stack: &str) -> Vec<(Tag, RunEnd)> {
        let mut all = self.history(stack).await;
        all.sort_by(|a, b| a.run.cmp(&b.run));
        all.into_iter().map(|run| (run.tag, run.end)).collect()
    }

    /// What must never happen and did, anywhere.
    pub(super) fn violations(&self) -> Vec<String> {
        let mut all = self.store.violations();
        all.extend(self.hosts.iter().flat_map(|host| host.engine.violations()));
        all
    }
}

/// Whether a release serves, all its jobs work, and nothing else is placed or seen.
pub(super) fn settled(world: &World, tag: &Tag) -> bool {
    let serves = |stack: &StackWorld| stack.pointer.live.as_ref() == Some(tag);
    let Some((name, stack)) = world.stacks.iter().find(|(_, stack)| serves(stack)) else {
        return false;
    };
    stack.pointer.staged.is_none() && stack.pointer.retiring.is_none() && quiet(world, name)
}

/// Whether all wanted jobs of a stack work and nothing else is placed or seen.
pub(super) fn quiet(world: &World, name: &StackName) -> bool {
    let Some(stack) = world.stacks.get(name) else {
        return false;
    };
    let jobs: Vec<_> = wanted(name, stack).into_iter().map(|w| w.job).collect();
    let of_stack = |job: &JobKey| job.stack == *name;
    let placed = world.assignments.keys().filter(|(job, _)| of_stack(job));
    let seen = world.states.keys().filter(|(_, job)| of_stack(job));
    placed.count() == jobs.len()
        && seen.count() == jobs.len()
        && jobs.iter().all(|job| {
            let state = world.placement(job).and_then(|p| world.state(p));
            state.is_some_and(|state| state.state == JobState::Healthy)
        })
}
