//! Typed reads over the store in memory: promise 5, and keys that cannot be read. The fixtures are
//! shared with the tests of writes.

mod hosts;
mod leader;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::model::again::Again;
use crate::model::endpoint::Endpoint;
use crate::model::history::{EventRecord, RunEnd, RunRecord};
use crate::model::host::{EngineState, HostRecord, Member};
use crate::model::job::{Assignment, Instance, JobKey, JobState, StateRecord};
use crate::model::names::{HostName, StackName, Tag};
use crate::model::plan::{Plan, Start, Stop};
use crate::model::release::{Commit, ImageRecord, Phase, Pointer, Release, RunId, Source};
use crate::model::spec::{ContainerSpec, ImageRef, Proto, Settings};
use crate::model::world::{Pin, PinKey};
use crate::store::election::{Leadership, campaign};
use crate::store::keys::Family;
use crate::store::local::LocalStore;

const REGISTRY: &str = "127.0.0.1:5000";

async fn tables() -> Tables {
    let store: SharedStore = LocalStore::in_memory();
    Tables::open(store, "", None, 0).await.unwrap()
}

async fn lead(tables: &Tables) -> Leadership {
    let key = tables.keys().text(&Key::Leader);
    let never = CancellationToken::new();
    let ttl = Duration::from_secs(3);
    campaign(tables.store(), &key, "me", ttl, &Handle::current(), &never)
        .await
        .unwrap()
}

