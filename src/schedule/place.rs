//! Which host a job goes to, and what each rule said of each host. Pure and deterministic: ties
//! break by name. Called by `dowding`; its rulings are what `viking why` and `/v1/allocate` show.
//!
//! Of a job's node most hosts know nothing: no copy is there and none has failed. Among those the
//! emptiest wins, and `fleet` has them in that order, so that few are looked at. Where that does not
//! find enough, all hosts are ranked once, and the ranking is kept while slots of the same node follow.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::fleet::{Fleet, Index, Known, Site, preferred, unsuited};
use crate::model::job::JobKey;
use crate::model::names::HostName;
use crate::model::release::ReleaseNode;
use crate::model::spec::ImageRef;
use crate::model::verdict::{Home, Ruling, Scarce, Standing, Verdict};

/// Hosts looked at, beyond those that are asked for, before all of them are ranked: ranking 1,000
/// hosts costs about as much as passing over 500.
const PASSED_MAX: usize = 64;

/// Reasons that are told of a job that no host takes.
const REASONS_MAX: usize = 3;

/// A job to be placed.
pub(super) struct Candidate<'a> {
    /// The job.
    pub(super) job: &'a JobKey,
    /// What it runs, where that is on record.
    pub(super) image: Option<&'a ImageRef>,
    /// The hosts it is pinned to, each once, and why. More than one is a contradiction that people
    /// must solve: no host will do.
    pub(super) pinned: Vec<Home>,
}

/// What the rules said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// A host, and the verdicts on it and on some others, by name: those that come next, then some
    /// that do not fit.
    Host(HostName, Vec<Verdict>),
    /// None will do: why in a sentence, and the verdicts on some.
    None(String, Vec<Verdict>),
}

impl Choice {
    /// The host.
    pub(super) fn host(self) -> Option<HostName> {
        match self {
            Self::Host(host, _) => Some(host),
            Self::None(..) => None,
        }
    }

    /// What was said of hosts.
    pub(super) fn verdicts(self) -> Vec<Verdict> {
        match self {
            Self::Host(_, verdicts) | Self::None(_, verdicts) => verdicts,
        }
    }
}

/// Hosts that fit, best first.
type Ranking = Vec<(Standing, Index)>;

/// What was found out for one node when all hosts were ranked; kept up while its slots are placed.
pub(super) struct Shortlist<'a> {
    node: &'a ReleaseNode,
    image: Option<ImageRef>,
    ranked: BTreeSet<(Standing, Index)>,
    standings: BTreeMap<Index, Standing>,
    /// Said once for all slots, when no host is left.
    refused: Option<Choice>,
}

impl<'a> Fleet<'a> {
    /// The host that wins, if any, with at most so many verdicts.
    pub(super) fn choose(
        &mut self,
        candidate: &Candidate<'_>,
        node: &'a ReleaseNode,
        most: usize,
    ) -> Choice {
        // Who holds a port, and where a slot belongs, differs from slot to slot.
        if !candidate.pinned.is_empty() || !node.host_ports.is_empty() {
            return self.answer(self.rank(candidate, node), candidate, node, most);
        }
        let kept = self.shortlist.as_ref();
        if kept.is_none_or(|kept| !std::ptr::eq(kept.node, node)) {
            self.shortlist = None;
            if let Some(ranked) = self.emptiest_first(candidate, node, most) {
                return self.answer(ranked, candidate, node, most);
            }
            self.shortlist = Some(self.ranked(candidate, node));
        }
        let kept = self.shortlist.as_ref();
        if let Some(refused) = kept.and_then(|kept| kept.refused.clone()) {
            return refused;
        }
        let best = kept.into_iter().flat_map(|kept| &kept.ranked);
        let best = best.take(most.max(1)).copied().collect();
        let choice = self.answer(best, candidate, node, most);
        if let (Choice::None(..), Some(kept)) = (&choice, &mut self.shortlist) {
            kept.refused = Some(choice.clone());
        }
        choice
    }

    /// All hosts that fit, best first.
    fn rank(&self, candidate: &Candidate<'_>, node: &ReleaseNode) -> Ranking {
        let known = self.known(candidate.job, candidate.image);
        let judged = self.sites.iter().enumerate().map(|(index, site)| {
            let ruling = judge(site, index, &known, candidate, node);
            (ruling, index)
        });
        let mut fitting: Vec<_> = judged
            .filter_map(|(ruling, index)| match ruling {
                Ruling::Fits(standing) => Some((standing, index)),
                _ => None,
            })
            .collect();
        fitting.sort_unstable();
        fitting
    }

