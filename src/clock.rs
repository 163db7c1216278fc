//! The one reader of the wall clock. Loops ask it and hand `now` to what decides; it never goes back,
//! and it never jumps for less than a day.
//!
//! What viking waits for (a drain, a limit of staging, a crash loop's next try) is on record as a
//! time of day, so that another process can go on waiting. A process whose machine's clock is set
//! must not take an hour that never was for an hour waited, and give up a commit for it. So the clock
//! is slewed, as ntpd does: it goes half as fast or half again as fast until it agrees. Another
//! process knows nothing of that: hosts whose clocks are apart wait as much too long or too short.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant as StdInstant};

use tokio::time::Instant;

/// A wall clock that moved by less than this against the monotonic one was not set: reading the two
/// takes time, too.
const CLOCK_SET_MS: i64 = 500;

/// Beyond a day the clock was never set before, and nothing that waits is worth showing the wrong
/// day for months.
const STEP_MS: i64 = 24 * 60 * 60 * 1_000;

/// Unix milliseconds, moving with tokio's time, so that waits and records agree, also when a test
/// holds time still. Only loops call this; what decides takes `now`.
#[must_use]
pub fn now_ms() -> u64 {
    let now = Instant::now().into_std();
    let unix_ms = with_clock(|clock| clock.unix_ms(now) + clock.slewed(now));
    unsigned(unix_ms + jumps::slewed(now))
}

/// What the machine's clock says, jumps and all: for who compares it with times of others on the
/// machine.
#[must_use]
pub fn wall_ms() -> u64 {
    let now = Instant::now().into_std();
    unsigned(with_clock(|clock| clock.unix_ms(now) + clock.set_by()) + jumps::whole())
}

/// The wall clock when it was first read, and how far it was set since.
struct Clock {
    base: StdInstant,
    wall_ms: i64,
    slew: Slew,
}

impl Clock {
    fn unix_ms(&self, now: StdInstant) -> i64 {
        self.wall_ms + signed_ms(now, self.base)
    }

    /// How far the wall clock was set against the monotonic one. The real ones: tokio's may stand still.
    fn set_by(&self) -> i64 {
        let ms = wall_clock_ms() - self.wall_ms - signed_ms(StdInstant::now(), self.base);
        if ms.abs() < CLOCK_SET_MS { 0 } else { ms }
    }

    fn slewed(&mut self, now: StdInstant) -> i64 {
        let set_by = self.set_by();
        self.slew.toward(set_by, now)
    }
}

fn with_clock<T>(read: impl FnOnce(&mut Clock) -> T) -> T {
    static CLOCK: Mutex<Option<Clock>> = Mutex::new(None);
    let mut clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    read(clock.get_or_insert_with(|| {
        let base = StdInstant::now();
        Clock {
            base,
            wall_ms: wall_clock_ms(),
            slew: Slew::at(base),
        }
    }))
}

/// A difference that is made up for little by little.
#[derive(Debug, Clone, Copy)]
struct Slew {
    ms: i64,
    at: StdInstant,
}

impl Slew {
    fn at(at: StdInstant) -> Self {
        Self { ms: 0, at }
    }

    /// Moves towards `target_ms` by at most half of the time since it moved last.
    fn toward(&mut self, target_ms: i64, now: StdInstant) -> i64 {
        let gap = target_ms - self.ms;
        let most = signed_ms(now, self.at).max(0) / 2;
        if gap == 0 {
            self.at = now.max(self.at);
        } else if gap.abs() > STEP_MS {
            *self = Self {
                ms: target_ms,
                at: now,
            };
        } else if most > 0 {
            self.ms += gap.clamp(-most, most);
            self.at = now;
        }
        self.ms
    }
}

fn signed_ms(now: StdInstant, then: StdInstant) -> i64 {
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match now.checked_duration_since(then) {
        Some(passed) => ms(passed),
        None => -ms(then - now),
    }
}

fn unsigned(unix_ms: i64) -> u64 {
    u64::try_from(unix_ms).unwrap_or(0)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
fn wall_clock_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

/// Sets the clock of this thread, for tests that run many hosts on it.
#[cfg(any(test, feature = "failpoints"))]
pub use jumps::{forget_jumps, jump};

#[cfg(any(test, feature = "failpoints"))]
mod jumps {
    use std::cell::Cell;
    use std::time::Instant as StdInstant;

    use super::Slew;

    thread_local! {
        static JUMPS: Cell<(i64, Option<Slew>)> = const { Cell::new((0, None)) };
    }

    /// Sets this thread's wall clock by so many milliseconds.
    pub fn jump(ms: i64) {
        let now = tokio::time::Instant::now().into_std();
        let (whole, slew) = JUMPS.get();
        JUMPS.set((whole + ms, Some(slew.unwrap_or(Slew::at(now)))));
    }

    /// As if this thread's clock had never been set.
    pub fn forget_jumps() {
        JUMPS.set((0, None));
    }

    pub(super) fn whole() -> i64 {
        JUMPS.get().0
    }

    pub(super) fn slewed(now: StdInstant) -> i64 {
        let (whole, Some(mut slew)) = JUMPS.get() else {
            return 0;
        };
        let ms = slew.toward(whole, now);
        JUMPS.set((whole, Some(slew)));
        ms
    }
}

#[cfg(not(any(test, feature = "failpoints")))]
mod jumps {
    pub(super) fn whole() -> i64 {
        0
    }

    pub(super) fn slewed(_now: std::time::Instant) -> i64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    #[tokio::test(start_paused = true)]
    async fn now_moves_with_the_loops_own_time() {
        let before = now_ms();
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(now_ms() - before, 3_600_000);
    }

    /// What passes by our clock while a minute does, right after it was set by so much.
    async fn minute_after(ms: i64) -> i64 {
        let before = now_ms();
        jump(ms);
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _ = now_ms();
        }
        i64::try_from(now_ms()).unwrap() - i64::try_from(before).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_is_followed_without_a_jump_and_never_back() {
        let near = |passed: i64, wanted: i64| assert!(passed.abs_diff(wanted) < 10, "{passed}");
        near(minute_after(HOUR_MS).await, 90_000);
        // Both jumps together are none; half a minute was made up for.
        near(minute_after(-HOUR_MS).await, 30_000);
        near(minute_after(0).await, 60_000);
        near(minute_after(-HOUR_MS).await, 30_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_is_agreed_with_in_the_end() {
        // The real clocks are read one after the other.
        let apart = || wall_ms().abs_diff(now_ms());
        jump(HOUR_MS);
        assert!(apart().abs_diff(3_600_000) < 10, "{}", apart());
        for _ in 0..8_000 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _ = now_ms();
        }
        assert!(apart() < 10, "{}", apart());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_never_set_is_believed_at_once() {
        let before = now_ms();
        jump(20_000 * STEP_MS);
        assert_eq!(now_ms() - before, unsigned(20_000 * STEP_MS));
    }
}
