//! The texts of keys: one builder per kind and one parser for all. Used only inside `store`, and by
//! those who name a prefix to watch. Never reads or writes anything.
//!
//! Names hold no `/`, and every prefix ends in one, so a key matches by whole segments:
//! `/deploy/host-1/` is never the start of a key of `host-10`.

use crate::model::endpoint::Endpoint;
use crate::model::env::{SharedVar, VarRef};
use crate::model::job::{JobId, JobKey, Seat};
use crate::model::names::{HostName, ImageName, NameError, NodeName, StackName, Tag, VolumeName};
use crate::model::release::RunId;
use crate::model::spec::Proto;
use crate::model::world::PinKey;

/// Builds and reads keys under an optional prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// `/cluster`
    Cluster,
    /// `/leader`
    Leader,
    /// `/stack/<stack>`
    Stack(StackName),
    /// `/member/<hostname>`
    Member(HostName),
    /// `/request/<stack>/<id>`
    Request(StackName, String),
    /// `/env/<scope>/<VAR>`
    Var(VarRef),
    /// `/env/<scope>/<VAR>/<version>`
    VarValue(SharedVar),
    /// `/image/<stack>/<tag>/<image>`
    Image(StackName, Tag, ImageName),
    /// `/images/<stack>/<tag>/<image>`
    ImageText(StackName, Tag, ImageName),
    /// `/proc/<stack>/<tag>/<node>`
    Proc(StackName, Tag, NodeName),
    /// `/release/<stack>/<tag>`
    Release(StackName, Tag),
    /// `/release/<stack>`
    Pointer(StackName),
    /// `/deploy/<hostname>/<job>`
    Deploy(HostName, JobKey),
    /// `/run/<job>`
    Run(JobKey),
    /// `/fixed/<stack>/<node>/<slot>` or `/fixed/<stack>/<volume>`
    Fixed(PinKey),
    /// `/history/<stack>/<run>`
    History(StackName, RunId),
    /// `/host/<hostname>`
    Host(HostName),
    /// `/state/<hostname>/<job>`
    State(HostName, JobKey),
    /// `/counter/<hostname>/<job>`
    Counter(HostName, JobKey),
    /// `/ports/<stack>/<tag>/<node>/<port>/<proto>/<ip>/<hostPort>/<job id>`
    Port(Endpoint),
    /// `/event/<stack>/<run>-<n>`
    Event(StackName, String),
    /// `/trash/<stack>/<tag>`
    Trash(StackName, Tag),
    /// `/registry/whole`
    WholeCopies,
    /// `/secret/registry/hosts`
    RegistryCredential,
    /// `/certificate/<domain>`
    CertificateNote(String),
    /// `/secret/certificate/<domain>`
    Certificate(String),
    /// `/secret/challenge/<token>`
    Challenge(String),
    /// `/secret/acme/account`
    AcmeAccount,
}

/// A kind of keys, as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Sources of stacks.
    Stack,
    /// Machines people count on.
    Member,
    /// What people asked for.
    Request,
    /// Shared variables: versions, and under them the values.
    Env,
    /// Build records.
    Image,
    /// Pullable references.
    Images,
    /// Container specs.
    Proc,
    /// Releases and pointers.
    Release,
    /// Placements.
    Deploy,
    /// Who answers for a job.
    Run,
    /// Pins.
    Fixed,
    /// Ends of runs.
    History,
    /// Machines that are alive.
    Host,
    /// What hosts saw of jobs.
    State,
    /// Failures in a row.
    Counter,
    /// Endpoints.
    Ports,
    /// Events.
    Event,
    /// Releases thrown away whose bytes are still there.
    Trash,
    /// What is known of the registry's copies.
    Registry,
    /// What is known of certificates that a CA gives.
    Certificate,
    /// What nobody may read but hosts.
    Secret,
}

impl Family {
    fn word(self) -> &'static str {
        match self {
            Self::Stack => "stack",
            Self::Member => "member",
            Self::Request => "request",
            Self::Env => "env",
            Self::Image => "image",
            Self::Images => "images",
            Self::Proc => "proc",
            Self::Release => "release",
            Self::Deploy => "deploy",
            Self::Run => "run",
            Self::Fixed => "fixed",
            Self::History => "history",
            Self::Host => "host",
            Self::State => "state",
            Self::Counter => "counter",
            Self::Ports => "ports",
            Self::Event => "event",
            Self::Trash => "trash",
            Self::Registry => "registry",
            Self::Certificate => "certificate",
            Self::Secret => "secret",
        }
    }
}

/// Why a key cannot be read, and the stack it names as far as that can be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct BadKey {
    /// Why.
    pub reason: String,
    /// The stack whose jobs are to be left alone.
    pub stack: Option<StackName>,
}

