//! P10 and P11: what a lost host and a dead leader cost, viking first and then Docker's swarm on the same three
//! machines. Prints a table and judges no time: `benches/run.sh p10 p11` runs it with an optimised viking. What it
//! asserts is that twenty pauses of etcd move nothing.
//!
//! Both are given the same program, the same number of copies and the same hosts, and both are watched from
//! outside: a job runs when its engine says that its container does.

mod crew;
mod swarm;

use std::time::Duration;

use self::crew::Crew;
use self::swarm::Swarm;
use super::Rig;
use super::cases::store;

/// Rounds of each measurement.
const ROUNDS: usize = 5;

/// Copies of the program, three on each host.
const COPIES: usize = 9;

/// Longest wait for swarm or viking to have everything where it belongs.
const SETTLED: Duration = Duration::from_secs(120);

#[test]
#[ignore = "measures: benches/run.sh p10 p11"]
fn a_lost_host_and_a_dead_leader_against_swarm() {
    let mut rig = Rig::start(3);
    let crew = Crew::start(&rig);
    let (mut lost, mut led) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        crew.spread(&rig, round);
        lost.push(crew.loses_a_host(&mut rig));
        rig.audit("a host was cut off");
        crew.spread(&rig, ROUNDS + round);
        led.push(crew.loses_its_leader(&mut rig));
        rig.audit("the leader was killed");
    }
    for round in 0..20 {
        store::all_members_stand_still(&mut rig, Duration::from_millis(1_000 + 473 * round));
    }
    crew.ends(&mut rig);

    let swarm = Swarm::start(&mut rig);
    let (mut peer_lost, mut peer_led) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        swarm.spread(&rig);
        peer_lost.push(swarm.loses_a_host(&mut rig));
        peer_led.push(swarm.loses_its_leader(&mut rig, round));
    }

    println!("| figure | swarm | viking | ratio | pass | |");
    println!("|---|---|---|---|---|---|");
    let name = "P10 a host's link is down → all its jobs run elsewhere";
    row(name, peer_lost, lost, 0.45, Some(Duration::from_secs(6)));
    row(
        "P11 leader killed → next dispatch committed",
        peer_led,
        led,
        0.33,
        None,
    );
    println!("0 of {COPIES} jobs moved in 20 pauses of etcd, 1 to 10 s");
}

/// Medians, the shortest and the longest, in seconds.
fn row(
    name: &str,
    mut peer: Vec<Duration>,
    mut viking: Vec<Duration>,
    pass: f64,
    limit: Option<Duration>,
) {
    peer.sort();
    viking.sort();
    let middle = |all: &[Duration]| all[all.len() / 2].as_secs_f64();
    let spread = |all: &[Duration]| {
        let ends = [all[0], all[all.len() - 1]].map(|end| end.as_secs_f64());
        format!("{:.1} s ({:.1}–{:.1})", middle(all), ends[0], ends[1])
    };
    let ratio = middle(&viking) / middle(&peer);
    let within = limit.is_none_or(|limit| middle(&viking) <= limit.as_secs_f64());
    let limit = limit.map_or_else(String::new, |limit| format!(", ≤ {limit:?}"));
    let verdict = if ratio <= pass && within {
        "PASS"
    } else {
        "FAIL"
    };
    let (theirs, ours) = (spread(&peer), spread(&viking));
    println!("| {name} | {theirs} | {ours} | {ratio:.2} | ≤ {pass}{limit} | {verdict} |");
}
