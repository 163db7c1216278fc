//! How soon the front door leads elsewhere after a write of `/ports`: one visitor who asks again and again
//! over one connection, while the node's only copy is now one and now the other of two applications.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use viking::model::names::HostName;
use viking::model::registry::{CopyAddresses, Turn};
use viking::router::ambassador::{self, Ambassador};
use viking::router::front::{self, Front, Speaks};
use viking::store::keys::Key;
use viking::store::local::LocalStore;
use viking::store::tables::Tables;
use viking::store::{Op, SharedStore, Txn};

use super::peers::free;
use super::serve;

/// Changes that are measured.
const CHANGES: usize = 500;

/// Domains of the node: the table is built anew for each change.
const DOMAINS: usize = 1_000;

pub(crate) fn measure() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let mut took = runtime.block_on(changes())?;
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "\nA change of `/ports` is seen by a visitor after {:.2} ms (median), {:.2} ms (p99) of {CHANGES}, \
         {DOMAINS} domains; no request failed.",
        at(0.5),
        at(0.99)
    );
    Ok(())
}

async fn changes() -> anyhow::Result<Vec<Duration>> {
    let copies = [application('a').await?, application('b').await?];
    let store: SharedStore = LocalStore::in_memory();
    let tables = Tables::open(Arc::clone(&store), "", None, 0).await?;
    let seen = serve::leading_to(copies[0], DOMAINS)?;
    let write = |ops| {
        store.commit(Txn {
            compares: Vec::new(),
            ops,
        })
    };
    for (name, map) in &seen.stacks {
        for (tag, release) in &map.releases {
            let key = Key::Release(name.clone(), tag.clone());
            write(vec![Op::put(
                tables.keys().text(&key),
                serde_json::to_vec(release)?,
            )])
            .await?;
        }
        let key = tables.keys().text(&Key::Pointer(name.clone()));
        write(vec![Op::put(key, serde_json::to_vec(&map.pointer)?)]).await?;
    }
    let keys = [0, 1].map(|n| serve::endpoint(&seen, copies[n]));
    let [first, second] = keys;
    let keys = [first?, second?].map(|copy| tables.keys().text(&Key::Port(copy)));
    write(vec![Op::put(keys[0].clone(), "")]).await?;

    let shutdown = CancellationToken::new();
    let front = Front::new(serve::settings(None), watch::channel(Vec::new()).0);
    let (_listen, asked) = mpsc::channel(1);
    let ambassador = Ambassador {
        tables: tables.clone(),
        host: HostName::parse("h")?,
        registry_port: free()?.port(),
        front: Some(front.clone()),
        asked,
        copies: watch::channel(CopyAddresses::new()).0,
        turn: Turn::default(),
    };
    tokio::spawn(ambassador::run(ambassador, shutdown.clone()));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    tokio::spawn(front::run(front, listener, Speaks::Http, shutdown.clone()));

    let mut visitor = TcpStream::connect(address).await?;
    let until = Instant::now() + Duration::from_secs(10);
    while ask(&mut visitor).await.ok() != Some(b'a') {
        if Instant::now() > until {
            bail!("the front door leads nowhere");
        }
        visitor = TcpStream::connect(address).await?;
    }
    let mut took = Vec::new();
    for n in 1..=CHANGES {
        let (now, before) = (&keys[n % 2], &keys[(n + 1) % 2]);
        let change = vec![Op::put(now.clone(), ""), Op::delete(before.clone())];
        write(change).await?;
        let since = Instant::now();
        while ask(&mut visitor).await? != [b'a', b'b'][n % 2] {
            if since.elapsed() > Duration::from_secs(10) {
                bail!("change {n} is not seen");
            }
        }
        took.push(since.elapsed());
    }
    shutdown.cancel();
    Ok(took)
}

/// Asks over a connection that is kept; the word of who answers.
async fn ask(visitor: &mut TcpStream) -> anyhow::Result<u8> {
    visitor
        .write_all(b"GET / HTTP/1.1\r\nHost: d0.test\r\n\r\n")
        .await?;
    let mut said = Vec::new();
    while !said.windows(4).any(|four| four == b"\r\n\r\n") || said.ends_with(b"\n") {
        if visitor.read_buf(&mut said).await? == 0 {
            bail!("the front door hung up");
        }
    }
    if !said.starts_with(b"HTTP/1.1 200 ") {
        bail!("{}", String::from_utf8_lossy(&said));
    }
    said.last().copied().context("an answer")
}

/// Answers every request with its word.
async fn application(word: char) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut asked, answer) = (
                    Vec::new(),
                    format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{word}"),
                );
                while peer.read_buf(&mut asked).await.is_ok_and(|count| count > 0) {
                    if asked.ends_with(b"\r\n\r\n") {
                        asked.clear();
                        if peer.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok(address)
}
