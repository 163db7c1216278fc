//! P5: how fast the planner decides, on one core, with nothing but the world in memory. Criterion does
//! the timing; the last lines put its medians beside swarmkit's figures, which are constants here since
//! its source is not to be had on the machines this runs on. `benches/run.sh p5` runs it.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{AxisScale, BenchmarkId, Criterion, PlotConfiguration, SamplingMode, Throughput};
use viking::model::world::World;
use viking::schedule::{check, dowding, script};

/// Tasks a second of swarmkit's own scheduler benchmark with 1,000 nodes, of 10,000 and of 100,000
/// tasks: Go 1.19, measured on a machine like this one.
const SWARMKIT: [(usize, f64, f64); 2] = [(10_000, 14_000.0, 10.0), (100_000, 8_900.0, 15.0)];

/// How jobs come in nodes.
#[derive(Clone, Copy)]
struct Mix {
    name: &'static str,
    /// Copies of each node.
    scale: usize,
}

/// As swarmkit's benchmark has them: each task by itself, with no constraint.
const SINGLE: Mix = Mix {
    name: "single",
    scale: 1,
};

/// As people have them.
const COPIES: Mix = Mix {
    name: "copies",
    scale: 10,
};

const NODES_OF_A_STACK: usize = 100;

/// Hosts with nothing on them, and stacks whose jobs are all to be placed.
fn world(hosts: usize, jobs: usize, mix: Mix) -> World {
    let mut text = "hosts:\n".to_owned();
    for n in 0..hosts {
        text += &format!("  h{n:05}: {{cpu_millis: 64000, memory_mb: 262144}}\n");
    }
    let mut world = script::world(&text).expect("good hosts");
    let nodes = jobs.div_ceil(mix.scale);
    for stack in 0..nodes.div_ceil(NODES_OF_A_STACK) {
        let mut text = format!("stacks:\n  s{stack:05}:\n    live: a1\n    releases:\n      a1:\n");
        let first = stack * NODES_OF_A_STACK;
        for node in first..nodes.min(first + NODES_OF_A_STACK) {
            text += &format!("        n{node:06}: {{scale: {}}}\n", mix.scale);
        }
        // One by one: a YAML reader takes no file of a hundred thousand nodes.
        world
            .stacks
            .extend(script::world(&text).expect("a good stack").stacks);
    }
    world
}

/// What dispatch does between reading and writing.
fn decide(world: &World) -> usize {
    let (plan, complaints) = check::sound(world, dowding::plan(world));
    assert!(complaints.is_empty());
    plan.start.len()
}

fn rates(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("planner");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .plot_config(PlotConfiguration::default().summary_scale(AxisScale::Logarithmic));
    for mix in [SINGLE, COPIES] {
        for jobs in [1_000, 3_000, 10_000, 30_000, 100_000] {
            let world = world(1_000, jobs, mix);
            group.throughput(Throughput::Elements(jobs as u64));
            group.bench_with_input(BenchmarkId::new(mix.name, jobs), &world, |b, world| {
                b.iter(|| assert_eq!(black_box(decide(world)), jobs));
            });
        }
    }
    group.finish();
    let mut group = criterion.benchmark_group("planner-large");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    let large = world(5_000, 100_000, COPIES);
    group.throughput(Throughput::Elements(100_000));
    group.bench_function("100000 jobs on 5000 hosts", |b| {
        b.iter(|| assert_eq!(black_box(decide(&large)), 100_000));
    });
    group.finish();
}

/// Seconds, as criterion found them.
fn median(group: &str, of: &str) -> Option<f64> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    );
    let file = target
        .join("criterion")
        .join(group)
        .join(of)
        .join("new/estimates.json");
    let estimates: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    Some(estimates["median"]["point_estimate"].as_f64()? / 1e9)
}

/// How long single decisions take, in a world with so many jobs.
fn decisions(world: &World) -> Vec<Duration> {
    let mut times = Vec::with_capacity(100_000);
    let mut last = Instant::now();
    black_box(dowding::plan_with(world, || {
        let now = Instant::now();
        times.push(now - last);
        last = now;
    }));
    // The first has the reading of the world in it.
    times.remove(0);
    times.sort();
    times
}

fn verdict(pass: bool) -> &'static str {
    if pass { "PASS" } else { "FAIL" }
}

fn table() {
    println!("| figure | swarmkit | viking | ratio | pass | |");
    println!("|---|---|---|---|---|---|");
    for mix in [SINGLE, COPIES] {
        let mut rates = Vec::new();
        for (jobs, swarmkit, pass) in SWARMKIT {
            let Some(seconds) = median("planner", &format!("{}/{jobs}", mix.name)) else {
                continue;
            };
            let rate = jobs as f64 / seconds;
            rates.push(rate);
            println!(
                "| P5 {jobs} jobs on 1,000 hosts, {} to a node | {:.1} k/s | {:.0} k/s | {:.1} | ≥ {pass} | {} |",
                mix.scale,
                swarmkit / 1e3,
                rate / 1e3,
                rate / swarmkit,
                verdict(rate / swarmkit >= pass)
            );
        }
        if let [few, many] = rates[..] {
            println!(
                "| P5 rate of 100,000 ÷ rate of 10,000, {} to a node | 0.64 | {:.2} | – | ≥ 0.8 | {} |",
                mix.scale,
                many / few,
                verdict(many / few >= 0.8)
            );
        }
    }
    if let Some(seconds) = median("planner-large", "100000 jobs on 5000 hosts") {
        let pass = verdict(seconds <= 2.0);
        println!("| P5 100,000 jobs on 5,000 hosts | – | {seconds:.2} s | – | ≤ 2 s | {pass} |");
    }
    let times = decisions(&world(1_000, 100_000, SINGLE));
    let (middle, high) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!(
        "| P5 one decision of 100,000 on 1,000 hosts | – | {middle:.1?}, p99 {high:.1?} | – | p99 ≤ 50 µs | {} |",
        verdict(high <= Duration::from_micros(50))
    );
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    rates(&mut criterion);
    criterion.final_summary();
    // `cargo test --benches` only wants to know that it runs.
    if std::env::args().any(|arg| arg == "--bench") {
        table();
    }
}
