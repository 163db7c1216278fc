//! Messages that mean harm: each is refused, or means to the application exactly what it means to the
//! router (RFC 9112, 11.2).

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::app::App;
use super::{Door, settings};

/// What is hidden in a body, and must never be a request of its own.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: shop.test\r\nX: y\r\n\r\n";

#[tokio::test]
async fn no_request_is_smuggled_past_the_door() {
    let head = "POST /seen HTTP/1.1\r\nHost: shop.test\r\n";
    let cases = [
        (
            "CL and TE",
            format!(
                "{head}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"
            ),
        ),
        (
            "TE and CL",
            format!(
                "{head}Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n{HIDDEN}"
            ),
        ),
        (
            "two lengths",
            format!(
                "{head}Content-Length: 0\r\nContent-Length: {}\r\n\r\n{HIDDEN}",
                HIDDEN.len()
            ),
        ),
        (
            "two lengths in one",
            format!("{head}Content-Length: 0, {}\r\n\r\n{HIDDEN}", HIDDEN.len()),
        ),
        (
            "a length with a sign",
            format!("{head}Content-Length: +0\r\n\r\n{HIDDEN}"),
        ),
        (
            "a negative length",
            format!("{head}Content-Length: -1\r\n\r\n{HIDDEN}"),
        ),
        (
            "a length in hex",
            format!("{head}Content-Length: 0x0\r\n\r\n{HIDDEN}"),
        ),
        (
            "a length beyond all",
            format!("{head}Content-Length: 99999999999999999999\r\n\r\n{HIDDEN}"),
        ),
        (
            "two encodings",
            format!(
                "{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{HIDDEN}"
            ),
        ),
        (
            "an unknown encoding",
            format!("{head}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{HIDDEN}"),
        ),
        (
            "chunked not last",
            format!("{head}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n{HIDDEN}"),
        ),
        (
            "an encoding hidden by a tab",
            format!(
                "{head}Transfer-Encoding:\tchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{HIDDEN}"
            ),
        ),
        (
            "a space before the colon",
            format!("{head}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{HIDDEN}"),
        ),
        (
            "a folded header",
            format!("{head}X: a\r\n Content-Length: 0\r\n\r\n{HIDDEN}"),
        ),
        (
            "an encoding over two lines",
            format!("{head}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{HIDDEN}"),
        ),
        (
            "a null in a header",
            format!("{head}X: a\0b\r\n\r\n{HIDDEN}"),
        ),
        (
            "a bare CR in a header",
            format!("{head}X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"),
        ),
        (
            "a chunk size with a sign",
            format!("{head}Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n{HIDDEN}"),
        ),
        (
            "a chunk size beyond all",
            format!("{head}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{HIDDEN}"),
        ),
        (
            "a chunk without its end",
            format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\nabc0\r\n\r\n{HIDDEN}"),
        ),
        (
            "HTTP/1.0 with an encoding",
            format!(
                "POST /seen HTTP/1.0\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"
            ),
        ),
        (
            "two hosts",
            format!("{head}Host: other.test\r\n\r\n{HIDDEN}"),
        ),
        ("no host", format!("POST /seen HTTP/1.1\r\n\r\n{HIDDEN}")),
        (
            "a target of another host",
            format!("POST http://other.test/seen HTTP/1.1\r\nHost: shop.test\r\n\r\n{HIDDEN}"),
        ),
        (
            "a target with a password",
            format!("POST http://a:b@shop.test/seen HTTP/1.1\r\nHost: shop.test\r\n\r\n{HIDDEN}"),
        ),
        (
            "a tunnel",
            format!("CONNECT shop.test:80 HTTP/1.1\r\nHost: shop.test\r\n\r\n{HIDDEN}"),
        ),
        (
            "an unknown version",
            format!("POST /seen HTTP/1.2\r\nHost: shop.test\r\n\r\n{HIDDEN}"),
        ),
        (
            "a target with a space",
            format!("POST /se en HTTP/1.1\r\nHost: shop.test\r\n\r\n{HIDDEN}"),
        ),
        (
            "a header without a name",
            format!("{head}: x\r\n\r\n{HIDDEN}"),
        ),
    ];
    // Two of these may be read in one way only (RFC 9112, 6.3): by their encoding. The rest ends there.
    let read = ["CL and TE", "TE and CL", "an encoding hidden by a tab"];
    for (what, bytes) in cases {
        let app = App::named("shop").await;
        let door = Door::to(&[app.address]);
        let said = door.raw(bytes.as_bytes()).await;
        let asked = app.heads();
        let hidden = asked.iter().filter(|head| head.contains("/hidden")).count();
        assert_eq!(hidden, 0, "{what}: {asked:?}");
        let refused = ["400", "405", "413", "505"].map(|code| format!("HTTP/1.1 {code} "));
        let refused = refused
            .iter()
            .any(|status| said.starts_with(status.as_str()));
        let hung_up = said.is_empty() || said.starts_with("HTTP/1.0 400");
        let harmless = read.contains(&what) && said.matches("HTTP/1.1 ").count() == 1;
        let broke_off = what.starts_with("a chunk") && asked.len() <= 1;
        assert!(
            refused || hung_up || harmless || broke_off,
            "{what}: {said:?}, asked {asked:?}"
        );
    }
}

#[tokio::test]
async fn what_is_too_large_or_too_slow_is_ended() {
    let app = App::named("shop").await;
    let mut quick = settings();
    quick.head_max = Duration::from_millis(200);
    let door = Door::with(quick, &[app.address]);
    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: shop.test\r\n\r\n",
        "x".repeat(70_000)
    );
    let said = door.raw(long.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{many}\r\n");
    let said = door.raw(many.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
    // A head that never ends, and a connection that says nothing.
    let said = door.raw(b"GET / HTTP/1.1\r\nHost: shop.test\r\nX: ").await;
    assert!(!said.contains("200 OK"), "{said}");
    assert_eq!(door.raw(b"").await, "");
    assert!(app.heads().is_empty());
}

#[tokio::test]
async fn whoever_opens_streams_only_to_take_them_back_is_hung_up_on() {
    let app = App::named("shop").await;
    let door = Door::to(&[app.address]);
    // Frames by hand: no client of good manners does this.
    let mut stream = door.connect().await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    // `GET /`, http, `:authority: shop.test` in plain HPACK.
    let mut block = vec![0x82, 0x84, 0x86, 0x41, 9];
    block.extend_from_slice(b"shop.test");
    for n in 0..2_000_u32 {
        let id = (2 * n + 1).to_be_bytes();
        bytes.extend_from_slice(&[0, 0, block.len() as u8, 1, 5]);
        bytes.extend_from_slice(&id);
        bytes.extend_from_slice(&block);
        bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
        bytes.extend_from_slice(&id);
        bytes.extend_from_slice(&[0, 0, 0, 8]);
    }
    stream.write_all(&bytes).await.ok();
    let mut said = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut said));
    end.await.expect("hung up on").ok();
    let asked = app.heads().len();
    assert!(asked < 500, "{asked} of 2,000 got through");
    // Others are served.
    assert_eq!(door.get("/").await, (200, "shop".to_owned()));
}

#[tokio::test]
async fn a_host_header_unlike_the_authority_is_refused_over_http_2_too() {
    let app = App::named("shop").await;
    let door = Door::to(&[app.address]);
    let stream = TokioIo::new(door.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://shop.test/")
        .header("host", "other.test")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(app.heads().is_empty());
}
