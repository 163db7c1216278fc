//! What every request passes: who may ask (DNS rebinding and foreign pages are kept out), how long
//! it may take, and the one form of every error. Wrapped round the routes by `api::router`.

use std::net::IpAddr;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{HOST, HeaderMap, HeaderValue, ORIGIN};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use crate::model::wire::ErrorBody;

/// Largest request body: a source is a few hundred bytes.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// A read of the store takes milliseconds; what takes longer than this is stuck.
pub(crate) const QUICK: Duration = Duration::from_secs(10);
/// Adding a source fetches the repository, which has limits of its own below this.
pub(crate) const SLOW: Duration = Duration::from_secs(150);
/// Longest text of a rejection that is passed on.
const REJECTION_BYTES_MAX: usize = 4096;

/// Gives the request an id and every error its form. Outermost: it sees all answers.
pub(crate) async fn finish(request: Request, next: Next) -> Response {
    let id = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    if response.status().is_client_error() || response.status().is_server_error() {
        response = error_response(&id, &method, &path, response).await;
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

async fn error_response(id: &str, method: &Method, path: &str, response: Response) -> Response {
    let status = response.status();
    let error = match response.extensions().get::<ApiError>() {
        Some(error) => error.clone(),
        None => rejection(method, path, response).await,
    };
    if status.is_server_error() {
        tracing::error!(id, %method, path, "{}", error.error);
    }
    let body = ErrorBody {
        error: error.error,
        hint: error.hint,
        id: id.to_owned(),
    };
    (status, Json(body)).into_response()
}

/// An answer of the framework: a path without a route, a body it could not read.
async fn rejection(method: &Method, path: &str, response: Response) -> ApiError {
    let status = response.status();
    let text = axum::body::to_bytes(response.into_body(), REJECTION_BYTES_MAX).await;
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let (error, hint) = match status {
        StatusCode::NOT_FOUND => (format!("no route {path}"), "GET /v1/info lists the routes"),
        StatusCode::METHOD_NOT_ALLOWED => (
            format!("{path} does not take {method}"),
            "GET /v1/info lists the routes",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => (
            "the request's body is too large".to_owned(),
            "bodies hold at most 1 MiB",
        ),
        _ => (text, "see the route's description at GET /v1/info"),
    };
    ApiError::new(status, error, hint)
}

/// The answer when a handler panicked; the panic itself is in the log.
pub(crate) fn panicked(_cause: Box<dyn std::any::Any + Send>) -> Response {
    ApiError::internal("the request ended in a panic").into_response()
}

/// Ends a request that takes longer than its route may.
pub(crate) async fn deadline(
    State(limit): State<Duration>,
    request: Request,
    next: Next,
) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("no answer within {} s", limit.as_secs()),
            "the host is busy or its store is stuck: its log says more",
        )
        .into_response(),
    }
}

/// Lets through only requests that name this API as this machine does. A foreign page whose name
/// was made to resolve to this address sends its own name; one that asks from afar sends its origin.
pub(crate) async fn only_local_names(
    State(own): State<IpAddr>,
    request: Request<Body>,
    next: Next,
) -> Response {
    if let Err(error) = local_names(request.headers(), own) {
        return error.into_response();
    }
    next.run(request).await
}

fn local_names(headers: &HeaderMap, own: IpAddr) -> Result<(), ApiError> {
    let hint = "ask http://127.0.0.1 or http://localhost with the API's port";
    let forbidden = |error: String| ApiError::new(StatusCode::FORBIDDEN, error, hint);
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return Err(forbidden("the request needs exactly one Host".to_owned())),
    };
    if !is_local(host, own) {
        return Err(forbidden(format!("Host {host:?} is not this API's name")));
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or_default();
    match origin.split_once("://") {
        Some((_, name)) if is_local(name, own) => Ok(()),
        _ => Err(forbidden(format!(
            "requests of pages of {origin:?} are refused"
        ))),
    }
}

/// Whether `host`, perhaps with a port, is loopback or the address the API listens on.
fn is_local(host: &str, own: IpAddr) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    match name.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip == own,
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn only_names_of_this_machine_are_local() {
        let own = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
        for good in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:8791",
            "127.9.9.9",
            "[::1]:1",
            "192.0.2.7:1",
        ] {
            assert!(is_local(good, own), "{good}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example",
            "",
            "192.0.2.8",
            "127.0.0.1.evil.example:1",
            "[::2]",
        ] {
            assert!(!is_local(bad, own), "{bad}");
        }
    }

    #[test]
    fn a_foreign_page_is_refused_though_it_names_us() {
        let own = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("127.0.0.1:8791"));
        assert!(local_names(&headers, own).is_ok());
        headers.insert(ORIGIN, HeaderValue::from_static("https://evil.example"));
        assert!(local_names(&headers, own).is_err());
        headers.insert(ORIGIN, HeaderValue::from_static("null"));
        assert!(local_names(&headers, own).is_err());
        headers.insert(ORIGIN, HeaderValue::from_static("http://localhost:8791"));
        assert!(local_names(&headers, own).is_ok());
    }
}
