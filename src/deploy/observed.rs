//! What the engine has, read into viking's words: a container of ours with the identity its labels
//! carry. Called by the worker after every listing. A container whose labels cannot be read is
//! nobody's: it is never named in an action.

use std::collections::BTreeMap;

use crate::docker::{Container, RunState, label};
use crate::model::job::{Instance, JobKey};
use crate::model::names::{NodeName, StackName, Tag};

/// One container of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// As the engine has it.
    pub container: Container,
    /// The job it was made for.
    pub job: JobKey,
    /// The placement it was made for.
    pub instance: Instance,
    /// Hash of the spec it was made from.
    pub spec_hash: String,
}

impl Observed {
    /// Reads the labels; `None` when one is missing or wrong.
    #[must_use]
    pub fn read(container: Container) -> Option<Self> {
        let (job, instance) = identity(&container.labels)?;
        let spec_hash = container.labels.get(label::SPEC)?.clone();
        Some(Self {
            container,
            job,
            instance,
            spec_hash,
        })
    }

    /// Whether its process exists, perhaps frozen: it holds its volumes and ports.
    #[must_use]
    pub fn occupies(&self) -> bool {
        matches!(self.container.state, RunState::Running | RunState::Paused)
    }
}

/// The job and the placement that labels name.
fn identity(labels: &BTreeMap<String, String>) -> Option<(JobKey, Instance)> {
    let text = |name: &str| labels.get(name).map(String::as_str);
    let job = JobKey {
        stack: StackName::parse(text(label::STACK)?).ok()?,
        tag: Tag::parse(text(label::TAG)?).ok()?,
        node: NodeName::parse(text(label::NODE)?).ok()?,
        slot: text(label::SLOT)?.parse().ok()?,
    };
    let instance = Instance(text(label::INSTANCE)?.parse().ok()?);
    Some((job, instance))
}

/// The labels of a container made for a placement.
#[must_use]
pub fn labels(
    cluster: &str,
    job: &JobKey,
    instance: Instance,
    spec_hash: &str,
) -> BTreeMap<String, String> {
    [
        (label::CLUSTER, cluster.to_owned()),
        (label::STACK, job.stack.to_string()),
        (label::TAG, job.tag.to_string()),
        (label::NODE, job.node.to_string()),
        (label::SLOT, job.slot.to_string()),
        (label::INSTANCE, instance.to_string()),
        (label::SPEC, spec_hash.to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
