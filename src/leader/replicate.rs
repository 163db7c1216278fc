//! Keeps the registry's copies equal: before a release is written down its manifests are brought to
//! every copy that works (`everywhere`), and a loop brings to a copy what it lacks when it is new or
//! was away. What must be where is `schedule::replicate`'s to say; bytes travel by `build::copies`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Parts;
use crate::build::copies::Copies;
use crate::clock::now_ms;
use crate::model::job::JobId;
use crate::model::trash::Manifest;
use crate::schedule::replicate::{self, Seen, Tagged, Transfer};
use crate::store::election::Leadership;
use crate::wake::{self, Ear, Next, backoff};

/// A full look at least this often.
const INTERVAL: Duration = Duration::from_secs(60);

/// How soon what is missing somewhere is tried again.
const AGAIN: Duration = Duration::from_secs(15);

/// After this long a copy is asked again for what it is known to hold: disks lose things.
const RECHECK: Duration = Duration::from_secs(1_800);

/// Manifests on their way at the same time.
const AT_ONCE: usize = 4;

/// How often a release's manifests are offered to a copy that does not take them.
const OFFERS_MAX: u32 = 3;

/// What the loop remembers between two looks.
#[derive(Default)]
struct Memory {
    /// When each copy was last found to hold a manifest.
    held: BTreeMap<(JobId, Manifest), Instant>,
    /// When what was last looked at.
    looked: Option<(Instant, BTreeSet<JobId>, Tagged)>,
    /// What was last said about copies that are down or refuse something.
    said: Vec<String>,
}

/// Replicates until shutdown or the end of the leadership.
pub(super) async fn run(
    parts: Parts,
    leadership: Arc<Leadership>,
    ear: Ear,
    stop: CancellationToken,
) {
    let memory: Mutex<Memory> = Mutex::default();
    wake::run("registry copies", INTERVAL, ear, stop, || async {
        step(&parts, &leadership, &mut *memory.lock().await).await
    })
    .await;
}

async fn step(parts: &Parts, leadership: &Leadership, memory: &mut Memory) -> anyhow::Result<Next> {
    let world = parts.tables.world(now_ms()).await?;
    let seen = replicate::copies(&world);
    if seen.slots() < 2 {
        return Ok(Next::OnChange);
    }
    let copies = reachable(parts, &seen);
    let wanted = replicate::must_be_everywhere(&world);
    let looked = memory.looked.as_ref();
    let same = looked.filter(|(_, those, all)| *those == copies && *all == wanted);
    if let Some((at, ..)) = same.filter(|(at, ..)| at.elapsed() < AGAIN) {
        // Whoever rings does not make the copies answer anew.
        return Ok(Next::After(AGAIN.saturating_sub(at.elapsed())));
    }
    memory.held.retain(|(copy, manifest), at| {
        copies.contains(copy) && wanted.contains_key(manifest) && at.elapsed() < RECHECK
    });
    let down = seen.down.iter();
    let mut trouble: Vec<String> = down
        .map(|job| format!("{} is down, the other copy serves", job.short()))
        .collect();
    trouble.extend(bring_all(parts.copies.as_ref(), &copies, &wanted, memory).await);
    memory.looked = Some((Instant::now(), copies.clone(), wanted.clone()));
    say(memory, trouble.clone());
    let mut held: BTreeMap<Manifest, BTreeSet<JobId>> = BTreeMap::new();
    for (copy, manifest) in memory.held.keys().cloned() {
        held.entry(manifest).or_default().insert(copy);
    }
    let whole = replicate::whole(&copies, &wanted, &held);
    parts.tables.note_whole(leadership, &whole).await?;
    Ok(if trouble.is_empty() {
        Next::OnChange
    } else {
        Next::After(AGAIN)
    })
}

/// The copies that work and that this host knows the way to.
fn reachable(parts: &Parts, seen: &Seen) -> BTreeSet<JobId> {
    let healthy = seen.healthy.keys();
    healthy
        .filter(|copy| parts.copies.knows(copy))
        .cloned()
        .collect()
}

/// Each trouble once, and again only when it is another.
fn say(memory: &mut Memory, trouble: Vec<String>) {
    for line in trouble.iter().filter(|line| !memory.said.contains(line)) {
        tracing::warn!("registry: {line}");
    }
    if trouble.is_empty() && !memory.said.is_empty() {
        tracing::info!("registry: every copy holds everything");
    }
    memory.said = trouble;
}

