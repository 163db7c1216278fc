//! Certificates, users and passwords: what lets us in, and what is said when it does not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use viking::store::etcd::{EtcdStore, Options};
use viking::store::{Error, Op, Selector, Store, Txn};

use super::super::events;
use super::server::Etcd;

const PASSWORD: &str = "s3cret-of-viking";

/// An authority and what it signed, as files.
struct Authority {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    dir: PathBuf,
}

impl Authority {
    fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::CertifiedIssuer::self_signed(params, key).expect("an authority");
        std::fs::write(dir.join("ca.pem"), issuer.pem()).expect("a file");
        Self {
            issuer,
            dir: dir.to_owned(),
        }
    }

    fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Files of a certificate and its key.
    fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
            .and_then(|params| params.signed_by(&key, &self.issuer))
            .expect("a certificate");
        let file = |kind: &str| self.dir.join(format!("{name}.{kind}.pem"));
        std::fs::write(file("cert"), certificate.pem()).expect("a file");
        std::fs::write(file("key"), key.serialize_pem()).expect("a file");
        (file("cert"), file("key"))
    }
}

/// An etcd that lets in only certificates of its authority and users with a password.
struct Guarded {
    etcd: Etcd,
    options: Options,
    /// Signed nothing that etcd believes.
    stranger: Authority,
    _files: tempfile::TempDir,
}

impl Guarded {
    async fn start() -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let authority = Authority::new(&files.path().join("ours"));
        let (cert, key) = authority.sign("etcd");
        let flags = [
            ("cert-file", &cert),
            ("key-file", &key),
            ("trusted-ca-file", &authority.ca()),
        ];
        let mut flags: Vec<String> = flags
            .iter()
            .map(|(flag, file)| format!("--{flag}={}", file.display()))
            .collect();
        flags.push("--client-cert-auth".into());
        let mut etcd = Etcd::prepare(1, "https", &flags);
        etcd.members[0].start();
        let password = files.path().join("password");
        std::fs::write(&password, format!("{PASSWORD}\n")).expect("a file");
        let mut options = Options {
            endpoints: etcd.endpoints(),
            ca: Some(authority.ca()),
            identity: Some(authority.sign("viking")),
            user: None,
        };
        // Ready when it lets the certificate in.
        drop(EtcdStore::connect(&options).await.expect("connects"));
        let guarded = |options| Self {
            etcd,
            options,
            stranger: Authority::new(&files.path().join("strangers")),
            _files: files,
        };
        options.user = Some(("viking".into(), password));
        let guarded = guarded(options);
        guarded.enable_users();
        guarded
    }

    fn enable_users(&self) {
        for args in [
            &["user", "add", "root:of-nobody"][..],
            &["user", "grant-role", "root", "root"],
            &["user", "add", &format!("viking:{PASSWORD}")],
            &["role", "add", "viking"],
            &[
                "role",
                "grant-permission",
                "viking",
                "--prefix=true",
                "readwrite",
                "/",
            ],
            &["user", "grant-role", "viking", "viking"],
            &["auth", "enable"],
        ] {
            self.etcdctl(args);
        }
    }

    fn etcdctl(&self, args: &[&str]) {
        let (cert, key) = self.options.identity.as_ref().expect("there is one");
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.etcd.members[0].endpoint))
            .arg("--cacert")
            .arg(self.options.ca.as_ref().expect("there is one"))
            .arg("--cert")
            .arg(cert)
            .arg("--key")
            .arg(key)
            .args(args)
            .output()
            .expect("etcdctl is not installed; tests/run.sh installs it (Debian: etcd-client)");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
    }

    async fn connect(&self, change: impl FnOnce(&mut Options)) -> Result<Arc<EtcdStore>, Error> {
        let mut options = self.options.clone();
        change(&mut options);
        EtcdStore::connect(&options).await
    }
}

