//! The fake engine's logs, events and networks. Part of its state; synchronous.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use tokio::sync::mpsc;

use super::state::{State, is_up};
use crate::docker::{EngineEvent, LogLine, LogQuery, Network, Result};

/// Events and log lines waiting for a reader; as with Docker, what is too much is lost.
const QUEUE: usize = 1024;
/// Last bytes handed out in one network.
const ADDRESSES: std::ops::RangeInclusive<u8> = 2..=254;

/// Logs and events.
impl State {
    pub(super) fn print(&mut self, id: &str, text: &str) {
        let now_ms = self.now_ms;
        let Ok(held) = self.held(id) else {
            return;
        };
        let line = LogLine {
            stderr: false,
            text: text.to_owned(),
            // Of one millisecond each has its own.
            at_ns: now_ms * 1_000_000 + held.log.len() as u64,
        };
        held.log.push(line.clone());
        held.followers
            .retain(|to| to.try_send(line.clone()).is_ok());
    }

    pub(super) fn read_log(
        &mut self,
        name: &str,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogLine>> {
        let LogQuery {
            tail,
            after_ns,
            follow,
        } = query;
        let held = self.held(name)?;
        let skip = held.log.len().saturating_sub(tail);
        let (lines, reader) = mpsc::channel(QUEUE + tail.min(held.log.len()));
        for line in held.log[skip..].iter().filter(|line| line.at_ns > after_ns) {
            // The channel has room for them.
            lines.try_send(line.clone()).ok();
        }
        if follow && is_up(&held.seen) {
            held.followers.push(lines);
        }
        Ok(reader)
    }

    pub(super) fn subscribe(&mut self) -> mpsc::Receiver<EngineEvent> {
        let (events, reader) = mpsc::channel(QUEUE);
        self.subscribers.push(events);
        reader
    }

    /// The engine goes away: who listens notices.
    pub(super) fn end_streams(&mut self) {
        self.subscribers.clear();
        self.containers
            .values_mut()
            .for_each(|held| held.followers.clear());
    }

    /// An event of a container.
    pub(super) fn emit_for(&mut self, id: &str, action: &str) {
        if let Some(held) = self.containers.get(id) {
            let (labels, name) = (held.seen.labels.clone(), held.seen.name.clone());
            self.emit(action, labels, name, Some(id));
        }
    }

    pub(super) fn emit_networks(&mut self, id: &str, action: &str) {
        let networks = self
            .containers
            .get(id)
            .map(|held| held.seen.networks.clone());
        for name in networks.unwrap_or_default().into_keys() {
            self.emit(action, BTreeMap::new(), name, Some(id));
        }
    }

    pub(super) fn emit(
        &mut self,
        action: &str,
        labels: BTreeMap<String, String>,
        name: String,
        container: Option<&str>,
    ) {
        let event = EngineEvent {
            action: action.to_owned(),
            labels,
            name,
            container: container.map(str::to_owned),
            at_ms: self.now_ms,
        };
        // A full queue loses the event, as Docker's does; a closed one is forgotten.
        self.subscribers.retain(|to| {
            to.try_send(event.clone()).ok();
            !to.is_closed()
        });
    }
}

/// Networks.
impl State {
    pub(super) fn make_network(
        &mut self,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Network {
        self.networks_made += 1;
        let network = Network {
            id: format!("{:064x}", u64::from(self.networks_made)),
            name: name.to_owned(),
            labels: labels.clone(),
            gateway: Some(self.gateway(self.networks_made)),
        };
        self.networks.insert(name.to_owned(), network.clone());
        self.emit("create", BTreeMap::new(), name.to_owned(), None);
        network
    }

    pub(super) fn network_in_use(&self, name: &str) -> bool {
        self.up()
            .any(|container| container.networks.contains_key(name))
    }

    /// On loopback everybody calls from 127.0.0.1, so that all of it is one network.
    fn gateway(&self, network: u16) -> IpNet {
        let (first, second, prefix) = match self.loopback {
            Some(second) => (127, second, 8),
            None => (10, 100, 24),
        };
        let [high, low] = network.to_be_bytes();
        let address = Ipv4Addr::new(first, second.wrapping_add(high), low, 1);
        IpNet::new(address.into(), prefix).expect("a prefix below 33")
    }

    /// The lowest free address: as with Docker, a new container soon has an old one's.
    pub(super) fn free_address(&self, network: &str) -> Option<IpAddr> {
        let IpAddr::V4(gateway) = self.networks.get(network)?.gateway?.addr() else {
            return None;
        };
        let [a, b, c, _] = gateway.octets();
        let taken: BTreeSet<IpAddr> = self
            .up()
            .filter_map(|container| *container.networks.get(network)?)
            .collect();
        let mut all = ADDRESSES.map(|last| IpAddr::V4(Ipv4Addr::new(a, b, c, last)));
        all.find(|ip| !taken.contains(ip))
    }
}
