//! `/etc/viking/config.yml`: read strictly into settings that know their place, or refused like a
//! `viking.yml`, with line, column, what was found and what is allowed. Used by the command line,
//! which puts flags and environment above it; never decides which of them wins, and never looks at
//! what a value means: that is the business of the flag of the same meaning.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::model::vikingfile::{
    At, Error, FILE_BYTES_MAX, Field, Fields, Section, WHOLE, key, read_strictly,
};

/// Where the file is when nobody says otherwise.
pub const FILE_DEFAULT: &str = "/etc/viking/config.yml";

/// Most entries of a list: tags of a host, members of an etcd.
const LIST_MAX: usize = 64;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    List,
    Switch,
}

/// A key of the file and the flag of `viking host` that says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The key, its mapping before it: `etcd.endpoints`.
    pub key: &'static str,
    /// The flag, without dashes: `etcd`.
    pub flag: &'static str,
    kind: Kind,
}

const fn text(key: &'static str, flag: &'static str) -> Known {
    let kind = Kind::Text;
    Known { key, flag, kind }
}

const fn list(key: &'static str, flag: &'static str) -> Known {
    let kind = Kind::List;
    Known { key, flag, kind }
}

const fn switch(key: &'static str, flag: &'static str) -> Known {
    let kind = Kind::Switch;
    Known { key, flag, kind }
}

/// Every key, in the order they are printed.
pub const KNOWN: &[Known] = &[
    text("name", "host-name"),
    text("address", "address"),
    list("tags", "tag"),
    text("capacity.cpu", "capacity-cpu"),
    text("capacity.memory", "capacity-memory"),
    text("data_dir", "data-dir"),
    text("api", "api"),
    text("docker", "docker"),
    text("http", "http"),
    text("https", "https"),
    text("certificates", "certificates"),
    text("hsts", "hsts"),
    text("acme", "acme"),
    text("acme_directory", "acme-directory"),
    text("acme_ca", "acme-ca"),
    list("trusted_proxies", "trust-proxy"),
    text("access_log", "access-log"),
    text("registry_port", "registry-port"),
    text("registry_image", "registry-image"),
    text("prefix", "prefix"),
    text("log", "log"),
    list("etcd.endpoints", "etcd"),
    text("etcd.ca", "etcd-ca"),
    text("etcd.cert", "etcd-cert"),
    text("etcd.key", "etcd-key"),
    text("etcd.user", "etcd-user"),
    text("etcd.password_file", "etcd-password-file"),
    switch("etcd.insecure", "insecure-etcd"),
];

static TOP: Section = Section {
    name: WHOLE,
    keys: &[
        key("name", "this host's name")
            .also(&["host_name"])
            .elsewhere(&["hostname", "host"]),
        key("address", "IP address ports of jobs are published on").elsewhere(&["ip"]),
        key("tags", "text or list").elsewhere(&["tag", "labels"]),
        key("capacity", "mapping: cpu and memory").elsewhere(&["resources", "cpu", "memory"]),
        key("data_dir", "folder").elsewhere(&["data", "datadir"]),
        key("api", "ip:port").elsewhere(&["listen"]),
        key("docker", "URL").elsewhere(&["docker_host"]),
        key("http", "ip:port or off").elsewhere(&["router", "port"]),
        key("https", "ip:port or off").elsewhere(&["tls"]),
        key("certificates", "folder").elsewhere(&["certs", "cert"]),
        key("hsts", "time, such as 180d, or off"),
        key("acme", "email address, or off").elsewhere(&["letsencrypt", "email"]),
        key("acme_directory", "URL"),
        key("acme_ca", "file"),
        key("trusted_proxies", "network or list").elsewhere(&["trusted", "proxies"]),
        key("access_log", "off, all or a number").elsewhere(&["access"]),
        key("registry_port", "port").elsewhere(&["registry"]),
        key("registry_image", "image"),
        key("prefix", "text"),
        key("log", "text or json").elsewhere(&["log_format"]),
        key("etcd", "mapping: endpoints and how to reach them").elsewhere(&["join", "store"]),
    ],
};

