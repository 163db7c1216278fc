//! Real servers to fetch from: https with a certificate of its own authority, answered by git's
//! `upload-pack`; and OpenSSH's `sshd`. Both listen on a free port of this machine and count.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;

use viking::sync::{Options, SshOptions};

/// What the password of [`Https`] looks like in the header: `anna:s3cret`.
const BASIC: &str = "Basic YW5uYTpzM2NyZXQ=";

/// A git server over https; `/open/…` for everybody, `/locked/…` for anna.
pub(super) struct Https {
    pub(super) address: SocketAddr,
    pub(super) ca_file: PathBuf,
    _dir: tempfile::TempDir,
    seen: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct Served {
    repository: PathBuf,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Https {
    pub(super) async fn serve(repository: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let ca_file = dir.path().join("ca.pem");
        let acceptor = certificates(&ca_file);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let served = Served {
            repository: repository.to_owned(),
            seen: Arc::clone(&seen),
        };
        let app = axum::Router::new()
            .route("/{access}/repo/info/refs", get(list))
            .route("/{access}/repo/git-upload-pack", post(pack))
            .with_state(served);
        let tls = Tls { listener, acceptor };
        tokio::spawn(async move { axum::serve(tls, app).await });
        Self {
            address,
            ca_file,
            _dir: dir,
            seen,
        }
    }

    pub(super) fn url(&self, access: &str) -> String {
        format!("https://127.0.0.1:{}/{access}/repo", self.address.port())
    }

    pub(super) fn options(&self) -> Options {
        Options {
            ca_file: Some(self.ca_file.clone()),
            ..Options::default()
        }
    }

    /// Requests so far, `GET` and `POST` with their paths.
    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

struct Tls {
    listener: TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (socket, address) = self.listener.accept().await.expect("a connection");
            // A client that does not trust us hangs up here.
            if let Ok(stream) = self.acceptor.accept(socket).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// An authority written to `ca_file` and a server that shows a certificate of it.
fn certificates(ca_file: &Path) -> tokio_rustls::TlsAcceptor {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).expect("an authority");
    std::fs::write(ca_file, authority.pem()).expect("a file");
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .and_then(|params| params.signed_by(&key, &authority))
        .expect("a certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a matching pair");
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

async fn list(
    State(served): State<Served>,
    UrlPath(access): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    note(&served, &format!("GET {access}"));
    let location = |to: &str| (StatusCode::FOUND, [(header::LOCATION, to.to_owned())]);
    match access.as_str() {
        "moved" => {
            return location("/open/repo/info/refs?service=git-upload-pack").into_response();
        }
        "to-file" => return location("file:///etc/passwd/info/refs").into_response(),
        "broken" => return StatusCode::BAD_GATEWAY.into_response(),
        "page" => return ([(header::CONTENT_TYPE, "text/html")], "<html>").into_response(),
        "gone" => return StatusCode::NOT_FOUND.into_response(),
        _ if refused(&access, &headers) => return StatusCode::UNAUTHORIZED.into_response(),
        _ => {}
    }
    let mut body = b"001e# service=git-upload-pack\n0000".to_vec();
    body.extend(upload_pack(&served, "--http-backend-info-refs", &[]).await);
    let kind = "application/x-git-upload-pack-advertisement";
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

async fn pack(
    State(served): State<Served>,
    UrlPath(access): UrlPath<String>,
    headers: HeaderMap,
    request: Bytes,
) -> Response {
    note(&served, &format!("POST {access}"));
    if refused(&access, &headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let body = upload_pack(&served, "--timeout=60", &request).await;
    let kind = "application/x-git-upload-pack-result";
    let last = request.ends_with(b"done\n");
    let half = Bytes::from(body[..body.len() / 2].to_vec());
    let body = match access.as_str() {
        // Half a pack, then the end, or nothing for ever.
        "cut" if last => Body::from(half),
        "stall" if last => {
            let first = stream::once(std::future::ready(Ok::<_, std::io::Error>(half)));
            Body::from_stream(first.chain(stream::pending()))
        }
        _ => Body::from(body),
    };
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

fn note(served: &Served, what: &str) {
    served
        .seen
        .lock()
        .expect("not poisoned")
        .push(what.to_owned());
}

fn refused(access: &str, headers: &HeaderMap) -> bool {
    let given = headers.get(header::AUTHORIZATION);
    access == "locked" && given.is_none_or(|value| value != BASIC)
}

async fn upload_pack(served: &Served, flag: &str, request: &[u8]) -> Vec<u8> {
    let mut child = tokio::process::Command::new("git")
        .args(["upload-pack", "--stateless-rpc", flag])
        .arg(&served.repository)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs the program git: install the Debian package 'git'");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(request).await.expect("git reads");
    drop(stdin);
    child.wait_with_output().await.expect("git ends").stdout
}

/// `sshd`, one process per connection, with host key, user key and known hosts of its own.
pub(super) struct Sshd {
    pub(super) port: u16,
    pub(super) dir: tempfile::TempDir,
}

impl Sshd {
    pub(super) async fn serve() -> Self {
        // Debian's sshd insists on this folder, which a service would have made.
        std::fs::create_dir_all("/run/sshd")
            .expect("this test needs root, to make /run/sshd and to start sshd");
        let dir = tempfile::tempdir().expect("a temporary folder");
        for name in ["host_key", "user_key", "other_key"] {
            keygen(&dir.path().join(name));
        }
        std::fs::copy(
            dir.path().join("user_key.pub"),
            dir.path().join("authorized_keys"),
        )
        .expect("a copy");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let config = configuration(dir.path());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                answer(socket, &config);
            }
        });
        let sshd = Self { port, dir };
        sshd.trust("known_hosts", "host_key");
        sshd.trust("wrong_hosts", "other_key");
        sshd
    }

    /// The URL of an absolute path on this machine.
    pub(super) fn url(&self, path: &str) -> String {
        let user = Command::new("id").arg("-un").output().expect("id").stdout;
        let user = String::from_utf8_lossy(&user).trim().to_owned();
        format!("ssh://{user}@127.0.0.1:{}{path}", self.port)
    }

    pub(super) fn options(&self, identity: &str, known_hosts: &str) -> Options {
        Options {
            ssh: SshOptions {
                identity: Some(self.dir.path().join(identity)),
                known_hosts: Some(self.dir.path().join(known_hosts)),
            },
            ..Options::default()
        }
    }

    fn trust(&self, file: &str, key: &str) {
        let public = std::fs::read_to_string(self.dir.path().join(format!("{key}.pub")))
            .expect("a public key");
        let line = format!("[127.0.0.1]:{} {public}", self.port);
        std::fs::write(self.dir.path().join(file), line).expect("a file");
    }
}

fn keygen(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status()
        .expect("this test needs ssh-keygen: install the Debian package 'openssh-client'");
    assert!(made.success(), "ssh-keygen failed");
}

fn configuration(dir: &Path) -> PathBuf {
    let at = dir.display();
    let text = format!(
        "HostKey {at}/host_key\nAuthorizedKeysFile {at}/authorized_keys\nStrictModes no\n\
         UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitRootLogin prohibit-password\nPidFile none\nLogLevel ERROR\n"
    );
    let path = dir.join("sshd_config");
    std::fs::write(&path, text).expect("a file");
    path
}

fn answer(socket: TcpStream, config: &Path) {
    let socket = socket.into_std().expect("a socket");
    socket.set_nonblocking(false).expect("a socket");
    let socket = OwnedFd::from(socket);
    let mut child = Command::new("/usr/sbin/sshd")
        .args(["-i", "-e", "-f"])
        .arg(config)
        .stdin(Stdio::from(socket.try_clone().expect("a descriptor")))
        .stdout(Stdio::from(socket))
        .stderr(Stdio::null())
        .spawn()
        .expect("this test needs sshd: install the Debian package 'openssh-server'");
    std::thread::spawn(move || child.wait());
}
