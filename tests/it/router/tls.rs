//! Certificates by name, both versions of HTTP over TLS, and the way from the clear to https.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use viking::router::front::{self, Certificates, Speaks};

use super::app::{App, header};
use super::{Door, domains, settings};

/// A certificate that signs itself, in a folder as `file.crt` and `file.key`.
fn write(folder: &Path, file: &str, names: &[&str]) -> rcgen::Certificate {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    std::fs::write(folder.join(format!("{file}.crt")), made.cert.pem()).unwrap();
    let key = made.signing_key.serialize_pem();
    std::fs::write(folder.join(format!("{file}.key")), key).unwrap();
    made.cert
}

/// A door with TLS besides.
struct Secure {
    door: Door,
    address: SocketAddr,
    certificates: Arc<Certificates>,
}

impl Secure {
    async fn with(folder: &Path, copies: &[SocketAddr]) -> Self {
        let mut secure = settings();
        secure.hsts_s = 60;
        let certificates = Arc::clone(&secure.certificates);
        let door = Door::with(secure, copies);
        let follow = Arc::clone(&certificates).follow(
            folder.to_owned(),
            Duration::from_millis(20),
            door.shutdown.clone(),
        );
        tokio::spawn(follow);
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (front, shutdown) = (door.front.clone(), door.shutdown.clone());
        tokio::spawn(front::run(front, listener, Speaks::Https, shutdown));
        Self {
            door,
            address,
            certificates,
        }
    }

    async fn until_covered(&self, host: &str) {
        while !self.certificates.covers(host) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn connect(
        &self,
        trusts: &rcgen::Certificate,
        name: &str,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(trusts.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await
    }
}

async fn ask(mut stream: TlsStream<TcpStream>, host: &str) -> String {
    let ask = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.ok();
    said
}

#[tokio::test]
async fn each_name_gets_its_certificate_and_a_stranger_none() {
    let folder = tempfile::tempdir().unwrap();
    let shop = write(folder.path(), "shop", &["shop.test", "www.shop.test"]);
    let wild = write(folder.path(), "wild", &["*.wild.test"]);
    let app = App::named("shop").await;
    let mut secure = Secure::with(folder.path(), &[app.address]).await;
    domains(&mut secure.door.seen, &["shop.test", "*.wild.test"]);
    secure.door.update();
    secure.until_covered("shop.test").await;
    let stream = secure.connect(&shop, "shop.test", &[]).await.unwrap();
    let said = ask(stream, "shop.test").await;
    assert!(
        said.starts_with("HTTP/1.1 200") && said.ends_with("shop"),
        "{said}"
    );
    assert_eq!(
        header(&said, "strict-transport-security").as_deref(),
        Some("max-age=60")
    );
    let asked = app.heads().remove(0);
    assert_eq!(
        header(&asked, "x-forwarded-proto").as_deref(),
        Some("https")
    );
    let stream = secure.connect(&wild, "a.wild.test", &[]).await.unwrap();
    assert!(ask(stream, "a.wild.test").await.ends_with("shop"));
    for stranger in ["other.test", "a.b.wild.test", "wild.test"] {
        assert!(
            secure.connect(&wild, stranger, &[]).await.is_err(),
            "{stranger}"
        );
    }
    let stream = secure
        .connect(&shop, "shop.test", &["h2", "http/1.1"])
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
}

#[tokio::test]
async fn who_comes_in_the_clear_is_sent_to_https_when_there_is_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::named("shop").await;
    let mut secure = Secure::with(folder.path(), &[app.address]).await;
    domains(&mut secure.door.seen, &["shop.test", "plain.test"]);
    secure.door.update();
    assert_eq!(secure.door.get("/a?b").await.0, 200, "there is none yet");
    let broken = folder.path().join("broken.crt");
    std::fs::write(broken, "no certificate").unwrap();
    std::fs::write(folder.path().join("broken.key"), "no key").unwrap();
    write(folder.path(), "shop", &["shop.test"]);
    // It is found without a restart, and the broken one beside it does no harm.
    secure.until_covered("shop.test").await;
    let ask = b"GET /a?b HTTP/1.1\r\nHost: shop.test:80\r\nConnection: close\r\n\r\n";
    let said = secure.door.raw(ask).await;
    assert!(said.starts_with("HTTP/1.1 308 "), "{said}");
    assert_eq!(
        header(&said, "location").as_deref(),
        Some("https://shop.test/a?b")
    );
    assert_eq!(header(&said, "strict-transport-security"), None);
    assert_eq!(secure.door.get_of("plain.test", "/").await.0, 200);
}
