//! The way to the registry's copies: the loopback listener this host's Docker pulls and pushes
//! through, one more loopback listener per copy for who must talk to exactly that one, and the gate
//! in front of each copy that runs here. Kept by the ambassador; which copies there are it is told.
//!
//! Docker spreads one push over several connections, so connections stay with one copy as long as it
//! answers, and copies that are whole come before others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::forward::{self, DIAL, Dial, LOOK, WAIT_FOR_COPY};
use super::gate;
use crate::model::job::{JobId, JobKey, StateRecord};
use crate::model::names::Tag;
use crate::model::reach::Seen;
use crate::model::registry::{CopyAddresses, Credential, REGISTRY_PORT, Turn, is_registry};
use crate::model::spec::Proto;

/// One copy, as this host reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    copy: JobId,
    address: SocketAddr,
    /// It runs here.
    own: bool,
    /// There is a gate in front of it.
    gated: bool,
    whole: bool,
}

/// All copies, and where this host keeps gates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    copies: Vec<Target>,
    /// The container behind each address this host keeps a gate at.
    gates: BTreeMap<SocketAddr, SocketAddr>,
    credential: Option<Credential>,
}

/// The copies as the store says. Pure.
pub(super) fn table(seen: &Seen, whole: &BTreeSet<JobId>, credential: Option<Credential>) -> Table {
    let own: BTreeMap<JobId, (&JobKey, &StateRecord)> = seen
        .own
        .iter()
        .map(|(job, state)| (job.id(state.instance), (job, state)))
        .collect();
    let mut table = Table {
        credential,
        ..Table::default()
    };
    let copies = seen.endpoints.iter().filter(|end| {
        is_registry(&end.stack, &end.node)
            && end.tag == Tag::of_services()
            && end.port == REGISTRY_PORT
            && end.proto == Proto::Tcp
    });
    for end in copies {
        let published = end.address();
        let loopback = Ipv4Addr::LOCALHOST;
        let gated = published.ip() != loopback;
        let here = own.get(&end.job_id).map(|(_, state)| {
            let direct = state.address.map(|ip| SocketAddr::new(ip, REGISTRY_PORT));
            // Behind a gate it is published on loopback, under the same port.
            direct.unwrap_or_else(|| SocketAddr::from((loopback, end.host_port)))
        });
        if let Some(container) = here.filter(|_| gated) {
            table.gates.insert(published, container);
        }
        table.copies.push(Target {
            copy: end.job_id.clone(),
            address: here.unwrap_or(published),
            own: here.is_some(),
            gated: gated && here.is_none(),
            whole: whole.contains(&end.job_id),
        });
    }
    table
}

/// In which order copies are tried: `last` served the connection before, `avoid` is not wanted.
fn order(copies: &[Target], last: Option<SocketAddr>, avoid: Option<SocketAddr>) -> Vec<&Target> {
    let mut order: Vec<&Target> = copies.iter().collect();
    order.sort_by_key(|target| {
        let at = Some(target.address);
        (
            !target.whole,
            at == avoid,
            at != last,
            !target.own,
            &target.copy,
        )
    });
    order
}

/// What connections look at.
#[derive(Default)]
struct Inside {
    table: ArcSwap<Table>,
    turn: Turn,
    stuck: Mutex<Stuck>,
}

/// The copy that connections stay with.
#[derive(Default)]
struct Stuck {
    last: Option<SocketAddr>,
    avoid: Option<SocketAddr>,
    turned: u64,
}

