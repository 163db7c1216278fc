//! One UDP listener of a link: datagrams of each client go to one copy, by a socket of the client's own
//! so that what comes back finds its way. One task, whatever the number of clients; which copy is
//! `flows`' business. Started by `ambassador`; knows nothing of stacks.
//!
//! As on any network a datagram may be lost: nothing is ever waited for to send one, and where there is
//! no copy there is nobody to keep it for.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable, Aborted, BoxFuture};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use ipnet::IpNet;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::flows::{FlowId, Flows, Lead};
use crate::model::endpoint::Copy;

/// The longest datagram there is: what the length of an IP packet leaves.
const DATAGRAM_MAX: usize = 65_507;

/// A datagram up to this long, which is what one Ethernet frame holds, is kept until something comes
/// back, and sent to another copy when the first one says that it took nothing.
const KEPT_MAX: usize = 1_472;

/// Datagrams from one side before the others get their turn.
const BURST: usize = 32;

/// Between two looks at flows that nobody uses or whose copy is gone.
const SWEEP: Duration = Duration::from_millis(500);

/// After a listener that could not be read.
const AGAIN: Duration = Duration::from_millis(25);

/// Flows of one link, and of all links of a host: each has a socket. Who opens one source port after
/// the other pushes out what he himself used longest ago, and takes no descriptors from other links.
const FLOWS_MAX: usize = 1_024;
const FLOWS_MIN: usize = 16;
const FLOWS_OF_HOST: usize = 16_384;

/// Looks the present copies up.
pub(super) type Copies = Arc<dyn Fn() -> Arc<[Copy]> + Send + Sync>;

/// What the links of a host share: room for flows.
#[derive(Clone, Default)]
pub(super) struct Room(Arc<AtomicUsize>);

impl Room {
    /// Flows that each link may have.
    fn each(&self) -> usize {
        let links = self.0.load(Ordering::Relaxed).max(1);
        (FLOWS_OF_HOST / links).clamp(FLOWS_MIN, FLOWS_MAX)
    }
}

/// A link's place among those that share the room.
struct Place(Room);

impl Place {
    fn of(room: Room) -> Self {
        room.0.fetch_add(1, Ordering::Relaxed);
        Self(room)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What carries a flow.
struct Carrier {
    socket: Arc<UdpSocket>,
    /// The wait for what comes back.
    reading: AbortHandle,
    /// The last datagram, until something has come back; none if it was too long to keep.
    unanswered: Vec<u8>,
}

impl Carrier {
    /// A full queue loses the datagram. Past the runtime, which knows of a new socket only after a while
    /// that it can be written to.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.unanswered.clear();
        if bytes.len() <= KEPT_MAX {
            self.unanswered.extend_from_slice(bytes);
        }
        SockRef::from(&*self.socket).send(bytes).map(drop)
    }

    /// What has come back, or what is said of what was sent.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        // There is none any more: else the wait would end at once for ever.
        let none = || Err::<(), _>(ErrorKind::WouldBlock.into());
        self.socket.try_io(Interest::ERROR, none).ok();
        self.socket.try_recv(buffer)
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Ends when a flow's socket has something to say, or with the flow.
type Reading = Abortable<BoxFuture<'static, (SocketAddr, FlowId)>>;

struct Link {
    listener: UdpSocket,
    /// Docker keeps bridges apart, but lets every container reach every address of its host.
    from: IpNet,
    copies: Copies,
    flows: Flows<Carrier>,
    readings: FuturesUnordered<Reading>,
    place: Place,
}

/// Passes on what clients of `from` send, and what comes back, until shutdown.
pub(super) async fn run(
    listener: UdpSocket,
    from: IpNet,
    copies: Copies,
    room: Room,
    shutdown: CancellationToken,
) {
    let mut link = Link {
        listener,
        from,
        copies,
        flows: Flows::new(),
        readings: FuturesUnordered::new(),
        place: Place::of(room),
    };
    let mut buffer = vec![0; DATAGRAM_MAX];
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        link.hear(&mut buffer);
        // Each arm only waits; what it waited for is still there if another one was first.
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = link.listener.readable() => {
                if link.take(&mut buffer).is_err() {
                    tokio::time::sleep(AGAIN).await;
                }
            }
            Some(read) = link.readings.next(), if !link.readings.is_empty() => {
                link.heard(read, &mut buffer);
            }
            _ = sweep.tick(), if !link.flows.is_empty() => {
                let copies = (link.copies)();
                link.flows.sweep(&copies, Instant::now(), link.place.0.each());
            }
        }
    }
}

