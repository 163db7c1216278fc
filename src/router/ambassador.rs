//! Keeps links working while their targets move: one listener per (stack, tag, target, port, protocol)
//! on the stack's gateway address, and the ways to the registry (`registry`). Workers ask for listeners; the
//! table behind them follows `/release` and `/ports`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::datagrams::{self, Copies, Room};
use super::forward::{self, Lookup};
use super::front::Front;
use super::registry::{self, Doors};
use super::table::{self, Table};
use crate::model::endpoint::{Endpoint, LinkKey, ListenRequest};
use crate::model::names::{HostName, StackName};
use crate::model::reach::Seen;
use crate::model::registry::{CopyAddresses, Turn};
use crate::model::spec::Proto;
use crate::store::keys::Family;
use crate::store::tables::Tables;
use crate::wake::{self, Bell, Next};

/// A full look at least this often: events are hints.
const INTERVAL: Duration = Duration::from_secs(15);

/// Ports of listeners: below Linux's ephemeral range, above those handed to jobs.
const PORT_FIRST: u16 = 30_000;
const PORT_COUNT: u16 = 2_700;

/// A worker's question: the listener wanted, and where the port or the reason goes.
pub type Listen = (ListenRequest, oneshot::Sender<Result<u16, String>>);

/// What the ambassador needs.
pub struct Ambassador {
    /// The store's typed side.
    pub tables: Tables,
    /// This host.
    pub host: HostName,
    /// Loopback port images are pulled through.
    pub registry_port: u16,
    /// The front door, told of every change; none where it is off.
    pub front: Option<Front>,
    /// Workers' questions.
    pub asked: mpsc::Receiver<Listen>,
    /// Where this host says how each copy of the registry is reached.
    pub copies: watch::Sender<CopyAddresses>,
    /// Who is led to a copy that does not work asks for another here.
    pub turn: Turn,
}

/// A listener that is open.
struct Open {
    address: SocketAddr,
    close: CancellationToken,
}

#[derive(Default)]
struct Shared {
    table: ArcSwap<Table>,
    /// Endpoints as they were when the table was last built.
    endpoints: Mutex<BTreeSet<Endpoint>>,
    /// Listeners of a link. Several only after a restart at which not all could be bound at once:
    /// containers made before and after know different ports.
    open: Mutex<BTreeMap<LinkKey, Vec<Open>>>,
    /// What listeners for UDP share.
    room: Room,
}

/// A socket that a link's consumers speak to.
enum Bound {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Bound {
    async fn at(address: SocketAddr, proto: Proto) -> io::Result<Self> {
        match proto {
            Proto::Tcp => TcpListener::bind(address).await.map(Self::Tcp),
            Proto::Udp => UdpSocket::bind(address).await.map(Self::Udp),
        }
    }

    fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }
}

