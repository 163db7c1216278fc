//! `viking sim`: what the planner makes of a world that is written down, without any host. Reads a
//! file, changes the world as the flags say, prints; asks nobody.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde::Serialize;

use super::Context;
use super::args::{Output, SimArgs};
use super::failure::{Failure, Outcome};
use super::output::{clean, out};
use super::plan;
use crate::foretell;
use crate::model::certificate::DoorRecord;
use crate::model::dump::Dump;
use crate::model::host::{Capacity, EngineState, HostRecord, Member, READS, Readiness};
use crate::model::names::HostName;
use crate::model::plan::Plan;
use crate::model::vikingfile::{CPU_ALLOWED, MEMORY_ALLOWED, cpu_millis, host_tag, memory_bytes};
use crate::model::wire;
use crate::model::world::World;
use crate::schedule::{check, rollout, script, sim};

/// Largest file that is read: a world of 100,000 jobs has about 100 MB.
const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Answer of `viking sim -o json`: `viking.plan/v1`.
#[derive(Debug, Serialize)]
struct Simulated {
    schema: String,
    /// One after the other, as if every container started well.
    plans: Vec<Plan>,
    /// What is wrong with the first, if anything: it would not be written.
    complaints: Vec<String>,
    /// The next step of each stack whose release moves on.
    steps: Vec<String>,
}

/// Tries it out.
pub(crate) fn sim(context: &Context, args: &SimArgs) -> Outcome {
    let mut world = match (&args.world, &args.state) {
        (Some(file), _) => {
            let text = read(file)?;
            let failed = |error| unreadable(file, error, "docs/worlds.md describes the form");
            script::world(&text).map_err(failed)?
        }
        (None, Some(file)) => dumped(file)?,
        (None, None) => {
            return Err(Failure::usage(
                "no world to try it on",
                "give --world or --state",
            ));
        }
    };
    let changed = !args.lose.is_empty() || !args.add.is_empty();
    if changed {
        let open = sim::rounds(&mut world);
        if open.len() > 1 {
            context.print.remark(
                "the world was not at rest: what is under way is taken to have ended well first",
            );
        }
    }
    for host in &args.lose {
        lose(&mut world, host)?;
    }
    for text in &args.add {
        add(&mut world, text)?;
    }
    if let Some(folder) = &args.commit {
        let told = foretell::of_folder(&world, folder);
        let told = told.map_err(|why| Failure::new(why, "give a folder with a viking.yml"))?;
        plan::print(context, &told)?;
        return Ok(0);
    }
    let steps = steps(&world);
    let complaints = complaints(&world);
    let plans = sim::rounds(&mut world);
    print(
        context,
        &Simulated {
            schema: wire::schema("plan"),
            plans,
            complaints,
            steps,
        },
    )
}

fn complaints(world: &World) -> Vec<String> {
    let (_, complaints) = check::sound(world, crate::schedule::dowding::plan(world));
    let words = complaints.into_iter();
    words
        .map(|complaint| format!("{}: {}", complaint.stack, complaint.what))
        .collect()
}

fn steps(world: &World) -> Vec<String> {
    let step = |name| rollout::step(world, name).map(|step| (name, step));
    let steps = world.stacks.keys().filter_map(step);
    steps
        .map(|(name, step)| {
            format!(
                "{name}: {} ({}), then {}",
                step.event.0, step.event.1, step.pointer.phase
            )
        })
        .collect()
}

fn unreadable(file: &Path, why: impl std::fmt::Display, hint: &str) -> Failure {
    Failure::new(format!("cannot read {}: {why}", file.display()), hint)
}

fn read(file: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| unreadable(file, error, "name a file that you may read");
    let opened = std::fs::File::open(file).map_err(failed)?;
    let mut text = String::new();
    let bytes = opened
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if bytes as u64 > FILE_BYTES_MAX {
        let why = format!("it is larger than {} MiB", FILE_BYTES_MAX / 1024 / 1024);
        return Err(unreadable(file, why, "give a smaller world"));
    }
    Ok(text)
}

fn dumped(file: &Path) -> Result<World, Failure> {
    let hint = "give a file that `viking debug dump` of this version wrote";
    let dump: Dump =
        serde_json::from_str(&read(file)?).map_err(|error| unreadable(file, error, hint))?;
    let known = wire::schema("dump");
    if dump.schema != known {
        let why = format!("it is a {:?}, not a {known:?}", dump.schema);
        return Err(unreadable(file, why, hint));
    }
    Ok(dump.world)
}

