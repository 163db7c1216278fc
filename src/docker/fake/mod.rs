//! An engine in memory for tests: stricter than Docker, slow and failing on request, with scripted
//! containers and builds. Used by unit tests of the stages and by whole-cluster tests. Never used
//! by the product; works with tokio's paused clock.

mod builds;
mod control;
mod engine;
mod images;
mod script;
mod state;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::images::FakeRegistry;
use self::state::State;
use super::{Error, Result};
use crate::clock;

/// Matches every verb in [`FakeEngine::latency`], [`FakeEngine::fail_next`] and the like.
pub const ANY: &str = "*";

/// What the containers of an image, a command or a name do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// Runs, healthy at once, ends when told.
    #[default]
    Runs,
    /// Runs, healthy after this long.
    HealthyAfter(Duration),
    /// Runs, healthy at once, and every probe fails after this long.
    HealthyUntil(Duration),
    /// Runs, and every probe fails.
    NeverHealthy,
    /// Ends by itself with this exit code.
    ExitsAfter(Duration, i64),
    /// Ends by itself like that, and every probe fails until then.
    CrashesAfter(Duration, i64),
    /// Cannot be started: `BadSpec`.
    FailsToStart,
    /// Runs and ignores the stop signal, so a stop takes its whole timeout.
    IgnoresStop,
}

/// The engine. Clones share everything, so a test keeps one and hands out the other.
#[derive(Debug, Clone)]
pub struct FakeEngine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    registry: FakeRegistry,
}

/// What goes wrong or slowly on request.
#[derive(Debug, Default)]
pub(super) struct Faults {
    latency: BTreeMap<String, Duration>,
    before: BTreeMap<String, (Error, u32)>,
    after: BTreeMap<String, (Error, u32)>,
    hung: BTreeSet<String>,
    down: bool,
}

