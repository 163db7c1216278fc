//! How typed writes become transactions: units that belong together, batches under the store's
//! limits, and the leader's fence. Used only by the other parts of `tables`.

use std::collections::BTreeSet;

use futures_util::stream::{FuturesUnordered, StreamExt as _};

use super::{Error, Result, Tables};
use crate::failpoint;
use crate::model::job::JobKey;
use crate::store::election::Leadership;
use crate::store::{self, Committed, Compare, Op, Selector, TXN_OPS_MAX, Txn};

/// Most operations, and most compares, of a batch: room for the fence below the store's limit.
const BATCH_MAX: usize = TXN_OPS_MAX - 8;

/// Most bytes of a batch: etcd refuses requests above 1.5 MiB.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Batches under way at a time: etcd puts what comes meanwhile to disk together. Measured here, bare
/// transactions of 120 keys: 33 k keys a second one at a time, 58 k four at a time.
const AT_A_TIME: usize = 4;

/// What became of a guarded write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Written; the revision of its last part.
    Done(i64),
    /// Somebody else leads now.
    Deposed,
    /// The world has changed since it was read: read again, decide again. Batches before the one
    /// that met the change are written; each is safe by itself.
    Conflict,
}

/// Compares and operations that must not be torn apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// The job it is about, for who asks which unit failed.
    pub(super) job: Option<JobKey>,
    pub(super) compares: Vec<Compare>,
    pub(super) ops: Vec<Op>,
}

impl Unit {
    pub(super) fn new(compares: Vec<Compare>, ops: Vec<Op>) -> Self {
        Self {
            job: None,
            compares,
            ops,
        }
    }

    fn bytes(&self) -> usize {
        let bytes = |op: &Op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key } | Op::DeletePrefix { prefix: key } => key.len(),
        };
        self.ops.iter().map(bytes).sum()
    }

    fn written(&self) -> impl Iterator<Item = &str> {
        self.ops.iter().map(|op| match op {
            Op::Put { key, .. } | Op::Delete { key } | Op::DeletePrefix { prefix: key } => {
                key.as_str()
            }
        })
    }
}

/// Units in their order, in as few batches as the limits allow; no key twice in a batch.
pub(super) fn batches(units: Vec<Unit>) -> Vec<Vec<Unit>> {
    let mut batches: Vec<Vec<Unit>> = Vec::new();
    let (mut ops, mut compares, mut bytes) = (0, 0, 0);
    let mut written: BTreeSet<String> = BTreeSet::new();
    for unit in units {
        let full = ops + unit.ops.len() > BATCH_MAX
            || compares + unit.compares.len() > BATCH_MAX
            || bytes + unit.bytes() > BATCH_BYTES_MAX
            || unit.written().any(|key| written.contains(key));
        if full || batches.is_empty() {
            (ops, compares, bytes) = (0, 0, 0);
            written.clear();
            batches.push(Vec::new());
        }
        ops += unit.ops.len();
        compares += unit.compares.len();
        bytes += unit.bytes();
        written.extend(unit.written().map(str::to_owned));
        if let Some(batch) = batches.last_mut() {
            batch.push(unit);
        }
    }
    batches
}

/// Whether no key is written by two of them, so that their order does not matter.
fn apart(batches: &[Vec<Unit>]) -> bool {
    let mut all = BTreeSet::new();
    let mut written = batches.iter().flatten().flat_map(Unit::written);
    written.all(|key| all.insert(key))
}

/// One transaction of a batch.
pub(super) fn transaction(batch: &[Unit]) -> Txn {
    Txn {
        compares: batch
            .iter()
            .flat_map(|unit| unit.compares.clone())
            .collect(),
        ops: batch.iter().flat_map(|unit| unit.ops.clone()).collect(),
    }
}

impl Tables {
    /// Writes as the leader, batch after batch, until one is refused.
    pub(super) async fn lead(&self, leadership: &Leadership, units: Vec<Unit>) -> Result<Outcome> {
        let mut done = self.seen();
        for (n, batch) in batches(units).into_iter().enumerate() {
            failpoint::hit("store-before-batch");
            if n > 0 {
                failpoint::hit("stage.half");
            }
            let mut txn = transaction(&batch);
            txn.compares.push(leadership.fence());
            match self.commit(txn).await? {
                Committed::Done(revision) => done = revision,
                Committed::Conflict => return self.why_refused(leadership).await,
            }
            failpoint::hit("store-after-batch");
        }
        Ok(Outcome::Done(done))
    }

