//! What the rules of placement said of a host, as numbers; put into words when somebody reads them.
//! Made by `schedule`, kept with a placement by `store`, shown by the API and the CLI.

use std::cmp::{Ordering, Reverse};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::names::HostName;

/// What the rules said of one host for one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The host.
    pub host: HostName,
    /// What they said.
    #[serde(flatten)]
    pub ruling: Ruling,
}

impl Verdict {
    /// Whether the host may run the job.
    #[must_use]
    pub fn fits(&self) -> bool {
        matches!(
            self.ruling,
            Ruling::Fits(_) | Ruling::Told { fits: true, .. }
        )
    }
}

/// The first rule that drops a host, or how it stands among those that no rule drops.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum Ruling {
    /// No rule drops it.
    Fits(Standing),
    /// The job belongs to another host, or to several, which people must solve.
    Pinned {
        /// Where it belongs, and why.
        to: Vec<Home>,
    },
    /// Its lease has ended.
    NotSeen,
    /// People said that it takes nothing new.
    Cordoned,
    /// It gives its jobs away.
    Draining,
    /// Its Docker does not answer.
    EngineDown,
    /// It has not the tag.
    LacksTag {
        /// Which.
        tag: String,
    },
    /// It has the tag.
    ForbiddenTag {
        /// Which.
        tag: String,
    },
    /// It has copies already, and `spread: required`.
    Spread {
        /// Of the same node and tag.
        copies: u32,
        /// The node.
        node: String,
    },
    /// A fixed port is another's.
    Port {
        /// Which.
        port: u16,
        /// Whose, as people name it.
        owner: String,
    },
    /// It has not enough left.
    NoRoom {
        /// Of what.
        of: Scarce,
        /// What the job asks for.
        asks: u64,
        /// What is given away.
        reserved: u64,
        /// What there is.
        capacity: u64,
    },
    /// What another version of viking wrote down, in its words.
    #[serde(untagged)]
    Told {
        /// Whether the host might run the job.
        #[serde(default, skip_serializing)]
        fits: bool,
        /// Why.
        #[serde(default, skip_serializing)]
        reason: String,
    },
}

/// What there may be too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scarce {
    /// Thousandths of a core.
    Cpu,
    /// Bytes.
    Memory,
}

/// A host that a job belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Home {
    /// Which.
    pub host: HostName,
    /// Why, in words.
    pub why: String,
}

/// How a host that fits stands among those that do. The smallest wins; names break ties.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// Failures of the node's specs there lately.
    #[serde(skip_serializing_if = "is_none")]
    pub failures: u32,
    /// Copies of the same node and tag: those that a release replaces are gone soon, and must not
    /// leave a gap where they are.
    #[serde(skip_serializing_if = "is_none")]
    pub copies: u32,
    /// Tags of it that are liked.
    #[serde(skip_serializing_if = "is_none")]
    pub preferred: u32,
    /// Reserved share of the scarcer of cpu and memory, in millionths.
    pub reserved_ppm: u64,
    /// Jobs.
    pub jobs: u32,
    /// Whether it has run the image.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub image: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields in by reference"
)]
fn is_none(count: &u32) -> bool {
    *count == 0
}

impl Standing {
    /// The order of §7: where it has not been failing, where there are fewest copies, where most
    /// liked tags are, the emptiest, where its image is.
    fn order(&self) -> impl Ord + use<> {
        let emptiest = (self.reserved_ppm, self.jobs);
        (
            self.failures,
            self.copies,
            Reverse(self.preferred),
            emptiest,
            Reverse(self.image),
        )
    }
}

impl Standing {
    /// Why this one comes before another one that fits, in words: the first thing that differs.
    #[must_use]
    pub fn before(&self, other: &Self) -> String {
        let count = |what: &str, here: u32, there: u32| format!("{what} ({here}, there {there})");
        if self.failures != other.failures {
            return count("fewer failures of it", self.failures, other.failures);
        }
        if self.copies != other.copies {
            return count("fewer copies of it", self.copies, other.copies);
        }
        if self.preferred != other.preferred {
            return count("more of the tags it likes", self.preferred, other.preferred);
        }
        if self.reserved_ppm != other.reserved_ppm {
            let percent = |ppm: u64| format!("{}.{:02} %", ppm / 10_000, ppm % 10_000 / 100);
            let (here, there) = (percent(self.reserved_ppm), percent(other.reserved_ppm));
            return format!("less is reserved ({here}, there {there})");
        }
        if self.jobs != other.jobs {
            return count("fewer jobs", self.jobs, other.jobs);
        }
        if self.image != other.image {
            return "its image is there already".to_owned();
        }
        "its name comes first, all else being equal".to_owned()
    }
}

impl Ord for Standing {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Standing {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fits: {} failures of it here, {} copies, {} preferred tags, {}% reserved, {} jobs",
            self.failures,
            self.copies,
            self.preferred,
            self.reserved_ppm / 10_000,
            self.jobs
        )?;
        if self.image {
            f.write_str(", has its image")?;
        }
        Ok(())
    }
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fits(standing) => standing.fmt(f),
            Self::Pinned { to } => match &to[..] {
                [Home { host, why }] => write!(f, "pinned to {host}: {why}"),
                several => {
                    f.write_str("pinned")?;
                    for (n, Home { host, why }) in several.iter().enumerate() {
                        let and = if n == 0 { "" } else { " and" };
                        write!(f, "{and} to {host} ({why})")?;
                    }
                    Ok(())
                }
            },
            Self::Told { reason, .. } => f.write_str(reason),
            Self::NotSeen => f.write_str("not seen: its lease has ended"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::Draining => f.write_str("draining"),
            Self::EngineDown => f.write_str("its Docker does not answer"),
            Self::LacksTag { tag } => write!(f, "lacks tag {tag}"),
            Self::ForbiddenTag { tag } => write!(f, "has forbidden tag {tag}"),
            Self::Spread { copies, node } => {
                write!(f, "has {copies} of {node} and spread is required")
            }
            Self::Port { port, owner } => write!(f, "port {port} is held by {owner}"),
            Self::NoRoom {
                of,
                asks,
                reserved,
                capacity,
            } => {
                let (what, unit) = match of {
                    Scarce::Cpu => ("cpu", "m"),
                    Scarce::Memory => ("memory", "B"),
                };
                write!(
                    f,
                    "no room: {what} asks {asks}{unit}, reserved {reserved}{unit} of {capacity}{unit}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_kept_as_numbers_and_those_of_other_versions_in_their_words() {
        let read = |text| serde_json::from_str::<Verdict>(text).unwrap();
        let full = Verdict {
            host: "h1".parse().unwrap(),
            ruling: Ruling::NoRoom {
                of: Scarce::Cpu,
                asks: 500,
                reserved: 800,
                capacity: 1000,
            },
        };
        let text = serde_json::to_string(&full).unwrap();
        assert_eq!(
            text,
            r#"{"host":"h1","rule":"no_room","of":"cpu","asks":500,"reserved":800,"capacity":1000}"#
        );
        assert_eq!(read(&text), full);
        for (text, fits, words) in [
            (
                r#"{"host":"h1","fits":true,"reason":"fits: 0 jobs"}"#,
                true,
                "fits: 0 jobs",
            ),
            (
                r#"{"host":"h1","rule":"moon","reason":"full"}"#,
                false,
                "full",
            ),
        ] {
            let old = read(text);
            assert_eq!((old.fits(), &*old.ruling.to_string()), (fits, words));
        }
    }
}
