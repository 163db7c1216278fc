//! What a commit of a followed repository would do: fetched, read and handed to `foretell`. Asked by the API
//! of any host, and by a follower before it applies a plan. Writes nothing.

use anyhow::Context as _;

use super::Parts;
use super::people::file_of;
use crate::clock::now_ms;
use crate::foretell::{Draft, foretell};
use crate::model::foretold::Foretold;
use crate::model::names::StackName;
use crate::schedule::losses;

/// Foretells what a commit would do; without `word` the newest one of what the stack follows, else that of
/// a branch, or one by the beginning of its id.
///
/// # Errors
/// Says what was attempted, what was found and what to do.
pub async fn foresee(
    parts: &Parts,
    name: &StackName,
    word: Option<&str>,
) -> anyhow::Result<Foretold> {
    let world = parts.tables.world(now_ms()).await;
    let mut world = world.context("reading the store")?;
    world.lost = losses::noted(&world);
    let stack = world.stacks.get(name);
    let source = stack.and_then(|stack| stack.source.clone());
    let source = source.with_context(|| format!("no repository is followed as {name}"))?;
    let mirrors = &parts.mirrors;
    let id = mirrors.find(&source, word).await?;
    let commit = mirrors.commit(&source, &id).await?;
    let tree = mirrors.tree(&source, &id).await?;
    let live = stack.and_then(|stack| stack.live());
    let before = match live {
        // A shallow mirror need not have it: then changed files are not named.
        Some(live) => mirrors.tree(&source, &live.commit.id).await.ok(),
        None => None,
    };
    let (name, file) = (name.clone(), file_of(&source));
    let work = move || {
        let draft = Draft {
            stack: Some(&name),
            commit,
            tag: None,
            tree: &tree,
            name: &file,
            before: before.as_ref(),
        };
        foretell(&world, &draft)
    };
    let told = tokio::task::spawn_blocking(work).await?;
    told.map_err(anyhow::Error::msg)
}
