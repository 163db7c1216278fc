//! The one loop: a step at start, then on every tick or change, changes collapsed, with backoff and
//! jitter after errors, until shutdown. Used by every loop of viking; never knows what a step does.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Where stages tell people how a commit is doing; nobody listening is fine.
pub type ProgressSink = tokio::sync::broadcast::Sender<crate::model::progress::Progress>;

/// What the loop does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing to do until something changes or the interval has passed.
    OnChange,
    /// Again after this long at the latest.
    After(Duration),
}

/// Shortest and longest wait after errors; doubles in between.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// Rings a loop; ringing twice before it looks is once.
#[derive(Debug, Clone)]
pub struct Bell(watch::Sender<u64>);

impl Bell {
    /// A bell nobody listens to yet.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Wakes who listens.
    pub fn ring(&self) {
        self.0.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Somebody's ear; hears rings from now on.
    #[must_use]
    pub fn ear(&self) -> Ear {
        Ear(self.0.subscribe())
    }
}

impl Default for Bell {
    fn default() -> Self {
        Self::new()
    }
}

/// Hears a bell.
#[derive(Debug, Clone)]
pub struct Ear(watch::Receiver<u64>);

impl Ear {
    /// Returns at the next ring, at once if one was missed. Waits for ever when the bell is gone.
    pub async fn heard(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Runs `step` at once, then at each ring of `ear`, after `interval` without one, or when the step
/// asked to; errors are logged once each with their chain and tried again with backoff.
pub async fn run<F, Fut>(
    name: &str,
    interval: Duration,
    mut ear: Ear,
    shutdown: CancellationToken,
    mut step: F,
) where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<Next>>,
{
    let mut failures = 0_u32;
    loop {
        let outcome = tokio::select! {
            () = shutdown.cancelled() => return,
            outcome = step() => outcome,
        };
        let (wait, quiet) = match outcome {
            Ok(next) => {
                failures = 0;
                (wait_after(next, interval), false)
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::warn!(task = name, failures, "{error:#}");
                (backoff(failures, fastrand::f64()), true)
            }
        };
        let until = Instant::now() + wait;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep_until(until) => {}
            // After an error a ring does not shorten the wait: whoever rings may be the cause.
            () = ear.heard(), if !quiet => {}
        }
    }
}

fn wait_after(next: Next, interval: Duration) -> Duration {
    match next {
        Next::OnChange => interval,
        Next::After(wait) => wait.min(interval),
    }
}

/// Doubles from a tenth of a second to fifteen, with up to a fifth of jitter; `dice` in 0..1.
#[must_use]
pub fn backoff(failures: u32, dice: f64) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(BACKOFF_MAX).mul_f64(0.8 + 0.2 * dice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn many_rings_before_a_look_are_one_step() {
        let bell = Bell::new();
        let shutdown = CancellationToken::new();
        let steps = Cell::new(0);
        let ear = bell.ear();
        (0..5).for_each(|_| bell.ring());
        let stop = shutdown.clone();
        run("test", Duration::from_secs(10), ear, shutdown, || {
            steps.set(steps.get() + 1);
            if steps.get() == 3 {
                stop.cancel();
            }
            std::future::ready(Ok(Next::OnChange))
        })
        .await;
        // At start, for the five rings, after the interval.
        assert_eq!(steps.get(), 3);
    }

    #[test]
    fn backoff_grows_and_is_capped() {
        assert!(backoff(1, 1.0) < backoff(3, 0.0));
        assert!(backoff(60, 1.0) <= BACKOFF_MAX);
    }
}
