//! The big reads: the world of the planner, a host's share of it, and what routing needs. One range
//! each. A key that cannot be read is reported and freezes what it names; it is never an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use serde::de::DeserializeOwned;

use super::variables::note_variable;
use super::{Result, Tables, decode, decode_text};
use crate::model::endpoint::Endpoint;
use crate::model::host::Member;
use crate::model::job::{Assignment, CounterRecord, Instance, JobId, JobKey, Seat, StateRecord};
use crate::model::names::{HostName, NodeName, StackName, Tag};
use crate::model::registry::{Credential, CredentialRecord, WholeRecord};
use crate::model::resolve::StackMap;
use crate::model::spec::ContainerSpec;
use crate::model::world::{PinKey, StackWorld, World};
use crate::store::keys::{Family, Key, Keys};
use crate::store::{KeyValue, Selector};

/// What a worker needs: its own placements and what they are made from.
#[derive(Debug, Clone, Default)]
pub struct Assigned {
    /// The store's revision.
    pub revision: i64,
    /// The host as people count on it.
    pub member: Option<Member>,
    /// What is to run here.
    pub assignments: Vec<Assignment>,
    /// Specs, those that links point at included.
    pub specs: BTreeMap<(StackName, NodeName, Tag), ContainerSpec>,
    /// Of each stack: the pointer, the releases it names and those assignments run at.
    pub stacks: BTreeMap<StackName, StackMap>,
    /// What this host has on record about its jobs.
    pub states: BTreeMap<JobKey, StateRecord>,
    /// Failures in a row.
    pub counters: BTreeMap<JobKey, CounterRecord>,
    /// Keys that cannot be read, with the reason.
    pub frozen: BTreeMap<String, String>,
    /// Stacks those keys name: their jobs here are neither started nor stopped.
    pub frozen_stacks: BTreeSet<StackName>,
}

/// What the router and a host's ambassador need.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// The store's revision.
    pub revision: i64,
    /// Pointers and the releases they name.
    pub stacks: BTreeMap<StackName, StackMap>,
    /// Healthy copies.
    pub endpoints: Vec<Endpoint>,
    /// This host's own jobs, for their addresses.
    pub states: BTreeMap<JobKey, StateRecord>,
    /// Copies of the registry that are whole.
    pub whole: BTreeSet<JobId>,
    /// What hosts show each other before they speak to a registry.
    pub credential: Option<Credential>,
    /// Stacks with a key that cannot be read: what is routed for them stays.
    pub frozen_stacks: BTreeSet<StackName>,
}

/// Keys that cannot be read.
#[derive(Debug, Default)]
struct Frozen {
    keys: BTreeMap<String, String>,
    stacks: BTreeSet<StackName>,
    hosts: BTreeSet<HostName>,
}

impl Frozen {
    /// The key, if it is one.
    fn key(&mut self, keys: &Keys, kv: &KeyValue) -> Option<Key> {
        match keys.parse(&kv.key) {
            Ok(key) => Some(key),
            Err(bad) => {
                self.keys.insert(kv.key.clone(), bad.reason);
                self.stacks.extend(bad.stack);
                None
            }
        }
    }

    /// The value, if it is one; else its key freezes `stack`.
    fn value<T>(
        &mut self,
        kv: &KeyValue,
        stack: Option<&StackName>,
        value: std::result::Result<T, String>,
    ) -> Option<T> {
        value
            .map_err(|reason| {
                self.keys.insert(kv.key.clone(), reason);
                self.stacks.extend(stack.cloned());
            })
            .ok()
    }

    fn record<T: DeserializeOwned>(
        &mut self,
        kv: &KeyValue,
        stack: Option<&StackName>,
    ) -> Option<T> {
        self.value(kv, stack, decode(kv))
    }

    /// Like [`Self::record`], of a key that names a host.
    fn record_of_host<T: DeserializeOwned>(&mut self, kv: &KeyValue, host: &HostName) -> Option<T> {
        let record = self.record(kv, None);
        if record.is_none() {
            self.hosts.insert(host.clone());
        }
        record
    }
}

fn assignment(
    kv: &KeyValue,
    host: HostName,
    job: JobKey,
) -> std::result::Result<Assignment, String> {
    let container = decode_text(kv)?;
    Ok(Assignment {
        job,
        host,
        instance: Instance(kv.create_revision),
        container: (!container.is_empty()).then(|| container.to_owned()),
    })
}

