//! Certificates by ACME, from the order to the page over https: the leader's loop and front doors on one
//! store, and Caddy as the CA. Each test has a network of its own (`alone`).

mod alone;
mod ca;
#[cfg(feature = "failpoints")]
mod later;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use viking::acme;
use viking::config::Acme;
use viking::model::certificate::{CertificateNote, ChallengeKind, DoorRecord};
use viking::model::host::{EngineState, HostRecord, READS};
use viking::model::names::HostName;
use viking::router::certificates;
use viking::router::front::{self, Certificates, Speaks};
use viking::store::election::{self, Leadership};
use viking::store::keys::Family;
use viking::store::local::LocalStore;
use viking::store::tables::Tables;
use viking::store::{Op, Txn};
use viking::wake::Bell;

use self::alone::alone;
use self::ca::Ca;
use super::app::App;
use super::{Door, settings};

const SHOP: &str = "shop.test";
const TAG: &str = "a1b2c3d4e5f6";

/// What becomes of a test that waits for something that never is.
const PATIENCE: Duration = Duration::from_secs(40);

/// A cluster as far as certificates go.
struct Rig {
    ca: Ca,
    tables: Tables,
    app: App,
    doors: BTreeMap<&'static str, Open>,
    /// Ends what runs in the background.
    shutdown: CancellationToken,
}

/// The front door of a host.
struct Open {
    door: Door,
    address: SocketAddr,
    certificates: Arc<Certificates>,
}

/// A leader at work.
struct Leader {
    leadership: Arc<Leadership>,
    stop: CancellationToken,
    working: JoinHandle<()>,
}

async fn write(tables: &Tables, key: &str, value: &Value) {
    let txn = Txn {
        compares: Vec::new(),
        ops: vec![Op::put(key, value.to_string())],
    };
    tables.store().commit(txn).await.unwrap();
}

/// Makes a release with these domains live.
async fn go_live(tables: &Tables, domains: &[&str]) {
    let domain = |name: &&str| json!({ "name": name, "port": 80, "since_ms": 1 });
    let domains: Vec<Value> = domains.iter().map(domain).collect();
    let commit = json!({
        "id": "a1b2c3d4e5f60718293a4b5c6d7e8f9012345678", "subject": "Sell", "author": "anna", "at_ms": 1
    });
    let web = json!({
        "tag": TAG, "kind": { "kind": "container" }, "spec_hash": "v1:0", "scale": 1,
        "stop": { "timeout_ms": 1000 }, "has_volume": false, "exclusive": false, "domains": domains
    });
    let release = json!({
        "v": 1, "stack": "shop", "tag": TAG, "commit": commit, "run": "1-1", "made_ms": 1,
        "nodes": { "web": web }
    });
    write(tables, &format!("/release/shop/{TAG}"), &release).await;
    let pointer = json!({ "v": 1, "live": TAG, "phase": "live" });
    write(tables, "/release/shop", &pointer).await;
}

impl Rig {
    async fn new() -> Self {
        let tables = Tables::open(LocalStore::in_memory(), "", None, 0).await;
        Self {
            ca: Ca::start().await,
            tables: tables.unwrap(),
            app: App::named("shop").await,
            doors: BTreeMap::new(),
            shutdown: CancellationToken::new(),
        }
    }

    /// Opens a host's front door on the ports that CAs come to.
    fn open(&mut self, host: &'static str, ip: &str, speaks: &[Speaks]) {
        let settings = settings();
        let certificates = Arc::clone(&settings.certificates);
        let door = Door::with(settings, &[self.app.address]);
        let (said, telling) = watch::channel(DoorRecord {
            http: speaks.contains(&Speaks::Http),
            https: speaks.contains(&Speaks::Https),
            answers: Vec::new(),
        });
        let stop = || self.shutdown.clone();
        for speaks in speaks {
            let port = if *speaks == Speaks::Http { 80 } else { 443 };
            let listener = StdListener::bind((ip, port)).unwrap();
            tokio::spawn(front::run(door.front.clone(), listener, *speaks, stop()));
        }
        let follow =
            certificates::follow(self.tables.clone(), Arc::clone(&certificates), said, stop());
        tokio::spawn(follow);
        tokio::spawn(say(self.tables.clone(), host, telling));
        let open = Open {
            door,
            address: format!("{ip}:443").parse().unwrap(),
            certificates,
        };
        self.doors.insert(host, open);
    }

