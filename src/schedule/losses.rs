//! Which members that are not seen are lost. A paused store looks like the death of every host, so a
//! loss that may be the store's own doing is looked at twice. Called by `dispatch` before each plan;
//! pure, and told the time by a clock that nobody can set.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::host::LEASE_TTL;
use crate::model::names::HostName;
use crate::model::world::World;

/// A loss that is doubted is looked at again after this long.
const DOUBT: Duration = LEASE_TTL;

/// Losses as close together as this have one cause, more likely than two.
const TOGETHER: Duration = Duration::from_secs(2 * LEASE_TTL.as_secs());

/// A leader younger than this has not seen the hosts come or go: 1.5 times to live.
const YOUNG: Duration = Duration::from_millis(3 * LEASE_TTL.as_secs() * 500);

/// What the leader knows besides the world.
#[derive(Debug, Clone, Copy)]
pub struct Signs {
    /// Since some moment long ago, by a clock that only moves forward.
    pub now: Duration,
    /// By the same clock, since when this leader leads.
    pub leads_since: Duration,
    /// The store was slow to answer within the last time to live.
    pub stalled: bool,
}

/// What the leader remembers of members that are not seen.
#[derive(Debug, Clone, Default)]
pub struct Losses {
    missing: BTreeMap<HostName, Missing>,
}

#[derive(Debug, Clone, Copy)]
struct Missing {
    since: Duration,
    /// Not believed before.
    until: Duration,
}

/// What may be concluded now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Members that are lost.
    pub lost: BTreeSet<HostName>,
    /// When to look again, if time alone may change it.
    pub again: Option<Duration>,
    /// Why nothing moves though hosts are gone, in words.
    pub held: Option<String>,
}

impl Losses {
    /// Looks at who is missing.
    pub fn judge(&mut self, world: &World, signs: Signs) -> Judgement {
        let gone: BTreeSet<&HostName> = gone(world).collect();
        self.missing.retain(|host, _| gone.contains(host));
        for host in &gone {
            let missing = Missing {
                since: signs.now,
                until: signs.now,
            };
            self.missing.entry((*host).clone()).or_insert(missing);
        }
        self.doubt(signs);
        if let Some(held) = majority_gone(world) {
            for missing in self.missing.values_mut() {
                missing.until = signs.now + DOUBT;
            }
            return Judgement {
                held: Some(held),
                ..Judgement::default()
            };
        }
        let believed = |(_, missing): &(&HostName, &Missing)| missing.until <= signs.now;
        let lost = self.missing.iter().filter(believed);
        let lost = lost.map(|(host, _)| host.clone()).collect();
        let waiting = self.missing.values().map(|missing| missing.until);
        let again = waiting.filter(|until| *until > signs.now).min();
        Judgement {
            lost,
            again: again.map(|until| until - signs.now),
            held: None,
        }
    }

    /// Puts off what is doubted; what was believed before stays believed.
    fn doubt(&mut self, signs: Signs) {
        let young = signs.now.saturating_sub(signs.leads_since) < YOUNG;
        let several = self.missing.len() > 1;
        let recent = |missing: &&Missing| signs.now.saturating_sub(missing.since) < TOGETHER;
        let together = self.missing.values().filter(recent).count() > 1;
        for missing in self.missing.values_mut() {
            let first = missing.since == signs.now;
            let pending = first || missing.until > signs.now;
            let doubtful = first && (together || (young && several));
            if pending && (doubtful || signs.stalled) {
                missing.until = signs.now + DOUBT;
            }
        }
    }
}

/// The members that are lost as far as the records say, for who reports or explains and has no
/// clock of the leader's: those that a leader has missed.
#[must_use]
pub fn noted(world: &World) -> BTreeSet<HostName> {
    if majority_gone(world).is_some() {
        return BTreeSet::new();
    }
    let missed = |host: &&HostName| world.members[*host].gone_ms > 0;
    gone(world).filter(missed).cloned().collect()
}

fn gone(world: &World) -> impl Iterator<Item = &HostName> {
    let members = world.members.keys();
    members.filter(|host| !world.hosts.contains_key(*host))
}

