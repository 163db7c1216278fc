//! Names that are checked once, when they are made, so that no key, path or argument built from
//! them can be anything but what it looks like. Used by every module; never does I/O.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name, in bytes: the limit of a DNS label, so that every name can be part of a host name.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a valid {kind}: {allowed}")]
pub struct NameError {
    /// What was to be named.
    pub kind: &'static str,
    /// The text, cut to a printable length.
    pub found: String,
    /// What is allowed, as a sentence for people.
    pub allowed: &'static str,
}

fn plain_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.len() <= NAME_BYTES_MAX
        && bytes.first().is_some_and(alnum)
        && bytes.iter().all(|b| alnum(b) || *b == b'-' || *b == b'_')
}

fn host_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.len() <= 253
        && bytes.first().is_some_and(alnum)
        && bytes.iter().all(|b| alnum(b) || *b == b'-' || *b == b'.')
        && !text.contains("..")
}

/// How the name of a job that runs before a node ends. Names in `viking.yml` hold no dot.
const BEFORE: &str = ".before";

/// One of `viking.yml`, or the job that runs before it.
fn node_name(text: &str) -> bool {
    plain_name(text.strip_suffix(BEFORE).unwrap_or(text))
}

/// How the image of a website's files is called after its node. Names in `viking.yml` hold no dot.
const SITE: &str = ".site";

/// One of `viking.yml`, or the files of a website.
fn image_name(text: &str) -> bool {
    plain_name(text.strip_suffix(SITE).unwrap_or(text))
}

fn tag_name(text: &str) -> bool {
    text == Tag::STATIC || plain_name(text)
}

/// Longest name of a shared variable, in bytes: it is part of keys and of what people are told.
const VARIABLE_BYTES_MAX: usize = 128;

fn variable_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let first = |b: &u8| b.is_ascii_alphabetic() || *b == b'_';
    let rest = |b: &u8| b.is_ascii_alphanumeric() || b"_.-".contains(b);
    bytes.len() <= VARIABLE_BYTES_MAX && bytes.first().is_some_and(first) && bytes.iter().all(rest)
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident, $allowed:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and keeps it.
            ///
            /// # Errors
            /// Says what was found and what is allowed.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                if $check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { kind: $kind, found: cut(text), allowed: $allowed })
                }
            }

            /// The checked text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                // Most names that are compared come from one place and are one text.
                if Arc::ptr_eq(&self.0, &other.0) {
                    return Ordering::Equal;
                }
                self.0.cmp(&other.0)
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// One `viking.yml` in one repository.
    StackName, "stack name", plain_name,
    "1 to 63 of a-z, 0-9, '-' and '_', starting with a letter or digit"
);
name_type!(
    /// One entry under `deploy:`, or its job that runs before a release (`<node>.before`). Not a machine.
    NodeName, "node name", node_name,
    "1 to 63 of a-z, 0-9, '-' and '_', starting with a letter or digit"
);
name_type!(
    /// One entry under `build:`, or the files of a website (`<node>.site`).
    ImageName, "image name", image_name,
    "1 to 63 of a-z, 0-9, '-' and '_', starting with a letter or digit"
);
name_type!(
    /// The name before the colon of `volume: [name:/path]`.
    VolumeName, "volume name", plain_name,
    "1 to 63 of a-z, 0-9, '-' and '_', starting with a letter or digit"
);
name_type!(
    /// A machine that runs `viking host`.
    HostName, "host name", host_name,
    "1 to 253 of a-z, 0-9, '-' and '.', starting with a letter or digit"
);
name_type!(
    /// The name before the colon of `_scope:VAR`: what shared variables belong to.
    ScopeName, "scope", plain_name,
    "1 to 63 of a-z, 0-9, '-' and '_', starting with a letter or digit"
);
name_type!(
    /// The name of a shared variable in its scope.
    VarName, "name of a variable", variable_name,
    "1 to 128 letters, digits, '_', '.' and '-', starting with a letter or '_'"
);
name_type!(
    /// Names a release: the first 12 hex digits of its commit, `-2`, `-3` for more releases of the
    /// same commit, or `static` for what services run.
    Tag, "tag", tag_name,
    "the first 12 hex digits of a commit, with '-2', '-3' for later releases of it, or 'static'"
);

/// Hex digits of the commit that a tag shows.
pub const TAG_COMMIT_DIGITS: usize = 12;

impl Tag {
    /// The tag under which services run: a push never changes it.
    pub const STATIC: &'static str = "static";

    /// The tag that services run under.
    #[must_use]
    pub fn of_services() -> Self {
        Self(Self::STATIC.into())
    }

