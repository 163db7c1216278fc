//! One request: the route of its host, a copy, the copy's answer. A copy that cannot be reached costs a
//! try, and so does one that breaks off where asking again cannot do anything twice.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HeaderValue;
use hyper::http::request;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, Version, header};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::access::{Entry, Told};
use super::body::{Answer, Cut, Lease, Out, Upload, Uploading};
use super::heads::{self, Bad, Client, REQUEST_ID};
use super::pages::{self, page};
use super::pick::{Backend, Busy, pick};
use super::{Live, Shared};
use crate::router::forward::{DIAL, WAIT_FOR_COPY, watch_over};

/// Most copies that are tried for one request.
const TRIES_MAX: usize = 4;

/// How long a connection that stood idle may take until it can be used.
const READY_MAX: Duration = Duration::from_millis(100);

/// Requests that all applications have from this host at a time: each has a socket.
pub(super) const ASKED_MAX: usize = 8_192;

/// Requests that wait for a copy of one node.
const WAITING_OF_ONE_MAX: usize = 200;

/// How long an application may take until its answer begins, once it has all of the request.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// Requests that wait for a copy at a time, as while a node with data is handed over.
const WAITING_MAX: usize = 1_000;

/// One of the router's threads, as requests see it.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    /// Which.
    pub(super) thread: usize,
    /// The connection's place among those there may be.
    pub(super) slot: Option<Arc<OwnedSemaphorePermit>>,
}

/// How a try ended without an answer.
enum Failed {
    /// It never got there: another copy may be asked, with the same request.
    Unsent(Box<Request<Upload>>),
    /// It may have got there.
    Sent(Why),
}

enum Why {
    BrokeOff(hyper::Error),
    TooLate,
}

impl Failed {
    /// What the client is told when no other copy would do better.
    fn ends_it(&self) -> Option<StatusCode> {
        match self {
            Self::Unsent(_) => None,
            Self::Sent(Why::TooLate) => Some(StatusCode::GATEWAY_TIMEOUT),
            Self::Sent(Why::BrokeOff(error)) => match Cut::in_error(error) {
                Some(Cut::TooLarge) => Some(StatusCode::PAYLOAD_TOO_LARGE),
                Some(Cut::Paused) => Some(StatusCode::REQUEST_TIMEOUT),
                // The client broke off within its body.
                None => error.is_user().then_some(StatusCode::BAD_REQUEST),
            },
        }
    }
}

impl Worker {
    /// Answers a request, whatever it is.
    pub(super) async fn serve(
        self,
        request: Request<Incoming>,
        client: Client,
    ) -> Result<Response<Out>, Infallible> {
        let id = heads::request_id(request.headers(), &client);
        let mut told = Told {
            entry: self.entry(&request, &client, &id),
            measure: None,
        };
        let version = request.version();
        let answer = self.answer(request, &client, &id, &mut told).await;
        let mut response = answer.unwrap_or_else(|status| page(status, &id));
        if version == Version::HTTP_2 {
            response.headers_mut().remove(header::CONNECTION);
        }
        if client.tls
            && let Some(hsts) = &self.shared.hsts
        {
            let headers = response.headers_mut();
            headers
                .entry(header::STRICT_TRANSPORT_SECURITY)
                .or_insert_with(|| hsts.clone());
        }
        told.answered(response.status());
        Ok(response.map(|out| out.telling(told)))
    }

    /// Whether a request in the clear is sent to https: there is a certificate for its name, and no proxy
    /// of the operator's says that the client came over https to it.
    fn goes_to_https(&self, parts: &request::Parts, client: &Client, host: &str) -> bool {
        let proto = parts.headers.get("x-forwarded-proto");
        let secure = proto.is_some_and(|proto| proto.as_bytes() == b"https");
        let came_secure = client.tls || (client.trusted && secure);
        let https = self.shared.secure.load(Ordering::Relaxed);
        !came_secure && https && self.shared.certificates.covers(host)
    }

