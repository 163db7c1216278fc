//! A source's URL, checked once: which transport, which host, which path. Made at the door (API, CLI)
//! and again by `repo`; pure. It never keeps a password: a URL with one is refused.

use std::fmt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};
use url::Url;

use super::error::{Error, cut, is_unprintable};

/// Longest URL taken; longer ones are mistakes.
const URL_MAX_BYTES: usize = 2048;
/// Hex digits of a mirror's folder name: 128 bits, so two remotes never meet.
const FOLDER_DIGITS: usize = 32;

/// A remote that can be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub(super) kind: Kind,
    /// For people: no user, no password, no query.
    shown: String,
}

/// How its bytes are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// An absolute path, of a bare repository or of one with a work tree.
    Local(PathBuf),
    /// Smart HTTP.
    Http(Url),
    /// A child process `ssh`.
    Ssh(SshTarget),
}

/// Where `ssh` goes. Host and user are of harmless characters only: `ssh` puts them into the
/// commands of its own configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SshTarget {
    pub(super) user: Option<String>,
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// As `git-upload-pack` on the other side gets it.
    pub(super) path: String,
}

impl Address {
    /// Reads `https://…`, `http://…`, `ssh://…`, `user@host:path`, `file://…` or an absolute path.
    ///
    /// # Errors
    /// [`Error::BadUrl`], with what is wrong; it holds no password even if the text did.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let kind = kind_of(text).map_err(|reason| Error::BadUrl {
            url: redacted(text),
            reason,
        })?;
        let shown = shown(&kind);
        Ok(Self { kind, shown })
    }

    /// The folder of this remote's mirror: equal remotes, equal folders.
    pub(super) fn folder(&self) -> String {
        let key = match &self.kind {
            Kind::Ssh(ssh) => format!("{}\n{}", ssh.user.as_deref().unwrap_or(""), self.shown),
            Kind::Local(_) | Kind::Http(_) => self.shown.clone(),
        };
        let mut name = hex::encode(Sha256::digest(key.as_bytes()));
        name.truncate(FOLDER_DIGITS);
        name
    }

    /// What libgit2 is told: it picks a transport by the scheme and ours take the rest from here.
    /// A path goes as `file://`, for a bare path with a colon would be taken for ssh.
    pub(super) fn for_git(&self) -> String {
        match &self.kind {
            Kind::Local(path) => {
                Url::from_file_path(path).map_or_else(|()| path.display().to_string(), String::from)
            }
            Kind::Http(url) => url.to_string(),
            Kind::Ssh(_) => "ssh://remote/".to_owned(),
        }
    }

    pub(super) fn is_local(&self) -> bool {
        matches!(self.kind, Kind::Local(_))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

type Refusal = String;

fn kind_of(text: &str) -> Result<Kind, Refusal> {
    if text.is_empty() || text.len() > URL_MAX_BYTES {
        return Err(format!("it must have 1 to {URL_MAX_BYTES} characters"));
    }
    if text.chars().any(is_unprintable) {
        return Err("it holds a control character".to_owned());
    }
    if text.starts_with('-') {
        return Err("it starts with '-'".to_owned());
    }
    if text.starts_with('/') {
        return Ok(Kind::Local(tidy(text)));
    }
    match text.split_once("://") {
        Some(_) => by_scheme(text),
        None => scp_form(text),
    }
}

fn by_scheme(text: &str) -> Result<Kind, Refusal> {
    let url = Url::parse(text).map_err(|error| format!("it is not a URL: {error}"))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it has a '?' or '#' part; give the repository's plain URL".to_owned());
    }
    match url.scheme() {
        "https" | "http" => http(url),
        "ssh" => ssh(&url),
        "file" => url
            .to_file_path()
            .map(|path| Kind::Local(tidy(&path.to_string_lossy())))
            .map_err(|()| "a file URL names a path of this machine: file:///path".to_owned()),
        other => Err(format!(
            "'{other}' is not supported; use https, ssh, file or an absolute path"
        )),
    }
}

fn http(mut url: Url) -> Result<Kind, Refusal> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "it holds a user or password, which would be stored and shown; put \
             https://user:password@host/path in the file 'credentials' of the data directory \
             (mode 600) and leave them out here"
                .to_owned(),
        );
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it names no host".to_owned());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    if path.is_empty() {
        return Err("it names no repository".to_owned());
    }
    url.set_path(&path);
    Ok(Kind::Http(url))
}

fn ssh(url: &Url) -> Result<Kind, Refusal> {
    if url.password().is_some() {
        return Err(
            "it holds a password; ssh uses keys: add one to this user's agent or ~/.ssh".to_owned(),
        );
    }
    let user = Some(percent_decode(url.username())).filter(|user| !user.is_empty());
    let host = url.host_str().unwrap_or_default();
    let path = percent_decode(url.path());
    // `ssh://host/~anna/repo` is relative to a home, as git has it.
    let path = path
        .strip_prefix('/')
        .filter(|rest| rest.starts_with('~'))
        .unwrap_or(&path);
    ssh_target(user, host, url.port().filter(|port| *port != 22), path)
}

fn scp_form(text: &str) -> Result<Kind, Refusal> {
    let not_a_url = || "it is neither a URL, user@host:path nor an absolute path".to_owned();
    let (login, path) = text.split_once(':').ok_or_else(not_a_url)?;
    if login.contains('/') {
        return Err(not_a_url());
    }
    if path.starts_with(':') {
        return Err(format!(
            "'{login}::' names a helper program, which is never run; use https, ssh or a path"
        ));
    }
    let (user, host) = match login.rsplit_once('@') {
        Some((user, host)) => (Some(user.to_owned()), host),
        None => (None, login),
    };
    ssh_target(user, host, None, path)
}

