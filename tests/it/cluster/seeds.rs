//! Seeded random runs: random commits, a third of them bad, and random faults of everything, with
//! the invariants looked at after each step and everything in its place at the end. The number of
//! seeds is `VIKING_TEST_SEEDS`, one of them alone `VIKING_TEST_SEED`.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use viking::docker::fake::ANY;
use viking::docker::{Container, Error, RunState, label};
use viking::model::history::RunEnd;
use viking::model::names::Tag;
use viking::model::release::Phase;

use super::{Cluster, name, s};

/// Seeds of a run that is not told how many.
const SEEDS: u64 = 30;
/// Steps of one seed.
const STEPS: u32 = 18;
/// Verbs that fail or are slow.
const VERBS: [&str; 9] = [
    "create",
    "start",
    "stop",
    "remove",
    "list",
    "ping",
    "container",
    "probe",
    ANY,
];

struct Walk {
    seed: u64,
    rng: Rng,
    cluster: Cluster,
    /// What was done, for who reads a failure, and how often.
    story: Vec<String>,
    counts: BTreeMap<&'static str, u32>,
    good: Vec<(Tag, String)>,
    bad: Vec<Tag>,
    version: u32,
}

impl Walk {
    async fn new(seed: u64) -> Self {
        // Backoffs, salts and the like.
        fastrand::seed(seed);
        viking::clock::forget_jumps();
        let mut rng = Rng::with_seed(seed);
        let cluster = Cluster::start(rng.usize(1..=4)).await;
        for host in &cluster.hosts {
            host.engine.add_foreign("somebody-elses");
        }
        Self {
            seed,
            rng,
            cluster,
            story: Vec::new(),
            counts: BTreeMap::new(),
            good: Vec::new(),
            bad: Vec::new(),
            version: 0,
        }
    }

    async fn run(mut self) -> (BTreeMap<&'static str, u32>, Vec<String>) {
        self.push(false).await;
        for _ in 0..STEPS {
            self.step().await;
            let pause = Duration::from_millis(self.rng.u64(0..4_000));
            tokio::time::sleep(pause).await;
            self.check().await;
        }
        self.mend().await;
        self.push(false).await;
        self.converge().await;
        let hurt = |line: &String| line.contains("container hurt");
        self.story.retain(|line| !hurt(line));
        (self.counts.clone(), self.story.clone())
    }

    fn tell(&mut self, what: &'static str, about: &str) {
        *self.counts.entry(what).or_default() += 1;
        let at = self.cluster.store.age().as_millis();
        self.story.push(format!("{at} ms: {what} {about}"));
    }

    async fn step(&mut self) {
        match self.rng.u32(0..19) {
            0..=3 => {
                let bad = self.rng.u32(0..3) == 0;
                self.push(bad).await;
            }
            4 | 5 => self.fail_engine(),
            6 => self.slow_engine(),
            7 | 8 => self.hurt_container(),
            9 => self.restart_worker().await,
            10 => {
                let times = self.rng.u32(1..6);
                self.tell("store loses answers", &times.to_string());
                self.cluster.store.lose_answers(times);
            }
            11 => {
                let times = self.rng.u32(1..6);
                self.tell("store refuses", &times.to_string());
                self.cluster.store.refuse(times);
            }
            12 => {
                let n = self.rng.u32(0..8);
                self.tell("leader deposed", &format!("before its transaction {n}"));
                self.cluster.store.depose_before(n);
            }
            13 => self.lose_host().await,
            14 => self.cut_host().await,
            15 => self.decide_readiness().await,
            16 => self.garble(),
            17 => self.set_clock(),
            _ => self.outage().await,
        }
    }

    /// A host's viking is gone for longer than its lease; its containers run on.
    async fn lose_host(&mut self) {
        let n = self.host();
        let pause = Duration::from_millis(self.rng.u64(2_000..30_000));
        self.tell("host lost", &format!("{n} for {pause:?}"));
        self.cluster.kill_worker(n).await;
        tokio::time::sleep(pause).await;
        self.cluster.start_worker(n);
    }

