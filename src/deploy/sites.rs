//! The files of static sites on this host: releases name them, a task pulls and unpacks each, `/host`
//! answers which are there. Called by the desk in each pass, also while the engine is down. A site is in
//! its folder whole or not at all; one that no release names any more stays a while for those who still
//! read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::desk::Desk;
use super::source::{SharedSource, Source};
use super::tries::Tries;
use super::unpack::unpack;
use crate::model::host::SiteHere;
use crate::model::release::Release;
use crate::model::site::{self, BYTES_MAX, ENTRIES_MAX};

/// Sites on their way at a time.
const AT_ONCE: usize = 2;

/// How long what no release names any more stays.
const KEEP_MS: u64 = 10 * 60 * 1000;

/// Between two looks for what is not needed.
const SWEEP_MS: u64 = 60 * 1000;

/// Largest layer: its files and what a tar says of each.
const LAYER_BYTES_MAX: u64 = BYTES_MAX + ENTRIES_MAX as u64 * 4_096;

/// Ends of names of what is not a site: one that is not whole yet, one that goes.
const UNDERWAY: &str = "tmp";
const GOING: &str = "gone";

/// Sites, each with the repositories that hold it.
type Asked = BTreeMap<String, BTreeSet<String>>;

/// What this host was asked to have, and what it has.
pub struct Sites {
    folder: PathBuf,
    source: SharedSource,
    tries: Tries<String>,
    answers: watch::Sender<Vec<SiteHere>>,
    /// Folders that nobody needs, since when.
    unneeded: BTreeMap<PathBuf, u64>,
    /// When to look for such.
    sweep_ms: u64,
}

impl Sites {
    /// Sites below a data directory; answers are read from the other end.
    #[must_use]
    pub fn new(data_dir: &Path, source: SharedSource) -> (Self, watch::Receiver<Vec<SiteHere>>) {
        let (answers, read) = watch::channel(Vec::new());
        let sites = Self {
            folder: data_dir.join(site::FOLDER),
            source,
            tries: Tries::new(),
            answers,
            unneeded: BTreeMap::new(),
            sweep_ms: 0,
        };
        (sites, read)
    }

    fn is_here(&self, digest: &str) -> bool {
        site::folder(&self.folder, digest).is_some_and(|folder| folder.is_dir())
    }

    fn answers(&self, asked: &Asked) -> Vec<SiteHere> {
        let failed: BTreeMap<_, _> = self.tries.ends().collect();
        let answer = |digest: &String| {
            let error = match failed.get(digest) {
                _ if self.is_here(digest) => String::new(),
                Some(Err(error)) => error.clone(),
                Some(Ok(())) | None => return None,
            };
            let digest = digest.clone();
            Some(SiteHere { digest, error })
        };
        asked.keys().filter_map(answer).collect()
    }

    /// When what failed is tried again.
    pub fn tries(&self) -> impl Iterator<Item = u64> {
        self.tries.next()
    }

    /// Folders that have not been needed for long enough, each out of the way already.
    fn out_of_the_way(&mut self, asked: &Asked, now_ms: u64) -> Vec<PathBuf> {
        if now_ms < self.sweep_ms {
            return Vec::new();
        }
        self.sweep_ms = now_ms + SWEEP_MS;
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let needed: BTreeSet<&str> = asked.keys().filter_map(|one| site::digits(one)).collect();
        let mut unneeded = BTreeMap::new();
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            // Also one that is not whole yet: a task may be at it.
            let digits = path.file_stem().and_then(|name| name.to_str());
            if !digits.is_some_and(|digits| needed.contains(digits)) {
                let since_ms = self.unneeded.get(&path).copied().unwrap_or(now_ms);
                unneeded.insert(path, since_ms);
            }
        }
        let (go, stay): (BTreeMap<_, _>, BTreeMap<_, _>) = unneeded
            .into_iter()
            .partition(|(_, since_ms)| now_ms.saturating_sub(*since_ms) >= KEEP_MS);
        self.unneeded = stay;
        let moved = go.into_keys().map(|path| {
            let to = path.with_extension(GOING);
            // Else a reader might see half of it.
            match fs::rename(&path, &to) {
                Ok(()) => to,
                Err(_) => path,
            }
        });
        moved.collect()
    }
}

