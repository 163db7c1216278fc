//! What is passed on, and how: heads, bodies as they come, other protocols, both versions of HTTP.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::app::{App, Hand, head, header, read_until};
use super::{Door, domains, settings};

#[tokio::test]
async fn a_domain_leads_to_its_node_and_other_names_lead_nowhere() {
    let app = App::named("shop").await;
    let mut door = Door::to(&[app.address]);
    domains(
        &mut door.seen,
        &["shop.test", "*.wild.test", "*.a.wild.test"],
    );
    door.update();
    for good in [
        "shop.test",
        "SHOP.test",
        "shop.test.",
        "shop.test:8080",
        "x.wild.test",
        "x.y.wild.test",
    ] {
        assert_eq!(
            door.get_of(good, "/").await,
            (200, "shop".to_owned()),
            "{good}"
        );
    }
    for (bad, status) in [
        ("other.test", 404),
        ("wild.test", 404),
        ("xshop.test", 404),
        ("127.0.0.1", 404),
        ("[::1]", 400),
        ("shop.test:x", 400),
        ("sh op.test", 400),
        ("user@shop.test", 400),
        ("", 400),
    ] {
        assert_eq!(door.get_of(bad, "/").await.0, status, "{bad:?}");
    }
    let (_, page) = door.get_of("other.test", "/").await;
    assert!(
        page.contains("No site of this name is served here."),
        "{page}"
    );
}