    /// A host that is cut off runs on, and so do its worker and its candidate.
    async fn cut_host(&mut self) {
        let n = self.host();
        let pause = Duration::from_millis(self.rng.u64(1_000..30_000));
        self.tell("host cut off", &format!("{n} for {pause:?}"));
        self.cluster.hosts[n].link.cut(true);
        tokio::time::sleep(pause).await;
        self.cluster.hosts[n].link.cut(false);
    }

    async fn decide_readiness(&mut self) {
        use viking::model::host::Readiness::{Cordoned, Draining, Ready};
        let (n, which) = (self.host(), self.rng.usize(0..4));
        let readiness = [Ready, Ready, Cordoned, Draining][which];
        self.tell("readiness", &format!("{n} {readiness:?}"));
        super::hosts::set_readiness(&self.cluster, n, readiness).await;
    }

    /// The machines' clocks are set, by a moment or by an hour, back or forth.
    fn set_clock(&mut self) {
        let by = [2_000, 60_000, 600_000, 3_600_000][self.rng.usize(0..4)];
        let by = if self.rng.bool() { by } else { -by };
        self.tell("clock set", &format!("by {by} ms"));
        viking::clock::jump(by);
    }

    /// Changes are lost, or told twice.
    fn garble(&mut self) {
        let (n, seed) = (self.host(), self.rng.u64(..));
        let seed = self.rng.bool().then_some(seed);
        self.tell("changes garbled", &format!("{n} {}", seed.is_some()));
        self.cluster.hosts[n].link.garble(seed);
    }

    /// A commit of one to three nodes, linked, some with data; half of them run something first.
    async fn push(&mut self, bad: bool) {
        self.version += 1;
        let rng = &mut self.rng;
        let mut run = |node: &str, moves: bool| match (moves, rng.u32(0..6)) {
            (true, 0) => format!("stubborn {node} {}", self.version),
            (true, 1) => format!("slow {node} {}", self.version),
            (true, _) => format!("ok {node} {}", self.version),
            (false, _) => format!("ok {node} 0"),
        };
        let (web, db) = (run("web", true), run("db", self.version.is_multiple_of(3)));
        let cache = run("cache", self.version.is_multiple_of(4));
        let mut commands = [web, db, cache];
        let mut first = rng.bool().then_some("migrate");
        if bad {
            let word = ["crash", "never", "absent"][rng.usize(0..3)];
            match commands.get_mut(rng.usize(0..4)) {
                Some(command) => *command = format!("{word} {}", self.version),
                None => first = Some("bad"),
            }
        }
        let first = first.map_or_else(String::new, |word| {
            format!(", before_release: {word} {}", self.version)
        });
        let [web, db, cache] = commands;
        let (scale, copies) = (rng.u32(1..4), rng.u32(1..3));
        let yaml = format!(
            "viking: {{name: shop}}\ndeploy:\n  \
             web: {{image: web, run: {web}, expose: [80], scale: {scale}, link: [db, cache]{first}}}\n  \
             db: {{image: db, run: {db}, expose: [5432], volume: [/data], scale: {copies}}}\n  \
             cache: {{image: cache, run: {cache}, expose: [6379], service: true}}\n"
        );
        let tag = self.cluster.push(&yaml).await;
        // A service's changed spec waits: it cannot be what fails later.
        self.tell(
            if bad { "bad commit" } else { "good commit" },
            &format!("{tag}\n{yaml}"),
        );
        if bad {
            self.bad.push(tag);
        } else {
            self.good.push((tag, yaml));
        }
    }

    fn host(&mut self) -> usize {
        self.rng.usize(0..self.cluster.hosts.len())
    }

    fn fail_engine(&mut self) {
        let (n, times) = (self.host(), self.rng.u32(1..5));
        let verb = VERBS[self.rng.usize(0..VERBS.len())];
        let error = match self.rng.u32(0..3) {
            0 => Error::Unreachable("no answer".into()),
            1 => Error::Other("internal error".into()),
            _ => Error::DiskFull("no space left".into()),
        };
        let lost = self.rng.bool();
        let engine = self.cluster.hosts[n].engine.clone();
        self.tell(
            "engine fails",
            &format!("{n} {verb} {times} lost: {lost} {error}"),
        );
        if lost {
            engine.fail_after_next(verb, Error::Unreachable("answer lost".into()), times);
        } else {
            engine.fail_next(verb, error, times);
        }
    }

