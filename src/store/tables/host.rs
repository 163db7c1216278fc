//! What hosts write: their registration, that they are alive, and what they see of their jobs.
//! A put about a job compares the instance it is about; records that must die with the host are
//! under its lease.

use std::collections::{BTreeMap, BTreeSet};

use super::write::{Outcome, Unit, refuse};
use super::{Error, Result, Tables, decode, encode};
use crate::model::endpoint::Endpoint;
use crate::model::history::EventRecord;
use crate::model::host::{HostRecord, Member};
use crate::model::job::{CounterRecord, Instance, JobId, JobKey, StateRecord};
use crate::model::names::{HostName, StackName};
use crate::model::release::RunId;
use crate::store::keys::{Family, Key, Keys};
use crate::store::{Compare, KeyValue, LeaseId, Op, Selector, Txn};

/// Something a host saw.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// Where a job is; none when its container is gone.
    State(JobKey, Option<StateRecord>),
    /// Its failures in a row; none when they are forgotten.
    Counter(JobKey, Option<CounterRecord>),
    /// Its container was started under this name.
    Started(JobKey, Instance, String),
    /// Exactly these endpoints answer for it now.
    Ports(JobKey, Instance, Vec<Endpoint>),
}

/// What became of a report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    /// Jobs whose placement is not the reported one any more: nothing was written for them.
    pub stale: Vec<JobKey>,
}

/// Tries when somebody else writes the same record meanwhile.
const TRIES: usize = 4;

/// What is on record, followed while the writes are put together.
struct OnRecord(BTreeMap<String, (Vec<u8>, LeaseId)>);

impl OnRecord {
    fn put(&mut self, key: String, value: Vec<u8>, lease: LeaseId) -> Option<Op> {
        let new = (value, lease);
        if self.0.get(&key) == Some(&new) {
            return None;
        }
        self.0.insert(key.clone(), new.clone());
        let (value, lease) = new;
        Some(Op::Put { key, value, lease })
    }

    fn delete(&mut self, key: String) -> Option<Op> {
        self.0.remove(&key).map(|_| Op::Delete { key })
    }
}

impl Tables {
    /// Registers a machine under its name. A machine that is on record keeps what people decided
    /// about it; capacity and tags are its own to say. Returns what is on record now.
    ///
    /// # Errors
    /// [`Error::Refused`] when another machine has the name.
    pub async fn register_member(&self, host: &HostName, member: &Member) -> Result<Member> {
        let key = self.keys.text(&Key::Member(host.clone()));
        for _ in 0..TRIES {
            let snapshot = self.read(vec![Selector::Key(key.clone())]).await?;
            let before = snapshot.lists.first().and_then(|list| list.first());
            let wanted = merge_member(host, before, member)?;
            let value = encode(&wanted);
            if before.is_some_and(|kv| kv.value == value) {
                return Ok(wanted);
            }
            let as_read = Compare::ModRevision(key.clone(), before.map_or(0, |kv| kv.mod_revision));
            let written = self
                .guarded(vec![as_read], vec![Op::put(key.clone(), value)])
                .await?;
            if let Outcome::Done(_) = written {
                return Ok(wanted);
            }
        }
        refuse(format!("{host} is being changed by others all the time"))
    }

    /// Says that the host is alive; writes only what is new, keep-alives of the lease do the rest.
    ///
    /// # Errors
    /// A lease that has ended: get another, announce again.
    pub async fn announce(
        &self,
        host: &HostName,
        record: &HostRecord,
        lease: LeaseId,
    ) -> Result<()> {
        let key = self.keys.text(&Key::Host(host.clone()));
        let snapshot = self.read(vec![Selector::Key(key.clone())]).await?;
        let value = encode(record);
        let same = |kv: &KeyValue| kv.value == value && kv.lease == lease;
        if snapshot.lists.iter().flatten().any(same) {
            return Ok(());
        }
        let ops = vec![Op::Put { key, value, lease }];
        let compares = Vec::new();
        self.commit(Txn { compares, ops }).await?;
        Ok(())
    }

    /// Whether the router of any host that is alive still has requests at a copy that no route leads to.
    /// A host whose record cannot be read says nothing of it.
    ///
    /// # Errors
    /// The store's.
    pub async fn has_requests(&self, copy: &JobId) -> Result<bool> {
        let hosts = Selector::Prefix(self.keys.family(Family::Host));
        let snapshot = self.read(vec![hosts]).await?;
        let mut records = snapshot.lists.iter().flatten();
        Ok(records.any(|kv| {
            let record = decode::<HostRecord>(kv);
            record.is_ok_and(|record| record.draining.contains(copy))
        }))
    }