fn stack() -> StackName {
    "web".parse().unwrap()
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

fn host(text: &str) -> HostName {
    text.parse().unwrap()
}

fn job(slot: u32) -> JobKey {
    JobKey {
        stack: stack(),
        tag: tag("a1"),
        node: "app".parse().unwrap(),
        slot,
    }
}

fn record(digest: &str) -> ImageRecord {
    ImageRecord {
        v: 1,
        repository: "web/src".into(),
        digest: digest.into(),
        input: "i".into(),
        size_bytes: 1,
        build_ms: 1,
        commit: "c".into(),
        built_by: tag("a1"),
        bases: BTreeMap::new(),
        made_of: None,
    }
}

fn release(text: &str, digest: &str) -> Release {
    Release {
        v: 1,
        stack: stack(),
        tag: tag(text),
        commit: Commit {
            id: "c".into(),
            subject: "s".into(),
            author: "a".into(),
            at_ms: 0,
        },
        run: RunId::new(1, 1),
        made_ms: 0,
        images: BTreeMap::from([("src".parse().unwrap(), record(digest))]),
        external: BTreeMap::new(),
        nodes: BTreeMap::new(),
        stages_ms: Vec::new(),
        before: Default::default(),
        require: Default::default(),
        again: None,
    }
}

fn spec(digest: &str) -> ContainerSpec {
    ContainerSpec::new(record(digest).image_ref(), Settings::default())
}

fn pointer(staged: &str) -> Pointer {
    Pointer {
        v: 1,
        staged: Some(tag(staged)),
        phase: Phase::Staging,
        ..Pointer::default()
    }
}

async fn stage(t: &Tables, l: &Leadership, text: &str, digest: &str, expected: i64) -> Outcome {
    let procs = BTreeMap::from([(("app".parse().unwrap(), tag(text)), spec(digest))]);
    let (release, pointer) = (release(text, digest), pointer(text));
    t.stage(l, &release, &procs, REGISTRY, &pointer, expected, vec![])
        .await
        .unwrap()
}

fn start(job: JobKey, on: &str) -> Start {
    Start {
        job,
        run: RunId("r1".into()),
        host: host(on),
        revision: 0,
        verdicts: vec![],
        beside: false,
    }
}

async fn assign(t: &Tables, l: &Leadership, start: Vec<Start>, stop: Vec<Assignment>) -> Outcome {
    let stop = stop.into_iter().map(|placement| Stop {
        placement,
        reason: String::new(),
    });
    let plan = Plan {
        start,
        stop: stop.collect(),
        ..Plan::default()
    };
    t.assign(l, &plan).await.unwrap()
}

async fn write(t: &Tables, ops: Vec<Op>) {
    t.store
        .commit(Txn {
            compares: vec![],
            ops,
        })
        .await
        .unwrap();
}

async fn value(t: &Tables, key: &str) -> Option<String> {
    let snapshot = t.store.range(&[Selector::Key(key.into())]).await.unwrap();
    let kv = snapshot.lists[0].first();
    kv.map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
}

fn state(instance: i64, state: JobState) -> StateRecord {
    StateRecord {
        v: 1,
        instance: Instance(instance),
        state,
        since_ms: 0,
        container: None,
        address: None,
        published: vec![],
        reason: String::new(),
        exit: None,
        log_tail: vec![],
        drift: vec![],
    }
}

fn endpoint(instance: i64, host_port: u16) -> Endpoint {
    Endpoint {
        stack: stack(),
        tag: tag("a1"),
        node: "app".parse().unwrap(),
        port: 80,
        proto: Proto::Tcp,
        ip: "10.0.0.1".parse().unwrap(),
        host_port,
        job_id: job(0).id(Instance(instance)),
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_founded_once_and_known_again() {
    let t = tables().await;
    let again = Tables::open(Arc::clone(&t.store), "", None, 0)
        .await
        .unwrap();
    assert_eq!(t.cluster(), again.cluster());
    let other = Tables::open(Arc::clone(&t.store), "", Some("x"), 0)
        .await
        .unwrap_err();
    assert!(other.to_string().contains("cluster x") && other.to_string().contains(t.cluster()));
    let older = Tables::open(Arc::clone(&t.store), "", Some(t.cluster()), 999).await;
    assert!(matches!(older, Err(OpenError::Older { known: 999, .. })));
    let empty: SharedStore = LocalStore::in_memory();
    let gone = Tables::open(empty, "", Some("x"), 0).await;
    assert!(matches!(gone, Err(OpenError::Gone { .. })));
}

#[tokio::test(start_paused = true)]
async fn no_news_is_no_order() {
    let t = tables().await;
    t.world(0).await.unwrap();
    t.seen.store(999, Ordering::Release);
    assert!(
        matches!(t.world(0).await, Err(Error::Frozen(_))),
        "an older store"
    );
    t.seen.store(0, Ordering::Release);
    write(&t, vec![Op::put("/cluster", r#"{"v":1,"id":"other"}"#)]).await;
    assert!(
        matches!(t.assigned(&host("a")).await, Err(Error::Frozen(_))),
        "another cluster"
    );
    write(&t, vec![Op::DeletePrefix { prefix: "/".into() }]).await;
    assert!(
        matches!(t.routes(&host("a")).await, Err(Error::Frozen(_))),
        "an emptied store"
    );
    assert!(matches!(t.sources().await, Err(Error::Frozen(_))));
}

#[tokio::test(start_paused = true)]
async fn keys_that_cannot_be_read_freeze_what_they_name() {
    let t = tables().await;
    let l = lead(&t).await;
    stage(&t, &l, "a1", "sha256:1", 0).await;
    assign(&t, &l, vec![start(job(0), "a")], vec![]).await;
    for (key, value, named) in [
        ("/release/one", "{", Some("one")),
        ("/release/two/a1", r#"{"v":99}"#, Some("two")),
        ("/proc/three/a1/app", "[]", Some("three")),
        ("/stack/four", "x", Some("four")),
        ("/fixed/five/db/0", "", Some("five")),
        ("/run/six/a1/app/x", "a", Some("six")),
        ("/deploy/a/seven/a1/app/0/more", "", Some("seven")),
        ("/host/a", "?", Some("web")), // has a job there
        ("/release/Bad Name/a1", "{}", None),
        ("/counter/a/eight/a1/app/0", "?", None),
    ] {
        write(&t, vec![Op::put(key, value)]).await;
        let world = t.world(0).await.unwrap();
        assert_eq!(world.frozen.keys().collect::<Vec<_>>(), [key]);
        let frozen: Vec<&str> = world.frozen_stacks.iter().map(StackName::as_str).collect();
        assert_eq!(frozen, named.into_iter().collect::<Vec<_>>(), "{key}");
        assert!(
            world.stacks[&stack()].staged().is_some(),
            "the others are read"
        );
        write(&t, vec![Op::delete(key)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_event_tells_of_the_copies_of_a_node_that_are_placed_together() {
    let t = tables().await;
    let l = lead(&t).await;
    let other = JobKey {
        node: "db".parse().unwrap(),
        ..job(0)
    };
    let all = (0..60).map(job).chain([other]);
    let hosts = ["a", "b", "c"];
    let starts = all.zip(hosts.iter().cycle());
    let starts = starts.map(|(job, on)| start(job, on)).collect();
    assert!(matches!(
        assign(&t, &l, starts, vec![]).await,
        Outcome::Done(_)
    ));
    let events = t.events(Some(&stack())).await.unwrap();
    let mut told: Vec<_> = events
        .iter()
        .map(|(_, event)| (event.about.clone(), event.placed.len(), event.why.clone()))
        .collect();
    told.sort();
    let app = |count| {
        let about = format!("{}/{}", stack(), job(0).node);
        (about, count, format!("{count} copies on 3 hosts"))
    };
    let db = (format!("{}/db.0", stack()), 1, "on a: ".to_owned());
    let mut expected = vec![app(28), app(28), app(4), db];
    expected.sort();
    assert_eq!(told, expected);
    assert_eq!(t.world(1).await.unwrap().run.len(), 61);
}

#[tokio::test(start_paused = true)]
async fn a_host_reads_its_own_assignments_and_what_links_may_point_at() {
    let t = tables().await;
    let l = lead(&t).await;
    let Outcome::Done(at) = stage(&t, &l, "a1", "sha256:1", 0).await else {
        panic!()
    };
    stage(&t, &l, "b2", "sha256:2", at).await;
    assign(
        &t,
        &l,
        vec![start(job(0), "host-1"), start(job(1), "host-10")],
        vec![],
    )
    .await;
    let mine = t.assigned(&host("host-1")).await.unwrap();
    let jobs: Vec<u32> = mine.assignments.iter().map(|a| a.job.slot).collect();
    assert_eq!(jobs, [0]);
    assert_eq!(mine.specs.len(), 2, "links may point at either");
    let map = &mine.stacks[&stack()];
    assert_eq!(
        map.releases.len(),
        2,
        "the staged one and the one its job runs at"
    );
    let none = t.assigned(&host("host-2")).await.unwrap();
    assert!(none.assignments.is_empty());
    write(&t, vec![Op::put("/proc/web/a1/app", "?")]).await;
    let mine = t.assigned(&host("host-1")).await.unwrap();
    assert_eq!(mine.frozen_stacks, BTreeSet::from([stack()]));
    assert_eq!(mine.assignments.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_stack_leaves_its_pins_and_nobody_elses_keys() {
    let t = tables().await;
    let l = lead(&t).await;
    stage(&t, &l, "a1", "sha256:1", 0).await;
    assign(&t, &l, vec![start(job(0), "a")], vec![]).await;
    let others = [
        "/release/web2",
        "/fixed/web/db/0",
        "/run/web-x/a1/app/0",
        "/event/web/x-1",
    ];
    write(&t, others.map(|key| Op::put(key, "x")).into()).await;
    let revision = t.world(0).await.unwrap().stacks[&stack()].pointer_revision;
    assert!(matches!(
        t.forget_stack(&l, &stack(), revision).await.unwrap(),
        Outcome::Done(_)
    ));
    let dump = t.dump().await.unwrap();
    let keys: Vec<&str> = dump.iter().map(|(key, _)| key.as_str()).collect();
    let left = [
        "/cluster",
        "/fixed/web/db/0",
        "/leader",
        "/release/web2",
        "/run/web-x/a1/app/0",
    ];
    assert_eq!(keys, left);
}

#[tokio::test(start_paused = true)]
async fn the_past_is_bounded_and_secrets_are_not_dumped() {
    let t = tables().await;
    let l = lead(&t).await;
    let run = RunId::new(1, 1);
    let (here, gone) = (job(0), job(1));
    let key = t.keys().text(&Key::Run(here.clone()));
    write(&t, vec![Op::put(key, "alpha")]).await;
    // Placed twice: only the last says why it is where it is.
    for (job, on, reason) in [
        (&here, "beta", "before"),
        (&here, "alpha", "now"),
        (&gone, "alpha", "gone"),
    ] {
        let placed = Start {
            run: run.clone(),
            ..start(job.clone(), on)
        };
        let event = EventRecord {
            v: 1,
            at_ms: 1,
            who: "leader".to_owned(),
            about: job.short(),
            what: "placed".to_owned(),
            why: reason.to_owned(),
            placed: vec![placed],
        };
        t.event(&stack(), &run, &event).await.unwrap();
    }
    for n in 0..520 {
        let (who, about, what, why) = ("h".into(), "web".into(), "drift".into(), n.to_string());
        let event = EventRecord {
            v: 1,
            at_ms: 1,
            who,
            about,
            what,
            why,
            placed: Vec::new(),
        };
        t.event(&stack(), &run, &event).await.unwrap();
    }
    t.trim(&l).await.unwrap();
    let events = t.events(Some(&stack())).await.unwrap();
    assert_eq!(events.len(), 501);
    assert_eq!(events[0].1.why, "now");
    let placed = t.placed_in(&stack(), &run).await.unwrap();
    assert_eq!((placed.len(), placed[0].host.as_str()), (1, "alpha"));
    assert_eq!(
        events.last().map(|(_, event)| event.why.as_str()),
        Some("519")
    );
    assert_eq!(t.events(None).await.unwrap().len(), 501);
    write(
        &t,
        vec![
            Op::put("/env/web/PASSWORD/1", "hunter2"),
            Op::put("/envy", "seen"),
        ],
    )
    .await;
    let dump = t.dump().await.unwrap();
    assert!(dump.iter().all(|(_, value)| !value.contains("hunter2")));
    assert!(dump.contains(&("/env/web/PASSWORD/1".into(), "(hidden)".into())));
}

#[tokio::test(start_paused = true)]
async fn what_can_be_gone_back_to_stays_whatever_fails_or_is_restarted_since() {
    let t = tables().await;
    let l = lead(&t).await;
    let run = |n: u64, end, again| RunRecord {
        v: 1,
        run: RunId::new(n, 0),
        commit: release("a1", "d").commit,
        tag: tag("a1"),
        end,
        reason: String::new(),
        again,
        stage: String::new(),
        log: Vec::new(),
        stages_ms: Vec::new(),
        plan: Vec::new(),
        placed: Vec::new(),
        ended_ms: n,
    };
    let restart = || Again::Restart {
        of: tag("a1"),
        node: "app".parse().unwrap(),
    };
    let rollback = || Again::Rollback { of: tag("a1") };
    // Fifteen went live, three of them rollbacks; then come restarts and failures.
    for n in 0..75 {
        let again = match n {
            0..12 => None,
            12..15 => Some(rollback()),
            _ => Some(restart()),
        };
        let failed = n >= 15 && n % 3 == 0;
        let end = if failed { RunEnd::Failed } else { RunEnd::Live };
        let op = t.history_op(&stack(), &run(n, end, again));
        write(&t, vec![op]).await;
        t.trim(&l).await.unwrap();
    }
    let kept = t.history(&stack()).await.unwrap();
    let kept: Vec<u64> = kept.iter().map(|run| run.ended_ms).collect();
    let expected: Vec<u64> = (25..75).rev().chain((5..15).rev()).collect();
    assert_eq!(kept, expected);
}

#[tokio::test(start_paused = true)]
async fn a_bell_rings_for_changes_below_its_prefixes_only() {
    let t = tables().await;
    let bell = crate::wake::Bell::new();
    let shutdown = CancellationToken::new();
    let mut ear = bell.ear();
    let prefixes = [
        t.keys().family(Family::Release),
        t.keys().family(Family::Ports),
    ];
    let (ringer, rung, stop) = (t.clone(), bell.clone(), shutdown.clone());
    let task = tokio::spawn(async move { ringer.ring(&rung, &prefixes, &stop).await });
    ear.heard().await; // at the start
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut ear = bell.ear();
    write(&t, vec![Op::put("/state/a", "")]).await;
    let quiet = tokio::time::timeout(Duration::from_secs(60), ear.heard()).await;
    assert!(quiet.is_err());
    write(&t, vec![Op::put("/ports/x", "")]).await;
    ear.heard().await;
    shutdown.cancel();
    task.await.unwrap();
}
