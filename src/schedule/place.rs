//! Which host a job goes to, and what each rule said of each host. Pure and deterministic: ties
//! break by name. Called by `dowding`; its words are what `viking why` and `/v1/allocate` show.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::model::host::{HostRecord, Member, Readiness};
use crate::model::job::JobKey;
use crate::model::names::{HostName, NodeName, StackName, Tag};
use crate::model::plan::Verdict;
use crate::model::release::{FilterRule, ReleaseNode};
use crate::model::spec::Resources;
use crate::model::world::World;

/// What is already given away on one host; grows while a plan is made, so that the second decision
/// sees the first.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// Jobs.
    pub jobs: u32,
    /// Reserved.
    pub reserved: Resources,
    /// Jobs per node and tag.
    pub per_tag: BTreeMap<(StackName, NodeName, Tag), u32>,
    /// Fixed ports and who has them.
    pub ports: BTreeMap<u16, JobKey>,
    /// Specs that failed here lately, by node.
    pub failing: BTreeMap<(StackName, NodeName), u32>,
}

impl Load {
    /// Counts a job in.
    pub fn add(&mut self, job: &JobKey, node: &ReleaseNode) {
        self.jobs += 1;
        let add = |a: Option<u64>, b: Option<u64>| Some(a.unwrap_or(0) + b.unwrap_or(0));
        self.reserved.cpu_millis = add(self.reserved.cpu_millis, node.resources.cpu_millis);
        self.reserved.memory_bytes = add(self.reserved.memory_bytes, node.resources.memory_bytes);
        let per_tag = (job.stack.clone(), job.node.clone(), job.tag.clone());
        *self.per_tag.entry(per_tag).or_insert(0) += 1;
        self.ports
            .extend(node.host_ports.iter().map(|port| (*port, job.clone())));
    }
}

/// A job to be placed.
pub struct Candidate<'a> {
    /// The job.
    pub job: &'a JobKey,
    /// Its node.
    pub node: &'a ReleaseNode,
    /// The hosts it is pinned to, each once, and why. More than one is a contradiction that people
    /// must solve: no host will do.
    pub pinned: Vec<(HostName, String)>,
}

/// The host that wins, if any, and the verdict on each; on at most so many when one wins: it, those
/// that come next, then some that did not fit.
#[must_use]
pub fn place(
    world: &World,
    loads: &BTreeMap<HostName, Load>,
    candidate: &Candidate<'_>,
    most: usize,
) -> (Option<HostName>, Vec<Verdict>) {
    let empty = Load::default();
    let JobKey {
        stack, node, tag, ..
    } = candidate.job.clone();
    let of_node = (stack.clone(), node.clone());
    let of_tag = (stack, node, tag);
    let judged = world.members.iter().map(|(name, member)| {
        let load = loads.get(name).unwrap_or(&empty);
        let fits = judge(name, member, world.hosts.get(name), load, candidate);
        let rank = || Rank {
            failing: load.failing.get(&of_node).copied().unwrap_or(0),
            copies: load.per_tag.get(&of_tag).copied().unwrap_or(0),
            preferred: Reverse(preferred(member, candidate)),
            reserved_share_ppm: share(load.reserved, member),
            jobs: load.jobs,
        };
        (name, fits.map(|()| rank()))
    });
    let mut judged: Vec<_> = judged.collect();
    let fitting = judged
        .iter()
        .filter_map(|(name, fits)| Some((fits.as_ref().ok()?, *name)));
    // Names break ties.
    let best = fitting.min().map(|(_, name)| name.clone());
    if best.is_some() && judged.len() > most {
        // In words are only those that are kept: of thousands of jobs and hundreds of hosts, words are
        // what takes the time.
        judged.select_nth_unstable_by(most, |(a, fits_a), (b, fits_b)| {
            let left = (fits_a.is_err(), fits_a.as_ref().ok(), a);
            left.cmp(&(fits_b.is_err(), fits_b.as_ref().ok(), b))
        });
        judged.truncate(most);
        judged.sort_unstable_by_key(|(name, _)| *name);
    }
    let verdicts = judged.into_iter().map(|(name, fits)| Verdict {
        host: name.clone(),
        fits: fits.is_ok(),
        reason: fits.map_or_else(|reason| reason, |rank| rank.words()),
    });
    (best, verdicts.collect())
}

/// The first rule that drops a host, in words.
fn judge(
    name: &HostName,
    member: &Member,
    alive: Option<&HostRecord>,
    load: &Load,
    candidate: &Candidate<'_>,
) -> Result<(), String> {
    pins(name, candidate)?;
    let Some(alive) = alive else {
        return Err("not seen: its lease has ended".to_owned());
    };
    match member.readiness {
        Readiness::Ready => {}
        Readiness::Cordoned => return Err("cordoned".to_owned()),
        Readiness::Draining => return Err("draining".to_owned()),
    }
    if !alive.engine_up() {
        return Err("its Docker does not answer".to_owned());
    }
    tags(member, candidate.node)?;
    strict_spread(load, candidate)?;
    ports(load, candidate)?;
    room(member, load, candidate.node)
}

