//! The CLI's side of the API: requests, streams of lines, and errors in words. Knows no route by
//! itself; never retries.

use std::time::Duration;

use bytes::BytesMut;
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::failure::Failure;
use crate::model::wire::ErrorBody;

/// Longest line of a stream: a log line of a job is cut far below by its host.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// The API is on this machine or close: a connection that takes longer does not come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the server's own limit, so that its words are seen; `add` fetches a repository.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);

/// Speaks to one host.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    http: reqwest::Client,
}

impl Client {
    /// A client of the API at `address`: `ip:port`, with or without `http://`.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(address: &str) -> Result<Self, Failure> {
        let bare = address.strip_prefix("http://").unwrap_or(address);
        let base = format!("http://{}", bare.trim_end_matches('/'));
        let parsed = url::Url::parse(&base).ok().filter(url::Url::has_host);
        let Some(_) = parsed else {
            let hint = "give --api (or VIKING_API) as ip:port, like 127.0.0.1:8791";
            return Err(Failure::usage(
                format!("{address:?} is not the address of an API"),
                hint,
            ));
        };
        let http = reqwest::Client::builder()
            // The API is never behind a proxy, and a proxy must not see what it says.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| Failure::new(format!("cannot make a client: {error}"), ""))?;
        Ok(Self { base, http })
    }

    /// Whether a host answers.
    pub async fn answers(&self) -> bool {
        let ping = self.http.get(format!("{}/v1/ping", self.base));
        let ping = ping.timeout(Duration::from_secs(2)).send().await;
        ping.is_ok_and(|answer| answer.status().is_success())
    }

    /// Asks for a value.
    ///
    /// # Errors
    /// When nobody answers, or with an error.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.value(self.request(Method::GET, path)).await
    }

    /// Asks for something to be done.
    ///
    /// # Errors
    /// When nobody answers, or with an error.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.value(self.request(Method::POST, path).json(body))
            .await
    }

    /// Asks for something to be taken away.
    ///
    /// # Errors
    /// When nobody answers, or with an error.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.value(self.request(Method::DELETE, path)).await
    }

    /// Asks for a stream of lines.
    ///
    /// # Errors
    /// When nobody answers, or with an error.
    pub async fn lines(&self, path: &str) -> Result<Lines, Failure> {
        let request = self.http.get(format!("{}{path}", self.base));
        let response = self.checked(request).await?;
        Ok(Lines {
            response,
            buffer: BytesMut::new(),
        })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.http.request(method, url).timeout(ANSWER_TIMEOUT)
    }

    async fn value<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let answer = self.checked(request).await?;
        answer.json().await.map_err(|error| {
            if !error.is_decode() {
                return self.unreachable(&error);
            }
            let hint = "is something else than viking listening there, or another version of it?";
            Failure::new(
                format!("cannot read the answer of {}: {error}", self.base),
                hint,
            )
        })
    }

    async fn checked(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let answer = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let failure = match answer.json::<ErrorBody>().await {
            Ok(body) => Failure::new(body.error, body.hint),
            Err(_) => Failure::new(format!("{} answered {status}", self.base), ""),
        };
        Err(Failure {
            passing: status.is_server_error(),
            ..failure
        })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let base = &self.base;
        let (found, hint) = if error.is_connect() {
            let hint = "no host runs there: start one with `viking host` or `viking up`, or say \
                        where it is with --api";
            (
                format!("no viking answers at {base}: {}", root(error)),
                hint,
            )
        } else if error.is_timeout() {
            let hint = "the host is busy or stuck: its log says more";
            (format!("{base} did not answer in time"), hint)
        } else {
            (format!("cannot ask {base}: {}", root(error)), "")
        };
        Failure::passing(found, hint)
    }
}

/// The innermost cause: the outer ones repeat the address.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A stream of JSON lines.
#[derive(Debug)]
pub struct Lines {
    response: Response,
    buffer: BytesMut,
}

impl Lines {
    /// The next value; `None` at the end. Empty lines, which keep the connection alive, are skipped.
    ///
    /// # Errors
    /// When the stream breaks or holds something else.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        loop {
            while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if !line.trim_ascii().is_empty() {
                    return parse(&line).map(Some);
                }
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(Failure::new("the host sent a line that is too long", ""));
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.buffer.extend_from_slice(&bytes),
                Ok(None) => return Ok(None),
                Err(error) => {
                    return Err(Failure::new(
                        format!("the stream broke: {}", root(&error)),
                        "the host went away; `viking status` says how things are",
                    ));
                }
            }
        }
    }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(line)
        .map_err(|error| Failure::new(format!("cannot read a line of the stream: {error}"), ""))
}
