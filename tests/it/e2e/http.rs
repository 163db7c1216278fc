//! Blocking requests of tests, with one time limit and no proxy; and ports to listen on.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// For one request to the API, the registry or an endpoint.
const ANSWER: Duration = Duration::from_secs(5);

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER))
        .proxy(None)
        .http_status_as_error(false)
        .build();
    config.new_agent()
}

/// The body of an answer that is a success.
pub(crate) fn fetch(url: &str) -> Result<String, String> {
    let accept = "application/vnd.docker.distribution.manifest.v2+json, */*";
    let answer = agent().get(url).header("accept", accept).call();
    let mut answer = answer.map_err(|error| format!("{url}: {error}"))?;
    let text = answer
        .body_mut()
        .read_to_string()
        .map_err(|error| format!("{url}: {error}"))?;
    match answer.status().is_success() {
        true => Ok(text),
        false => Err(format!("{url}: {} {text}", answer.status())),
    }
}

/// Whether it is there.
pub(crate) fn exists(url: &str) -> bool {
    let accept = "application/vnd.docker.distribution.manifest.v2+json, */*";
    let answer = agent().head(url).header("accept", accept).call();
    answer.is_ok_and(|answer| answer.status().is_success())
}

/// A port nobody listens on, below those that the kernel and viking hand out. Each is given once.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 5_000).expect("below 5000");
    loop {
        let port = 11_000 + (start + NEXT.fetch_add(1, Ordering::SeqCst)) % 8_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