    fn ranked(&self, candidate: &Candidate<'_>, node: &'a ReleaseNode) -> Shortlist<'a> {
        let ranking = self.rank(candidate, node);
        let standings = ranking.iter().map(|(standing, index)| (*index, *standing));
        Shortlist {
            node,
            image: candidate.image.cloned(),
            standings: standings.collect(),
            ranked: ranking.into_iter().collect(),
            refused: None,
        }
    }

    /// The best hosts among those that have nothing of the node, which come before those that have;
    /// none when too many have to be looked at or too few are found.
    fn emptiest_first(
        &self,
        candidate: &Candidate<'_>,
        node: &ReleaseNode,
        most: usize,
    ) -> Option<Ranking> {
        let known = self.known(candidate.job, candidate.image);
        let fits = |index: Index| {
            if known.copies(index) > 0 || known.failures(index) > 0 {
                return None;
            }
            match judge(&self.sites[index], index, &known, candidate, node) {
                Ruling::Fits(standing) => Some((standing, index)),
                _ => None,
            }
        };
        let most = most.max(1);
        let looked = self.emptiest(node).take(most.saturating_add(PASSED_MAX));
        let mut found: Ranking = looked.filter_map(fits).take(most).collect();
        if found.len() < most {
            return None;
        }
        // The order of `emptiest` knows nothing of images, which decide between hosts as empty.
        let first = *found.first()?;
        let with_image = known.image.into_iter().flatten();
        let better = with_image.filter_map(|index| fits(*index)).min();
        if let Some(better) = better.filter(|better| *better < first) {
            found.retain(|other| other.1 != better.1);
            found.insert(0, better);
            found.truncate(most);
        }
        Some(found)
    }

    /// After something was given to a host: its standing in the list of the node that was asked about
    /// last, if it is this one's; else there is no list any more.
    pub(super) fn refresh(&mut self, index: Index, job: &JobKey, node: &ReleaseNode) {
        let Some(mut kept) = self.shortlist.take() else {
            return;
        };
        if !std::ptr::eq(kept.node, node) {
            return;
        }
        let candidate = Candidate {
            job,
            image: kept.image.as_ref(),
            pinned: Vec::new(),
        };
        let known = self.known(job, candidate.image);
        let ruling = judge(&self.sites[index], index, &known, &candidate, node);
        if let Some(before) = kept.standings.remove(&index) {
            kept.ranked.remove(&(before, index));
        }
        if let Ruling::Fits(standing) = ruling {
            kept.standings.insert(index, standing);
            kept.ranked.insert((standing, index));
        }
        kept.refused = None;
        self.shortlist = Some(kept);
    }

    /// A ranking as a choice. One that is shorter than what is asked for has all that fit.
    fn answer(
        &self,
        ranked: Ranking,
        candidate: &Candidate<'_>,
        node: &ReleaseNode,
        most: usize,
    ) -> Choice {
        let Some((_, best)) = ranked.first() else {
            return self.refuse(candidate, node, most);
        };
        let host = self.sites[*best].name.clone();
        let ranked = ranked.into_iter().take(most.max(1));
        let mut told: Vec<(Index, Ruling)> = ranked
            .map(|(standing, index)| (index, Ruling::Fits(standing)))
            .collect();
        if told.len() < most {
            let known = self.known(candidate.job, candidate.image);
            let fit: BTreeSet<Index> = told.iter().map(|(index, _)| *index).collect();
            let others = self.sites.iter().enumerate();
            let others = others.filter(|(index, _)| !fit.contains(index));
            let left = most - told.len();
            told.extend(others.take(left).map(|(index, site)| {
                let ruling = judge(site, index, &known, candidate, node);
                (index, ruling)
            }));
        }
        told.sort_unstable_by_key(|(index, _)| *index);
        Choice::Host(host, self.verdicts(told.into_iter()))
    }

    /// Why no host will do: the reasons, most hosts first.
    fn refuse(&self, candidate: &Candidate<'_>, node: &ReleaseNode, most: usize) -> Choice {
        if self.sites.is_empty() {
            return Choice::None("no host has joined yet".to_owned(), Vec::new());
        }
        let known = self.known(candidate.job, candidate.image);
        let mut counts: BTreeMap<Ruling, usize> = BTreeMap::new();
        let mut told = Vec::new();
        for (index, site) in self.sites.iter().enumerate() {
            let ruling = judge(site, index, &known, candidate, node);
            if told.len() < most {
                told.push((index, ruling.clone()));
            }
            *counts.entry(ruling).or_insert(0) += 1;
        }
        let reasons = counts.into_iter();
        let mut reasons: Vec<_> = reasons
            .map(|(ruling, count)| (Reverse(count), ruling.to_string()))
            .collect();
        reasons.sort();
        let words = reasons.iter().take(REASONS_MAX);
        let words: Vec<_> = words
            .map(|(Reverse(count), reason)| format!("{count}× {reason}"))
            .collect();
        Choice::None(words.join(", "), self.verdicts(told.into_iter()))
    }

    fn verdicts(&self, told: impl Iterator<Item = (Index, Ruling)>) -> Vec<Verdict> {
        let verdict = |(index, ruling): (Index, Ruling)| Verdict {
            host: self.sites[index].name.clone(),
            ruling,
        };
        told.map(verdict).collect()
    }
}

