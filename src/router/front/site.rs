//! Static sites: the files that a route leads to, as they were unpacked on this host. Which file, which part
//! of it and how it is packed is `tower-http`'s; here is what may be asked for, and how long an answer
//! counts. A file's name in caches follows from what the site is, so it is the same on every host and
//! another one after each change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request;
use hyper::{Method, Request, Response, StatusCode, Uri};
use sha2::{Digest as _, Sha256};
use tower::ServiceExt as _;
use tower_http::compression::{Compression, Predicate};
use tower_http::services::ServeDir;

use super::body::Out;
use super::heads::REQUEST_ID;
use super::kept::{Kept, Which};
use super::pages;
use crate::model::site;

/// What people may put there themselves for what is not there.
const NOT_FOUND: &str = "/404.html";

/// Pages are asked for anew each time: a release shows at once.
const PAGES_FOR: &str = "no-cache";

/// Anything else may come from a cache for as long.
const OTHERS_FOR: &str = "public, max-age=60";

/// Files that are packed on their way, in bytes: smaller ones gain nothing, larger ones take too long. A
/// site that has more to gain has a file beside it that ends in `.gz` or `.br`.
const PACK_BYTES_MIN: u64 = 1_024;
const PACK_BYTES_MAX: u64 = 8 << 20;

/// A large file is read in pieces of this size: each costs a change of threads.
const PIECE_BYTES: usize = 128 * 1024;

/// Hex digits of a name in caches.
const TAG_DIGITS: usize = 32;

/// The files of a site.
pub(super) struct Files {
    folder: PathBuf,
    digest: String,
    kept: Arc<Kept>,
    /// It was there: as long as a route leads to it, it stays.
    here: AtomicBool,
}

impl Files {
    pub(super) fn new(sites: &Path, digest: &str, kept: &Arc<Kept>) -> Option<Self> {
        Some(Self {
            folder: site::folder(sites, digest)?,
            digest: digest.to_owned(),
            kept: Arc::clone(kept),
            here: AtomicBool::new(false),
        })
    }

    async fn are_here(&self) -> bool {
        if self.here.load(Ordering::Relaxed) {
            return true;
        }
        let found = tokio::fs::metadata(&self.folder).await;
        let here = found.is_ok_and(|found| found.is_dir());
        self.here.store(here, Ordering::Relaxed);
        here
    }

    /// Answers a request.
    pub(super) async fn answer(
        &self,
        asked: &request::Parts,
        id: &HeaderValue,
    ) -> Result<Response<Out>, StatusCode> {
        if !matches!(asked.method, Method::GET | Method::HEAD) {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            let mut page = pages::saying(status, "This site can only be read.", id);
            let allow = HeaderValue::from_static("GET, HEAD");
            page.headers_mut().insert(header::ALLOW, allow);
            return Ok(page);
        }
        if !self.are_here().await {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        if !may_be_asked(asked.uri.path()) {
            return self.not_found(asked, id).await;
        }
        let which = Which::of(&self.digest, asked);
        if let Some(response) = which.and_then(|which| self.kept.get(which)) {
            return Ok(self.on_condition(asked, response, id));
        }
        let tag = self.tag(asked.uri.path());
        let mut headers = HeaderMap::new();
        let range = asked.headers.get(header::RANGE);
        match range.filter(|_| range_counts(&asked.headers, &tag)) {
            // A part is always one of the plain file.
            Some(range) => drop(headers.insert(header::RANGE, range.clone())),
            None => headers = accepted(&asked.headers),
        }
        let mut response = self.read(&asked.method, asked.uri.clone(), headers).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {}
            StatusCode::NOT_FOUND => return self.not_found(asked, id).await,
            StatusCode::TEMPORARY_REDIRECT | StatusCode::RANGE_NOT_SATISFIABLE => {
                response.headers_mut().insert(REQUEST_ID, id.clone());
                return Ok(response);
            }
            status if status.is_client_error() => return self.not_found(asked, id).await,
            _ => return Err(StatusCode::INTERNAL_SERVER_ERROR),
        }
        let headers = response.headers_mut();
        let packed = headers.get(header::CONTENT_ENCODING);
        let named = name(&tag, packed.and_then(|packed| packed.to_str().ok()));
        headers.extend(named.map(|named| (header::ETAG, named)));
        headers.insert(header::CACHE_CONTROL, counts_for(headers));
        let response = self.kept.keep(which, response).await;
        Ok(self.on_condition(asked, response, id))
    }

