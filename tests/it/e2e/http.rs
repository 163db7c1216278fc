//! Blocking requests of tests, with one time limit and no proxy; and ports to listen on.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
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

/// The body of a page of a domain that a router at `front` serves, over a connection of its own.
pub(crate) fn page(front: &str, domain: &str, path: &str) -> Result<String, String> {
    let ask = format!("GET {path} HTTP/1.1\r\nHost: {domain}\r\nConnection: close\r\n\r\n");
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(front)?;
        stream.set_read_timeout(Some(3 * ANSWER))?;
        stream.write_all(ask.as_bytes())?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    let said = answer().map_err(|error| format!("{domain}{path}: {error}"))?;
    match said.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(format!("{domain}{path}: {said:?}")),
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
