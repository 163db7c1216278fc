//! What has to come before the slots of one node: the data's host, a job that runs first, links, slot 0.
//! The half of the planner that says "not yet"; `dowding` asks it for each job without a host. Pure.

use std::collections::BTreeMap;

use super::before;
use super::dowding::Planner;
use super::wanted::{Role, Wanted, any_healthy, healthy, own_links, stack_map, staged_now};
use crate::model::job::JobKey;
use crate::model::names::{HostName, NodeName, StackName};
use crate::model::release::ReleaseNode;
use crate::model::resolve::{self, StackMap};
use crate::model::spec::LinkTarget;
use crate::model::world::{StackWorld, World};

/// What has to come before the slots of one node.
pub(super) struct Turn<'a> {
    node: &'a ReleaseNode,
    role: Role,
    moves: bool,
    /// A job that has to run to its end.
    before: Option<&'a NodeName>,
    /// A link that is not healthy.
    link: Option<&'a NodeName>,
    /// Slot 0, when it must be healthy before the others.
    canary: Option<JobKey>,
}

impl<'a> Planner<'a> {
    /// What has to come before this job, in words. One that `moves` from a lost host has served
    /// already: it does not wait for what cannot leave that host.
    pub(super) fn waits_for(&mut self, wanted: &Wanted<'a>, moves: bool) -> Option<String> {
        if let Some(host) = self.may_have_its_data(wanted) {
            return Some(format!(
                "waits to hear from {host}, where its data may be; if that host is gone for good, say \
                 so with `viking hosts forget {host}`"
            ));
        }
        let job = &wanted.job;
        if job.node.is_before() {
            return self.waits_to_run_first(wanted.stack, job);
        }
        let turn = self.turn(wanted, moves);
        if let Some(first) = turn.before {
            return Some(format!("{first} has to end first"));
        }
        if let Some(link) = turn.link {
            return Some(format!("waits for {}/{link} to be healthy", job.stack));
        }
        let first = turn.canary.as_ref().filter(|_| job.slot > 0)?;
        Some(format!("waits for {} to be healthy first", first.short()))
    }

    /// What the slots of a node wait for: the same for all of them, which come one after the other.
    fn turn(&mut self, wanted: &Wanted<'a>, moves: bool) -> &Turn<'a> {
        let same = |turn: &Turn<'_>| {
            std::ptr::eq(turn.node, wanted.node) && (turn.role, turn.moves) == (wanted.role, moves)
        };
        let turn = match self.turn.take().filter(same) {
            Some(known) => known,
            None => self.find_turn(wanted, moves),
        };
        self.turn.insert(turn)
    }

    fn find_turn(&self, wanted: &Wanted<'a>, moves: bool) -> Turn<'a> {
        let stack = wanted.stack;
        let release = match wanted.role {
            Role::Live => stack.live(),
            Role::Staged => stack.staged(),
            Role::Retiring => None,
        };
        let job = &wanted.job;
        let settled =
            |link: &NodeName| self.link_up(job, link) || (moves && self.is_stranded(job, link));
        let mut links = release
            .into_iter()
            .flat_map(|release| own_links(wanted.node, release));
        let first = || JobKey {
            slot: 0,
            ..job.clone()
        };
        // Where slot 0 waits for its hand-over it cannot be the first.
        let canary = wanted.role == Role::Staged
            && wanted.node.slots() > 1
            && staged_now(stack, &job.node, 0);
        let canary = canary.then(first);
        let staged = wanted.role == Role::Staged;
        Turn {
            before: staged
                .then(|| before::waits_for(stack, &job.node))
                .flatten(),
            node: wanted.node,
            role: wanted.role,
            moves,
            link: links.find(|link| !settled(link)),
            canary: canary.filter(|first| !healthy(self.world, first)),
        }
    }

    /// Whether all copies of a node are on lost hosts and must wait there.
    fn is_stranded(&self, job: &JobKey, link: &NodeName) -> bool {
        let all = self.wanted.get(&job.stack);
        let all = all.into_iter().flat_map(|all| all.iter());
        let mut copies = all.filter(|other| other.job.node == *link);
        copies.all(|other| {
            let placed = self.world.placement(&other.job);
            other.node.pinned() && placed.is_some_and(|placed| self.world.is_lost(&placed.host))
        })
    }

    fn link_up(&self, job: &JobKey, link: &NodeName) -> bool {
        let target = LinkTarget {
            stack: None,
            node: link.clone(),
        };
        let maps = self.maps.get_or_init(|| maps(self.world));
        let tags = resolve::copies(maps, &job.stack, &job.tag, &target);
        any_healthy(self.world, &job.stack, link, &tags)
    }

    /// What a job that runs before others waits for, in words.
    fn waits_to_run_first(&self, stack: &StackWorld, job: &JobKey) -> Option<String> {
        if let Some((host, other)) = before::still_there(self.world, job) {
            return Some(format!(
                "waits for {} of {} to be gone from {host}",
                other.node, other.tag
            ));
        }
        let links = before::links(stack, &job.node);
        let ahead = before::ahead(stack).into_iter();
        let mut sick = ahead
            .filter(|node| !before::all_healthy(self.world, stack, node))
            .chain(links.into_iter().filter(|link| !self.link_up(job, link)));
        let sick = sick.next()?;
        Some(format!("waits for {}/{sick} to be healthy", job.stack))
    }

    /// In a store that was put back from a copy, a member of which nobody knows whose data it has,
    /// when nobody else has this job's. People say with `viking hosts forget` that it is not needed.
    fn may_have_its_data(&self, wanted: &Wanted<'_>) -> Option<&'a HostName> {
        if !self.world.restored || !wanted.node.has_volume || !self.pins.of(wanted).is_empty() {
            return None;
        }
        let said = |host: &HostName| {
            let host = self.world.hosts.get(host);
            host.is_some_and(|host| host.volumes.is_some())
        };
        self.world.members.keys().find(|host| !said(host))
    }
}

fn maps(world: &World) -> BTreeMap<StackName, StackMap> {
    let stacks = world.stacks.iter();
    stacks
        .map(|(name, stack)| (name.clone(), stack_map(stack)))
        .collect()
}
