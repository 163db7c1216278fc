//! Keys read as they are written, and nothing else is a key.

use super::*;
use crate::model::job::Instance;

fn job() -> JobKey {
    JobKey {
        stack: "ragnar".parse().unwrap(),
        tag: "a1b2c3d4e5f6".parse().unwrap(),
        node: "web-1".parse().unwrap(),
        slot: 3,
    }
}

fn endpoint(ip: &str) -> Endpoint {
    Endpoint {
        stack: job().stack,
        tag: job().tag,
        node: job().node,
        port: 80,
        proto: Proto::Udp,
        ip: ip.parse().unwrap(),
        host_port: 32_000,
        job_id: job().id(Instance(9)),
    }
}

fn every() -> Vec<(Key, &'static str)> {
    let (stack, tag) = (job().stack, job().tag);
    let host: HostName = "host-1.lan".parse().unwrap();
    let image: ImageName = "src".parse().unwrap();
    let var = VarRef {
        scope: "prod".parse().unwrap(),
        name: "DB_URL".parse().unwrap(),
    };
    vec![
        (Key::Cluster, "/cluster"),
        (Key::Leader, "/leader"),
        (Key::Stack(stack.clone()), "/stack/ragnar"),
        (Key::Member(host.clone()), "/member/host-1.lan"),
        (Key::Request(stack.clone(), "7".into()), "/request/ragnar/7"),
        (Key::Var(var.clone()), "/env/prod/DB_URL"),
        (Key::VarValue(var.at(12)), "/env/prod/DB_URL/12"),
        (
            Key::Trash(stack.clone(), tag.clone()),
            "/trash/ragnar/a1b2c3d4e5f6",
        ),
        (
            Key::Image(stack.clone(), tag.clone(), image.clone()),
            "/image/ragnar/a1b2c3d4e5f6/src",
        ),
        (
            Key::ImageText(stack.clone(), tag.clone(), image),
            "/images/ragnar/a1b2c3d4e5f6/src",
        ),
        (
            Key::Proc(stack.clone(), tag.clone(), job().node),
            "/proc/ragnar/a1b2c3d4e5f6/web-1",
        ),
        (
            Key::Release(stack.clone(), tag),
            "/release/ragnar/a1b2c3d4e5f6",
        ),
        (Key::Pointer(stack.clone()), "/release/ragnar"),
        (
            Key::Deploy(host.clone(), job()),
            "/deploy/host-1.lan/ragnar/a1b2c3d4e5f6/web-1/3",
        ),
        (Key::Run(job()), "/run/ragnar/a1b2c3d4e5f6/web-1/3"),
        (
            Key::Fixed(PinKey::Seat(job().seat())),
            "/fixed/ragnar/web-1/3",
        ),
        (
            Key::Fixed(PinKey::Volume(stack.clone(), "data".parse().unwrap())),
            "/fixed/ragnar/data",
        ),
        (
            Key::History(stack.clone(), RunId::new(5, 1)),
            "/history/ragnar/0000000000005-0001",
        ),
        (Key::Host(host.clone()), "/host/host-1.lan"),
        (
            Key::State(host.clone(), job()),
            "/state/host-1.lan/ragnar/a1b2c3d4e5f6/web-1/3",
        ),
        (
            Key::Counter(host, job()),
            "/counter/host-1.lan/ragnar/a1b2c3d4e5f6/web-1/3",
        ),
        (
            Key::Port(endpoint("10.0.0.1")),
            "/ports/ragnar/a1b2c3d4e5f6/web-1/80/udp/10.0.0.1/32000/ragnar.a1b2c3d4e5f6.web-1.3.9",
        ),
        (Key::Event(stack, "r-1".into()), "/event/ragnar/r-1"),
        (Key::WholeCopies, "/registry/whole"),
        (Key::RegistryCredential, "/secret/registry/hosts"),
        (Key::AcmeAccount, "/secret/acme/account"),
        (
            Key::CertificateNote("shop.test".into()),
            "/certificate/shop.test",
        ),
        (
            Key::Certificate("shop.test".into()),
            "/secret/certificate/shop.test",
        ),
        (Key::Challenge("a-b_c".into()), "/secret/challenge/a-b_c"),
    ]
}

#[test]
fn keys_read_as_the_design_says_and_survive_a_round_trip() {
    for prefix in ["", "/a/b"] {
        let keys = Keys::new(prefix);
        for (key, text) in every() {
            assert_eq!(keys.text(&key), format!("{prefix}{text}"));
            assert_eq!(keys.parse(&keys.text(&key)), Ok(key));
        }
    }
    let v6 = Key::Port(endpoint("2001:db8::1"));
    let keys = Keys::new("x/");
    assert_eq!(keys.parse(&keys.text(&v6)), Ok(v6));
}

#[test]
fn names_match_by_whole_segments() {
    let keys = Keys::default();
    let host = |name: &str| HostName::parse(name).unwrap();
    let ten = keys.text(&Key::Deploy(host("host-10"), job()));
    assert!(!ten.starts_with(&keys.family_of(Family::Deploy, "host-1")));
    assert!(!"/images/a/b/c".starts_with(&keys.family(Family::Image)));
}

#[test]
fn what_is_not_a_key_is_refused_and_still_names_its_stack() {
    let keys = Keys::default();
    let stack = |key: &str| keys.parse(key).unwrap_err().stack.map(|s| s.to_string());
    assert_eq!(stack("/deploy/h/web/a1/n/007").as_deref(), Some("web"));
    assert_eq!(stack("/deploy/h/web/a1/n/0/x").as_deref(), Some("web"));
    assert_eq!(stack("/release/web/BAD").as_deref(), Some("web"));
    assert_eq!(stack("/fixed/web/n/0/x").as_deref(), Some("web"));
    for bad in [
        "",
        "/",
        "/release/",
        "/release//x",
        "/unknown/x",
        "cluster",
        "/host/../x",
    ] {
        assert_eq!(stack(bad), None, "{bad}");
    }
}
