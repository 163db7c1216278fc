//! Tests of `datagrams` over real sockets. Part of it, in a file of its own for length.

use super::*;
use crate::model::job::JobId;
use std::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::DropGuard;

/// Longest wait for what comes at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// A copy that answers with its name and what it was sent.
async fn echo(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; DATAGRAM_MAX];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let said = [name.as_bytes(), &buffer[..length]].concat();
            let said = &said[..said.len().min(DATAGRAM_MAX)];
            socket.send_to(said, from).await.unwrap();
        }
    });
    address
}

/// Where nobody listens.
async fn dead() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.local_addr().unwrap()
}

fn copies(addresses: &[SocketAddr]) -> Arc<[Copy]> {
    let copy = |address: &SocketAddr| Copy {
        job_id: JobId(format!("s.t.dns.{}.1", address.port())),
        address: *address,
        here: true,
        slot: None,
    };
    addresses.iter().map(copy).collect()
}

/// A link, and what the table says of it.
struct Led {
    address: SocketAddr,
    copies: Arc<Mutex<Arc<[Copy]>>>,
    _stop: DropGuard,
}

impl Led {
    async fn to(addresses: &[SocketAddr]) -> Self {
        Self::from("127.0.0.0/8", addresses).await
    }

    async fn from(network: &str, addresses: &[SocketAddr]) -> Self {
        let listener = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let now = Arc::new(Mutex::new(copies(addresses)));
        let seen = Arc::clone(&now);
        let lookup: Copies = Arc::new(move || seen.lock().unwrap().clone());
        let stop = CancellationToken::new();
        let from = network.parse().unwrap();
        let run = run(listener, from, lookup, Room::default(), stop.clone());
        tokio::spawn(run);
        Self {
            address,
            copies: now,
            _stop: stop.drop_guard(),
        }
    }

    /// A client; it hears nobody but the link.
    async fn client(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket
    }
}

async fn ask(client: &UdpSocket, what: &str) -> String {
    client.send(what.as_bytes()).await.unwrap();
    let mut buffer = [0; 64];
    let heard = timeout(PATIENCE, client.recv(&mut buffer));
    let length = heard.await.expect("an answer").unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[tokio::test]
async fn each_client_hears_its_own_answers_from_the_address_it_spoke_to() {
    let led = Led::to(&[echo("a").await, echo("a").await]).await;
    let clients = [led.client().await, led.client().await, led.client().await];
    for round in 0..20 {
        for (n, client) in clients.iter().enumerate() {
            let what = format!("{round}.{n}");
            assert_eq!(ask(client, &what).await, format!("a{what}"));
        }
    }
}

#[tokio::test]
async fn the_next_datagram_goes_to_the_copy_that_took_the_place_of_the_last() {
    let led = Led::to(&[echo("one ").await]).await;
    let client = led.client().await;
    assert_eq!(ask(&client, "x").await, "one x");
    // The old one goes on for a while, as it does while it is drained.
    *led.copies.lock().unwrap() = copies(&[echo("two ").await]);
    assert_eq!(ask(&client, "x").await, "two x");
}

#[tokio::test]
async fn what_a_dead_copy_was_sent_is_sent_to_one_that_lives() {
    let alive = echo("alive ").await;
    let led = Led::to(&[dead().await, alive, dead().await]).await;
    for n in 0..6 {
        let client = led.client().await;
        // Asked once: the refusal alone makes it go elsewhere.
        assert_eq!(ask(&client, &n.to_string()).await, format!("alive {n}"));
    }
}

#[tokio::test]
async fn a_link_without_any_copy_that_lives_works_again_when_one_does() {
    let (led, word) = (Led::to(&[dead().await, dead().await]).await, "x");
    let client = led.client().await;
    for _ in 0..10 {
        client.send(word.as_bytes()).await.unwrap();
    }
    *led.copies.lock().unwrap() = copies(&[]);
    client.send(word.as_bytes()).await.unwrap();
    let mut buffer = [0; 64];
    let nothing = timeout(Duration::from_millis(50), client.recv(&mut buffer)).await;
    assert!(nothing.is_err(), "nobody could have answered: {nothing:?}");
    *led.copies.lock().unwrap() = copies(&[echo("back ").await]);
    assert_eq!(ask(&client, word).await, "back x");
}

#[tokio::test]
async fn the_longest_datagram_goes_both_ways_and_so_does_an_empty_one() {
    let led = Led::to(&[echo("").await]).await;
    let client = led.client().await;
    let mut buffer = vec![0; DATAGRAM_MAX + 1];
    for length in [DATAGRAM_MAX, 0, KEPT_MAX + 1] {
        let sent: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        client.send(&sent).await.unwrap();
        let heard = timeout(PATIENCE, client.recv(&mut buffer));
        let heard = heard.await.expect("an answer").unwrap();
        assert_eq!(buffer[..heard], sent);
    }
}

#[tokio::test]
async fn a_caller_from_another_network_is_not_passed_on() {
    let led = Led::from("172.27.0.1/16", &[echo("secret").await]).await;
    let client = led.client().await;
    client.send(b"x").await.unwrap();
    let mut buffer = [0; 64];
    let nothing = timeout(Duration::from_millis(100), client.recv(&mut buffer)).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

/// Sockets of this process that are connected to an address; unlike a count of all descriptors it
/// says nothing of tests beside this one.
fn flows_to(address: SocketAddr) -> usize {
    let SocketAddr::V4(v4) = address else {
        return 0;
    };
    let ip = u32::from_ne_bytes(v4.ip().octets());
    let remote = format!("{ip:08X}:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    let remotes = table.lines().filter_map(|l| l.split_whitespace().nth(2));
    remotes.filter(|found| *found == remote).count()
}

#[tokio::test]
async fn who_opens_one_source_port_after_the_other_takes_no_more_than_there_is_room_for() {
    let copy = echo("a").await;
    let led = Led::to(&[copy]).await;
    let steady = led.client().await;
    for n in 0..FLOWS_MAX * 2 {
        let client = led.client().await;
        assert_eq!(ask(&client, "x").await, "ax");
        if n % 64 == 0 {
            // Whoever goes on is not pushed out by those who come once.
            assert_eq!(ask(&steady, "y").await, "ay");
        }
    }
    // The socket of the one that ended last is closed when the task comes round.
    let bounded = timeout(PATIENCE, async {
        while !(1..=FLOWS_MAX).contains(&flows_to(copy)) {
            tokio::task::yield_now().await;
        }
    });
    assert!(bounded.await.is_ok(), "{} flows", flows_to(copy));
}

#[test]
fn links_share_what_a_host_has_room_for() {
    let room = Room::default();
    let places: Vec<_> = (0..64).map(|_| Place::of(room.clone())).collect();
    assert_eq!(room.each(), FLOWS_OF_HOST / 64);
    let more: Vec<_> = (0..9_000).map(|_| Place::of(room.clone())).collect();
    assert_eq!(room.each(), FLOWS_MIN);
    drop((places, more));
    assert_eq!(room.each(), FLOWS_MAX);
}
