//! The network of a rig: one namespace for each host and one that holds the bridge between them, so that
//! nothing is in the machine's own and two rigs may use the same addresses. Cables can be pulled.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use super::process::must;
use super::sweep::NETNS;

/// Name of the bridge in its namespace.
const BRIDGE: &str = "bridge0";

/// The hosts' end of every cable.
const CARD: &str = "lan0";

/// The network between the hosts of one rig.
#[derive(Debug)]
pub(super) struct Network {
    rig: String,
}

impl Network {
    /// A bridge and as many hosts on it.
    pub(super) fn new(rig: &str, hosts: usize) -> Self {
        let network = Self {
            rig: rig.to_owned(),
        };
        let hub = network.hub();
        must("ip", &["netns", "add", &hub]);
        must("ip", &["-n", &hub, "link", "add", BRIDGE, "type", "bridge"]);
        must("ip", &["-n", &hub, "link", "set", BRIDGE, "up"]);
        for n in 0..hosts {
            network.plug_in(n);
        }
        network
    }

    fn plug_in(&self, n: usize) {
        let (hub, space, cable) = (self.hub(), self.space(n), cable(n));
        let address = format!("{}/24", address(n));
        must("ip", &["netns", "add", &space]);
        let ends = ["peer", "name", CARD, "netns", &space];
        let make = ["-n", &hub, "link", "add", &cable, "type", "veth"];
        must("ip", &[&make[..], &ends].concat());
        must(
            "ip",
            &["-n", &hub, "link", "set", &cable, "master", BRIDGE, "up"],
        );
        must("ip", &["-n", &space, "link", "set", "lo", "up"]);
        must(
            "ip",
            &["-n", &space, "address", "add", &address, "dev", CARD],
        );
        must("ip", &["-n", &space, "link", "set", CARD, "up"]);
    }

    fn hub(&self) -> String {
        format!("{}-net", self.rig)
    }

    /// Name of a host's namespace.
    pub(super) fn space(&self, n: usize) -> String {
        format!("{}-h{n}", self.rig)
    }

    /// Pulls a host's cable out of the switch.
    pub(super) fn cut(&self, n: usize) {
        must("ip", &["-n", &self.hub(), "link", "set", &cable(n), "down"]);
    }

    /// Puts it back.
    pub(super) fn heal(&self, n: usize) {
        must("ip", &["-n", &self.hub(), "link", "set", &cable(n), "up"]);
    }
}

fn cable(n: usize) -> String {
    format!("cable{n}")
}

/// Address of a host on the rig's network.
pub(super) fn address(n: usize) -> String {
    format!("10.213.0.{}", 11 + n)
}

/// Runs something as if on that host: its sockets are of the namespace.
pub(super) fn inside<T: Send>(space: &str, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            enter(space);
            act()
        });
        there
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves this thread, which must not be used for anything else, into a namespace.
#[expect(unsafe_code, reason = "no safe call changes a thread's namespace")]
pub(super) fn enter(space: &str) {
    let file = File::open(Path::new(NETNS).join(space)).expect("the namespace is there");
    // SAFETY: the descriptor is open for the whole call, which touches no memory of ours.
    let done = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    let error = std::io::Error::last_os_error();
    assert_eq!(done, 0, "{space}: {error}");
}
