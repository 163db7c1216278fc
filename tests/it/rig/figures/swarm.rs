//! The peer's side: swarm mode of the same engines, all three of them managers, which is swarm's own advice.

use std::time::Duration;

use super::super::Rig;
use super::{COPIES, SETTLED};

/// The service.
const SERVICE: &str = "crew";

/// A swarm over the rig's hosts.
pub(super) struct Swarm;

impl Swarm {
    /// Makes a swarm, which cannot be had with live-restore, and a service of as many copies.
    pub(super) fn start(rig: &mut Rig) -> Self {
        for host in &mut rig.hosts {
            host.stop_engine();
            host.start_engine(false);
        }
        let first = &rig.hosts[0];
        first
            .docker
            .run(&["swarm", "init", "--advertise-addr", &first.address]);
        let token = first
            .docker
            .run(&["swarm", "join-token", "--quiet", "manager"]);
        let at = format!("{}:2377", first.address);
        for host in &rig.hosts[1..] {
            let own = &host.address;
            host.docker.run(&[
                "swarm",
                "join",
                "--advertise-addr",
                own,
                "--token",
                &token,
                &at,
            ]);
        }
        let copies = COPIES.to_string();
        first.docker.run(&[
            "service",
            "create",
            "--detach",
            "--quiet",
            "--name",
            SERVICE,
            "--replicas",
            &copies,
            "--restart-delay",
            "0s",
            "--stop-grace-period",
            "1s",
            "--no-resolve-image",
            "viking/busybox:1",
            "httpd",
            "-f",
            "-p",
            "80",
        ]);
        Self
    }

    /// Every copy anew, so that each host has as many as the others.
    pub(super) fn spread(&self, rig: &Rig) {
        let per_host = COPIES / rig.hosts.len();
        let even = || {
            let counts: Vec<usize> = (0..rig.hosts.len()).map(|n| running(rig, n)).collect();
            let even = counts.iter().all(|count| *count == per_host);
            even.then_some(()).ok_or_else(|| format!("{counts:?}"))
        };
        rig.within(SETTLED, "swarm has a leader and all nodes", || {
            self.whole(rig)
        });
        if even().is_ok() {
            return;
        }
        let leader = self.leader(rig).expect("looked for just now");
        let again = [
            "service", "update", "--force", "--detach", "--quiet", SERVICE,
        ];
        rig.hosts[leader].docker.run(&again);
        rig.within(SETTLED, "swarm has spread its copies", even);
    }

    /// From the cut of a host that does not lead until all copies run on the others.
    pub(super) fn loses_a_host(&self, rig: &mut Rig) -> Duration {
        let leader = rig.until("swarm has a leader", || self.leader(rig));
        let victim = (0..rig.hosts.len()).find(|n| *n != leader);
        let victim = victim.expect("there are three hosts");
        rig.cut(victim);
        let (_, took) = rig.within(SETTLED, "all of swarm's copies run elsewhere", || {
            let found: usize = (0..rig.hosts.len())
                .filter(|n| *n != victim)
                .map(|n| running(rig, n))
                .sum();
            (found == COPIES)
                .then_some(())
                .ok_or_else(|| format!("{found} run"))
        });
        rig.tell("swarm: host cut off: all copies run elsewhere", took);
        rig.heal(victim);
        rig.within(SETTLED, "swarm is whole again", || self.whole(rig));
        took
    }

    /// From `kill -9` of the leading engine until its successor has given a new task a node.
    pub(super) fn loses_its_leader(&self, rig: &mut Rig, round: usize) -> Duration {
        let leader = rig.until("swarm has a leader", || self.leader(rig));
        let other = (leader + 1) % rig.hosts.len();
        let name = format!("next-{round}");
        rig.hosts[leader].kill_engine();
        let engine = &rig.hosts[other].docker;
        let create = [
            "service",
            "create",
            "--detach",
            "--quiet",
            "--name",
            &name,
            "--no-resolve-image",
            "viking/busybox:1",
            "httpd",
            "-f",
            "-p",
            "80",
        ];
        let (_, took) = rig.within(SETTLED, "swarm's next leader places a task", || {
            if engine
                .try_run(&[
                    "service",
                    "ls",
                    "--quiet",
                    "--filter",
                    &format!("name={name}"),
                ])
                .is_empty()
            {
                engine.try_run(&create);
            }
            let node = engine.try_run(&["service", "ps", "--format", "{{.Node}}", &name]);
            (!node.trim().is_empty())
                .then_some(())
                .ok_or("no task has a node")
                .map_err(str::to_owned)
        });
        rig.tell("swarm: leader killed: the next task has a node", took);
        engine.try_run(&["service", "rm", &name]);
        rig.hosts[leader].start_engine(false);
        rig.within(SETTLED, "swarm is whole again", || self.whole(rig));
        took
    }

    fn leader(&self, rig: &Rig) -> Result<usize, String> {
        let leads = |host: &super::super::host::Host| {
            let said = host.docker.try_run(&[
                "node",
                "inspect",
                "self",
                "--format",
                "{{.ManagerStatus.Leader}}",
            ]);
            said.trim() == "true"
        };
        let found = rig.hosts.iter().position(leads);
        found.ok_or_else(|| "nobody leads".to_owned())
    }

    /// All managers reach each other and take tasks.
    fn whole(&self, rig: &Rig) -> Result<(), String> {
        let leader = self.leader(rig)?;
        let nodes = rig.hosts[leader].docker.try_run(&[
            "node",
            "ls",
            "--format",
            "{{.Status}} {{.ManagerStatus}}",
        ]);
        let fine = |line: &&str| matches!(line.trim(), "Ready Leader" | "Ready Reachable");
        let count = nodes.lines().filter(fine).count();
        (count == rig.hosts.len()).then_some(()).ok_or(nodes)
    }
}

/// How many copies run on a host, as its engine says.
fn running(rig: &Rig, n: usize) -> usize {
    let filter = format!("label=com.docker.swarm.service.name={SERVICE}");
    let found = rig.hosts[n]
        .docker
        .try_run(&["ps", "--quiet", "--filter", &filter]);
    found.lines().count()
}