impl Link {
    /// What clients have sent.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..BURST {
            let (length, client) = match self.listener.try_recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            if self.from.contains(&client.ip()) {
                self.pass(client, &buffer[..length]);
            } else {
                tracing::debug!(%client, "not of the network this link belongs to");
            }
        }
        Ok(())
    }

    /// Sends a client's datagram on; when the copy that it leads to takes nothing, to the next one.
    fn pass(&mut self, client: SocketAddr, bytes: &[u8]) {
        let copies = (self.copies)();
        // Each copy once, and before them the one its flow led to.
        for _ in 0..=copies.len() {
            let now = Instant::now();
            let sent = match self.flows.lead(client, &copies, now) {
                Lead::Nowhere => return,
                Lead::Along(carrier) => carrier.send(bytes),
                Lead::Anew(copy) => self.begin(client, copy, bytes, now),
            };
            match sent {
                Err(error) if took_nothing(&error) => self.turn_away(client, now),
                _ => return,
            };
        }
    }

    /// Begins a flow with its first datagram.
    fn begin(
        &mut self,
        client: SocketAddr,
        copy: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> io::Result<()> {
        let socket = match open(copy) {
            Ok(socket) => Arc::new(socket),
            Err(error) => {
                if took_nothing(&error) {
                    self.flows.refused(copy, now);
                }
                return Err(error);
            }
        };
        let (reading, _) = AbortHandle::new_pair();
        let mut carrier = Carrier {
            socket,
            reading,
            unanswered: Vec::new(),
        };
        let sent = carrier.send(bytes);
        let room = self.place.0.each();
        let id = self.flows.begin(client, copy, carrier, now, room);
        self.read(client, id);
        sent
    }

    /// Waits for what comes back on a flow.
    fn read(&mut self, client: SocketAddr, id: FlowId) {
        let Some(carrier) = self.flows.carrier(client, id) else {
            return;
        };
        let socket = Arc::clone(&carrier.socket);
        let (handle, registration) = AbortHandle::new_pair();
        carrier.reading = handle;
        let wait = async move {
            // Whatever it is, reading says. A refusal alone makes nothing readable.
            let either = Interest::READABLE.add(Interest::ERROR);
            socket.ready(either).await.ok();
            (client, id)
        };
        self.readings
            .push(Abortable::new(Box::pin(wait), registration));
    }

    /// What came back meanwhile, and the ends of flows, each of which keeps its socket until then: twice
    /// as many as a turn of the other side can end.
    fn hear(&mut self, buffer: &mut [u8]) {
        for _ in 0..2 * BURST {
            let Some(Some(read)) = self.readings.next().now_or_never() else {
                return;
            };
            self.heard(read, buffer);
        }
    }

    fn heard(&mut self, read: Result<(SocketAddr, FlowId), Aborted>, buffer: &mut [u8]) {
        // Else the flow has ended.
        if let Ok((client, id)) = read {
            self.give_back(client, id, buffer);
        }
    }

    /// What a copy has sent goes back to its client.
    fn give_back(&mut self, client: SocketAddr, id: FlowId, buffer: &mut [u8]) {
        for _ in 0..BURST {
            let now = Instant::now();
            let Some(carrier) = self.flows.carrier(client, id) else {
                return;
            };
            match carrier.receive(buffer) {
                Ok(length) => {
                    carrier.unanswered.clear();
                    self.flows.answered(client, now);
                    // A full queue loses it.
                    self.listener.try_send_to(&buffer[..length], client).ok();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    let unanswered = self.turn_away(client, now);
                    return self.again(client, &unanswered, now);
                }
            }
        }
        self.read(client, id);
    }

    /// Ends a flow whose copy takes nothing; answers what it was sent in vain.
    fn turn_away(&mut self, client: SocketAddr, now: Instant) -> Vec<u8> {
        let Some((copy, mut carrier)) = self.flows.end(client) else {
            return Vec::new();
        };
        self.flows.refused(copy, now);
        std::mem::take(&mut carrier.unanswered)
    }

    /// The copy's host says that nobody took it: another copy may.
    fn again(&mut self, client: SocketAddr, bytes: &[u8], now: Instant) {
        if !bytes.is_empty() && self.flows.any_open(&(self.copies)(), now) {
            self.pass(client, bytes);
        }
    }
}

/// A socket that hears nobody but this copy.
fn open(copy: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match copy {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(copy)?;
    UdpSocket::from_std(socket)
}

/// Whether an error says that nothing listens there, or that there is no way.
fn took_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
    )
}

#[cfg(test)]
#[path = "datagrams_tests.rs"]
mod tests;