impl Keys {
    /// Keys below `prefix`, such as `/viking` (empty for none).
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let inner = prefix.trim_matches('/');
        let prefix = if inner.is_empty() {
            String::new()
        } else {
            format!("/{inner}")
        };
        Self { prefix }
    }

    /// The key's text.
    #[must_use]
    pub fn text(&self, key: &Key) -> String {
        let p = &self.prefix;
        match key {
            Key::Cluster => format!("{p}/cluster"),
            Key::Leader => format!("{p}/leader"),
            Key::Stack(stack) => format!("{p}/stack/{stack}"),
            Key::Member(host) => format!("{p}/member/{host}"),
            Key::Request(stack, id) => format!("{p}/request/{stack}/{id}"),
            Key::Var(var) => format!("{p}/env/{var}"),
            Key::VarValue(var) => format!("{p}/env/{}/{}", var.var(), var.version),
            Key::Image(stack, tag, image) => format!("{p}/image/{stack}/{tag}/{image}"),
            Key::ImageText(stack, tag, image) => format!("{p}/images/{stack}/{tag}/{image}"),
            Key::Proc(stack, tag, node) => format!("{p}/proc/{stack}/{tag}/{node}"),
            Key::Release(stack, tag) => format!("{p}/release/{stack}/{tag}"),
            Key::Pointer(stack) => format!("{p}/release/{stack}"),
            Key::Deploy(host, job) => format!("{p}/deploy/{host}/{job}"),
            Key::Run(job) => format!("{p}/run/{job}"),
            Key::Fixed(PinKey::Seat(seat)) => {
                format!("{p}/fixed/{}/{}/{}", seat.stack, seat.node, seat.slot)
            }
            Key::Fixed(PinKey::Volume(stack, volume)) => format!("{p}/fixed/{stack}/{volume}"),
            Key::History(stack, run) => format!("{p}/history/{stack}/{run}"),
            Key::Host(host) => format!("{p}/host/{host}"),
            Key::State(host, job) => format!("{p}/state/{host}/{job}"),
            Key::Counter(host, job) => format!("{p}/counter/{host}/{job}"),
            Key::Port(e) => format!(
                "{p}/ports/{}/{}/{}/{}/{}/{}/{}/{}",
                e.stack, e.tag, e.node, e.port, e.proto, e.ip, e.host_port, e.job_id
            ),
            Key::Event(stack, id) => format!("{p}/event/{stack}/{id}"),
            Key::Trash(stack, tag) => format!("{p}/trash/{stack}/{tag}"),
            Key::WholeCopies => format!("{p}/registry/whole"),
            Key::RegistryCredential => format!("{p}/secret/registry/hosts"),
            Key::CertificateNote(domain) => format!("{p}/certificate/{domain}"),
            Key::Certificate(domain) => format!("{p}/secret/certificate/{domain}"),
            Key::Challenge(token) => format!("{p}/secret/challenge/{token}"),
            Key::AcmeAccount => format!("{p}/secret/acme/account"),
        }
    }

    /// Start of all keys.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}/", self.prefix)
    }

    /// Start of a kind's keys.
    #[must_use]
    pub fn family(&self, family: Family) -> String {
        format!("{}/{}/", self.prefix, family.word())
    }

    /// Start of a kind's keys of one stack, or of one host for kinds that begin with a host.
    #[must_use]
    pub fn family_of(&self, family: Family, name: &str) -> String {
        format!("{}/{}/{name}/", self.prefix, family.word())
    }

    /// Start of a node's endpoints.
    #[must_use]
    pub fn ports_of(&self, job: &JobKey) -> String {
        let JobKey {
            stack, tag, node, ..
        } = job;
        format!("{}/ports/{stack}/{tag}/{node}/", self.prefix)
    }

    /// The key's first segment, `env` for `/env/…`; empty when it is not under our prefix.
    #[must_use]
    pub fn word<'a>(&self, key: &'a str) -> &'a str {
        let rest = key
            .strip_prefix(&self.prefix)
            .and_then(|rest| rest.strip_prefix('/'));
        rest.and_then(|rest| rest.split('/').next()).unwrap_or("")
    }

    /// Reads a key.
    ///
    /// # Errors
    /// When it is not exactly what one of the builders makes.
    pub fn parse(&self, key: &str) -> Result<Key, BadKey> {
        let rest = key
            .strip_prefix(&self.prefix)
            .and_then(|rest| rest.strip_prefix('/'));
        let segments: Vec<&str> = rest.unwrap_or("").split('/').collect();
        let parsed = parse_segments(&segments).map_err(|error| error.to_string());
        match parsed {
            // What is written in another way (`007`, `+1`, `::0`) is another key.
            Ok(Some(parsed)) if self.text(&parsed) == key => Ok(parsed),
            Ok(_) => Err(bad(&segments, "not a key of this version of viking".into())),
            Err(reason) => Err(bad(&segments, reason)),
        }
    }
}

