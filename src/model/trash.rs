//! What is thrown away of a release, and what is left of it until its bytes go: the value of
//! `/trash/<stack>/<tag>`. Types only.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::names::{ImageName, NodeName};

/// What is thrown away of one tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Specs that no kept release and no container names.
    pub procs: BTreeSet<NodeName>,
    /// Build records.
    pub images: BTreeSet<ImageName>,
    /// Whether there is a release record.
    pub release: bool,
    /// Manifests that were recorded there.
    pub manifests: BTreeSet<Manifest>,
}

/// What is left of a release that nothing names any more. Its records are gone; its bytes go when
/// it has lain here long enough and a second look still finds nobody who needs them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashRecord {
    /// Version of this record.
    pub v: u32,
    /// Unix milliseconds of the throwing away.
    pub at_ms: u64,
    /// Its images in our registry.
    pub images: BTreeSet<Manifest>,
}

/// A manifest of our registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Manifest {
    /// Repository path without the registry's address.
    pub repository: String,
    /// `sha256:…`.
    pub digest: String,
}
