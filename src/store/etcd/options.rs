//! Where etcd is and how to get in: addresses, certificates, user. Made by `host` from the
//! operator's flags, read by `etcd` once when it connects. Holds paths, never a secret: those are
//! read into the client's own options, which nobody prints.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::store::{Error, Result};

/// Longest wait for a connection, and once more for its TLS: below the limit of one attempt, so that
/// a machine that is gone is known not to have been asked.
const CONNECT_LIMIT: Duration = Duration::from_millis(800);

/// Tells the kernel to look after a connection that is silent for so long.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Where etcd is and how to get in.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Addresses of its members, `https://host:port` or `http://host:port`.
    pub endpoints: Vec<String>,
    /// File of the authority that signed the members' certificates, in PEM; for https.
    pub ca: Option<PathBuf>,
    /// Files of our own certificate and its key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Our user, and the file of its password.
    pub user: Option<(String, PathBuf)>,
}

impl Options {
    /// What the client needs, with the files read. To be kept out of logs: it holds the secrets.
    pub(super) fn client(&self) -> Result<ConnectOptions> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_LIMIT)
            .with_tcp_keepalive(TCP_KEEP_ALIVE)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if self.endpoints.is_empty() {
            return Err(Error::Refused("no address of etcd".into()));
        }
        if self.endpoints.iter().any(|url| url.starts_with("https:")) {
            options = options.with_tls(self.tls()?);
        }
        if let Some((user, file)) = &self.user {
            let password = read(file, "the password of etcd's user")?;
            let password = password.trim_end_matches(['\r', '\n']);
            if password.is_empty() {
                let file = file.display();
                return Err(Error::Refused(format!(
                    "{file} holds no password of etcd's user"
                )));
            }
            options = options.with_user(user, password);
        }
        Ok(options)
    }

    fn tls(&self) -> Result<TlsOptions> {
        let Some(ca) = &self.ca else {
            return Err(Error::Refused(
                "https to etcd needs the authority that signed its certificate".into(),
            ));
        };
        let mut tls = TlsOptions::new()
            .timeout(CONNECT_LIMIT)
            .ca_certificate(Certificate::from_pem(pem(ca, "CERTIFICATE")?));
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(
                pem(certificate, "CERTIFICATE")?,
                pem(key, "PRIVATE KEY")?,
            ));
        }
        Ok(tls)
    }
}

/// A file that holds at least one block of this kind: swapped files are a common mistake.
fn pem(file: &Path, kind: &str) -> Result<String> {
    let text = read(file, "a file for TLS to etcd")?;
    let begins = |line: &str| line.starts_with("-----BEGIN ") && line.contains(kind);
    if !text.lines().any(begins) {
        let file = file.display();
        return Err(Error::Refused(format!("{file} holds no {kind} in PEM")));
    }
    Ok(text)
}

fn read(file: &Path, what: &str) -> Result<String> {
    std::fs::read_to_string(file)
        .map_err(|error| Error::Refused(format!("{what}, {}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(options: &Options) -> String {
        match options.client() {
            Err(Error::Refused(why)) => why,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("must be refused"),
        }
    }

    #[test]
    fn files_that_are_not_what_they_should_be_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (none, other) = (dir.path().join("none"), dir.path().join("other"));
        std::fs::write(&other, "hello").unwrap();
        let mut options = Options::default();
        assert!(refusal(&options).contains("no address"));
        options.endpoints = vec!["https://127.0.0.1:1".into()];
        assert!(refusal(&options).contains("authority"));
        options.ca = Some(none.clone());
        assert!(refusal(&options).contains("none"));
        options.ca = Some(other.clone());
        assert!(refusal(&options).contains("holds no CERTIFICATE"));
        options.endpoints = vec!["http://127.0.0.1:1".into()];
        options.user = Some(("anna".into(), none));
        assert!(refusal(&options).contains("password"));
    }

    #[test]
    fn a_password_is_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "s3cret\n").unwrap();
        let options = Options {
            endpoints: vec!["http://127.0.0.1:1".into()],
            user: Some(("anna".into(), file)),
            ..Options::default()
        };
        assert!(options.client().is_ok());
        assert!(!format!("{options:?}").contains("s3cret"));
    }
}
