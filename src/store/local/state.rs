//! The embedded store's state and its rules, as a value: what a transaction does to keys, history
//! and leases. Used by `local`; never does I/O, knows no clock and no threads.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::store::{
    Committed, Compare, Error, Event, KeyValue, LeaseId, Op, Result, Selector, Snapshot, Txn,
    Watched, check,
};

/// Revisions kept for watches that resume. A loop lists again after 15 s, so this is hours of a
/// quiet cluster and minutes of the busiest one.
pub(super) const HISTORY_REVISIONS: usize = 10_000;

/// Compaction waits until this many revisions are too old, so that it is rare and cheap.
const HISTORY_SLACK: usize = 500;

/// Most bytes of values kept as history, whatever the number of revisions: it is held in memory.
const HISTORY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most events handed to a watch at once; the rest follows when it took these.
const WATCH_BATCH_EVENTS: usize = 512;

/// One change of one key; shares its value with the map of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) key: String,
    pub(super) value: Option<Arc<KeyValue>>,
}

impl Past {
    fn event(&self, revision: i64) -> Event {
        Event {
            key: self.key.clone(),
            value: self.value.as_deref().cloned(),
            revision,
        }
    }

    fn bytes(&self) -> usize {
        let value = self.value.as_ref().map_or(0, |kv| kv.value.len());
        self.key.len() + value + 64
    }
}

/// What happened, decided and not yet done: the unit that is written to disk and shown to readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Keys changed at a revision.
    Keys(i64, Arc<Vec<Past>>),
    /// A lease began.
    Grant(LeaseId, Duration),
    /// A lease ended; its keys went in a `Keys` before.
    EndLease(LeaseId),
    /// History up to and with this revision is forgotten.
    Compact(i64),
}

/// What a request comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Committed(Committed),
    Granted(LeaseId),
    Ended,
    Compacted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) ttl: Duration,
    pub(super) keys: BTreeSet<String>,
}

/// Everything the store knows.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) last_lease: LeaseId,
    pub(super) keys: BTreeMap<String, Arc<KeyValue>>,
    pub(super) leases: BTreeMap<LeaseId, Lease>,
    history: BTreeMap<i64, Arc<Vec<Past>>>,
    history_bytes: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            revision: 1, // as an empty etcd
            compacted: 0,
            last_lease: 0,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            history: BTreeMap::new(),
            history_bytes: 0,
        }
    }
}

