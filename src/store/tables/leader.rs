//! What only the leader writes: releases, pointers, placements, ends of runs. Every transaction
//! carries the fence of a [`Leadership`]; several batches are each safe by themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::write::{Outcome, Unit, refuse};
use super::{Result, Tables, decode, encode};
use crate::model::history::{EventRecord, RunRecord};
use crate::model::host::Member;
use crate::model::job::JobKey;
use crate::model::names::{HostName, ImageName, NodeName, StackName, Tag};
use crate::model::plan::{Flip, Plan, Start, Stop};
use crate::model::release::{ImageRecord, Pointer, Release, RunId};
use crate::model::spec::ContainerSpec;
use crate::model::world::World;
use crate::store::election::Leadership;
use crate::store::keys::{Family, Key};
use crate::store::{Compare, KeyValue, Op, Selector, TXN_OPS_MAX};

/// Most operations that may ride with a pointer's change: history, events, requests obeyed.
const EXTRA_OPS_MAX: usize = TXN_OPS_MAX / 2;

/// Most placements that one event tells of: with it, two of their units fit into a transaction.
const TOLD_TOGETHER_MAX: usize = 28;

/// One record of a release, before it is known whether it is there.
struct Record {
    key: String,
    value: Vec<u8>,
    /// What services run may change under the same key, and then of this node; everything else is
    /// written once.
    static_of: Option<NodeName>,
}

impl Record {
    fn once(key: String, value: Vec<u8>) -> Self {
        let static_of = None;
        Self {
            key,
            value,
            static_of,
        }
    }
}

/// Keys as they were read, by text.
type Read = BTreeMap<String, KeyValue>;

fn revision_of(read: &Read, key: &str) -> i64 {
    read.get(key).map_or(0, |kv| kv.mod_revision)
}

impl Tables {
    pub(super) async fn read_keys(&self, keys: impl Iterator<Item = String>) -> Result<Read> {
        let snapshot = self.read(keys.map(Selector::Key).collect()).await?;
        let all = snapshot.lists.into_iter().flatten();
        Ok(all.map(|kv| (kv.key.clone(), kv)).collect())
    }

    fn pointer_unit(
        &self,
        stack: &StackName,
        pointer: &Pointer,
        expected: i64,
        extra: Vec<Op>,
    ) -> Unit {
        let key = self.keys.text(&Key::Pointer(stack.clone()));
        let compares = vec![Compare::ModRevision(key.clone(), expected)];
        let mut ops = extra;
        ops.push(Op::put(key, encode(pointer)));
        Unit::new(compares, ops)
    }

    /// Changes a stack's pointer, and in the same transaction whatever `extra` says: history,
    /// events, requests obeyed. `expected_mod_revision` is 0 for the first one.
    ///
    /// # Errors
    /// When the store has no answer, or `extra` is too much for one transaction.
    pub async fn set_pointer(
        &self,
        leadership: &Leadership,
        stack: &StackName,
        pointer: &Pointer,
        expected_mod_revision: i64,
        extra: Vec<Op>,
    ) -> Result<Outcome> {
        if extra.len() > EXTRA_OPS_MAX {
            return refuse(format!(
                "{} operations with a change of {stack}",
                extra.len()
            ));
        }
        let unit = self.pointer_unit(stack, pointer, expected_mod_revision, extra);
        self.lead(leadership, vec![unit]).await
    }

