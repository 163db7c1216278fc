//! Pushes under load: a real load tool asks at a steady rate, over connections that are kept and over
//! new ones, while others wait five seconds for a page and others hold websockets open. Two hundred
//! pushes in the long run, a few otherwise; websockets get a short drain limit, and are told to come again
//! (1001) by the application when it ends.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::router::Visitor;
use super::world::World;

/// Longest pause of a websocket that works.
const ECHO_MAX: Duration = Duration::from_secs(10);

/// An application as it should be: it ends what it has, and tells websockets to go elsewhere.
const APP: &str = r#"
const { createHash } = require('crypto');
const sockets = new Set();
let ending = false;
const server = require('http').createServer((ask, answer) => {
  if (ending) answer.setHeader('connection', 'close');
  setTimeout(() => answer.end('SAYS'), ask.url === '/slow' ? 5000 : 20);
});
server.on('upgrade', (ask, socket) => {
  const key = ask.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
  const accept = createHash('sha1').update(key).digest('base64');
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
    `Sec-WebSocket-Accept: ${accept}\r\n\r\n`);
  sockets.add(socket);
  socket.on('close', () => sockets.delete(socket));
  socket.on('error', () => {});
  socket.on('data', frame => {
    const text = Buffer.from(frame.subarray(6).map((byte, at) => byte ^ frame[2 + at % 4]));
    socket.write(Buffer.concat([Buffer.from([0x81, text.length]), text]));
  });
});
server.listen(80);
process.on('SIGTERM', () => {
  ending = true;
  for (const socket of sockets) socket.end(Buffer.from([0x88, 2, 3, 0xe9]));
  server.close(() => process.exit(0));
  setInterval(() => server.closeIdleConnections(), 50);
});
"#;

fn shop(says: &str) -> String {
    let run = serde_json::to_string(&APP.replace("SAYS", says)).expect("json");
    format!(
        "viking: {{name: shop}}\ndeploy:\n  web:\n    image: viking/node:1\n    run: [node, -e, {run}]\n    \
         expose: [80]\n    scale: 2\n    domains: [shop.example]\n    \
         health: {{http: /, interval: 200ms, timeout: 2s, start_period: 20s, retries: 5}}\n    \
         stop: {{timeout: 8s, drain: 6s}}\n"
    )
}

/// The load tool, asking until it is told to stop.
struct Load(Child);

impl Load {
    /// `rate` requests a second over so many connections, which are kept or not.
    fn start(world: &World, rate: u32, connections: u32, kept: bool) -> Self {
        let mut command = Command::new("hey");
        command
            .args(["-z", "2h", "-t", "20", "-host", "shop.example"])
            .args(["-c", &connections.to_string()])
            .args(["-q", &(rate / connections).to_string()]);
        if !kept {
            command.arg("-disable-keepalive");
        }
        let child = command
            .arg(format!("http://{}/", world.front))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.expect("hey is installed, as tests/run.sh does"))
    }

    /// How many requests it made; each was answered well.
    fn all(mut self) -> u64 {
        let pid = self.0.id().to_string();
        // It tells what came of it when it is interrupted.
        let told = Command::new("kill").args(["-INT", &pid]).status();
        assert!(told.expect("kill runs").success());
        let mut said = String::new();
        let mut from = self.0.stdout.take().expect("it was piped");
        from.read_to_string(&mut said).expect("it prints text");
        self.0.wait().expect("it ends");
        let codes = said.split_once("Status code distribution:");
        let (_, codes) = codes.unwrap_or_else(|| panic!("no codes: {said}"));
        let (codes, errors) = codes
            .split_once("Error distribution:")
            .unwrap_or((codes, ""));
        let codes: Vec<&str> = codes
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
        let [only] = codes[..] else {
            panic!("not all were answered with 200: {said}");
        };
        // Interrupting it breaks off what it has under way, which it counts as errors of its own.
        let broken = errors
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.contains("context canceled"));
        assert_eq!(broken.count(), 0, "{said}");
        let count = only
            .strip_prefix("[200]")
            .and_then(|rest| rest.split_whitespace().next());
        let count = count.and_then(|count| count.parse().ok());
        count.unwrap_or_else(|| panic!("only 200: {said}"))
    }
}

/// Somebody who stays: speaks each so often, is answered with its own words, and comes again only when
/// told to.
struct Guest {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<Stay, String>>,
}