    fn slow_engine(&mut self) {
        let n = self.host();
        let verb = VERBS[self.rng.usize(0..VERBS.len())];
        let latency = Duration::from_millis(self.rng.u64(0..1_500));
        self.tell("engine slow", &format!("{n} {verb} {latency:?}"));
        self.cluster.hosts[n].engine.latency(verb, latency);
    }

    fn hurt_container(&mut self) {
        let (n, which, how) = (self.host(), self.rng.usize(..), self.rng.u32(0..5));
        let engine = self.cluster.hosts[n].engine.clone();
        let ours = |c: &Container| c.labels.contains_key(label::CLUSTER);
        let all: Vec<_> = engine.snapshot().into_iter().filter(ours).collect();
        let Some(victim) = all.get(which % all.len().max(1)) else {
            return self.tell("container hurt", "there is none");
        };
        self.tell("container hurt", &format!("{} {how}", victim.name));
        match (how, victim.state == RunState::Running) {
            (0, true) => engine.kill(&victim.name),
            (1, true) => engine.stop_outside(&victim.name),
            (2, true) => engine.pause(&victim.name),
            (3, true) => engine.disconnect(&victim.name),
            _ => engine.rm_f(&victim.name),
        }
    }

    async fn restart_worker(&mut self) {
        let n = self.host();
        let pause = Duration::from_millis(self.rng.u64(0..3_000));
        self.tell("worker restarted", &format!("{n} after {pause:?}"));
        self.cluster.kill_worker(n).await;
        tokio::time::sleep(pause).await;
        self.cluster.start_worker(n);
    }

    /// Something is away for a while.
    async fn outage(&mut self) {
        let pause = Duration::from_millis(self.rng.u64(100..15_000));
        match self.rng.u32(0..4) {
            0 => {
                self.tell("store stalls", &format!("{pause:?}"));
                self.cluster.store.stall(pause).await;
            }
            1 => {
                self.tell("store cut off", &format!("{pause:?}"));
                self.cluster.store.set_down(true);
                tokio::time::sleep(pause).await;
                self.cluster.store.set_down(false);
            }
            2 => {
                let n = self.host();
                self.tell("engine down", &format!("{n} {pause:?}"));
                self.cluster.hosts[n].engine.down(true);
                tokio::time::sleep(pause).await;
                self.cluster.hosts[n].engine.down(false);
            }
            _ => {
                self.tell("registry down", &format!("{pause:?}"));
                self.cluster.registry.down(true);
                tokio::time::sleep(pause).await;
                self.cluster.registry.down(false);
            }
        }
    }

    /// What must be true at any moment.
    async fn check(&self) {
        assert_eq!(
            self.cluster.violations(),
            Vec::<String>::new(),
            "{}",
            self.told()
        );
        for host in &self.cluster.hosts {
            let all = host.engine.snapshot();
            let foreign = all.iter().find(|c| c.name == "somebody-elses");
            assert!(
                foreign.is_some_and(|c| c.state == RunState::Running),
                "{}",
                self.told()
            );
        }
        let world = self.cluster.world().await;
        let Some(stack) = world.stacks.get(&name("shop")) else {
            return;
        };
        let complaints =
            viking::schedule::check::plan(&world, &viking::schedule::dowding::plan(&world));
        assert!(complaints.is_empty(), "{complaints:?}\n{}", self.told());
        let ends = self.cluster.ends("shop").await;
        let live = stack.pointer.live.as_ref();
        let went_live = |tag: &Tag| ends.contains(&(tag.clone(), RunEnd::Live));
        assert!(
            live.is_none_or(went_live),
            "{live:?} {ends:?}\n{}",
            self.told()
        );
        // A good commit is never given up for what is not its fault.
        let failed = ends.iter().find(|(tag, end)| {
            *end == RunEnd::Failed && self.good.iter().any(|(good, _)| good == tag)
        });
        let why = self.cluster.history("shop").await;
        let why: Vec<_> = why
            .iter()
            .map(|run| (&run.tag, run.end, &run.reason))
            .collect();
        assert!(failed.is_none(), "{failed:?} {why:?}\n{}", self.told());
    }

