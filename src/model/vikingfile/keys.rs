//! Every key of `viking.yml`, once: the readers, the error messages and the reference in the
//! documentation share this table. Only data and look-ups.

use super::error::nearest;

/// One key of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Other accepted spellings.
    pub aliases: &'static [&'static str],
    /// What it takes, for people.
    pub takes: &'static str,
    /// Known, but refused as "not supported yet".
    pub later: bool,
    /// What it is called elsewhere: never accepted, only used for "did you mean".
    pub elsewhere: &'static [&'static str],
}

/// The keys that one kind of mapping takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Where the mapping is: `deploy.<node>`, …
    pub name: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

impl Section {
    /// The key that `word` is a spelling of.
    #[must_use]
    pub fn find(&self, word: &str) -> Option<&'static Key> {
        self.keys
            .iter()
            .find(|key| key.name == word || key.aliases.contains(&word))
    }

    /// The keys as an error message lists them.
    pub(super) fn allowed(&self) -> Vec<String> {
        let usable = self.keys.iter().filter(|key| !key.later);
        usable.map(Key::shown).collect()
    }

    /// The key nearest to an unknown `word`, by spelling or because others call it so.
    pub(super) fn nearest(&self, word: &str) -> Option<&'static str> {
        let usable = || self.keys.iter().filter(|key| !key.later);
        let spelt = usable().flat_map(|key| key.aliases.iter().copied().chain([key.name]));
        let lower = word.to_lowercase();
        usable()
            .find(|key| key.elsewhere.contains(&lower.as_str()))
            .map(|key| key.name)
            .or_else(|| nearest(word, spelt))
    }
}

impl Key {
    fn shown(&self) -> String {
        if self.aliases.is_empty() {
            self.name.to_owned()
        } else {
            format!("{} (or {})", self.name, self.aliases.join(", "))
        }
    }

    pub(crate) const fn also(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    const fn not_yet(self) -> Self {
        Self {
            later: true,
            ..self
        }
    }

    pub(crate) const fn elsewhere(self, elsewhere: &'static [&'static str]) -> Self {
        Self { elsewhere, ..self }
    }
}

/// A key that is spelt in one way.
pub(crate) const fn key(name: &'static str, takes: &'static str) -> Key {
    Key {
        name,
        aliases: &[],
        takes,
        later: false,
        elsewhere: &[],
    }
}

/// All sections with all keys, in the order the documentation shows them.
#[must_use]
pub fn known_keys() -> &'static [&'static Section] {
    &SECTIONS
}

static SECTIONS: [&Section; 9] = [
    &TOP, &VIKING, &BUILD, &CONTAINER, &WEBSITE, &HEALTH, &RESOURCES, &STOP, &DOMAIN,
];

/// What errors call the mapping that is a whole file.
pub(crate) const WHOLE: &str = "the file";

pub(super) static TOP: Section = Section {
    name: WHOLE,
    keys: &[
        key("viking", "name of the stack, and what it requires"),
        key("build", "map of image name to Dockerfile").elsewhere(&["images"]),
        key("deploy", "map of node name to node").elsewhere(&["services", "nodes", "jobs"]),
    ],
};

pub(super) static VIKING: Section = Section {
    name: "viking",
    keys: &[
        key("name", "the stack's name").elsewhere(&["stack"]),
        key("comment", "a text for people").elsewhere(&["description"]),
        key("require", "text or list: stacks that must be live first").elsewhere(&[
            "requires",
            "depends_on",
            "needs",
        ]),
    ],
};

pub(super) static BUILD: Section = Section {
    name: "build.<image>",
    keys: &[
        key(
            "dockerfile",
            "path in the context, or the Dockerfile's text",
        )
        .elsewhere(&["file", "dockerfile_inline"]),
        key("context", "folder beside viking.yml").elsewhere(&["path", "dir"]),
        key("target", "stage of a multi-stage Dockerfile").elsewhere(&["stage"]),
        key("args", "map of build arguments").elsewhere(&["build_args", "arg"]),
        key("platform", "os/architecture").elsewhere(&["platforms"]),
        key("secrets", "build secrets").not_yet(),
    ],
};

const TYPE: Key = key("type", "website");
const ROOT: Key = key("document_root", "folder of a static website").elsewhere(&["root", "www"]);
const DOMAINS: Key = key("domains", "list of domain, or domain: port")
    .also(&["route"])
    .elsewhere(&["domain", "host", "hosts", "hostname"]);