    fn entry(
        &self,
        request: &Request<Incoming>,
        client: &Client,
        id: &HeaderValue,
    ) -> Option<Entry> {
        self.shared.access.wanted().then(|| Entry {
            began: Instant::now(),
            id: id.clone(),
            client: client.ip,
            method: request.method().clone(),
            host: String::new(),
            path: request.uri().path().to_owned(),
            status: StatusCode::OK,
            node: String::new(),
            job: String::new(),
            tries: 0,
        })
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        client: &Client,
        id: &HeaderValue,
        told: &mut Told,
    ) -> Result<Response<Out>, StatusCode> {
        let asks = heads::upgrade(request.version(), request.headers());
        let upgrade = asks.is_some().then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let host = heads::host(&parts).map_err(|bad| match bad {
            Bad::Host => StatusCode::BAD_REQUEST,
            Bad::Method => StatusCode::METHOD_NOT_ALLOWED,
        })?;
        if let Some(answer) = self.shared.certificates.challenges.answer(&host, &parts) {
            return Ok(pages::proof(answer, id));
        }
        let live = self.shared.find(&host);
        if let Some(entry) = &mut told.entry {
            entry.host.clone_from(&host);
        }
        let live = live.ok_or(StatusCode::NOT_FOUND)?;
        told.led(&live);
        if self.goes_to_https(&parts, client, &host) {
            return pages::to_https(&host, &parts.uri, id).ok_or(StatusCode::BAD_REQUEST);
        }
        if live.route.site.is_some() {
            let files = live.files.as_ref();
            let files = files.ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
            return files.answer(&parts, id).await;
        }
        let max = self.shared.body_max;
        if body.size_hint().lower() > max {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        heads::to_application(&mut parts, &host, client, id);
        if let Some(protocol) = asks {
            heads::go_on_in(&mut parts.headers, protocol);
        }
        // Asking twice must not do anything twice (RFC 9110, 9.2.2).
        let again = body.is_end_stream() && upgrade.is_none() && parts.method.is_idempotent();
        let again = again.then(|| parts.clone());
        if !body.is_end_stream() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
            // Else a body that nobody expects, as of a GET, would be left out.
            let chunked = HeaderValue::from_static("chunked");
            parts.headers.insert(header::TRANSFER_ENCODING, chunked);
        }
        let upload = match body.is_end_stream() {
            true => Upload::empty(),
            false => Upload::new(body, max),
        };
        let request = Request::from_parts(parts, upload);
        let room = Arc::clone(&self.shared.room).try_acquire_owned();
        let room = room.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        let mut tries = Tries {
            worker: self,
            live,
            host,
            tried: Vec::new(),
            again,
        };
        let answered = tries.run(request).await;
        if let Some(entry) = &mut told.entry {
            entry.tries = tries.tried.len();
            if let Ok((_, busy, _)) = &answered {
                entry.answered(busy.backend());
            }
        }
        let (response, mut busy, lease) = answered?;
        busy.hold(room, self.slot.clone());
        finish(response, busy, lease, upgrade, id).await
    }
}

/// Hands an application's answer on.
async fn finish(
    mut response: Response<Incoming>,
    busy: Busy,
    lease: Lease,
    upgrade: Option<OnUpgrade>,
    id: &HeaderValue,
) -> Result<Response<Out>, StatusCode> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = upgrade else {
            return Err(StatusCode::BAD_GATEWAY);
        };
        let server = hyper::upgrade::on(&mut response);
        tokio::spawn(tunnel(client, server, busy));
        let (mut parts, _) = response.into_parts();
        let protocol = parts.headers.get(header::UPGRADE).cloned();
        heads::strip_hops(&mut parts.headers);
        if let Some(protocol) = protocol {
            heads::go_on_in(&mut parts.headers, protocol);
        }
        parts.headers.insert(REQUEST_ID, id.clone());
        return Ok(Response::from_parts(parts, Out::page(bytes::Bytes::new())));
    }
    let (mut parts, body) = response.into_parts();
    heads::strip_hops(&mut parts.headers);
    parts.headers.insert(REQUEST_ID, id.clone());
    parts.version = Version::HTTP_11;
    let mut answer = Answer::new(body, busy, lease);
    answer.look_ahead().await;
    Ok(Response::from_parts(parts, Out::answer(answer)))
}

/// Passes on what both sides say once they agreed to go on in another protocol. Nothing the client
/// says gets through before the application has agreed.
async fn tunnel(client: OnUpgrade, server: OnUpgrade, busy: Busy) {
    let Ok((client, server)) = tokio::try_join!(client, server) else {
        return;
    };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    // Either side hanging up is the normal end.
    copy_bidirectional(&mut client, &mut server).await.ok();
    drop(busy);
}

/// The tries of one request.
struct Tries<'a> {
    worker: &'a Worker,
    live: Arc<Live>,
    host: String,
    tried: Vec<SocketAddr>,
    /// The head, if the request may be sent again after it has been sent.
    again: Option<request::Parts>,
}

type Answered = (Response<Incoming>, Busy, Lease);

