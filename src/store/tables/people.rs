//! What people say and see through the API: sources, requests, the past. And the leader's clearing
//! of that past, which is bounded.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::write::{Outcome, Unit, refuse};
use super::{Result, Tables, decode, encode};
use crate::model::history::{EventRecord, KEPT_LIVE, RunRecord, bounded};
use crate::model::host::Member;
use crate::model::job::JobKey;
use crate::model::names::{HostName, ImageName, StackName, Tag};
use crate::model::plan::Start;
use crate::model::release::{ImageRecord, RunId, Source};
use crate::store::election::Leadership;
use crate::store::keys::{Family, Key};
use crate::store::{Compare, KeyValue, Op, Selector};

/// Ends of runs kept per stack, the newest; besides those the newest [`KEPT_LIVE`] that brought what
/// people go back to.
pub const HISTORY_RUNS: usize = 50;

/// Events kept per stack.
const EVENTS_MAX: usize = 500;

/// Requests of one stack that may wait: more means that no leader obeys them.
const REQUESTS_MAX: usize = 100;

/// What a dump says instead of values that are nobody's to read.
const HIDDEN: &str = "(hidden)";

/// Kinds of keys whose values are secret.
const SECRET_WORDS: [&str; 3] = ["env", "secret", "token"];

/// Value of `/request/<stack>/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Version of this record.
    pub v: u32,
    /// `sync`, `pull`, `retry`, `restart`, `rollback`, …
    pub kind: String,
    /// What it is about, where the kind needs it: a node, a tag.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// Where stacks come from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources {
    /// Sources with the mod revision that guards their next change.
    pub sources: BTreeMap<StackName, (Source, i64)>,
    /// Stacks whose source cannot be read: they are not removed ones.
    pub frozen: BTreeMap<StackName, String>,
}

/// A build record and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOnRecord {
    /// Stack.
    pub stack: StackName,
    /// Release.
    pub tag: Tag,
    /// Image.
    pub image: ImageName,
    /// The record.
    pub record: ImageRecord,
}

impl Tables {
    async fn list(&self, prefix: String) -> Result<Vec<KeyValue>> {
        let snapshot = self.read(vec![Selector::Prefix(prefix)]).await?;
        Ok(snapshot.lists.into_iter().flatten().collect())
    }

    fn of(&self, family: Family, stack: Option<&StackName>) -> String {
        match stack {
            Some(stack) => self.keys.family_of(family, stack.as_str()),
            None => self.keys.family(family),
        }
    }

