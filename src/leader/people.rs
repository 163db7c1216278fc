//! What people ask of the leader about whole stacks: take one in, see a removed one off.

use anyhow::bail;

use super::Parts;
use crate::clock::now_ms;
pub(super) use crate::foretell::FILE;
use crate::model::names::CORE_STACK;
use crate::model::release::Source;
use crate::model::vikingfile::VikingFile;
use crate::model::wire::{self, Added};
use crate::model::world::World;
use crate::store::election::Leadership;
use crate::store::tables::{Outcome, Request, Tables};

/// Where that file is in the source's commits.
pub(super) fn file_of(source: &Source) -> String {
    match source.path.trim_matches('/') {
        "" => FILE.to_owned(),
        path => format!("{path}/{FILE}"),
    }
}

/// Takes a source in under the name its `viking.yml` gives. Nothing is kept when it cannot be read.
///
/// # Errors
/// Says what was attempted, what was found and what to do.
pub async fn add(parts: &Parts, source: &Source) -> anyhow::Result<Added> {
    let head = parts.mirrors.head(source).await?;
    let head = parts.mirrors.fetch(source, &head).await?;
    let commit = parts.mirrors.commit(source, &head).await?;
    let tree = parts.mirrors.tree(source, &head).await?;
    let name = file_of(source);
    if let Some(what) = tree.no_file(FILE) {
        bail!(
            "{name} {what} in commit {}: it must be a file",
            commit.short()
        );
    }
    let Some(text) = tokio::task::spawn_blocking(move || tree.read(FILE)).await?? else {
        bail!("no {name} in commit {}", commit.short());
    };
    let file = VikingFile::parse(&name, &text)?;
    if file.stack.as_str() == CORE_STACK {
        bail!("the name {CORE_STACK} is taken by viking's own stack: choose another in {FILE}");
    }
    let known = parts.tables.sources().await?;
    let before = known.sources.get(&file.stack);
    if let Some((other, _)) = before.filter(|(b, _)| b.url != source.url || b.path != source.path) {
        bail!(
            "stack {} comes from {} already: remove it first, or choose another name in {FILE}",
            file.stack,
            other.url
        );
    }
    if before.is_some_and(|(before, _)| before.suspended_ms.is_some()) {
        bail!(
            "stack {0} is suspended, so nothing new of it is brought up: `viking resume {0}` first",
            file.stack
        );
    }
    let revision = before.map_or(0, |(_, revision)| *revision);
    if before.is_none_or(|(before, _)| before != source) {
        let written = parts
            .tables
            .put_source(&file.stack, source, revision)
            .await?;
        if !matches!(written, Outcome::Done(_)) {
            bail!(
                "stack {} was changed by somebody else just now: try again",
                file.stack
            );
        }
    }
    // Somebody who adds it wants it looked at now.
    let request = Request {
        v: 1,
        kind: "sync".to_owned(),
        about: String::new(),
        at_ms: now_ms(),
    };
    parts.tables.request(&file.stack, &request).await?;
    Ok(Added {
        schema: wire::schema("added"),
        stack: file.stack,
        head: Some(commit),
    })
}

/// Stacks whose source was taken away: stop everything, then forget all but pins and volumes.
///
/// # Errors
/// When the store does not answer.
pub async fn see_off(
    tables: &Tables,
    leadership: &Leadership,
    world: &World,
) -> anyhow::Result<()> {
    for (name, stack) in &world.stacks {
        let removed = stack.source.is_none() && name.as_str() != CORE_STACK;
        if world.frozen_stacks.contains(name) || !(removed || stack.pointer.removing) {
            continue;
        }
        if !stack.pointer.removing {
            let mut pointer = stack.pointer.clone();
            pointer.removing = true;
            tables
                .set_pointer(leadership, name, &pointer, stack.pointer_revision, vec![])
                .await?;
        } else if !world.assignments.keys().any(|(job, _)| job.stack == *name)
            && !world.states.keys().any(|(_, job)| job.stack == *name)
        {
            let revision = stack.pointer_revision;
            let forgotten = tables.forget_stack(leadership, name, revision).await?;
            if matches!(forgotten, Outcome::Done(_)) {
                tracing::info!(stack = %name, "removed; its volumes and pins stay");
            }
        }
    }
    Ok(())
}