    /// TXN 1: records first, the release with the pointer last. `registry` is where every host's
    /// Docker finds ours (`127.0.0.1:5000`). What a crashed attempt left of the same tag is
    /// overwritten; a release on record never is: doing it again must come to the same values.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    #[expect(clippy::too_many_arguments, reason = "a release is all of these")]
    pub async fn stage(
        &self,
        leadership: &Leadership,
        release: &Release,
        procs: &BTreeMap<(NodeName, Tag), ContainerSpec>,
        registry: &str,
        pointer: &Pointer,
        expected_mod_revision: i64,
        extra: Vec<Op>,
    ) -> Result<Outcome> {
        if extra.len() > EXTRA_OPS_MAX {
            return refuse(format!("{} operations with a release", extra.len()));
        }
        let records = self.records(release, procs, registry);
        let key = self
            .keys
            .text(&Key::Release(release.stack.clone(), release.tag.clone()));
        let reused = self.reused(release);
        let all = records.iter().map(|record| record.key.clone());
        let read = self
            .read_keys(all.chain(reused.iter().cloned()).chain([key.clone()]))
            .await?;
        let staged = read.contains_key(&key);
        let Some(mut units) = self.record_units(release, records, &read, staged).await? else {
            return Ok(Outcome::Conflict);
        };
        let mut last = self.pointer_unit(&release.stack, pointer, expected_mod_revision, extra);
        let guard = |key: String| Compare::ModRevision(key.clone(), revision_of(&read, &key));
        last.compares.extend(reused.into_iter().map(guard));
        let value = encode(release);
        if read.get(&key).is_some_and(|kv| kv.value != value) {
            return Ok(Outcome::Conflict);
        }
        last.compares.push(guard(key.clone()));
        if !staged {
            last.ops.insert(0, Op::put(key, value));
        }
        units.push(last);
        self.lead(leadership, units).await
    }

    /// Writes for records that are not there yet. `None` when the release is on record (`staged`) and
    /// one of its records is another. What services run (`static`) may change; who runs it then is
    /// placed anew in the same breath, so that what was seen of the old spec says nothing of the new.
    async fn record_units(
        &self,
        release: &Release,
        records: Vec<Record>,
        read: &Read,
        staged: bool,
    ) -> Result<Option<Vec<Unit>>> {
        let mut units = Vec::new();
        for record in records {
            let before = read.get(&record.key);
            if before.is_some_and(|kv| kv.value == record.value) {
                continue;
            }
            if staged && record.static_of.is_none() {
                return Ok(None);
            }
            let revision = revision_of(read, &record.key);
            let as_read = Compare::ModRevision(record.key.clone(), revision);
            let put = Unit::new(vec![as_read], vec![Op::put(record.key, record.value)]);
            let ends = match record.static_of.filter(|_| before.is_some()) {
                Some(node) => self.unplace(&release.stack, &node).await?,
                None => Vec::new(),
            };
            units.extend(with_first(put, ends));
        }
        Ok(Some(units))
    }

    /// Ends every placement of a node under `static`.
    async fn unplace(&self, stack: &StackName, node: &NodeName) -> Result<Vec<Unit>> {
        let deploys = Selector::Prefix(self.keys.family(Family::Deploy));
        let snapshot = self.read(vec![deploys]).await?;
        let end = |kv: KeyValue| match self.keys.parse(&kv.key) {
            Ok(Key::Deploy(_, job))
                if job.stack == *stack && job.node == *node && job.tag.is_static() =>
            {
                let instance = Compare::CreateRevision(kv.key.clone(), kv.create_revision);
                let run = self.keys.text(&Key::Run(job));
                let ops = vec![Op::delete(kv.key), Op::delete(run)];
                Some(Unit::new(vec![instance], ops))
            }
            _ => None,
        };
        Ok(snapshot
            .lists
            .into_iter()
            .flatten()
            .filter_map(end)
            .collect())
    }

    /// Records of a release but for the release itself.
    fn records(
        &self,
        release: &Release,
        procs: &BTreeMap<(NodeName, Tag), ContainerSpec>,
        registry: &str,
    ) -> Vec<Record> {
        let (stack, tag) = (&release.stack, &release.tag);
        let mut records = Vec::new();
        for (image, record) in &release.images {
            let key = Key::Image(stack.clone(), tag.clone(), image.clone());
            records.push(Record::once(self.keys.text(&key), encode(record)));
            let key = Key::ImageText(stack.clone(), tag.clone(), image.clone());
            let reference = record.image_ref().reference(registry);
            records.push(Record::once(self.keys.text(&key), reference.into_bytes()));
        }
        for ((node, tag), spec) in procs {
            let key = Key::Proc(stack.clone(), tag.clone(), node.clone());
            records.push(Record {
                key: self.keys.text(&key),
                value: encode(spec),
                static_of: tag.is_static().then(|| node.clone()),
            });
        }
        records
    }