fn pins(name: &HostName, candidate: &Candidate<'_>) -> Result<(), String> {
    match &candidate.pinned[..] {
        [] => Ok(()),
        [(pin, _)] if pin == name => Ok(()),
        [(pin, why)] => Err(format!("pinned to {pin}: {why}")),
        several => {
            let hosts = several.iter().map(|(pin, why)| format!("{pin} ({why})"));
            let hosts: Vec<_> = hosts.collect();
            Err(format!("pinned to {}", hosts.join(" and to ")))
        }
    }
}

fn tags(member: &Member, node: &ReleaseNode) -> Result<(), String> {
    for filter in &node.filter {
        let has = member.tags.contains(&filter.tag);
        match filter.rule {
            FilterRule::Required if !has => return Err(format!("lacks tag {}", filter.tag)),
            FilterRule::Forbidden if has => {
                return Err(format!("has forbidden tag {}", filter.tag));
            }
            FilterRule::Required | FilterRule::Forbidden | FilterRule::Preferred => {}
        }
    }
    Ok(())
}

/// Counted within one tag: a new release starts beside the live one.
fn strict_spread(load: &Load, candidate: &Candidate<'_>) -> Result<(), String> {
    let JobKey {
        stack, node, tag, ..
    } = candidate.job;
    let key = (stack.clone(), node.clone(), tag.clone());
    let copies = load.per_tag.get(&key).copied().unwrap_or(0);
    if candidate.node.spread_required && copies > 0 {
        return Err(format!(
            "has {copies} of {} and spread is required",
            candidate.job.node
        ));
    }
    Ok(())
}

fn ports(load: &Load, candidate: &Candidate<'_>) -> Result<(), String> {
    let seat = candidate.job.seat();
    for port in &candidate.node.host_ports {
        // The old copy of the same slot gives the port up in its hand-over.
        if let Some(owner) = load.ports.get(port).filter(|owner| owner.seat() != seat) {
            return Err(format!("port {port} is held by {}", owner.short()));
        }
    }
    Ok(())
}

fn room(member: &Member, load: &Load, node: &ReleaseNode) -> Result<(), String> {
    let need = [
        (
            "cpu",
            node.resources.cpu_millis,
            load.reserved.cpu_millis,
            member.capacity.cpu_millis,
        ),
        (
            "memory",
            node.resources.memory_bytes,
            load.reserved.memory_bytes,
            member.capacity.memory_bytes,
        ),
    ];
    for (what, asks, reserved, capacity) in need {
        let (asks, reserved) = (asks.unwrap_or(0), reserved.unwrap_or(0));
        if asks > 0 && reserved + asks > capacity {
            let unit = if what == "cpu" { "m" } else { "B" };
            return Err(format!(
                "no room: {what} asks {asks}{unit}, reserved {reserved}{unit} of {capacity}{unit}"
            ));
        }
    }
    Ok(())
}

/// Order among hosts that fit; the smallest wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    failing: u32,
    /// Of the same release: those it replaces are gone soon, and must not leave a gap where they are.
    copies: u32,
    preferred: Reverse<usize>,
    reserved_share_ppm: u64,
    jobs: u32,
}

impl Rank {
    fn words(&self) -> String {
        format!(
            "fits: {} failures of it here, {} copies, {} preferred tags, {}% reserved, {} jobs",
            self.failing,
            self.copies,
            self.preferred.0,
            self.reserved_share_ppm / 10_000,
            self.jobs
        )
    }
}

/// How many of the tags that are liked a host has.
fn preferred(member: &Member, candidate: &Candidate<'_>) -> usize {
    let filters = candidate.node.filter.iter();
    filters
        .filter(|f| f.rule == FilterRule::Preferred && member.tags.contains(&f.tag))
        .count()
}

/// Reserved share of the scarcer of cpu and memory, in millionths.
fn share(reserved: Resources, member: &Member) -> u64 {
    let part = |used: Option<u64>, all: u64| match (used.unwrap_or(0), all) {
        (0, _) => 0,
        (_, 0) => 1_000_000,
        (used, all) => {
            u64::try_from(u128::from(used) * 1_000_000 / u128::from(all)).unwrap_or(u64::MAX)
        }
    };
    part(reserved.cpu_millis, member.capacity.cpu_millis)
        .max(part(reserved.memory_bytes, member.capacity.memory_bytes))
}

#[cfg(test)]
mod tests {
    use crate::schedule::{dowding, script};

    #[test]
    fn of_many_hosts_the_chosen_one_and_those_that_come_next_get_words() {
        let hosts = (0..30).map(|n| {
            let readiness = if n % 2 == 0 { "cordoned" } else { "ready" };
            format!("h{n:02}: {{readiness: {readiness}}}")
        });
        let hosts: Vec<String> = hosts.collect();
        let text = format!(
            "hosts: {{{}}}\nstacks: {{ragnar: {{live: a1, releases: {{a1: {{web: {{}}}}}}}}}}",
            hosts.join(", ")
        );
        let world = script::world(&text).unwrap();
        let plan = dowding::plan(&world);
        let start = &plan.start[0];
        assert_eq!(start.host.as_str(), "h01");
        let fit = start.verdicts.iter().filter(|verdict| verdict.fits).count();
        assert_eq!((start.verdicts.len(), fit), (20, 15));
        let all = dowding::explain(&world, &start.job).unwrap();
        assert_eq!(all.len(), 30, "who asks hears of each");
    }
}
