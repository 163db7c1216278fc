//! What etcd, TLS and the network say, as one line, with what to check where we know. Pure; used by
//! `wire`. Passes on messages and causes only: what was sent, and with it every secret, is in neither.

use tonic::Status;

/// Most characters of somebody else's message.
const MESSAGE_CHARS_MAX: usize = 400;

/// Signs in a message, and what to check; the first that fits counts.
const HINTS: &[(&[&str], &str)] = &[
    (
        &["NotValidForName", "not valid for name"],
        "its certificate is for another name: give that one with --etcd",
    ),
    (
        &["certificate expired", "CertificateExpired"],
        "a certificate has expired",
    ),
    (
        &["invalid peer certificate"],
        "its certificate is not by the authority in --etcd-ca",
    ),
    (
        &[
            "CertificateRequired",
            "BadCertificate",
            "UnknownCA",
            "DecryptError",
        ],
        "it does not let us in: check --etcd-cert and --etcd-key",
    ),
    (
        &["InvalidContentType", "tls handshake eof"],
        "does it speak TLS? else the address begins with http://",
    ),
    (
        // TLS may be refused so fast that the reason does not get through.
        &["broken pipe", "reset by peer", "connection closed"],
        "if it always hangs up: check --etcd-cert and --etcd-key, and http:// against https://",
    ),
    (
        &["authentication failed"],
        "check --etcd-user and --etcd-password-file",
    ),
    (
        &["user name is empty"],
        "it wants a user: --etcd-user and --etcd-password-file",
    ),
    (
        &["authentication is not enabled"],
        "it knows no users: leave out --etcd-user",
    ),
    (
        &["permission denied"],
        "the user of --etcd-user needs a role that reads and writes all keys",
    ),
    (
        &["space exceeded"],
        "compact and defragment etcd, then `etcdctl alarm disarm`",
    ),
];

/// A message with its causes and a hint.
pub(super) fn explained(status: &Status) -> String {
    let mut text = String::new();
    append(&mut text, status.message());
    if let Some(source) = std::error::Error::source(status) {
        append(&mut text, &chain(source));
    }
    let text = bounded(&text);
    let fits = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    match HINTS.iter().find(|(signs, _)| fits(signs)) {
        Some((_, hint)) => format!("{text}; {hint}"),
        None => text,
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        append(&mut text, &error.to_string());
        next = error.source();
    }
    text
}

/// Causes repeat one another, and some say nothing.
fn append(text: &mut String, more: &str) {
    if more == "transport error" || text.contains(more) {
        return;
    }
    if more.contains(text.as_str()) {
        text.clear();
    } else {
        text.push_str(": ");
    }
    text.push_str(more);
}

/// As much of a text as is shown.
pub(super) fn bounded(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let mut text = String::from("tcp connect error");
        for more in ["transport error", "connect error", "refused", "refused"] {
            append(&mut text, more);
        }
        assert_eq!(text, "tcp connect error: refused");
        append(&mut text, "tcp connect error: refused: by a wall");
        assert_eq!(text, "tcp connect error: refused: by a wall");
    }

    #[test]
    fn where_we_know_what_to_check_it_is_said() {
        let status = Status::unavailable("invalid peer certificate: UnknownIssuer");
        assert!(explained(&status).ends_with("--etcd-ca"));
        let status = Status::unavailable("something new");
        assert_eq!(explained(&status), "something new");
        let long = Status::unavailable("x".repeat(10_000));
        assert_eq!(explained(&long).len(), MESSAGE_CHARS_MAX);
    }
}
