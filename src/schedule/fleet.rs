//! The hosts as a plan in the making sees them: what each has given away so far, and which of them
//! are emptiest. Grows with each decision, so that the second sees the first. Filled by `dowding`,
//! asked by `place`; decides nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::place::Shortlist;
use crate::model::host::{HostRecord, Member, Readiness};
use crate::model::job::JobKey;
use crate::model::names::{HostName, NodeName, StackName, Tag};
use crate::model::release::{FilterRule, ReleaseNode};
use crate::model::spec::{ImageRef, Resources};
use crate::model::verdict::Ruling;
use crate::model::world::World;

/// A host by its place in the order of names.
pub(super) type Index = usize;

/// How many of something each host has; hosts without are absent.
pub(super) type Counts = BTreeMap<Index, u32>;

/// What is already given away on one host.
#[derive(Debug, Clone, Default)]
pub(super) struct Load {
    /// Jobs.
    pub(super) jobs: u32,
    /// Reserved.
    pub(super) reserved: Resources,
    /// Fixed ports and who has them.
    pub(super) ports: BTreeMap<u16, JobKey>,
}

/// One host.
pub(super) struct Site<'a> {
    pub(super) name: &'a HostName,
    pub(super) member: &'a Member,
    pub(super) alive: Option<&'a HostRecord>,
    pub(super) load: Load,
    /// Among which [`Kind`] it is; none may be given jobs otherwise.
    kind: Option<usize>,
}

impl Site<'_> {
    /// Why no job at all goes there now.
    pub(super) fn closed(&self) -> Option<Ruling> {
        let Some(alive) = self.alive else {
            return Some(Ruling::NotSeen);
        };
        match self.member.readiness {
            Readiness::Ready => (!alive.engine_up()).then_some(Ruling::EngineDown),
            Readiness::Cordoned => Some(Ruling::Cordoned),
            Readiness::Draining => Some(Ruling::Draining),
        }
    }

    /// Reserved share of the scarcer of cpu and memory, in millionths.
    pub(super) fn reserved_ppm(&self) -> u64 {
        let part = |used: Option<u64>, all: u64| match (used.unwrap_or(0), all) {
            (0, _) => 0,
            (_, 0) => 1_000_000,
            (used, all) => {
                u64::try_from(u128::from(used) * 1_000_000 / u128::from(all)).unwrap_or(u64::MAX)
            }
        };
        let (reserved, capacity) = (self.load.reserved, self.member.capacity);
        part(reserved.cpu_millis, capacity.cpu_millis)
            .max(part(reserved.memory_bytes, capacity.memory_bytes))
    }

    fn fullness(&self) -> Fullness {
        (self.reserved_ppm(), self.load.jobs)
    }
}

/// Reserved share in millionths, then jobs: the emptier host is the smaller.
type Fullness = (u64, u32);

/// Hosts that may be given jobs and have the same tags.
struct Kind<'a> {
    tags: &'a BTreeSet<String>,
    /// The emptiest first, by name within that.
    by_fullness: BTreeSet<(Fullness, Index)>,
}

/// All hosts.
pub(super) struct Fleet<'a> {
    pub(super) sites: Vec<Site<'a>>,
    kinds: Vec<Kind<'a>>,
    /// Copies per node and tag, stack by stack: jobs come in that order, and one stack's stay at hand.
    copies: BTreeMap<StackName, BTreeMap<(NodeName, Tag), Counts>>,
    /// Failures of what a node ran lately.
    failures: BTreeMap<(StackName, NodeName), Counts>,
    /// Who has run which image.
    images: BTreeMap<&'a ImageRef, BTreeSet<Index>>,
    /// What `place` found out for the node it was asked about last.
    pub(super) shortlist: Option<Shortlist<'a>>,
}

impl<'a> Fleet<'a> {
    /// Hosts with nothing on them yet.
    pub(super) fn new(world: &'a World) -> Self {
        let sites = world.members.iter().map(|(name, member)| Site {
            name,
            member,
            alive: world.hosts.get(name),
            load: Load::default(),
            kind: None,
        });
        let mut fleet = Self {
            sites: sites.collect(),
            kinds: Vec::new(),
            copies: BTreeMap::new(),
            failures: BTreeMap::new(),
            images: BTreeMap::new(),
            shortlist: None,
        };
        let mut known: BTreeMap<&BTreeSet<String>, usize> = BTreeMap::new();
        for (index, site) in fleet.sites.iter_mut().enumerate() {
            if site.closed().is_some() {
                continue;
            }
            let tags = &site.member.tags;
            let kind = *known.entry(tags).or_insert_with(|| {
                let by_fullness = BTreeSet::new();
                fleet.kinds.push(Kind { tags, by_fullness });
                fleet.kinds.len() - 1
            });
            site.kind = Some(kind);
            let at = (site.fullness(), index);
            fleet.kinds[kind].by_fullness.insert(at);
        }
        fleet
    }

    /// A member's place.
    pub(super) fn index(&self, host: &HostName) -> Option<Index> {
        self.sites
            .binary_search_by_key(&host, |site| site.name)
            .ok()
    }