impl Tables {
    fn families(&self, families: &[Family]) -> Vec<Selector> {
        let prefix = |family: &Family| Selector::Prefix(self.keys.family(*family));
        families.iter().map(prefix).collect()
    }

    /// Everything a planner reads, at one revision.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn world(&self, now_ms: u64) -> Result<World> {
        let world = self.look(now_ms, World::clone).await?;
        Ok(World { now_ms, ..world })
    }

    /// One stack of the world; `None` when there is none, or when it cannot be read. Each stack's
    /// follower asks again and again: it needs no copy of all the others.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn stack(&self, stack: &StackName, now_ms: u64) -> Result<Option<StackWorld>> {
        self.look(now_ms, |world| {
            let frozen = world.frozen_stacks.contains(stack);
            world.stacks.get(stack).filter(|_| !frozen).cloned()
        })
        .await
    }

    /// Looks at the world as it is now, which is read only if something has changed since.
    async fn look<T>(&self, now_ms: u64, look: impl Fn(&World) -> T) -> Result<T> {
        let revision = self.read(Vec::new()).await?.revision;
        let known = {
            let last = self.world.lock().unwrap_or_else(PoisonError::into_inner);
            // What is under a lease, too, ends with a revision of its own.
            last.as_ref()
                .filter(|world| world.revision == revision)
                .map(&look)
        };
        if let Some(seen) = known {
            return Ok(seen);
        }
        let world = self.read_world(now_ms).await?;
        let seen = look(&world);
        *self.world.lock().unwrap_or_else(PoisonError::into_inner) = Some(world);
        Ok(seen)
    }

    async fn read_world(&self, now_ms: u64) -> Result<World> {
        let selectors = self.families(&[
            Family::Stack,
            Family::Member,
            Family::Release,
            Family::Proc,
            Family::Deploy,
            Family::Run,
            Family::Fixed,
            Family::Host,
            Family::State,
            Family::Counter,
        ]);
        // Values of shared variables are nothing that is decided by.
        let names = Selector::Names(self.keys.family(Family::Env));
        let selectors = [selectors, vec![names]].concat();
        let snapshot = self.read(selectors).await?;
        let mut world = World {
            now_ms,
            revision: snapshot.revision,
            restored: self.is_restored(),
            ..World::default()
        };
        let mut frozen = Frozen::default();
        for kv in snapshot.lists.iter().flatten() {
            if let Some(key) = frozen.key(&self.keys, kv) {
                place(&mut world, &mut frozen, kv, key);
            }
        }
        freeze(&mut world, frozen);
        Ok(world)
    }

    /// A host's share of the world.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn assigned(&self, host: &HostName) -> Result<Assigned> {
        let of_host = |family| Selector::Prefix(self.keys.family_of(family, host.as_str()));
        let mut selectors = vec![of_host(Family::Deploy)];
        selectors.extend([of_host(Family::State), of_host(Family::Counter)]);
        selectors.extend(self.families(&[Family::Release, Family::Proc]));
        selectors.push(self.key(&Key::Member(host.clone())));
        let snapshot = self.read(selectors).await?;
        let mut assigned = Assigned {
            revision: snapshot.revision,
            ..Assigned::default()
        };
        let mut frozen = Frozen::default();
        // Placements come first in the answer, so that what follows can be filtered by them.
        for kv in snapshot.lists.iter().flatten() {
            if let Some(key) = frozen.key(&self.keys, kv) {
                place_assigned(&mut assigned, &mut frozen, kv, key);
            }
        }
        for (stack, map) in &mut assigned.stacks {
            let placed = |tag: &Tag| {
                let mut jobs = assigned.assignments.iter().map(|a| &a.job);
                jobs.any(|job| job.stack == *stack && job.tag == *tag)
            };
            let StackMap { pointer, releases } = map;
            releases.retain(|tag, _| pointer.named().any(|named| named == tag) || placed(tag));
        }
        assigned.frozen = frozen.keys;
        assigned.frozen_stacks = frozen.stacks;
        Ok(assigned)
    }

    /// What is live where, as the router and `host`'s ambassador need it.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn routes(&self, host: &HostName) -> Result<Routes> {
        let mut selectors = self.families(&[Family::Release, Family::Ports]);
        selectors.push(Selector::Prefix(
            self.keys.family_of(Family::State, host.as_str()),
        ));
        selectors.extend([Key::WholeCopies, Key::RegistryCredential].map(|key| self.key(&key)));
        let snapshot = self.read(selectors).await?;
        let mut routes = Routes {
            revision: snapshot.revision,
            ..Routes::default()
        };
        let mut frozen = Frozen::default();
        for kv in snapshot.lists.iter().flatten() {
            match frozen.key(&self.keys, kv) {
                Some(Key::Port(endpoint)) => routes.endpoints.push(endpoint),
                Some(Key::State(_, job)) => {
                    let state = frozen.record(kv, Some(&job.stack));
                    routes.states.extend(state.map(|state| (job, state)));
                }
                Some(Key::WholeCopies) => {
                    let record: Option<WholeRecord> = frozen.record(kv, None);
                    routes.whole = record.map(|record| record.whole).unwrap_or_default();
                }
                Some(Key::RegistryCredential) => {
                    let record: Option<CredentialRecord> = frozen.record(kv, None);
                    routes.credential = record.map(|record| record.credential);
                }
                Some(key) => place_release(&mut routes.stacks, &mut frozen, kv, key),
                None => {}
            }
        }
        for StackMap { pointer, releases } in routes.stacks.values_mut() {
            releases.retain(|tag, _| pointer.named().any(|named| named == tag));
        }
        routes.frozen_stacks = frozen.stacks;
        Ok(routes)
    }

    /// Which endpoints that are on record no longer vanished only because a lease ended: their
    /// placement is still the one that counts, and their host says nothing about it. Had the host
    /// taken one back, it would say so in `/state`.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn lapsed(&self, gone: &[Endpoint]) -> Result<BTreeSet<Endpoint>> {
        let placed: Vec<_> = gone
            .iter()
            .filter_map(|end| Some((end, end.placement()?)))
            .collect();
        let text = |key: &Key| self.keys.text(key);
        let runs = placed
            .iter()
            .map(|(_, (job, _))| text(&Key::Run(job.clone())));
        let runs = self
            .read_keys(runs.collect::<BTreeSet<_>>().into_iter())
            .await?;
        let host = |job: &JobKey| {
            let kv = runs.get(&text(&Key::Run(job.clone())))?;
            HostName::parse(decode_text(kv).ok()?).ok()
        };
        let placed: Vec<_> = placed
            .into_iter()
            .filter_map(|(end, (job, instance))| Some((end, instance, host(&job)?, job)))
            .collect();
        let deploy = |host: &HostName, job: &JobKey| text(&Key::Deploy(host.clone(), job.clone()));
        let state = |host: &HostName, job: &JobKey| text(&Key::State(host.clone(), job.clone()));
        let keys = placed
            .iter()
            .flat_map(|(_, _, host, job)| [deploy(host, job), state(host, job)]);
        let read = self
            .read_keys(keys.collect::<BTreeSet<_>>().into_iter())
            .await?;
        let lapsed = placed.into_iter().filter(|(_, instance, host, job)| {
            let placed = read.get(&deploy(host, job));
            let same = placed.is_some_and(|kv| kv.create_revision == instance.0);
            same && !read.contains_key(&state(host, job))
        });
        Ok(lapsed.map(|(end, ..)| end.clone()).collect())
    }
}