static CAPACITY: Section = Section {
    name: "capacity",
    keys: &[
        key("cpu", "cores, such as 4").elsewhere(&["cpus", "cores"]),
        key("memory", "bytes, such as 8G").elsewhere(&["mem", "ram"]),
    ],
};

static ETCD: Section = Section {
    name: "etcd",
    keys: &[
        key("endpoints", "list of URLs").elsewhere(&["urls", "url", "endpoint", "hosts"]),
        key("ca", "file").elsewhere(&["cacert", "ca_file"]),
        key("cert", "file").elsewhere(&["cert_file"]),
        key("key", "file").elsewhere(&["key_file"]),
        key("user", "name").elsewhere(&["username"]),
        key("password_file", "file").elsewhere(&["password"]),
        key("insecure", "true or false"),
    ],
};

/// One key that is given, with what it says as the flag would be given it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Which.
    pub known: Known,
    /// One text, or those of a list.
    pub values: Vec<String>,
    at: At,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// It cannot be had.
    #[error("reading {file}")]
    Io {
        /// Its path.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It says something wrong.
    #[error(transparent)]
    Wrong(#[from] Error),
}

/// A file as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigFile {
    path: PathBuf,
    text: String,
    settings: Vec<Setting>,
}

impl ConfigFile {
    /// Reads `path`; none when there is no such file.
    ///
    /// # Errors
    /// When it cannot be read, or the first thing in it that is wrong.
    pub fn read(path: &Path) -> Result<Option<Self>, Unread> {
        let unread = |source| Unread::Io {
            file: path.display().to_string(),
            source,
        };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unread(error)),
        };
        let mut text = Vec::new();
        // One byte more than is allowed is enough to know that it is too long.
        let most = FILE_BYTES_MAX as u64 + 1;
        file.take(most).read_to_end(&mut text).map_err(unread)?;
        Ok(Some(Self::parse(path, &text)?))
    }

    /// Reads `text`, which is called `path` in errors. A file in which nothing is set is fine.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, Error> {
        let name = path.display().to_string();
        let settings = read_strictly(&name, text, &TOP, settings)?.unwrap_or_default();
        Ok(Self {
            path: path.to_owned(),
            text: String::from_utf8_lossy(text).into_owned(),
            settings,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is set, in the order of [`KNOWN`].
    #[must_use]
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// File and line of a setting.
    #[must_use]
    pub fn place(&self, setting: &Setting) -> String {
        format!("{}:{}", self.path.display(), setting.at.line())
    }

    /// An error about a setting: what is wrong with its value, and what would be right if known.
    #[must_use]
    pub fn wrong(&self, setting: &Setting, what: &str, allowed: &[String]) -> Error {
        Error::at(setting.at, format!("{}: {what}", setting.known.key))
            .with_found(&setting.values.join(", "))
            .with_allowed(allowed)
            .in_file(&self.path.display().to_string(), &self.text)
    }
}

fn settings(top: &Fields<'_>) -> Result<Vec<Setting>, Error> {
    let inner = |section: &'static Section| {
        let field = top.get(section.name);
        field.map(|field| Fields::read(section, &field)).transpose()
    };
    let (capacity, etcd) = (inner(&CAPACITY)?, inner(&ETCD)?);
    let mut found = Vec::new();
    for known in KNOWN {
        let field = match known.key.split_once('.') {
            None => top.get(known.key),
            Some(("capacity", key)) => capacity.as_ref().and_then(|fields| fields.get(key)),
            Some((_, key)) => etcd.as_ref().and_then(|fields| fields.get(key)),
        };
        if let Some(field) = field {
            found.push(setting(*known, &field)?);
        }
    }
    Ok(found)
}

