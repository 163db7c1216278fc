//! Why a job is where it is, or nowhere: what was decided when it was placed, else what the planner
//! says of it now. Called by the API for `viking why`. Pure.

use std::collections::BTreeMap;

use super::dowding;
use super::wanted::{Role, Wanted, wanted};
use crate::model::history::EventRecord;
use crate::model::job::JobKey;
use crate::model::names::{HostName, NodeName, StackName, Tag};
use crate::model::plan::{Plan, Start, Unplaced};
use crate::model::verdict::{Ruling, Standing, Verdict};
use crate::model::wire::{Decided, WhyJob, WhyNot, rfc3339};
use crate::model::world::World;

/// Whose placement is asked about.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// The stack.
    pub stack: &'a StackName,
    /// The node.
    pub node: &'a NodeName,
    /// One slot of it, or all.
    pub slot: Option<u32>,
    /// A host it is not on.
    pub not: Option<&'a HostName>,
}

/// One answer per job that a pointer wants; none when there is no such job.
#[must_use]
pub fn why(world: &World, events: &[EventRecord], question: &Question<'_>) -> Vec<WhyJob> {
    let Some(stack) = world.stacks.get(question.stack) else {
        return Vec::new();
    };
    let asked = |wanted: &Wanted<'_>| {
        wanted.job.node == *question.node
            && question.slot.is_none_or(|slot| wanted.job.slot == slot)
    };
    let mut jobs = wanted(question.stack, stack);
    jobs.retain(asked);
    let plan = dowding::plan(world);
    let decisions = decisions(events);
    let mut asked = Now {
        world,
        unpinned: BTreeMap::new(),
    };
    let answer = |wanted: Wanted<'_>| {
        let now = asked.of(&wanted);
        let Wanted { job, role, .. } = wanted;
        let found = look(world, &plan, &decisions, &job, &now);
        let not = question.not.map(|host| not(&found, &now, host));
        WhyJob {
            role: word(role).to_owned(),
            state: found.state.to_owned(),
            host: found.host.cloned(),
            because: found.because,
            decided: found.decided,
            verdicts: found.verdicts.into_iter().map(Into::into).collect(),
            not,
            job,
        }
    };
    jobs.into_iter().map(answer).collect()
}

/// What the rules say now. Of the slots of one node they say the same, unless those belong somewhere:
/// asking for each of a hundred would be a plan for each.
struct Now<'a> {
    world: &'a World,
    unpinned: BTreeMap<(NodeName, Tag), Vec<Verdict>>,
}

impl Now<'_> {
    fn of(&mut self, wanted: &Wanted<'_>) -> Vec<Verdict> {
        let Wanted { job, node, .. } = wanted;
        let now = || dowding::explain(self.world, job).unwrap_or_default();
        if node.pinned() || node.exclusive || node.squeezed {
            return now();
        }
        let of = (job.node.clone(), job.tag.clone());
        self.unpinned.entry(of).or_insert_with(now).clone()
    }
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Live => "live",
        Role::Staged => "staged",
        Role::Retiring => "retiring",
    }
}

/// The newest decision about each job that is on record.
fn decisions(events: &[EventRecord]) -> BTreeMap<(&JobKey, &HostName), (u64, &Start)> {
    let placed = events.iter().flat_map(|event| {
        let starts = event.placed.iter();
        starts.map(move |start| ((&start.job, &start.host), (event.at_ms, start)))
    });
    // A later one takes the place of an earlier one.
    placed.collect()
}

/// What was found of one job.
struct Found<'a> {
    state: &'static str,
    host: Option<&'a HostName>,
    because: String,
    decided: Option<Decided>,
    verdicts: Vec<Verdict>,
}

fn look<'a>(
    world: &'a World,
    plan: &'a Plan,
    decisions: &BTreeMap<(&JobKey, &HostName), (u64, &Start)>,
    job: &JobKey,
    now: &[Verdict],
) -> Found<'a> {
    let told = |state, host, because, verdicts: &[Verdict]| Found {
        state,
        host,
        because,
        decided: None,
        verdicts: verdicts.to_vec(),
    };
    let unplaced = |state, list: &[Unplaced]| {
        let found = list.iter().find(|unplaced| unplaced.job == *job)?;
        Some(told(state, None, found.reason.clone(), now))
    };
    let host = world.run.get(job);
    if world.frozen_stacks.contains(&job.stack) {
        let why =
            "something of its stack cannot be read, so nothing of it is started, moved or stopped";
        return told("frozen", host, why.to_owned(), &[]);
    }
    let nowhere = unplaced("waiting", &plan.waiting);
    if let Some(found) = nowhere.or_else(|| unplaced("blocked", &plan.blocked)) {
        return found;
    }
    let mut starts = plan.start.iter();
    if let Some(start) = starts.find(|start| start.job == *job && !start.beside) {
        let why = because(&start.host, &start.verdicts);
        return told("starting", Some(&start.host), why, now);
    }
    let Some(host) = host else {
        return told("gone", None, "it has ended".to_owned(), &[]);
    };
    let Some((at_ms, start)) = decisions.get(&(job, host)) else {
        let why = "it was put there before anything that is still on record; below is what the rules \
                   say now";
        return told("placed", Some(host), why.to_owned(), now);
    };
    let decided = Decided {
        at_ms: *at_ms,
        at: rfc3339(*at_ms),
        run: start.run.clone(),
        revision: start.revision,
    };
    let why = because(&start.host, &start.verdicts);
    Found {
        decided: Some(decided),
        ..told("placed", Some(host), why, &start.verdicts)
    }
}

