//! What a commit of a followed repository would do: fetched, read and handed to `foretell`. Asked by the API
//! of any host, and by a follower before it applies a plan. Writes nothing.

use anyhow::Context as _;
use tokio::sync::Semaphore;

use super::Parts;
use super::people::file_of;
use crate::clock::now_ms;
use crate::foretell::{Draft, foretell};
use crate::model::foretold::Foretold;
use crate::model::names::StackName;
use crate::schedule::losses;

/// Plans that are made at once: one of a large cluster takes a core for seconds, and goes on when who
/// asked has hung up.
static PLACES: Semaphore = Semaphore::const_new(1);

/// Why it cannot be told what a commit would do.
pub enum Unforeseen {
    /// Its `viking.yml` says nothing that can be read; in words.
    Commit(String),
    /// A fault from outside: store, remote, disk.
    Outside(anyhow::Error),
}

impl From<anyhow::Error> for Unforeseen {
    fn from(error: anyhow::Error) -> Self {
        Self::Outside(error)
    }
}

impl From<Unforeseen> for anyhow::Error {
    fn from(unforeseen: Unforeseen) -> Self {
        match unforeseen {
            Unforeseen::Commit(why) => Self::msg(why),
            Unforeseen::Outside(error) => error,
        }
    }
}

/// Foretells what a commit would do; without `word` the newest one of what the stack follows, else that of
/// a branch, or one by the beginning of its id.
///
/// # Errors
/// Says what was attempted, what was found and what to do.
pub async fn foresee(
    parts: &Parts,
    name: &StackName,
    word: Option<&str>,
) -> Result<Foretold, Unforeseen> {
    let world = parts.tables.world(now_ms()).await;
    let mut world = world.context("reading the store")?;
    world.lost = losses::noted(&world);
    let stack = world.stacks.get(name);
    let source = stack.and_then(|stack| stack.source.clone());
    let source = source.with_context(|| format!("no repository is followed as {name}"))?;
    let mirrors = &parts.mirrors;
    let outside = |error| Unforeseen::Outside(anyhow::Error::new(error));
    let id = mirrors.find(&source, word).await.map_err(outside)?;
    let commit = mirrors.commit(&source, &id).await.map_err(outside)?;
    let tree = mirrors.tree(&source, &id).await;
    let tree = tree.map_err(|error| match error.is_commits_fault() {
        true => Unforeseen::Commit(error.to_string()),
        false => outside(error),
    })?;
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
    let place = PLACES.acquire().await.expect("never closed");
    let told = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    told.await.context("planning")?.map_err(Unforeseen::Commit)
}
