//! Shared variables: set and unset by people, their values read by hosts, what nobody names any more
//! forgotten by the leader. A version is written once and its number given once, also after the
//! variable was unset: the highest number stays on record when its value goes. Never tells a value to
//! anybody but a worker, and never writes one anywhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use super::write::{Outcome, Unit, refuse};
use super::{Result, Tables, decode, encode};
use crate::model::env::{SecretValue, SharedVar, ValueRecord, VarRecord, VarRef, Variables};
use crate::store::election::Leadership;
use crate::store::keys::{Family, Key};
use crate::store::{Compare, Op, Selector};

/// Variables of one scope, those included whose number is all that is left.
const PER_SCOPE_MAX: usize = 500;

/// Variables of all scopes: each is part of every world.
const ALL_MAX: usize = 5_000;

/// Versions of one variable on record. Each stack that names it keeps a few for going back; more than
/// this means that it was set again and again within minutes.
const VERSIONS_MAX: usize = 1_000;

/// Tries of a change that others change too.
const TRIES: u32 = 5;

/// Numbers left out when the store was put back from a copy since the variable was set: containers may
/// run with versions that the copy does not have.
const RESTORED_AHEAD: u64 = 1_000;

/// A variable as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub var: VarRef,
    /// The current version.
    pub version: u64,
    /// When it was set, Unix milliseconds.
    pub at_ms: u64,
}

/// Takes down what a key says of a variable; other keys say nothing.
pub(super) fn note_variable(env: &mut Variables, key: Key) {
    match key {
        Key::Var(var) => env.entry(var).or_default().set = true,
        Key::VarValue(value) => {
            let index = env.entry(value.var()).or_default();
            index.versions.insert(value.version);
        }
        _ => {}
    }
}

impl Tables {
    fn names(&self) -> Selector {
        Selector::Names(self.keys.family(Family::Env))
    }

    fn pointer(&self, var: &VarRef) -> String {
        self.keys.text(&Key::Var(var.clone()))
    }

    fn value(&self, at: SharedVar) -> String {
        self.keys.text(&Key::VarValue(at))
    }