fn put(key: &str) -> Txn {
    Txn {
        compares: vec![],
        ops: vec![Op::put(key, "1")],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_certificate_and_a_password_everything_works() {
    let guarded = Guarded::start().await;
    let store = guarded.connect(|_| ()).await.expect("connects");
    let mut watch = store.watch("/", 0).await.expect("watches");
    let lease = store.grant(Duration::from_secs(9)).await.expect("grants");
    store.commit(put("/a")).await.expect("commits");
    assert_eq!(events(&mut watch, 1).await[0].key, "/a");
    store.keep_alive(lease).await.expect("is alive");
    store.revoke(lease).await.expect("revokes");
    // Users change while viking runs: what it logged in with before is out of date.
    guarded.etcdctl(&["--user=root:of-nobody", "role", "add", "other"]);
    store.commit(put("/b")).await.expect("commits");
    assert_eq!(events(&mut watch, 1).await[0].key, "/b");
    let selector = [Selector::Key("/b".into())];
    let snapshot = store.range(&selector).await.expect("reads");
    assert_eq!(snapshot.lists[0].len(), 1);
    // What its role does not cover is no fault of a commit.
    let error = store.commit(put("elsewhere")).await.expect_err("no role");
    assert!(
        matches!(&error, Error::Failed(why) if why.contains("role")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_let_us_in_is_named() {
    // Side by side: certificates are tried again until time runs out.
    tokio::join!(what_is_too_little_is_named(), what_is_too_much_is_named());
}

async fn what_is_too_little_is_named() {
    let guarded = Guarded::start().await;
    let files = guarded.stranger.dir.clone();
    let wrong = files.join("password");
    std::fs::write(&wrong, "s3cret-of-another").expect("a file");
    let plain = guarded.options.endpoints[0].replace("https", "http");
    type Change<'a> = Box<dyn FnOnce(&mut Options) + 'a>;
    let cases: Vec<(&str, Change)> = vec![
        (
            "--etcd-ca",
            Box::new(|o| o.ca = Some(guarded.stranger.ca())),
        ),
        ("--etcd-cert", Box::new(|o| o.identity = None)),
        (
            "--etcd-cert",
            Box::new(|o| o.identity = Some(guarded.stranger.sign("viking"))),
        ),
        (
            "--etcd-password-file",
            Box::new(|o| o.user = Some(("viking".into(), wrong.clone()))),
        ),
        (
            "--etcd-user",
            Box::new(|o| o.user = Some(("nobody".into(), wrong.clone()))),
        ),
        (
            "http",
            Box::new(|o| {
                o.endpoints = vec![plain.clone()];
                (o.ca, o.identity) = (None, None);
            }),
        ),
    ];
    let tries = cases.into_iter().map(|(named, change)| {
        let connecting = guarded.connect(change);
        async move { (named, connecting.await.expect_err("must not get in")) }
    });
    let said = join_all(tries).await;
    let said: Vec<(&str, String)> = said
        .into_iter()
        .map(|(named, error)| (named, error.to_string()))
        .collect();
    for (named, text) in &said {
        assert!(text.contains(named), "{named}: {said:#?}");
        assert!(!text.contains("s3cret"), "{said:#?}");
    }
}

/// An etcd that knows neither certificates nor users says what to leave out.
async fn what_is_too_much_is_named() {
    let etcd = Etcd::start(1).await;
    let files = tempfile::tempdir().expect("a temporary directory");
    let authority = Authority::new(files.path());
    let password = files.path().join("password");
    std::fs::write(&password, PASSWORD).expect("a file");
    let with_user = Options {
        endpoints: etcd.endpoints(),
        user: Some(("viking".into(), password)),
        ..Options::default()
    };
    let error = EtcdStore::connect(&with_user).await.expect_err("no users");
    assert!(
        error.to_string().contains("leave out --etcd-user"),
        "{error}"
    );
    let tls = Options {
        endpoints: vec![etcd.endpoints()[0].replace("http", "https")],
        ca: Some(authority.ca()),
        ..Options::default()
    };
    let error = EtcdStore::connect(&tls).await.expect_err("no TLS");
    assert!(error.to_string().contains("http://"), "{error}");
}