    /// Build records of earlier releases whose images this one uses: they must not go meanwhile.
    fn reused(&self, release: &Release) -> BTreeSet<String> {
        let older = |record: &&ImageRecord| record.built_by != release.tag;
        let images = release.images.iter().filter(|(_, record)| older(record));
        let key = |(image, record): (&ImageName, &ImageRecord)| {
            let tag = record.built_by.clone();
            self.keys
                .text(&Key::Image(release.stack.clone(), tag, image.clone()))
        };
        images.map(key).collect()
    }

    /// TXN 2: placements, who answers for a job, pins. Stops compare the instance they are about.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn assign(&self, leadership: &Leadership, plan: &Plan) -> Result<Outcome> {
        if plan.is_empty() {
            return Ok(Outcome::Done(self.seen()));
        }
        let read = self.read_keys(self.compared(plan).into_iter()).await?;
        // Jobs that somebody else answers for when this is written.
        let flipped = plan.flip.iter().map(|flip| &flip.job);
        let started = plan.start.iter().map(|start| &start.job);
        let started: BTreeSet<&JobKey> = started.chain(flipped).collect();
        let starts: BTreeSet<_> = plan.start.iter().map(|s| (&s.job, &s.host)).collect();
        let again = |stop: &&Stop| starts.contains(&(&stop.placement.job, &stop.placement.host));
        // What stops and starts again in one place has to stop first; else the new comes first.
        let (first, later): (Vec<&Stop>, Vec<&Stop>) = plan.stop.iter().partition(again);
        let stop = |stop: &Stop| self.stop_unit(stop, &read, started.contains(&stop.placement.job));
        let pins = plan.pins.values().map(|(pin, record)| {
            let key = self.keys.text(&Key::Fixed(pin.clone()));
            let absent = Compare::CreateRevision(key.clone(), 0);
            Unit::new(vec![absent], vec![Op::put(key, encode(record))])
        });
        // Chance alone would give two of some hundred events one number.
        let base = event_number(plan.now_ms);
        let mut count = 0_u16;
        let mut number = || {
            count = count.wrapping_add(1);
            (plan.now_ms, nth_event_number(base, count))
        };
        let starts = plan.start.chunk_by(told_together);
        let starts = starts.flat_map(|starts| starts.chunks(TOLD_TOGETHER_MAX));
        let starts: Vec<Unit> = starts
            .map(|starts| self.start_unit(starts, &read, number()))
            .collect();
        let flips = plan.flip.iter();
        let flips: Vec<Unit> = flips
            .map(|flip| self.flip_unit(flip, &read, number()))
            .collect();
        let steps: [Vec<Unit>; 4] = [
            first.into_iter().map(stop).collect(),
            pins.collect(),
            [starts, flips].concat(),
            later.into_iter().map(stop).collect(),
        ];
        self.lead_steps(leadership, steps.into()).await
    }

    /// Takes down since when members are missed, and that those that are seen again are not.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn note_gone(&self, leadership: &Leadership, world: &World) -> Result<Outcome> {
        let changed = world.members.iter().filter_map(|(host, member)| {
            let seen = world.hosts.contains_key(host);
            let gone_ms = match (seen, member.gone_ms) {
                (true, _) => 0,
                (false, 0) => world.now_ms,
                (false, known) => known,
            };
            (gone_ms != member.gone_ms).then_some((host, gone_ms))
        });
        let changed: Vec<_> = changed.collect();
        if changed.is_empty() {
            return Ok(Outcome::Done(self.seen()));
        }
        let key = |host: &HostName| self.keys.text(&Key::Member(host.clone()));
        let read = self
            .read_keys(changed.iter().map(|(host, _)| key(host)))
            .await?;
        let units = changed.into_iter().filter_map(|(host, gone_ms)| {
            let kv = read.get(&key(host))?;
            let member = Member {
                gone_ms,
                ..decode(kv).ok()?
            };
            let as_read = Compare::ModRevision(kv.key.clone(), kv.mod_revision);
            Some(Unit::new(
                vec![as_read],
                vec![Op::put(kv.key.clone(), encode(&member))],
            ))
        });
        self.lead(leadership, units.collect()).await
    }

    /// Keys whose state decides how a plan is written.
    fn compared(&self, plan: &Plan) -> Vec<String> {
        let stops = plan.stop.iter().map(|stop| &stop.placement.job);
        let beside = plan.start.iter().filter(|start| start.beside);
        let beside = beside.map(|start| &start.job);
        let flips = plan.flip.iter().map(|flip| &flip.job);
        let jobs = stops.chain(beside).chain(flips);
        let runs = jobs.map(|job| Key::Run(job.clone()));
        let takes_over = |flip: &Flip| Key::Deploy(flip.to.clone(), flip.job.clone());
        let keys = runs.chain(plan.flip.iter().map(takes_over));
        keys.map(|key| self.keys.text(&key)).collect()
    }

    /// Another copy answers for a job, as long as the one that did still does.
    fn flip_unit(&self, flip: &Flip, read: &Read, (at_ms, event_n): (u64, u64)) -> Unit {
        let Flip { job, from, to, .. } = flip;
        let deploy = self.keys.text(&Key::Deploy(to.clone(), job.clone()));
        let run = self.keys.text(&Key::Run(job.clone()));
        let there = read.get(&deploy).map_or(-1, |kv| kv.create_revision);
        let event = EventRecord {
            v: 1,
            at_ms,
            who: "leader".to_owned(),
            about: job.short(),
            what: "moved".to_owned(),
            why: format!("from {from} to {to}: {}", flip.reason),
            placed: Vec::new(),
        };
        let moved = self.event_op(&job.stack, &flip.run, event_n, &event);
        let compares = vec![
            Compare::CreateRevision(deploy, there),
            answers(read, &run, from),
        ];
        Unit::new(compares, vec![Op::put(run, to.as_str()), moved])
    }

    /// Placements of one node, and in the same transaction why they were made.
    fn start_unit(&self, starts: &[Start], read: &Read, (at_ms, event_n): (u64, u64)) -> Unit {
        let mut unit = Unit::default();
        for Start {
            job, host, beside, ..
        } in starts
        {
            let deploy = self.keys.text(&Key::Deploy(host.clone(), job.clone()));
            let run = self.keys.text(&Key::Run(job.clone()));
            let absent = Compare::CreateRevision(deploy.clone(), 0);
            unit.compares.push(absent);
            unit.ops.push(Op::put(deploy, ""));
            if *beside {
                // Only while somebody answers for the job: else this one would, and does not.
                let revision = revision_of(read, &run).max(1);
                unit.compares.push(Compare::ModRevision(run, revision));
            } else {
                unit.ops.push(Op::put(run, host.as_str()));
            }
        }
        let event = |Start { job, run, .. }: &Start, about, why| {
            let event = EventRecord {
                v: 1,
                at_ms,
                who: "leader".to_owned(),
                about,
                what: "placed".to_owned(),
                why,
                placed: starts.to_vec(),
            };
            self.event_op(&job.stack, run, event_n, &event)
        };
        unit.ops.extend(match starts {
            [] => None,
            [one] => {
                let why = format!("on {}: {}", one.host, one.reason());
                Some(event(one, one.job.short(), why))
            }
            [first, ..] => {
                let hosts: BTreeSet<_> = starts.iter().map(|start| &start.host).collect();
                let why = format!("{} copies on {} hosts", starts.len(), hosts.len());
                let about = format!("{}/{}", first.job.stack, first.job.node);
                Some(event(first, about, why))
            }
        });
        unit
    }

    fn stop_unit(&self, stop: &Stop, read: &Read, started: bool) -> Unit {
        let placement = &stop.placement;
        let deploy = Key::Deploy(placement.host.clone(), placement.job.clone());
        let deploy = self.keys.text(&deploy);
        let run = self.keys.text(&Key::Run(placement.job.clone()));
        let instance = Compare::CreateRevision(deploy.clone(), placement.instance.0);
        let mut unit = Unit::new(vec![instance], vec![Op::delete(deploy)]);
        let host: &HostName = &placement.host;
        let answers = read
            .get(&run)
            .filter(|kv| kv.value == host.as_str().as_bytes());
        if let Some(kv) = answers.filter(|_| !started) {
            unit.compares
                .push(Compare::ModRevision(run.clone(), kv.mod_revision));
            unit.ops.push(Op::delete(run));
        }
        unit
    }

    /// Removes what is on record of a stack that has no source any more, but for its pins: data
    /// stays where it is.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn forget_stack(
        &self,
        leadership: &Leadership,
        stack: &StackName,
        pointer_revision: i64,
    ) -> Result<Outcome> {
        let deploys = Selector::Prefix(self.keys.family(Family::Deploy));
        let snapshot = self.read(vec![deploys]).await?;
        let mut units = Vec::new();
        for kv in snapshot.lists.iter().flatten() {
            if let Ok(Key::Deploy(_, job)) = self.keys.parse(&kv.key)
                && job.stack == *stack
            {
                let instance = Compare::CreateRevision(kv.key.clone(), kv.create_revision);
                units.push(Unit::new(vec![instance], vec![Op::delete(kv.key.clone())]));
            }
        }
        let families = [
            Family::Release,
            Family::Proc,
            Family::Images,
            Family::Image,
            Family::Run,
            Family::History,
            Family::Event,
            Family::Request,
        ];
        let mut ops: Vec<Op> = families
            .map(|family| self.keys.family_of(family, stack.as_str()))
            .map(|prefix| Op::DeletePrefix { prefix })
            .into();
        ops.push(Op::delete(self.keys.text(&Key::Pointer(stack.clone()))));
        // The source may be back already: it is the pointer that says the stack is being removed.
        let pointer = self.keys.text(&Key::Pointer(stack.clone()));
        let as_read = Compare::ModRevision(pointer, pointer_revision);
        units
            .iter_mut()
            .for_each(|unit| unit.compares.push(as_read.clone()));
        units.push(Unit::new(vec![as_read], ops));
        self.lead(leadership, units).await
    }

    /// Writes a run's one end; to go with the change of the pointer that ends it.
    #[must_use]
    pub fn history_op(&self, stack: &StackName, record: &RunRecord) -> Op {
        let key = Key::History(stack.clone(), record.run.clone());
        Op::put(self.keys.text(&key), encode(record))
    }

    /// Writes an event; `n` tells those of one run apart (see [`event_number`]).
    #[must_use]
    pub fn event_op(&self, stack: &StackName, run: &RunId, n: u64, event: &EventRecord) -> Op {
        let key = Key::Event(stack.clone(), format!("{run}-{n:020}"));
        Op::put(self.keys.text(&key), encode(event))
    }

    /// Deletes a request; to go with the change that obeys it.
    #[must_use]
    pub fn obey_op(&self, stack: &StackName, id: &str) -> Op {
        Op::delete(self.keys.text(&Key::Request(stack.clone(), id.to_owned())))
    }
}

