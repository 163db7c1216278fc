//! A client as an application has them: for each request it looks up the live release and one of its
//! endpoints, asks, and notes the answer. Never retries, so that its notes hold every gap.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::http::fetch;
use super::world::World;

/// Between two requests: often enough to see a gap of one stop and start.
const PAUSE: Duration = Duration::from_millis(40);

/// Asks until it is told to stop.
pub(crate) struct Client {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Result<String, String>>>,
}

/// What a client saw, in order.
pub(crate) struct Notes(Vec<Result<String, String>>);

impl Client {
    /// Starts asking for `path` of a node.
    pub(crate) fn start(world: &World, stack: &str, node: &str, path: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let api = format!("http://{}", world.api());
        let (stack, node, path) = (stack.to_owned(), node.to_owned(), path.to_owned());
        let thread = std::thread::spawn(move || {
            let mut notes = Vec::new();
            // While the API is away the last answer counts: no news is no order.
            let mut known = Err("never looked up".to_owned());
            while !asked.load(Ordering::SeqCst) {
                if let Ok(keys) = fetch(&format!("{api}/v1/debug/keys")) {
                    known = look_up(&keys, &stack, &node);
                }
                notes.push(
                    known
                        .clone()
                        .and_then(|end| fetch(&format!("http://{end}{path}"))),
                );
                std::thread::sleep(PAUSE);
            }
            notes
        });
        Self { stop, thread }
    }

    /// Stops asking.
    pub(crate) fn stop(self) -> Notes {
        self.stop.store(true, Ordering::SeqCst);
        Notes(self.thread.join().expect("a client does not panic"))
    }
}

impl Notes {
    /// Every request was answered, and always so.
    pub(crate) fn all(&self, body: &str) {
        self.all_of(&[body]);
    }

    /// Every request was answered with one of these.
    pub(crate) fn all_of(&self, bodies: &[&str]) {
        self.never_other_than(bodies);
        let failures: Vec<&String> = self
            .0
            .iter()
            .filter_map(|note| note.as_ref().err())
            .collect();
        assert!(
            failures.is_empty(),
            "{} of {} requests failed: {failures:?}",
            failures.len(),
            self.0.len()
        );
    }

    /// No request got an answer that is not one of these, and some got one.
    pub(crate) fn never_other_than(&self, bodies: &[&str]) {
        let mut seen = self.0.iter().flatten();
        let other = seen.clone().find(|body| !bodies.contains(&body.trim()));
        assert_eq!(other, None, "only {bodies:?} should have answered");
        assert!(
            seen.next().is_some(),
            "not one request was answered: {:?}",
            self.0
        );
    }

    /// How often the answers stopped coming; the first and the last request must have been answered.
    pub(crate) fn gaps(&self) -> usize {
        assert!(
            self.0.first().is_some_and(Result::is_ok),
            "{:?}",
            self.0.first()
        );
        assert!(
            self.0.last().is_some_and(Result::is_ok),
            "{:?}",
            self.0.last()
        );
        self.0
            .windows(2)
            .filter(|pair| pair[0].is_ok() && pair[1].is_err())
            .count()
    }
}

/// An endpoint of the live release, by the keys alone.
fn look_up(list: &str, stack: &str, node: &str) -> Result<String, String> {
    let list: Value = serde_json::from_str(list).map_err(|error| error.to_string())?;
    let rows = list["items"].as_array().ok_or("no list of keys")?;
    let pair = |row: &'_ Value| {
        Some((
            row["key"].as_str()?.to_owned(),
            row["value"].as_str()?.to_owned(),
        ))
    };
    let keys: BTreeMap<String, String> = rows.iter().filter_map(pair).collect();
    let read = |key: &str| -> Option<Value> { serde_json::from_str(keys.get(key)?).ok() };
    let pointer = read(&format!("/release/{stack}")).ok_or("no pointer")?;
    let live = pointer["live"].as_str().ok_or("nothing live")?;
    let release = read(&format!("/release/{stack}/{live}")).ok_or("no release")?;
    let tag = release["nodes"][node]["tag"]
        .as_str()
        .ok_or("no such node")?;
    let prefix = format!("/ports/{stack}/{tag}/{node}/");
    let end = keys
        .range(prefix.clone()..)
        .next()
        .filter(|(key, _)| key.starts_with(&prefix));
    end.map(|(_, address)| address.clone())
        .ok_or_else(|| format!("nothing under {prefix}"))
}
