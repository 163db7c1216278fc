//! Who leads, which job is where, and which of them may leave: read from the keys. Used by cases to choose
//! whom to hurt and to see what came of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Rig;
use crate::e2e::world::keys_of;

/// Jobs, `stack/tag/node/slot`, and their hosts.
pub(crate) type Places = BTreeMap<String, String>;

/// The node, `stack/node`, of a job.
pub(crate) fn node_of(job: &str) -> String {
    let parts: Vec<&str> = job.split('/').collect();
    format!("{}/{}", parts[0], parts[2])
}

/// The small servers of a set of jobs: how long these take is viking's own time.
pub(crate) fn small(jobs: &BTreeSet<String>) -> BTreeSet<String> {
    jobs.iter()
        .filter(|job| job.starts_with("fleet/"))
        .cloned()
        .collect()
}

impl Rig {
    /// Every key that the store lets people see.
    pub(crate) fn keys(&self) -> Result<BTreeMap<String, String>, String> {
        keys_of(&self.get("/v1/debug/keys")?)
    }

    /// The host that leads, by the store's word.
    pub(crate) fn leader(&self) -> Result<usize, String> {
        let keys = self.keys()?;
        let name = keys.get("/leader").ok_or("nobody leads")?;
        self.number(name)
    }

    fn number(&self, name: &str) -> Result<usize, String> {
        let found = self.hosts.iter().position(|host| host.name == name);
        found.ok_or_else(|| format!("{name} is no host"))
    }

    /// Waits until somebody leads who is not `old`.
    pub(crate) fn next_leader(&self, old: usize) -> usize {
        self.until("another host leads", || {
            let now = self.leader()?;
            (now != old)
                .then_some(now)
                .ok_or("still the old one".to_owned())
        })
    }

    /// Where jobs are.
    pub(crate) fn places(&self) -> Places {
        let keys = self.until("the keys can be read", || self.keys());
        let runs = keys.into_iter();
        runs.filter_map(|(key, host)| Some((key.strip_prefix("/run/")?.to_owned(), host)))
            .collect()
    }

    /// The host of the registry.
    pub(crate) fn registry(&self) -> usize {
        let places = self.places();
        let host = places.iter().find(|(job, _)| job.starts_with("core/"));
        let (_, host) = host.expect("the registry is somewhere");
        self.number(host).expect("a host of ours")
    }

    /// A host that does not lead and has something that can move; rather one without a registry.
    pub(crate) fn worker(&self) -> usize {
        let leader = self.until("somebody leads", || self.leader());
        let registry = self.registry();
        let mut others: Vec<usize> = (0..self.hosts.len()).filter(|n| *n != leader).collect();
        others.sort_by_key(|n| (small(&self.movable(*n)).is_empty(), *n == registry));
        others[0]
    }

    /// Jobs on a host that may go elsewhere.
    pub(crate) fn movable(&self, n: usize) -> BTreeSet<String> {
        let keys = self.until("the keys can be read", || self.keys());
        let pinned = |job: &str| {
            let parts: Vec<&str> = job.split('/').collect();
            keys.contains_key(&format!("/fixed/{}/{}/{}", parts[0], parts[2], parts[3]))
        };
        let here = self.places().into_iter();
        let here = here.filter(|(_, host)| *host == self.hosts[n].name);
        here.map(|(job, _)| job)
            .filter(|job| !pinned(job))
            .collect()
    }

    /// Whether these jobs are healthy on other hosts than this one.
    pub(crate) fn elsewhere(&self, jobs: &BTreeSet<String>, than: usize) -> Result<(), String> {
        let keys = self.keys()?;
        for job in jobs {
            let host = keys
                .get(&format!("/run/{job}"))
                .ok_or_else(|| format!("{job} is nowhere"))?;
            if host == self.hosts[than].name {
                return Err(format!("{job} is still on {host}"));
            }
            let state = keys.get(&format!("/state/{host}/{job}"));
            let state = state.ok_or_else(|| format!("{host} says nothing of {job}"))?;
            let state: Value = serde_json::from_str(state).map_err(|error| error.to_string())?;
            if state["state"] != "healthy" {
                return Err(format!("{job} on {host}: {state}"));
            }
        }
        Ok(())
    }
}
