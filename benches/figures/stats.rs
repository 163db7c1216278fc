//! Medians, percentiles, and a figure's row. Used by every figure; measures nothing.

use std::fmt;

/// Milliseconds between two points in nanoseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "differences are far below 2^52 ns"
)]
pub(crate) fn ms(from_ns: i64, to_ns: i64) -> f64 {
    (to_ns - from_ns) as f64 / 1e6
}

/// The value below which `share` of them lie; NaN of nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place in a short list"
)]
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (share * (sorted.len() as f64 - 1.0)).max(0.0);
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(below), sorted.get(above)) {
        (Some(low), Some(high)) => low + (high - low) * place.fract(),
        _ => f64::NAN,
    }
}

/// The one in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    name: String,
    peer: String,
    viking: String,
    alone: String,
    ratio: String,
    pass: String,
    rounds: String,
    verdict: Verdict,
    /// What the peer's median times the wanted ratio, or an absolute limit, comes to: milliseconds.
    limit_ms: f64,
    /// viking's figure, milliseconds.
    own_ms: f64,
}

/// How a figure did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    Fail,
    /// The engine alone takes longer than is asked for, and viking adds little to that.
    Bound,
}

/// What viking may add to the engine's own time where that alone is too long.
const SHARE_MAX: f64 = 1.10;

impl Row {
    /// viking's median divided by the peer's, at most `pass`.
    pub(crate) fn ratio(name: &str, peer: &[f64], viking: &[f64], pass: f64) -> Self {
        let ratio = median(viking) / median(peer);
        Self {
            name: name.to_owned(),
            peer: spread(peer),
            viking: spread(viking),
            alone: "–".to_owned(),
            ratio: format!("{ratio:.2}"),
            pass: format!("≤ {pass:.2}"),
            rounds: viking.len().to_string(),
            verdict: verdict(ratio <= pass),
            limit_ms: pass * median(peer),
            own_ms: median(viking),
        }
    }

    /// `starts` a second, viking's median divided by the peer's, at least `pass`. `peer` and `viking` are
    /// the milliseconds that so many took.
    pub(crate) fn rate(name: &str, starts: usize, peer: &[f64], viking: &[f64], pass: f64) -> Self {
        let per_second = |took: &[f64]| -> Vec<f64> {
            let starts = u32::try_from(starts).unwrap_or(u32::MAX);
            took.iter().map(|ms| f64::from(starts) * 1e3 / ms).collect()
        };
        let ratio = median(peer) / median(viking);
        Self {
            peer: rates(&per_second(peer)),
            viking: rates(&per_second(viking)),
            ratio: format!("{ratio:.2}"),
            pass: format!("≥ {pass:.2}"),
            verdict: verdict(ratio >= pass),
            limit_ms: median(peer) / pass,
            ..Self::ratio(name, peer, viking, pass)
        }
    }

    /// viking's 99th percentile, in milliseconds, at most `pass`.
    pub(crate) fn p99(name: &str, viking: &[f64], pass: f64) -> Self {
        let p99 = quantile(viking, 0.99);
        Self {
            name: name.to_owned(),
            peer: "–".to_owned(),
            viking: format!("{} · p99 {p99:.0} ms", spread(viking)),
            alone: "–".to_owned(),
            ratio: "–".to_owned(),
            pass: format!("p99 ≤ {pass:.0} ms"),
            rounds: viking.len().to_string(),
            verdict: verdict(p99 <= pass),
            limit_ms: pass,
            own_ms: median(viking),
        }
    }

    /// One value each, at most `pass` of the peer's or of an absolute `limit`.
    pub(crate) fn single(
        name: &str,
        peer: String,
        viking: String,
        ratio: Option<f64>,
        pass: String,
        passed: bool,
    ) -> Self {
        Self {
            name: name.to_owned(),
            peer,
            viking,
            alone: "–".to_owned(),
            ratio: ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
            pass,
            rounds: "1".to_owned(),
            verdict: verdict(passed),
            limit_ms: f64::INFINITY,
            own_ms: 0.0,
        }
    }

    /// With what the engine alone needs for the same, in the same run.
    pub(crate) fn beside(mut self, alone: &[f64]) -> Self {
        let floor = median(alone);
        let share = self.own_ms - floor;
        self.alone = format!("{floor:.0} ms (+{share:.0})");
        let bound = floor > self.limit_ms && self.own_ms <= SHARE_MAX * floor;
        if self.verdict == Verdict::Fail && bound {
            self.verdict = Verdict::Bound;
        }
        self
    }

    /// Whether it did as well as it can here.
    pub(crate) fn passed(&self) -> bool {
        self.verdict != Verdict::Fail
    }
}

fn verdict(passed: bool) -> Verdict {
    if passed { Verdict::Pass } else { Verdict::Fail }
}

fn spread(values: &[f64]) -> String {
    let (low, high) = (quantile(values, 0.1), quantile(values, 0.9));
    format!("{:.0} ms ({low:.0}–{high:.0})", median(values))
}

fn rates(values: &[f64]) -> String {
    let (low, high) = (quantile(values, 0.1), quantile(values, 0.9));
    format!("{:.1}/s ({low:.1}–{high:.1})", median(values))
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            peer,
            viking,
            alone,
            ratio,
            pass,
            rounds,
            verdict,
            ..
        } = self;
        let word = match verdict {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Bound => "BOUND",
        };
        write!(
            f,
            "| {name} | {peer} | {viking} | {alone} | {ratio} | {pass} | {rounds} | {word} |"
        )
    }
}
