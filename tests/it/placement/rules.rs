//! What must be true of any world and its plan, said apart from the planner: what no plan may do, and
//! which host is the best one. Used by the properties of placement only.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use viking::model::host::{HostRecord, Member, Readiness};
use viking::model::job::{JobKey, JobState, Seat};
use viking::model::names::{HostName, NodeName, StackName, Tag};
use viking::model::plan::{Plan, Start};
use viking::model::release::{FilterRule, ReleaseNode};
use viking::model::resolve;
use viking::model::verdict::Verdict;
use viking::model::world::{PinKey, World};
use viking::schedule::dowding;

/// Every job that is on a host, by placement or because the host still sees it, with its node; but for
/// those that stand still, since they leave what they had to their successor.
fn on_hosts(world: &World) -> BTreeMap<&HostName, BTreeMap<&JobKey, &ReleaseNode>> {
    let mut found: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    let placed = world.assignments.keys().map(|(job, host)| (host, job));
    let seen = world.states.keys().map(|(host, job)| (host, job));
    let runs = |job: &JobKey| {
        let stack = &world.stacks[&job.stack];
        !resolve::held(&stack.pointer, stack.live(), stack.staged(), job)
    };
    for (host, job) in placed.chain(seen).filter(|(_, job)| runs(job)) {
        let releases = world.stacks[&job.stack].releases.values();
        let mut nodes = releases.filter_map(|release| release.nodes.get(&job.node));
        if let Some(node) = nodes.find(|node| node.tag == job.tag) {
            found.entry(host).or_default().insert(job, node);
        }
    }
    found
}

/// Everything that must never be, of a world after a plan was written.
pub(super) fn wrong(world: &World, plan: &Plan) -> Vec<String> {
    let mut wrong = Vec::new();
    for start in &plan.start {
        let (job, host) = (&start.job, &start.host);
        let (member, node) = (&world.members[host], node(world, job));
        if !takes_something(world, host, member) {
            wrong.push(format!("{job} starts on {host}, which takes nothing"));
        }
        if !suits(member, node) {
            wrong.push(format!("{job} starts on {host} against {:?}", node.filter));
        }
        if !start.verdicts.iter().any(|v| v.host == *host && v.fits()) {
            wrong.push(format!("nobody says why {job} starts on {host}"));
        }
        let volumes = node.shared_volumes.iter();
        let mut pins: Vec<_> = volumes
            .map(|v| PinKey::Volume(job.stack.clone(), v.clone()))
            .collect();
        pins.push(PinKey::Seat(job.seat()));
        for pin in pins.iter().filter(|_| node.pinned()) {
            if world.fixed.get(pin).is_none_or(|pin| pin.host != *host) {
                wrong.push(format!("{job} starts on {host}, away from its data"));
            }
        }
    }
    for (host, jobs) in on_hosts(world) {
        let Some(member) = world.members.get(host) else {
            continue;
        };
        let sum = |of: fn(&ReleaseNode) -> Option<u64>| {
            jobs.values().filter_map(|node| of(node)).sum::<u64>()
        };
        let cpu = sum(|node| node.resources.cpu_millis);
        let memory = sum(|node| node.resources.memory_bytes);
        if cpu > member.capacity.cpu_millis || memory > member.capacity.memory_bytes {
            wrong.push(format!(
                "{host} has given away more than it has: {cpu}m, {memory}B"
            ));
        }
        let mut ports: BTreeMap<u16, BTreeSet<Seat>> = BTreeMap::new();
        let mut copies: BTreeMap<(&StackName, &Tag, &NodeName), u32> = BTreeMap::new();
        for (job, node) in &jobs {
            for port in &node.host_ports {
                ports.entry(*port).or_default().insert(job.seat());
            }
            if node.spread_required {
                *copies.entry((&job.stack, &job.tag, &job.node)).or_insert(0) += 1;
            }
        }
        wrong.extend(
            ports
                .iter()
                .filter(|(_, seats)| seats.len() > 1)
                .map(|port| format!("{host}: {port:?}")),
        );
        wrong.extend(
            copies
                .iter()
                .filter(|(_, n)| **n > 1)
                .map(|copies| format!("{host}: {copies:?}")),
        );
    }
    for job in world.run.keys() {
        let placed = world
            .members
            .keys()
            .filter(|host| world.placed_on(job, host).is_some())
            .count();
        let node = node(world, job);
        let most = if node.exclusive || node.pinned() {
            1
        } else {
            2
        };
        if placed > most {
            wrong.push(format!("{job} is placed {placed} times"));
        }
    }
    for unplaced in plan.waiting.iter().chain(&plan.blocked) {
        if unplaced.reason.is_empty() {
            wrong.push(format!("nobody says why {} has no host", unplaced.job));
        }
    }
    for blocked in plan.blocked.iter().filter(|_| !world.members.is_empty()) {
        if blocked.verdicts.is_empty() || blocked.verdicts.iter().any(Verdict::fits) {
            let (job, verdicts) = (&blocked.job, &blocked.verdicts);
            wrong.push(format!(
                "{job} is blocked, and of hosts it is said: {verdicts:?}"
            ));
        }
    }
    wrong
}

fn node<'a>(world: &'a World, job: &JobKey) -> &'a ReleaseNode {
    let releases = world.stacks[&job.stack].releases.values();
    let mut nodes = releases.filter_map(|release| release.nodes.get(&job.node));
    nodes.find(|node| node.tag == job.tag).expect("a node")
}