#[derive(Debug, Default)]
struct Stay {
    words: u64,
    moves: u64,
}

impl Guest {
    fn at(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, front) = (Arc::clone(&stop), world.front.clone());
        let thread = std::thread::spawn(move || {
            let mut stay = Stay::default();
            while !told.load(Ordering::SeqCst) {
                let mut socket = enter(&front)?;
                while !told.load(Ordering::SeqCst) {
                    match speak(&mut socket)? {
                        Heard::Echo => stay.words += 1,
                        Heard::ComeAgain => {
                            stay.moves += 1;
                            break;
                        }
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            Ok(stay)
        });
        Self { stop, thread }
    }

    fn all(self) -> Stay {
        self.stop.store(true, Ordering::SeqCst);
        let stay = self.thread.join().expect("a guest does not panic");
        stay.expect("a websocket ends when it is told to come again, and not otherwise")
    }
}

enum Heard {
    Echo,
    ComeAgain,
}

fn enter(front: &str) -> Result<TcpStream, String> {
    let ask = "GET /socket HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut socket = TcpStream::connect(front).map_err(|error| format!("connecting: {error}"))?;
    let mut enter = || -> std::io::Result<Vec<u8>> {
        socket.set_read_timeout(Some(ECHO_MAX))?;
        socket.write_all(ask.as_bytes())?;
        let mut head = Vec::new();
        // Byte by byte: what follows is the websocket's.
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte)? == 1 {
            head.push(byte[0]);
        }
        Ok(head)
    };
    let head = enter().map_err(|error| format!("entering: {error}"))?;
    match head.starts_with(b"HTTP/1.1 101 ") {
        true => Ok(socket),
        false => Err(format!("entering: {}", String::from_utf8_lossy(&head))),
    }
}

/// Sends one short text (RFC 6455, 5.2) and hears it again, or is sent away with 1001.
fn speak(socket: &mut TcpStream) -> Result<Heard, String> {
    let (mask, text) = ([7, 1, 9, 4], *b"hello");
    let masked = text
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask);
    let frame: Vec<u8> = [0x81, 0x80 | 5]
        .into_iter()
        .chain(mask)
        .chain(masked)
        .collect();
    // The other side may have said farewell already; what it said is there to be read.
    socket.write_all(&frame).ok();
    let mut head = [0; 2];
    let mut read = |bytes: &mut [u8]| {
        let read = socket.read_exact(bytes);
        read.map_err(|error| format!("a websocket broke off: {error}"))
    };
    read(&mut head)?;
    let mut said = vec![0; usize::from(head[1])];
    read(&mut said)?;
    match (head[0], said.as_slice()) {
        (0x81, b"hello") => Ok(Heard::Echo),
        (0x88, [3, 0xe9]) => Ok(Heard::ComeAgain),
        other => Err(format!("a websocket said {other:?}")),
    }
}

#[test]
fn nobody_notices_pushes_under_load_but_websockets_which_are_told_to_come_again() {
    let long = std::env::var_os("VIKING_TEST_LONG").is_some();
    // Pushes, and requests a second in all.
    let (pushes, rate) = if long { (200, 500) } else { (4, 120) };
    let world = World::started("load");
    let repo = world.repo("shop");
    let commit = repo.commit("Open", &[("viking.yml", &shop("version 0"))]);
    world.add(&repo);
    world.settled("shop", &commit);
    let loads = [
        Load::start(&world, rate / 2, 10, true),
        Load::start(&world, rate / 2, 10, false),
    ];
    let patient = Visitor::of(&world, "shop.example", "/slow");
    let guests = [Guest::at(&world), Guest::at(&world)];
    for n in 1..=pushes {
        let says = format!("version {n}");
        world.push("shop", &repo, &says, &[("viking.yml", &shop(&says))]);
        let page = world.visit("shop.example", "/");
        assert_eq!(page.as_deref(), Ok(says.as_str()));
    }
    let asked: u64 = loads.into_iter().map(Load::all).sum();
    let stays = guests.map(Guest::all);
    let slow = patient.all();
    eprintln!(
        "{pushes} pushes, {asked} requests, {} versions of a slow page, {stays:?}",
        slow.len()
    );
    assert!(asked > u64::from(rate), "the load tool asked: {asked}");
    for stay in stays {
        assert!(stay.moves >= 1 && stay.words > stay.moves, "{stay:?}");
    }
}