fn bad(segments: &[&str], reason: String) -> BadKey {
    let at = match segments.first().copied() {
        Some("deploy" | "state" | "counter") => 2,
        Some("stack" | "release" | "proc" | "image" | "images" | "run" | "fixed") => 1,
        Some("request" | "ports" | "history" | "event" | "trash") => 1,
        _ => usize::MAX,
    };
    let stack = segments
        .get(at)
        .and_then(|name| StackName::parse(name).ok());
    BadKey { reason, stack }
}

type Parsed<T> = Result<T, NameError>;

fn parse_segments(segments: &[&str]) -> Parsed<Option<Key>> {
    Ok(Some(match segments {
        ["cluster"] => Key::Cluster,
        ["leader"] => Key::Leader,
        ["stack", stack] => Key::Stack(stack.parse()?),
        ["member", host] => Key::Member(host.parse()?),
        ["request", stack, id] => Key::Request(stack.parse()?, text(id)?),
        ["env", scope, name] => Key::Var(parse_var(scope, name)?),
        ["env", scope, name, version] => {
            Key::VarValue(parse_var(scope, name)?.at(number(version)?))
        }
        ["image", stack, tag, image] => Key::Image(stack.parse()?, tag.parse()?, image.parse()?),
        ["images", stack, tag, image] => {
            Key::ImageText(stack.parse()?, tag.parse()?, image.parse()?)
        }
        ["proc", stack, tag, node] => Key::Proc(stack.parse()?, tag.parse()?, node.parse()?),
        ["release", stack, tag] => Key::Release(stack.parse()?, tag.parse()?),
        ["release", stack] => Key::Pointer(stack.parse()?),
        ["deploy", host, job @ ..] => Key::Deploy(host.parse()?, parse_job(job)?),
        ["run", job @ ..] => Key::Run(parse_job(job)?),
        ["fixed", stack, node, slot] => Key::Fixed(PinKey::Seat(Seat {
            stack: stack.parse()?,
            node: node.parse()?,
            slot: number(slot)?,
        })),
        ["fixed", stack, volume] => {
            Key::Fixed(PinKey::Volume(stack.parse()?, VolumeName::parse(volume)?))
        }
        ["history", stack, run] => Key::History(stack.parse()?, RunId(text(run)?)),
        ["host", host] => Key::Host(host.parse()?),
        ["state", host, job @ ..] => Key::State(host.parse()?, parse_job(job)?),
        ["counter", host, job @ ..] => Key::Counter(host.parse()?, parse_job(job)?),
        ["ports", endpoint @ ..] => Key::Port(parse_endpoint(endpoint)?),
        ["event", stack, id] => Key::Event(stack.parse()?, text(id)?),
        ["trash", stack, tag] => Key::Trash(stack.parse()?, tag.parse()?),
        ["registry", "whole"] => Key::WholeCopies,
        ["secret", "registry", "hosts"] => Key::RegistryCredential,
        ["certificate", domain] => Key::CertificateNote(text(domain)?),
        ["secret", "certificate", domain] => Key::Certificate(text(domain)?),
        ["secret", "challenge", token] => Key::Challenge(text(token)?),
        ["secret", "acme", "account"] => Key::AcmeAccount,
        _ => return Ok(None),
    }))
}

fn odd(kind: &'static str, found: &str, allowed: &'static str) -> NameError {
    NameError {
        kind,
        found: found.chars().take(80).collect(),
        allowed,
    }
}

fn text(segment: &str) -> Parsed<String> {
    if segment.is_empty() {
        return Err(odd("id", segment, "anything but nothing"));
    }
    Ok(segment.to_owned())
}

fn number<T: std::str::FromStr>(segment: &str) -> Parsed<T> {
    segment
        .parse()
        .map_err(|_| odd("number", segment, "decimal digits"))
}

fn parse_var(scope: &str, name: &str) -> Parsed<VarRef> {
    Ok(VarRef {
        scope: scope.parse()?,
        name: name.parse()?,
    })
}

fn parse_job(segments: &[&str]) -> Parsed<JobKey> {
    let [stack, tag, node, slot] = segments else {
        return Err(odd("job", &segments.join("/"), "stack/tag/node/slot"));
    };
    Ok(JobKey {
        stack: stack.parse()?,
        tag: tag.parse()?,
        node: node.parse()?,
        slot: number(slot)?,
    })
}

fn parse_endpoint(segments: &[&str]) -> Parsed<Endpoint> {
    let [stack, tag, node, port, proto, ip, host_port, job_id] = segments else {
        let allowed = "stack/tag/node/port/proto/ip/hostPort/job id";
        return Err(odd("endpoint", &segments.join("/"), allowed));
    };
    Ok(Endpoint {
        stack: stack.parse()?,
        tag: tag.parse()?,
        node: node.parse()?,
        port: number(port)?,
        proto: match *proto {
            "tcp" => Proto::Tcp,
            "udp" => Proto::Udp,
            other => return Err(odd("protocol", other, "tcp or udp")),
        },
        ip: ip
            .parse()
            .map_err(|_| odd("address", ip, "an IP address"))?,
        host_port: number(host_port)?,
        job_id: JobId(text(job_id)?),
    })
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
