//! viking's parts alone, each in a process of its own so that its processor time can be told: the front
//! door before an application, the front door with a site, the way that a link leads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use viking::model::endpoint::Endpoint;
use viking::model::job::{Instance, JobKey};
use viking::model::names::{ImageName, NodeName};
use viking::model::reach::Seen;
use viking::model::release::{Domain, ImageRecord, NodeKind, Release};
use viking::model::resolve::StackMap;
use viking::model::spec::Proto;
use viking::router::forward;
use viking::router::front::{self, Front, Settings, Speaks};
use viking::schedule::script;

/// Hex digits of the one site there is.
const SITE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What a process of this binary is.
pub(crate) enum Role<'a> {
    /// The front door before an application, with so many domains.
    Front(SocketAddr, usize),
    /// The front door with a site, unpacked below this folder.
    Site(&'a Path),
    /// The listener of a link.
    Link(SocketAddr),
}

impl Role<'_> {
    pub(crate) fn args(&self, address: SocketAddr) -> Vec<String> {
        let (word, first, second) = match self {
            Self::Front(backend, domains) => ("front", backend.to_string(), domains.to_string()),
            Self::Site(folder) => ("site", folder.display().to_string(), String::new()),
            Self::Link(backend) => ("link", backend.to_string(), String::new()),
        };
        let address = address.to_string();
        vec![
            "--serve".to_owned(),
            word.to_owned(),
            address,
            first,
            second,
        ]
    }
}

/// Where the files of the site are, below the folder of sites.
pub(crate) fn site_folder(sites: &Path) -> PathBuf {
    sites.join(SITE)
}

/// Serves until it is killed.
pub(crate) fn serve(args: &[String]) -> anyhow::Result<()> {
    let [word, address, first, second] = args else {
        bail!("--serve front|site|link ADDRESS …");
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = TcpListener::bind(address)?;
    runtime.block_on(async {
        match word.as_str() {
            "front" => {
                let seen = leading_to(first.parse()?, second.parse()?)?;
                door(&seen, None, listener).await
            }
            "site" => door(&leading_to_site()?, Some(first.into()), listener).await,
            "link" => {
                let backend: SocketAddr = first.parse()?;
                listener.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let dial = forward::to(Arc::new(move || vec![backend]));
                let from = "127.0.0.0/8".parse().context("a network")?;
                forward::run(listener, from, dial, CancellationToken::new()).await;
                Ok(())
            }
            _ => bail!("--serve front|site|link"),
        }
    })
}

async fn door(seen: &Seen, sites: Option<PathBuf>, listener: TcpListener) -> anyhow::Result<()> {
    let front = Front::new(settings(sites), watch::channel(Vec::new()).0);
    front.update(seen, &BTreeSet::new());
    front::run(front, listener, Speaks::Http, CancellationToken::new()).await
}

pub(crate) fn settings(sites: Option<PathBuf>) -> Settings {
    Settings {
        trusted: Vec::new(),
        access_log: 0,
        body_max: 1 << 30,
        head_max: Duration::from_secs(30),
        certificates: Arc::default(),
        hsts_s: 0,
        threads: 1,
        sites,
    }
}

/// One node with so many domains, `d0.test` the first of them, and one copy.
pub(crate) fn leading_to(backend: SocketAddr, domains: usize) -> anyhow::Result<Seen> {
    let mut seen = one_node(domains)?;
    seen.endpoints.push(endpoint(&seen, backend)?);
    Ok(seen)
}

/// The copy of the one node there is.
pub(crate) fn endpoint(seen: &Seen, backend: SocketAddr) -> anyhow::Result<Endpoint> {
    let (stack, map) = seen.stacks.iter().next().context("a stack")?;
    let release = map.releases.values().next().context("a release")?;
    let (node, of) = release.nodes.iter().next().context("a node")?;
    let job = JobKey {
        stack: stack.clone(),
        tag: of.tag.clone(),
        node: node.clone(),
        slot: 0,
    };
    Ok(Endpoint {
        stack: stack.clone(),
        tag: of.tag.clone(),
        node: node.clone(),
        port: 80,
        proto: Proto::Tcp,
        ip: backend.ip(),
        host_port: backend.port(),
        job_id: job.id(Instance(1)),
    })
}

fn one_node(domains: usize) -> anyhow::Result<Seen> {
    let text = "hosts: {h: {}}\nstacks:\n  s: {live: a1, phase: live, releases: {a1: {web: {expose: true}}}}\n";
    let world = script::world(text).map_err(anyhow::Error::msg)?;
    let mut seen = Seen::default();
    for (name, stack) in world.stacks {
        let mut releases = stack.releases;
        for of in releases.values_mut().flat_map(|one| one.nodes.values_mut()) {
            let domain = |n| Domain {
                name: format!("d{n}.test"),
                port: Some(80),
                since_ms: 1,
            };
            of.domains = (0..domains).map(domain).collect();
        }
        let pointer = stack.pointer;
        seen.stacks.insert(name, StackMap { pointer, releases });
    }
    Ok(seen)
}

/// The node is a site in the place of an application.
fn leading_to_site() -> anyhow::Result<Seen> {
    let mut seen = one_node(1)?;
    let releases = seen
        .stacks
        .values_mut()
        .flat_map(|map| map.releases.values_mut());
    for release in releases {
        let nodes: Vec<NodeName> = release.nodes.keys().cloned().collect();
        for node in nodes {
            become_site(release, &node);
        }
    }
    Ok(seen)
}

fn become_site(release: &mut Release, node: &NodeName) {
    if let Some(of) = release.nodes.get_mut(node) {
        of.kind = NodeKind::Website {
            document_root: "www".to_owned(),
        };
    }
    let image = ImageRecord {
        v: 1,
        repository: "s/site".to_owned(),
        digest: format!("sha256:{SITE}"),
        input: String::new(),
        size_bytes: 1,
        build_ms: 0,
        commit: String::new(),
        built_by: release.tag.clone(),
        bases: BTreeMap::new(),
        made_of: None,
    };
    release.images.insert(ImageName::of_site(node), image);
}