    /// Counts a job in. (What is on a machine that nobody counts on counts for nothing.)
    pub(super) fn add(&mut self, host: &HostName, job: &JobKey, node: &'a ReleaseNode) {
        let Some(index) = self.index(host) else {
            return;
        };
        let site = &mut self.sites[index];
        let before = site.fullness();
        site.load.jobs += 1;
        let add = |a: Option<u64>, b: Option<u64>| Some(a.unwrap_or(0) + b.unwrap_or(0));
        let reserved = &mut site.load.reserved;
        reserved.cpu_millis = add(reserved.cpu_millis, node.resources.cpu_millis);
        reserved.memory_bytes = add(reserved.memory_bytes, node.resources.memory_bytes);
        let ports = node.host_ports.iter();
        site.load
            .ports
            .extend(ports.map(|port| (*port, job.clone())));
        if let Some(kind) = site.kind {
            let after = site.fullness();
            let by_fullness = &mut self.kinds[kind].by_fullness;
            by_fullness.remove(&(before, index));
            by_fullness.insert((after, index));
        }
        let of_stack = self.copies.entry(job.stack.clone()).or_default();
        let copies = of_stack.entry((job.node.clone(), job.tag.clone()));
        let copies = copies.or_default();
        *copies.entry(index).or_insert(0) += 1;
        self.refresh(index, job, node);
    }

    /// Counts failures in.
    pub(super) fn fail(&mut self, host: &HostName, job: &JobKey, failures: u32) {
        let Some(index) = self.index(host).filter(|_| failures > 0) else {
            return;
        };
        let of = (job.stack.clone(), job.node.clone());
        let counts = self.failures.entry(of).or_default();
        *counts.entry(index).or_insert(0) += failures;
        self.shortlist = None;
    }

    /// Takes down that a host has run an image.
    pub(super) fn has_run(&mut self, host: &HostName, image: &'a ImageRef) {
        if let Some(index) = self.index(host) {
            self.images.entry(image).or_default().insert(index);
            self.shortlist = None;
        }
    }

    /// What is known of a job's node, host by host.
    pub(super) fn known(&self, job: &JobKey, image: Option<&ImageRef>) -> Known<'_> {
        let node = (job.stack.clone(), job.node.clone());
        let of_stack = self.copies.get(&job.stack);
        let at_tag = || (job.node.clone(), job.tag.clone());
        Known {
            copies: of_stack.and_then(|copies| copies.get(&at_tag())),
            failures: self.failures.get(&node),
            image: image.and_then(|image| self.images.get(image)),
        }
    }

    /// Hosts that may be given jobs and whose tags suit a node: those with most tags that are liked
    /// first, the emptiest first within that, then by name.
    pub(super) fn emptiest<'f>(
        &'f self,
        node: &ReleaseNode,
    ) -> impl Iterator<Item = Index> + use<'f, 'a> {
        let kinds = self.kinds.iter();
        let suiting = kinds.filter(|kind| unsuited(kind.tags, node).is_none());
        let mut rest: Vec<_> = suiting
            .map(|kind| (preferred(kind.tags, node), kind.by_fullness.iter()))
            .collect();
        let mut heads = BinaryHeap::new();
        for (n, (liked, hosts)) in rest.iter_mut().enumerate() {
            heads.extend(hosts.next().map(|at| Reverse((Reverse(*liked), at, n))));
        }
        std::iter::from_fn(move || {
            let Reverse((liked, (_, index), n)) = heads.pop()?;
            let next = rest[n].1.next();
            heads.extend(next.map(|at| Reverse((liked, at, n))));
            Some(*index)
        })
    }
}

/// What is known of one node; of hosts that are absent nothing.
pub(super) struct Known<'f> {
    pub(super) copies: Option<&'f Counts>,
    pub(super) failures: Option<&'f Counts>,
    pub(super) image: Option<&'f BTreeSet<Index>>,
}

impl Known<'_> {
    pub(super) fn copies(&self, host: Index) -> u32 {
        count(self.copies, host)
    }

    pub(super) fn failures(&self, host: Index) -> u32 {
        count(self.failures, host)
    }

    pub(super) fn has_image(&self, host: Index) -> bool {
        self.image.is_some_and(|hosts| hosts.contains(&host))
    }
}

fn count(counts: Option<&Counts>, host: Index) -> u32 {
    counts
        .and_then(|counts| counts.get(&host))
        .map_or(0, |n| *n)
}

/// The rule that hosts with these tags break, if any.
pub(super) fn unsuited(tags: &BTreeSet<String>, node: &ReleaseNode) -> Option<Ruling> {
    node.filter.iter().find_map(|filter| {
        let tag = || filter.tag.clone();
        match (filter.rule, tags.contains(&filter.tag)) {
            (FilterRule::Required, false) => Some(Ruling::LacksTag { tag: tag() }),
            (FilterRule::Forbidden, true) => Some(Ruling::ForbiddenTag { tag: tag() }),
            _ => None,
        }
    })
}

/// How many of the tags that are liked are among these.
pub(super) fn preferred(tags: &BTreeSet<String>, node: &ReleaseNode) -> u32 {
    let liked = |tag: &String| tags.contains(tag);
    let filters = node.filter.iter();
    let preferred = filters.filter(|f| f.rule == FilterRule::Preferred && liked(&f.tag));
    u32::try_from(preferred.count()).unwrap_or(u32::MAX)
}