impl FakeEngine {
    /// An empty engine with a registry of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::with_registry(&FakeRegistry::default())
    }

    /// An empty engine that pulls from and pushes to `registry`, as several hosts do.
    #[must_use]
    pub fn with_registry(registry: &FakeRegistry) -> Self {
        Self {
            inner: Arc::new(Inner {
                state: Mutex::default(),
                registry: registry.clone(),
            }),
        }
    }

    /// The registry it pulls from and pushes to.
    #[must_use]
    pub fn registry(&self) -> &FakeRegistry {
        &self.inner.registry
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let locked = self.inner.state.lock();
        let mut state = locked.unwrap_or_else(PoisonError::into_inner);
        state.now_ms = clock::wall_ms();
        state
    }

    /// One call of the engine: counted, slow, failing as asked, then `effect`.
    async fn act<T>(
        &self,
        verb: &str,
        effect: impl FnOnce(&mut State) -> Result<T> + Send,
    ) -> Result<T> {
        self.enter(verb).await?;
        let mut state = self.state();
        let result = effect(&mut state);
        match take_fault(&mut state.faults.after, verb) {
            Some(error) => Err(error),
            None => result,
        }
    }

    async fn enter(&self, verb: &str) -> Result<()> {
        let latency = {
            let mut state = self.state();
            *state.calls.entry(verb.to_owned()).or_default() += 1;
            let latency = &state.faults.latency;
            latency.get(verb).or_else(|| latency.get(ANY)).copied()
        };
        match latency {
            Some(latency) => tokio::time::sleep(latency).await,
            // No call of a real engine is done without giving others a turn.
            None => tokio::task::yield_now().await,
        }
        let mut state = self.state();
        if state.faults.down {
            return Err(Error::Unreachable("the fake engine is down".into()));
        }
        match take_fault(&mut state.faults.before, verb) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl Default for FakeEngine {
    fn default() -> Self {
        Self::new()
    }
}

/// One of the failures asked for, if any is left.
fn take_fault(faults: &mut BTreeMap<String, (Error, u32)>, verb: &str) -> Option<Error> {
    let key = if faults.contains_key(verb) { verb } else { ANY };
    let (error, times) = faults.get_mut(key)?;
    let error = error.clone();
    *times -= 1;
    if *times == 0 {
        faults.remove(key);
    }
    Some(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::{Engine, NewContainer, RunState};

    fn sleeper(name: &str) -> NewContainer {
        NewContainer {
            name: name.into(),
            image: "box:1".into(),
            mounts: vec![("data".into(), "/data".into())],
            ..NewContainer::default()
        }
    }

    async fn engine() -> FakeEngine {
        let fake = FakeEngine::new();
        fake.add_image("box:1");
        fake.ensure_volume("data", &BTreeMap::new()).await.unwrap();
        fake
    }

    #[tokio::test]
    async fn two_writers_on_one_volume_are_recorded() {
        let fake = engine().await;
        for name in ["a", "b"] {
            fake.create(&sleeper(name)).await.unwrap();
        }
        fake.start("a").await.unwrap();
        fake.stop("a", None, Duration::ZERO).await.unwrap();
        fake.start("b").await.unwrap();
        assert_eq!(fake.violations(), Vec::<String>::new());
        fake.start("a").await.unwrap();
        assert_eq!(fake.violations(), ["volume data: b and a"]);
    }

    #[tokio::test]
    async fn a_fault_comes_as_often_as_asked_for_and_before_or_after_the_work() {
        let fake = engine().await;
        let lost = Error::Unreachable("lost".into());
        fake.fail_next("create", lost.clone(), 2);
        for _ in 0..2 {
            assert_eq!(fake.create(&sleeper("a")).await, Err(lost.clone()));
        }
        assert_eq!(fake.snapshot(), []);
        fake.fail_after_next("create", lost.clone(), 1);
        assert_eq!(fake.create(&sleeper("a")).await, Err(lost));
        assert_eq!(fake.snapshot().len(), 1);
        assert_eq!(fake.calls()["create"], 3);
    }

    #[tokio::test]
    async fn while_down_nothing_answers_and_streams_have_ended() {
        let fake = engine().await;
        let mut events = fake.events().await.unwrap();
        fake.down(true);
        assert!(matches!(fake.info().await, Err(Error::Unreachable(_))));
        assert_eq!(events.recv().await, None);
        fake.down(false);
        fake.info().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_ends_the_run_it_was_made_for_and_no_later_one() {
        let fake = engine().await;
        fake.behave("a", Behaviour::ExitsAfter(Duration::from_secs(10), 1));
        fake.create(&sleeper("a")).await.unwrap();
        fake.start("a").await.unwrap();
        tokio::time::sleep(Duration::from_secs(9)).await;
        fake.kill("a");
        fake.start("a").await.unwrap();
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(fake.snapshot()[0].state, RunState::Running);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let ended = &fake.snapshot()[0];
        assert_eq!((ended.state, ended.exit_code), (RunState::Exited, 1));
        assert_eq!(ended.finished_ms - ended.started_ms, 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn latency_is_on_tokios_clock() {
        let fake = engine().await;
        fake.latency("info", Duration::from_secs(5));
        let before = tokio::time::Instant::now();
        fake.info().await.unwrap();
        assert_eq!(before.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn an_image_keeps_its_behaviour_on_another_host() {
        let (here, there) = {
            let registry = FakeRegistry::default();
            let engine = || FakeEngine::with_registry(&registry);
            (engine(), engine())
        };
        here.build_behaves("crash", Behaviour::NeverHealthy);
        let (pieces, context) = tokio::sync::mpsc::channel(1);
        let (lines, _reader) = tokio::sync::mpsc::channel(10);
        let request = crate::docker::BuildRequest {
            dockerfile: "Dockerfile".into(),
            target: None,
            args: BTreeMap::new(),
            platform: None,
            labels: BTreeMap::new(),
            name: "hub/web:1".into(),
            context,
        };
        pieces.send(Ok("a crash".into())).await.unwrap();
        drop(pieces);
        here.build(request, &lines).await.unwrap();
        let digest = here.push("hub/web", "1", &lines).await.unwrap();
        let reference = format!("hub/web@{digest}");
        there.pull(&reference, &lines).await.unwrap();
        let new = NewContainer {
            name: "a".into(),
            image: reference,
            ..NewContainer::default()
        };
        let id = there.create(&new).await.unwrap();
        there.start(&id).await.unwrap();
        let seen = there.container("a").await.unwrap().unwrap();
        let check = crate::model::spec::HealthCheck::Tcp { port: 80 };
        let probe = there.probe(&seen, &check, None, Duration::ZERO).await;
        assert!(probe.unwrap().is_err());
    }
}