    async fn mend(&mut self) {
        self.cluster.store.set_down(false);
        self.cluster.store.lose_answers(0);
        self.cluster.store.refuse(0);
        self.cluster.registry.down(false);
        for host in &self.cluster.hosts {
            host.engine.down(false);
            for verb in VERBS {
                host.engine.latency(verb, Duration::ZERO);
                host.engine.fail_next(verb, Error::Other(String::new()), 0);
                host.engine
                    .fail_after_next(verb, Error::Other(String::new()), 0);
            }
        }
        for n in 0..self.cluster.hosts.len() {
            self.cluster.hosts[n].link.cut(false);
            self.cluster.hosts[n].link.garble(None);
            let ready = viking::model::host::Readiness::Ready;
            super::hosts::set_readiness(&self.cluster, n, ready).await;
        }
        self.story.push("mended".to_owned());
    }

    /// The last good commit serves, exactly its containers run, and nothing more is written.
    async fn converge(&self) {
        let (last, _) = self.good.last().unwrap();
        let told = self.told();
        // The longest wait after failures is five minutes.
        let what = format!("converged on {last}\n{told}");
        let is = |world: &viking::model::world::World| super::look::settled(world, last);
        let world = self.cluster.until(&what, s(900), is).await;
        assert_eq!(world.stacks[&name("shop")].pointer.phase, Phase::Live);
        // Failures are forgotten after a minute of health, by a clock that may go half as fast.
        tokio::time::sleep(s(150)).await;
        let ours = self
            .cluster
            .hosts
            .iter()
            .flat_map(|host| host.engine.snapshot());
        let mut found: Vec<_> = ours
            .filter(|c| c.labels.contains_key(label::CLUSTER))
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(found.iter().all(|c| c.state == RunState::Running), "{told}");
        let names: Vec<String> = found.into_iter().map(|c| c.name).collect();
        let placed = world.assignments.values();
        let mut wanted: Vec<String> = placed.map(|a| a.job.id(a.instance).0).collect();
        wanted.sort();
        assert_eq!(names, wanted, "{told}");
        self.check().await;
        let before = self.cluster.store.writes();
        tokio::time::sleep(s(60)).await;
        let after = self.cluster.store.writes();
        let trace = self.cluster.store.trace();
        let last = trace.iter().rev().take(10).collect::<Vec<_>>();
        assert_eq!(before, after, "{last:?}\n{told}");
    }

    fn told(&self) -> String {
        format!("VIKING_TEST_SEED={}\n{}", self.seed, self.story.join("\n"))
    }
}

/// One seed, in a runtime of its own whose time stands still.
fn walk(seed: u64) -> (BTreeMap<&'static str, u32>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async { Walk::new(seed).await.run().await })
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

/// Walks each seed that was asked for, two at a time, and prints how often each thing was injected.
pub(super) fn each_seed(usual: u64, walk: impl Fn(u64) -> BTreeMap<&'static str, u32> + Sync) {
    let seeds: Vec<u64> = match number("VIKING_TEST_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("VIKING_TEST_SEEDS").unwrap_or(usual)).collect(),
    };
    let next = std::sync::Mutex::new(seeds.into_iter());
    let counts = std::sync::Mutex::new(BTreeMap::<&str, u32>::new());
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let Some(seed) = next.lock().unwrap().next() else {
                    return;
                };
                let injected = walk(seed);
                let mut counts = counts.lock().unwrap();
                for (what, times) in injected {
                    *counts.entry(what).or_default() += times;
                }
            }
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
    println!("injected: {:?}", counts.into_inner().unwrap());
}

#[test]
fn random_commits_and_faults_always_end_in_the_last_good_commit() {
    each_seed(SEEDS, |seed| walk(seed).0);
}

/// What is injected when, which version and which host: all of it follows from the seed. Only the
/// order of what happens in one instant is the runtime's own.
#[test]
fn a_seed_injects_the_same_every_time() {
    assert_eq!(walk(7), walk(7));
}
