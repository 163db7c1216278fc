//! Whether a container works, as a state machine over what probes say. Driven by `monitor`; touches
//! nothing and knows no clock.

use crate::model::spec::{ContainerSpec, Health, HealthCheck};

/// How long a container without any check must run before it counts as healthy.
pub const STILL_RUNNING_MS: u64 = 2_000;
/// Shortest wait between two probes of a container that is not healthy yet.
const FIRST_PROBES_MS: u64 = 50;
/// Until healthy, the wait before the next probe is this part of the container's age, so that a
/// fast one is seen at once and a slow one is not pestered.
const AGE_SHARE: u64 = 10;

/// Looks in a row that must have passed before one that nobody asked for becomes rarer.
const STEADY_PASSES: u32 = 5;
/// Wait between two such looks. That a process ended is told by the engine at once, whatever the
/// looks say; a connect through a bridge costs about 0.2 ms of a core, and of 50 containers one look
/// each two seconds costs more than all else that viking does while nothing happens.
const STEADY_MS: u64 = 10_000;

/// How a container is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A probe of ours, as the spec says or by default.
    Probe(HealthCheck),
    /// The engine runs the image's own check; we ask for its verdict.
    Image,
    /// Nothing to ask: still running after [`STILL_RUNNING_MS`].
    Running,
}

/// The check for a container: the spec's, else the image's, else the first TCP port, else time.
#[must_use]
pub fn check(spec: &ContainerSpec, image_has_one: bool) -> Check {
    let first = spec.settings.first_tcp_port();
    match (&spec.settings.health.check, image_has_one, first) {
        (Some(HealthCheck::Http { path, port, status }), _, _) => {
            // A GET needs a port; without any the spec was refused long before.
            match port.or(first) {
                Some(port) => Check::Probe(HealthCheck::Http {
                    path: path.clone(),
                    port: Some(port),
                    status: *status,
                }),
                None => Check::Running,
            }
        }
        (Some(check), _, _) => Check::Probe(check.clone()),
        (None, true, _) => Check::Image,
        (None, false, Some(port)) => Check::Probe(HealthCheck::Tcp { port }),
        (None, false, None) => Check::Running,
    }
}

/// Longest wait between two looks at a container that works: the operator's, if `viking.yml` says
/// anything of health; rarer for the connect that viking tries of its own accord.
#[must_use]
pub fn steady_ms(spec: &ContainerSpec, check: &Check) -> u64 {
    let said = &spec.settings.health;
    let own = *said == Health::default() && matches!(check, Check::Probe(HealthCheck::Tcp { .. }));
    if own { STEADY_MS } else { said.interval_ms }
}

/// What one look at a container said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Works.
    Pass,
    /// Nothing can be said yet.
    Pending,
    /// Does not work, with the reason.
    Fail(String),
    /// Does not work, and whoever said so has tried often enough.
    Condemned(String),
}

/// What is known of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not known yet.
    Starting,
    /// Works.
    Healthy,
    /// Does not, after all its retries.
    Unhealthy,
}

/// A container's health so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Unix milliseconds of its start.
    pub started_ms: u64,
    /// Wait between two looks once enough of them have passed; see [`steady_ms`].
    pub steady_ms: u64,
    /// Looks in a row that passed.
    pub passes: u32,
    /// Failures in a row that count.
    pub failures: u32,
    /// What is known.
    pub verdict: Verdict,
    /// The last failure's reason.
    pub reason: String,
}

impl Life {
    /// Just started, or just found running.
    #[must_use]
    pub fn new(started_ms: u64, steady_ms: u64) -> Self {
        Self {
            started_ms,
            steady_ms,
            passes: 0,
            failures: 0,
            verdict: Verdict::Starting,
            reason: String::new(),
        }
    }

    /// Takes in one look; `true` when the verdict changed.
    pub fn advance(&mut self, health: &Health, probe: &Probe, now_ms: u64) -> bool {
        let before = self.verdict;
        match probe {
            Probe::Pending => {}
            Probe::Pass => {
                self.failures = 0;
                self.passes = self.passes.saturating_add(1);
                self.reason.clear();
                self.verdict = Verdict::Healthy;
            }
            Probe::Condemned(reason) => {
                self.reason.clone_from(reason);
                self.verdict = Verdict::Unhealthy;
            }
            Probe::Fail(reason) => self.fail(health, reason, now_ms),
        }
        self.verdict != before
    }

    fn fail(&mut self, health: &Health, reason: &str, now_ms: u64) {
        reason.clone_into(&mut self.reason);
        self.passes = 0;
        // Once it worked there is no start period any more.
        if self.verdict == Verdict::Starting && self.young(health, now_ms) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= health.retries.max(1) {
            self.verdict = Verdict::Unhealthy;
        }
    }

