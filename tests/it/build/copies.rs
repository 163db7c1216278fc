//! Copies of the registry over real registries: what one has comes to the other, also after one of
//! them died half way, and other hosts reach them through gates that keep strangers out. Needs the
//! `docker-registry` of Debian's package of that name; no Docker.

#![expect(
    clippy::unwrap_used,
    reason = "what fails in the harness fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::StatusCode;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use viking::build::copies::{Copies as _, HttpCopies};
use viking::model::endpoint::Endpoint;
use viking::model::job::{Instance, JobId, JobKey};
use viking::model::names::{HostName, NodeName, StackName, Tag};
use viking::model::registry::{CopyAddresses, Credential, CredentialRecord, Turn};
use viking::model::spec::Proto;
use viking::model::trash::Manifest;
use viking::router::ambassador::{self, Ambassador};
use viking::store::keys::{Key, Keys};
use viking::store::local::LocalStore;
use viking::store::tables::Tables;
use viking::store::{Op, Txn};

use crate::e2e::http::free_port;

/// For whatever should come true.
const LONG: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);

const IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A registry process on a loopback port, with its data in a folder.
struct Registry {
    dir: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Registry {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let process = serve(dir.path(), port);
        let registry = Self { dir, port, process };
        registry.answers().await;
        registry
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    async fn answers(&self) {
        let url = format!("http://{}/v2/", self.address());
        until("the registry answers", async || ok(&url).await).await;
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    async fn start_again(&mut self) {
        self.process = serve(self.dir.path(), self.port);
        self.answers().await;
    }

    /// Bytes of uploads that are not done.
    fn half_done(&self) -> u64 {
        fn sum(dir: &Path, below: bool) -> u64 {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let size = |entry: std::fs::DirEntry| {
                let below = below || entry.file_name() == "_uploads";
                match entry.metadata() {
                    Ok(found) if found.is_dir() => sum(&entry.path(), below),
                    Ok(found) if below => found.len(),
                    _ => 0,
                }
            };
            entries.map(size).sum()
        }
        sum(self.dir.path(), false)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn serve(dir: &Path, port: u16) -> Child {
    let data = dir.join("data");
    let config = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  \
         filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
         http: {{addr: \"127.0.0.1:{port}\"}}\n",
        data.display()
    );
    let file = dir.join("config.yml");
    std::fs::write(&file, config).unwrap();
    Command::new("docker-registry")
        .arg("serve")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry must be installed for this test")
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let looks = async {
        while !is().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    let looked = tokio::time::timeout(LONG, looks).await;
    looked.unwrap_or_else(|_| panic!("never: {what}"));
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn ok(url: &str) -> bool {
    let answer = client().get(url).timeout(Duration::from_secs(2));
    answer.send().await.is_ok_and(|a| a.status().is_success())
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Bytes that do not repeat.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

async fn push_blob(at: SocketAddr, repository: &str, blob: &[u8]) -> String {
    let digest = digest(blob);
    let begin = format!("http://{at}/v2/{repository}/blobs/uploads/");
    let begun = client().post(begin).send().await.unwrap();
    assert_eq!(begun.status(), StatusCode::ACCEPTED);
    let place = begun.headers()["location"].to_str().unwrap();
    let mark = if place.contains('?') { '&' } else { '?' };
    let place = begun.url().join(&format!("{place}{mark}digest={digest}"));
    let put = client().put(place.unwrap()).body(blob.to_vec());
    let done = put.send().await.unwrap();
    assert_eq!(done.status(), StatusCode::CREATED);
    digest
}

async fn push_manifest(at: SocketAddr, repository: &str, kind: &str, text: &str) -> Manifest {
    let digest = digest(text.as_bytes());
    let url = format!("http://{at}/v2/{repository}/manifests/{digest}");
    let put = client().put(url).header("content-type", kind);
    let done = put.body(text.to_owned()).send().await.unwrap();
    assert_eq!(done.status(), StatusCode::CREATED);
    Manifest {
        repository: repository.to_owned(),
        digest,
    }
}

/// An image with these layers.
async fn push(at: SocketAddr, repository: &str, layers: &[&[u8]]) -> Manifest {
    let config = format!(r#"{{"os": "linux", "layers": {}}}"#, layers.len());
    let config = push_blob(at, repository, config.as_bytes()).await;
    let mut described = Vec::new();
    for layer in layers {
        let digest = push_blob(at, repository, layer).await;
        described.push(format!(
            r#"{{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "size": {}, "digest": "{digest}"}}"#,
            layer.len()
        ));
    }
    let text = format!(
        r#"{{"schemaVersion": 2, "mediaType": "{IMAGE}", "config":
        {{"mediaType": "application/vnd.docker.container.image.v1+json", "size": 2,
        "digest": "{config}"}}, "layers": [{}]}}"#,
        described.join(", ")
    );
    push_manifest(at, repository, IMAGE, &text).await
}

async fn push_index(at: SocketAddr, repository: &str, of: &Manifest) -> Manifest {
    let text = format!(
        r#"{{"schemaVersion": 2, "mediaType": "{INDEX}", "manifests": [{{"mediaType": "{IMAGE}",
        "size": 2, "digest": "{}", "platform": {{"os": "linux", "architecture": "amd64"}}}}]}}"#,
        of.digest
    );
    push_manifest(at, repository, INDEX, &text).await
}

fn copy(slot: u32) -> (JobKey, JobId) {
    let job = JobKey {
        stack: StackName::core(),
        tag: Tag::of_services(),
        node: NodeName::registry(),
        slot,
    };
    let id = job.id(Instance(1));
    (job, id)
}

fn copies(of: &[&Registry]) -> (watch::Sender<CopyAddresses>, HttpCopies) {
    let addresses = of.iter().zip(0..).map(|(r, n)| (copy(n).1, r.address()));
    let (sender, addresses) = watch::channel(addresses.collect());
    let copies = HttpCopies::new(addresses, Turn::default()).unwrap();
    (sender, copies)
}

#[tokio::test]
async fn what_one_copy_has_comes_to_the_other_whole() {
    let (one, two) = tokio::join!(Registry::start(), Registry::start());
    let (_addresses, copies) = copies(&[&one, &two]);
    let ((_, from), (_, to)) = (copy(0), copy(1));
    let layer = bytes(1, 3 << 20);
    let image = push(one.address(), "shop/web", &[&layer, &bytes(2, 1000)]).await;
    let index = push_index(one.address(), "shop/web", &image).await;
    let tags = BTreeSet::from(["a1b2c3".to_owned()]);
    for manifest in [&image, &index] {
        assert!(copies.holds(&from, manifest).await.unwrap());
        assert!(!copies.holds(&to, manifest).await.unwrap());
    }
    // The index brings the image with it.
    copies.bring(&index, &tags, &from, &to).await.unwrap();
    for manifest in [&image, &index] {
        assert!(copies.holds(&to, manifest).await.unwrap());
    }
    let there = two.address();
    let url = format!("http://{there}/v2/shop/web/blobs/{}", digest(&layer));
    let read = client().get(url).send().await.unwrap().bytes().await;
    assert!(read.unwrap() == layer);
    let tagged = format!("http://{there}/v2/shop/web/manifests/a1b2c3");
    let head = client().head(tagged).header("accept", INDEX);
    let head = head.send().await.unwrap();
    assert_eq!(head.headers()["docker-content-digest"], *index.digest);
    // Again is nothing new; what is forgotten is gone, and can be had again.
    copies.bring(&index, &tags, &from, &to).await.unwrap();
    copies.forget(&to, &index).await.unwrap();
    assert!(!copies.holds(&to, &index).await.unwrap());
    copies.forget(&to, &index).await.unwrap();
    copies.bring(&index, &tags, &from, &to).await.unwrap();
    // A layer that the disk lost is found out, and repaired from the other.
    let lost = digest(&layer).replace("sha256:", "");
    let blob = format!("data/docker/registry/v2/blobs/sha256/{}/{lost}", &lost[..2]);
    std::fs::remove_dir_all(two.dir.path().join(blob)).unwrap();
    assert!(!copies.holds(&to, &index).await.unwrap());
    copies.bring(&index, &tags, &from, &to).await.unwrap();
    assert!(copies.holds(&to, &index).await.unwrap());
}

#[tokio::test]
async fn a_copy_that_dies_half_way_is_repaired_when_it_is_back() {
    let (mut one, mut two) = tokio::join!(Registry::start(), Registry::start());
    let image = push(one.address(), "shop/web", &[&bytes(3, 96 << 20)]).await;
    let ((_, from), (_, to)) = (copy(0), copy(1));
    for taker_dies in [true, false] {
        let (_addresses, copies) = copies(&[&one, &two]);
        let (sent, manifest) = (copies.clone(), image.clone());
        let (a, b) = (from.clone(), to.clone());
        let bring =
            tokio::spawn(async move { sent.bring(&manifest, &BTreeSet::new(), &a, &b).await });
        until("half of it is there", async || two.half_done() > 1 << 20).await;
        if taker_dies { &mut two } else { &mut one }.kill();
        let error = bring.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("broke off"), "{error}");
        if taker_dies { &mut two } else { &mut one }
            .start_again()
            .await;
        assert!(!copies.holds(&to, &image).await.unwrap());
        std::fs::remove_dir_all(
            two.dir
                .path()
                .join("data/docker/registry/v2/repositories/shop/web/_uploads"),
        )
        .ok();
    }
    let (_addresses, copies) = copies(&[&one, &two]);
    let none = BTreeSet::new();
    copies.bring(&image, &none, &from, &to).await.unwrap();
    assert!(copies.holds(&to, &image).await.unwrap());
}

/// The ambassador of one host.
struct Host {
    front: u16,
    addresses: watch::Receiver<CopyAddresses>,
    _stop: DropGuard,
}

fn host(tables: &Tables, name: &str) -> Host {
    let (stop, front) = (CancellationToken::new(), free_port());
    let (_, asked) = mpsc::channel(1);
    let (copies, addresses) = watch::channel(CopyAddresses::new());
    let ambassador = Ambassador {
        tables: tables.clone(),
        host: HostName::parse(name).unwrap(),
        registry_port: front,
        front: None,
        asked,
        copies,
        turn: Turn::default(),
    };
    tokio::spawn(ambassador::run(ambassador, stop.clone()));
    Host {
        front,
        addresses,
        _stop: stop.drop_guard(),
    }
}

/// A registry that its host sees healthy and offers to others at `gate`.
async fn announce(tables: &Tables, name: &str, slot: u32, gate: SocketAddr) {
    let (job, job_id) = copy(slot);
    let endpoint = Endpoint {
        stack: job.stack.clone(),
        tag: job.tag.clone(),
        node: job.node.clone(),
        port: 5000,
        proto: Proto::Tcp,
        ip: gate.ip(),
        host_port: gate.port(),
        job_id,
    };
    let state = r#"{"v": 1, "instance": 1, "state": "healthy", "since_ms": 1}"#;
    let host = HostName::parse(name).unwrap();
    put(
        tables,
        &[
            (Key::Port(endpoint), gate.to_string()),
            (Key::State(host, job), state.to_owned()),
        ],
    )
    .await;
}

async fn put(tables: &Tables, records: &[(Key, String)]) {
    let keys: &Keys = tables.keys();
    let ops = records
        .iter()
        .map(|(key, value)| Op::put(keys.text(key), value.as_bytes()));
    let txn = Txn {
        compares: Vec::new(),
        ops: ops.collect(),
    };
    tables.store().commit(txn).await.unwrap();
}

/// What somebody hears who speaks HTTP to a port.
fn plain(at: SocketAddr) -> Vec<u8> {
    let mut heard = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(at) {
        stream.set_read_timeout(Some(LONG)).unwrap();
        let request = format!("GET /v2/ HTTP/1.1\r\nhost: {at}\r\n{:100}\r\n\r\n", "x: y");
        stream.write_all(request.as_bytes()).ok();
        stream.read_to_end(&mut heard).ok();
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn other_hosts_come_through_the_gate_strangers_do_not_and_one_copy_is_enough() {
    let (mut one, two) = tokio::join!(Registry::start(), Registry::start());
    let tables = Tables::open(LocalStore::in_memory(), "", None, 0)
        .await
        .unwrap();
    let credential = CredentialRecord {
        v: 1,
        credential: Credential::new([5; 32]),
    };
    let credential = serde_json::to_string(&credential).unwrap();
    put(&tables, &[(Key::RegistryCredential, credential)]).await;
    let gates = [([127, 0, 0, 2], one.port), ([127, 0, 0, 3], two.port)].map(SocketAddr::from);
    let hosts = ["host-a", "host-b", "host-c"].map(|name| host(&tables, name));
    for ((name, gate), slot) in ["host-a", "host-b"].iter().zip(gates).zip(0..) {
        announce(&tables, name, slot, gate).await;
    }
    for host in &hosts {
        let url = format!("http://127.0.0.1:{}/v2/", host.front);
        until("every host reaches a copy", async || ok(&url).await).await;
        until("and knows both", async || {
            host.addresses.borrow().len() == 2
        })
        .await;
    }
    // A host without a copy pushes, connection after connection, and what it pushed is in one.
    let front = SocketAddr::from(([127, 0, 0, 1], hosts[2].front));
    let image = push(front, "shop/web", &[&bytes(4, 8 << 20), &bytes(5, 10)]).await;
    let copies = HttpCopies::new(hosts[2].addresses.clone(), Turn::default()).unwrap();
    let (a, b) = (copy(0).1, copy(1).1);
    assert!(copies.holds(&a, &image).await.unwrap());
    assert!(!copies.holds(&b, &image).await.unwrap());
    // Through two gates to the other one.
    copies
        .bring(&image, &BTreeSet::new(), &a, &b)
        .await
        .unwrap();
    for gate in gates {
        let heard = plain(gate);
        assert!(
            heard.len() <= 32 && !heard.starts_with(b"HTTP"),
            "{heard:?}"
        );
    }
    // The first one dies, still in everybody's table; nobody's Docker notices.
    one.kill();
    let path = format!("shop/web/manifests/{}", image.digest);
    for host in &hosts {
        let url = format!("http://127.0.0.1:{}/v2/{path}", host.front);
        let accept = || client().get(&url).header("accept", IMAGE).send();
        until("the other copy serves", async || {
            accept()
                .await
                .is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }
    let dump = tables
        .dump()
        .await
        .unwrap()
        .into_iter()
        .collect::<BTreeMap<_, _>>();
    assert_eq!(dump["/secret/registry/hosts"], "(hidden)");
}
