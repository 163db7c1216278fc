//! Links over real sockets: containers of fake engines, real ambassadors. Targets die and are replaced
//! while who links to them goes on, and every tag reaches the copies that are meant for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use viking::model::release::Phase;

use super::look::quiet;
use super::processes::Processes;
use super::{Cluster, name, s};

/// Between two requests, or two datagrams.
const EVERY: Duration = Duration::from_millis(10);
/// Longest wait for an answer: longer than a link waits for a copy.
const ANSWER: Duration = Duration::from_secs(15);
/// Datagrams are answered again this long after a target was replaced.
const GAP_MAX: Duration = Duration::from_secs(1);

const SHOP: &str = "
viking: {name: shop}
deploy:
  website: {image: web, run: w1, expose: [7080], link: logic}
  logic: {image: logic, run: v1, expose: [7001, 7001/udp], scale: 2}
";

fn shop(from: &str, to: &str) -> String {
    assert!(SHOP.contains(from), "{from}");
    SHOP.replace(from, to)
}

fn address(env: &BTreeMap<String, String>, variable: &str) -> SocketAddr {
    let url = env.get(variable);
    let url = url.unwrap_or_else(|| panic!("no {variable} in {env:#?}"));
    let (_, address) = url.split_once("://").unwrap();
    address.parse().unwrap()
}

/// One request on a connection of its own. An empty answer is a connection that broke.
async fn request(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"x").await?;
    let mut said = String::new();
    // A reset is an end, too.
    stream.read_to_string(&mut said).await.ok();
    Ok(said)
}

