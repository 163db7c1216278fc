//! The handshake that proves a domain to a CA: it is given to who asks for nothing else, and leads no
//! further.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use viking::model::certificate::{ChallengeKind, ChallengeRecord};
use viking::model::env::SecretValue;
use viking::router::front::{self, Speaks};

use super::app::App;
use super::{Door, settings};

/// Takes any certificate: what is in it is looked at afterwards. Our own library knows no extension of this
/// kind and would refuse to look.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

async fn shake(
    address: SocketAddr,
    name: &str,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything(provider)))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// A door that speaks TLS and has to prove `shop.test`, and the application behind it.
async fn door() -> (Door, App, SocketAddr) {
    let app = App::named("shop").await;
    let settings = settings();
    let record = ChallengeRecord {
        v: 1,
        domain: "shop.test".to_owned(),
        kind: ChallengeKind::TlsAlpn01,
        answer: SecretValue::parse("tok.print".to_owned()).unwrap(),
    };
    let posed = [("tok".to_owned(), record)].into();
    settings.certificates.challenges.pose(posed);
    let door = Door::with(settings, &[app.address]);
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (front, shutdown) = (door.front.clone(), door.shutdown.clone());
    tokio::spawn(front::run(front, listener, Speaks::Https, shutdown));
    (door, app, address)
}

#[tokio::test]
async fn who_asks_for_a_proof_gets_it_and_nothing_after_it() {
    let (_door, app, address) = door().await;
    let mut stream = shake(address, "shop.test", &["acme-tls/1"]).await.unwrap();
    let (_, session) = stream.get_ref();
    assert_eq!(session.alpn_protocol(), Some(b"acme-tls/1".as_slice()));
    let shown = session.peer_certificates().unwrap();
    assert_eq!(shown.len(), 1);
    // The extension of RFC 8737: critical, and in it an octet string of the digest.
    let digest = Sha256::digest(b"tok.print");
    let mut extension = vec![0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 1, 31, 0x01, 0x01, 0xff];
    extension.extend([0x04, 0x22, 0x04, 0x20]);
    extension.extend(digest);
    let holds = shown[0]
        .windows(extension.len())
        .any(|part| part == extension);
    assert!(holds, "{:02x?}", shown[0].as_ref());
    let ask = b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    stream.write_all(ask).await.ok();
    let mut said = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut said));
    read.await.expect("the door hangs up").ok();
    assert!(said.is_empty(), "{said:?}");
    assert!(app.heads().is_empty());
}

#[tokio::test]
async fn a_name_that_is_not_to_be_proved_is_refused() {
    let (_door, app, address) = door().await;
    for name in ["other.test", "www.shop.test", "127.0.0.1"] {
        assert!(
            shake(address, name, &["acme-tls/1"]).await.is_err(),
            "{name}"
        );
    }
    // Who asks for anything else besides gets no proof, and there is no other certificate here.
    for protocols in [&["acme-tls/1", "http/1.1"][..], &["h2", "acme-tls/1"], &[]] {
        assert!(
            shake(address, "shop.test", protocols).await.is_err(),
            "{protocols:?}"
        );
    }
    assert!(app.heads().is_empty());
}
