//! The front door: an HTTP router on every host. It leads each domain of a live release to healthy
//! copies of its node, on whatever host they are. Started by `host`; told of every change by whoever
//! follows the store; reads no store itself, and writes nothing.
//!
//! Threads of its own, each with a runtime for one thread: what else the host does, builds among it,
//! does not delay requests, and connections never change threads.

mod access;
mod body;
mod challenge;
mod heads;
mod kept;
mod listen;
mod metrics;
mod pages;
mod pick;
mod proxy;
mod site;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hyper::header::HeaderValue;
use ipnet::IpNet;
use tokio::sync::{Semaphore, watch};

use self::access::Access;
use self::kept::Kept;
use self::metrics::{Metrics, OfNode};
use self::pick::Backend;
use self::site::Files;
use crate::model::endpoint::Copy;
use crate::model::job::JobId;
use crate::model::names::StackName;
use crate::model::reach::Seen;
use crate::model::route::{self, Domains, Route};

pub use self::listen::{Speaks, run};
pub use self::tls::Certificates;

/// Between two looks at copies that end what they have.
const LEAVING_LOOK: Duration = Duration::from_millis(100);

/// Most of them that are said: each is part of what a host says of itself.
const LEAVING_MAX: usize = 500;

/// What the operator decided about the front door.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Proxies in front of this one, whose word about their clients counts.
    pub trusted: Vec<IpNet>,
    /// Each so many-th request is written down; 0 for none.
    pub access_log: u64,
    /// Largest body of a request, bytes.
    pub body_max: u64,
    /// How long a client may take for the head of a request, and stay without sending one.
    pub head_max: Duration,
    /// Certificates. A request in the clear for a name that one covers is sent to https.
    pub certificates: Arc<Certificates>,
    /// How long browsers are told to come over https only, seconds; 0 to say nothing of it.
    pub hsts_s: u64,
    /// Threads.
    pub threads: usize,
    /// Where sites are unpacked on this host, if they are.
    pub sites: Option<PathBuf>,
}

fn hsts(seconds: u64) -> Option<HeaderValue> {
    let said = format!("max-age={seconds}");
    (seconds > 0)
        .then(|| HeaderValue::from_str(&said).ok())
        .flatten()
}

/// A route that requests are served by.
struct Live {
    route: Route,
    metrics: Arc<OfNode>,
    backends: Vec<Arc<Backend>>,
    /// What it leads to instead, when its node is a website.
    files: Option<Files>,
    /// Whose turn it is among equals.
    turn: AtomicUsize,
    /// Requests that wait for a copy.
    waiting: AtomicUsize,
}

/// What the router's threads share.
pub(super) struct Shared {
    table: ArcSwap<Domains<Arc<Live>>>,
    /// Copies that some route leads to, with what is known of them.
    backends: Mutex<BTreeMap<Copy, Arc<Backend>>>,
    /// Copies that no route leads to any more, and that still have requests.
    leaving: Mutex<Vec<(Instant, Arc<Backend>)>>,
    /// Who is told of those.
    draining: watch::Sender<Vec<JobId>>,
    /// Rung after each change of the table.
    changed: watch::Sender<()>,
    /// Requests that wait for a copy.
    waiting: AtomicUsize,
    /// Room for requests that applications have.
    room: Arc<Semaphore>,
    /// Whether https is spoken here.
    secure: AtomicBool,
    trusted: Vec<IpNet>,
    access: Access,
    body_max: u64,
    head_max: Duration,
    certificates: Arc<Certificates>,
    /// What browsers are told of coming over https only.
    hsts: Option<HeaderValue>,
    threads: usize,
    sites: Option<PathBuf>,
    metrics: Metrics,
    /// Small files of them.
    kept: Arc<Kept>,
    began: Instant,
}

impl Shared {
    fn files(&self, route: &Route) -> Option<Files> {
        let digest = route.site.as_ref()?.digest.as_ref()?;
        Files::new(self.sites.as_ref()?, digest, &self.kept)
    }

    fn find(&self, host: &str) -> Option<Arc<Live>> {
        self.table.load().find(host).cloned()
    }