impl State {
    /// Reads several selections.
    pub(super) fn range(&self, selectors: &[Selector]) -> Snapshot {
        let lists = selectors.iter().map(|selector| match selector {
            Selector::Key(key) => self
                .keys
                .get(key)
                .map(|kv| (**kv).clone())
                .into_iter()
                .collect(),
            Selector::Prefix(prefix) => self.below(prefix).map(|kv| (**kv).clone()).collect(),
            Selector::Names(prefix) => self.below(prefix).map(|kv| without_value(kv)).collect(),
        });
        Snapshot {
            revision: self.revision,
            lists: lists.collect(),
        }
    }

    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<KeyValue>> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.keys
            .range::<str, _>(from)
            .map(|(_, kv)| kv)
            .take_while(move |kv| kv.key.starts_with(prefix))
    }

    /// What a transaction comes to. Nothing is done yet.
    pub(super) fn commit(&self, txn: &Txn) -> Result<(Answer, Vec<Change>)> {
        check::transaction(txn)?;
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return Ok((Answer::Committed(Committed::Conflict), Vec::new()));
        }
        let revision = self.revision + 1;
        let mut past = Vec::new();
        let mut deleted = BTreeSet::new();
        for op in &txn.ops {
            match op {
                Op::Put { key, value, lease } => past.push(self.put(key, value, *lease, revision)?),
                Op::Delete { key } => self.delete(key, &mut deleted, &mut past),
                Op::DeletePrefix { prefix } => {
                    for kv in self.below(prefix) {
                        self.delete(&kv.key, &mut deleted, &mut past);
                    }
                }
            }
        }
        if past.is_empty() {
            return Ok((
                Answer::Committed(Committed::Done(self.revision)),
                Vec::new(),
            ));
        }
        let changes = vec![Change::Keys(revision, Arc::new(past))];
        Ok((Answer::Committed(Committed::Done(revision)), changes))
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::CreateRevision(key, at) => {
                self.keys.get(key).map_or(0, |kv| kv.create_revision) == *at
            }
            Compare::ModRevision(key, at) => {
                self.keys.get(key).map_or(0, |kv| kv.mod_revision) == *at
            }
        }
    }

    fn put(&self, key: &str, value: &[u8], lease: LeaseId, revision: i64) -> Result<Past> {
        if lease != 0 && !self.leases.contains_key(&lease) {
            return Err(Error::LeaseGone(lease));
        }
        let created = self.keys.get(key).map_or(revision, |kv| kv.create_revision);
        Ok(Past {
            key: key.to_owned(),
            value: Some(Arc::new(KeyValue {
                key: key.to_owned(),
                value: value.to_vec(),
                create_revision: created,
                mod_revision: revision,
                lease,
            })),
        })
    }

    fn delete(&self, key: &str, deleted: &mut BTreeSet<String>, past: &mut Vec<Past>) {
        if self.keys.contains_key(key) && deleted.insert(key.to_owned()) {
            past.push(Past {
                key: key.to_owned(),
                value: None,
            });
        }
    }

    /// A new lease.
    pub(super) fn grant(&self, ttl: Duration) -> Result<(Answer, Vec<Change>)> {
        check::ttl(ttl)?;
        let id = self.last_lease + 1;
        Ok((Answer::Granted(id), vec![Change::Grant(id, ttl)]))
    }

    /// The end of a lease: its keys go at one revision.
    pub(super) fn end_lease(&self, id: LeaseId) -> (Answer, Vec<Change>) {
        let Some(lease) = self.leases.get(&id) else {
            return (Answer::Ended, Vec::new());
        };
        let past: Vec<Past> = lease
            .keys
            .iter()
            .map(|key| Past {
                key: key.clone(),
                value: None,
            })
            .collect();
        let mut changes = Vec::new();
        if !past.is_empty() {
            changes.push(Change::Keys(self.revision + 1, Arc::new(past)));
        }
        changes.push(Change::EndLease(id));
        (Answer::Ended, changes)
    }

    /// Forgets history up to and with `revision`.
    pub(super) fn compact(&self, revision: i64) -> Result<(Answer, Vec<Change>)> {
        if revision > self.revision {
            return Err(Error::Refused(format!(
                "compaction at revision {revision}; the newest is {}",
                self.revision
            )));
        }
        let changes = (revision > self.compacted).then_some(Change::Compact(revision));
        Ok((Answer::Compacted, changes.into_iter().collect()))
    }

    /// The compaction that is due, if any.
    pub(super) fn compaction_due(&self) -> Option<Change> {
        let many = self.history.len() > HISTORY_REVISIONS + HISTORY_SLACK;
        if !many && self.history_bytes <= HISTORY_BYTES_MAX {
            return None;
        }
        // By bytes, half goes at once, for the same reason as the slack.
        let mut bytes = self.history_bytes;
        let mut left = self.history.len();
        let mut last = None;
        for (revision, past) in &self.history {
            if left <= HISTORY_REVISIONS && bytes <= HISTORY_BYTES_MAX / 2 {
                break;
            }
            left -= 1;
            bytes -= past.iter().map(Past::bytes).sum::<usize>();
            last = Some(*revision);
        }
        last.map(Change::Compact)
    }

    /// Does what was decided.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Keys(revision, past) => {
                self.revision = *revision;
                for one in past.iter() {
                    self.apply_one(one);
                }
                self.remember(*revision, Arc::clone(past));
            }
            Change::Grant(id, ttl) => {
                self.last_lease = self.last_lease.max(*id);
                let keys = BTreeSet::new();
                self.leases.insert(*id, Lease { ttl: *ttl, keys });
            }
            Change::EndLease(id) => {
                self.leases.remove(id);
            }
            Change::Compact(revision) => self.forget(*revision),
        }
    }

    fn apply_one(&mut self, one: &Past) {
        let before = match &one.value {
            Some(kv) => self.keys.insert(one.key.clone(), Arc::clone(kv)),
            None => self.keys.remove(&one.key),
        };
        if let Some(lease) = before.and_then(|kv| self.leases.get_mut(&kv.lease)) {
            lease.keys.remove(&one.key);
        }
        let lease = one.value.as_ref().map_or(0, |kv| kv.lease);
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.insert(one.key.clone());
        }
    }

    /// Keeps a revision for watches that resume. Also called while loading from disk.
    pub(super) fn remember(&mut self, revision: i64, past: Arc<Vec<Past>>) {
        self.history_bytes += past.iter().map(Past::bytes).sum::<usize>();
        self.history.insert(revision, past);
    }

    fn forget(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
        let kept = self.history.split_off(&(revision + 1));
        let gone = std::mem::replace(&mut self.history, kept);
        let bytes: usize = gone
            .values()
            .flat_map(|past| past.iter())
            .map(Past::bytes)
            .sum();
        self.history_bytes -= bytes;
    }

    /// The next thing a watch that has seen everything before `from` is told, and where it goes on;
    /// `None` when there is nothing new.
    pub(super) fn since(&self, prefix: &str, from: &mut i64) -> Option<Watched> {
        if *from <= self.compacted {
            return Some(Watched::Compacted(self.compacted));
        }
        let mut events = Vec::new();
        for (revision, past) in self.history.range(*from..) {
            let below = past.iter().filter(|one| one.key.starts_with(prefix));
            events.extend(below.map(|one| one.event(*revision)));
            *from = revision + 1;
            if events.len() >= WATCH_BATCH_EVENTS {
                break;
            }
        }
        (!events.is_empty()).then_some(Watched::Events(events))
    }
}