    /// Writes as the leader, step after step: what is in one step does not care which of it comes
    /// first, but each step needs the one before. What fits into one transaction is one.
    pub(super) async fn lead_steps(
        &self,
        leadership: &Leadership,
        steps: Vec<Vec<Unit>>,
    ) -> Result<Outcome> {
        let all = batches(steps.concat());
        if all.len() <= 1 || !apart(&all) {
            return self.lead(leadership, all.concat()).await;
        }
        let mut outcome = Outcome::Done(self.seen());
        for step in steps {
            outcome = self.lead_at_once(leadership, batches(step)).await?;
            if !matches!(outcome, Outcome::Done(_)) {
                break;
            }
        }
        Ok(outcome)
    }

    /// Writes several batches at a time, until one is refused. Those under way then are waited for.
    async fn lead_at_once(
        &self,
        leadership: &Leadership,
        batches: Vec<Vec<Unit>>,
    ) -> Result<Outcome> {
        let write = |batch: Vec<Unit>| {
            failpoint::hit("store-before-batch");
            let mut txn = transaction(&batch);
            txn.compares.push(leadership.fence());
            self.commit(txn)
        };
        let mut waiting = batches.into_iter();
        let mut under_way: FuturesUnordered<_> =
            waiting.by_ref().take(AT_A_TIME).map(write).collect();
        let mut done = self.seen();
        let mut refused = None;
        while let Some(committed) = under_way.next().await {
            match committed {
                Ok(Committed::Done(revision)) => done = done.max(revision),
                Ok(Committed::Conflict) => refused = refused.or(Some(Ok(()))),
                Err(error) => refused = Some(Err(error)),
            }
            failpoint::hit("store-after-batch");
            if refused.is_none() {
                under_way.extend(waiting.next().map(write));
            }
        }
        match refused {
            None => Ok(Outcome::Done(done)),
            Some(Ok(())) => self.why_refused(leadership).await,
            Some(Err(error)) => Err(error),
        }
    }

    async fn why_refused(&self, leadership: &Leadership) -> Result<Outcome> {
        let key = Selector::Key(leadership.key().to_owned());
        let snapshot = self.read(vec![key]).await?;
        let holder = snapshot.lists.first().and_then(|list| list.first());
        Ok(match holder {
            Some(kv) if kv.create_revision == leadership.create_revision() => Outcome::Conflict,
            _ => Outcome::Deposed,
        })
    }

    /// Writes one guarded transaction that is not the leader's.
    pub(super) async fn guarded(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Outcome> {
        Ok(match self.commit(Txn { compares, ops }).await? {
            Committed::Done(revision) => Outcome::Done(revision),
            Committed::Conflict => Outcome::Conflict,
        })
    }

    /// Writes units that are guarded one by one: those whose guard fails are left out and named. One
    /// that the store never takes, as for its size, is left out too: it must not hold up the others.
    pub(super) async fn each(&self, units: Vec<Unit>) -> Result<Vec<JobKey>> {
        let mut refused = BTreeSet::new();
        for batch in batches(units) {
            if let Some(Committed::Done(_)) = self.taken(&batch).await? {
                continue;
            }
            for unit in batch {
                match self.taken(std::slice::from_ref(&unit)).await? {
                    Some(Committed::Done(_)) | None => {}
                    Some(Committed::Conflict) => refused.extend(unit.job),
                }
            }
        }
        Ok(refused.into_iter().collect())
    }

    /// What became of one batch; `None` when the store says that it will never take it.
    async fn taken(&self, batch: &[Unit]) -> Result<Option<Committed>> {
        match self.commit(transaction(batch)).await {
            Ok(committed) => Ok(Some(committed)),
            Err(Error::Store(store::Error::Refused(reason))) => {
                let jobs: Vec<String> = batch
                    .iter()
                    .flat_map(|u| &u.job)
                    .map(JobKey::short)
                    .collect();
                tracing::warn!(jobs = jobs.join(","), "not written: {reason}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// What was asked for is not possible.
pub(super) fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Refused(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(key: &str, bytes: usize) -> Unit {
        Unit::new(
            vec![Compare::CreateRevision(key.into(), 0)],
            vec![Op::put(key, vec![0; bytes])],
        )
    }

    #[test]
    fn batches_keep_order_and_stay_below_the_limits() {
        let units: Vec<Unit> = (0..500).map(|n| unit(&format!("{n:04}"), 1)).collect();
        let made = batches(units.clone());
        assert!(made.iter().all(|batch| batch.len() <= BATCH_MAX));
        assert_eq!(made.concat(), units);
        let heavy = (0..4)
            .map(|n| unit(&n.to_string(), BATCH_BYTES_MAX / 2))
            .collect();
        assert!(batches(heavy).len() > 1);
    }

    #[test]
    fn a_key_is_written_once_per_batch() {
        assert_eq!(batches(vec![unit("a", 1), unit("a", 2)]).len(), 2);
    }
}