    /// Where all stacks come from.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn sources(&self) -> Result<Sources> {
        let mut sources = Sources::default();
        for kv in self.list(self.keys.family(Family::Stack)).await? {
            let Ok(Key::Stack(stack)) = self.keys.parse(&kv.key) else {
                continue; // `world` reports it
            };
            match decode(&kv) {
                Ok(source) => drop(sources.sources.insert(stack, (source, kv.mod_revision))),
                Err(reason) => drop(sources.frozen.insert(stack, reason)),
            }
        }
        Ok(sources)
    }

    /// Says where a stack comes from; `expected_mod_revision` is 0 for a new one.
    ///
    /// # Errors
    /// When the store has no answer.
    pub async fn put_source(
        &self,
        stack: &StackName,
        source: &Source,
        expected_mod_revision: i64,
    ) -> Result<Outcome> {
        let key = self.keys.text(&Key::Stack(stack.clone()));
        let as_read = Compare::ModRevision(key.clone(), expected_mod_revision);
        self.guarded(vec![as_read], vec![Op::put(key, encode(source))])
            .await
    }

    /// Takes a stack's source away: the leader then stops what it runs. Whether it was there.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn remove_source(&self, stack: &StackName) -> Result<bool> {
        let key = self.keys.text(&Key::Stack(stack.clone()));
        let snapshot = self.read(vec![Selector::Key(key.clone())]).await?;
        let there = snapshot.lists.iter().any(|list| !list.is_empty());
        if there {
            self.guarded(Vec::new(), vec![Op::delete(key)]).await?;
        }
        Ok(there)
    }

    /// Machines people count on, with the mod revision that guards the next change of each.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn members(&self) -> Result<BTreeMap<HostName, (Member, i64)>> {
        let kvs = self.list(self.keys.family(Family::Member)).await?;
        let member = |kv: &KeyValue| match self.keys.parse(&kv.key) {
            Ok(Key::Member(host)) => Some((host, (readable(kv)?, kv.mod_revision))),
            _ => None,
        };
        Ok(kvs.iter().filter_map(member).collect())
    }

    /// Changes what people decided about a host.
    ///
    /// # Errors
    /// When the store has no answer.
    pub async fn put_member(
        &self,
        host: &HostName,
        member: &Member,
        expected_mod_revision: i64,
    ) -> Result<Outcome> {
        let key = self.keys.text(&Key::Member(host.clone()));
        let as_read = Compare::ModRevision(key.clone(), expected_mod_revision);
        self.guarded(vec![as_read], vec![Op::put(key, encode(member))])
            .await
    }

    /// Counts no longer on a machine; when it comes back, it joins as a new one.
    ///
    /// # Errors
    /// When the store has no answer.
    pub async fn forget_member(&self, host: &HostName) -> Result<()> {
        let key = self.keys.text(&Key::Member(host.clone()));
        self.guarded(Vec::new(), vec![Op::delete(key)]).await?;
        Ok(())
    }

    /// Who leads now; `None` while nobody does.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn leader(&self) -> Result<Option<HostName>> {
        let snapshot = self.read(vec![self.key(&Key::Leader)]).await?;
        let kv = snapshot.lists.into_iter().flatten().next();
        let name = kv.and_then(|kv| String::from_utf8(kv.value).ok());
        Ok(name.and_then(|name| HostName::parse(&name).ok()))
    }

    /// Asks the leader for something; returns the request's id.
    ///
    /// # Errors
    /// [`super::Error::Refused`] when too many requests wait.
    pub async fn request(&self, stack: &StackName, request: &Request) -> Result<String> {
        let waiting = self
            .list(self.of(Family::Request, Some(stack)))
            .await?
            .len();
        if waiting >= REQUESTS_MAX {
            return refuse(format!(
                "{waiting} requests for {stack} wait for a leader already"
            ));
        }
        let id = format!("{:013}-{}", request.at_ms, uuid::Uuid::new_v4().simple());
        let key = self.keys.text(&Key::Request(stack.clone(), id.clone()));
        let absent = Compare::CreateRevision(key.clone(), 0);
        self.guarded(vec![absent], vec![Op::put(key, encode(request))])
            .await?;
        Ok(id)
    }

    /// What people asked for and the leader has not done, oldest first: stack, id, request.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn requests(&self) -> Result<Vec<(StackName, String, Request)>> {
        let kvs = self.list(self.keys.family(Family::Request)).await?;
        let mut requests: Vec<_> = kvs
            .iter()
            .filter_map(|kv| match self.keys.parse(&kv.key) {
                Ok(Key::Request(stack, id)) => Some((stack, id, readable(kv)?)),
                _ => None,
            })
            .collect();
        requests.sort_by(|a: &(_, _, Request), b| (a.2.at_ms, &a.1).cmp(&(b.2.at_ms, &b.1)));
        Ok(requests)
    }

    /// How a stack's runs ended, newest first.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn history(&self, stack: &StackName) -> Result<Vec<RunRecord>> {
        let mut kvs = self.list(self.of(Family::History, Some(stack))).await?;
        kvs.sort_by_key(|kv| std::cmp::Reverse(kv.mod_revision));
        Ok(kvs.iter().filter_map(readable).collect())
    }

    /// What happened, oldest first, to one stack or to all.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn events(&self, stack: Option<&StackName>) -> Result<Vec<(StackName, EventRecord)>> {
        let mut kvs = self.list(self.of(Family::Event, stack)).await?;
        kvs.sort_by_key(|kv| kv.mod_revision);
        let event = |kv: &KeyValue| match self.keys.parse(&kv.key) {
            Ok(Key::Event(stack, _)) => Some((stack, readable(kv)?)),
            _ => None,
        };
        Ok(kvs.iter().filter_map(event).collect())
    }

    /// What was placed for a run and is still on record, oldest first, as a run's end keeps it.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn placed_in(&self, stack: &StackName, run: &RunId) -> Result<Vec<Start>> {
        let events = self.events(Some(stack)).await?;
        let placed = events.into_iter().flat_map(|(_, event)| event.placed);
        Ok(bounded(placed.filter(|start| start.run == *run).collect()))
    }

    /// Build records, of one stack or of all.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn images(&self, stack: Option<&StackName>) -> Result<Vec<ImageOnRecord>> {
        let kvs = self.list(self.of(Family::Image, stack)).await?;
        let image = |kv: &KeyValue| match self.keys.parse(&kv.key) {
            Ok(Key::Image(stack, tag, image)) => Some(ImageOnRecord {
                stack,
                tag,
                image,
                record: readable(kv)?,
            }),
            _ => None,
        };
        Ok(kvs.iter().filter_map(image).collect())
    }

    /// Every key with its value, but for secret values.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn dump(&self) -> Result<Vec<(String, String)>> {
        let show = |kv: KeyValue| {
            let secret = SECRET_WORDS.contains(&self.keys.word(&kv.key));
            let value = if secret {
                HIDDEN.to_owned()
            } else {
                String::from_utf8_lossy(&kv.value).into_owned()
            };
            (kv.key, value)
        };
        Ok(self
            .list(self.keys.all())
            .await?
            .into_iter()
            .map(show)
            .collect())
    }

    /// Deletes the oldest history and events beyond what is kept. Runs that people can go back to stay
    /// however many failed or restarted something since, and the event that says why a job runs where
    /// it does as long as the job does.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn trim(&self, leadership: &Leadership) -> Result<Outcome> {
        let past = self.past(Family::History).await?;
        let mut old: Vec<String> = past.into_iter().flat_map(old_runs).collect();
        let past = self.past(Family::Event).await?.into_iter();
        let events = past.flat_map(|past| past.into_iter().skip(EVENTS_MAX));
        let events: Vec<String> = events.map(|kv| kv.key).collect();
        if !events.is_empty() {
            let whys = self.whys().await?;
            old.extend(events.into_iter().filter(|key| !whys.contains(key)));
        }
        let units = old
            .into_iter()
            .map(|key| Unit::new(Vec::new(), vec![Op::delete(key)]));
        self.lead(leadership, units.collect()).await
    }

    /// What is on record of each stack's past, newest first.
    async fn past(&self, family: Family) -> Result<Vec<Vec<KeyValue>>> {
        let mut stacks: BTreeMap<StackName, Vec<KeyValue>> = BTreeMap::new();
        for kv in self.list(self.keys.family(family)).await? {
            if let Ok(Key::History(stack, _) | Key::Event(stack, _)) = self.keys.parse(&kv.key) {
                stacks.entry(stack).or_default().push(kv);
            }
        }
        let mut all: Vec<Vec<KeyValue>> = stacks.into_values().collect();
        for past in &mut all {
            past.sort_by(|a, b| (b.mod_revision, &b.key).cmp(&(a.mod_revision, &a.key)));
        }
        Ok(all)
    }

    /// Keys of the events that say why jobs run where they do: the newest of each job placed now.
    async fn whys(&self) -> Result<BTreeSet<String>> {
        let runs = self.list(self.keys.family(Family::Run)).await?;
        let placed = runs.iter().filter_map(|kv| match self.keys.parse(&kv.key) {
            Ok(Key::Run(job)) => Some(job),
            _ => None,
        });
        let placed: BTreeSet<JobKey> = placed.collect();
        let mut events = self.list(self.keys.family(Family::Event)).await?;
        events.sort_by_key(|kv| kv.mod_revision);
        let mut newest: BTreeMap<JobKey, &str> = BTreeMap::new();
        for kv in &events {
            let told = readable::<EventRecord>(kv).map_or_else(Vec::new, |event| event.placed);
            let told = told.into_iter().map(|start| start.job);
            // A later one of a job takes the place of an earlier one.
            newest.extend(
                told.filter(|job| placed.contains(job))
                    .map(|job| (job, kv.key.as_str())),
            );
        }
        Ok(newest.into_values().map(str::to_owned).collect())
    }
}

/// Keys of a stack's runs, newest first, that are not kept.
fn old_runs(runs: Vec<KeyValue>) -> Vec<String> {
    if runs.len() <= HISTORY_RUNS {
        return Vec::new();
    }
    let mut lived = 0;
    let mut old = Vec::new();
    for (n, kv) in runs.into_iter().enumerate() {
        let is_new_live = readable::<RunRecord>(&kv).is_some_and(|run| run.is_new_live());
        lived += usize::from(is_new_live);
        let kept = n < HISTORY_RUNS || (is_new_live && lived <= KEPT_LIVE);
        old.extend((!kept).then_some(kv.key));
    }
    old
}

/// The record, or nothing after saying so: one odd record must not hide the others.
fn readable<T: serde::de::DeserializeOwned>(kv: &KeyValue) -> Option<T> {
    decode(kv)
        .map_err(|reason| tracing::warn!(key = kv.key, "left out: {reason}"))
        .ok()
}