    /// Milliseconds of a clock that nobody sets.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The front door, as the rest of the host holds it.
#[derive(Clone)]
pub struct Front(Arc<Shared>);

impl Front {
    /// A door that leads nowhere yet. `draining` is told which copies still have requests though no route
    /// leads to them.
    #[must_use]
    pub fn new(settings: Settings, draining: watch::Sender<Vec<JobId>>) -> Self {
        Self(Arc::new(Shared {
            table: ArcSwap::default(),
            backends: Mutex::default(),
            leaving: Mutex::default(),
            draining,
            changed: watch::Sender::new(()),
            waiting: AtomicUsize::new(0),
            room: Arc::new(Semaphore::new(proxy::ASKED_MAX)),
            secure: AtomicBool::new(false),
            trusted: settings.trusted,
            access: Access::each(settings.access_log),
            body_max: settings.body_max,
            head_max: settings.head_max,
            certificates: settings.certificates,
            hsts: hsts(settings.hsts_s),
            threads: settings.threads.max(1),
            sites: settings.sites,
            kept: Arc::default(),
            metrics: Metrics::default(),
            began: Instant::now(),
        }))
    }

    /// Leads where the store says now, from the next request on. Routes of `frozen` stacks, which cannot
    /// be read, stay as they are.
    pub fn update(&self, seen: &Seen, frozen: &BTreeSet<StackName>) {
        let shared = &self.0;
        let mut routes = route::table(seen);
        let mut known = shared
            .backends
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = shared.table.load_full();
        for old in before.iter() {
            if frozen.contains(&old.route.stack) {
                routes.insert(&old.route.domain, old.route.clone());
            }
        }
        let mut table = Domains::default();
        let mut used = BTreeMap::new();
        for route in routes.iter() {
            let backends = route.copies.iter().map(|copy| {
                let backend = used.get(copy).or_else(|| known.get(copy)).cloned();
                let made = || Arc::new(Backend::new(copy.clone(), shared.threads));
                let backend = backend.unwrap_or_else(made);
                backend.drains_for(route.drain_ms);
                used.insert(copy.clone(), Arc::clone(&backend));
                backend
            });
            let backends = backends.collect();
            let same = before.get(&route.domain);
            let live = match same.filter(|before| before.route == *route) {
                Some(same) => Arc::clone(same),
                None => Arc::new(Live {
                    route: route.clone(),
                    metrics: shared.metrics.of(&route.stack, &route.node),
                    backends,
                    files: shared.files(route),
                    turn: AtomicUsize::new(0),
                    waiting: AtomicUsize::new(0),
                }),
            };
            table.insert(&route.domain, live);
        }
        let before = std::mem::replace(&mut *known, used);
        let gone = before
            .into_iter()
            .filter(|(copy, _)| !known.contains_key(copy));
        let gone: Vec<_> = gone.map(|(_, backend)| backend).collect();
        let led_to: BTreeSet<_> = table
            .iter()
            .map(|live: &Arc<Live>| (&live.route.stack, &live.route.node))
            .collect();
        shared
            .metrics
            .keep(|stack, node| led_to.contains(&(stack, node)));
        shared.table.store(Arc::new(table));
        shared.changed.send_replace(());
        // Last: from now on none of them gets another request.
        self.let_go(gone);
    }

    /// What was counted of each node, in the text format of Prometheus.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.0.metrics.text()
    }

    /// Watches over copies that no route leads to any more, until they have no requests.
    fn let_go(&self, gone: Vec<Arc<Backend>>) {
        let mut leaving = self
            .0
            .leaving
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let watched = !leaving.is_empty();
        let now = Instant::now();
        leaving.extend(gone.into_iter().map(|backend| (now, backend)));
        drop(leaving);
        if self.note_leaving() && !watched {
            let front = self.clone();
            tokio::spawn(async move {
                while front.note_leaving() {
                    tokio::time::sleep(LEAVING_LOOK).await;
                }
            });
        }
    }

    /// Says which copies still have requests though no route leads to them; whether there are any.
    fn note_leaving(&self) -> bool {
        let shared = &self.0;
        let mut leaving = shared
            .leaving
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|(since, backend)| {
            let left = since.elapsed();
            // A request that looked the route up just before may not have come to its copy yet.
            left < LEAVING_LOOK || (backend.busy() > 0 && left < backend.drain())
        });
        let now = leaving
            .iter()
            .filter(|(_, backend)| backend.busy() > 0)
            .take(LEAVING_MAX)
            .map(|(_, backend)| &backend.copy.job_id);
        let mut now: Vec<JobId> = now.cloned().collect();
        now.sort();
        shared.draining.send_if_modified(|said| {
            let new = *said != now;
            *said = now;
            new
        });
        !leaving.is_empty()
    }

    /// Closes connections that one of the threads has kept idle for too long.
    fn sweep(&self, thread: usize) {
        // Requests do not wait for a table that is being built.
        let Ok(backends) = self.0.backends.try_lock() else {
            return;
        };
        for backend in backends.values() {
            backend.sweep(thread);
        }
    }

    fn is_trusted(&self, peer: SocketAddr) -> bool {
        self.0
            .trusted
            .iter()
            .any(|net| net.contains(&peer.ip().to_canonical()))
    }
}