fn setting(known: Known, field: &Field<'_>) -> Result<Setting, Error> {
    let values = match known.kind {
        Kind::Text => vec![field.text()?.to_owned()],
        Kind::Switch => vec![field.flag()?.to_string()],
        Kind::List => {
            let items = field.one_or_many(LIST_MAX)?;
            let text = |item: &Field<'_>| item.text().map(ToOwned::to_owned);
            items.iter().map(text).collect::<Result<_, _>>()?
        }
    };
    let at = field.at;
    Ok(Setting { known, values, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigFile, Error> {
        ConfigFile::parse(Path::new("config.yml"), text.as_bytes())
    }

    fn key_names(section: &Section) -> Vec<&'static str> {
        section.keys.iter().map(|key| key.name).collect()
    }

    #[test]
    fn every_key_of_the_tables_is_known_and_none_besides() {
        let mut written: Vec<String> = Vec::new();
        for name in key_names(&TOP) {
            match name {
                "capacity" | "etcd" => {
                    let inner = if name == "etcd" { &ETCD } else { &CAPACITY };
                    written.extend(key_names(inner).iter().map(|key| format!("{name}.{key}")));
                }
                _ => written.push(name.to_owned()),
            }
        }
        let known: Vec<&str> = KNOWN.iter().map(|known| known.key).collect();
        assert_eq!(written, known);
    }

    #[test]
    fn settings_know_their_line_and_what_they_say() {
        let file = parse(
            "name: anna\ntags: [ssd, eu]\ncapacity: {cpu: 4}\netcd:\n  endpoints: https://a:2379\n  insecure: no\n",
        );
        let file = file.unwrap();
        let said: Vec<(&str, String, String)> = file
            .settings()
            .iter()
            .map(|s| (s.known.flag, s.values.join(" "), file.place(s)))
            .collect();
        let want = [
            ("host-name", "anna", "config.yml:1"),
            ("tag", "ssd eu", "config.yml:2"),
            ("capacity-cpu", "4", "config.yml:3"),
            ("etcd", "https://a:2379", "config.yml:5"),
            ("insecure-etcd", "false", "config.yml:6"),
        ];
        let want = want.map(|(flag, value, place)| (flag, value.to_owned(), place.to_owned()));
        assert_eq!(said, want);
    }

    #[test]
    fn a_file_in_which_nothing_is_set_is_fine() {
        for text in ["", "# name: a\n", "\n\n", "~\n"] {
            assert_eq!(parse(text).unwrap().settings(), [], "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_what_is_right() {
        for (text, line, says, nearest) in [
            ("nmae: a\n", 1, "unknown key \"nmae\"", Some("name")),
            ("a: 1\nname: b\n", 1, "unknown key \"a\"", None),
            ("name: a\nname: b\n", 2, "given twice", None),
            ("name: a\nhost_name: b\n", 2, "means the same", None),
            (
                "etcd:\n  password: x\n",
                2,
                "unknown key",
                Some("password_file"),
            ),
            ("etcd: [a]\n", 1, "etcd: a mapping is needed", None),
            ("address: [a]\n", 1, "a text is needed", None),
            (
                "etcd: {insecure: maybe}\n",
                1,
                "neither true nor false",
                None,
            ),
            ("tags: [a, {b: c}]\n", 1, "a text is needed", None),
            ("name: \n", 1, "a text is needed, this is nothing", None),
            ("etcd:\n\tca: c\n", 2, "tab", None),
            ("- name\n", 1, "a mapping is needed", None),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line(), line, "{text:?}: {error}");
            assert!(error.message().contains(says), "{text:?}: {error}");
            assert_eq!(error.nearest(), nearest, "{text:?}: {error}");
            assert!(error.to_string().starts_with("config.yml:"), "{error}");
        }
    }

    #[test]
    fn a_file_without_end_is_refused_after_its_first_bytes() {
        let error = ConfigFile::read(Path::new("/dev/zero")).unwrap_err();
        assert!(error.to_string().contains("bytes"), "{error}");
        assert!(ConfigFile::read(Path::new("/dev/null")).unwrap().is_some());
        assert!(
            ConfigFile::read(Path::new("/nonexistent"))
                .unwrap()
                .is_none()
        );
    }
}