fn takes_something(world: &World, host: &HostName, member: &Member) -> bool {
    let alive = world.hosts.get(host).is_some_and(HostRecord::engine_up);
    alive && member.readiness == Readiness::Ready
}

fn suits(member: &Member, node: &ReleaseNode) -> bool {
    node.filter.iter().all(|filter| match filter.rule {
        FilterRule::Required => member.tags.contains(&filter.tag),
        FilterRule::Forbidden => !member.tags.contains(&filter.tag),
        FilterRule::Preferred => true,
    })
}

/// Jobs that have no host although one would do.
pub(super) fn forgotten(world: &World, plan: &Plan) -> Vec<JobKey> {
    let blocked = plan.blocked.iter().map(|unplaced| &unplaced.job);
    let one_would = |job: &&JobKey| dowding::would_take(world, job).is_some();
    blocked.filter(one_would).cloned().collect()
}

/// Starts of a plan that are not on the best host, of the world that was planned.
pub(super) fn second_best(world: &World, plan: &Plan) -> Vec<String> {
    let mut found = Vec::new();
    let mut loads = on_hosts(world);
    for start in &plan.start {
        let node = node(world, &start.job);
        // Where data is, and who has a port, leaves no choice.
        if !node.pinned() && node.host_ports.is_empty() {
            let best = best(world, &loads, start, node);
            if best != Some(&start.host) {
                let (job, host) = (&start.job, &start.host);
                found.push(format!("{job} starts on {host}, and {best:?} is better"));
            }
        }
        let load = loads.entry(&start.host).or_default();
        load.insert(&start.job, node);
    }
    found
}

/// Fewest failures, fewest copies, most tags that are liked, least reserved, fewest jobs, the image
/// already there, name: design, section 7.
fn best<'a>(
    world: &'a World,
    loads: &BTreeMap<&HostName, BTreeMap<&JobKey, &ReleaseNode>>,
    start: &Start,
    node: &ReleaseNode,
) -> Option<&'a HostName> {
    let JobKey {
        stack,
        node: name,
        tag,
        ..
    } = &start.job;
    let none = BTreeMap::new();
    let stands = |(host, member): &(&'a HostName, &Member)| {
        let load = loads.get(host).unwrap_or(&none);
        let same = |job: &&&JobKey| job.stack == *stack && job.node == *name && job.tag == *tag;
        let copies = load.keys().filter(same).count();
        let used = |of: fn(&ReleaseNode) -> Option<u64>| {
            load.values().filter_map(|node| of(node)).sum::<u64>()
        };
        let cpu = |node: &ReleaseNode| node.resources.cpu_millis;
        let memory = |node: &ReleaseNode| node.resources.memory_bytes;
        let all = member.capacity;
        let fits = |asks: Option<u64>, used: u64, all: u64| {
            asks.is_none_or(|asks| asks == 0 || used + asks <= all)
        };
        let has_room = fits(cpu(node), used(cpu), all.cpu_millis)
            && fits(memory(node), used(memory), all.memory_bytes);
        let strict = node.spread_required && copies > 0;
        if !takes_something(world, host, member) || !suits(member, node) || !has_room || strict {
            return None;
        }
        let failures = world
            .counters
            .iter()
            .filter(|((on, job), _)| on == *host && job.stack == *stack && job.node == *name);
        let failures: u32 = failures.map(|(_, counter)| counter.failures).sum();
        let liked = node.filter.iter().filter(|filter| {
            filter.rule == FilterRule::Preferred && member.tags.contains(&filter.tag)
        });
        let share = part(used(cpu), all.cpu_millis).max(part(used(memory), all.memory_bytes));
        let has_image = world.assignments.values().any(|placed| {
            let image = |job: &JobKey| {
                let procs = &world.stacks.get(&job.stack)?.procs;
                Some(&procs.get(&(job.node.clone(), job.tag.clone()))?.image)
            };
            placed.host == **host
                && placed.container.is_some()
                && image(&placed.job).is_some_and(|one| Some(one) == image(&start.job))
        });
        Some((
            (failures, copies, Reverse(liked.count())),
            (share, load.len(), Reverse(has_image)),
        ))
    };
    let members = world.members.iter();
    let standing = members.filter_map(|at| Some((stands(&at)?, at.0)));
    standing.min().map(|(_, host)| host)
}

/// In millionths.
fn part(used: u64, all: u64) -> u64 {
    match (used, all) {
        (0, _) => 0,
        (_, 0) => 1_000_000,
        (used, all) => used * 1_000_000 / all,
    }
}

/// Starts of what links to a node that nobody was healthy of, in the world that was planned; but for
/// jobs that move, which have served already.
pub(super) fn too_early(world: &World, plan: &Plan) -> Vec<String> {
    let placed = |job: &JobKey| world.run.contains_key(job);
    let fresh = plan.start.iter().filter(|start| !placed(&start.job));
    let mut found = Vec::new();
    for start in fresh {
        let releases = world.stacks[&start.job.stack].releases.values();
        let tag = &start.job.tag;
        let mut of_tag =
            releases.filter(|r| r.nodes.get(&start.job.node).is_some_and(|n| n.tag == *tag));
        let Some(release) = of_tag.next() else {
            continue;
        };
        for link in &node(world, &start.job).link {
            let target = release
                .nodes
                .get(&link.node)
                .is_some_and(|node| node.slots() > 0);
            let up = world.states.iter().any(|((_, job), state)| {
                let same = job.stack == start.job.stack && job.node == link.node;
                same && state.state == JobState::Healthy
            });
            if target && !up {
                found.push(format!("{} starts before {}", start.job, link.node));
            }
        }
    }
    found
}