fn ssh_target(
    user: Option<String>,
    host: &str,
    port: Option<u16>,
    path: &str,
) -> Result<Kind, Refusal> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let harmless = |text: &str, also: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || also.contains(c))
    };
    if !harmless(host, ".-_:") {
        return Err("its host may hold letters, digits and . - _ only".to_owned());
    }
    if user.as_deref().is_some_and(|user| !harmless(user, ".-_+")) {
        return Err("its user may hold letters, digits and . - _ + only".to_owned());
    }
    let path = path.trim_end_matches('/');
    if path.is_empty() || path.starts_with('-') || path.chars().any(is_unprintable) {
        return Err("it names no usable path".to_owned());
    }
    Ok(Kind::Ssh(SshTarget {
        user,
        host: host.to_ascii_lowercase(),
        port,
        path: path.to_owned(),
    }))
}

fn shown(kind: &Kind) -> String {
    match kind {
        Kind::Local(path) => path.display().to_string(),
        Kind::Http(url) => url.to_string(),
        Kind::Ssh(ssh) => {
            let port = ssh.port.map(|port| format!(":{port}")).unwrap_or_default();
            let slash = if ssh.path.starts_with('/') { "" } else { "/" };
            let tilde = if ssh.path.starts_with(['/', '~']) {
                ""
            } else {
                "~/"
            };
            format!("ssh://{}{port}{slash}{tilde}{}", ssh.host, ssh.path)
        }
    }
}

/// One spelling per path: no doubled or trailing slashes. Links are not resolved: the path the
/// operator gave is the one that is read.
fn tidy(path: &str) -> PathBuf {
    let segments: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty() && *segment != ".")
        .collect();
    PathBuf::from(format!("/{}", segments.join("/")))
}

/// Text that may hold a password, without everything up to its last `@` and from its `?` on.
fn redacted(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let rest = rest.rsplit_once('@').map_or(rest, |(_, after)| after);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let clean: String = format!("{scheme}{rest}")
        .chars()
        .filter(|c| !is_unprintable(*c))
        .collect();
    cut(&clean, 200)
}

/// `%41` becomes `A`; what is not a valid escape stays.
pub(super) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = pair
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_as(text: &str) -> String {
        Address::parse(text).expect(text).to_string()
    }

    fn refused(text: &str) -> String {
        Address::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn the_supported_forms_are_read_and_shown_without_their_user() {
        assert_eq!(shown_as("/srv//git/./a.git/"), "/srv/git/a.git");
        assert_eq!(shown_as("file:///srv/a%20b"), "/srv/a b");
        assert_eq!(
            shown_as("HTTPS://Example.com:443/a/b.git/"),
            "https://example.com/a/b.git"
        );
        assert_eq!(
            shown_as("ssh://git@example.com:22/a.git"),
            "ssh://example.com/a.git"
        );
        assert_eq!(
            shown_as("ssh://git@example.com:2222/~anna/a"),
            "ssh://example.com:2222/~anna/a"
        );
        assert_eq!(
            shown_as("git@example.com:a/b.git"),
            "ssh://example.com/~/a/b.git"
        );
    }

    #[test]
    fn the_path_that_the_other_side_gets_is_as_git_has_it() {
        let path = |text: &str| match Address::parse(text).unwrap().kind {
            Kind::Ssh(ssh) => ssh.path,
            other => panic!("{other:?}"),
        };
        assert_eq!(path("git@example.com:a/b.git"), "a/b.git");
        assert_eq!(path("example.com:/a"), "/a");
        assert_eq!(path("ssh://example.com/a%20b"), "/a b");
        assert_eq!(path("ssh://example.com/~anna/a"), "~anna/a");
        assert_eq!(path("ssh://[::1]:2222/a"), "/a");
    }

    #[test]
    fn what_could_run_something_or_leave_the_machine_is_refused() {
        for text in [
            "",
            "-oProxyCommand=id",
            "ext::sh -c id",
            "fd::3",
            "git://example.com/a",
            "ftp://example.com/a",
            "./relative",
            "../up",
            "relative",
            "~/home",
            "https://example.com",
            "https://example.com/a\n",
            "https://example.com/a?token=x",
            "file://example.com/a",
            "ssh://-oProxyCommand=id/a",
            "ssh://host`id`/a",
            "git@-x:a",
            "$(id)@host:a",
            "host:-x",
            "host:",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_is_refused_and_never_repeated() {
        for text in [
            "https://anna:s3cret@example.com/a",
            "https://s3cret@example.com/a",
            "https://anna:s3c?s3cret@example.com/a",
            "https://anna:x/s3cret@example.com/a",
            "ssh://git:s3cret@example.com/a",
            "https://example.com/a?token=s3cret",
            "ftp://anna:s3cret@example.com/a",
        ] {
            let message = refused(text);
            assert!(!message.contains("s3cret"), "{message}");
            assert!(message.contains("example.com/a"), "{message}");
        }
    }

    #[test]
    fn spellings_of_one_remote_share_a_mirror_and_users_do_not() {
        let folder = |text: &str| Address::parse(text).unwrap().folder();
        assert_eq!(
            folder("https://EXAMPLE.com/a/"),
            folder("https://example.com:443/a")
        );
        assert_eq!(folder("/srv/a/"), folder("file:///srv/a"));
        assert_ne!(folder("anna@example.com:a"), folder("bert@example.com:a"));
        assert_ne!(folder("/srv/a"), folder("/srv/b"));
    }
}