/// Asks all the time, one request after the other.
struct Requests {
    told: Arc<Mutex<Vec<Result<String, String>>>>,
    broken: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Requests {
    fn to(address: SocketAddr) -> Self {
        let (told, broken) = (Arc::default(), Arc::default());
        let task = tokio::spawn(Self::ask(address, Arc::clone(&told), Arc::clone(&broken)));
        Self { told, broken, task }
    }

    /// What a process has begun when it is killed nobody can save: a request whose connection broke
    /// before a byte came back is asked once more, as HTTP clients do with those that do no harm.
    async fn ask(
        address: SocketAddr,
        told: Arc<Mutex<Vec<Result<String, String>>>>,
        broken: Arc<Mutex<usize>>,
    ) {
        loop {
            let mut said = timeout(ANSWER, request(address)).await;
            if matches!(&said, Ok(Ok(text)) if text.is_empty()) {
                *broken.lock().unwrap() += 1;
                said = timeout(ANSWER, request(address)).await;
            }
            let said = match said {
                Ok(Ok(text)) if !text.is_empty() => Ok(text),
                other => Err(format!("{other:?}")),
            };
            told.lock().unwrap().push(said);
            tokio::time::sleep(EVERY).await;
        }
    }

    fn count(&self) -> usize {
        self.told.lock().unwrap().len()
    }

    async fn until_more(&self, more: usize) {
        let until = self.count() + more;
        let waited = timeout(s(60), async {
            while self.count() < until {
                tokio::time::sleep(EVERY).await;
            }
        });
        waited.await.expect("requests are answered");
    }

    /// Everybody who answered; nobody was left without an answer, and no more connections broke.
    fn all(self, broken_max: usize) -> BTreeSet<String> {
        self.task.abort();
        let told = self.told.lock().unwrap();
        let failed: Vec<_> = told.iter().filter(|said| said.is_err()).collect();
        assert!(failed.is_empty(), "of {}: {failed:?}", told.len());
        let broken = *self.broken.lock().unwrap();
        assert!(broken <= broken_max, "{broken} connections broke");
        told.iter().flatten().cloned().collect()
    }
}

/// Kills the copies of a node one after the other, the next when the one before is back.
async fn kill_each(cluster: &Cluster, processes: &Processes, stack: &str, node: &str) {
    for (victim, started) in cluster.ids(node) {
        processes.kill(&victim).await;
        let stack = name(stack);
        let back = |world: &viking::model::world::World| {
            let up = cluster.ids(node);
            let again = up.iter().any(|(id, at)| *id == victim && *at == started);
            up.len() == 2 && !again && quiet(world, &stack)
        };
        cluster.until("the copy is back", s(60), back).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_copies_of_a_target_are_killed_and_replaced_and_no_request_to_it_fails() {
    let (mut cluster, processes) = Cluster::with_ambassadors(2).await;
    let first = cluster.go_live(SHOP).await;
    let website = cluster.ids("website");
    let env = cluster.told("website", first.as_str());
    let requests = Requests::to(address(&env, "LOGIC_PORT_7001_TCP"));
    requests.until_more(20).await;
    kill_each(&cluster, &processes, "shop", "logic").await;
    requests.until_more(20).await;
    let second = cluster.go_live(&shop("run: v1", "run: v2")).await;
    requests.until_more(20).await;
    assert_eq!(cluster.ids("website"), website, "who links was restarted");
    let both = [first.to_string(), second.to_string()];
    assert_eq!(requests.all(2), both.into(), "one for each that was killed");
}

/// Sends datagrams all the time from one address; remembers when which answer came.
struct Datagrams {
    heard: Arc<Mutex<Vec<(Instant, String)>>>,
    task: JoinHandle<()>,
}

impl Datagrams {
    async fn to(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(Self::ask(socket, Arc::clone(&heard)));
        Self { heard, task }
    }

    async fn ask(socket: UdpSocket, heard: Arc<Mutex<Vec<(Instant, String)>>>) {
        let (mut buffer, mut n) = ([0; 128], 0_u64);
        loop {
            n += 1;
            let sent = Instant::now();
            socket.send(n.to_string().as_bytes()).await.ok();
            // Late ones are heard with the next.
            while let Ok(Ok(length)) =
                tokio::time::timeout_at(sent + EVERY, socket.recv(&mut buffer)).await
            {
                let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let (tag, _) = said.split_once(' ').unwrap();
                heard.lock().unwrap().push((Instant::now(), tag.to_owned()));
            }
        }
    }

    fn count_of(&self, tag: &str) -> usize {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|(_, said)| said == tag).count()
    }

    async fn until_more(&self, tag: &str, more: usize) {
        let until = self.count_of(tag) + more;
        let waited = timeout(s(60), async {
            while self.count_of(tag) < until {
                tokio::time::sleep(EVERY).await;
            }
        });
        waited.await.expect("datagrams are answered");
    }

    /// The longest time without an answer, and who answered, in order and each once.
    fn all(self) -> (Duration, Vec<String>) {
        self.task.abort();
        let heard = self.heard.lock().unwrap();
        let gaps = heard.windows(2).map(|pair| pair[1].0 - pair[0].0);
        let mut tags: Vec<String> = heard.iter().map(|(_, tag)| tag.clone()).collect();
        tags.dedup();
        (gaps.max().unwrap(), tags)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_are_answered_while_copies_of_a_target_are_killed_and_replaced() {
    let (mut cluster, processes) = Cluster::with_ambassadors(2).await;
    let first = cluster.go_live(SHOP).await;
    let website = cluster.ids("website");
    let env = cluster.told("website", first.as_str());
    let udp = address(&env, "LOGIC_PORT_7001_UDP");
    assert_eq!(
        udp,
        address(&env, "LOGIC_PORT_7001_TCP"),
        "one number for both"
    );
    let datagrams = [Datagrams::to(udp).await, Datagrams::to(udp).await];
    for one in &datagrams {
        one.until_more(first.as_str(), 20).await;
    }
    kill_each(&cluster, &processes, "shop", "logic").await;
    let second = cluster.go_live(&shop("run: v1", "run: v2")).await;
    for one in datagrams {
        one.until_more(second.as_str(), 20).await;
        let (gap, tags) = one.all();
        assert!(gap < GAP_MAX, "nothing for {gap:?}");
        // Once led to a new copy, nobody hears an old one.
        assert_eq!(tags, [first.to_string(), second.to_string()]);
    }
    assert_eq!(cluster.ids("website"), website, "who links was restarted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_to_another_stack_follow_its_live_release() {
    const NET: &str = "
viking: {name: net}
deploy:
  dns: {image: dns, run: v1, expose: [7053/udp, 7053]}
";
    const APP: &str = "
viking: {name: app}
deploy:
  web: {image: web, run: w1, expose: [7080], link: net/dns}
";
    let (mut cluster, _processes) = Cluster::with_ambassadors(1).await;
    let first = cluster.go_live(NET).await;
    let app = cluster.go_live(APP).await;
    let web = cluster.ids("web");
    let env = cluster.told("web", app.as_str());
    assert!(env["DNS_PORT"].starts_with("tcp://"), "{}", env["DNS_PORT"]);
    let datagrams = Datagrams::to(address(&env, "DNS_PORT_7053_UDP")).await;
    datagrams.until_more(first.as_str(), 20).await;
    let second = cluster.go_live(&NET.replace("v1", "v2")).await;
    datagrams.until_more(second.as_str(), 20).await;
    let (gap, tags) = datagrams.all();
    assert!(gap < GAP_MAX, "nothing for {gap:?}");
    assert_eq!(tags, [first.to_string(), second.to_string()]);
    assert_eq!(cluster.ids("web"), web, "who links was restarted");
}

/// Who answers datagrams.
async fn datagram(address: SocketAddr, tag: &str) -> Vec<String> {
    let datagrams = Datagrams::to(address).await;
    datagrams.until_more(tag, 3).await;
    datagrams.all().1
}

/// Old and new run side by side: the old website must never be answered by the new logic, nor the other
/// way round, over neither protocol.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_release_is_staged_each_tag_reaches_its_own_copies() {
    let (mut cluster, _processes) = Cluster::with_ambassadors(1).await;
    let old = cluster.go_live(SHOP).await;
    let changed = shop("run: v1", "run: v2").replace("run: w1", "run: slow");
    let new = cluster.push(&changed).await;
    let both_run = |world: &viking::model::world::World| {
        let staging = |phase: Phase| phase == Phase::Staging;
        let stack = world.stacks.get(&name("shop"));
        stack.is_some_and(|stack| staging(stack.pointer.phase)) && cluster.ids("website").len() == 2
    };
    cluster.until("both websites run", s(60), both_run).await;
    let told = |tag: &str| {
        let env = cluster.told("website", tag);
        let of = |proto: &str| address(&env, &format!("LOGIC_PORT_7001_{proto}"));
        (of("TCP"), of("UDP"))
    };
    for tag in [&old, &new] {
        let (tcp, udp) = told(tag.as_str());
        for _ in 0..10 {
            assert_eq!(request(tcp).await.unwrap(), tag.as_str());
        }
        assert_eq!(datagram(udp, tag.as_str()).await, [tag.as_str()]);
    }
    let (old_tcp, old_udp) = told(old.as_str());
    cluster.until("it is still staged", s(1), both_run).await;
    cluster.until_live(&new).await;
    let (tcp, udp) = told(new.as_str());
    assert_ne!((tcp, udp), (old_tcp, old_udp), "a listener for each tag");
    assert_eq!(request(tcp).await.unwrap(), new.as_str());
    assert_eq!(datagram(udp, new.as_str()).await, [new.as_str()]);
}