fn place_release(
    stacks: &mut BTreeMap<StackName, StackMap>,
    frozen: &mut Frozen,
    kv: &KeyValue,
    key: Key,
) {
    match key {
        Key::Pointer(stack) => {
            if let Some(pointer) = frozen.record(kv, Some(&stack)) {
                stacks.entry(stack).or_default().pointer = pointer;
            }
        }
        Key::Release(stack, tag) => {
            if let Some(release) = frozen.record(kv, Some(&stack)) {
                stacks
                    .entry(stack)
                    .or_default()
                    .releases
                    .insert(tag, release);
            }
        }
        _ => {}
    }
}

fn place_assigned(assigned: &mut Assigned, frozen: &mut Frozen, kv: &KeyValue, key: Key) {
    match key {
        Key::Deploy(host, job) => {
            let stack = job.stack.clone();
            let assignment = frozen.value(kv, Some(&stack), assignment(kv, host, job));
            assigned.assignments.extend(assignment);
        }
        Key::State(_, job) => {
            let state = frozen.record(kv, None);
            assigned.states.extend(state.map(|state| (job, state)));
        }
        Key::Counter(_, job) => {
            let counter = frozen.record(kv, None);
            assigned
                .counters
                .extend(counter.map(|counter| (job, counter)));
        }
        Key::Member(_) => assigned.member = frozen.record(kv, None),
        // Of every stack: links may point at what runs elsewhere.
        Key::Proc(stack, tag, node) => {
            if let Some(spec) = frozen.record(kv, Some(&stack)) {
                assigned.specs.insert((stack, node, tag), spec);
            }
        }
        Key::Pointer(_) | Key::Release(..) => {
            place_release(&mut assigned.stacks, frozen, kv, key);
        }
        _ => {}
    }
}

