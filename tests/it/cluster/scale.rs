//! What a large cluster costs its etcd while nothing happens, and whom a change wakes: 200 hosts with
//! 5,000 jobs, fake engines, one real etcd, real time.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use viking::model::registry::{CopyAddresses, Turn};
use viking::model::world::{StackWorld, World};
use viking::router::ambassador::{self, Ambassador};

use super::{Cluster, s};
use crate::store::etcd::server::{Etcd, ports};

const HOSTS: usize = 200;
const STACKS: usize = 50;
/// Jobs of each stack.
const SCALE: usize = 100;
/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(60);
/// Requests per host and second.
const REQUESTS_MAX: f64 = 2.0;
/// How far apart hosts start.
const START_APART: Duration = Duration::from_millis(100);
/// Changes that are made, and windows in which nothing is.
const WINDOWS: usize = 40;
/// How soon after a change who it concerns has read.
const WOKEN: Duration = Duration::from_millis(700);

/// Messages that etcd has received from clients, those on streams included.
async fn requests(etcd: &Etcd) -> f64 {
    let url = format!("{}/metrics", etcd.endpoints()[0]);
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("grpc_server_msg_received_total"));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// The parts of a host that the harness leaves out, for what they ask of the store.
fn start_ambassadors(
    cluster: &Cluster,
    stop: &CancellationToken,
) -> Vec<mpsc::Sender<ambassador::Listen>> {
    let ports = ports(cluster.hosts.len());
    let hosts = cluster.hosts.iter().zip(ports);
    hosts
        .map(|(host, registry_port)| {
            let (ask, asked) = mpsc::channel(1);
            let ambassador = Ambassador {
                tables: host.tables.clone(),
                host: host.name.clone(),
                registry_port,
                front: None,
                asked,
                copies: watch::channel(CopyAddresses::new()).0,
                turn: Turn::default(),
            };
            tokio::spawn(ambassador::run(ambassador, stop.clone()));
            ask
        })
        .collect()
}

fn reads(cluster: &Cluster) -> Vec<u64> {
    cluster.hosts.iter().map(|host| host.link.reads()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: 200 hosts and 5,000 jobs in real time"]
async fn an_idle_cluster_leaves_etcd_alone_and_a_change_wakes_whom_it_concerns() {
    let etcd = Etcd::start(1).await;
    let mut cluster = Cluster::over(HOSTS, etcd.store().await, Some(&etcd)).await;
    for n in 0..HOSTS {
        cluster.start_candidate(n);
        // Machines do not all boot in one moment, and this one runs them all.
        tokio::time::sleep(START_APART).await;
    }
    until(&cluster, "all hosts are seen", |world| {
        world.hosts.len() == HOSTS
    })
    .await;
    for n in 0..STACKS {
        let yaml = format!(
            "viking: {{name: s{n}}}\ndeploy:\n  web: {{image: web, run: v1, expose: [80], scale: {SCALE}}}\n"
        );
        cluster.push(&yaml).await;
        // One after the other: what a cluster costs while it is filled is not measured here.
        let live = |stack: &StackWorld| stack.pointer.live.is_some();
        let all_live = |world: &World| world.stacks.values().filter(|s| live(s)).count() > n;
        until(&cluster, "the stack is live", all_live).await;
    }
    // Each would follow all of that, and they share two cores here.
    let stop = CancellationToken::new();
    let _asks = start_ambassadors(&cluster, &stop);
    // The first full passes are over, and so are drains.
    tokio::time::sleep(s(30)).await;
    let before = requests(&etcd).await;
    tokio::time::sleep(IDLE).await;
    let asked = requests(&etcd).await - before;
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let per_host = asked / IDLE.as_secs_f64() / HOSTS as f64;
    println!("idle: {per_host:.2} requests per host and second");

    // Everybody also looks by itself now and then, not evenly: as many windows without a change tell how
    // many that are.
    let (mut calm, mut changed) = (0, 0);
    for host in 0..WINDOWS {
        calm += woken(&cluster, |_| ()).await;
        changed += woken(&cluster, |cluster| {
            let engine = &cluster.hosts[host * HOSTS / WINDOWS].engine;
            let name = engine.snapshot()[0].name.clone();
            engine.update_memory(&name, 1 << 20);
        })
        .await;
    }
    println!(
        "woken in {WINDOWS} windows: {calm} hosts by nothing, {changed} by changes that each concern one"
    );
    stop.cancel();
    assert!(per_host < REQUESTS_MAX, "{per_host:.2}");
    // The host itself, the leader, and chance.
    assert!(
        changed <= calm + 4 * WINDOWS + calm / 4,
        "{changed} against {calm}"
    );
}

/// Waits until a world is seen that is so. All hosts list everything as they begin, and again whenever a
/// lease of theirs ended: nothing else gets through on a small machine meanwhile.
async fn until(cluster: &Cluster, what: &str, is_so: impl Fn(&World) -> bool) {
    let look = async {
        loop {
            let world = cluster.clear.world(viking::clock::now_ms()).await;
            if world.is_ok_and(|world| is_so(&world)) {
                break;
            }
            tokio::time::sleep(s(1)).await;
        }
    };
    let seen = tokio::time::timeout(s(1_200), look).await;
    seen.unwrap_or_else(|_| panic!("not within 20 minutes: {what}"));
}

/// How many hosts read within a moment of something.
async fn woken(cluster: &Cluster, something: impl Fn(&Cluster)) -> usize {
    let before = reads(cluster);
    something(cluster);
    tokio::time::sleep(WOKEN).await;
    let after = reads(cluster);
    before
        .iter()
        .zip(after)
        .filter(|(before, after)| **before != *after)
        .count()
}
