//! Small files of sites as answers, so that what everybody asks for is neither read nor packed each
//! time. Bounded in bytes, for all sites together; by digest, as the files of one never change. Used by
//! `site`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::{Body as _, Frame};
use hyper::header::{self, HeaderMap};
use hyper::http::request;
use hyper::{Method, Response, StatusCode};

use super::body::Out;

/// Largest body that is kept: scripts and pictures of pages. What is larger is read in pieces each time.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Most that is kept; what would be more begins anew.
const BYTES_MAX: usize = 64 << 20;

/// What an answer takes beside its body, roughly.
const HEAD_BYTES: usize = 1_024;

/// Ways of packing that are kept of one path: browsers ask in two or three.
const WAYS_MAX: usize = 4;

/// Longest path, and longest list of ways, that is kept.
const KEY_BYTES_MAX: usize = 256;

/// Which answer: a site, a path, and what the client takes packed, as it says it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Which<'a> {
    digest: &'a str,
    path: &'a str,
    packed: &'a [u8],
}

impl<'a> Which<'a> {
    /// `None` when the request asks for something of its own, such as a part.
    pub(super) fn of(digest: &'a str, asked: &'a request::Parts) -> Option<Self> {
        let mut ways = asked.headers.get_all(header::ACCEPT_ENCODING).iter();
        let packed = ways.next().map_or(&b""[..], |value| value.as_bytes());
        let plain = asked.method == Method::GET
            && !asked.headers.contains_key(header::RANGE)
            && ways.next().is_none();
        let path = asked.uri.path();
        let short = path.len().max(packed.len()) <= KEY_BYTES_MAX;
        (plain && short).then_some(Self {
            digest,
            path,
            packed,
        })
    }
}

/// An answer, but for what differs with each request.
struct Small {
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Default)]
struct Shelf {
    bytes: usize,
    sites: BTreeMap<Box<str>, Paths>,
}

/// By path, then by what the client takes packed.
type Paths = BTreeMap<Box<str>, Vec<(Box<[u8]>, Arc<Small>)>>;

/// What is kept.
#[derive(Default)]
pub(super) struct Kept(Mutex<Shelf>);

impl Kept {
    pub(super) fn get(&self, which: Which<'_>) -> Option<Response<Out>> {
        let small = {
            let shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let ways = shelf.sites.get(which.digest)?.get(which.path)?;
            let (_, small) = ways.iter().find(|(packed, _)| **packed == *which.packed)?;
            Arc::clone(small)
        };
        let mut response = Response::new(Out::page(small.body.clone()));
        response.headers_mut().clone_from(&small.headers);
        Some(response)
    }

