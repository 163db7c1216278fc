//! Where slots and named volumes belong: by the pins on record, by the data that hosts say they have,
//! and by what the plan in the making has decided. Used by `dowding`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::wanted::Wanted;
use crate::model::names::HostName;
use crate::model::verdict::Home;
use crate::model::world::{Pin, PinKey, World};

/// Who belongs where.
pub(super) struct Pins<'a> {
    world: &'a World,
    /// Of this plan.
    new: BTreeMap<PinKey, HostName>,
    /// Data that hosts say they have, and no pin says where it belongs.
    found: BTreeMap<&'a PinKey, BTreeSet<&'a HostName>>,
}

impl<'a> Pins<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let mut found: BTreeMap<&PinKey, BTreeSet<&HostName>> = BTreeMap::new();
        for (name, host) in &world.hosts {
            let held = host.volumes.iter().flatten();
            for key in held.filter(|key| !world.fixed.contains_key(*key)) {
                found.entry(key).or_default().insert(name);
            }
        }
        Self {
            world,
            new: BTreeMap::new(),
            found,
        }
    }

    /// The hosts that a job's pins name, its slot's and those of the volumes it shares, or that have
    /// its data where no pin is.
    pub(super) fn of(&self, wanted: &Wanted<'_>) -> Vec<Home> {
        let mut hosts: BTreeMap<&HostName, &str> = BTreeMap::new();
        for key in keys(wanted) {
            if let Some(pin) = self.world.fixed.get(&key) {
                hosts.entry(&pin.host).or_insert("its volume is there");
            } else if let Some(host) = self.new.get(&key) {
                hosts.entry(host).or_insert("just now");
            } else {
                let found = self.found.get(&key).into_iter().flatten();
                hosts.extend(found.map(|host| (*host, "its volume was found there")));
            }
        }
        let home = |(host, why): (&HostName, &str)| Home {
            host: host.clone(),
            why: why.to_owned(),
        };
        hosts.into_iter().map(home).collect()
    }

    /// The pins that a job's being on a host makes.
    pub(super) fn add(&mut self, wanted: &Wanted<'_>, host: &HostName) -> Vec<(PinKey, Pin)> {
        let mut made = Vec::new();
        for key in keys(wanted) {
            if self.world.fixed.contains_key(&key) || self.new.contains_key(&key) {
                continue;
            }
            let reason = match &key {
                PinKey::Volume(_, volume) => format!("volume {volume} is there"),
                PinKey::Seat(_) if wanted.node.has_volume => "its volume is there".to_owned(),
                PinKey::Seat(_) => "fixed".to_owned(),
            };
            self.new.insert(key.clone(), host.clone());
            let pin = Pin {
                v: 1,
                host: host.clone(),
                since_ms: self.world.now_ms,
                reason,
            };
            made.push((key, pin));
        }
        made
    }
}

/// What a job's data is known by.
fn keys(wanted: &Wanted<'_>) -> Vec<PinKey> {
    if !wanted.node.pinned() {
        return Vec::new();
    }
    let stack = &wanted.job.stack;
    let volumes = wanted.node.shared_volumes.iter();
    let mut keys: Vec<_> = volumes
        .map(|v| PinKey::Volume(stack.clone(), v.clone()))
        .collect();
    keys.push(PinKey::Seat(wanted.job.seat()));
    keys
}