#[tokio::test]
async fn the_application_learns_who_asks_and_a_stranger_cannot_pretend() {
    let app = App::named("shop").await;
    let lies = "GET /a%2Fb?c=%20d HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-For: 6.6.6.6\r\n\
        X-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Request-Id: mine\r\n\
        Connection: close, x-secret\r\nX-Secret: 1\r\nTE: trailers\r\nCookie: a=b\r\n\r\n";
    let door = Door::to(&[app.address]);
    let said = door.raw(lies.as_bytes()).await;
    let asked = app.heads().remove(0);
    assert!(
        asked.starts_with("GET /a%2Fb?c=%20d HTTP/1.1\r\n"),
        "{asked}"
    );
    let of = |name: &str| header(&asked, name);
    assert_eq!(of("host").as_deref(), Some("shop.test"));
    assert_eq!(of("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(of("x-real-ip").as_deref(), Some("127.0.0.1"));
    assert_eq!(of("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(of("x-forwarded-host").as_deref(), Some("shop.test"));
    assert_eq!(of("cookie").as_deref(), Some("a=b"));
    for gone in ["forwarded", "x-secret", "te", "connection"] {
        assert_eq!(of(gone), None, "{gone}");
    }
    let id = of("x-request-id").unwrap();
    assert_eq!(id.len(), 32, "a name of its own: {id}");
    assert_eq!(
        header(&said, "x-request-id"),
        Some(id),
        "and the client can tell it"
    );
    assert_eq!(header(&said, "keep-alive"), None, "of another connection");

    let mut trusting = settings();
    trusting.trusted.push("127.0.0.0/8".parse().unwrap());
    let door = Door::with(trusting, &[app.address]);
    door.raw(lies.as_bytes()).await;
    let asked = app.heads().remove(1);
    let of = |name: &str| header(&asked, name);
    assert_eq!(of("x-forwarded-for").as_deref(), Some("6.6.6.6, 127.0.0.1"));
    assert_eq!(of("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(of("x-request-id").as_deref(), Some("mine"));
}

#[tokio::test]
async fn an_answer_is_passed_on_as_it_comes() {
    let hand = Hand::new().await;
    let door = Door::to(&[hand.address]);
    let mut client = door.connect().await;
    let ask = b"GET /events HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    client.write_all(ask).await.unwrap();
    let mut app = hand.accept().await;
    head(&mut app, &mut Vec::new()).await.unwrap();
    let begins =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    app.write_all(begins).await.unwrap();
    let said = read_until(&mut client, "\r\n\r\n").await;
    assert!(
        said.starts_with("HTTP/1.1 200"),
        "the head before any of the body"
    );
    for n in 0..3 {
        let event = format!("data: {n}\n\n");
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        app.write_all(chunk.as_bytes()).await.unwrap();
        read_until(&mut client, &format!("data: {n}")).await;
    }
    app.write_all(b"0\r\n\r\n").await.unwrap();
    read_until(&mut client, "0\r\n\r\n").await;
}

#[tokio::test]
async fn a_body_is_passed_on_as_it_comes_and_bounded() {
    let hand = Hand::new().await;
    let door = Door::to(&[hand.address]);
    let mut client = door.connect().await;
    let ask = b"POST /up HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    client.write_all(ask).await.unwrap();
    let mut app = hand.accept().await;
    let asked = head(&mut app, &mut Vec::new()).await.unwrap();
    assert_eq!(
        header(&asked, "expect"),
        None,
        "the door has told the client to go on"
    );
    read_until(&mut client, "100 Continue").await;
    client.write_all(b"5\r\nfirst\r\n").await.unwrap();
    read_until(&mut app, "first").await;
    client.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
    read_until(&mut app, "0\r\n\r\n").await;
    app.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut client, "204").await;
    // Else the next request may come over this connection, which nobody reads any more.
    drop(app);

    let large = door
        .raw(b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1048577\r\n\r\n")
        .await;
    assert!(large.starts_with("HTTP/1.1 413 "), "{large}");
    let mut client = door.connect().await;
    let ask = b"POST /up HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(ask).await.unwrap();
    let mut app = hand.accept().await;
    // A reset is an end, too.
    let swallow = tokio::spawn(async move { app.read_to_end(&mut Vec::new()).await.ok() });
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    for _ in 0..17 {
        // It may be refused before all of it is sent.
        let sent = client.write_all(&chunk);
        let sent = tokio::time::timeout(std::time::Duration::from_secs(1), sent).await;
        if !matches!(sent, Ok(Ok(()))) {
            break;
        }
    }
    read_until(&mut client, "HTTP/1.1 413 ").await;
    let ended = tokio::time::timeout(std::time::Duration::from_secs(15), swallow).await;
    ended.expect("half a request is not kept open").unwrap();
}

#[tokio::test]
async fn a_websocket_goes_both_ways_once_the_application_has_agreed() {
    let hand = Hand::new().await;
    let door = Door::to(&[hand.address]);
    let ask =
        b"GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut client = door.connect().await;
    client.write_all(ask).await.unwrap();
    client.write_all(b"too early").await.unwrap();
    let mut app = hand.accept().await;
    let mut rest = Vec::new();
    let asked = head(&mut app, &mut rest).await.unwrap();
    assert_eq!(header(&asked, "upgrade").as_deref(), Some("websocket"));
    assert!(rest.is_empty(), "nothing before the application has agreed");
    app.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
        .await
        .unwrap();
    let said = read_until(&mut client, "hello").await;
    assert_eq!(
        header(&said, "upgrade").as_deref(),
        Some("websocket"),
        "{said}"
    );
    read_until(&mut app, "too early").await;
    client.write_all(b"ping").await.unwrap();
    read_until(&mut app, "ping").await;
    drop(client);
    assert_eq!(
        app.read(&mut [0; 9]).await.unwrap(),
        0,
        "the end is passed on, too"
    );

    // One that does not agree gets nothing of what was meant for the other protocol.
    let mut client = door.connect().await;
    client.write_all(ask).await.unwrap();
    let mut app = hand.accept().await;
    head(&mut app, &mut Vec::new()).await.unwrap();
    app.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
        .await
        .unwrap();
    let said = read_until(&mut client, "no").await;
    assert!(said.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn http_2_is_spoken_in_front_and_cookies_are_joined() {
    let app = App::named("shop").await;
    let door = Door::to(&[app.address]);
    let stream = TokioIo::new(door.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = || {
        Request::get("http://shop.test/two?x=1")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    let answers = (0..20).map(|_| sender.send_request(request()));
    for answer in futures_util::future::join_all(answers).await {
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status(), answer.version()),
            (StatusCode::OK, Version::HTTP_2)
        );
        assert_eq!(answer.collect().await.unwrap().to_bytes(), "shop");
    }
    let asked = app.heads().remove(0);
    assert!(asked.starts_with("GET /two?x=1 HTTP/1.1\r\n"), "{asked}");
    assert_eq!(header(&asked, "host").as_deref(), Some("shop.test"));
    assert_eq!(header(&asked, "cookie").as_deref(), Some("a=1; b=2"));
    assert!(
        app.inside
            .connections
            .load(std::sync::atomic::Ordering::SeqCst)
            <= 20
    );
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let app = App::named("shop").await;
    let mut one = settings();
    one.threads = 1;
    let door = Door::with(one, &[app.address]);
    let mut client = door.connect().await;
    for n in 0..50 {
        let ask = format!("GET /{n} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
        client.write_all(ask.as_bytes()).await.unwrap();
        read_until(&mut client, "\r\n\r\nshop").await;
    }
    assert_eq!(
        app.inside
            .connections
            .load(std::sync::atomic::Ordering::SeqCst),
        1
    );
    let head = "HEAD /h HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
    let said = door.raw(head.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_holds_up_nobody_else() {
    let hand = Hand::new().await;
    let mut one = settings();
    one.threads = 1;
    let door = Door::with(one, &[hand.address]);
    let mut slow = door.connect().await;
    let ask = b"POST /up HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 99999\r\n\r\nbegin";
    slow.write_all(ask).await.unwrap();
    let mut app = hand.accept().await;
    head(&mut app, &mut Vec::new()).await.unwrap();
    let early = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno";
    app.write_all(early).await.unwrap();
    read_until(&mut slow, "\r\n\r\nno").await;
    let mut next = door.connect().await;
    let ask = b"GET /next HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    next.write_all(ask).await.unwrap();
    let accepted = tokio::time::timeout(std::time::Duration::from_secs(5), hand.accept());
    let mut other = accepted.await.expect("a connection of its own");
    head(&mut other, &mut Vec::new()).await.unwrap();
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    other.write_all(ok).await.unwrap();
    read_until(&mut next, "\r\n\r\nok").await;
}

#[tokio::test]
async fn a_body_that_nobody_expects_is_passed_on_too() {
    let hand = Hand::new().await;
    let door = Door::to(&[hand.address]);
    let mut client = door.connect().await;
    let ask = b"GET /search HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    client.write_all(ask).await.unwrap();
    let mut app = hand.accept().await;
    let said = read_until(&mut app, "0\r\n\r\n").await;
    assert!(said.contains("3\r\nabc\r\n"), "{said}");
    let mut client = door.connect().await;
    let ask = b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
        HTTP2-Settings: x\r\n\r\n";
    client.write_all(ask).await.unwrap();
    let mut app = hand.accept().await;
    let asked = head(&mut app, &mut Vec::new()).await.unwrap();
    for gone in ["upgrade", "http2-settings", "connection"] {
        assert_eq!(header(&asked, gone), None, "{gone}");
    }
}
