//! What a head says, and what is made of it.

use super::*;
use hyper::Request;

fn parts(uri: &str, version: Version, headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::builder().uri(uri).version(version);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

#[test]
fn the_host_is_said_once_and_the_same_everywhere() {
    let host = |uri, version, headers: &[_]| host(&parts(uri, version, headers));
    let one = Version::HTTP_11;
    let two = Version::HTTP_2;
    let named = [("host", "A.test:80")];
    assert_eq!(host("/", one, &named), Ok("a.test".to_owned()));
    assert_eq!(host("http://a.test/", one, &named), Ok("a.test".to_owned()));
    assert_eq!(host("http://a.test/", two, &[]), Ok("a.test".to_owned()));
    assert_eq!(host("http://b.test/", one, &named), Err(Bad::Host));
    assert_eq!(host("http://b.test/", two, &named), Err(Bad::Host));
    assert_eq!(host("http://a.test/", one, &[]), Err(Bad::Host));
    assert_eq!(host("/", one, &[]), Err(Bad::Host));
    assert_eq!(host("/", one, &[named[0], named[0]]), Err(Bad::Host));
    for bad in [
        "",
        "a b",
        "a/b",
        "a@b",
        "[::1]:80",
        "a:80:80",
        "ä.test",
        "a.test:99999999",
    ] {
        assert_eq!(host("/", one, &[("host", bad)]), Err(Bad::Host), "{bad:?}");
    }
}

#[test]
fn connection_cannot_take_away_what_the_application_must_see() {
    let mut parts = parts(
        "/",
        Version::HTTP_11,
        &[
            ("host", "a.test"),
            ("connection", "host, content-length, x-own"),
            ("connection", "keep-alive"),
            ("content-length", "3"),
            ("x-own", "1"),
        ],
    );
    strip_hops(&mut parts.headers);
    let mut left: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["content-length", "host"]);
}

#[test]
fn only_http_1_1_goes_over_to_another_protocol() {
    let asks = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
    ];
    let upgrade = |version, headers: &[_]| upgrade(version, &parts("/", version, headers).headers);
    assert!(upgrade(Version::HTTP_11, &asks).is_some());
    assert!(upgrade(Version::HTTP_10, &asks).is_none());
    assert!(
        upgrade(Version::HTTP_11, &asks[1..]).is_none(),
        "nobody asked"
    );
}

#[test]
fn a_client_cannot_speak_for_a_trusted_proxy() {
    let mut parts = parts(
        "/",
        Version::HTTP_11,
        &[
            ("host", "a.test"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "7.7.7.7"),
            ("x-real-ip", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x_own", "1"),
            ("forwarded", "for=6.6.6.6"),
        ],
    );
    let client = Client::new([10, 0, 0, 1].into(), true, false, 80);
    to_application(
        &mut parts,
        "a.test",
        &client,
        &HeaderValue::from_static("id"),
    );
    let of = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap());
    assert_eq!(of("x-forwarded-for"), Some("6.6.6.6, 7.7.7.7, 10.0.0.1"));
    assert_eq!(of("x-real-ip"), Some("7.7.7.7"), "what the proxy saw");
    assert_eq!((of("x_forwarded_for"), of("forwarded")), (None, None));
    assert_eq!(of("x_own"), Some("1"));
}
