//! Properties of reconcile, over worlds nobody would think of: each wanted job in exactly one
//! bucket, nothing to do after doing it, nobody else's container ever named, and never two running
//! copies of an exclusive slot.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use viking::deploy::observed::{Observed, labels};
use viking::deploy::reconcile::{Decision, Memory, Step, reconcile};
use viking::deploy::wanted::{Desired, Wanted};
use viking::deploy::{network, volume};
use viking::docker::{Container, RunState};
use viking::model::job::{Instance, JobKey};
use viking::model::names::{NodeName, StackName, Tag};
use viking::model::spec::{ContainerSpec, ImageRef, Settings, StopPolicy, VolumeMount};

const CLUSTER: &str = "0123456789";
const NOW: u64 = 1_000_000;
/// After so many rounds everything must be done: stop, remove, make, set limits, and some waiting.
const ROUNDS_MAX: usize = 12;

fn job(seed: &Seed) -> JobKey {
    JobKey {
        stack: StackName::parse(["s", "frozen"][usize::from(seed.frozen)]).expect("a name"),
        tag: Tag::parse(["a", "b"][usize::from(seed.second_tag)]).expect("a tag"),
        node: NodeName::parse(["web", "db"][usize::from(seed.volume)]).expect("a name"),
        slot: u32::from(seed.slot),
    }
}

/// One wanted job or one container, by its choices.
#[derive(Debug, Clone)]
struct Seed {
    frozen: bool,
    second_tag: bool,
    volume: bool,
    slot: bool,
    instance: i64,
    hold: bool,
    begun: bool,
    state: RunState,
    old_spec: bool,
    memory: u64,
    no_network: bool,
    by_hand: bool,
    sick: bool,
    backoff: bool,
}

fn seed() -> impl Strategy<Value = Seed> {
    let bools = prop::array::uniform12(any::<bool>());
    let state = prop::sample::select(vec![
        RunState::Created,
        RunState::Running,
        RunState::Paused,
        RunState::Exited,
        RunState::Dead,
    ]);
    (bools, 1..3_i64, state).prop_map(|(b, instance, state)| Seed {
        frozen: b[0] && b[1],
        second_tag: b[2],
        volume: b[3],
        slot: b[4],
        instance,
        hold: b[5] && b[3],
        begun: b[6],
        state,
        old_spec: b[7] && b[8],
        memory: u64::from(b[9]),
        no_network: b[10] && b[8],
        by_hand: b[11] && b[1],
        sick: b[10] && b[11],
        backoff: b[7] && b[1],
    })
}

fn spec(seed: &Seed) -> ContainerSpec {
    let image = ImageRef::Local { id: "i".to_owned() };
    let mut settings = Settings::default();
    if seed.volume {
        settings.volume.push(VolumeMount {
            name: None,
            path: "/d".to_owned(),
        });
    }
    ContainerSpec::new(image, settings)
}

fn desired(seed: &Seed) -> Desired {
    let (job, spec) = (job(seed), spec(seed));
    let mounts = volume::volumes(CLUSTER, &job.seat(), &spec.settings.volume);
    let instance = Instance(seed.instance);
    Desired {
        instance,
        hold: seed.hold,
        spec_hash: spec.hash(),
        exclusive: spec.exclusive(),
        once: false,
        stop: StopPolicy::default(),
        network: network::name(CLUSTER, &job.stack),
        mounts: mounts.into_iter().map(|v| (v.name, v.path)).collect(),
        links: Vec::new(),
        begun: seed.begun.then(|| job.id(instance).0),
        spec,
        job,
    }
}

fn container(seed: &Seed, n: usize) -> Observed {
    let made = fresh(&desired(seed), &format!("id-{n}"));
    let mut container = made.container;
    container.state = seed.state;
    container.memory_bytes = seed.memory;
    if seed.old_spec {
        container
            .labels
            .insert("viking.spec".to_owned(), "v0:old".to_owned());
    }
    if seed.no_network {
        container.networks.clear();
    }
    if seed.by_hand {
        container.name = format!("by-hand-{n}");
    }
    Observed::read(container).expect("labels are whole")
}

/// A container as `Create` makes it.
fn fresh(desired: &Desired, id: &str) -> Observed {
    let container = Container {
        id: id.to_owned(),
        name: desired.name(),
        labels: labels(CLUSTER, &desired.job, desired.instance, &desired.spec_hash),
        state: RunState::Running,
        exit_code: 0,
        oom_killed: false,
        error: String::new(),
        started_ms: 1,
        finished_ms: 0,
        health: None,
        networks: BTreeMap::from([(desired.network.clone(), None)]),
        mounts: desired.mounts.clone(),
        memory_bytes: 0,
        cpu_millis: 0,
        published: BTreeSet::new(),
        image_id: String::new(),
    };
    Observed::read(container).expect("labels are whole")
}

#[derive(Debug)]
struct World {
    wanted: Wanted,
    seen: Vec<Observed>,
    memory: Memory,
}