    /// Passes an answer on, and keeps it if it is a small file.
    pub(super) async fn keep(
        &self,
        which: Option<Which<'_>>,
        response: Response<Out>,
    ) -> Response<Out> {
        let large = response.body().size_hint().lower() > BODY_BYTES_MAX as u64;
        let Some(which) = which.filter(|_| response.status() == StatusCode::OK && !large) else {
            return response;
        };
        let (parts, mut body) = response.into_parts();
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => read.extend_from_slice(&data),
                // The library sends no trailers; an error is the client's to see as it comes.
                Ok(Err(_)) => {}
                Err(error) => {
                    let first = stream::iter([Ok(Frame::data(read.freeze())), Err(error)]);
                    let body = StreamBody::new(first).boxed_unsync();
                    return Response::from_parts(parts, Out::files(body));
                }
            }
            if read.len() > BODY_BYTES_MAX {
                let first = stream::iter([Ok(Frame::data(read.freeze()))]);
                let body = StreamBody::new(first.chain(BodyStream::new(body)));
                return Response::from_parts(parts, Out::files(body.boxed_unsync()));
            }
        }
        let body = read.freeze();
        self.put(which, &parts.headers, &body);
        Response::from_parts(parts, Out::page(body))
    }

    fn put(&self, which: Which<'_>, headers: &HeaderMap, body: &Bytes) {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = body.len() + HEAD_BYTES;
        if shelf.bytes + bytes > BYTES_MAX {
            *shelf = Shelf::default();
        }
        let paths = shelf.sites.entry(which.digest.into()).or_default();
        let ways = paths.entry(which.path.into()).or_default();
        let known = ways.iter().any(|(packed, _)| **packed == *which.packed);
        if known || ways.len() >= WAYS_MAX {
            return;
        }
        let small = Small {
            headers: headers.clone(),
            body: body.clone(),
        };
        ways.push((which.packed.into(), Arc::new(small)));
        shelf.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str, packed: &str) -> request::Parts {
        let request = hyper::Request::get(path).header("accept-encoding", packed);
        request.body(()).unwrap().into_parts().0
    }

    async fn bytes(response: Response<Out>) -> Bytes {
        let body = response.into_body().collect().await;
        body.map_err(|error| error.to_string()).unwrap().to_bytes()
    }

    #[tokio::test]
    async fn what_is_small_is_kept_for_each_way_to_pack_it_and_nothing_else() {
        let kept = Kept::default();
        let page =
            |text: &'static str| Response::new(Out::page(Bytes::from_static(text.as_bytes())));
        let (plain, packed) = (asked("/a", ""), asked("/a", "br"));
        let (plain, packed) = (Which::of("a", &plain), Which::of("a", &packed));
        assert_eq!(bytes(kept.keep(plain, page("plain")).await).await, "plain");
        assert!(kept.get(packed.unwrap()).is_none());
        kept.keep(packed, page("packed")).await;
        assert_eq!(bytes(kept.get(plain.unwrap()).unwrap()).await, "plain");
        assert_eq!(bytes(kept.get(packed.unwrap()).unwrap()).await, "packed");
        let other = asked("/a", "");
        assert!(kept.get(Which::of("b", &other).unwrap()).is_none());

        let gone = asked("/gone", "");
        let mut missing = page("missing");
        *missing.status_mut() = StatusCode::NOT_FOUND;
        kept.keep(Which::of("a", &gone), missing).await;
        assert!(kept.get(Which::of("a", &gone).unwrap()).is_none());
        let large = asked("/large", "");
        let body = Bytes::from(vec![b'x'; BODY_BYTES_MAX + 1]);
        // Its length is not said, as when it is packed on the way.
        let pieces: Vec<Result<_, super::super::body::BoxError>> = body
            .chunks(600_000)
            .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        let streamed = StreamBody::new(stream::iter(pieces)).boxed_unsync();
        let streamed = Response::new(Out::files(streamed));
        assert_eq!(
            bytes(kept.keep(Which::of("a", &large), streamed).await).await,
            body
        );
        assert!(kept.get(Which::of("a", &large).unwrap()).is_none());
    }

    #[tokio::test]
    async fn more_than_may_be_kept_begins_anew() {
        let kept = Kept::default();
        let body = Bytes::from(vec![b'x'; BODY_BYTES_MAX]);
        let fits = BYTES_MAX / (BODY_BYTES_MAX + HEAD_BYTES);
        for n in 0..=fits {
            let asked = asked(&format!("/{n}"), "");
            let page = Response::new(Out::page(body.clone()));
            kept.keep(Which::of("a", &asked), page).await;
        }
        let (first, last) = (asked("/0", ""), asked(&format!("/{fits}"), ""));
        assert!(kept.get(Which::of("a", &first).unwrap()).is_none());
        assert!(kept.get(Which::of("a", &last).unwrap()).is_some());
        assert!(kept.0.lock().unwrap().bytes <= BYTES_MAX);
    }

    #[test]
    fn a_part_or_a_head_is_nothing_that_is_kept() {
        let mut part = asked("/a", "");
        part.headers
            .insert(header::RANGE, "bytes=0-1".parse().unwrap());
        assert!(Which::of("a", &part).is_none());
        let mut head = asked("/a", "");
        head.method = Method::HEAD;
        assert!(Which::of("a", &head).is_none());
        let mut twice = asked("/a", "br");
        twice
            .headers
            .append(header::ACCEPT_ENCODING, "gzip".parse().unwrap());
        assert!(Which::of("a", &twice).is_none());
    }
}