    /// Writes down what a host saw. What is on record already is not written again.
    ///
    /// # Errors
    /// A lease that has ended: get another, report everything again.
    pub async fn report(
        &self,
        host: &HostName,
        lease: LeaseId,
        reports: &[Report],
    ) -> Result<Reported> {
        let selectors: BTreeSet<String> = reports.iter().map(|r| self.selector(host, r)).collect();
        let select = |text: String| {
            if text.ends_with('/') {
                Selector::Prefix(text)
            } else {
                Selector::Key(text)
            }
        };
        let snapshot = self
            .read(selectors.into_iter().map(select).collect())
            .await?;
        let kvs = snapshot.lists.into_iter().flatten();
        let mut on_record = OnRecord(kvs.map(|kv| (kv.key, (kv.value, kv.lease))).collect());
        let mut units = Vec::new();
        for report in reports {
            self.report_units(host, lease, report, &mut on_record, &mut units);
        }
        let stale = self.each(units).await?;
        Ok(Reported { stale })
    }

    /// The key a report is about, or the start of its keys.
    fn selector(&self, host: &HostName, report: &Report) -> String {
        match report {
            Report::State(job, _) => self.keys.text(&Key::State(host.clone(), job.clone())),
            Report::Counter(job, _) => self.keys.text(&Key::Counter(host.clone(), job.clone())),
            Report::Started(job, ..) => self.keys.text(&Key::Deploy(host.clone(), job.clone())),
            Report::Ports(job, ..) => self.keys.ports_of(job),
        }
    }

    fn report_units(
        &self,
        host: &HostName,
        lease: LeaseId,
        report: &Report,
        on_record: &mut OnRecord,
        units: &mut Vec<Unit>,
    ) {
        let key = self.selector(host, report);
        let (job, instance, ops) = match report {
            Report::State(job, Some(state)) => {
                let put = on_record.put(key, encode(state), lease);
                (job, Some(state.instance), put.into_iter().collect())
            }
            Report::Counter(job, Some(counter)) => {
                let put = on_record.put(key, encode(counter), 0);
                (job, Some(counter.instance), put.into_iter().collect())
            }
            Report::State(job, None) | Report::Counter(job, None) => {
                (job, None, on_record.delete(key).into_iter().collect())
            }
            Report::Started(job, instance, container) => {
                let put = on_record.put(key, container.clone().into_bytes(), 0);
                (job, Some(*instance), put.into_iter().collect())
            }
            Report::Ports(job, instance, wanted) => {
                let gone = Unit {
                    job: Some(job.clone()),
                    compares: Vec::new(),
                    ops: stale_ports(&self.keys, job, *instance, wanted, on_record),
                };
                units.extend((!gone.ops.is_empty()).then_some(gone));
                let put = |endpoint: &Endpoint| {
                    let key = self.keys.text(&Key::Port(endpoint.clone()));
                    on_record.put(key, endpoint.address().to_string().into_bytes(), lease)
                };
                (
                    job,
                    Some(*instance),
                    wanted.iter().filter_map(put).collect(),
                )
            }
        };
        let deploy = self.keys.text(&Key::Deploy(host.clone(), job.clone()));
        let guard = instance.map(|Instance(at)| Compare::CreateRevision(deploy, at));
        let unit = Unit {
            job: Some(job.clone()),
            compares: guard.into_iter().collect(),
            ops,
        };
        units.extend((!unit.ops.is_empty()).then_some(unit));
    }

    /// Writes down something that happened to a job of `run` (any run of the stack will do).
    ///
    /// # Errors
    /// When the store has no answer.
    pub async fn event(&self, stack: &StackName, run: &RunId, event: &EventRecord) -> Result<()> {
        for _ in 0..TRIES {
            let op = self.event_op(stack, run, super::event_number(event.at_ms), event);
            let guard = match &op {
                Op::Put { key, .. } => vec![Compare::CreateRevision(key.clone(), 0)],
                Op::Delete { .. } | Op::DeletePrefix { .. } => Vec::new(),
            };
            // A conflict needs the same millisecond and the same chance.
            if matches!(self.guarded(guard, vec![op]).await?, Outcome::Done(_)) {
                break;
            }
        }
        Ok(())
    }
}

fn merge_member(host: &HostName, before: Option<&KeyValue>, member: &Member) -> Result<Member> {
    let Some(kv) = before else {
        return Ok(member.clone());
    };
    let on_record: Member = decode(kv).map_err(|reason| {
        Error::Refused(format!("the record of {host} cannot be read: {reason}"))
    })?;
    if on_record.machine_id != member.machine_id {
        return refuse(format!(
            "another machine is called {host} already (its id is {}, this one's {}); \
             give this machine another name, or run `viking hosts forget {host}` if it replaces that one",
            on_record.machine_id, member.machine_id
        ));
    }
    Ok(Member {
        readiness: on_record.readiness,
        joined_ms: on_record.joined_ms,
        ..member.clone()
    })
}

/// Deletes endpoints of a placement that do not answer any more.
fn stale_ports(
    keys: &Keys,
    job: &JobKey,
    instance: Instance,
    wanted: &[Endpoint],
    on_record: &mut OnRecord,
) -> Vec<Op> {
    let id = job.id(instance);
    let stale = |key: &&String| {
        let Ok(Key::Port(endpoint)) = keys.parse(key) else {
            return false;
        };
        endpoint.job_id == id && !wanted.contains(&endpoint)
    };
    let stale: Vec<String> = on_record.0.keys().filter(stale).cloned().collect();
    stale
        .into_iter()
        .filter_map(|key| on_record.delete(key))
        .collect()
}
