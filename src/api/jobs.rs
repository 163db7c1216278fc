//! Node and job rows of `viking status`: what each release wants, beside what hosts saw. Called by
//! `status`. Pure; never decides what to do.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::host::EngineState;
use crate::model::job::{Assignment, CounterRecord, JobKey, JobState, StateRecord};
use crate::model::names::{NodeName, StackName, Tag};
use crate::model::release::{NodeKind, Release, ReleaseNode};
use crate::model::status::{EndpointStatus, JobStatus, NodeStatus, Role};
use crate::model::wire::rfc3339;
use crate::model::world::{StackWorld, World};
use crate::schedule::sites::{self, Spread};

use super::verdicts::{self, Why};

/// What people are told of a website in a release of a version that served none.
const NOT_SERVED: &str = "its files come with the next commit";

/// What people are told of a job that runs once, when it has.
const ENDED: &str = "ran to its end";

/// How far from green a job is; the worst of a release is the stack's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grade {
    /// Works.
    Healthy,
    /// On its way.
    Underway,
    /// Failed, perhaps to be tried again.
    Failing,
    /// No host may run it now.
    Blocked,
}

/// A node's row with what `status` sums up.
#[derive(Debug)]
pub(crate) struct NodeView {
    /// The row.
    pub(crate) row: NodeStatus,
    /// One per wanted slot.
    pub(crate) grades: Vec<Grade>,
    /// Placements that are to go away.
    pub(crate) leaving: usize,
}

/// Rows of a stack: by node, live before staged before retiring.
pub(crate) fn nodes(
    world: &World,
    unplaced: &BTreeMap<JobKey, Why>,
    name: &StackName,
    stack: &StackWorld,
) -> Vec<NodeView> {
    let releases = [
        (Role::Live, stack.live()),
        (Role::Staged, stack.staged()),
        (Role::Retiring, stack.retiring()),
    ];
    let mut seen: BTreeSet<(NodeName, Tag)> = BTreeSet::new();
    let mut views = Vec::new();
    for (role, release) in releases {
        let Some(release) = release else { continue };
        let first = release.runs_first().filter(|_| role == Role::Staged);
        for (node, wanted) in release.nodes.iter().chain(first) {
            if seen.insert((node.clone(), wanted.tag.clone())) {
                let of = Of {
                    world,
                    unplaced,
                    stack,
                    name,
                    role,
                };
                views.push(of.node(node, wanted));
            }
        }
    }
    views.extend(strays(world, name, &seen));
    views.retain(|view| view.row.release != Role::Retiring || !view.row.jobs.is_empty());
    views.sort_by(|a, b| {
        let key = |view: &NodeView| (view.row.node.clone(), view.row.release);
        key(a).cmp(&key(b))
    });
    views
}

/// Placements that no release of the pointer names: they are on their way out.
fn strays(world: &World, name: &StackName, seen: &BTreeSet<(NodeName, Tag)>) -> Vec<NodeView> {
    let mut groups: BTreeSet<(NodeName, Tag)> = BTreeSet::new();
    for (job, _) in world.assignments.keys() {
        let group = (job.node.clone(), job.tag.clone());
        if job.stack == *name && !seen.contains(&group) {
            groups.insert(group);
        }
    }
    groups
        .into_iter()
        .map(|(node, tag)| {
            let jobs: Vec<JobStatus> = placements(world, name, &node, &tag)
                .map(|at| placed(world, at, false).0)
                .collect();
            let leaving = jobs.len();
            let row = row(node, tag, Role::Retiring, 0, jobs);
            NodeView {
                row,
                grades: Vec::new(),
                leaving,
            }
        })
        .collect()
}

fn placements<'a>(
    world: &'a World,
    name: &'a StackName,
    node: &'a NodeName,
    tag: &'a Tag,
) -> impl Iterator<Item = &'a Assignment> {
    world
        .assignments
        .values()
        .filter(move |at| at.job.stack == *name && at.job.node == *node && at.job.tag == *tag)
}

fn row(node: NodeName, tag: Tag, release: Role, want: u32, jobs: Vec<JobStatus>) -> NodeStatus {
    let count = |states: &[JobState]| {
        let is = |job: &&JobStatus| states.iter().any(|state| job.state == state.to_string());
        jobs.iter().filter(is).count()
    };
    NodeStatus {
        node,
        tag,
        release,
        want,
        running: count(&[JobState::Starting, JobState::Healthy, JobState::Unhealthy]),
        healthy: count(&[JobState::Healthy]),
        pending: false,
        note: String::new(),
        jobs,
    }
}

/// A release in its place: what its rows are made from.
struct Of<'a> {
    world: &'a World,
    unplaced: &'a BTreeMap<JobKey, Why>,
    stack: &'a StackWorld,
    name: &'a StackName,
    role: Role,
}