    /// The answer, or what a condition of the request makes of it.
    fn on_condition(
        &self,
        asked: &request::Parts,
        mut response: Response<Out>,
        id: &HeaderValue,
    ) -> Response<Out> {
        response.headers_mut().insert(REQUEST_ID, id.clone());
        let conditions = [header::IF_MATCH, header::IF_NONE_MATCH];
        if !conditions
            .iter()
            .any(|name| asked.headers.contains_key(name))
        {
            return response;
        }
        let tag = self.tag(asked.uri.path());
        let named = response.headers().get(header::ETAG);
        let Some(status) = unmet(&asked.headers, &tag, named) else {
            return response;
        };
        let mut short = Response::new(Out::page(Bytes::new()));
        *short.status_mut() = status;
        let kept = [
            header::ETAG,
            header::CACHE_CONTROL,
            header::VARY,
            REQUEST_ID,
        ];
        let kept = kept.into_iter().filter_map(|name| {
            let value = response.headers().get(&name).cloned();
            Some((name, value?))
        });
        short.headers_mut().extend(kept);
        short
    }

    /// The site's own page for it, if it has one.
    async fn not_found(
        &self,
        asked: &request::Parts,
        id: &HeaderValue,
    ) -> Result<Response<Out>, StatusCode> {
        let headers = accepted(&asked.headers);
        let uri = Uri::from_static(NOT_FOUND);
        let mut response = self.read(&asked.method, uri, headers).await?;
        if response.status() != StatusCode::OK {
            let what = "There is nothing at this address.";
            return Ok(pages::saying(StatusCode::NOT_FOUND, what, id));
        }
        *response.status_mut() = StatusCode::NOT_FOUND;
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(PAGES_FOR));
        headers.insert(REQUEST_ID, id.clone());
        Ok(response)
    }

    /// A file, or what the library says instead. Of dates it is told nothing: those of files are all the
    /// same.
    async fn read(
        &self,
        method: &Method,
        uri: Uri,
        headers: HeaderMap,
    ) -> Result<Response<Out>, StatusCode> {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let files = ServeDir::new(&self.folder)
            .with_buf_chunk_size(PIECE_BYTES)
            .precompressed_gzip()
            .precompressed_br();
        let files = Compression::new(files).compress_when(WorthPacking);
        let mut response = match files.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let headers = response.headers_mut();
        headers.remove(header::LAST_MODIFIED);
        headers.remove(header::ETAG);
        name_charset(headers);
        Ok(response.map(|body| Out::files(body.map_err(Into::into).boxed_unsync())))
    }

    /// What a path's file is called in caches, without how it is packed.
    fn tag(&self, path: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(self.digest.as_bytes());
        hash.update(path.as_bytes());
        let mut tag = hex::encode(hash.finalize());
        tag.truncate(TAG_DIGITS);
        tag
    }
}

/// Whether a path means one file and nothing else: no way up, no slash in disguise, nothing that is hidden.
fn may_be_asked(path: &str) -> bool {
    let Some(path) = path.strip_prefix('/') else {
        return false;
    };
    let Some(plain) = decoded(path) else {
        return false;
    };
    let plain = plain.strip_suffix('/').unwrap_or(&plain);
    plain.is_empty() || (site::refused(plain).is_none() && !site::hidden(plain))
}

/// A path without `%`; `None` when what it stands for would make it another path.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = path.bytes();
    let mut plain = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        let byte = u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
        if byte == b'/' || digits.contains(&b'+') {
            return None;
        }
        plain.push(byte);
    }
    let bad = |byte: &u8| *byte == b'\\' || byte.is_ascii_control();
    if plain.iter().any(bad) {
        return None;
    }
    String::from_utf8(plain).ok()
}

/// How a client takes what it gets.
fn accepted(headers: &HeaderMap) -> HeaderMap {
    let mut accepted = HeaderMap::new();
    for value in headers.get_all(header::ACCEPT_ENCODING) {
        accepted.append(header::ACCEPT_ENCODING, value.clone());
    }
    accepted
}

/// Whether a client that wants a part has the rest of the same file (RFC 9110, 13.1.5).
fn range_counts(headers: &HeaderMap, tag: &str) -> bool {
    let condition = headers.get(header::IF_RANGE);
    condition.is_none_or(|condition| name(tag, None).as_ref() == Some(condition))
}

/// An entity tag: two ways to pack a file are two names.
fn name(tag: &str, packed: Option<&str>) -> Option<HeaderValue> {
    let name = match packed {
        None => format!("\"{tag}\""),
        Some(packed) => format!("\"{tag}-{packed}\""),
    };
    HeaderValue::from_str(&name).ok()
}

