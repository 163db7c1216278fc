//! What is counted of the requests of each node that domains lead to: answers by status, how long they
//! took, bytes, tries that failed, requests under way. Told in the text format of Prometheus by the API
//! of the host; never by the door itself, which strangers reach.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hyper::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::model::names::{NodeName, StackName};

/// Upper ends of what answers are sorted into, seconds.
const SECONDS: [f64; 11] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// Kinds of answers; the last is of clients that left before there was one.
const ANSWERS: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Node {
    stack: String,
    node: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    stack: String,
    node: String,
    answer: &'static str,
}

type Seconds = Family<Node, Histogram, fn() -> Histogram>;

/// All of them.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Answer, Counter>,
    seconds: Seconds,
    sent: Family<Node, Counter>,
    failed: Family<Node, Counter>,
    running: Family<Node, Gauge>,
    /// Those of nodes that some domain leads to.
    known: Mutex<BTreeMap<(StackName, NodeName), Arc<OfNode>>>,
}

/// Those of one node.
pub(super) struct OfNode {
    requests: [Counter; ANSWERS.len()],
    seconds: Histogram,
    sent: Counter,
    failed: Counter,
    running: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("viking_router");
        let requests = Family::default();
        let seconds: Seconds = Family::new_with_constructor(|| Histogram::new(SECONDS));
        let (sent, failed, running) = (Family::default(), Family::default(), Family::default());
        registry.register("requests", "Requests by kind of answer", requests.clone());
        let what = "From a request's head to the end of its answer";
        registry.register_with_unit("answer", what, Unit::Seconds, seconds.clone());
        registry.register_with_unit("sent", "Bodies of answers", Unit::Bytes, sent.clone());
        let what = "Copies that could not be asked, or broke off";
        registry.register("failed_tries", what, failed.clone());
        registry.register("running", "Requests under way", running.clone());
        Self {
            registry,
            requests,
            seconds,
            sent,
            failed,
            running,
            known: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Those of a node, from nothing if it is new.
    pub(super) fn of(&self, stack: &StackName, node: &NodeName) -> Arc<OfNode> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let of = known.entry((stack.clone(), node.clone()));
        let made = || {
            let label = label(stack, node);
            let requests = ANSWERS.map(|answer| {
                let answer = Answer {
                    stack: label.stack.clone(),
                    node: label.node.clone(),
                    answer,
                };
                self.requests.get_or_create_owned(&answer)
            });
            Arc::new(OfNode {
                requests,
                seconds: self.seconds.get_or_create_owned(&label),
                sent: self.sent.get_or_create_owned(&label),
                failed: self.failed.get_or_create_owned(&label),
                running: self.running.get_or_create_owned(&label),
            })
        };
        Arc::clone(of.or_insert_with(made))
    }

    /// Forgets nodes that no domain leads to any more.
    pub(super) fn keep(&self, led_to: impl Fn(&StackName, &NodeName) -> bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(stack, node), _| {
            let keep = led_to(stack, node);
            if !keep {
                let label = label(stack, node);
                for answer in ANSWERS {
                    self.requests.remove(&Answer {
                        stack: label.stack.clone(),
                        node: label.node.clone(),
                        answer,
                    });
                }
                self.seconds.remove(&label);
                self.sent.remove(&label);
                self.failed.remove(&label);
                self.running.remove(&label);
            }
            keep
        });
    }

    /// In the text format of Prometheus.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // A string takes everything.
        encode(&mut text, &self.registry).ok();
        text
    }
}

fn label(stack: &StackName, node: &NodeName) -> Node {
    Node {
        stack: stack.to_string(),
        node: node.to_string(),
    }
}

impl OfNode {
    /// A copy could not be asked, or broke off.
    pub(super) fn failed(&self) {
        self.failed.inc();
    }
}

/// A request under way, until it is dropped.
pub(super) struct Measure {
    of: Arc<OfNode>,
    began: Instant,
    answer: Option<StatusCode>,
    pub(super) bytes: u64,
}

impl Measure {
    pub(super) fn begin(of: &Arc<OfNode>) -> Self {
        of.running.inc();
        Self {
            of: Arc::clone(of),
            began: Instant::now(),
            answer: None,
            bytes: 0,
        }
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        self.answer = Some(status);
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        self.of.running.dec();
        let none = ANSWERS.len() - 1;
        let kind = |status: StatusCode| usize::from(status.as_u16() / 100).saturating_sub(1);
        let kind = self.answer.map_or(none, kind).min(none);
        self.of.requests[kind].inc();
        self.of.seconds.observe(self.began.elapsed().as_secs_f64());
        self.of.sent.inc_by(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_its_own_numbers_as_long_as_a_domain_leads_to_it() {
        let metrics = Metrics::default();
        let stack = StackName::parse("shop").unwrap();
        let [web, api] = ["web", "api"].map(|name| NodeName::parse(name).unwrap());
        let of = metrics.of(&stack, &web);
        let mut answered = Measure::begin(&of);
        answered.answered(StatusCode::NOT_FOUND);
        answered.bytes = 5;
        let hung_up = Measure::begin(&of);
        assert!(line(&metrics, "running{", "web").ends_with(" 2"));
        drop((answered, hung_up));
        metrics.of(&stack, &web).failed();
        metrics.of(&stack, &api);
        assert!(line(&metrics, "answer=\"4xx\"", "web").ends_with(" 1"));
        assert!(line(&metrics, "answer=\"none\"", "web").ends_with(" 1"));
        assert!(line(&metrics, "answer=\"5xx\"", "web").ends_with(" 0"));
        assert!(line(&metrics, "sent_bytes_total", "web").ends_with(" 5"));
        assert!(line(&metrics, "failed_tries_total", "web").ends_with(" 1"));
        assert!(line(&metrics, "answer_seconds_count", "web").ends_with(" 2"));
        assert!(line(&metrics, "running{", "web").ends_with(" 0"));
        metrics.keep(|_, node| *node == api);
        assert!(!metrics.text().contains("\"web\""));
        assert!(line(&metrics, "sent_bytes_total", "api").ends_with(" 0"));
    }

    fn line(metrics: &Metrics, what: &str, node: &str) -> String {
        let text = metrics.text();
        let node = format!("node=\"{node}\"");
        let found = text
            .lines()
            .find(|line| line.contains(what) && line.contains(&node));
        found
            .unwrap_or_else(|| panic!("{what} of {node} in {text}"))
            .to_owned()
    }
}