impl Of<'_> {
    fn node(&self, node: &NodeName, wanted: &ReleaseNode) -> NodeView {
        let ended = self.stack.pointer.ended.contains(node);
        let want = match self.role {
            Role::Staged if ended => 0,
            Role::Live | Role::Staged => wanted.slots(),
            Role::Retiring => 0,
        };
        let mut jobs = Vec::new();
        let mut grades = Vec::new();
        for slot in 0..want {
            let (rows, grade) = self.slot(node, wanted, slot);
            jobs.extend(rows);
            grades.push(grade);
        }
        let surplus: Vec<JobStatus> = placements(self.world, self.name, node, &wanted.tag)
            .filter(|at| at.job.slot >= want)
            .map(|at| placed(self.world, at, false).0)
            .collect();
        let leaving = surplus.len();
        jobs.extend(surplus);
        let site = self.site(node, wanted);
        if let (Some((grade, _)), Role::Live | Role::Staged) = (&site, self.role) {
            grades.push(*grade);
        }
        let mut row = row(node.clone(), wanted.tag.clone(), self.role, want, jobs);
        row.pending = wanted.pending.is_some();
        row.note = match ended {
            true => ENDED.to_owned(),
            false => site.map_or_else(String::new, |(_, note)| note),
        };
        NodeView {
            row,
            grades,
            leaving,
        }
    }

    /// How a website is, which has no jobs: by what hosts say of its files.
    fn site(&self, node: &NodeName, wanted: &ReleaseNode) -> Option<(Grade, String)> {
        if !matches!(wanted.kind, NodeKind::Website { .. }) {
            return None;
        }
        let release = match self.role {
            Role::Live => self.stack.live(),
            Role::Staged => self.stack.staged(),
            Role::Retiring => self.stack.retiring(),
        };
        let mut sites = release.into_iter().flat_map(Release::sites);
        let Some((_, image)) = sites.find(|(name, _)| *name == node) else {
            return Some((Grade::Healthy, NOT_SERVED.to_owned()));
        };
        let Spread { on, of, lacks } = sites::spread(self.world, &image.digest);
        let note = format!("files on {on} of {of} hosts");
        Some(match lacks {
            None => (Grade::Healthy, note),
            Some((_, why)) if why.is_empty() => (Grade::Underway, note),
            Some((host, why)) => (Grade::Failing, format!("{note}; {host}: {why}")),
        })
    }

    /// A wanted slot: the placement that counts first, then the one it moves from or to.
    fn slot(&self, node: &NodeName, wanted: &ReleaseNode, slot: u32) -> (Vec<JobStatus>, Grade) {
        let job = JobKey {
            stack: self.name.clone(),
            tag: wanted.tag.clone(),
            node: node.clone(),
            slot,
        };
        let counts = self.world.run.get(&job);
        let mut at: Vec<&Assignment> = placements(self.world, self.name, node, &wanted.tag)
            .filter(|at| at.job.slot == slot)
            .collect();
        at.sort_by_key(|at| Some(&at.host) != counts);
        let handed_over =
            self.role == Role::Live && self.stack.pointer.cut.contains(&(node.clone(), slot));
        let rows: Vec<(JobStatus, Grade)> = at
            .iter()
            .map(|at| placed(self.world, at, handed_over))
            .collect();
        match rows.first() {
            Some((_, grade)) => {
                let grade = self.pinned_grade(wanted, &job, *grade);
                (rows.into_iter().map(|(row, _)| row).collect(), grade)
            }
            None => self.without_placement(wanted, &job),
        }
    }

    /// A job with data whose host is gone is blocked, not failing: it must not start elsewhere.
    fn pinned_grade(&self, wanted: &ReleaseNode, job: &JobKey, grade: Grade) -> Grade {
        match verdicts::pin_lost(self.world, wanted, job) {
            Some(_) => Grade::Blocked,
            None => grade,
        }
    }

    fn without_placement(&self, wanted: &ReleaseNode, job: &JobKey) -> (Vec<JobStatus>, Grade) {
        let lost = verdicts::pin_lost(self.world, wanted, job);
        let (state, reason, grade) = match (lost, self.unplaced.get(job)) {
            (Some(lost), _) => ("blocked", lost, Grade::Blocked),
            (None, Some(Why::Blocked(reason))) => ("blocked", reason.clone(), Grade::Blocked),
            (None, Some(Why::Waiting(reason))) => ("waiting", reason.clone(), Grade::Underway),
            // Wanted by no rule yet: another slot or node comes first.
            (None, None) => (
                "waiting",
                "its turn has not come".to_owned(),
                Grade::Underway,
            ),
        };
        let row = JobStatus {
            id: None,
            slot: job.slot,
            host: None,
            state: state.to_owned(),
            container: None,
            endpoints: Vec::new(),
            reason,
            failures: 0,
            next_try: None,
            log: Vec::new(),
        };
        (vec![row], grade)
    }
}

