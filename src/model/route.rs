//! The routing table of the front door: which domain leads to which node, and which of its copies may
//! be asked. One immutable value, built whole from what was seen. The router serves by it, the API
//! explains with it. Pure.

use std::collections::BTreeMap;

use super::endpoint::Copy;
use super::names::{NodeName, StackName, Tag};
use super::reach::{Reach, Seen};
use super::release::{Domain, NodeKind, Release, ReleaseNode};
use super::resolve;
use super::spec::{LinkTarget, Proto};

/// Where requests for one domain go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The domain, as `viking.yml` names it: perhaps with a leading `*.`.
    pub domain: String,
    /// The stack whose live release has it.
    pub stack: StackName,
    /// Its node.
    pub node: NodeName,
    /// The container port; `None` while nothing that is running says which is the first.
    pub port: Option<u16>,
    /// Since when its stack has the domain, Unix milliseconds; 0 when that is not on record.
    pub since_ms: u64,
    /// Healthy copies, in order.
    pub copies: Vec<Copy>,
    /// How long copies may end the requests they have once it leads elsewhere, milliseconds.
    pub drain_ms: u64,
    /// Of a website, which has no copies: what its files are.
    pub site: Option<Site>,
    /// Other stacks whose live releases name the domain too, and do not have it.
    pub denied: Vec<(StackName, NodeName)>,
}

/// What a website's domain leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Digest of the image that its files are; `None` when an older version made the release, which kept
    /// none.
    pub digest: Option<String>,
}

/// Something for each of many domains.
#[derive(Debug, Clone)]
pub struct Domains<T> {
    exact: BTreeMap<String, T>,
    /// By what follows `*.`.
    wild: BTreeMap<String, T>,
}

/// All routes.
pub type RouteTable = Domains<Route>;

/// Somebody's claim of a domain, ordered by who is first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Claim<'a> {
    since_ms: u64,
    stack: &'a StackName,
    node: &'a NodeName,
    port: Option<u16>,
    tag: &'a Tag,
}

impl<T> Default for Domains<T> {
    fn default() -> Self {
        Self {
            exact: BTreeMap::new(),
            wild: BTreeMap::new(),
        }
    }
}

impl<T> Domains<T> {
    /// Gives a domain something, perhaps in place of what it had.
    pub fn insert(&mut self, domain: &str, of: T) {
        match domain.strip_prefix("*.") {
            Some(suffix) => self.wild.insert(suffix.to_owned(), of),
            None => self.exact.insert(domain.to_owned(), of),
        };
    }

    /// What a domain itself has, as it is written in `viking.yml`.
    #[must_use]
    pub fn get(&self, domain: &str) -> Option<&T> {
        match domain.strip_prefix("*.") {
            Some(suffix) => self.wild.get(suffix),
            None => self.exact.get(domain),
        }
    }

    /// What a host name leads to (as [`host_of`] gives it): the domain itself, else the `*.` one with
    /// the longest rest.
    #[must_use]
    pub fn find(&self, host: &str) -> Option<&T> {
        if let Some(of) = self.exact.get(host) {
            return Some(of);
        }
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(of) = self.wild.get(parent) {
                return Some(of);
            }
            rest = parent;
        }
        None
    }

    /// Everything, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.wild.values())
    }
}

/// Builds the table. Of two stacks that name a domain, the one that has had it for longer keeps it.
#[must_use]
pub fn table(seen: &Seen) -> RouteTable {
    let reach = Reach::of(seen);
    let mut claims: BTreeMap<&str, Vec<Claim<'_>>> = BTreeMap::new();
    for (stack, map) in &seen.stacks {
        let Some(live) = map.live().filter(|_| !map.pointer.removing) else {
            continue;
        };
        for (node, domain) in domains(live) {
            claims.entry(&domain.name).or_default().push(Claim {
                since_ms: domain.since_ms,
                stack,
                node,
                port: domain.port,
                tag: &live.tag,
            });
        }
    }
    let mut table = RouteTable::default();
    for (domain, mut claims) in claims {
        claims.sort();
        let mut claims = claims.into_iter();
        if let Some(first) = claims.next() {
            let denied = claims.map(|claim| (claim.stack.clone(), claim.node.clone()));
            let mut route = route(seen, &reach, domain, &first);
            route.denied = denied.collect();
            table.insert(domain, route);
        }
    }
    table
}