    fn young(&self, health: &Health, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.started_ms) < health.start_period_ms
    }

    /// Milliseconds until the next look.
    #[must_use]
    pub fn next_look_ms(&self, health: &Health, now_ms: u64) -> u64 {
        let interval = health.interval_ms.max(FIRST_PROBES_MS);
        if self.verdict == Verdict::Starting && self.young(health, now_ms) {
            let age = now_ms.saturating_sub(self.started_ms);
            (age / AGE_SHARE).clamp(FIRST_PROBES_MS, interval)
        } else if self.passes >= STEADY_PASSES {
            interval.max(self.steady_ms)
        } else {
            interval
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::{Expose, ImageRef, Proto, Settings};

    fn fail() -> Probe {
        Probe::Fail("refused".to_owned())
    }

    #[test]
    fn failures_in_the_start_period_do_not_count() {
        let health = Health::default();
        let mut life = Life::new(0, 2_000);
        (0..100).for_each(|n| assert!(!life.advance(&health, &fail(), n * 100)));
        assert_eq!(life.failures, 0);
        assert!(life.advance(&health, &Probe::Pass, 10_000));
        assert_eq!(life.verdict, Verdict::Healthy);
    }

    #[test]
    fn after_the_start_period_it_takes_all_retries() {
        let health = Health::default();
        let mut life = Life::new(0, 2_000);
        let changes: Vec<_> = (0..3)
            .map(|n| life.advance(&health, &fail(), 30_000 + n))
            .collect();
        assert_eq!(changes, [false, false, true]);
        assert_eq!(life.verdict, Verdict::Unhealthy);
    }

    #[test]
    fn what_worked_once_has_no_start_period_any_more() {
        let health = Health::default();
        let mut life = Life::new(0, 2_000);
        life.advance(&health, &Probe::Pass, 100);
        (0..3).for_each(|n| {
            life.advance(&health, &fail(), 200 + n);
        });
        assert_eq!(life.verdict, Verdict::Unhealthy);
    }

    #[test]
    fn one_success_forgives_the_failures_before() {
        let health = Health::default();
        let mut life = Life::new(0, 2_000);
        life.advance(&health, &fail(), 31_000);
        life.advance(&health, &fail(), 32_000);
        life.advance(&health, &Probe::Pass, 33_000);
        life.advance(&health, &fail(), 34_000);
        life.advance(&health, &fail(), 35_000);
        assert_eq!(life.verdict, Verdict::Healthy);
    }

    #[test]
    fn looks_are_frequent_at_first_and_regular_later() {
        let health = Health::default();
        let mut life = Life::new(0, 2_000);
        assert_eq!(life.next_look_ms(&health, 0), FIRST_PROBES_MS);
        assert_eq!(life.next_look_ms(&health, 10_000), 1_000);
        assert_eq!(life.next_look_ms(&health, 40_000), 2_000);
        life.advance(&health, &Probe::Pass, 100);
        assert_eq!(life.next_look_ms(&health, 100), 2_000);
    }

    #[test]
    fn looks_that_nobody_asked_for_become_rarer_until_one_fails() {
        let image = ImageRef::Local { id: "i".into() };
        let mut spec = ContainerSpec::new(image, Settings::default());
        spec.settings.expose.push(Expose {
            port: 80,
            proto: Proto::Tcp,
            host_port: None,
        });
        let health = Health::default();
        let steady = steady_ms(&spec, &check(&spec, false));
        let mut life = Life::new(0, steady);
        let pass = |life: &mut Life| {
            life.advance(&health, &Probe::Pass, 100);
            life.next_look_ms(&health, 100)
        };
        let waits: Vec<_> = (0..6).map(|_| pass(&mut life)).collect();
        assert_eq!(waits, [2_000, 2_000, 2_000, 2_000, 10_000, 10_000]);
        life.advance(&health, &fail(), 200);
        assert_eq!(life.next_look_ms(&health, 200), 2_000);
        // What viking.yml says is done as it says, and the image's own check costs the engine.
        spec.settings.health.check = Some(HealthCheck::Tcp { port: 80 });
        assert_eq!(steady_ms(&spec, &check(&spec, false)), 2_000);
        spec.settings.health = Health::default();
        assert_eq!(steady_ms(&spec, &check(&spec, true)), 2_000);
    }

    #[test]
    fn the_spec_goes_before_the_image_before_the_port_before_time() {
        let image = ImageRef::Local { id: "i".into() };
        let mut spec = ContainerSpec::new(image, Settings::default());
        assert_eq!(check(&spec, false), Check::Running);
        spec.settings.expose.push(Expose {
            port: 80,
            proto: Proto::Tcp,
            host_port: None,
        });
        let tcp = Check::Probe(HealthCheck::Tcp { port: 80 });
        assert_eq!(check(&spec, false), tcp);
        assert_eq!(check(&spec, true), Check::Image);
        spec.settings.health.check = Some(HealthCheck::Http {
            path: "/".into(),
            port: None,
            status: None,
        });
        let http = Check::Probe(HealthCheck::Http {
            path: "/".into(),
            port: Some(80),
            status: None,
        });
        assert_eq!(check(&spec, true), http);
    }
}