/// Why nothing moves, when so many members are gone that the fault is more likely ours or the
/// network's than theirs: more than half of them, and at least two.
#[must_use]
pub fn majority_gone(world: &World) -> Option<String> {
    let (gone, all) = (gone(world).count(), world.members.len());
    (gone >= 2 && gone * 2 > all).then(|| {
        format!(
            "{gone} of {all} hosts are not seen, so nothing is moved; if they are gone for good, \
             say so with `viking hosts forget HOST`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::script;

    fn world(dead: &[&str]) -> World {
        let hosts = ["alpha", "beta", "gamma", "delta", "epsilon"].map(|host| {
            let dead = dead.contains(&host);
            format!("{host}: {{dead: {dead}}}")
        });
        script::world(&format!("hosts: {{{}}}", hosts.join(", "))).unwrap()
    }

    fn at(seconds: u64) -> Signs {
        Signs {
            now: Duration::from_secs(seconds),
            leads_since: Duration::ZERO,
            stalled: false,
        }
    }

    fn lost(judgement: &Judgement) -> Vec<&str> {
        judgement.lost.iter().map(HostName::as_str).collect()
    }

    #[test]
    fn one_host_that_goes_while_all_is_well_is_lost_at_once() {
        let mut losses = Losses::default();
        assert_eq!(losses.judge(&world(&[]), at(100)), Judgement::default());
        assert_eq!(lost(&losses.judge(&world(&["beta"]), at(101))), ["beta"]);
        assert_eq!(losses.judge(&world(&[]), at(102)), Judgement::default());
    }

    #[test]
    fn two_that_go_together_are_doubted_for_one_time_to_live() {
        let mut losses = Losses::default();
        let both = world(&["beta", "gamma"]);
        let first = losses.judge(&both, at(100));
        assert_eq!((lost(&first), first.again), (vec![], Some(DOUBT)));
        assert_eq!(lost(&losses.judge(&both, at(102))), Vec::<&str>::new());
        // One came back: the other is judged when its time has come.
        let one = world(&["beta"]);
        assert_eq!(lost(&losses.judge(&one, at(103))), ["beta"]);
    }

    #[test]
    fn a_second_loss_long_after_the_first_is_one_of_its_own() {
        let mut losses = Losses::default();
        losses.judge(&world(&["beta"]), at(100));
        let both = world(&["beta", "gamma"]);
        assert_eq!(lost(&losses.judge(&both, at(110))), ["beta", "gamma"]);
    }

    #[test]
    fn what_was_believed_stays_so_when_another_goes_soon_after() {
        let mut losses = Losses::default();
        losses.judge(&world(&["beta"]), at(100));
        let both = world(&["beta", "gamma"]);
        assert_eq!(lost(&losses.judge(&both, at(102))), ["beta"]);
        assert_eq!(lost(&losses.judge(&both, at(105))), ["beta", "gamma"]);
    }

    #[test]
    fn a_loss_while_the_store_stalls_is_doubted_until_it_does_not() {
        let mut losses = Losses::default();
        let one = world(&["beta"]);
        let stalled = |seconds| Signs {
            stalled: true,
            ..at(seconds)
        };
        assert_eq!(lost(&losses.judge(&one, stalled(100))), Vec::<&str>::new());
        assert_eq!(lost(&losses.judge(&one, stalled(102))), Vec::<&str>::new());
        assert_eq!(lost(&losses.judge(&one, at(104))), Vec::<&str>::new());
        assert_eq!(lost(&losses.judge(&one, at(105))), ["beta"]);
        // Believed before, it stays so.
        assert_eq!(lost(&losses.judge(&one, stalled(106))), ["beta"]);
    }

    #[test]
    fn a_young_leader_believes_one_loss_and_doubts_several() {
        let young = |seconds| Signs {
            leads_since: Duration::from_secs(100),
            ..at(seconds)
        };
        let mut losses = Losses::default();
        assert_eq!(lost(&losses.judge(&world(&["beta"]), young(100))), ["beta"]);
        let mut losses = Losses::default();
        let both = world(&["beta", "gamma"]);
        assert_eq!(lost(&losses.judge(&both, young(100))), Vec::<&str>::new());
        assert_eq!(lost(&losses.judge(&both, young(103))), ["beta", "gamma"]);
    }

    #[test]
    fn when_most_are_gone_nothing_moves_until_people_say_so() {
        let mut losses = Losses::default();
        let three = world(&["beta", "gamma", "delta"]);
        let held = losses.judge(&three, at(100));
        assert!(held.lost.is_empty());
        assert!(held.held.unwrap().contains("3 of 5 hosts"));
        assert!(losses.judge(&three, at(1_000)).lost.is_empty());
        let mut forgotten = three.clone();
        for host in ["beta", "gamma"] {
            forgotten.members.remove(&HostName::parse(host).unwrap());
        }
        assert!(losses.judge(&forgotten, at(1_001)).lost.is_empty());
        assert_eq!(lost(&losses.judge(&forgotten, at(1_003))), ["delta"]);
    }
}