/// The first rule that drops a host, or how it stands.
fn judge(
    site: &Site<'_>,
    index: Index,
    known: &Known<'_>,
    candidate: &Candidate<'_>,
    node: &ReleaseNode,
) -> Ruling {
    let dropped = pins(site.name, candidate)
        .or_else(|| site.closed())
        .or_else(|| unsuited(&site.member.tags, node))
        .or_else(|| strict_spread(known.copies(index), candidate.job, node))
        .or_else(|| ports(site, candidate.job, node))
        .or_else(|| room(site, node));
    dropped.unwrap_or_else(|| {
        Ruling::Fits(Standing {
            failures: known.failures(index),
            copies: known.copies(index),
            preferred: preferred(&site.member.tags, node),
            reserved_ppm: site.reserved_ppm(),
            jobs: site.load.jobs,
            image: known.has_image(index),
        })
    })
}

fn pins(name: &HostName, candidate: &Candidate<'_>) -> Option<Ruling> {
    match &candidate.pinned[..] {
        [] => None,
        [home] if home.host == *name => None,
        homes => Some(Ruling::Pinned { to: homes.to_vec() }),
    }
}

/// Counted within one tag: a new release starts beside the live one.
fn strict_spread(copies: u32, job: &JobKey, node: &ReleaseNode) -> Option<Ruling> {
    (node.spread_required && copies > 0).then(|| Ruling::Spread {
        copies,
        node: job.node.to_string(),
    })
}

fn ports(site: &Site<'_>, job: &JobKey, node: &ReleaseNode) -> Option<Ruling> {
    // The old copy of the same slot gives the port up in its hand-over.
    let others = |owner: &&JobKey| {
        (&owner.stack, &owner.node, owner.slot) != (&job.stack, &job.node, job.slot)
    };
    node.host_ports.iter().find_map(|port| {
        let owner = site.load.ports.get(port).filter(others)?;
        let (port, owner) = (*port, owner.short());
        Some(Ruling::Port { port, owner })
    })
}