impl Desk {
    /// Has what releases name unpacked here, and answers for it.
    pub(super) fn unpack_sites(&mut self, now_ms: u64) {
        let Some(assigned) = &self.assigned else {
            return;
        };
        let releases = assigned.stacks.values().flat_map(|map| {
            let named = map.pointer.named().filter(|_| !map.pointer.removing);
            named.filter_map(|tag| map.releases.get(tag))
        });
        let mut asked = Asked::new();
        for (_, image) in releases.flat_map(Release::sites) {
            let repositories = asked.entry(image.digest.clone()).or_default();
            repositories.insert(image.repository.clone());
        }
        // What cannot be read may name more: no news is no order.
        let sure = !self.stale && assigned.frozen.is_empty();
        let absent = asked.keys().filter(|digest| !self.sites.is_here(digest));
        let absent = absent.cloned().collect();
        while self.tasks.try_join_next().is_some() {}
        for digest in self.sites.tries.turn(&absent, AT_ONCE, now_ms) {
            let repositories = asked.get(&digest).cloned().unwrap_or_default();
            let source = Arc::clone(&self.sites.source);
            let folder = self.sites.folder.clone();
            let (ended, bell) = (self.sites.tries.ended(), self.teller.bell.clone());
            self.tasks.spawn(async move {
                let end = fetch(source.as_ref(), &folder, &digest, &repositories).await;
                if let Err(error) = &end {
                    tracing::warn!(digest, "a site cannot be had: {error}");
                }
                if ended.send((digest, end)).is_ok() {
                    bell.ring();
                }
            });
        }
        if sure {
            for path in self.sites.out_of_the_way(&asked, now_ms) {
                // What cannot be removed is found again.
                self.tasks.spawn(async move {
                    tokio::fs::remove_dir_all(path).await.ok();
                });
            }
        }
        let answers = self.sites.answers(&asked);
        self.sites.answers.send_if_modified(|told| {
            let news = *told != answers;
            *told = answers;
            news
        });
    }
}

/// From the first repository that gives it.
async fn fetch(
    source: &dyn Source,
    folder: &Path,
    digest: &str,
    repositories: &BTreeSet<String>,
) -> Result<(), String> {
    let mut last = "no repository has it".to_owned();
    for repository in repositories {
        match fetch_from(source, folder, digest, repository).await {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    digest: String,
    size: u64,
}

async fn fetch_from(
    source: &dyn Source,
    folder: &Path,
    digest: &str,
    repository: &str,
) -> Result<(), String> {
    let place = site::folder(folder, digest).ok_or_else(|| format!("{digest:?} is no digest"))?;
    let manifest = source.manifest(repository, digest).await?;
    if hex::encode(Sha256::digest(&manifest)) != site::digits(digest).unwrap_or_default() {
        return Err(format!("the registry sent other bytes than {digest}"));
    }
    let layer =
        the_layer(&manifest).ok_or_else(|| format!("{digest} is not the image of a site"))?;
    let ours = |error: io::Error| format!("keeping it in {}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(ours)?;
    let mut bytes = tempfile::tempfile_in(folder).map_err(ours)?;
    source
        .blob(repository, &layer.digest, layer.size, &mut bytes)
        .await?;
    let put = move || put(bytes, &layer, &place);
    let put = tokio::task::spawn_blocking(put);
    put.await.map_err(|error| error.to_string())?
}

fn the_layer(manifest: &[u8]) -> Option<Layer> {
    let manifest: Manifest = serde_json::from_slice(manifest).ok()?;
    let mut layers = manifest.layers.into_iter();
    let one = layers.next().filter(|_| layers.next().is_none())?;
    (site::digits(&one.digest).is_some() && one.size <= LAYER_BYTES_MAX).then_some(one)
}

/// Unpacks beside its place, and moves it there once all of it is on disk. Blocking.
fn put(mut bytes: File, layer: &Layer, place: &Path) -> Result<(), String> {
    let ours = |error: io::Error| format!("keeping it in {}: {error}", place.display());
    bytes.rewind().map_err(ours)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 128 << 10];
    loop {
        let count = bytes.read(&mut piece).map_err(ours)?;
        let Some(read) = piece.get(..count).filter(|read| !read.is_empty()) else {
            break;
        };
        hash.update(read);
    }
    if hex::encode(hash.finalize()) != site::digits(&layer.digest).unwrap_or_default() {
        return Err(format!(
            "the registry sent other bytes than {}",
            layer.digest
        ));
    }
    bytes.rewind().map_err(ours)?;
    let half = place.with_extension(UNDERWAY);
    // Of a try that was ended in the middle.
    match fs::remove_dir_all(&half) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ours(error)),
        _ => {}
    }
    fs::create_dir(&half).map_err(ours)?;
    let unpacked = unpack(io::BufReader::new(bytes), &half);
    crate::failpoint::hit("site.unpacked");
    let moved = unpacked.and_then(|()| fs::rename(&half, place).map_err(ours));
    if moved.is_err() {
        // The disk may be full: half a site is no use to anybody.
        fs::remove_dir_all(&half).ok();
        return moved;
    }
    let parent = place
        .parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all());
    parent.map_err(ours)
}

#[cfg(test)]
#[path = "sites_tests.rs"]
mod tests;