impl Tries<'_> {
    async fn run(&mut self, mut request: Request<Upload>) -> Result<Answered, StatusCode> {
        let shared = &self.worker.shared;
        loop {
            let Some(busy) = self.next().await else {
                // All that there are were tried, or there were none for long enough.
                return Err(match self.tried.is_empty() {
                    true => StatusCode::SERVICE_UNAVAILABLE,
                    false => StatusCode::BAD_GATEWAY,
                });
            };
            let backend = Arc::clone(busy.backend());
            let failed = match self.worker.send(&backend, request).await {
                Ok((response, lease)) => {
                    backend.succeeded();
                    return Ok((response, busy, lease));
                }
                Err(failed) => failed,
            };
            if let Some(status) = failed.ends_it() {
                return Err(status);
            }
            if let Failed::Sent(Why::BrokeOff(error)) = &failed {
                tracing::debug!(copy = %backend.copy.job_id, "broke off: {error}");
            }
            backend.failed(shared.now_ms());
            self.live.metrics.failed();
            self.tried.push(backend.address());
            // What led there may lead elsewhere by now.
            self.live = shared
                .find(&self.host)
                .unwrap_or_else(|| Arc::clone(&self.live));
            request = match (failed, self.again.clone()) {
                (Failed::Unsent(request), _) => *request,
                (Failed::Sent(_), Some(parts)) => Request::from_parts(parts, Upload::empty()),
                (Failed::Sent(_), None) => return Err(StatusCode::BAD_GATEWAY),
            };
        }
    }

    /// The copy to ask next. Waits for one while there is none, as while a node with data is handed over.
    async fn next(&mut self) -> Option<Busy> {
        if self.tried.len() >= TRIES_MAX {
            return None;
        }
        if let Some(busy) = self.pick() {
            return Some(busy);
        }
        let shared = &self.worker.shared;
        let waiting = Waiting::begin(shared, &self.live)?;
        let mut changed = shared.changed.subscribe();
        let until = tokio::time::Instant::now() + WAIT_FOR_COPY;
        let found = tokio::time::timeout_at(until, async {
            loop {
                self.live = shared.find(&self.host)?;
                if let Some(busy) = self.pick() {
                    return Some(busy);
                }
                changed.changed().await.ok()?;
            }
        });
        let found = found.await.ok().flatten();
        drop(waiting);
        found
    }

    fn pick(&self) -> Option<Busy> {
        let shared = &self.worker.shared;
        let turn = self.live.turn.fetch_add(1, Ordering::Relaxed);
        let backends = &self.live.backends;
        pick(backends, &self.tried, turn, shared.now_ms()).map(Busy::with)
    }
}

/// One of the requests that wait for a copy.
struct Waiting<'a>(&'a Shared, Arc<Live>);

impl<'a> Waiting<'a> {
    /// `None` when too many wait already, of all or of this one.
    fn begin(shared: &'a Shared, live: &Arc<Live>) -> Option<Self> {
        let all = shared.waiting.fetch_add(1, Ordering::Relaxed);
        let of_one = live.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(shared, Arc::clone(live));
        (all < WAITING_MAX && of_one < WAITING_OF_ONE_MAX).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.1.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// Sends a request to a copy: over a connection that stands idle, else over a new one.
    async fn send(
        &self,
        backend: &Arc<Backend>,
        request: Request<Upload>,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        let mut request = request;
        while let Some(sender) = backend.take(self.thread) {
            match self.over(sender, request).await {
                // It was closed meanwhile: that says nothing of the copy.
                Err(Failed::Unsent(unsent)) => request = *unsent,
                other => return other,
            }
        }
        let Some(sender) = connect(backend.address()).await else {
            return Err(Failed::Unsent(Box::new(request)));
        };
        self.over(sender, request).await
    }

    async fn over(
        &self,
        mut sender: SendRequest<Upload>,
        request: Request<Upload>,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        let ready = tokio::time::timeout(READY_MAX, sender.ready()).await;
        if !matches!(ready, Ok(Ok(()))) {
            return Err(Failed::Unsent(Box::new(request)));
        }
        let uploading = request.body().uploading();
        let answer = sender.try_send_request(request);
        tokio::pin!(answer);
        let answer = loop {
            match tokio::time::timeout(ANSWER_MAX, answer.as_mut()).await {
                Ok(answer) => break answer,
                // Its body is still on its way, whose pauses are bounded.
                Err(_) if uploading.as_ref().is_some_and(Uploading::goes_on) => {}
                Err(_) => return Err(Failed::Sent(Why::TooLate)),
            }
        };
        let lease = |sender| Lease {
            sender,
            thread: self.thread,
            uploading,
        };
        match answer {
            Ok(response) => Ok((response, lease(sender))),
            Err(mut error) => match error.take_message() {
                Some(request) => Err(Failed::Unsent(Box::new(request))),
                None => Err(Failed::Sent(Why::BrokeOff(error.into_error()))),
            },
        }
    }
}

async fn connect(address: SocketAddr) -> Option<SendRequest<Upload>> {
    let stream = tokio::time::timeout(DIAL, TcpStream::connect(address)).await;
    let stream = stream.ok()?.ok()?;
    // Latency before throughput; a socket that refuses the option still works.
    stream.set_nodelay(true).ok();
    watch_over(&stream);
    let io = TokioIo::new(stream);
    let (sender, connection) = http1::handshake(io).await.ok()?;
    tokio::spawn(async move {
        // Its end is the requests' matter.
        connection.with_upgrades().await.ok();
    });
    Some(sender)
}
