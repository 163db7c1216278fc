//! Tests of `registry`: which copies there are and in which order, and the listeners over real
//! connections. Part of it, in a file of its own for length.

use super::*;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::model::endpoint::Endpoint;
use crate::model::job::Instance;
use crate::model::names::{NodeName, StackName};

fn job(slot: u32) -> JobKey {
    JobKey {
        stack: StackName::core(),
        tag: Tag::of_services(),
        node: NodeName::registry(),
        slot,
    }
}

fn end(slot: u32, address: SocketAddr) -> Endpoint {
    let JobKey {
        stack, tag, node, ..
    } = job(slot);
    Endpoint {
        stack,
        tag,
        node,
        port: REGISTRY_PORT,
        proto: Proto::Tcp,
        ip: address.ip(),
        host_port: address.port(),
        job_id: job(slot).id(Instance(7)),
    }
}

fn state(ip: Option<&str>) -> StateRecord {
    let text = r#"{"v": 1, "instance": 7, "state": "healthy", "since_ms": 0}"#;
    let mut state: StateRecord = serde_json::from_str(text).unwrap();
    state.address = ip.map(|ip| ip.parse().unwrap());
    state
}

fn ids(order: &[&Target]) -> Vec<String> {
    let slots = order.iter().map(|t| t.copy.0.split('.').nth(3).unwrap());
    slots.map(str::to_owned).collect()
}

#[test]
fn a_copy_here_is_dialled_directly_and_gets_a_gate_and_others_are_behind_theirs() {
    let (here, there) = ("10.0.0.1:20001", "10.0.0.2:20001");
    let seen = Seen {
        endpoints: vec![
            end(0, here.parse().unwrap()),
            end(1, there.parse().unwrap()),
        ],
        own: [(job(0), state(Some("172.18.0.2")))].into(),
        ..Seen::default()
    };
    let found = table(&seen, &BTreeSet::new(), None);
    let direct: SocketAddr = "172.18.0.2:5000".parse().unwrap();
    assert_eq!(found.gates, [(here.parse().unwrap(), direct)].into());
    assert_eq!(
        (found.copies[0].address, found.copies[0].gated),
        (direct, false)
    );
    assert_eq!(found.copies[1].address, there.parse().unwrap());
    assert!(found.copies[1].gated);
    // Alone on a machine nobody else can reach it.
    let alone = Seen {
        endpoints: vec![end(0, "127.0.0.1:20001".parse().unwrap())],
        own: [(job(0), state(None))].into(),
        ..Seen::default()
    };
    let found = table(&alone, &BTreeSet::new(), None);
    assert_eq!(found.gates, BTreeMap::new());
    assert!(!found.copies[0].gated);
}

#[test]
fn connections_stay_with_one_copy_and_whole_ones_come_first() {
    let at = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
    let target = |slot: u32, own, whole| Target {
        copy: job(slot).id(Instance(7)),
        address: at(u16::try_from(slot).unwrap()),
        own,
        gated: false,
        whole,
    };
    let equal = [target(0, false, true), target(1, true, true)];
    assert_eq!(ids(&order(&equal, None, None)), ["1", "0"]);
    assert_eq!(ids(&order(&equal, Some(at(0)), None)), ["0", "1"]);
    assert_eq!(ids(&order(&equal, None, Some(at(1)))), ["0", "1"]);
    let behind = [target(0, true, false), target(1, false, true)];
    assert_eq!(ids(&order(&behind, Some(at(0)), Some(at(1)))), ["1", "0"]);
}

/// Says its word to whoever connects.
async fn copy(word: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            peer.write_all(word.as_bytes()).await.ok();
        }
    });
    address
}

async fn ask(address: SocketAddr) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(address).await {
        stream.read_to_string(&mut text).await.ok();
    }
    text
}

struct Host {
    doors: Doors,
    front: SocketAddr,
    addresses: watch::Receiver<CopyAddresses>,
    turn: Turn,
    _stop: tokio_util::sync::DropGuard,
}

async fn host() -> Host {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = free.local_addr().unwrap();
    drop(free);
    let (sender, addresses) = watch::channel(CopyAddresses::new());
    let (stop, turn) = (CancellationToken::new(), Turn::default());
    let tasks = TaskTracker::new();
    let doors = Doors::open(front.port(), turn.clone(), sender, &stop, &tasks);
    Host {
        doors: doors.await.unwrap(),
        front,
        addresses,
        turn,
        _stop: stop.drop_guard(),
    }
}

fn target(slot: u32, address: SocketAddr, gated: bool, whole: bool) -> Target {
    Target {
        copy: job(slot).id(Instance(7)),
        address,
        own: !gated,
        gated,
        whole,
    }
}

#[tokio::test]
async fn another_host_comes_through_the_gate_and_a_stranger_does_not() {
    let (keeper, caller) = (host().await, host().await);
    let gate: SocketAddr = {
        let free = TcpListener::bind("127.0.0.2:0").await.unwrap();
        free.local_addr().unwrap()
    };
    let credential = Some(Credential::new([9; 32]));
    let container = copy("images").await;
    let kept = Table {
        copies: vec![target(0, container, false, true)],
        gates: [(gate, container)].into(),
        credential: credential.clone(),
    };
    keeper.doors.update(kept.clone()).await;
    let reached = Table {
        copies: vec![target(0, gate, true, true)],
        gates: BTreeMap::new(),
        credential,
    };
    caller.doors.update(reached.clone()).await;
    assert_eq!(ask(keeper.front).await, "images");
    assert_eq!(ask(caller.front).await, "images");
    let alone = caller.addresses.borrow()[&job(0).id(Instance(7))];
    assert_eq!(ask(alone).await, "images");
    assert!(!ask(gate).await.contains("images"));
    // The gate goes with the copy.
    keeper.doors.update(Table::default()).await;
    assert!(keeper.addresses.borrow().is_empty());
    let closed = async {
        while TcpStream::connect(gate).await.is_ok() {
            tokio::time::sleep(LOOK).await;
        }
    };
    timeout(DIAL, closed).await.unwrap();
}

#[tokio::test]
async fn connections_go_on_with_the_copy_that_is_left_and_turn_when_asked() {
    let host = host().await;
    let (zero, one) = (copy("zero").await, copy("one").await);
    let both = Table {
        copies: vec![target(0, zero, false, true), target(1, one, false, true)],
        ..Table::default()
    };
    host.doors.update(both.clone()).await;
    for _ in 0..3 {
        assert_eq!(ask(host.front).await, "zero");
    }
    host.turn.ask();
    for _ in 0..3 {
        assert_eq!(ask(host.front).await, "one");
    }
    // Dead, and still in the table.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut half = both;
    half.copies[1].address = dead.local_addr().unwrap();
    drop(dead);
    host.doors.update(half).await;
    assert_eq!(ask(host.front).await, "zero");
}