/// Whether one event tells of two placements: copies of one node.
fn told_together(a: &Start, b: &Start) -> bool {
    fn node(start: &Start) -> (&StackName, &Tag, &NodeName) {
        (&start.job.stack, &start.job.tag, &start.job.node)
    }
    a.run == b.run && node(a) == node(b)
}

/// That a host still answers for a job; never so when it did not as it was read.
fn answers(read: &Read, run: &str, host: &HostName) -> Compare {
    let kv = read.get(run);
    let kv = kv.filter(|kv| kv.value == host.as_str().as_bytes());
    Compare::ModRevision(run.to_owned(), kv.map_or(-1, |kv| kv.mod_revision))
}

/// A number for an event that no other event of its run is likely to have: the time, then chance.
#[must_use]
pub fn event_number(now_ms: u64) -> u64 {
    now_ms.saturating_mul(1 << 16) | u64::from(fastrand::u16(..))
}

/// One of the numbers beside `first`, of the same time; 65,536 differ.
fn nth_event_number(first: u64, n: u16) -> u64 {
    let [.., high, low] = first.to_be_bytes();
    let chance = u16::from_be_bytes([high, low]).wrapping_add(n);
    (first & !0xffff) | u64::from(chance)
}

/// A unit that takes as many of the others with it as one transaction holds, and what is left.
fn with_first(mut first: Unit, others: Vec<Unit>) -> Vec<Unit> {
    let mut left = Vec::new();
    for other in others {
        if first.ops.len() + other.ops.len() > EXTRA_OPS_MAX {
            left.push(other);
            continue;
        }
        first.compares.extend(other.compares);
        first.ops.extend(other.ops);
    }
    left.insert(0, first);
    left
}
