//! What the scripts say of a container of the fake engine. Part of its state; synchronous.

use std::collections::BTreeMap;

use super::Behaviour;
use super::state::{Held, State};
use crate::docker::{ImageHealth, RunState};

impl State {
    /// The script for a container.
    pub(super) fn behaviour(&self, id: &str) -> Behaviour {
        let scripted = self.scripted(id, |state| &state.behaviours);
        let image = self
            .containers
            .get(id)
            .map(|held| held.seen.image_id.as_str());
        let own = || image.and_then(|image| self.images.behaviour(image));
        scripted.or_else(own).unwrap_or_default()
    }

    /// What a script says of a container, by name, command, reference, digest and image id.
    pub(super) fn scripted<T: Clone>(
        &self,
        id: &str,
        script: impl Fn(&Self) -> &BTreeMap<String, T>,
    ) -> Option<T> {
        let held = self.containers.get(id)?;
        let command = held.new.command.clone().unwrap_or_default().join(" ");
        let digest = held
            .new
            .image
            .split_once('@')
            .map_or("", |(_, digest)| digest);
        let keys = [
            held.seen.name.as_str(),
            command.as_str(),
            held.new.image.as_str(),
            digest,
            held.seen.image_id.as_str(),
        ];
        let script = script(self);
        let names = self.images.names(&held.seen.image_id);
        let mut keys = keys.into_iter().chain(names.iter().map(String::as_str));
        keys.find_map(|key| script.get(key)).cloned()
    }

    /// Whether a probe of it succeeds now, or why not.
    pub(super) fn healthy(&self, id: &str) -> Result<(), String> {
        let held = self.containers.get(id).ok_or("no such container")?;
        if held.seen.state != RunState::Running {
            return Err(format!("the container is {:?}", held.seen.state));
        }
        let age = held.began.elapsed();
        match self.behaviour(id) {
            Behaviour::NeverHealthy | Behaviour::CrashesAfter(..) => {
                Err("connection refused".into())
            }
            Behaviour::HealthyAfter(after) if age < after => Err("connection refused".into()),
            Behaviour::HealthyUntil(until) if age >= until => Err("connection refused".into()),
            _ => Ok(()),
        }
    }

    pub(super) fn image_health(&self, held: &Held) -> Option<ImageHealth> {
        if !self.images.has_healthcheck(&held.seen.image_id) {
            return None;
        }
        let id = &held.seen.id;
        Some(match (self.healthy(id), self.behaviour(id)) {
            (Ok(()), _) => ImageHealth::Healthy,
            (Err(_), Behaviour::NeverHealthy) => ImageHealth::Unhealthy,
            (Err(_), _) => ImageHealth::Starting,
        })
    }
}