    /// Every variable that is set, by name.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn variables(&self) -> Result<Vec<Variable>> {
        let snapshot = self.read(vec![self.names()]).await?;
        let pointers = snapshot.lists.into_iter().flatten().filter_map(|kv| {
            let parsed = self.keys.parse(&kv.key);
            matches!(parsed, Ok(Key::Var(_))).then_some(kv.key)
        });
        let read = self.read_keys(pointers).await?;
        let mut variables = Vec::new();
        for kv in read.values() {
            let Ok(Key::Var(var)) = self.keys.parse(&kv.key) else {
                continue;
            };
            match decode::<VarRecord>(kv) {
                Ok(VarRecord { version, at_ms, .. }) => variables.push(Variable {
                    var,
                    version,
                    at_ms,
                }),
                Err(reason) => tracing::warn!(key = kv.key, "left out: {reason}"),
            }
        }
        variables.sort_by(|a, b| a.var.cmp(&b.var));
        Ok(variables)
    }

    /// Gives a variable another value, under a version of its own, which it answers.
    ///
    /// # Errors
    /// [`super::Error::Refused`] when there are too many of them already, or others change it all the
    /// time; when the store has no answer, or none that counts.
    pub async fn set_variable(
        &self,
        var: &VarRef,
        value: &SecretValue,
        now_ms: u64,
    ) -> Result<u64> {
        let pointer = self.pointer(var);
        for _ in 0..TRIES {
            let selectors = vec![self.names(), Selector::Key(pointer.clone())];
            let mut lists = self.read(selectors).await?.lists.into_iter();
            let mut env = Variables::new();
            for kv in lists.next().into_iter().flatten() {
                if let Ok(key) = self.keys.parse(&kv.key) {
                    note_variable(&mut env, key);
                }
            }
            has_room(&env, var)?;
            let before = lists.next().into_iter().flatten().next();
            let revision = before.as_ref().map_or(0, |kv| kv.mod_revision);
            let record = before.and_then(|kv| decode::<VarRecord>(&kv).ok());
            let version = self.next_version(&env, var, record.as_ref());
            let key = self.value(var.at(version));
            let record = VarRecord {
                v: 1,
                version,
                at_ms: now_ms,
                base: self.base.load(Ordering::Acquire),
            };
            let compares = vec![
                Compare::ModRevision(pointer.clone(), revision),
                Compare::CreateRevision(key.clone(), 0),
            ];
            let value = Some(value.clone());
            let ops = vec![
                Op::put(key, encode(&ValueRecord { v: 1, value })),
                Op::put(pointer.clone(), encode(&record)),
            ];
            if let Outcome::Done(_) = self.guarded(compares, ops).await? {
                return Ok(version);
            }
        }
        refuse(format!(
            "{var} was changed by others {TRIES} times in a row"
        ))
    }

    /// A number above all that were given.
    fn next_version(&self, env: &Variables, var: &VarRef, record: Option<&VarRecord>) -> u64 {
        let on_record = env.get(var).and_then(|index| index.versions.last());
        let last = on_record.copied().unwrap_or(0);
        let last = last.max(record.map_or(0, |record| record.version));
        let base = self.base.load(Ordering::Acquire);
        let same_store = record.map_or(base == 0, |record| record.base == base);
        last + if same_store { 1 } else { RESTORED_AHEAD }
    }

    /// A variable has no value any more that a new release could name; whether it had one. Values stay
    /// until no record names them.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn unset_variable(&self, var: &VarRef) -> Result<bool> {
        let pointer = self.pointer(var);
        for _ in 0..TRIES {
            let read = self.read_keys([pointer.clone()].into_iter()).await?;
            let Some(kv) = read.get(&pointer) else {
                return Ok(false);
            };
            let as_read = Compare::ModRevision(pointer.clone(), kv.mod_revision);
            let gone = vec![Op::delete(pointer.clone())];
            if let Outcome::Done(_) = self.guarded(vec![as_read], gone).await? {
                return Ok(true);
            }
        }
        refuse(format!(
            "{var} was changed by others {TRIES} times in a row"
        ))
    }

    /// The values of exactly these versions, as far as they are on record.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn secrets(
        &self,
        wanted: &BTreeSet<SharedVar>,
    ) -> Result<BTreeMap<SharedVar, SecretValue>> {
        let keys = wanted.iter().map(|at| self.value(at.clone()));
        let read = self.read_keys(keys).await?;
        let value = |at: &SharedVar| {
            let kv = read.get(&self.value(at.clone()))?;
            match decode::<ValueRecord>(kv) {
                Ok(record) => record.value,
                Err(reason) => {
                    tracing::warn!(key = kv.key, "left out: {reason}");
                    None
                }
            }
        };
        let found = wanted
            .iter()
            .filter_map(|at| Some((at.clone(), value(at)?)));
        Ok(found.collect())
    }

    /// Forgets values; of what is the highest version of a variable the number stays.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn forget_values(
        &self,
        leadership: &Leadership,
        env: &Variables,
        forgotten: &BTreeSet<SharedVar>,
    ) -> Result<Outcome> {
        let highest = |at: &SharedVar| {
            let index = env.get(&at.var());
            index.and_then(|index| index.versions.last()) == Some(&at.version)
        };
        let last: BTreeSet<SharedVar> =
            forgotten.iter().filter(|at| highest(at)).cloned().collect();
        let full = self.secrets(&last).await?;
        let units = forgotten.iter().filter_map(|at| {
            let key = self.value(at.clone());
            let op = match (last.contains(at), full.contains_key(at)) {
                (false, _) => Op::delete(key),
                (true, true) => Op::put(key, encode(&ValueRecord { v: 1, value: None })),
                // Nothing but the number is left already.
                (true, false) => return None,
            };
            Some(Unit::new(Vec::new(), vec![op]))
        });
        let units: Vec<Unit> = units.collect();
        self.lead(leadership, units).await
    }
}

fn has_room(env: &Variables, var: &VarRef) -> Result<()> {
    if let Some(index) = env.get(var) {
        let count = index.versions.len();
        if count >= VERSIONS_MAX {
            return refuse(format!(
                "{count} versions of {var} are on record; those that no release names any more are \
                 forgotten within minutes: wait for that"
            ));
        }
        return Ok(());
    }
    let (all, scope) = (env.len(), &var.scope);
    let here = env.keys().filter(|other| other.scope == *scope).count();
    if here >= PER_SCOPE_MAX {
        return refuse(format!(
            "scope {scope} has {here} variables, the unset ones counted: take another scope"
        ));
    }
    if all >= ALL_MAX {
        return refuse(format!("there are {all} shared variables already"));
    }
    Ok(())
}