fn world() -> impl Strategy<Value = World> {
    let wanted = prop::collection::vec(seed(), 0..6);
    let seen = prop::collection::vec(seed(), 0..8);
    (wanted, seen).prop_map(|(jobs, containers)| {
        let mut wanted = Wanted {
            frozen_stacks: BTreeSet::from([StackName::parse("frozen").expect("a name")]),
            ..Wanted::default()
        };
        let mut memory = Memory::default();
        for seed in &jobs {
            if seed.frozen {
                wanted.frozen_jobs.insert(job(seed));
                continue;
            }
            if seed.backoff {
                memory.next_try_ms.insert(job(seed), NOW + 5_000);
            }
            wanted.jobs.insert(job(seed), desired(seed));
        }
        let mut names = BTreeSet::new();
        let made = containers
            .iter()
            .enumerate()
            .map(|(n, seed)| container(seed, n));
        let seen: Vec<_> = made
            .filter(|o| names.insert(o.container.name.clone()))
            .collect();
        let sick = seen.iter().zip(&containers).filter(|(_, seed)| seed.sick);
        memory.sick = sick.map(|(o, _)| o.container.id.clone()).collect();
        World {
            wanted,
            seen,
            memory,
        }
    })
}

fn idle(step: &Step) -> bool {
    matches!(
        step,
        Step::Keep | Step::Held | Step::Wait(_) | Step::WaitFor(_)
    )
}

impl World {
    fn decide(&self, now_ms: u64) -> Decision {
        reconcile(&self.wanted, &self.seen, &self.memory, now_ms)
    }

    fn mine(&mut self, job: &JobKey) -> Option<&mut Observed> {
        let desired = &self.wanted.jobs[job];
        let all = self.seen.iter_mut();
        let mine = all.filter(|o| o.job == *job && o.instance == desired.instance);
        mine.min_by_key(|o| (o.container.name != desired.name(), o.container.name.clone()))
    }

    /// Does one thing, the way `ops` does it.
    fn apply(&mut self, job: &JobKey, step: &Step, n: usize) {
        let desired = self.wanted.jobs[job].clone();
        if matches!(step, Step::Create | Step::Start) {
            self.check_seat(&desired);
        }
        if *step == Step::Create {
            self.seen.push(fresh(&desired, &format!("new-{n}")));
            return;
        }
        let Some(mine) = self.mine(job) else { return };
        let id = mine.container.id.clone();
        match step {
            Step::Start | Step::Unpause => mine.container.state = RunState::Running,
            Step::StopKeep | Step::Restart => mine.container.state = RunState::Exited,
            Step::SetLimits => mine.container.memory_bytes = 0,
            Step::Recreate => self.seen.retain(|o| o.container.id != id),
            _ => {}
        }
        if *step == Step::Restart {
            self.memory.sick.remove(&id);
        }
    }

    /// Nobody else of an exclusive slot runs at the moment one is started.
    fn check_seat(&self, desired: &Desired) {
        let other = |o: &&Observed| o.job.seat() == desired.job.seat() && o.occupies();
        let other = self.seen.iter().find(other).filter(|_| desired.exclusive);
        assert!(
            other.is_none(),
            "{} starts beside {other:?}",
            desired.name()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn every_wanted_job_is_in_exactly_one_bucket_and_others_are_never_named(world in world()) {
        let decision = world.decide(NOW);
        let steps: Vec<_> = decision.steps.keys().collect();
        let wanted: Vec<_> = world.wanted.jobs.keys().collect();
        prop_assert_eq!(steps, wanted);
        for observed in &decision.remove {
            prop_assert!(!world.wanted.frozen_stacks.contains(&observed.job.stack));
            prop_assert!(!world.wanted.frozen_jobs.contains(&observed.job));
            prop_assert!(world.seen.contains(observed));
        }
    }

    #[test]
    fn doing_it_leaves_nothing_to_do_and_never_runs_two_of_a_slot(
        mut world in world(),
        backwards in any::<bool>(),
    ) {
        let mut calm = false;
        for round in 0..ROUNDS_MAX {
            // Waits are over by the second round.
            let now = NOW + 10_000 * round as u64;
            let Decision { steps, remove, .. } = world.decide(now);
            let to_do = steps.iter().filter(|(_, step)| !idle(step)).count() + remove.len();
            if round > 0 && to_do == 0 {
                calm = true;
                break;
            }
            let mut steps: Vec<_> = steps.into_iter().collect();
            if backwards {
                steps.reverse();
            }
            let drop_extras = |world: &mut World| {
                let gone: BTreeSet<_> = remove.iter().map(|o| o.container.id.clone()).collect();
                world.seen.retain(|o| !gone.contains(&o.container.id));
            };
            if backwards {
                drop_extras(&mut world);
            }
            for (n, (job, step)) in steps.iter().enumerate() {
                world.apply(job, step, round * 100 + n);
            }
            drop_extras(&mut world);
        }
        prop_assert!(calm, "still busy: {:#?}", world.decide(NOW * 2));
        for (job, step) in world.decide(NOW * 2).steps {
            let desired = &world.wanted.jobs[&job];
            let same = |other: &&Desired| other.job.seat() == job.seat() && !other.hold;
            let rivals = world.wanted.jobs.values().filter(same).count();
            match step {
                Step::Keep => prop_assert!(!desired.hold),
                Step::Held => prop_assert!(desired.hold),
                // Only two copies that both want to run wait for each other, or for a frozen one.
                Step::WaitFor(_) => prop_assert!(rivals > 1, "{job} waits"),
                other => prop_assert!(false, "{job}: {other:?}"),
            }
        }
    }
}