    async fn lead(&self, name: &str) -> Leader {
        self.lead_with(name, Some(self.ca.settings())).await
    }

    async fn lead_with(&self, name: &str, settings: Option<Acme>) -> Leader {
        self.work(self.elect(name).await, settings)
    }

    async fn elect(&self, name: &str) -> Arc<Leadership> {
        let (tables, stop) = (&self.tables, &self.shutdown);
        let (ttl, handle) = (Duration::from_secs(3), Handle::current());
        let elected = election::campaign(tables.store(), "/leader", name, ttl, &handle, stop);
        Arc::new(elected.await.unwrap())
    }

    fn work(&self, leadership: Arc<Leadership>, settings: Option<Acme>) -> Leader {
        let (tables, stop) = (self.tables.clone(), self.shutdown.child_token());
        let bell = Bell::new();
        let prefixes = [Family::Release, Family::Host].map(|of| tables.keys().family(of));
        let (ringing, rung, until) = (tables.clone(), bell.clone(), stop.clone());
        tokio::spawn(async move { ringing.ring(&rung, &prefixes, &until).await });
        let parts = acme::Parts {
            tables,
            settings,
            covered: Arc::new(|_| Some(false)),
        };
        let lead = acme::run(parts, Arc::clone(&leadership), bell.ear(), stop.clone());
        Leader {
            leadership,
            stop,
            working: tokio::spawn(lead),
        }
    }