impl Inside {
    /// A connection to the best copy, or to this one.
    async fn dial(&self, only: Option<&JobId>) -> Option<TcpStream> {
        let until = Instant::now() + WAIT_FOR_COPY;
        loop {
            let table = self.table.load_full();
            let (last, avoid) = self.stuck();
            for target in order(&table.copies, last, avoid) {
                if only.is_some_and(|only| *only != target.copy) {
                    continue;
                }
                if let Some(stream) = connect(target, table.credential.as_ref()).await {
                    if only.is_none() {
                        self.stick(target.address);
                    }
                    return Some(stream);
                }
            }
            if Instant::now() >= until {
                return None;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn stuck(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = self.turn.asked();
        if asked != stuck.turned {
            stuck.turned = asked;
            stuck.avoid = stuck.last.take();
        }
        (stuck.last, stuck.avoid)
    }

    fn stick(&self, address: SocketAddr) {
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        stuck.last = Some(address);
        // Whoever was turned away from the only copy there is may come back to it.
        stuck.avoid = stuck.avoid.filter(|avoid| *avoid != address);
    }
}

async fn connect(target: &Target, credential: Option<&Credential>) -> Option<TcpStream> {
    let connected = timeout(DIAL, TcpStream::connect(target.address)).await;
    let mut stream = connected.ok()?.ok()?;
    stream.set_nodelay(true).ok();
    forward::watch_over(&stream);
    if target.gated
        && let Err(error) = gate::enter(&mut stream, credential?).await
    {
        let copy = &target.copy.0;
        tracing::debug!(copy, at = %target.address, "not let in to the registry: {error}");
        return None;
    }
    Some(stream)
}

/// The listeners, open and closed as copies come and go.
pub(super) struct Doors {
    inside: Arc<Inside>,
    open: Mutex<Open>,
    addresses: watch::Sender<CopyAddresses>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Open {
    copies: BTreeMap<JobId, (SocketAddr, CancellationToken)>,
    gates: BTreeMap<SocketAddr, CancellationToken>,
}

impl Doors {
    /// Opens the one that Docker uses.
    pub(super) async fn open(
        port: u16,
        turn: Turn,
        addresses: watch::Sender<CopyAddresses>,
        shutdown: &CancellationToken,
        tasks: &TaskTracker,
    ) -> anyhow::Result<Self> {
        let front = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(front).await.with_context(|| {
            format!("listening on {front} for the registry; choose another with --registry-port")
        })?;
        let doors = Self {
            inside: Arc::new(Inside {
                turn,
                ..Inside::default()
            }),
            open: Mutex::default(),
            addresses,
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
        };
        doors.forward(listener, None, shutdown.clone());
        Ok(doors)
    }

    /// Leads whoever calls from this machine to the best copy, or to this one.
    fn forward(&self, listener: TcpListener, only: Option<JobId>, close: CancellationToken) {
        let inside = Arc::clone(&self.inside);
        let dial: Dial = Arc::new(move || {
            let (inside, only) = (Arc::clone(&inside), only.clone());
            Box::pin(async move { inside.dial(only.as_ref()).await })
        });
        let this_machine = IpNet::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        let run = forward::run(listener, this_machine, dial, close);
        self.tasks.spawn(run);
    }

    /// Goes by a new table from now on.
    pub(super) async fn update(&self, table: Table) {
        let copies: BTreeSet<JobId> = table.copies.iter().map(|t| t.copy.clone()).collect();
        let gates: BTreeSet<SocketAddr> = table.gates.keys().copied().collect();
        self.inside.table.store(Arc::new(table));
        let (copies, gates) = self.close(&copies, &gates);
        for copy in copies {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await {
                Ok(listener) => self.open_copy(copy, listener),
                Err(error) => tracing::warn!(copy = copy.0, "no way to this copy: {error}"),
            }
        }
        for gate in gates {
            match TcpListener::bind(gate).await {
                Ok(listener) => self.open_gate(gate, listener),
                Err(error) => {
                    tracing::warn!(%gate, "other hosts cannot use the registry here: {error}");
                }
            }
        }
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses = open.copies.iter();
        let addresses: CopyAddresses = addresses.map(|(id, (at, _))| (id.clone(), *at)).collect();
        let news = |known: &mut CopyAddresses| {
            let changed = *known != addresses;
            *known = addresses;
            changed
        };
        self.addresses.send_if_modified(news);
    }

    /// Closes what leads nowhere any more; answers what is not open yet.
    fn close(
        &self,
        copies: &BTreeSet<JobId>,
        gates: &BTreeSet<SocketAddr>,
    ) -> (Vec<JobId>, Vec<SocketAddr>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.copies.retain(|copy, (_, close)| {
            let keep = copies.contains(copy);
            if !keep {
                close.cancel();
            }
            keep
        });
        open.gates.retain(|gate, close| {
            let keep = gates.contains(gate);
            if !keep {
                close.cancel();
            }
            keep
        });
        let copies = copies
            .iter()
            .filter(|copy| !open.copies.contains_key(*copy));
        let gates = gates.iter().filter(|gate| !open.gates.contains_key(*gate));
        (copies.cloned().collect(), gates.copied().collect())
    }

    fn open_copy(&self, copy: JobId, listener: TcpListener) {
        let Ok(address) = listener.local_addr() else {
            return;
        };
        let close = self.shutdown.child_token();
        self.forward(listener, Some(copy.clone()), close.clone());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.copies.insert(copy, (address, close));
    }

    fn open_gate(&self, gate: SocketAddr, listener: TcpListener) {
        let close = self.shutdown.child_token();
        let (inside, behind) = (Arc::clone(&self.inside), Arc::clone(&self.inside));
        let known: gate::Known = Arc::new(move || inside.table.load().credential.clone());
        // One try: the caller may have another copy to go to.
        let dial: Dial = Arc::new(move || {
            let container = behind.table.load().gates.get(&gate).copied();
            Box::pin(async move {
                let connected = timeout(DIAL, TcpStream::connect(container?)).await;
                let stream = connected.ok()?.ok()?;
                stream.set_nodelay(true).ok();
                Some(stream)
            })
        });
        self.tasks
            .spawn(gate::run(listener, known, dial, close.clone()));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.gates.insert(gate, close);
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