/// Looks for what is not known to be in every copy, and brings it there. Answers what did not work.
async fn bring_all(
    copies: &dyn Copies,
    among: &BTreeSet<JobId>,
    wanted: &Tagged,
    memory: &mut Memory,
) -> Vec<String> {
    let unsure = wanted.iter().filter(|(manifest, _)| {
        let known = |copy: &JobId| {
            let key = (copy.clone(), (*manifest).clone());
            memory.held.contains_key(&key)
        };
        !among.iter().all(known)
    });
    let unsure: Tagged = unsure.map(|(m, tags)| (m.clone(), tags.clone())).collect();
    let brought = bring_each(copies, among, unsure).await;
    let mut trouble = BTreeSet::new();
    let now = Instant::now();
    for (manifest, brought) in brought {
        let held = brought.held.into_iter();
        memory
            .held
            .extend(held.map(|copy| ((copy, manifest.clone()), now)));
        trouble.extend(brought.trouble);
    }
    trouble.into_iter().collect()
}

/// A few at a time.
async fn bring_each(
    copies: &dyn Copies,
    among: &BTreeSet<JobId>,
    manifests: Tagged,
) -> Vec<(Manifest, Brought)> {
    let bring = |(manifest, tags): (Manifest, BTreeSet<String>)| async move {
        let brought = bring(copies, among, &manifest, &tags).await;
        (manifest, brought)
    };
    let brought = stream::iter(manifests).map(bring);
    brought.buffer_unordered(AT_ONCE).collect().await
}

/// What became of one manifest.
#[derive(Debug, Default)]
struct Brought {
    /// The copies that hold it now.
    held: BTreeSet<JobId>,
    /// What did not work, in words.
    trouble: Vec<String>,
}

/// Brings a manifest to each of these copies that lacks it.
async fn bring(
    copies: &dyn Copies,
    among: &BTreeSet<JobId>,
    manifest: &Manifest,
    tags: &BTreeSet<String>,
) -> Brought {
    let mut brought = Brought::default();
    let looks = among.iter().map(|copy| async move {
        let held = copies.holds(copy, manifest).await;
        (copy.clone(), held)
    });
    let mut held = BTreeMap::new();
    for (copy, found) in join_all(looks).await {
        if let Err(error) = &found {
            brought.trouble.push(error.to_string());
        }
        held.insert(copy, found.ok());
    }
    for Transfer { from, to } in replicate::transfers(&held) {
        for source in &from {
            match copies.bring(manifest, tags, source, &to).await {
                Ok(()) => {
                    tracing::debug!(to = to.0, digest = manifest.digest, "brought");
                    held.insert(to.clone(), Some(true));
                    break;
                }
                Err(error) => brought.trouble.push(error.to_string()),
            }
        }
    }
    let having = held.into_iter().filter(|(_, held)| *held == Some(true));
    brought.held = having.map(|(copy, _)| copy).collect();
    brought
}

/// Waits until these manifests are in every copy that works. A copy that is down, or does not take
/// them, is filled later: one copy is enough to go on.
///
/// # Errors
/// When a manifest is in no copy.
pub(super) async fn everywhere(
    parts: &Parts,
    manifests: &Tagged,
    tell: impl Fn(String),
) -> anyhow::Result<()> {
    for offers in 1.. {
        let world = parts.tables.world(now_ms()).await?;
        let seen = replicate::copies(&world);
        if seen.slots() < 2 || manifests.is_empty() {
            return Ok(());
        }
        let among = reachable(parts, &seen);
        if among.is_empty() {
            bail!("no copy of the registry (core/registry) is healthy");
        }
        let copies = parts.copies.as_ref();
        let brought = bring_each(copies, &among, manifests.clone()).await;
        let nowhere = brought.iter().find(|(_, brought)| brought.held.is_empty());
        let trouble = brought.iter().find_map(|(_, b)| b.trouble.first());
        if let Some((Manifest { repository, digest }, _)) = nowhere {
            let why = trouble.map_or_else(String::new, |why| format!(": {why}"));
            bail!("no copy of the registry has {repository}@{digest}{why}");
        }
        if brought.iter().all(|(_, brought)| brought.held == among) {
            if !seen.down.is_empty() {
                tell("one copy of the registry is down: this is in the other".to_owned());
            }
            return Ok(());
        }
        if offers >= OFFERS_MAX {
            let why = trouble.map_or("it does not take it", String::as_str);
            tell(format!("not in every copy of the registry yet: {why}"));
            return Ok(());
        }
        tokio::time::sleep(backoff(offers, fastrand::f64())).await;
    }
    Ok(())
}
