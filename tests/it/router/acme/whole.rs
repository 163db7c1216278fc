//! The host itself, put together as `viking host` does it: the flag is enough.

use tokio::net::TcpListener;
use viking::config::{Config, FrontDoor, Listen};
use viking::docker::fake::FakeEngine;
use viking::host::{Assembled, serve};
use viking::sync::{Mirrors, Options};

use super::*;

#[test]
fn a_host_that_is_told_of_a_ca_serves_its_domains_over_https_and_says_until_when() {
    alone(
        "router::acme::whole::a_host_that_is_told_of_a_ca_serves_its_domains_over_https_and_says_until_when",
        async {
            let ca = Ca::start().await;
            let tables = Tables::open(LocalStore::in_memory(), "", None, 0).await;
            let tables = tables.unwrap();
            // One without a source would be a stack that is removed.
            let source =
                json!({ "v": 1, "url": "/nowhere", "poll_ms": 600_000, "suspended_ms": 1 });
            write(&tables, "/stack/shop", &source).await;
            go_live(&tables, &[SHOP, "www.shop.test", "*.shop.test"]).await;
            let dir = tempfile::tempdir().unwrap();
            // The operator's own goes first: none is ordered for what it covers.
            let own = rcgen::generate_simple_self_signed(vec!["www.shop.test".to_owned()]).unwrap();
            let folder = dir.path().join("certificates");
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("www.crt"), own.cert.pem()).unwrap();
            std::fs::write(folder.join("www.key"), own.signing_key.serialize_pem()).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let api = listener.local_addr().unwrap();
            let config = Config {
                data_dir: dir.path().to_owned(),
                api,
                host: HostName::parse("a").unwrap(),
                front: FrontDoor {
                    http: Listen::At("127.0.0.1:80".parse().unwrap()),
                    https: Listen::At("127.0.0.1:443".parse().unwrap()),
                    certificates: folder,
                    acme: Some(ca.settings()),
                    ..FrontDoor::default()
                },
                ..Config::default()
            };
            let parts = Assembled {
                tables: tables.clone(),
                engine: Arc::new(FakeEngine::new()),
                machine_id: "machine".to_owned(),
                mirrors: Mirrors::new(dir.path(), Options::from_env()).unwrap(),
            };
            let shutdown = CancellationToken::new();
            let host = tokio::spawn(serve(config, parts, listener, shutdown.clone()));
            let address = "127.0.0.1:443".parse().unwrap();
            let served = async {
                while shake(address, &ca.root(), SHOP).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let bound = async {
                while TcpStream::connect(address).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                served.await;
            };
            tokio::time::timeout(PATIENCE, bound).await.unwrap();
            let http = reqwest::Client::builder().no_proxy().build().unwrap();
            let told = |host: &'static str| {
                let asked = http.get(format!("http://{api}/v1/route?url={host}"));
                async move { asked.send().await.unwrap().json::<Value>().await.unwrap() }
            };
            let exact = told(SHOP).await;
            let words = exact["route"]["certificate"].as_str().unwrap();
            assert!(words.starts_with("valid until "), "{exact}");
            let wild = told("x.shop.test").await;
            let words = wild["route"]["certificate"].as_str().unwrap();
            assert!(words.starts_with("none: a certificate for *. "), "{wild}");
            let notes = tables.certificate_notes().await.unwrap();
            assert_eq!(notes.keys().collect::<Vec<_>>(), [SHOP]);
            shutdown.cancel();
            host.await.unwrap().unwrap();
        },
    );
}