/// The host is gone, and nobody doubts it.
fn lose(world: &mut World, host: &HostName) -> Result<(), Failure> {
    if !world.members.contains_key(host) {
        let known: Vec<_> = world.members.keys().map(HostName::as_str).collect();
        let hint = format!("its hosts are: {}", known.join(", "));
        return Err(Failure::usage(
            format!("the world has no host {host}"),
            hint,
        ));
    }
    world.hosts.remove(host);
    world.lost.insert(host.clone());
    world.states.retain(|(on, _), _| on != host);
    Ok(())
}

/// `HOST[:cpu=N,memory=SIZE,tags=TAG+TAG]`, as large as the smallest host there is where it is not said.
fn add(world: &mut World, text: &str) -> Result<(), Failure> {
    let hint = "HOST[:cpu=N,memory=SIZE,tags=TAG+TAG], such as h9:cpu=4,memory=8G,tags=ssd";
    let wrong = |why: String| Failure::usage(format!("--add {text}: {why}"), hint);
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    let name = HostName::parse(name).map_err(|error| wrong(error.to_string()))?;
    if world.members.contains_key(&name) {
        return Err(wrong(format!("the world has a host {name} already")));
    }
    let others = || world.members.values().map(|member| member.capacity);
    let mut capacity = Capacity {
        cpu_millis: others().map(|c| c.cpu_millis).min().unwrap_or(0),
        memory_bytes: others().map(|c| c.memory_bytes).min().unwrap_or(0),
    };
    let mut tags = BTreeSet::new();
    for part in rest.split(',').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("cpu", cores)) => {
                let cores = cpu_millis(cores);
                capacity.cpu_millis =
                    cores.ok_or_else(|| wrong(format!("cpu: allowed: {CPU_ALLOWED}")))?;
            }
            Some(("memory", size)) => {
                let size = memory_bytes(size);
                capacity.memory_bytes =
                    size.ok_or_else(|| wrong(format!("memory: allowed: {MEMORY_ALLOWED}")))?;
            }
            Some(("tags", list)) => {
                for tag in list.split('+') {
                    tags.insert(host_tag(tag).map_err(&wrong)?);
                }
            }
            _ => return Err(wrong(format!("{part:?} is not cpu=, memory= or tags="))),
        }
    }
    let member = Member {
        v: 1,
        machine_id: format!("sim-{name}"),
        tags,
        capacity,
        readiness: Readiness::Ready,
        joined_ms: world.now_ms,
        gone_ms: 0,
    };
    let engine = EngineState::Up {
        version: "sim".to_owned(),
    };
    let record = HostRecord {
        v: 1,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        engine,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        reads: READS,
        api: String::new(),
        started_ms: world.now_ms,
        fetched: Vec::new(),
        draining: Vec::new(),
        door: DoorRecord::default(),
        sites: Vec::new(),
        volumes: Some(Vec::new()),
    };
    world.hosts.insert(name.clone(), record);
    world.members.insert(name, member);
    Ok(())
}

fn print(context: &Context, simulated: &Simulated) -> Outcome {
    match context.print.form {
        Output::Json | Output::Yaml => context.print.data(simulated)?,
        Output::Name => {
            let starts = simulated.plans.iter().flat_map(|plan| &plan.start);
            let names = starts.map(|start| format!("{}\n", start.job.short()));
            out(&names.collect::<String>())?;
        }
        form @ (Output::Table | Output::Wide) => out(&text(simulated, form == Output::Wide))?,
    }
    Ok(0)
}

fn text(simulated: &Simulated, wide: bool) -> String {
    let mut text = String::new();
    let complaints = simulated.complaints.iter();
    text.extend(complaints.map(|why| format!("refused: {}\n", clean(why))));
    let busy = simulated
        .plans
        .iter()
        .filter(|plan| !plan.is_empty())
        .count();
    for (n, plan) in simulated.plans.iter().enumerate() {
        // The last one shows what stays as it is in the end.
        let last = n + 1 == simulated.plans.len();
        if plan.is_empty() && !last {
            continue;
        }
        if busy > 1 && !plan.is_empty() {
            text += &format!("step {}\n", n + 1);
        }
        text += &changes(plan, wide, last || busy == 0);
    }
    if busy == 0 {
        text += "no job would be started, moved or stopped\n";
    }
    text.extend(
        simulated
            .steps
            .iter()
            .map(|step| format!("release {}\n", clean(step))),
    );
    text
}

/// The lines of a plan: what changes, who is left without a host, and on request all the rest.
fn changes(plan: &Plan, wide: bool, last: bool) -> String {
    let all = script::plan_text(plan);
    if wide {
        return all;
    }
    let shown = |line: &&str| {
        let detail = line.starts_with(' ') || line.starts_with("keep");
        let unplaced = line.starts_with("waiting") || line.starts_with("blocked");
        !detail && (last || !unplaced)
    };
    all.lines()
        .filter(shown)
        .map(|line| format!("{}\n", clean(line)))
        .collect()
}
