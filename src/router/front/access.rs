//! The access log: one line for each request, or for one of many, when its answer has ended. Paths
//! without what follows `?`, which may hold what nobody else should read.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};

use super::Live;
use super::metrics::Measure;
use super::pick::Backend;
use crate::model::route::Route;

/// Which requests are written down: each so many-th, none at 0.
#[derive(Debug, Default)]
pub(super) struct Access {
    each: u64,
    count: AtomicU64,
}

impl Access {
    pub(super) fn each(each: u64) -> Self {
        Self {
            each,
            count: AtomicU64::new(0),
        }
    }

    /// Whether this request is one of those.
    pub(super) fn wanted(&self) -> bool {
        self.each == 1
            || self.each > 1
                && self
                    .count
                    .fetch_add(1, Ordering::Relaxed)
                    .is_multiple_of(self.each)
    }
}

/// What is told of a request when its answer has ended, however it does.
#[derive(Default)]
pub(super) struct Told {
    pub(super) entry: Option<Entry>,
    /// Of a node that a domain leads to.
    pub(super) measure: Option<Measure>,
}

impl Told {
    /// The route was found.
    pub(super) fn led(&mut self, live: &Live) {
        self.measure = Some(Measure::begin(&live.metrics));
        if let Some(entry) = &mut self.entry {
            entry.led(&live.route);
        }
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        if let Some(measure) = &mut self.measure {
            measure.answered(status);
        }
        if let Some(entry) = &mut self.entry {
            entry.status = status;
        }
    }

    pub(super) fn end(self, bytes: u64) {
        if let Some(mut measure) = self.measure {
            measure.bytes = bytes;
        }
        if let Some(entry) = self.entry {
            entry.tell(bytes, Instant::now());
        }
    }
}

/// A request that will be written down.
pub(super) struct Entry {
    pub(super) began: Instant,
    pub(super) id: HeaderValue,
    pub(super) client: IpAddr,
    pub(super) method: Method,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) status: StatusCode,
    /// `stack/node`, when a route was found.
    pub(super) node: String,
    /// The job that answered.
    pub(super) job: String,
    /// Copies that were tried.
    pub(super) tries: usize,
}

impl Entry {
    fn led(&mut self, route: &Route) {
        self.node = format!("{}/{}", route.stack, route.node);
    }

    pub(super) fn answered(&mut self, backend: &Backend) {
        self.job = backend.copy.job_id.to_string();
    }

    fn tell(self, bytes: u64, ended: Instant) {
        let took = ended.duration_since(self.began);
        tracing::info!(
            target: "viking::access",
            id = self.id.to_str().unwrap_or_default(),
            client = %self.client,
            method = %self.method,
            host = self.host,
            path = self.path,
            status = self.status.as_u16(),
            bytes,
            ms = took.as_millis() as u64,
            node = self.node,
            job = self.job,
            tries = self.tries,
            "request"
        );
    }
}