fn route(seen: &Seen, reach: &Reach<'_>, domain: &str, claim: &Claim<'_>) -> Route {
    let (stack, node) = (claim.stack, claim.node);
    let site = site(seen, claim);
    let target = LinkTarget {
        stack: None,
        node: node.clone(),
    };
    let tags = resolve::copies(&seen.stacks, stack, claim.tag, &target);
    let port = claim.port.or_else(|| reach.lowest_port(stack, node));
    let port = port.filter(|_| site.is_none());
    let mut copies = port
        .map(|port| reach.copies(stack, node, &tags, port, Proto::Tcp))
        .unwrap_or_default();
    // A slot that the live scale leaves out gets no further request, and ends those it has.
    let live = seen.stacks.get(stack).and_then(|map| map.live());
    let of = live.and_then(|live| live.nodes.get(node));
    let slots = of.map_or(u32::MAX, ReleaseNode::slots);
    copies.retain(|copy| copy.slot.is_none_or(|slot| slot < slots));
    Route {
        domain: domain.to_owned(),
        stack: stack.clone(),
        node: node.clone(),
        port,
        since_ms: claim.since_ms,
        copies,
        drain_ms: of.map_or(0, |of| of.stop.drain_ms),
        site,
        denied: Vec::new(),
    }
}

/// The files that a claim leads to, if its node is a website.
fn site(seen: &Seen, claim: &Claim<'_>) -> Option<Site> {
    let live = seen.stacks.get(claim.stack)?.live()?;
    let node = live.nodes.get(claim.node)?;
    matches!(node.kind, NodeKind::Website { .. }).then(|| {
        let mut sites = live.sites();
        let image = sites.find(|(name, _)| *name == claim.node);
        Site {
            digest: image.map(|(_, image)| image.digest.clone()),
        }
    })
}

/// The domains of a release, each with its node.
fn domains(release: &Release) -> impl Iterator<Item = (&NodeName, &Domain)> {
    let nodes = release.nodes.iter();
    nodes.flat_map(|(name, node)| node.domains.iter().map(move |domain| (name, domain)))
}

/// Since when a release that is put together now has each of its domains: since the live release has
/// them, else from now on. So who was first stays first, whatever is pushed later.
pub fn claim(release: &mut Release, live: Option<&Release>, now_ms: u64) {
    let known: BTreeMap<&str, u64> = live
        .into_iter()
        .flat_map(|live| live.nodes.values())
        .flat_map(|node| &node.domains)
        .map(|domain| (domain.name.as_str(), domain.since_ms))
        .collect();
    let nodes = release.nodes.values_mut();
    for domain in nodes.flat_map(|node| &mut node.domains) {
        domain.since_ms = known.get(domain.name.as_str()).copied().unwrap_or(now_ms);
    }
}

/// A host name as people and browsers write it, in the form the table knows: lower case, without port
/// and trailing dot. `None` for what is no host name.
#[must_use]
pub fn host_of(authority: &str) -> Option<String> {
    let (name, port) = match authority.rsplit_once(':') {
        // An address in brackets has colons of its own; no domain of ours is one.
        Some((_, port)) if port.ends_with(']') => return None,
        Some((name, port)) => (name, port),
        None => (authority, ""),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let number = port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    let sound = !name.is_empty() && name.len() <= HOST_BYTES_MAX && name.bytes().all(good);
    (sound && number).then(|| name.to_ascii_lowercase())
}

/// Longest host name (RFC 1035, 2.3.4).
const HOST_BYTES_MAX: usize = 253;

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