/// What a condition on a file makes of the answer (RFC 9110, 13.2.2).
fn unmet(headers: &HeaderMap, tag: &str, named: Option<&HeaderValue>) -> Option<StatusCode> {
    let lists = |header| {
        let values = headers.get_all(header).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        texts.flat_map(|text| text.split(',')).map(str::trim)
    };
    let named = named.and_then(|named| named.to_str().ok());
    if headers.contains_key(header::IF_MATCH) {
        let same = |one: &str| one == "*" || Some(one) == named;
        if !lists(header::IF_MATCH).any(same) {
            return Some(StatusCode::PRECONDITION_FAILED);
        }
    }
    // However it was packed: it is the same file.
    let same = |one: &str| {
        let one = one.strip_prefix("W/").unwrap_or(one);
        let one = one.strip_prefix('"').and_then(|one| one.strip_suffix('"'));
        let rest = one.and_then(|one| one.strip_prefix(tag));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let known = lists(header::IF_NONE_MATCH).any(|one| one == "*" || same(one));
    known.then_some(StatusCode::NOT_MODIFIED)
}

fn content_type(headers: &HeaderMap) -> &str {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default()
}

fn counts_for(headers: &HeaderMap) -> HeaderValue {
    HeaderValue::from_static(match content_type(headers).starts_with("text/html") {
        true => PAGES_FOR,
        false => OTHERS_FOR,
    })
}

/// Texts are UTF-8, as far as nobody says otherwise.
fn name_charset(headers: &mut HeaderMap) {
    let kind = content_type(headers);
    if kind.starts_with("text/")
        && !kind.contains("charset")
        && let Ok(named) = HeaderValue::from_str(&format!("{kind}; charset=utf-8"))
    {
        headers.insert(header::CONTENT_TYPE, named);
    }
}

/// Texts of a middle size.
#[derive(Debug, Clone, Copy)]
struct WorthPacking;

impl Predicate for WorthPacking {
    fn should_compress<B: hyper::body::Body>(&self, response: &Response<B>) -> bool {
        let headers = response.headers();
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let range = PACK_BYTES_MIN..=PACK_BYTES_MAX;
        let kind = content_type(headers);
        let kind = kind.split(';').next().unwrap_or_default();
        let text = kind.starts_with("text/")
            || kind.ends_with("+json")
            || kind.ends_with("+xml")
            || matches!(
                kind,
                "application/javascript"
                    | "application/json"
                    | "application/xml"
                    | "application/wasm"
            );
        text && length.is_some_and(|length: u64| range.contains(&length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_disguise_is_never_asked_for() {
        for good in [
            "/",
            "/a",
            "/a/",
            "/a%20b.html",
            "/%C3%A4",
            "/.well-known/x",
            "/a.b/c",
        ] {
            assert!(may_be_asked(good), "{good}");
        }
        for bad in [
            "",
            "*",
            "//a",
            "/a//b",
            "/..",
            "/a/../b",
            "/%2e%2e/a",
            "/a%2fb",
            "/a%2Fb",
            "/a%5Cb",
            "/a\\b",
            "/a%00",
            "/%",
            "/%4",
            "/%+4",
            "/%zz",
            "/%ff",
            "/.env",
            "/.git/config",
            "/a/.htaccess",
            "/%2egit/x",
            "/a%0Ab",
            "/.",
        ] {
            assert!(!may_be_asked(bad), "{bad}");
        }
    }

    #[test]
    fn a_known_file_is_not_sent_again_however_it_was_packed() {
        let of = |name: header::HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            unmet(&headers, "ab", super::name("ab", None).as_ref())
        };
        for known in ["\"ab\"", "W/\"ab\"", "\"x\", \"ab-gzip\"", "*"] {
            let answer = of(header::IF_NONE_MATCH, known);
            assert_eq!(answer, Some(StatusCode::NOT_MODIFIED), "{known}");
        }
        for other in ["\"abc\"", "ab", "\"\"", ""] {
            assert_eq!(of(header::IF_NONE_MATCH, other), None, "{other}");
        }
        assert_eq!(of(header::IF_MATCH, "\"ab\""), None);
        let failed = Some(StatusCode::PRECONDITION_FAILED);
        assert_eq!(of(header::IF_MATCH, "W/\"ab\""), failed);
        assert_eq!(of(header::IF_MATCH, "\"x\""), failed);
    }
}