    /// The tag of the `nth` release (1-based) of a commit.
    ///
    /// # Errors
    /// When `commit` is not at least 12 lower-case hex digits.
    pub fn of_commit(commit: &str, nth: u32) -> Result<Self, NameError> {
        let head = commit.get(..TAG_COMMIT_DIGITS).filter(|h| {
            h.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
        let Some(head) = head else {
            return Err(NameError {
                kind: "commit id",
                found: cut(commit),
                allowed: "40 hex digits",
            });
        };
        Self::parse(&if nth <= 1 {
            head.to_owned()
        } else {
            format!("{head}-{nth}")
        })
    }

    /// Whether this is the tag services run under.
    #[must_use]
    pub fn is_static(&self) -> bool {
        &*self.0 == Self::STATIC
    }
}

/// The stack viking runs for itself (the registry); no repository may take this name.
pub const CORE_STACK: &str = "core";

/// The node of the built-in stack that holds images.
pub const REGISTRY_NODE: &str = "registry";

impl StackName {
    /// The built-in stack.
    #[must_use]
    pub fn core() -> Self {
        Self(CORE_STACK.into())
    }
}

impl NodeName {
    /// The registry's node in the built-in stack.
    #[must_use]
    pub fn registry() -> Self {
        Self(REGISTRY_NODE.into())
    }

    /// A name as `viking.yml` may give it.
    ///
    /// # Errors
    /// Says what was found and what is allowed.
    pub fn declared(text: &str) -> Result<Self, NameError> {
        let found = Self::parse(text)?;
        if found.is_before() {
            return Err(NameError {
                kind: "node name",
                found: cut(text),
                allowed: "it is what viking calls a node's before_release",
            });
        }
        Ok(found)
    }

    /// The job that runs before this node when a release changes it.
    #[must_use]
    pub fn before(&self) -> Self {
        Self(format!("{}{BEFORE}", self.0).into())
    }

    /// Whether this is a job that runs before a node: once, to its end.
    #[must_use]
    pub fn is_before(&self) -> bool {
        self.0.ends_with(BEFORE)
    }

    /// The node that a job runs before.
    #[must_use]
    pub fn runs_before(&self) -> Option<Self> {
        Some(Self(self.0.strip_suffix(BEFORE)?.into()))
    }
}

impl ImageName {
    /// The files of a website. No entry of `build:` can have that name.
    #[must_use]
    pub fn of_site(node: &NodeName) -> Self {
        Self(format!("{node}{SITE}").into())
    }

    /// The website whose files these are, if they are.
    #[must_use]
    pub fn site(&self) -> Option<NodeName> {
        Some(NodeName(self.0.strip_suffix(SITE)?.into()))
    }
}

/// What people call jobs within a stack: `node` or `node.slot`, as its two parts.
#[must_use]
pub fn node_and_slot(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once('.') {
        Some((node, slot)) if !text.ends_with(BEFORE) => (node, Some(slot)),
        _ => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_place_are_refused() {
        for bad in [
            "",
            "/",
            "..",
            "a/b",
            "a.b",
            "-x",
            "A",
            "é",
            "a b",
            "$(x)",
            "a\n",
            &"x".repeat(64),
        ] {
            assert!(StackName::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "0", "ragnar", "a-b_c", &"x".repeat(63)] {
            assert!(StackName::parse(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_variable_is_named_as_programs_know_it_and_stays_one_segment() {
        for good in ["A", "_a", "DB_URL", "a.b-c", &"x".repeat(128)] {
            assert!(VarName::parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "..",
            ".a",
            "-a",
            "1A",
            "a/b",
            "a=b",
            "a b",
            "é",
            "a\n",
            &"x".repeat(129),
        ] {
            assert!(VarName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_job_before_a_node_has_a_name_that_no_file_can_give() {
        let web = NodeName::declared("web").unwrap();
        let before = NodeName::parse("web.before").unwrap();
        assert_eq!(web.before(), before);
        assert!(before.is_before() && before.runs_before() == Some(web.clone()));
        assert!(!web.is_before() && web.runs_before().is_none());
        for bad in ["web.before", ".before", "web.before.before", "web.after"] {
            assert!(NodeName::declared(bad).is_err(), "{bad:?}");
        }
        assert!(
            NodeName::parse("web.before.before").is_err() && NodeName::parse(".before").is_err()
        );
    }

    #[test]
    fn a_slot_comes_after_the_last_dot_of_what_people_say() {
        assert_eq!(node_and_slot("web"), ("web", None));
        assert_eq!(node_and_slot("web.2"), ("web", Some("2")));
        assert_eq!(node_and_slot("web."), ("web", Some("")));
        assert_eq!(node_and_slot("web.before"), ("web.before", None));
        assert_eq!(node_and_slot("web.before.0"), ("web.before", Some("0")));
    }

    #[test]
    fn a_tag_shows_twelve_digits_and_counts_releases() {
        let commit = "a1b2c3d4e5f60718293a4b5c6d7e8f9012345678";
        assert_eq!(Tag::of_commit(commit, 1).unwrap().as_str(), "a1b2c3d4e5f6");
        assert_eq!(
            Tag::of_commit(commit, 3).unwrap().as_str(),
            "a1b2c3d4e5f6-3"
        );
        assert!(Tag::of_commit("abc", 1).is_err());
        assert!(Tag::of_commit("A1B2C3D4E5F60718", 1).is_err());
    }
}
