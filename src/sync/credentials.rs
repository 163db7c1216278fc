//! User names and passwords for https remotes, from the file `credentials` in the data directory:
//! one `https://user:password@host[:port][/path-prefix]` a line, as git's own credential store
//! writes them. Read again for each connection, so an edit needs no restart. It never writes, and
//! what it holds is never printed.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use url::Url;

use super::address::percent_decode;

/// Longest file read; thousands of lines fit.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// Permission bits of group and others.
const OTHERS: u32 = 0o077;

/// Where credentials are kept.
#[derive(Debug, Clone)]
pub(super) struct CredentialFile(pub(super) PathBuf);

/// What opens one remote.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credential {
    user: String,
    password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

impl Credential {
    /// Value of the `Authorization` header.
    pub(super) fn basic(&self) -> String {
        let pair = format!("{}:{}", self.user, self.password);
        format!("Basic {}", base64(pair.as_bytes()))
    }
}

impl CredentialFile {
    /// The credential for `url`: same host and port, longest matching path. `Err` says in words
    /// why the file cannot be used.
    pub(super) fn find(&self, url: &Url) -> Result<Option<Credential>, String> {
        if url.scheme() != "https" {
            return Ok(None);
        }
        let Some(text) = self.read()? else {
            return Ok(None);
        };
        Ok(best(&text, url))
    }

    fn read(&self) -> Result<Option<String>, String> {
        let shown = self.0.display();
        let file = match std::fs::File::open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{shown} cannot be read: {error}")),
        };
        let meta = file
            .metadata()
            .map_err(|error| format!("{shown} cannot be read: {error}"))?;
        let mode = meta.permissions().mode() & 0o777;
        if mode & OTHERS != 0 {
            return Err(format!(
                "{shown} can be read by others (mode {mode:o}), so it is not used; run chmod 600 on it"
            ));
        }
        let mut text = String::new();
        file.take(FILE_MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| format!("{shown} cannot be read: {error}"))?;
        Ok(Some(text))
    }
}

fn best(text: &str, url: &Url) -> Option<Credential> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| Url::parse(line).ok())
        .filter(|entry| covers(entry, url))
        .max_by_key(|entry| entry.path().len())
        .map(|entry| Credential {
            user: percent_decode(entry.username()),
            password: percent_decode(entry.password().unwrap_or_default()),
        })
}

/// Whether a line is meant for `url`; paths compare by whole segments.
fn covers(entry: &Url, url: &Url) -> bool {
    let prefix = entry.path().trim_end_matches('/');
    let below = url
        .path()
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest.starts_with('.'));
    entry.scheme() == "https"
        && !entry.username().is_empty()
        && entry.host_str() == url.host_str()
        && entry.port_or_known_default() == url.port_or_known_default()
        && below
}

/// The standard alphabet with padding: all that one header needs.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at)) & 63;
            let letter = ALPHABET[index as usize];
            out.push(if at <= chunk.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, url: &str) -> Option<String> {
        best(text, &Url::parse(url).unwrap()).map(|c| format!("{}:{}", c.user, c.password))
    }

    #[test]
    fn base64_is_the_standard_one() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("anna:s3cret?>", "YW5uYTpzM2NyZXQ/Pg=="),
        ];
        for (plain, coded) in cases {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn the_longest_matching_line_wins_and_other_hosts_get_nothing() {
        let text = "# mine\nhttps://a:1@example.com\nhttps://b:p%40ss@example.com/team\n\
                    https://c:3@example.com:8443/\nhttp://d:4@plain.example.com\nnonsense\n";
        let at = |url| found(text, url);
        assert_eq!(at("https://example.com/x").as_deref(), Some("a:1"));
        assert_eq!(at("https://example.com/team/x").as_deref(), Some("b:p@ss"));
        assert_eq!(at("https://example.com/teams/x").as_deref(), Some("a:1"));
        assert_eq!(at("https://example.com:8443/x").as_deref(), Some("c:3"));
        assert_eq!(at("https://example.org/x"), None);
        assert_eq!(at("https://sub.example.com/x"), None);
        assert_eq!(at("http://plain.example.com/x"), None);
    }

    #[test]
    fn a_file_others_can_read_is_not_used_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let file = CredentialFile(path.clone());
        let url = Url::parse("https://example.com/x").unwrap();
        assert_eq!(file.find(&url), Ok(None));
        std::fs::write(&path, "https://a:s3cret@example.com\n").unwrap();
        let mode =
            |bits| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
        mode(0o644);
        let why = file.find(&url).unwrap_err();
        assert!(why.contains("mode 644") && !why.contains("s3cret"), "{why}");
        mode(0o600);
        let credential = file.find(&url).unwrap().unwrap();
        assert_eq!(credential.basic(), "Basic YTpzM2NyZXQ=");
        assert!(!format!("{credential:?}").contains("s3cret"));
    }
}
