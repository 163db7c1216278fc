//! Reads every Dockerfile of a commit before anything is built, so that a mistake in the last one
//! costs nothing. Called by `build`. Reads the commit's tree; touches no engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Error;
use super::context::{self, ContextError, Inputs};
use super::dockerfile::{Dockerfile, TEXT_BYTES_MAX};
use super::glob::clean;
use super::order::{order, own_parents};
use crate::model::names::{ImageName, StackName};
use crate::model::tree::{EntryKind, Tree};
use crate::model::vikingfile::{BuildEntry, DockerfileSource, VikingFile};

/// One image, ready to be looked up or built.
#[derive(Debug)]
pub(super) struct Prepared {
    /// What `viking.yml` says.
    pub(super) entry: BuildEntry,
    /// Its Dockerfile.
    pub(super) dockerfile: Dockerfile,
    /// Its context's folder in the commit.
    pub(super) folder: String,
    /// Images of this stack it needs.
    pub(super) parents: BTreeSet<ImageName>,
}

impl Prepared {
    /// What goes into it besides its context; `hashed` is its Dockerfile's text as it is hashed.
    pub(super) fn inputs<'a>(&'a self, hashed: &'a str) -> Inputs<'a> {
        Inputs {
            dockerfile: hashed,
            args: &self.entry.args,
            target: self.entry.target.as_deref(),
            platform: self.entry.platform.as_deref(),
        }
    }
}

/// All images of `file`, parents first.
pub(super) async fn read(
    stack: &StackName,
    file: &VikingFile,
    tree: &Arc<Tree>,
) -> Result<Vec<Prepared>, Error> {
    let (entries, tree) = (file.build.clone(), Arc::clone(tree));
    let stack = stack.clone();
    let read = move || prepare(&stack, &entries, &tree);
    tokio::task::spawn_blocking(read)
        .await
        .expect("reading a Dockerfile does not panic and is not cancelled")
}

/// As [`read`], on this thread.
pub(super) fn prepare(
    stack: &StackName,
    entries: &[BuildEntry],
    tree: &Tree,
) -> Result<Vec<Prepared>, Error> {
    let mut read: BTreeMap<ImageName, Prepared> = BTreeMap::new();
    let mut parents = BTreeMap::new();
    for entry in entries {
        let one = prepare_one(entry, tree)?;
        parents.insert(entry.name.clone(), one.dockerfile.parents());
        read.insert(entry.name.clone(), one);
    }
    let sorted =
        order(stack, entries, &parents).map_err(|error| Error::own(&error.image, &error))?;
    let triggering: BTreeSet<ImageName> = read
        .iter()
        .filter(|(_, one)| one.dockerfile.triggers())
        .map(|(name, _)| name.clone())
        .collect();
    let mut prepared = Vec::with_capacity(sorted.len());
    for name in sorted {
        let own: BTreeSet<ImageName> = own_parents(stack, &name, &parents).cloned().collect();
        let mut one = read.remove(&name).expect("the order holds each image once");
        // ONBUILD lines of a parent read this image's context.
        if !own.is_disjoint(&triggering) {
            one.dockerfile.reach_everything();
        }
        one.parents = own;
        prepared.push(one);
    }
    Ok(prepared)
}

fn prepare_one(entry: &BuildEntry, tree: &Tree) -> Result<Prepared, Error> {
    let context = |error: ContextError| Error::context(&entry.name, error);
    let folder = context::folder(&entry.context).map_err(context)?;
    let (text, place) = match &entry.dockerfile {
        DockerfileSource::Text(text) => (text.clone(), String::new()),
        DockerfileSource::File(path) => (
            dockerfile_text(tree, &folder, path).map_err(context)?,
            format!("{path}: "),
        ),
    };
    let dockerfile = Dockerfile::parse(&text, &entry.args)
        .map_err(|error| Error::own(&entry.name, &format!("{place}{error}")))?;
    Ok(Prepared {
        entry: entry.clone(),
        dockerfile,
        folder,
        parents: BTreeSet::new(),
    })
}

fn dockerfile_text(tree: &Tree, folder: &str, path: &str) -> Result<String, ContextError> {
    let refuse = |why: &str| ContextError::Refused(format!("Dockerfile {path:?} {why}"));
    let cleaned = clean(path);
    if cleaned.starts_with("..") || cleaned.starts_with('/') {
        return Err(refuse("is outside the context"));
    }
    let place = match folder {
        "" => cleaned,
        folder => format!("{folder}/{cleaned}"),
    };
    let entry = tree
        .entries
        .get(&place)
        .ok_or_else(|| refuse("is not in the commit"))?;
    if !matches!(entry.kind, EntryKind::File | EntryKind::Executable) {
        return Err(refuse("is not a regular file"));
    }
    let bytes = tree.blobs.blob(&entry.oid);
    let bytes = bytes.map_err(|source| ContextError::unreadable(&place, source))?;
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(refuse("is too long"));
    }
    String::from_utf8(bytes).map_err(|_| refuse("is not UTF-8"))
}
