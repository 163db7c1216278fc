//! Tests of `viking config check` that need no process: what is refused, what is warned of.

use super::super::layers::Source;
use super::*;

fn setting(key: &'static str, values: &[&str]) -> Effective {
    Effective {
        key,
        values: values.iter().map(|&value| value.to_owned()).collect(),
        source: Source::File,
        place: "c.yml:1".to_owned(),
    }
}

fn layers(settings: &[(&'static str, &[&str])]) -> Layers {
    let settings = settings.iter().map(|(key, values)| setting(key, values));
    Layers {
        settings: settings.collect(),
        ..Layers::default()
    }
}

fn file(mode: u32) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "secret").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    let text = path.display().to_string();
    (dir, text)
}

#[test]
fn plain_etcd_off_loopback_is_refused_unless_asked_for() {
    for good in [
        "https://etcd.example:2379",
        "http://127.0.0.1:2379",
        "http://[::1]:2379",
        "http://localhost:2379",
    ] {
        etcd(&layers(&[("etcd.endpoints", &[good])])).unwrap();
    }
    let plain = ("etcd.endpoints", &["http://10.0.0.1:2379"][..]);
    let failure = etcd(&layers(&[plain])).unwrap_err();
    assert!(
        failure
            .error
            .starts_with("c.yml:1: etcd.endpoints: http://10.0.0.1:2379: plain")
    );
    assert!(failure.hint.contains("etcd.insecure"), "{}", failure.hint);
    etcd(&layers(&[plain, ("etcd.insecure", &["true"])])).unwrap();
    etcd(&layers(&[plain, ("etcd.insecure", &["false"])])).unwrap_err();
    for bad in ["10.0.0.1:2379", "ftp://a", "nowhere", "https://u:p@a:1"] {
        let failure = etcd(&layers(&[("etcd.endpoints", &[bad])])).unwrap_err();
        assert!(!failure.hint.is_empty(), "{bad}");
        assert!(!failure.error.contains("u:p@"), "{}", failure.error);
    }
}

#[test]
fn a_password_file_that_others_can_read_is_refused() {
    let (_dir, open) = file(0o640);
    let (_other, closed) = file(0o600);
    let with = |path: &str| {
        let user: (_, &[&str]) = ("etcd.user", &["root"]);
        etcd(&layers(&[user, ("etcd.password_file", &[path])]))
    };
    with(&closed).unwrap();
    let failure = with(&open).unwrap_err();
    assert!(
        failure.error.contains("read by others (mode 0640)"),
        "{}",
        failure.error
    );
    assert_eq!(failure.hint, format!("chmod 600 {open}"));
    assert!(!failure.error.contains("secret"));
    let failure = with("/nonexistent/password").unwrap_err();
    assert!(
        failure
            .error
            .contains("/nonexistent/password: No such file"),
        "{}",
        failure.error
    );
}

#[test]
fn halves_of_a_pair_are_refused() {
    let (_dir, path) = file(0o600);
    for half in ["etcd.cert", "etcd.key", "etcd.user", "etcd.password_file"] {
        let failure = etcd(&layers(&[(half, &[&path])])).unwrap_err();
        assert!(
            failure.error.contains("of no use without"),
            "{}",
            failure.error
        );
    }
    etcd(&layers(&[
        ("etcd.cert", &[&path]),
        ("etcd.key", &[&path]),
        ("etcd.ca", &[&path]),
    ]))
    .unwrap();
}

#[test]
fn the_authority_of_a_ca_must_be_there() {
    let (_dir, path) = file(0o644);
    acme(&layers(&[("acme_ca", &[&path])])).unwrap();
    acme(&layers(&[])).unwrap();
    let failure = acme(&layers(&[("acme_ca", &["/nonexistent/ca.pem"])])).unwrap_err();
    assert!(failure.error.contains("No such file"), "{}", failure.error);
}

#[test]
fn what_is_risky_is_warned_of_and_nothing_else() {
    let safe = Config::default();
    assert_eq!(warnings(&layers(&[]), &safe), Vec::<String>::new());
    let private = Config {
        address: "10.0.0.7".parse().unwrap(),
        ..Config::default()
    };
    let three: (_, &[&str]) = ("etcd.endpoints", &["a", "b", "c"]);
    assert_eq!(warnings(&layers(&[three]), &private), Vec::<String>::new());
    let risky = Config {
        address: "0.0.0.0".parse().unwrap(),
        docker: "tcp://10.0.0.1:2375".to_owned(),
        data_dir: PathBuf::from("/tmp/viking"),
        ..Config::default()
    };
    let insecure: (_, &[&str]) = ("etcd.insecure", &["true"]);
    let said = warnings(
        &layers(&[("etcd.endpoints", &["a", "b"]), insecure]),
        &risky,
    );
    assert_eq!(said.len(), 5, "{said:#?}");
    let (_dir, open) = file(0o666);
    assert!(writable(Some(PathBuf::from(open))).is_some_and(|text| text.contains("0666")));
    assert_eq!(writable(Some(PathBuf::from("/dev/null"))), None);
}

#[test]
fn passwords_are_hidden() {
    assert_eq!(hidden("https://u:p@a:1/"), "https://u:***@a:1/");
    assert_eq!(hidden("/var/lib/viking"), "/var/lib/viking");
    assert_eq!(hidden("127.0.0.1:8791"), "127.0.0.1:8791");
}
