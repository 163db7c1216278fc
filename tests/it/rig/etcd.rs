//! The etcd of a rig: one member on each of its first three hosts, in their namespaces, with the timing that
//! operators get when they say nothing. The processes are those of the store's tests.

use std::path::Path;
use std::time::{Duration, Instant};

use super::net::{Network, address, inside};
use super::process::{LOOK, in_space};
use super::watch::Watch;
use crate::e2e::http::fetch;
use crate::store::etcd::server::Member;

/// Longest wait for a member to be healthy.
const HEALTHY: Duration = Duration::from_secs(60);

/// The members, by host.
pub(crate) struct Etcd {
    members: Vec<(String, Member)>,
}

impl Etcd {
    /// Starts members and waits until all are healthy.
    pub(super) fn start(network: &Network, count: usize, dir: &Path) -> Self {
        let peers = (0..count).map(|n| format!("m{n}=http://{}:2380", address(n)));
        let peers = peers.collect::<Vec<_>>().join(",");
        let member = |n: usize| {
            let space = network.space(n);
            let client = format!("http://{}:2379", address(n));
            let peer = format!("http://{}:2380", address(n));
            let name = format!("m{n}");
            let data = dir.join(format!("etcd-{name}")).display().to_string();
            let flags = [
                ("name", name.as_str()),
                ("data-dir", &data),
                ("listen-client-urls", &client),
                ("advertise-client-urls", &client),
                ("listen-peer-urls", &peer),
                ("initial-advertise-peer-urls", &peer),
                ("initial-cluster", &peers),
                ("auto-compaction-retention", "5m"),
                ("pre-vote", "true"),
                ("log-level", "error"),
            ];
            let flags = flags.map(|(flag, value)| format!("--{flag}={value}"));
            let words = in_space(&space, "etcd").into_iter().chain(flags).collect();
            let log = dir.join(format!("etcd-{name}.log"));
            (space, Member::new(client, words, log))
        };
        let mut etcd = Self {
            members: (0..count).map(member).collect(),
        };
        etcd.start_all();
        etcd
    }

    /// Addresses of all members, for `--etcd`.
    pub(super) fn addresses(hosts: usize) -> String {
        let all = (0..hosts).map(|n| format!("http://{}:2379", address(n)));
        all.collect::<Vec<_>>().join(",")
    }

    /// Starts all members, which do not run, and waits until they are healthy.
    pub(crate) fn start_all(&mut self) {
        self.members
            .iter_mut()
            .for_each(|(_, member)| member.start());
        for n in 0..self.members.len() {
            self.healthy(n);
        }
    }

    /// Starts one.
    pub(crate) fn start_one(&mut self, n: usize) {
        self.members[n].1.start();
    }

    /// Waits until one says that it works, which takes a quorum.
    pub(crate) fn healthy(&self, n: usize) {
        let (space, member) = &self.members[n];
        let deadline = Instant::now() + HEALTHY;
        let healthy = || {
            let said = inside(space, || fetch(&format!("{}/health", member.endpoint)));
            said.is_ok_and(|text| text.contains("\"true\""))
        };
        while !healthy() {
            assert!(
                Instant::now() < deadline,
                "etcd on host {n}: {}",
                member.log()
            );
            std::thread::sleep(LOOK);
        }
    }

    /// `kill -9` of one.
    pub(crate) fn kill(&mut self, n: usize) {
        self.members[n].1.kill();
    }

    /// `kill -9` of all, as nearly at once as can be.
    pub(crate) fn kill_all(&mut self) {
        self.members
            .iter_mut()
            .for_each(|(_, member)| member.kill());
    }

    /// All stand still.
    pub(crate) fn freeze(&self) {
        self.members.iter().for_each(|(_, member)| member.freeze());
    }

    /// All go on.
    pub(crate) fn thaw(&self) {
        self.members.iter().for_each(|(_, member)| member.thaw());
    }

    /// Watches all keys through the member of a host.
    pub(crate) fn watch(&self, n: usize) -> Watch {
        let (space, member) = &self.members[n];
        Watch::start(space, &member.endpoint)
    }

    /// The host whose member leads.
    pub(crate) fn leader(&self) -> usize {
        let leads = |(space, member): &(String, Member)| {
            let text = inside(space, || fetch(&format!("{}/metrics", member.endpoint)));
            text.is_ok_and(|text| text.lines().any(|line| line == "etcd_server_is_leader 1"))
        };
        let found = self.members.iter().position(leads);
        found.expect("one member leads")
    }
}