fn stack_of<'a>(world: &'a mut World, stack: &StackName) -> &'a mut StackWorld {
    world.stacks.entry(stack.clone()).or_default()
}

fn place(world: &mut World, frozen: &mut Frozen, kv: &KeyValue, key: Key) {
    match key {
        Key::Stack(stack) => {
            if let Some(source) = frozen.record(kv, Some(&stack)) {
                stack_of(world, &stack).source = Some(source);
            }
        }
        Key::Pointer(stack) => {
            if let Some(pointer) = frozen.record(kv, Some(&stack)) {
                let world = stack_of(world, &stack);
                world.pointer = pointer;
                world.pointer_revision = kv.mod_revision;
            }
        }
        Key::Release(stack, tag) => {
            if let Some(release) = frozen.record(kv, Some(&stack)) {
                stack_of(world, &stack).releases.insert(tag, release);
            }
        }
        Key::Proc(stack, tag, node) => {
            if let Some(spec) = frozen.record(kv, Some(&stack)) {
                stack_of(world, &stack).procs.insert((node, tag), spec);
            }
        }
        key => place_job(world, frozen, kv, key),
    }
}

fn place_job(world: &mut World, frozen: &mut Frozen, kv: &KeyValue, key: Key) {
    match key {
        Key::Deploy(host, job) => {
            let stack = job.stack.clone();
            let made = assignment(kv, host.clone(), job.clone());
            let made = frozen.value(kv, Some(&stack), made);
            world
                .assignments
                .extend(made.map(|made| ((job, host), made)));
        }
        Key::Run(job) => {
            let host = decode_text(kv)
                .and_then(|text| HostName::parse(text).map_err(|error| error.to_string()));
            let host = frozen.value(kv, Some(&job.stack), host);
            world.run.extend(host.map(|host| (job, host)));
        }
        Key::State(host, job) => {
            // Its absence would let a successor of an exclusive job start.
            let state = frozen.record(kv, Some(&job.stack));
            world.states.extend(state.map(|state| ((host, job), state)));
        }
        Key::Counter(host, job) => {
            let counter = frozen.record(kv, None);
            world
                .counters
                .extend(counter.map(|counter| ((host, job), counter)));
        }
        key => place_host(world, frozen, kv, key),
    }
}

fn place_host(world: &mut World, frozen: &mut Frozen, kv: &KeyValue, key: Key) {
    match key {
        Key::Member(host) => {
            let member = frozen.record_of_host(kv, &host);
            world.members.extend(member.map(|member| (host, member)));
        }
        Key::Host(host) => {
            let record = frozen.record_of_host(kv, &host);
            world.hosts.extend(record.map(|record| (host, record)));
        }
        Key::Fixed(pin) => {
            let (PinKey::Seat(Seat { stack, .. }) | PinKey::Volume(stack, _)) = &pin;
            let record = frozen.record(kv, Some(stack));
            world.fixed.extend(record.map(|record| (pin, record)));
        }
        key => note_variable(&mut world.env, key),
    }
}

/// A host that cannot be read freezes the stacks with jobs there: it must not look lost.
fn freeze(world: &mut World, mut frozen: Frozen) {
    let placed = world
        .assignments
        .keys()
        .filter(|(_, host)| frozen.hosts.contains(host));
    frozen
        .stacks
        .extend(placed.map(|(job, _)| job.stack.clone()));
    // Records that a crash left behind before any pointer named them are not a stack yet.
    world.stacks.retain(|stack, world| {
        world.source.is_some() || world.pointer_revision > 0 || frozen.stacks.contains(stack)
    });
    world.frozen = frozen.keys;
    world.frozen_stacks = frozen.stacks;
}
