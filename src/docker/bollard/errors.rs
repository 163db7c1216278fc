//! Sorts what the engine says into the errors its callers branch on. Pure; used by every call of
//! the bollard engine. Docker has no error codes beyond HTTP's, so texts are matched, each where
//! it was seen.

use bollard::errors::Error as Raw;

use crate::docker::Error;

/// Longest text taken from the engine: registries answer with whole HTML pages.
const MESSAGE_MAX: usize = 2 * 1024;

/// What was being done: the same words mean different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// Making a container: a refusal is its spec's fault.
    Create,
    /// Starting one, or a command in one.
    Start,
    /// Building.
    Build,
    /// Everything else.
    Else,
}

/// A start that fails with one of these fails the same way next time: the spec's own fault.
const BAD_SPEC: &[&str] = &[
    "executable file not found",
    "exec format error",
    "chdir to cwd",
    "unable to find user",
    "unable to find group",
    "no matching entries in passwd",
    "no command specified",
    "cwd must be an absolute path",
];
/// So does one with these, if it was the runtime that said it and not the engine of its own files.
const BAD_SPEC_IN_RUNTIME: &[&str] = &[
    "no such file or directory",
    "permission denied",
    "not a directory",
    "is a directory",
];
const RUNTIME: &str = "oci runtime";

const PORT_TAKEN: &[&str] = &[
    "port is already allocated",
    "address already in use",
    "failed to bind port",
];

const DISK_FULL: &[&str] = &["no space left on device", "disk quota exceeded"];

/// The engine's own parts or the network in between: nothing is known, or it is worth a retry.
const UNREACHABLE: &[&str] = &["containerd.sock", "docker daemon is shutting down"];

/// A build that fails with one of these was let down by a registry or a name server, not by its
/// Dockerfile.
const NETWORK: &[&str] = &[
    "no such host",
    "connection refused",
    "connection reset",
    "i/o timeout",
    "tls handshake timeout",
    "network is unreachable",
    "temporary failure in name resolution",
    "client.timeout exceeded",
    "received unexpected http status: 5",
    "server misbehaving",
    "unexpected eof",
];

/// Sorts an error of bollard's.
pub(super) fn sort(raw: Raw, doing: Doing) -> Error {
    match raw {
        Raw::DockerResponseServerError {
            status_code,
            message,
        } => said(Some(status_code), &message, doing),
        Raw::DockerStreamError { error } => said(None, &error, doing),
        Raw::RequestTimeoutError => Error::Unreachable("no answer in time".into()),
        Raw::IOError { .. }
        | Raw::HyperResponseError { .. }
        | Raw::HyperLegacyError { .. }
        | Raw::SocketNotFoundError(_) => Error::Unreachable(bounded(&chain(&raw))),
        other => Error::Other(bounded(&chain(&other))),
    }
}

/// Sorts an answer of the engine's; a text inside a stream has no status.
pub(super) fn said(status: Option<u16>, message: &str, doing: Doing) -> Error {
    let text = bounded(message);
    let lower = text.to_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if any(PORT_TAKEN) {
        return Error::PortTaken(text);
    }
    if doing == Doing::Build {
        return built(text, &lower);
    }
    if any(DISK_FULL) {
        return Error::DiskFull(text);
    }
    if any(UNREACHABLE) {
        return Error::Unreachable(text);
    }
    let bad_spec = any(BAD_SPEC) || (lower.contains(RUNTIME) && any(BAD_SPEC_IN_RUNTIME));
    match (status, doing) {
        // A missing program is a 404 to some engines, like a missing container.
        (_, Doing::Start | Doing::Create) if bad_spec => Error::BadSpec(text),
        (Some(404), _) => Error::NotFound(text),
        (Some(409), _) => Error::Conflict(text),
        (Some(400), Doing::Create) => Error::BadSpec(text),
        // Engine 20.10 answers 403 here.
        _ if lower.contains("has active endpoints") => Error::Conflict(text),
        _ => Error::Other(text),
    }
}

/// A failed build. A command's own exit is the commit's fault whatever its text says.
fn built(text: String, lower: &str) -> Error {
    let any = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if lower.contains("returned a non-zero code") {
        return Error::BuildFailed(text);
    }
    if any(DISK_FULL) {
        return Error::DiskFull(text);
    }
    if any(UNREACHABLE) {
        return Error::Unreachable(text);
    }
    if any(NETWORK) {
        return Error::Other(text);
    }
    Error::BuildFailed(text)
}

/// The error with its causes: bollard keeps "connection refused" two levels down.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}

/// At most [`MESSAGE_MAX`] bytes of a message, on one line.
pub(super) fn bounded(message: &str) -> String {
    let line = message.trim().replace(['\n', '\r'], " ");
    let mut end = line.len().min(MESSAGE_MAX);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_from_other_failed_starts() {
        let allocated = "driver failed programming external connectivity on endpoint x: Bind for \
                         127.0.0.1:80 failed: port is already allocated";
        let in_use = "listen tcp4 127.0.0.1:80: bind: address already in use";
        for text in [allocated, in_use] {
            let error = said(Some(500), text, Doing::Start);
            assert!(matches!(error, Error::PortTaken(_)), "{error:?}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_the_specs_fault() {
        let text = "OCI runtime create failed: container_linux.go:380: starting container process \
                    caused: exec: \"nope\": executable file not found in $PATH: unknown";
        for status in [400, 404, 500] {
            let error = said(Some(status), text, Doing::Start);
            assert!(matches!(error, Error::BadSpec(_)), "{error:?}");
        }
    }

    #[test]
    fn a_missing_thing_is_not_found() {
        let error = said(Some(404), "No such container: x", Doing::Start);
        assert!(matches!(error, Error::NotFound(_)), "{error:?}");
        let error = said(Some(404), "No such image: x", Doing::Create);
        assert!(matches!(error, Error::NotFound(_)), "{error:?}");
    }

    #[test]
    fn a_failing_command_is_the_commits_fault_even_if_it_talks_of_disks() {
        let text = "The command '/bin/sh -c echo no space left on device; false' returned a \
                    non-zero code: 1";
        let error = said(None, text, Doing::Build);
        assert!(matches!(error, Error::BuildFailed(_)), "{error:?}");
    }

    #[test]
    fn a_registry_that_is_away_does_not_fail_the_commit() {
        let text = "Get \"https://registry.example/v2/\": dial tcp: lookup registry.example: no \
                    such host";
        let error = said(None, text, Doing::Build);
        assert!(matches!(error, Error::Other(_)), "{error:?}");
    }

    #[test]
    fn a_network_in_use_is_a_conflict() {
        let text = "error while removing network: network x id y has active endpoints";
        let error = said(Some(403), text, Doing::Else);
        assert!(matches!(error, Error::Conflict(_)), "{error:?}");
    }

    #[test]
    fn messages_are_bounded_and_on_one_line() {
        let text = format!("a\n{}", "ä".repeat(MESSAGE_MAX));
        assert!(bounded(&text).len() <= MESSAGE_MAX);
        assert!(!bounded(&text).contains('\n'));
    }
}
