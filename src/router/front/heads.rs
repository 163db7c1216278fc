//! What the router reads from and writes into the head of a message: the host that is meant, what is
//! for one connection only, and what is told to the application of the client. Pure.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request;
use hyper::{Method, Uri, Version};

use crate::model::route::host_of;

/// Why a request goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// Its `Host` is missing, there twice, unlike its target, or no host name (RFC 9112, 3.2).
    Host,
    /// The method is for proxies that tunnel.
    Method,
}

/// The header every request gets a name by.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// About one connection, besides what `Connection` names (RFC 9110, 7.6.1). What the message's length
/// is each side works out anew, which is what keeps requests from being smuggled.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Who asks, and how.
#[derive(Debug, Clone)]
pub(super) struct Client {
    /// The address of whoever is connected.
    pub(super) ip: IpAddr,
    /// Whether it is a proxy of the operator's, whose word about its clients counts.
    pub(super) trusted: bool,
    /// Whether it came over TLS.
    pub(super) tls: bool,
    /// The address, and the port it came to, as each request says them.
    ip_text: HeaderValue,
    port_text: HeaderValue,
}

impl Client {
    pub(super) fn new(ip: IpAddr, trusted: bool, tls: bool, port: u16) -> Self {
        Self {
            ip,
            trusted,
            tls,
            ip_text: text(&ip.to_string()),
            port_text: HeaderValue::from(port),
        }
    }
}

/// The host name a request is for.
pub(super) fn host(parts: &request::Parts) -> Result<String, Bad> {
    if parts.method == Method::CONNECT {
        return Err(Bad::Method);
    }
    let mut named = parts.headers.get_all(header::HOST).iter();
    let named = match (named.next(), named.next()) {
        (_, Some(_)) => return Err(Bad::Host),
        (one, None) => one,
    };
    let named = named.map(|value| value.to_str().ok().and_then(host_of).ok_or(Bad::Host));
    let named = named.transpose()?;
    let target = parts.uri.authority();
    // A name and password in a target are for browsers, or for deceiving.
    let target = target.map(|authority| host_of(authority.as_str()).ok_or(Bad::Host));
    let target = target.transpose()?;
    match (target, named) {
        (Some(target), Some(named)) if target != named => Err(Bad::Host),
        // HTTP/2 has no need of the header; HTTP/1.1 has (RFC 9112, 3.2).
        (Some(_), None) if parts.version == Version::HTTP_11 => Err(Bad::Host),
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(Bad::Host),
    }
}

/// The protocol a client wants to go on with, as for a websocket.
pub(super) fn upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = version == Version::HTTP_11 && has_token(headers, "upgrade");
    // HTTP/2 in the clear would be a way around everything that is done to a request here.
    let other = |value: &&HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"h2c");
    headers
        .get(header::UPGRADE)
        .filter(|_| asks)
        .filter(other)
        .cloned()
}

/// Says that the connection goes on in another protocol.
pub(super) fn go_on_in(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let values = headers.get_all(header::CONNECTION).iter();
    let mut tokens = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    tokens.any(|found| found.trim().eq_ignore_ascii_case(token))
}

/// Takes out what is for one connection only.
pub(super) fn strip_hops(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            // Naming these would take from the application what viking or the message itself says.
            .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Makes the head that the application gets: another connection, the same words, and who asks.
pub(super) fn to_application(
    parts: &mut request::Parts,
    host: &str,
    client: &Client,
    request_id: &HeaderValue,
) {
    let headers = &mut parts.headers;
    strip_hops(headers);
    // The server has told the client to go on when the body is asked for.
    headers.remove(header::EXPECT);
    if parts.version == Version::HTTP_2 {
        join_cookies(headers);
    }
    if !headers.contains_key(header::HOST)
        && let Ok(name) = HeaderValue::from_str(parts.uri.authority().map_or(host, |a| a.as_str()))
    {
        headers.insert(header::HOST, name);
    }
    forwarded(headers, client);
    headers.insert(REQUEST_ID, request_id.clone());
    if parts.uri.authority().is_some() || parts.uri.scheme().is_some() {
        parts.uri = origin_form(&parts.uri);
    }
    parts.version = Version::HTTP_11;
}

fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned();
    path.map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// HTTP/2 may send cookies in pieces, HTTP/1.1 may not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut pieces = headers.get_all(header::COOKIE).iter();
    if pieces.next().is_none() || pieces.next().is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Who the client is, where it came to and how. What it says of that itself counts only when it is a
/// proxy of the operator's.
fn forwarded(headers: &mut HeaderMap, client: &Client) {
    let ip = client.ip_text.clone();
    // Nobody here keeps it right; and applications that see names as variables take `_` for `-`.
    headers.remove(header::FORWARDED);
    drop_lookalikes(headers);
    if client.trusted {
        // Each proxy may have written a line of its own.
        let lines = headers.get_all(FORWARDED_FOR).iter();
        let mut chain: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
        let last = chain.last().and_then(|line| line.rsplit(',').next());
        let real = last.map_or_else(|| ip.clone(), |last| text(last.trim()));
        let own = client.ip.to_string();
        chain.push(&own);
        let chain = text(&chain.join(", "));
        headers.insert(FORWARDED_FOR, chain);
        headers.insert(REAL_IP, real);
    } else {
        headers.insert(FORWARDED_FOR, ip.clone());
        headers.insert(REAL_IP, ip);
        for name in [FORWARDED_PROTO, FORWARDED_HOST, FORWARDED_PORT] {
            headers.remove(name);
        }
    }
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
    let proto = if client.tls { "https" } else { "http" };
    let proto = HeaderValue::from_static(proto);
    headers.entry(FORWARDED_PROTO).or_insert(proto);
    let port = || client.port_text.clone();
    headers.entry(FORWARDED_PORT).or_insert_with(port);
}

/// Takes out headers that some applications cannot tell from what viking says of the client.
fn drop_lookalikes(headers: &mut HeaderMap) {
    let alike = |name: &&HeaderName| {
        let name = name.as_str();
        name.contains('_') && OURS.contains(&name.replace('_', "-").as_str())
    };
    let found: Vec<HeaderName> = headers.keys().filter(alike).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// What viking says of the client.
const OURS: [&str; 6] = [
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

const NO_TEXT: HeaderValue = HeaderValue::from_static("");

/// Of addresses and numbers: always good.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or(NO_TEXT)
}

/// The name of a request: a trusted proxy's, else a new one.
pub(super) fn request_id(headers: &HeaderMap, client: &Client) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|_| client.trusted);
    let sound = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        let good = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        (1..=ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(good)
    };
    match given.filter(sound) {
        Some(given) => given.clone(),
        None => {
            let mut digits = [0; 32];
            match hex::encode_to_slice(fastrand::u128(..).to_be_bytes(), &mut digits) {
                Ok(()) => HeaderValue::from_bytes(&digits).unwrap_or(NO_TEXT),
                Err(_) => NO_TEXT,
            }
        }
    }
}

const ID_BYTES_MAX: usize = 128;

#[cfg(test)]
#[path = "heads_tests.rs"]
mod tests;
