//! Clean-up, the loop: throws away what nobody can need any more, and empties the trash an hour
//! later, after a second look. Values of shared variables that no record names go at the second look.
//! What goes is `schedule::sweep`'s and `schedule::variables`' to say. Volumes are never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Parts;
use crate::clock::now_ms;
use crate::docker;
use crate::model::env::SharedVar;
use crate::model::history::RunEnd;
use crate::model::names::{ImageName, StackName, Tag};
use crate::model::release::ImageRecord;
use crate::model::trash::{Manifest, TrashRecord};
use crate::schedule::sweep::{self, ImageKey};
use crate::schedule::{replicate, variables};
use crate::store::election::Leadership;
use crate::wake::{self, Bell, Next};

/// Between two looks: nothing here is urgent.
const EVERY: Duration = Duration::from_secs(300);
/// How long what was thrown away can still be picked up again by hand.
const LIES_MS: u64 = 60 * 60 * 1000;
/// How long a copy of the registry that is down is waited for, so that it forgets with the other.
const ABSENT_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Sweeps until shutdown or the end of the leadership.
pub(super) async fn run(parts: Parts, leadership: Arc<Leadership>, stop: CancellationToken) {
    let seen = Mutex::default();
    wake::run("sweep", EVERY, Bell::new().ear(), stop, || async {
        throw_away(&parts, &leadership).await?;
        forget_values(&parts, &leadership, &seen).await?;
        empty(&parts, &leadership).await?;
        Ok(Next::OnChange)
    })
    .await;
}

/// Forgets values that no record named when this leader looked last, and none names now: what was read
/// before the first look is staged by the second, or never.
async fn forget_values(
    parts: &Parts,
    leadership: &Leadership,
    seen: &Mutex<BTreeSet<SharedVar>>,
) -> anyhow::Result<()> {
    let world = parts.tables.world(now_ms()).await?;
    let unnamed = variables::unnamed(&world);
    let gone: BTreeSet<SharedVar> = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = unnamed.intersection(&seen).cloned().collect();
        *seen = unnamed;
        gone
    };
    if !gone.is_empty() {
        let tables = &parts.tables;
        tables.forget_values(leadership, &world.env, &gone).await?;
    }
    Ok(())
}

type Images = BTreeMap<(StackName, ImageKey), ImageRecord>;

async fn images(parts: &Parts) -> anyhow::Result<Images> {
    let all = parts.tables.images(None).await?.into_iter();
    Ok(all
        .map(|image| ((image.stack, (image.tag, image.image)), image.record))
        .collect())
}

async fn throw_away(parts: &Parts, leadership: &Leadership) -> anyhow::Result<()> {
    let tables = &parts.tables;
    let (world, images) = (tables.world(now_ms()).await?, images(parts).await?);
    for (name, stack) in &world.stacks {
        let history = tables.history(name).await?;
        let live = history.into_iter().filter(|run| run.end == RunEnd::Live);
        let lived: Vec<Tag> = live.map(|run| run.tag).collect();
        let own: BTreeMap<(Tag, ImageName), ImageRecord> = images
            .iter()
            .filter(|((of, _), _)| of == name)
            .map(|((_, key), record)| (key.clone(), record.clone()))
            .collect();
        for of_tag in &sweep::dropped(&world, name, &lived, &own) {
            let at = stack.pointer_revision;
            let thrown = tables.throw_away(leadership, name, at, of_tag, world.now_ms);
            let outcome = thrown.await?;
            tracing::debug!(stack = %name, tag = %of_tag.0, ?outcome, "thrown away");
        }
    }
    Ok(())
}

async fn empty(parts: &Parts, leadership: &Leadership) -> anyhow::Result<()> {
    for ((stack, tag), (record, revision)) in parts.tables.trash().await? {
        if now_ms().saturating_sub(record.at_ms) < LIES_MS {
            continue;
        }
        let world = parts.tables.world(now_ms()).await?;
        let Some(named) = sweep::named(&world, &images(parts).await?) else {
            return Ok(());
        };
        let seen = replicate::copies(&world);
        if remove(parts, &seen, (&tag, &record), &named).await {
            let gone = parts
                .tables
                .forget_trash(leadership, &stack, &tag, revision);
            gone.await?;
            tracing::info!(%stack, %tag, "cleaned up");
        }
    }
    Ok(())
}

/// Removes the bytes; `false` when something could not be removed yet.
async fn remove(
    parts: &Parts,
    seen: &replicate::Seen,
    (tag, record): (&Tag, &TrashRecord),
    named: &BTreeSet<Manifest>,
) -> bool {
    let mut done = true;
    for manifest in &record.images {
        let name = format!("{}/{}", parts.config.registry(), manifest.repository);
        let mut local = vec![format!("{name}:{tag}")];
        if !named.contains(manifest) {
            local.push(format!("{name}@{}", manifest.digest));
            done &= forget(parts, seen, manifest, record.at_ms).await;
        }
        for reference in local {
            match parts.engine.untag(&reference).await {
                Ok(()) | Err(docker::Error::NotFound(_)) => {}
                Err(error) => {
                    tracing::debug!(reference, "not cleaned up yet: {error}");
                    done = false;
                }
            }
        }
    }
    done
}

/// Makes every copy of the registry forget a manifest; `false` when one could not be told. A copy
/// that has been away for very long is not waited for.
async fn forget(parts: &Parts, seen: &replicate::Seen, manifest: &Manifest, at_ms: u64) -> bool {
    let told = seen.healthy.keys().filter(|copy| parts.copies.knows(copy));
    let told: Vec<_> = told.collect();
    let patient = now_ms().saturating_sub(at_ms) < ABSENT_MS;
    let mut done = told.len() == seen.slots() || (!patient && !told.is_empty());
    for copy in told {
        if let Err(error) = parts.copies.forget(copy, manifest).await {
            tracing::debug!("not cleaned up yet: {error}");
            done = false;
        }
    }
    done
}
