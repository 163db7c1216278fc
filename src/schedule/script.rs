//! Worlds as text: a small YAML form of a world, for tests and `viking sim` (`docs/worlds.md`). Only
//! reads; decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;

use crate::model::certificate::DoorRecord;
use crate::model::host::{
    Capacity, EngineState, Fetch, Fetched, HostRecord, Member, READS, Readiness,
};
use crate::model::job::{
    Assignment, CounterRecord, Fault, Instance, JobKey, JobState, StateRecord,
};
use crate::model::names::{HostName, NodeName, StackName, Tag, VolumeName};
use crate::model::release::{
    Commit, Filter, FilterRule, NodeKind, Phase, Pointer, Release, ReleaseNode, RunId, Source,
};
use crate::model::spec::{
    ContainerSpec, Expose, ImageRef, LinkTarget, Resources, Settings, StopPolicy,
};
use crate::model::world::{Pin, PinKey, StackWorld, World};

pub use super::lines::plan_text;

/// A world, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WorldText {
    #[serde(default)]
    now_ms: u64,
    #[serde(default)]
    hosts: BTreeMap<HostName, HostText>,
    #[serde(default)]
    stacks: BTreeMap<StackName, StackText>,
    #[serde(default)]
    jobs: Vec<JobText>,
    #[serde(default)]
    fixed: BTreeMap<String, HostName>,
    #[serde(default)]
    frozen: BTreeSet<StackName>,
    /// The store was put back from a copy.
    #[serde(default)]
    restored: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HostText {
    cpu_millis: u64,
    memory_mb: u64,
    tags: BTreeSet<String>,
    /// Its lease has ended.
    dead: bool,
    /// And nobody doubts it.
    lost: bool,
    /// People have said that it is gone for good.
    forgotten: bool,
    engine_down: bool,
    readiness: Readiness,
    /// Data that it says it has: `stack/node.slot` or `stack/volume`.
    volumes: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StackText {
    removed: bool,
    live: Option<Tag>,
    staged: Option<Tag>,
    retiring: Option<Tag>,
    phase: Phase,
    since_ms: u64,
    cut: Vec<String>,
    /// Jobs of the staged release that have run to their end: `node.before`.
    ended: BTreeSet<NodeName>,
    /// Hosts that were asked for every image of the staged release and have them.
    fetched: Vec<HostName>,
    removing: bool,
    releases: BTreeMap<Tag, BTreeMap<NodeName, NodeText>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NodeText {
    tag: Option<Tag>,
    scale: Option<u32>,
    service: bool,
    fixed: bool,
    volume: bool,
    shared: Vec<VolumeName>,
    port: Option<u16>,
    expose: bool,
    link: Vec<String>,
    filter: Vec<String>,
    spread: bool,
    squeezed: bool,
    /// A job runs before it, once, in the release whose tag it has.
    before: bool,
    cpu_millis: Option<u64>,
    memory_mb: Option<u64>,
}

/// `{job: ragnar/a1/web/0, host: alpha, state: healthy, failures: 1}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobText {
    job: String,
    host: HostName,
    state: Option<JobState>,
    #[serde(default)]
    since_ms: u64,
    #[serde(default)]
    failures: u32,
    /// Another copy answers for the job.
    #[serde(default)]
    beside: bool,
    /// When the last one was; now if it is not said.
    failed_ms: Option<u64>,
    /// Exit code of a job that runs once.
    exit: Option<i64>,
    #[serde(default)]
    unhealthy: bool,
    #[serde(default)]
    outside: bool,
}

/// Reads a world.
///
/// # Errors
/// In the words of the YAML reader, or naming the job or slot that cannot be read.
pub fn world(text: &str) -> Result<World, String> {
    let text: WorldText = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let mut world = World {
        now_ms: text.now_ms,
        restored: text.restored,
        frozen_stacks: text.frozen,
        ..World::default()
    };
    for (name, host) in text.hosts {
        add_host(&mut world, &name, host)?;
    }
    for (name, mut stack) in text.stacks {
        let fetched = std::mem::take(&mut stack.fetched);
        let mut stack = stack_world(&name, stack)?;
        for host in fetched {
            fetch_all(&mut world, &mut stack, &host);
        }
        world.stacks.insert(name, stack);
    }
    for (n, job) in text.jobs.into_iter().enumerate() {
        add_job(&mut world, i64::try_from(n).unwrap_or(0) + 1, job)?;
    }
    for (seat, host) in text.fixed {
        let pin = Pin {
            v: 1,
            host,
            since_ms: 0,
            reason: "test".to_owned(),
        };
        world.fixed.insert(pin_key(&seat)?, pin);
    }
    Ok(world)
}

fn add_host(world: &mut World, name: &HostName, host: HostText) -> Result<(), String> {
    let volumes = host.volumes.iter().map(|key| pin_key(key));
    let volumes = volumes.collect::<Result<Vec<_>, _>>()?;
    let capacity = Capacity {
        cpu_millis: host.cpu_millis,
        memory_bytes: host.memory_mb * 1024 * 1024,
    };
    let member = Member {
        v: 1,
        machine_id: name.to_string(),
        tags: host.tags,
        capacity,
        readiness: host.readiness,
        joined_ms: 0,
        gone_ms: 0,
    };
    if host.forgotten {
        return Ok(());
    }
    world.members.insert(name.clone(), member);
    if host.lost {
        world.lost.insert(name.clone());
    }
    if host.dead || host.lost {
        return Ok(());
    }
    let engine = if host.engine_down {
        EngineState::Down {
            reason: "test".to_owned(),
        }
    } else {
        EngineState::Up {
            version: "test".to_owned(),
        }
    };
    let record = HostRecord {
        v: 1,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        engine,
        version: "test".to_owned(),
        reads: READS,
        api: String::new(),
        started_ms: 0,
        fetched: Vec::new(),
        draining: Vec::new(),
        door: DoorRecord::default(),
        sites: Vec::new(),
        volumes: Some(volumes),
    };
    world.hosts.insert(name.clone(), record);
    Ok(())
}

fn fetch_all(world: &mut World, stack: &mut StackWorld, host: &HostName) {
    let staged = stack.pointer.staged.clone();
    let procs = stack.procs.iter();
    let staged = procs.filter(|((_, tag), _)| Some(tag) == staged.as_ref());
    for image in staged.map(|(_, spec)| spec.image.clone()) {
        if let Some(record) = world.hosts.get_mut(host) {
            let (image, error) = (image.clone(), String::new());
            record.fetched.push(Fetched { image, error });
        }
        let host = host.clone();
        stack.pointer.fetch.insert(Fetch { host, image });
    }
}

fn stack_world(name: &StackName, text: StackText) -> Result<StackWorld, String> {
    let mut stack = StackWorld::default();
    if !text.removed {
        let url = format!("https://example.com/{name}");
        stack.source = Some(Source {
            v: 1,
            url,
            branch: None,
            path: String::new(),
            poll_ms: 30_000,
            suspended_ms: None,
        });
    }
    stack.pointer = Pointer {
        v: 1,
        live: text.live,
        staged: text.staged,
        retiring: text.retiring,
        phase: text.phase,
        since_ms: text.since_ms,
        removing: text.removing,
        ended: text.ended,
        ..Pointer::default()
    };
    for seat in text.cut {
        let (node, slot) = split_slot(&seat)?;
        stack.pointer.cut.insert((node, slot));
    }
    for (order, (tag, nodes)) in text.releases.into_iter().enumerate() {
        let release = release(name, &tag, order, nodes, &mut stack.procs)?;
        stack.releases.insert(tag, release);
    }
    Ok(stack)
}

fn release(
    stack: &StackName,
    tag: &Tag,
    order: usize,
    nodes: BTreeMap<NodeName, NodeText>,
    procs: &mut BTreeMap<(NodeName, Tag), ContainerSpec>,
) -> Result<Release, String> {
    let commit = Commit {
        id: format!("{tag:0<40}"),
        subject: format!("commit of {tag}"),
        author: "anna".to_owned(),
        at_ms: 0,
    };
    let mut made = BTreeMap::new();
    let mut before = BTreeMap::new();
    for (name, node) in nodes {
        let runs_before = node.before;
        let (record, spec) = node_of(tag, node)?;
        if runs_before {
            let (job, spec) = before_of(&record, &spec);
            procs.insert((name.before(), job.tag.clone()), spec);
            before.insert(name.before(), job);
        }
        procs.insert((name.clone(), record.tag.clone()), spec);
        made.insert(name, record);
    }
    Ok(Release {
        v: 1,
        stack: stack.clone(),
        tag: tag.clone(),
        commit,
        run: RunId(format!("run-{tag}")),
        made_ms: u64::try_from(order).unwrap_or(0),
        images: BTreeMap::new(),
        external: BTreeMap::new(),
        nodes: made,
        before,
        require: BTreeSet::new(),
        stages_ms: Vec::new(),
        again: None,
    })
}

fn node_of(tag: &Tag, text: NodeText) -> Result<(ReleaseNode, ContainerSpec), String> {
    let link = text
        .link
        .iter()
        .map(|link| link_of(link))
        .collect::<Result<Vec<_>, _>>()?;
    let tag = text.tag.unwrap_or_else(|| {
        if text.service {
            Tag::of_services()
        } else {
            tag.clone()
        }
    });
    let resources = Resources {
        cpu_millis: text.cpu_millis,
        memory_bytes: text.memory_mb.map(|mb| mb * 1024 * 1024),
    };
    let mut settings = Settings {
        link: link.clone(),
        resources,
        ..Settings::default()
    };
    if text.expose || text.port.is_some() {
        let host_port = text.port;
        settings.expose.push(Expose {
            port: 80,
            proto: Default::default(),
            host_port,
        });
    }
    let image = ImageRef::Ours {
        repository: "r".to_owned(),
        digest: format!("sha256:{tag}"),
    };
    let spec = ContainerSpec::new(image, settings);
    let has_volume = text.volume || !text.shared.is_empty();
    let node = ReleaseNode {
        spec_hash: spec.hash(),
        tag,
        kind: NodeKind::Container,
        scale: text.scale.unwrap_or(1),
        domains: Vec::new(),
        filter: text.filter.iter().map(|filter| filter_of(filter)).collect(),
        spread_required: text.spread,
        stop: StopPolicy::default(),
        service: text.service,
        fixed: text.fixed,
        exclusive: has_volume || text.port.is_some(),
        squeezed: text.squeezed,
        link,
        shared_volumes: text.shared,
        has_volume,
        host_ports: text.port.into_iter().collect(),
        resources,
        pending: None,
    };
    Ok((node, spec))
}

/// The job that runs before a node.
fn before_of(node: &ReleaseNode, spec: &ContainerSpec) -> (ReleaseNode, ContainerSpec) {
    let mut spec = spec.clone();
    spec.settings.expose.clear();
    let job = ReleaseNode {
        spec_hash: spec.hash(),
        scale: 1,
        fixed: false,
        exclusive: false,
        squeezed: false,
        spread_required: false,
        shared_volumes: Vec::new(),
        has_volume: false,
        host_ports: Vec::new(),
        ..node.clone()
    };
    (job, spec)
}

fn filter_of(text: &str) -> Filter {
    let (tag, rule) = match (text.strip_prefix('!'), text.strip_suffix(":flexible")) {
        (Some(tag), _) => (tag, FilterRule::Forbidden),
        (_, Some(tag)) => (tag, FilterRule::Preferred),
        _ => (text, FilterRule::Required),
    };
    Filter {
        tag: tag.to_owned(),
        rule,
    }
}

fn link_of(text: &str) -> Result<LinkTarget, String> {
    let bad = |error: crate::model::names::NameError| error.to_string();
    Ok(match text.split_once('/') {
        Some((stack, node)) => LinkTarget {
            stack: Some(StackName::parse(stack).map_err(bad)?),
            node: NodeName::parse(node).map_err(bad)?,
        },
        None => LinkTarget {
            stack: None,
            node: NodeName::parse(text).map_err(bad)?,
        },
    })
}

fn split_slot(text: &str) -> Result<(NodeName, u32), String> {
    let bad = || format!("{text:?} is not node.slot");
    let (node, slot) = text.split_once('.').ok_or_else(bad)?;
    Ok((
        NodeName::parse(node).map_err(|_| bad())?,
        slot.parse().map_err(|_| bad())?,
    ))
}

fn pin_key(text: &str) -> Result<PinKey, String> {
    let bad = || format!("{text:?} is not stack/node.slot or stack/volume");
    let (stack, rest) = text.split_once('/').ok_or_else(bad)?;
    let stack = StackName::parse(stack).map_err(|_| bad())?;
    if !rest.contains('.') {
        return Ok(PinKey::Volume(
            stack,
            VolumeName::parse(rest).map_err(|_| bad())?,
        ));
    }
    let (node, slot) = split_slot(rest)?;
    Ok(PinKey::Seat(crate::model::job::Seat { stack, node, slot }))
}

fn job_key(text: &str) -> Result<JobKey, String> {
    let bad = || format!("{text:?} is not stack/tag/node/slot");
    let parts: Vec<_> = text.split('/').collect();
    let [stack, tag, node, slot] = parts[..] else {
        return Err(bad());
    };
    Ok(JobKey {
        stack: StackName::parse(stack).map_err(|_| bad())?,
        tag: Tag::parse(tag).map_err(|_| bad())?,
        node: NodeName::parse(node).map_err(|_| bad())?,
        slot: slot.parse().map_err(|_| bad())?,
    })
}

fn add_job(world: &mut World, instance: i64, text: JobText) -> Result<(), String> {
    let job = job_key(&text.job)?;
    let instance = Instance(instance);
    let host = text.host;
    let assignment = Assignment {
        job: job.clone(),
        host: host.clone(),
        instance,
        container: None,
    };
    world
        .assignments
        .insert((job.clone(), host.clone()), assignment);
    if !text.beside {
        world.run.insert(job.clone(), host.clone());
    }
    if text.failures > 0 {
        let counter = CounterRecord {
            tries: 0,
            v: 1,
            instance,
            failures: text.failures,
            fault: if text.outside {
                Fault::Outside
            } else {
                Fault::Own
            },
            last_exit: Some(1),
            unhealthy: text.unhealthy,
            reason: "exited with 1".to_owned(),
            at_ms: text.failed_ms.unwrap_or(world.now_ms),
            next_try_ms: world.now_ms,
            log_tail: Vec::new(),
        };
        world.counters.insert((host.clone(), job.clone()), counter);
    }
    if let Some(state) = text.state {
        let record = StateRecord {
            v: 1,
            instance,
            state,
            since_ms: text.since_ms,
            container: Some(job.id(instance).0),
            address: None,
            published: Vec::new(),
            reason: String::new(),
            exit: text.exit,
            log_tail: Vec::new(),
            drift: Vec::new(),
        };
        world.states.insert((host, job), record);
    }
    Ok(())
}