pub(super) static CONTAINER: Section = Section {
    name: "deploy.<node>",
    keys: &[
        key("image", "viking:<stack>/<image>, or any image reference"),
        key("run", "text or list")
            .also(&["command"])
            .elsewhere(&["cmd", "start", "exec"]),
        key("entrypoint", "text or list"),
        key("cwd", "absolute path").elsewhere(&["working_dir", "workdir", "dir"]),
        key("user", "name or id, with :group"),
        key(
            "env",
            "map of variable to text, or to _<scope>:<VAR>, a shared variable",
        )
        .elsewhere(&["environment", "vars"]),
        key("expose", "list of port, port/udp or host:port").elsewhere(&["port", "ports"]),
        key("volume", "list of /path or name:/path").elsewhere(&["volumes", "mount", "mounts"]),
        key("scale", "0 to 1000").elsewhere(&["replicas", "count", "instances"]),
        key("spread", "required or preferred"),
        DOMAINS,
        TYPE,
        ROOT,
        key("service", "true or false").also(&["static"]),
        key("fixed", "true or false").elsewhere(&["pin", "pinned"]),
        key("filter", "text or list: tag, !tag or tag:flexible").elsewhere(&[
            "constraint",
            "constraints",
            "placement",
        ]),
        key("link", "text or list: node or stack/node").elsewhere(&[
            "links",
            "depends_on",
            "depends",
        ]),
        key("health", "mapping: http, tcp or cmd, and times").elsewhere(&[
            "healthcheck",
            "check",
            "checks",
        ]),
        key("resources", "mapping: cpu and memory").elsewhere(&["limits", "memory", "cpu"]),
        key("stop", "mapping: signal, timeout and drain").elsewhere(&[
            "stop_signal",
            "stop_timeout",
            "stop_grace_period",
        ]),
        key(
            "before_release",
            "text or list: run once on the new image before the release starts",
        )
        .elsewhere(&["migrate", "release", "release_command", "pre_deploy"]),
    ],
};

pub(super) static WEBSITE: Section = Section {
    name: "deploy.<website>",
    keys: &[TYPE, ROOT, DOMAINS],
};

pub(super) static HEALTH: Section = Section {
    name: "deploy.<node>.health",
    keys: &[
        key("http", "path").elsewhere(&["path", "url", "get"]),
        key("port", "container port of the http check"),
        key("status", "the only http status that counts"),
        key("tcp", "container port"),
        key("cmd", "list").elsewhere(&["test", "command", "run", "exec"]),
        key("interval", "duration"),
        key("timeout", "duration"),
        key("start_period", "duration").elsewhere(&["grace", "start_interval"]),
        key("retries", "1 to 1000"),
    ],
};

pub(super) static RESOURCES: Section = Section {
    name: "deploy.<node>.resources",
    keys: &[
        key("cpu", "cores, such as 0.5").elsewhere(&["cpus", "cores"]),
        key("memory", "bytes, such as 256M").elsewhere(&["mem", "ram"]),
    ],
};

pub(super) static STOP: Section = Section {
    name: "deploy.<node>.stop",
    keys: &[
        key("signal", "signal name"),
        key("timeout", "duration").elsewhere(&["grace", "grace_period"]),
        key("drain", "duration"),
    ],
};

pub(super) static DOMAIN: Section = Section {
    name: "deploy.<node>.domains[]",
    keys: &[
        key("domain", "host name").elsewhere(&["name", "host"]),
        key("port", "container port"),
    ],
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_spelling_means_two_keys_of_a_section() {
        for section in known_keys() {
            let mut seen = BTreeSet::new();
            for key in section.keys {
                for word in key.aliases.iter().chain([&key.name]) {
                    assert!(seen.insert(*word), "{} in {}", word, section.name);
                }
            }
            for word in section.keys.iter().flat_map(|key| key.elsewhere) {
                assert!(section.find(word).is_none(), "{word} in {}", section.name);
            }
        }
    }

    #[test]
    fn words_of_other_systems_find_ours() {
        assert_eq!(CONTAINER.nearest("depends_on"), Some("link"));
        assert_eq!(CONTAINER.nearest("Ports"), Some("expose"));
        assert_eq!(CONTAINER.nearest("comand"), Some("command"));
        assert_eq!(CONTAINER.nearest("privileged"), None);
    }
}
