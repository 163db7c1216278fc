//! Named points at which a test ends the process as `kill -9` would. Called from the stages at the
//! places where a crash is hardest; does nothing unless built with the feature `failpoints`.

/// Ends the process here, without any clean-up, if `VIKING_FAILPOINT` names this point. The
/// variable may hold `name` or `name:n` for the n-th time the point is passed (1-based).
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    static PASSED: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());
    let Ok(wanted) = std::env::var("VIKING_FAILPOINT") else {
        return;
    };
    let (point, nth) = match wanted.split_once(':') {
        Some((point, nth)) => (point, nth.parse().unwrap_or(1)),
        None => (wanted.as_str(), 1),
    };
    if point != name {
        return;
    }
    let mut passed = PASSED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let count = passed.entry(name.to_owned()).or_insert(0);
    *count += 1;
    if *count == nth {
        std::process::abort();
    }
}

/// Does nothing in this build.
#[cfg(not(feature = "failpoints"))]
pub fn hit(_name: &str) {}
