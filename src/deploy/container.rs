//! A container made from a spec: everything the engine is told, worked out beforehand. Pure; called
//! by `ops` when a placement starts. The hardening is the engine module's and the same for all.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::link::{self, Listener};
use super::observed;
use super::volume::WantedVolume;
use super::wanted::Desired;
use crate::docker::{NewContainer, PortBinding, label};
use crate::model::env::SecretValue;
use crate::model::names::HostName;

/// What is known once network, volumes, ports and listeners are there.
#[derive(Debug, Clone)]
pub struct Fittings<'a> {
    /// Cluster id.
    pub cluster: &'a str,
    /// This host.
    pub host: &'a HostName,
    /// What the image is called on this host.
    pub image: String,
    /// The host's address on the stack's network.
    pub gateway: Option<IpAddr>,
    /// Volumes.
    pub volumes: &'a [WantedVolume],
    /// Published ports.
    pub ports: Vec<PortBinding>,
    /// Listeners of its links.
    pub listeners: &'a [Listener],
    /// Values of shared variables, by the names its process knows.
    pub shared: &'a BTreeMap<String, SecretValue>,
}

/// The container of a placement.
#[must_use]
pub fn new_container(desired: &Desired, fittings: Fittings<'_>) -> NewContainer {
    let settings = &desired.spec.settings;
    let env = environment(desired, &fittings);
    let mut labels = observed::labels(
        fittings.cluster,
        &desired.job,
        desired.instance,
        &desired.spec_hash,
    );
    if let Some(text) = link::to_label(fittings.listeners) {
        labels.insert(label::LINKS.to_owned(), text);
    }
    let mounts = fittings.volumes.iter();
    NewContainer {
        name: desired.name(),
        image: fittings.image,
        command: settings.run.clone(),
        entrypoint: settings.entrypoint.clone(),
        cwd: settings.cwd.clone(),
        user: settings.user.clone(),
        env: env.into_iter().map(|(k, v)| format!("{k}={v}")).collect(),
        labels,
        network: desired.network.clone(),
        // Nobody reaches what runs once.
        aliases: match desired.once {
            true => Vec::new(),
            false => vec![desired.job.node.to_string()],
        },
        mounts: mounts.map(|v| (v.name.clone(), v.path.clone())).collect(),
        ports: fittings.ports,
        memory_bytes: desired.memory_bytes(),
        cpu_millis: desired.cpu_millis(),
        stop_signal: desired.stop.signal.clone(),
    }
}

/// The spec's variables, then ours over them: a spec can never fake what viking says.
fn environment(desired: &Desired, fittings: &Fittings<'_>) -> BTreeMap<String, String> {
    let job = &desired.job;
    let mut env = desired.spec.settings.env.clone();
    let shared = fittings.shared.iter();
    env.extend(shared.map(|(name, value)| (name.clone(), value.expose().to_owned())));
    if let Some(gateway) = fittings.gateway {
        env.extend(link::variables(gateway, fittings.listeners));
    }
    let ours = [
        ("VIKING_ID", desired.name()),
        ("VIKING_STACK", job.stack.to_string()),
        ("VIKING_TAG", job.tag.to_string()),
        ("VIKING_NODE", job.node.to_string()),
        ("VIKING_SLOT", job.slot.to_string()),
        ("VIKING_HOST", fittings.host.to_string()),
    ];
    env.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    env
}
