//! The pages that the router itself answers with. They name the request, so that whoever sees one can
//! be helped from the logs, and nothing of what is behind.

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode, Uri};

use super::body::Out;
use super::heads::REQUEST_ID;

/// A page.
pub(super) fn page(status: StatusCode, id: &HeaderValue) -> Response<Out> {
    saying(status, words(status), id)
}

/// A page in other words.
pub(super) fn saying(status: StatusCode, what: &str, id: &HeaderValue) -> Response<Out> {
    let reason = status.canonical_reason().unwrap_or("Error");
    // An id is of letters, digits, dots and dashes: see `heads::request_id`.
    let name = id.to_str().unwrap_or_default();
    let text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{code} {reason}</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1em;\
         color:#222;background:#fff}}h1{{font-size:1.4em}}code{{font-size:.9em}}\
         @media(prefers-color-scheme:dark){{body{{color:#ddd;background:#111}}}}</style>\n\
         <h1>{code} {reason}</h1>\n<p>{what}</p>\n<p>Request <code>{name}</code></p>\n</html>\n",
        code = status.as_u16(),
    );
    let mut response = Response::new(Out::page(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, html);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REQUEST_ID, id.clone());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    if matches!(
        status,
        StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED
    ) {
        // Where this message ends may be as unclear as what it asks; what follows a refused tunnel was
        // meant for somebody else.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What a CA that asks for a proof is answered.
pub(super) fn proof(answer: String, id: &HeaderValue) -> Response<Out> {
    let mut response = Response::new(Out::page(Bytes::from(answer)));
    let headers = response.headers_mut();
    let bytes = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, bytes);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REQUEST_ID, id.clone());
    response
}

/// Sends a client to the same page over https. The port is the usual one: who serves https elsewhere
/// has something in front that knows.
pub(super) fn to_https(host: &str, uri: &Uri, id: &HeaderValue) -> Option<Response<Out>> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let place = HeaderValue::from_str(&format!("https://{host}{path}")).ok()?;
    let mut response = page(StatusCode::PERMANENT_REDIRECT, id);
    response.headers_mut().insert(header::LOCATION, place);
    Some(response)
}

fn words(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PERMANENT_REDIRECT => "This site is served over https.",
        StatusCode::BAD_REQUEST => "The request does not say clearly which site it is for.",
        StatusCode::NOT_FOUND => "No site of this name is served here.",
        StatusCode::METHOD_NOT_ALLOWED => "This server is no proxy to other servers.",
        StatusCode::REQUEST_TIMEOUT => "The request did not arrive in time.",
        StatusCode::PAYLOAD_TOO_LARGE => "The request is too large.",
        StatusCode::BAD_GATEWAY => "The site broke off before it answered.",
        StatusCode::SERVICE_UNAVAILABLE => "The site is not running at the moment.",
        StatusCode::GATEWAY_TIMEOUT => "The site did not answer in time.",
        _ => "The request could not be served.",
    }
}