/// A key as a reader sees it who asked for names only.
fn without_value(kv: &KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key.clone(),
        value: Vec::new(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        lease: kv.lease,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::VALUE_BYTES_MAX;

    fn done(state: &mut State, txn: &Txn) -> Committed {
        let (answer, changes) = state.commit(txn).unwrap();
        changes.iter().for_each(|change| state.apply(change));
        match answer {
            Answer::Committed(committed) => committed,
            other => panic!("{other:?}"),
        }
    }

    fn put(key: &str, bytes: usize) -> Txn {
        Txn {
            compares: vec![],
            ops: vec![Op::put(key, vec![0; bytes])],
        }
    }

    #[test]
    fn history_is_bounded_by_revisions() {
        let mut state = State::default();
        for _ in 0..=HISTORY_REVISIONS + HISTORY_SLACK {
            done(&mut state, &put("a", 1));
        }
        let change = state.compaction_due().unwrap();
        state.apply(&change);
        assert_eq!(state.history.len(), HISTORY_REVISIONS);
        assert_eq!(state.compaction_due(), None);
    }

    #[test]
    fn history_is_bounded_by_bytes() {
        let mut state = State::default();
        while state.compaction_due().is_none() {
            done(&mut state, &put("a", VALUE_BYTES_MAX));
        }
        let change = state.compaction_due().unwrap();
        state.apply(&change);
        assert!(state.history_bytes <= HISTORY_BYTES_MAX / 2);
        assert!(!state.history.is_empty());
    }

    #[test]
    fn a_key_moves_between_leases() {
        let mut state = State::default();
        for _ in 0..2 {
            let (_, changes) = state.grant(Duration::from_secs(1)).unwrap();
            changes.iter().for_each(|change| state.apply(change));
        }
        for lease in [1, 2] {
            let op = Op::Put {
                key: "k".into(),
                value: vec![],
                lease,
            };
            done(
                &mut state,
                &Txn {
                    compares: vec![],
                    ops: vec![op],
                },
            );
        }
        let (_, changes) = state.end_lease(1);
        changes.iter().for_each(|change| state.apply(change));
        assert!(state.keys.contains_key("k"));
    }
}