    /// Waits until what is known of a domain's certificate is as wanted.
    async fn until(
        &self,
        domain: &str,
        wanted: impl Fn(&CertificateNote) -> bool,
    ) -> CertificateNote {
        let waits = async {
            loop {
                let notes = self.tables.certificate_notes().await.unwrap();
                if let Some(note) = notes.get(domain).filter(|note| wanted(note)) {
                    return note.clone();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waits).await;
        match waited {
            Ok(note) => note,
            Err(_) => panic!("{:?}", self.tables.certificate_notes().await),
        }
    }

    /// Waits until a host has said of itself what the leader waits for.
    async fn until_said(&self, host: &str) {
        let host = HostName::parse(host).unwrap();
        let said = async {
            loop {
                let world = self.tables.world(0).await.unwrap();
                if world.hosts.contains_key(&host) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, said).await.unwrap();
    }

    /// Waits until nobody is asked to answer anything any more.
    async fn until_tidy(&self) {
        let waits = async {
            while !self.tables.challenges().await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waits).await;
        waited.expect("challenges are dropped");
    }

    async fn until_served(&self, host: &str, domain: &str) {
        let waits = async {
            while !self.doors[host].certificates.covers(domain) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waits).await;
        waited.expect("the door serves it");
    }

    /// A page over https from a host, by the CA's root, and the certificate it was shown.
    async fn page(&self, host: &str, domain: &str) -> (String, Vec<u8>) {
        page(self.doors[host].address, &self.ca.root(), domain).await
    }

    /// No application has heard anything of it all.
    fn nobody_heard(&self) {
        let heads = self.app.heads();
        assert!(!heads.iter().any(|head| head.contains("acme")), "{heads:?}");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Leader {
    async fn end(self) {
        self.stop.cancel();
        self.working.await.unwrap();
        Arc::into_inner(self.leadership).unwrap().resign().await;
    }
}

/// Says of a host what its heartbeat would.
async fn say(tables: Tables, host: &str, mut door: watch::Receiver<DoorRecord>) {
    let host = HostName::parse(host).unwrap();
    let lease = tables
        .store()
        .grant(Duration::from_secs(600))
        .await
        .unwrap();
    loop {
        let record = HostRecord {
            v: 1,
            address: "127.0.0.1".parse().unwrap(),
            engine: EngineState::Up {
                version: "20.10".to_owned(),
            },
            version: "0.6.0".to_owned(),
            reads: READS,
            api: String::new(),
            started_ms: 0,
            fetched: Vec::new(),
            draining: Vec::new(),
            door: door.borrow_and_update().clone(),
            sites: Vec::new(),
            volumes: None,
        };
        tables.announce(&host, &record, lease).await.unwrap();
        if door.changed().await.is_err() {
            return;
        }
    }
}

async fn shake(
    address: SocketAddr,
    root: &Path,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(root).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

async fn page(address: SocketAddr, root: &Path, domain: &str) -> (String, Vec<u8>) {
    let mut stream = shake(address, root, domain).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let ask = format!("GET / HTTP/1.1\r\nHost: {domain}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.ok();
    (said, shown)
}

/// The name of a test of this file in the binary.
macro_rules! alone {
    ($name:ident) => {
        concat!("router::acme::", stringify!($name))
    };
}

#[test]
fn a_domain_gets_its_certificate_over_http_and_every_host_serves_it() {
    alone(
        alone!(a_domain_gets_its_certificate_over_http_and_every_host_serves_it),
        async {
            let mut rig = Rig::new().await;
            rig.open("a", "127.0.0.1", &[Speaks::Http, Speaks::Https]);
            rig.open("b", "127.0.0.2", &[Speaks::Http, Speaks::Https]);
            go_live(&rig.tables, &[SHOP, "*.shop.test"]).await;
            let leader = rig.lead("a").await;
            let note = rig.until(SHOP, |note| note.until_ms > 0).await;
            assert!(note.is_valid(viking::clock::now_ms()), "{note:?}");
            assert_eq!((note.failures, note.reason.as_str()), (0, ""));
            for host in ["a", "b"] {
                rig.until_served(host, SHOP).await;
                let (said, _) = rig.page(host, SHOP).await;
                assert!(said.starts_with("HTTP/1.1 200"), "{said}");
                assert!(said.ends_with("shop"), "{said}");
            }
            rig.until_tidy().await;
            rig.nobody_heard();
            let notes = rig.tables.certificate_notes().await.unwrap();
            assert_eq!(notes.len(), 1, "no wildcard: {notes:?}");
            // In the clear it is led to https now, as for a certificate of the folder.
            let ask = "GET /a HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
            let said = rig.doors["a"].door.raw(ask.as_bytes()).await;
            assert!(said.starts_with("HTTP/1.1 308"), "{said}");
            for (key, value) in rig.tables.dump().await.unwrap() {
                let secret = value.contains("PRIVATE") || value.contains("key_pkcs8");
                assert!(!secret, "{key}");
            }
            leader.end().await;
        },
    );
}

#[test]
fn with_port_80_off_a_domain_is_proved_in_a_handshake() {
    alone(
        alone!(with_port_80_off_a_domain_is_proved_in_a_handshake),
        async {
            let mut rig = Rig::new().await;
            rig.open("a", "127.0.0.1", &[Speaks::Https]);
            go_live(&rig.tables, &[SHOP]).await;
            let leader = rig.lead("a").await;
            let note = rig.until(SHOP, |note| note.until_ms > 0).await;
            assert_eq!(note.failures, 0);
            rig.until_served("a", SHOP).await;
            let (said, _) = rig.page("a", SHOP).await;
            assert!(said.ends_with("shop"), "{said}");
            rig.until_tidy().await;
            rig.nobody_heard();
            leader.end().await;
        },
    );
}

#[test]
fn a_domain_that_leads_elsewhere_is_told_and_does_not_hold_up_another() {
    alone(
        alone!(a_domain_that_leads_elsewhere_is_told_and_does_not_hold_up_another),
        async {
            let mut rig = Rig::new().await;
            rig.open("a", "127.0.0.1", &[Speaks::Http, Speaks::Https]);
            go_live(&rig.tables, &["elsewhere.test", SHOP]).await;
            let leader = rig.lead("a").await;
            rig.until(SHOP, |note| note.until_ms > 0).await;
            let note = rig.until("elsewhere.test", |note| note.failures > 0).await;
            assert!(note.reason.starts_with("the CA "), "{note:?}");
            assert_eq!((note.failures, note.until_ms), (1, 0));
            let wait = note.next_ms - note.tried_ms;
            assert!((300_000..500_000).contains(&wait), "{note:?}");
            rig.until_tidy().await;
            // It is wanted no more: nothing of it stays.
            go_live(&rig.tables, &[SHOP]).await;
            let waits = async {
                while rig.tables.certificate_notes().await.unwrap().len() > 1 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, waits).await.unwrap();
            leader.end().await;
        },
    );
}

#[test]
fn a_leader_that_goes_in_the_middle_leaves_nothing_behind_and_the_next_begins_again() {
    alone(
        alone!(a_leader_that_goes_in_the_middle_leaves_nothing_behind_and_the_next_begins_again),
        async {
            let mut rig = Rig::new().await;
            rig.open("a", "127.0.0.1", &[Speaks::Http]);
            go_live(&rig.tables, &[SHOP]).await;
            // A host that never answers holds the order up where its challenge is posed already.
            let mute = DoorRecord {
                http: true,
                ..DoorRecord::default()
            };
            let (keep, mute) = watch::channel(mute);
            let saying = tokio::spawn(say(rig.tables.clone(), "mute", mute));
            rig.until_said("mute").await;
            let first = rig.lead("a").await;
            let posed = async {
                while rig.tables.challenges().await.unwrap().is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, posed).await.unwrap();
            first.end().await;
            let left = rig.tables.challenges().await.unwrap();
            assert_eq!(left.len(), 1);
            drop(keep);
            saying.await.unwrap();
            rig.open("mute", "127.0.0.2", &[Speaks::Http]);
            let second = rig.lead("b").await;
            let note = rig.until(SHOP, |note| note.until_ms > 0).await;
            assert_eq!(note.failures, 0, "it did not fail: {note:?}");
            rig.until_tidy().await;
            let gone = left.keys().collect::<BTreeSet<_>>();
            let there = rig.tables.served(&BTreeMap::new()).await.unwrap();
            assert!(there.challenges.keys().all(|token| !gone.contains(token)));
            assert_eq!(there.there.len(), 1);
            // Both leaders are the same to the CA: the account is on record.
            let (account, _) = rig.tables.acme_account().await.unwrap();
            assert_eq!(account.unwrap().email, "ops@shop.test");
            second.end().await;
        },
    );
}

#[test]
fn only_the_ca_s_own_questions_are_answered_and_others_go_to_the_application() {
    alone(
        alone!(only_the_ca_s_own_questions_are_answered_and_others_go_to_the_application),
        async {
            let mut rig = Rig::new().await;
            rig.open("a", "127.0.0.1", &[Speaks::Http]);
            let leadership = rig.elect("a").await;
            let record = viking::model::certificate::ChallengeRecord {
                v: 1,
                domain: SHOP.to_owned(),
                kind: ChallengeKind::Http01,
                answer: viking::model::env::SecretValue::parse("tok.print".to_owned()).unwrap(),
            };
            // Of no order that is under way: it is answered until a leader looks and drops it.
            let pose = rig.tables.pose_challenge(&leadership, "tok", &record);
            pose.await.unwrap();
            let door = &rig.doors["a"].door;
            let answered = async {
                while door.get("/.well-known/acme-challenge/tok").await.1 != "tok.print" {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, answered).await.unwrap();
            let own = door.get("/.well-known/acme-challenge/other").await;
            assert_eq!(own, (200, "shop".to_owned()));
            let heads = rig.app.heads();
            let last = heads.last().unwrap();
            assert!(last.starts_with("GET /.well-known/acme-challenge/other "));
            let leader = rig.work(leadership, None);
            rig.until_tidy().await;
            let dropped = async {
                while door.get("/.well-known/acme-challenge/tok").await.1 != "shop" {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, dropped).await.unwrap();
            leader.end().await;
        },
    );
}
