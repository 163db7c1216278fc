//! Jobs that run once, to their end, before nodes of a release start (`before_release`): which they
//! are, told from its record. Used wherever a job is looked up. Pure.

use super::names::NodeName;
use super::release::{Pointer, Release, ReleaseNode};

impl Release {
    /// A node, or the job that runs before one.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&ReleaseNode> {
        self.nodes.get(name).or_else(|| self.before.get(name))
    }

    /// Jobs that must run to their end for this very release.
    pub fn runs_first(&self) -> impl Iterator<Item = (&NodeName, &ReleaseNode)> {
        self.before.iter().filter(|(_, job)| job.tag == self.tag)
    }

    /// Those of them that are not on record as done.
    pub fn still_to_end<'a>(
        &'a self,
        pointer: &'a Pointer,
    ) -> impl Iterator<Item = (&'a NodeName, &'a ReleaseNode)> {
        let ended = |name: &NodeName| pointer.ended.contains(name);
        self.runs_first().filter(move |(name, _)| !ended(name))
    }
}