/// Serves until shutdown.
///
/// # Errors
/// When the registry's loopback port is taken.
pub async fn run(ambassador: Ambassador, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Ambassador {
        tables,
        host,
        registry_port,
        front,
        mut asked,
        copies,
        turn,
    } = ambassador;
    let shared = Arc::new(Shared::default());
    let tasks = TaskTracker::new();
    let bell = Bell::new();
    let keys = tables.keys();
    let watched = [
        keys.family(Family::Release),
        keys.family(Family::Ports),
        keys.family(Family::Registry),
        keys.family_of(Family::Secret, "registry"),
    ];
    let (ringing, rung, until) = (tables.clone(), bell.clone(), shutdown.clone());
    tasks.spawn(async move { ringing.ring(&rung, &watched, &until).await });

    let doors = Doors::open(registry_port, turn, copies, &shutdown, &tasks).await?;

    let follow = {
        let (shared, bell, shutdown) = (Arc::clone(&shared), bell.clone(), shutdown.clone());
        async move {
            wake::run("ambassador", INTERVAL, bell.ear(), shutdown, || {
                rebuild(&tables, &host, &shared, &doors, front.as_ref())
            })
            .await;
        }
    };
    tasks.spawn(follow);
    loop {
        let question = tokio::select! {
            () = shutdown.cancelled() => break,
            question = asked.recv() => question,
        };
        let Some((request, reply)) = question else {
            break;
        };
        let answer = listen(&shared, request, &shutdown, &tasks).await;
        bell.ring();
        // The worker may have given up waiting.
        reply
            .send(answer.map_err(|error| format!("{error:#}")))
            .ok();
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn rebuild(
    tables: &Tables,
    host: &HostName,
    shared: &Shared,
    doors: &Doors,
    front: Option<&Front>,
) -> anyhow::Result<Next> {
    let routes = tables.routes(host).await?;
    let frozen = routes.frozen_stacks;
    let seen = Seen {
        stacks: routes.stacks,
        endpoints: with_lapsed(tables, shared, routes.endpoints).await?,
        own: routes.states,
    };
    if let Some(front) = front {
        front.update(&seen, &frozen);
    }
    let keys = keep_needed(shared, &seen, &frozen);
    let mut table = table::build(&seen, keys.iter());
    // What cannot be read now stays routed as it was.
    let before = shared.table.load();
    let unread =
        |key: &&LinkKey| frozen.contains(&key.stack) || frozen.contains(key.target_stack());
    for key in keys.iter().filter(unread) {
        table.insert(key.clone(), before.get(key).cloned().unwrap_or_default());
    }
    shared.table.store(Arc::new(table));
    if !frozen.contains(&StackName::core()) {
        let registry = registry::table(&seen, &routes.whole, routes.credential);
        doors.update(registry).await;
    }
    Ok(Next::OnChange)
}

/// The endpoints on record, and those that vanished with a lease: a paused store makes every lease
/// end while everything runs, so they are used until their host or the leader says otherwise. One
/// that does not answer costs a try, and the next one is dialled.
async fn with_lapsed(
    tables: &Tables,
    shared: &Shared,
    on_record: Vec<Endpoint>,
) -> anyhow::Result<Vec<Endpoint>> {
    let mut now: BTreeSet<Endpoint> = on_record.into_iter().collect();
    let gone: Vec<Endpoint> = {
        let before = shared
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        before.difference(&now).cloned().collect()
    };
    if !gone.is_empty() {
        now.extend(tables.lapsed(&gone).await?);
    }
    let mut known = shared
        .endpoints
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    known.clone_from(&now);
    Ok(now.into_iter().collect())
}

/// Closes listeners whose consumers are gone for good; answers the keys of the others.
fn keep_needed(shared: &Shared, seen: &Seen, frozen: &BTreeSet<StackName>) -> Vec<LinkKey> {
    let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|key, open| {
        let keep = frozen.contains(&key.stack) || table::needed(seen, key);
        if !keep {
            open.iter().for_each(|open| open.close.cancel());
        }
        keep
    });
    open.keys().cloned().collect()
}

/// The port of a link's listener, opened if it is not.
async fn listen(
    shared: &Arc<Shared>,
    request: ListenRequest,
    shutdown: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<u16> {
    if let Some(port) = known(shared, &request) {
        return Ok(port);
    }
    let bound = match request.port {
        // Containers know this port: no other will do.
        Some(port) => {
            let address = SocketAddr::new(request.gateway.addr(), port);
            Bound::at(address, request.key.proto)
                .await
                .with_context(|| format!("listening on {address} for a link"))?
        }
        None => bind_free(&request, beside(shared, &request)).await?,
    };
    let port = bound.address()?.port();
    let ListenRequest { key, gateway, .. } = request;
    open(shared, key, bound, gateway, shutdown, tasks)?;
    Ok(port)
}

/// The port of the same link's listener for the other protocol. Some clients, as of DNS, go on over TCP
/// at the number that they know for UDP.
fn beside(shared: &Shared, request: &ListenRequest) -> Option<u16> {
    let mut key = request.key.clone();
    key.proto = match key.proto {
        Proto::Tcp => Proto::Udp,
        Proto::Udp => Proto::Tcp,
    };
    let open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
    let here = |open: &&Open| open.address.ip() == request.gateway.addr();
    let last = open.get(&key)?.iter().rfind(here)?;
    Some(last.address.port())
}

/// The port of a listener that is open already. Those on another gateway, which the network had
/// before it was made anew, are closed.
fn known(shared: &Shared, request: &ListenRequest) -> Option<u16> {
    let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
    let of_link = open.get_mut(&request.key)?;
    of_link.retain(|open| {
        let here = open.address.ip() == request.gateway.addr();
        if !here {
            open.close.cancel();
        }
        here
    });
    let mut ports = of_link.iter().map(|open| open.address.port());
    ports.find(|port| request.port.is_none_or(|wanted| wanted == *port))
}

/// The port that is rather wanted, else the first free one of the range, starting where the key's hash
/// says, so that a listener tends to keep its port.
async fn bind_free(request: &ListenRequest, rather: Option<u16>) -> anyhow::Result<Bound> {
    let proto = request.key.proto;
    let both = LinkKey {
        proto: Proto::Tcp,
        ..request.key.clone()
    };
    let text = serde_json::to_string(&both)?;
    let digest = Sha256::digest(text.as_bytes());
    let start = u16::from_be_bytes([digest[0], digest[1]]) % PORT_COUNT;
    let range = (0..PORT_COUNT).map(|n| PORT_FIRST + (start + n) % PORT_COUNT);
    for port in rather.into_iter().chain(range) {
        let address = SocketAddr::new(request.gateway.addr(), port);
        if let Ok(bound) = Bound::at(address, proto).await {
            return Ok(bound);
        }
    }
    anyhow::bail!("no free port for a link on {}", request.gateway.addr())
}

fn open(
    shared: &Arc<Shared>,
    key: LinkKey,
    bound: Bound,
    from: IpNet,
    shutdown: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    let address = bound.address()?;
    let (table, wanted) = (Arc::clone(shared), key.clone());
    let copies: Copies =
        Arc::new(move || table.table.load().get(&wanted).cloned().unwrap_or_default());
    let close = shutdown.child_token();
    match bound {
        Bound::Tcp(listener) => {
            let lookup: Lookup =
                Arc::new(move || copies().iter().map(|copy| copy.address).collect());
            let dial = forward::to(lookup);
            tasks.spawn(forward::run(listener, from, dial, close.clone()))
        }
        Bound::Udp(socket) => {
            let room = shared.room.clone();
            tasks.spawn(datagrams::run(socket, from, copies, room, close.clone()))
        }
    };
    let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
    open.entry(key).or_default().push(Open { address, close });
    Ok(())
}