/// A placement's row. `handed_over`: its slot stands still because a newer copy has taken over.
fn placed(world: &World, at: &Assignment, handed_over: bool) -> (JobStatus, Grade) {
    let state = world.state(at);
    let counter = world.counter(at).filter(|counter| counter.failures > 0);
    let word = state.map_or(JobState::Assigned, |state| state.state);
    let unseen = unseen(world, at, word);
    let grade = match &unseen {
        Some(_) => Grade::Failing,
        None if state.is_some_and(StateRecord::is_done) => Grade::Underway,
        None => grade(word, counter, handed_over),
    };
    let healthy = grade == Grade::Healthy;
    let row = JobStatus {
        id: Some(at.job.id(at.instance).to_string()),
        slot: at.job.slot,
        host: Some(at.host.clone()),
        state: word.to_string(),
        container: container(at, state),
        endpoints: if healthy {
            endpoints(state)
        } else {
            Vec::new()
        },
        reason: unseen.unwrap_or_else(|| reason(word, state, counter, handed_over)),
        failures: counter.map_or(0, |counter| counter.failures),
        next_try: counter
            .filter(|counter| !healthy && counter.next_try_ms > world.now_ms)
            .map(|counter| rfc3339(counter.next_try_ms)),
        log: if grade == Grade::Failing {
            log(state, counter)
        } else {
            Vec::new()
        },
    };
    (row, grade)
}

/// Why nobody knows how this placement is: its host or that host's Docker does not answer.
fn unseen(world: &World, at: &Assignment, word: JobState) -> Option<String> {
    let Some(host) = world.hosts.get(&at.host) else {
        let pinned = world
            .fixed
            .get(&crate::model::world::PinKey::Seat(at.job.seat()));
        return Some(match pinned {
            Some(pin) => format!(
                "pinned to {}, which is not alive; last seen {word}",
                pin.host
            ),
            None => format!("{} is not alive; last seen {word}", at.host),
        });
    };
    match &host.engine {
        EngineState::Up { .. } => None,
        EngineState::Down { reason } => Some(format!(
            "docker on {} does not answer ({reason}); last seen {word}",
            at.host
        )),
    }
}

fn grade(word: JobState, counter: Option<&CounterRecord>, handed_over: bool) -> Grade {
    match word {
        JobState::Healthy => Grade::Healthy,
        // Between two crashes a job looks as if it were merely starting.
        JobState::Assigned | JobState::Pulling | JobState::Starting if counter.is_some() => {
            Grade::Failing
        }
        JobState::Exited if handed_over => Grade::Underway,
        JobState::Assigned | JobState::Pulling | JobState::Starting | JobState::Stopping => {
            Grade::Underway
        }
        JobState::Unhealthy | JobState::Backoff | JobState::Exited => Grade::Failing,
    }
}

fn reason(
    word: JobState,
    state: Option<&StateRecord>,
    counter: Option<&CounterRecord>,
    handed_over: bool,
) -> String {
    let own = state.map(|state| state.reason.as_str()).unwrap_or_default();
    let last = counter
        .map(|counter| counter.reason.as_str())
        .unwrap_or_default();
    match word {
        JobState::Healthy => String::new(),
        JobState::Exited if handed_over => "its newer copy has taken over".to_owned(),
        _ if !own.is_empty() => own.to_owned(),
        _ if !last.is_empty() => last.to_owned(),
        JobState::Assigned => "its host has not begun".to_owned(),
        JobState::Pulling => "the image is on its way".to_owned(),
        JobState::Starting => "its health is not known yet".to_owned(),
        JobState::Stopping => "was told to stop".to_owned(),
        JobState::Unhealthy | JobState::Backoff | JobState::Exited => "no reason given".to_owned(),
    }
}

fn container(at: &Assignment, state: Option<&StateRecord>) -> Option<String> {
    at.container
        .clone()
        .or_else(|| state.and_then(|state| state.container.clone()))
}

fn endpoints(state: Option<&StateRecord>) -> Vec<EndpointStatus> {
    let published = state.map(|state| state.published.as_slice());
    published
        .unwrap_or_default()
        .iter()
        .map(EndpointStatus::from)
        .collect()
}

fn log(state: Option<&StateRecord>, counter: Option<&CounterRecord>) -> Vec<String> {
    let seen = state
        .map(|state| &state.log_tail)
        .filter(|log| !log.is_empty());
    let kept = counter.map(|counter| &counter.log_tail);
    seen.or(kept).cloned().unwrap_or_default()
}