/// Why that host won, in a sentence.
fn because(host: &HostName, verdicts: &[Verdict]) -> String {
    let fitting = verdicts
        .iter()
        .filter_map(|verdict| Some((standing(verdict)?, &verdict.host)));
    let mut ranked: Vec<(&Standing, &HostName)> = fitting.collect();
    ranked.sort();
    let own = ranked.iter().find(|(_, name)| *name == host);
    let next = ranked.iter().find(|(_, name)| *name != host);
    match (own, next) {
        (Some((own, _)), Some((next, other))) => format!("before {other}: {}", own.before(next)),
        (Some(_), None) => "no other host fits".to_owned(),
        (None, _) => String::new(),
    }
}

fn standing(verdict: &Verdict) -> Option<&Standing> {
    match &verdict.ruling {
        Ruling::Fits(standing) => Some(standing),
        _ => None,
    }
}

/// Why a job is not on some host: as it was said with the decision, else as the rules are now.
fn not(found: &Found<'_>, now: &[Verdict], host: &HostName) -> WhyNot {
    if found.host == Some(host) {
        return WhyNot {
            host: host.clone(),
            because: "it is on that host".to_owned(),
            decided: false,
        };
    }
    let of = |verdicts: &[Verdict]| verdicts.iter().find(|v| v.host == *host).cloned();
    let recorded = found.decided.as_ref().and_then(|_| of(&found.verdicts));
    let decided = recorded.is_some();
    let verdict = recorded.or_else(|| of(now));
    let won = found.verdicts.iter().find(|v| Some(&v.host) == found.host);
    let won = won.and_then(standing).filter(|_| decided);
    let because = match (verdict, won) {
        (None, _) => "nothing is known of such a host".to_owned(),
        (Some(verdict), won) => match (standing(&verdict), won) {
            (Some(standing), Some(won)) => {
                let winner = found.host.map_or("another", HostName::as_str);
                format!("{winner} came before it: {}", won.before(standing))
            }
            _ => verdict.ruling.to_string(),
        },
    };
    WhyNot {
        host: host.clone(),
        because,
        decided,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{script, sim};

    const WORLD: &str = "\
hosts: {alpha: {}, beta: {}, gamma: {readiness: cordoned}}
stacks:
  shop:
    live: a1
    releases:
      a1:
        web: {scale: 2, expose: true}
        db: {filter: [ssd]}
        api: {link: [db]}
";

    fn ask(world: &World, events: &[EventRecord], node: &str, not: Option<&str>) -> Vec<WhyJob> {
        let not = not.map(|host| host.parse().unwrap());
        let question = Question {
            stack: &"shop".parse().unwrap(),
            node: &node.parse().unwrap(),
            slot: None,
            not: not.as_ref(),
        };
        why(world, events, &question)
    }

    /// A world after its first plan, and the event that tells of it.
    fn placed() -> (World, Vec<EventRecord>) {
        let mut world = script::world(WORLD).unwrap();
        world.revision = 7;
        let plan = dowding::plan(&world);
        sim::carry_out(&mut world, &plan);
        sim::settle(&mut world);
        let event = EventRecord {
            v: 1,
            at_ms: 1_700_000_000_000,
            who: "leader".to_owned(),
            about: "shop".to_owned(),
            what: "placed".to_owned(),
            why: String::new(),
            placed: plan.start,
        };
        (world, vec![event])
    }

    #[test]
    fn of_a_placed_job_what_was_decided_is_told_and_not_what_would_be_now() {
        let (mut world, events) = placed();
        // Now beta would be no choice any more.
        world
            .members
            .get_mut("beta".parse::<HostName>().as_ref().unwrap())
            .unwrap()
            .readiness = crate::model::host::Readiness::Cordoned;
        let jobs = ask(&world, &events, "web", Some("beta"));
        let told: Vec<_> = jobs
            .iter()
            .map(|job| (job.state.as_str(), job.because.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (
                    "placed",
                    "before beta: its name comes first, all else being equal"
                ),
                ("placed", "before alpha: fewer copies of it (0, there 1)"),
            ]
        );
        let decided = jobs[0].decided.as_ref().unwrap();
        assert_eq!(
            (decided.revision, &*decided.at),
            (7, "2023-11-14T22:13:20Z")
        );
        let not: Vec<_> = jobs.iter().map(|job| job.not.as_ref().unwrap()).collect();
        assert_eq!(
            (not[0].decided, &*not[0].because),
            (
                true,
                "alpha came before it: its name comes first, all else being equal"
            )
        );
        assert_eq!(not[1].because, "it is on that host");
        let not = &ask(&world, &events, "web", Some("gamma"))[0].not;
        assert_eq!(not.as_ref().unwrap().because, "cordoned");
    }

    #[test]
    fn of_a_job_without_a_host_it_is_told_what_it_waits_for_and_what_the_rules_say_now() {
        let (world, events) = placed();
        let db = &ask(&world, &events, "db", Some("alpha"))[0];
        assert_eq!((db.state.as_str(), db.host.as_ref()), ("blocked", None));
        assert_eq!(db.because, "2× lacks tag ssd, 1× cordoned");
        assert_eq!(db.verdicts.len(), 3);
        let not = db.not.as_ref().unwrap();
        assert_eq!((not.decided, &*not.because), (false, "lacks tag ssd"));
        let api = &ask(&world, &events, "api", None)[0];
        assert_eq!(api.state, "waiting");
        assert_eq!(api.because, "waits for shop/db to be healthy");
        assert!(ask(&world, &events, "nosuch", None).is_empty());
    }

    #[test]
    fn a_decision_that_is_on_record_no_longer_is_not_made_up() {
        let (world, _) = placed();
        let job = &ask(&world, &[], "web", None)[0];
        assert_eq!((job.state.as_str(), &job.decided), ("placed", &None));
        assert!(
            job.because
                .contains("before anything that is still on record")
        );
        assert_eq!(job.verdicts.len(), 3);
    }
}