fn room(site: &Site<'_>, node: &ReleaseNode) -> Option<Ruling> {
    let (asked, given, all) = (node.resources, site.load.reserved, site.member.capacity);
    let cpu = (asked.cpu_millis, given.cpu_millis, all.cpu_millis);
    let memory = (asked.memory_bytes, given.memory_bytes, all.memory_bytes);
    let needs = [(Scarce::Cpu, cpu), (Scarce::Memory, memory)];
    needs
        .into_iter()
        .find_map(|(of, (asks, reserved, capacity))| {
            let (asks, reserved) = (asks.unwrap_or(0), reserved.unwrap_or(0));
            let short = asks > 0 && reserved.saturating_add(asks) > capacity;
            short.then_some(Ruling::NoRoom {
                of,
                asks,
                reserved,
                capacity,
            })
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::names::NodeName;
    use crate::model::world::World;
    use crate::schedule::{dowding, script};

    #[test]
    fn of_many_hosts_the_chosen_one_and_those_that_come_next_are_kept() {
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
        let fit = start.verdicts.iter().filter(|v| v.fits()).count();
        assert_eq!((start.verdicts.len(), fit), (20, 15));
        let all = dowding::explain(&world, &start.job).unwrap();
        assert_eq!(all.len(), 30, "who asks hears of each");
    }

    /// Hosts of few sizes, so that many are as full as each other, some of which take nothing.
    fn hosts() -> impl Strategy<Value = Vec<String>> {
        let host = (1_u64..4, 0_usize..4, 0_u32..12).prop_map(|(cores, tags, state)| {
            let tags = ["", "ssd", "gpu", "ssd, gpu"][tags];
            let state = match state {
                0 => "dead: true",
                1 => "readiness: cordoned",
                2 => "engine_down: true",
                _ => "dead: false",
            };
            format!("{{cpu_millis: {cores}000, memory_mb: 4000, tags: [{tags}], {state}}}")
        });
        prop::collection::vec(host, 1..150)
    }

    fn nodes() -> impl Strategy<Value = Vec<String>> {
        let node = (0_u64..4, 0_usize..5, any::<bool>()).prop_map(|(cpu, filter, spread)| {
            let filters = [
                "",
                "ssd",
                "\"!gpu\"",
                "\"ssd:flexible\"",
                "\"gpu:flexible\", ssd",
            ];
            let filter = filters[filter];
            format!(
                "{{cpu_millis: {}, filter: [{filter}], spread: {spread}, scale: 99}}",
                cpu * 50
            )
        });
        prop::collection::vec(node, 1..6)
    }

    fn world(hosts: &[String], nodes: &[String]) -> World {
        let named = |prefix: &str, all: &[String]| {
            let all = all.iter().enumerate();
            let all: Vec<_> = all
                .map(|(n, text)| format!("{prefix}{n:03}: {text}"))
                .collect();
            all.join(", ")
        };
        let text = format!(
            "hosts: {{{}}}\nstacks: {{s: {{live: a1, releases: {{a1: {{{}}}}}}}}}",
            named("h", hosts),
            named("n", nodes)
        );
        script::world(&text).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// `steps`: which node, how many slots of it, whether one has failed and where one has run.
        #[test]
        fn the_short_way_finds_the_host_that_ranking_all_of_them_finds(
            hosts in hosts(),
            nodes in nodes(),
            steps in prop::collection::vec((any::<prop::sample::Index>(), 1_u32..60, any::<bool>(), any::<prop::sample::Index>()), 1..12),
            most in 1_usize..6,
        ) {
            let world = world(&hosts, &nodes);
            let stack = &world.stacks.values().next().unwrap();
            let release = stack.live().unwrap();
            let names: Vec<&NodeName> = release.nodes.keys().collect();
            let members: Vec<&HostName> = world.members.keys().collect();
            let mut fleet = Fleet::new(&world);
            let mut next: BTreeMap<&NodeName, u32> = BTreeMap::new();
            for (which, slots, fails, somewhere) in &steps {
                let name = *which.get(&names);
                let node = &release.nodes[name];
                let image = &stack.procs[&(name.clone(), node.tag.clone())].image;
                let somewhere = *somewhere.get(&members);
                fleet.has_run(somewhere, image);
                for _ in 0..*slots {
                    let slot = next.entry(name).or_insert(0);
                    let job = release.job(name, *slot).unwrap();
                    *slot += 1;
                    if *fails && *slot == 3 {
                        fleet.fail(somewhere, &job, 1);
                    }
                    let candidate = Candidate { job: &job, image: Some(image), pinned: Vec::new() };
                    let all = fleet.rank(&candidate, node);
                    let choice = fleet.choose(&candidate, node, most);
                    let best = all.first().map(|(_, index)| fleet.sites[*index].name);
                    prop_assert_eq!(choice.clone().host(), best.cloned(), "{}", job);
                    let Choice::Host(host, verdicts) = choice else { continue };
                    // Of those that come next, images count for nothing between hosts as full.
                    let plain = |standing: &Standing| Standing { image: false, ..*standing };
                    let mut told: Vec<_> = verdicts
                        .iter()
                        .filter_map(|verdict| match &verdict.ruling {
                            Ruling::Fits(standing) => Some(plain(standing)),
                            _ => None,
                        })
                        .collect();
                    told.sort_unstable();
                    let mut expected: Vec<_> = all.iter().map(|(standing, _)| plain(standing)).collect();
                    expected.sort_unstable();
                    expected.truncate(most);
                    prop_assert_eq!(told, expected);
                    prop_assert_eq!(verdicts.len(), most.min(hosts.len()));
                    fleet.add(&host, &job, node);
                }
            }
        }
    }
}
