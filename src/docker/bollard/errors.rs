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

/// A build that fails with one of these was let down by a registry or a name server, whatever else
/// its error says.
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

/// A build that fails with one of these fails the same way next time: the commit's own fault. Texts
/// of the classic builder, 20.10. What is not here is taken for a fault from outside: tried again
/// for nothing is better than given up for another's mistake.
const BAD_BUILD: &[&str] = &[
    // The Dockerfile.
    "dockerfile parse error",
    "failed to parse dockerfile",
    "unknown instruction",
    "(dockerfile) cannot be empty",
    "failed to process",
    "failed to reach build target",
    "invalid from flag value",
    "should not be blank",
    "no image was generated",
    "failed to parse platform",
    "invalid containerport",
    "invalid signal",
    "requires buildkit",
    "unable to convert uid/gid",
    "cannot mkdir",
    "max depth exceeded",
    // What it is built on.
    "invalid reference format",
    "manifest unknown",
    "no matching manifest",
    "pull access denied",
    "repository does not exist",
];

/// What ADD and COPY say of the commit's files. They say much else: ADD fetches, and both write.
const COPYING: &[&str] = &["add failed", "copy failed", "failed to copy files"];
const BAD_COPY: &[&str] = &[
    "file not found in build context",
    "no source files were specified",
    "forbidden path",
    "file does not exist",
    "not a directory",
    "is a directory",
    "must be a directory",
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
    if doing == Doing::Build {
        return built(status, text, &lower);
    }
    if any(PORT_TAKEN) {
        return Error::PortTaken(text);
    }
    if any(DISK_FULL) {
        return Error::DiskFull(text);
    }
    if any(UNREACHABLE) {
        return Error::Unreachable(text);
    }
    match (status, doing) {
        // A missing program is a 404 to some engines, like a missing container.
        (_, Doing::Start | Doing::Create) if is_bad_spec(&lower) => Error::BadSpec(text),
        (Some(404), _) => Error::NotFound(text),
        (Some(409), _) => Error::Conflict(text),
        (Some(400), Doing::Create) => Error::BadSpec(text),
        // Engine 20.10 answers 403 here.
        _ if lower.contains("has active endpoints") => Error::Conflict(text),
        _ => Error::Other(text),
    }
}

fn is_bad_spec(lower: &str) -> bool {
    let any = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    any(BAD_SPEC) || (lower.contains(RUNTIME) && any(BAD_SPEC_IN_RUNTIME))
}

/// A failed build. A command's own exit is the commit's fault whatever its text says.
fn built(status: Option<u16>, text: String, lower: &str) -> Error {
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
    let bad_copy = any(COPYING) && any(BAD_COPY);
    // 400: the request, made of `viking.yml` and the Dockerfile, is wrong in itself.
    if status == Some(400) || any(BAD_BUILD) || bad_copy || is_bad_spec(lower) {
        return Error::BuildFailed(text);
    }
    Error::Other(text)
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

    /// Texts as engine 20.10 said them.
    #[test]
    fn only_what_is_known_to_be_the_commits_fault_fails_it() {
        let own = [
            "The command '/bin/sh -c x' returned a non-zero code: 3",
            "The command '/bin/sh -c echo no space left on device; false' returned a non-zero \
             code: 1",
            "The command '/bin/sh -c echo address already in use; exit 3' returned a non-zero \
             code: 3",
            "COPY failed: file not found in build context or excluded by .dockerignore: stat \
             nope: file does not exist",
            "COPY failed: no source files were specified",
            "ADD failed: forbidden path outside the build context: ../x ()",
            "COPY failed: stat a: file does not exist",
            "failed to copy files: lstat /var/lib/docker/overlay2/4e30/merged/etc/passwd/x: not \
             a directory",
            "dockerfile parse error line 2: unknown instruction: FOO",
            "failed to parse Dockerfile: ENV must have two arguments",
            "failed to process \"${B:?gone}\": B: gone",
            "failed to reach build target nope in Dockerfile",
            "invalid from flag value 3: index out of bounds",
            "invalid reference format: repository name must be lowercase",
            "base name ($A) should not be blank",
            "manifest for redis:nope not found: manifest unknown: manifest unknown",
            "pull access denied for x, repository does not exist or may require 'docker login'",
            "no matching manifest for linux/amd64 in the manifest list entries",
            "unable to convert uid/gid chown string to host mapping: can't find uid for user x: \
             no such user: x",
            "unable to find user nope: no matching entries in passwd file",
            "failed to create shim task: OCI runtime create failed: runc create failed: unable \
             to start container process: exec: \"/bin/sh\": stat /bin/sh: no such file or \
             directory: unknown",
            "Cannot mkdir: /etc/passwd is not a directory",
            "No image was generated. Is your Dockerfile empty?",
            "the --mount option requires BuildKit. Refer to https://docs.example/ to learn how",
        ];
        for text in own {
            let error = said(None, text, Doing::Build);
            assert!(matches!(error, Error::BuildFailed(_)), "{error:?}");
        }
        let error = said(Some(400), "anything at all", Doing::Build);
        assert!(matches!(error, Error::BuildFailed(_)), "{error:?}");
    }

    #[test]
    fn whatever_else_a_build_says_is_tried_again() {
        let outside = [
            "Get \"https://registry.example/v2/\": dial tcp: lookup registry.example: no such host",
            "invalid from flag value nope: Get \"https://registry.example/v2/\": dial tcp: lookup \
             registry.example on 10.0.0.1:53: no such host",
            "ADD failed: Get \"http://127.0.0.1:1/x\": dial tcp 127.0.0.1:1: connect: connection \
             refused",
            "ADD failed: failed to GET https://a.example/x with status 503 Service Unavailable",
            "toomanyrequests: You have reached your pull rate limit",
            "error creating overlay mount to /var/lib/docker/overlay2/x/merged: device busy",
            "failed to create shim task: OCI runtime create failed: context deadline exceeded",
            "devmapper: Thin Pool has 0 free data blocks",
            "received unexpected HTTP status: 503 Service Unavailable",
            "words that nobody has seen yet",
        ];
        for status in [None, Some(500)] {
            for text in outside {
                let error = said(status, text, Doing::Build);
                assert!(matches!(error, Error::Other(_)), "{error:?}");
            }
            let error = said(status, "write /x: no space left on device", Doing::Build);
            assert!(matches!(error, Error::DiskFull(_)), "{error:?}");
        }
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
