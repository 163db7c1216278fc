//! viking's side: a stack of small programs over all hosts.

use std::time::{Duration, Instant};

use super::super::Rig;
use super::super::stack::Stack;
use super::{COPIES, SETTLED};
use crate::e2e::repo::Commit;

/// The stack.
pub(super) struct Crew {
    stack: Stack,
}

fn file(says: usize) -> String {
    format!(
        "
viking: {{name: crew}}
deploy:
  oar:
    image: viking/busybox:1
    run: httpd -f -p 80
    expose: [80]
    env: {{SAYS: \"{says}\"}}
    scale: {COPIES}
    health: {{tcp: 80, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}}
    stop: {{timeout: 1s}}
"
    )
}

impl Crew {
    /// Followed and live.
    pub(super) fn start(rig: &Rig) -> Self {
        let repo = rig.repo("crew");
        let commit = repo.commit("Hire", &[("viking.yml", &file(usize::MAX))]);
        rig.must(&["add", repo.path(), "--poll", "1s"]);
        rig.live("crew", &commit);
        Self {
            stack: Stack { repo },
        }
    }

    /// Every copy anew, so that each host has as many as the others.
    pub(super) fn spread(&self, rig: &Rig, round: usize) {
        let commit: Commit = self
            .stack
            .repo
            .commit("Change seats", &[("viking.yml", &file(round))]);
        rig.live("crew", &commit);
        let per_host = COPIES / rig.hosts.len();
        rig.until("each host has as many copies", || {
            let counts: Vec<usize> = (0..rig.hosts.len()).map(|n| running(rig, n)).collect();
            let even = counts.iter().all(|count| *count == per_host);
            even.then_some(()).ok_or_else(|| format!("{counts:?}"))
        });
    }

    /// From the cut of a host that leads nothing until all copies run on the others.
    pub(super) fn loses_a_host(&self, rig: &mut Rig) -> Duration {
        let leader = rig.until("somebody leads", || rig.leader());
        let etcd = rig.etcd.leader();
        let mut hosts = 0..rig.hosts.len();
        let victim = hosts.find(|n| *n != leader && *n != etcd);
        let victim = victim.expect("there are three hosts");
        rig.cut(victim);
        let started = Instant::now();
        let (_, took) = rig.within(SETTLED, "all jobs run elsewhere", || {
            let found: usize = (0..rig.hosts.len())
                .filter(|n| *n != victim)
                .map(|n| running(rig, n))
                .sum();
            (found == COPIES)
                .then_some(started.elapsed())
                .ok_or_else(|| format!("{found} run"))
        });
        rig.tell("viking: host cut off: all jobs run elsewhere", took);
        rig.heal(victim);
        took
    }

    /// From `kill -9` of the leader until its successor has written a placement that somebody asked for meanwhile.
    pub(super) fn loses_its_leader(&self, rig: &mut Rig) -> Duration {
        let leader = rig.until("somebody leads", || rig.leader());
        let others: Vec<usize> = (0..rig.hosts.len()).filter(|n| *n != leader).collect();
        let (asks, drained) = (others[0], others[1]);
        let name = rig.hosts[drained].name;
        let watch = rig.etcd.watch(asks);
        rig.hosts[leader].kill_viking();
        let killed = Instant::now();
        rig.must_on(asks, &["hosts", "drain", name, "--no-wait"]);
        let took = rig.until("the next leader places a job", || {
            let placed = watch.seen("/deploy/").into_iter();
            let first = placed.filter(|change| !change.deleted && change.at > killed);
            let first = first.map(|change| change.at).min();
            first
                .map(|at| at - killed)
                .ok_or_else(|| "nothing is placed".to_owned())
        });
        rig.tell("viking: leader killed: the next placement", took);
        rig.must_on(asks, &["hosts", "uncordon", name]);
        rig.hosts[leader].start_viking();
        took
    }

    /// Nothing of viking's is left on the hosts.
    pub(super) fn ends(self, rig: &mut Rig) {
        for host in &mut rig.hosts {
            host.kill_viking();
            host.docker.remove_labelled("viking.cluster");
        }
    }
}

/// How many copies run on a host, as its engine says.
fn running(rig: &Rig, n: usize) -> usize {
    let found =
        rig.hosts[n]
            .docker
            .try_run(&["ps", "--quiet", "--filter", "label=viking.stack=crew"]);
    found.lines().count()
}
