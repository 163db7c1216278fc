//! Nothing is lost while copies come, go, fail and are handed over.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::app::{App, read_until};
use super::{Door, counted, settings};

#[tokio::test]
async fn requests_are_spread_over_the_copies() {
    let apps = [
        App::named("a").await,
        App::named("b").await,
        App::named("c").await,
    ];
    let mut one = settings();
    one.threads = 1;
    let door = Door::with(one, &apps.each_ref().map(|app| app.address));
    let mut said = Vec::new();
    for _ in 0..30 {
        said.push(door.get("/").await.1);
    }
    assert_eq!(counted(&said), [("a", 10), ("b", 10), ("c", 10)].into());
    // One that is busy with slow requests gets no more than its share of the work.
    apps[0].inside.slow.store(0, Ordering::SeqCst);
    let address = door.address;
    for _ in 0..3 {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let slow = b"GET /slow HTTP/1.1\r\nHost: shop.test\r\n\r\n";
        stream.write_all(slow).await.unwrap();
        tokio::spawn(async move { read_until(&mut stream, "never").await });
    }
    let waits = || {
        apps.each_ref()
            .map(|app| app.inside.slow.load(Ordering::SeqCst))
    };
    while waits().iter().sum::<usize>() < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(
        waits(),
        [1, 1, 1],
        "the one with the fewest requests is asked"
    );
}

#[tokio::test]
async fn a_copy_that_cannot_be_reached_costs_no_request() {
    let (gone, there) = (App::named("gone").await, App::named("there").await);
    let door = Door::to(&[gone.address, there.address]);
    gone.stop_listening().await;
    for n in 0..40 {
        let ask = format!(
            "POST /{n} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
        );
        let said = door.raw(ask.as_bytes()).await;
        assert!(said.ends_with("there"), "{said}");
    }
}

#[tokio::test]
async fn what_may_be_asked_twice_is_asked_again_and_nothing_else() {
    let (breaks, works) = (App::named("breaks").await, App::named("works").await);
    let door = Door::to(&[breaks.address, works.address]);
    breaks.inside.breaks.store(usize::MAX, Ordering::SeqCst);
    for _ in 0..20 {
        assert_eq!(door.get("/").await, (200, "works".to_owned()));
    }
    let asked = breaks.heads().len();
    assert!(asked > 0, "it was asked");
    assert!(asked < 10, "one that fails is passed over: {asked}");

    let alone = App::named("alone").await;
    alone.inside.breaks.store(1, Ordering::SeqCst);
    let door = Door::to(&[alone.address]);
    let post = b"POST /order HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
    let said = door.raw(post).await;
    assert!(said.starts_with("HTTP/1.1 502 "), "{said}");
    assert!(said.contains("x-request-id"), "{said}");
    assert_eq!(alone.heads().len(), 1, "an order is never given twice");
    assert!(door.raw(post).await.ends_with("alone"));
}

#[tokio::test]
async fn a_connection_that_an_application_closes_costs_no_request() {
    let app = App::named("shop").await;
    app.inside.closes.store(true, Ordering::SeqCst);
    let mut one = settings();
    one.threads = 1;
    let door = Door::with(one, &[app.address]);
    let mut client = door.connect().await;
    for n in 0..50 {
        let ask = format!("POST /{n} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 0\r\n\r\n");
        client.write_all(ask.as_bytes()).await.unwrap();
        let said = read_until(&mut client, "\r\n\r\nshop").await;
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    }
}

#[tokio::test]
async fn requests_wait_for_a_copy_that_is_on_its_way_and_are_told_when_none_comes() {
    let app = App::named("shop").await;
    let mut door = Door::to(&[]);
    let address = door.address;
    let waiting = tokio::spawn(async move {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let ask = b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        read_until(&mut stream, "shop").await
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    door.lead_to(&[app.address]);
    assert!(waiting.await.unwrap().starts_with("HTTP/1.1 200"));
    door.lead_to(&[]);
    let (status, page) = door.get("/").await;
    assert_eq!(status, 503);
    assert!(page.contains("not running at the moment"), "{page}");
}

#[tokio::test]
async fn a_promoted_release_gets_the_next_request_and_the_old_one_ends_what_it_has() {
    let (old, new) = (App::named("old").await, App::named("new").await);
    let mut door = Door::to(&[old.address]);
    let mut client = door.connect().await;
    let slow = b"GET /slow HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    client.write_all(slow).await.unwrap();
    old.until_slow(1).await;
    let copy = door.seen.endpoints[0].job_id.clone();
    door.lead_to(&[new.address]);
    assert_eq!(
        *door.draining.borrow(),
        [copy],
        "it is not to be stopped yet"
    );
    for _ in 0..20 {
        assert_eq!(door.get("/").await.1, "new");
    }
    old.inside.go.notify_one();
    read_until(&mut client, "\r\n\r\nold").await;
    door.draining.wait_for(Vec::is_empty).await.unwrap();
    // The same connection goes on with the new one.
    let next = b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    client.write_all(next).await.unwrap();
    read_until(&mut client, "\r\n\r\nnew").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_copies_are_replaced_again_and_again() {
    let mut apps = [App::named("0").await, App::named("1").await];
    let mut door = Door::to(&[apps[0].address, apps[1].address]);
    let stop = tokio_util::sync::CancellationToken::new();
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let address = door.address;
            let until = stop.clone();
            tokio::spawn(async move {
                let mut asked = 0_u64;
                let connect = || tokio::net::TcpStream::connect(address);
                let mut stream = connect().await.unwrap();
                while !until.is_cancelled() {
                    let method = if asked.is_multiple_of(3) {
                        "POST"
                    } else {
                        "GET"
                    };
                    let ask = format!(
                        "{method} / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 0\r\n\r\n"
                    );
                    stream.write_all(ask.as_bytes()).await.unwrap();
                    let said = read_until(&mut stream, "\r\n\r\n").await;
                    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
                    asked += 1;
                    if n % 2 == 0 && asked.is_multiple_of(50) {
                        stream = connect().await.unwrap();
                    }
                }
                asked
            })
        })
        .collect();
    for n in 2..40 {
        let next = App::named(&n.to_string()).await;
        let old = std::mem::replace(&mut apps[n % 2], next);
        door.lead_to(&[apps[0].address, apps[1].address]);
        tokio::time::sleep(Duration::from_millis(20)).await;
        old.stop_listening().await;
    }
    stop.cancel();
    let mut asked = 0;
    for client in clients {
        asked += client.await.unwrap();
    }
    assert!(asked > 500, "{asked} requests");
}

#[tokio::test]
async fn a_host_that_ends_answers_what_it_was_asked() {
    let app = App::named("shop").await;
    let door = Door::to(&[app.address]);
    let mut client = door.connect().await;
    let mut idle = door.connect().await;
    let slow = b"GET /slow HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    client.write_all(slow).await.unwrap();
    let quick = b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    idle.write_all(quick).await.unwrap();
    read_until(&mut idle, "shop").await;
    app.until_slow(1).await;
    let address = door.address;
    let ended = tokio::spawn(door.end());
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    app.inside.go.notify_one();
    let said = read_until(&mut client, "\r\n\r\nshop").await;
    assert!(said.contains("connection: close"), "{said}");
    ended.await.unwrap().unwrap();
}
