//! `viking status` over hand-made worlds: each world in, the JSON and the text for people out,
//! compared with stored ones.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails there fails the test"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use viking::api::status::status;
use viking::cli::show;
use viking::model::certificate::DoorRecord;
use viking::model::host::{EngineState, HostRecord, Member, READS, SiteHere};
use viking::model::job::{
    Assignment, CounterRecord, Drift, Fault, Instance, JobKey, JobState, StateRecord,
};
use viking::model::names::{HostName, ImageName, NodeName, StackName, Tag};
use viking::model::release::{
    Building, Commit, Domain, ImageRecord, NodeKind, Phase, Pointer, Quarantine, Release,
    ReleaseNode, RunId, SET_ASIDE, Source, SourceState,
};
use viking::model::spec::{
    ContainerSpec, ImageRef, Proto, Published, Resources, Settings, StopPolicy,
};
use viking::model::status::{HealthWord, StatusReport, SyncWord};
use viking::model::world::{Pin, PinKey, StackWorld, World};

/// 2023-11-14T22:13:20Z.
const NOW: u64 = 1_700_000_000_000;
const FIRST: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f9012345678";
const SECOND: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn stack_name() -> StackName {
    StackName::parse("shop").unwrap()
}

fn node_name(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn host_name(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

fn tag(commit: &str) -> Tag {
    Tag::of_commit(commit, 1).unwrap()
}

fn run() -> RunId {
    RunId::new(NOW, 1)
}

fn commit(id: &str, subject: &str, minutes_ago: u64) -> Commit {
    Commit {
        id: id.to_owned(),
        subject: subject.to_owned(),
        author: "anna".to_owned(),
        at_ms: NOW - minutes_ago * 60_000,
    }
}

fn first() -> Commit {
    commit(FIRST, "Add search", 12)
}

fn second() -> Commit {
    commit(SECOND, "Break search", 1)
}

fn node(tag: &Tag, scale: u32) -> ReleaseNode {
    ReleaseNode {
        tag: tag.clone(),
        kind: NodeKind::Container,
        spec_hash: "v1:0".to_owned(),
        scale,
        domains: Vec::new(),
        filter: Vec::new(),
        spread_required: false,
        stop: StopPolicy::default(),
        service: false,
        fixed: false,
        exclusive: false,
        squeezed: false,
        link: Vec::new(),
        shared_volumes: Vec::new(),
        has_volume: false,
        host_ports: Vec::new(),
        resources: Resources::default(),
        pending: None,
    }
}

fn release(commit: Commit, nodes: &[(&str, ReleaseNode)]) -> Release {
    let nodes = nodes
        .iter()
        .map(|(name, node)| (node_name(name), node.clone()));
    Release {
        v: 1,
        stack: stack_name(),
        tag: tag(&commit.id),
        commit,
        run: run(),
        made_ms: NOW - 60_000,
        images: BTreeMap::new(),
        external: BTreeMap::new(),
        nodes: nodes.collect(),
        stages_ms: Vec::new(),
        before: Default::default(),
        require: Default::default(),
        again: None,
    }
}

fn seen(commit: Commit) -> SourceState {
    SourceState {
        state: "ok".to_owned(),
        reason: String::new(),
        seen: Some(commit),
        since_ms: NOW - 60_000,
    }
}

/// A world of one stack, built step by step.
struct Scene(World);

impl Scene {
    /// `web` twice and the service `redis`, live and healthy on host-a.
    fn healthy() -> Self {
        let static_tag = Tag::of_services();
        let web = node(&tag(FIRST), 2);
        let redis = ReleaseNode {
            service: true,
            has_volume: true,
            exclusive: true,
            ..node(&static_tag, 1)
        };
        let live = release(first(), &[("redis", redis), ("web", web)]);
        let pointer = Pointer {
            live: Some(tag(FIRST)),
            source: Some(seen(first())),
            since_ms: NOW - 600_000,
            ..Pointer::default()
        };
        let source = Source {
            v: 1,
            url: "https://user:secret@git.example/shop.git".to_owned(),
            branch: None,
            path: String::new(),
            poll_ms: 30_000,
            suspended_ms: None,
        };
        let mut scene = Self(World {
            now_ms: NOW,
            ..World::default()
        });
        let stack = StackWorld {
            source: Some(source),
            pointer,
            ..StackWorld::default()
        };
        scene.0.stacks.insert(stack_name(), stack);
        scene.record(live);
        scene.host("host-a");
        scene.job("redis", &static_tag, 0, JobState::Healthy);
        scene.job("web", &tag(FIRST), 0, JobState::Healthy);
        scene.job("web", &tag(FIRST), 1, JobState::Healthy);
        scene
    }

    fn stack(&mut self) -> &mut StackWorld {
        self.0.stacks.get_mut(&stack_name()).unwrap()
    }

    fn record(&mut self, release: Release) {
        let tag = release.tag.clone();
        self.stack().releases.insert(tag, release);
    }

    fn host(&mut self, name: &str) {
        let record = HostRecord {
            v: 1,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            engine: EngineState::Up {
                version: "20.10".to_owned(),
            },
            version: "0.6.0".to_owned(),
            reads: READS,
            api: "127.0.0.1:8791".to_owned(),
            started_ms: NOW,
            fetched: Vec::new(),
            draining: Vec::new(),
            door: DoorRecord::default(),
            sites: Vec::new(),
            volumes: None,
        };
        self.0.hosts.insert(host_name(name), record);
        self.0.members.insert(host_name(name), Member::default());
    }

    fn job(&mut self, node: &str, tag: &Tag, slot: u32, state: JobState) -> JobKey {
        let job = JobKey {
            stack: stack_name(),
            tag: tag.clone(),
            node: node_name(node),
            slot,
        };
        let instance = Instance(10 + i64::from(slot));
        let host = host_name("host-a");
        let container = job.id(instance).to_string();
        let port = Published {
            port: 80,
            proto: Proto::Tcp,
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            host_port: 20_001 + u16::try_from(slot).unwrap(),
        };
        let record = StateRecord {
            v: 1,
            instance,
            state,
            since_ms: NOW,
            container: Some(container.clone()),
            address: None,
            published: vec![port],
            reason: String::new(),
            exit: None,
            log_tail: Vec::new(),
            drift: Vec::new(),
        };
        let at = Assignment {
            job: job.clone(),
            host: host.clone(),
            instance,
            container: Some(container),
        };
        self.0.assignments.insert((job.clone(), host.clone()), at);
        self.0.run.insert(job.clone(), host.clone());
        self.0.states.insert((host, job.clone()), record);
        job
    }

    fn state(&mut self, job: &JobKey) -> &mut StateRecord {
        self.0
            .states
            .get_mut(&(host_name("host-a"), job.clone()))
            .unwrap()
    }

    fn report(&self) -> StatusReport {
        status(&self.0, None)
    }
}

/// Compares JSON, people's text and the exit code with the stored ones.
macro_rules! check {
    ($scene:expr, $name:literal) => {{
        let report = $scene.report();
        insta::assert_json_snapshot!(concat!($name, "_json"), report);
        let text = show::report(&report, false, false);
        let code = show::exit_code(&report);
        insta::assert_snapshot!(concat!($name, "_text"), format!("{text}exit code {code}\n"));
        report
    }};
}

#[test]
fn healthy_is_green_and_says_where_it_answers() {
    let report = check!(Scene::healthy(), "healthy");
    assert!(!serde_json::to_string(&report).unwrap().contains("secret"));
}

#[test]
fn a_commit_that_is_built_is_shown_beside_the_live_one() {
    let mut scene = Scene::healthy();
    let pointer = &mut scene.stack().pointer;
    pointer.source = Some(seen(second()));
    pointer.building = Some(Building {
        commit: second(),
        tag: tag(SECOND),
        run: run(),
        since_ms: NOW - 3_000,
        reason: "the registry does not answer".to_owned(),
        require: Default::default(),
    });
    check!(scene, "building");
}

#[test]
fn a_staged_release_shows_only_what_changed_beside_the_live_one() {
    let mut scene = Scene::healthy();
    let live = scene.stack().live().unwrap().clone();
    let redis = live.nodes[&node_name("redis")].clone();
    scene.record(release(
        second(),
        &[("redis", redis), ("web", node(&tag(SECOND), 2))],
    ));
    let pointer = &mut scene.stack().pointer;
    pointer.source = Some(seen(second()));
    pointer.staged = Some(tag(SECOND));
    pointer.phase = Phase::Staging;
    pointer.since_ms = NOW - 5_000;
    scene.job("web", &tag(SECOND), 0, JobState::Starting);
    check!(scene, "staged");
}

#[test]
fn what_holds_a_staged_release_up_from_outside_is_said() {
    let mut scene = Scene::healthy();
    scene.record(release(second(), &[("web", node(&tag(SECOND), 1))]));
    let pointer = &mut scene.stack().pointer;
    pointer.source = Some(seen(second()));
    pointer.staged = Some(tag(SECOND));
    pointer.phase = Phase::Staging;
    let job = scene.job("web", &tag(SECOND), 0, JobState::Backoff);
    scene.state(&job).reason = "pull web: registry unreachable".to_owned();
    let report = scene.report();
    let staged = report.stacks[0].staged.as_ref().unwrap();
    let wanted = "shop/web.0 backoff: pull web: registry unreachable";
    assert_eq!(staged.reason, wanted);
    assert_eq!(report.stacks[0].health, HealthWord::Healthy);
    assert!(report.stacks[0].reason.ends_with(wanted));
}

#[test]
fn a_failed_commit_is_named_with_its_stage_and_log() {
    let mut scene = Scene::healthy();
    let pointer = &mut scene.stack().pointer;
    pointer.source = Some(seen(second()));
    pointer.phase = Phase::Failed;
    pointer.quarantine = Some(Quarantine {
        commit: second(),
        tag: tag(SECOND),
        run: run(),
        stage: "build".to_owned(),
        reason: "image web: RUN make exited with 2".to_owned(),
        log: vec![
            "Step 3/4 : RUN make".to_owned(),
            "make: *** no rule".to_owned(),
        ],
        at_ms: NOW - 30_000,
    });
    let report = check!(scene, "failed");
    assert_eq!(report.stacks[0].health, HealthWord::Healthy);
    assert_eq!(report.stacks[0].sync, SyncWord::Quarantined);
}

#[test]
fn a_newer_commit_ends_the_mention_of_the_failed_one() {
    let mut scene = Scene::healthy();
    let third = commit("cccccccccccccccccccccccccccccccccccccccc", "Fix", 0);
    let pointer = &mut scene.stack().pointer;
    pointer.quarantine = Some(Quarantine {
        commit: second(),
        tag: tag(SECOND),
        run: run(),
        stage: "health".to_owned(),
        reason: "never healthy".to_owned(),
        log: Vec::new(),
        at_ms: NOW,
    });
    pointer.source = Some(seen(third));
    let report = scene.report();
    assert_eq!(report.stacks[0].staged, None);
    assert_eq!(report.stacks[0].sync, SyncWord::Behind);
    assert_eq!(show::exit_code(&report), 1);
}

#[test]
fn a_pinned_job_whose_host_is_gone_is_blocked() {
    let mut scene = Scene::healthy();
    let job = scene.job("redis", &Tag::of_services(), 0, JobState::Healthy);
    let pin = Pin {
        v: 1,
        host: host_name("host-b"),
        since_ms: NOW,
        reason: "has a volume".to_owned(),
    };
    scene.0.fixed.insert(PinKey::Seat(job.seat()), pin);
    scene
        .0
        .assignments
        .remove(&(job.clone(), host_name("host-a")));
    scene.0.run.remove(&job);
    check!(scene, "blocked");
}

#[test]
fn a_crash_loop_is_degraded_and_says_when_the_next_try_is() {
    let mut scene = Scene::healthy();
    let job = scene.job("web", &tag(FIRST), 1, JobState::Backoff);
    let counter = CounterRecord {
        tries: 0,
        v: 1,
        instance: Instance(11),
        failures: 4,
        fault: Fault::Own,
        last_exit: Some(1),
        unhealthy: false,
        reason: "exited with code 1".to_owned(),
        at_ms: NOW - 2_000,
        next_try_ms: NOW + 14_000,
        log_tail: vec!["cannot open config".to_owned()],
    };
    scene
        .0
        .counters
        .insert((host_name("host-a"), job.clone()), counter);
    let drift = Drift {
        what: "state".to_owned(),
        found: "exited".to_owned(),
        wanted: "running".to_owned(),
        since_ms: NOW - 2_000,
        action: "started again".to_owned(),
    };
    scene.state(&job).drift = vec![drift];
    check!(scene, "crash_loop");
    // Between two crashes it looks as if it were starting; that is no progress.
    scene.state(&job).state = JobState::Starting;
    assert_eq!(scene.report().stacks[0].health, HealthWord::Degraded);
}

#[test]
fn a_changed_service_waits_and_is_pending() {
    let mut scene = Scene::healthy();
    let image = ImageRef::Local {
        id: "sha256:1".to_owned(),
    };
    let spec = ContainerSpec::new(image, Settings::default());
    let live = scene.stack().releases.get_mut(&tag(FIRST)).unwrap();
    live.nodes.get_mut(&node_name("redis")).unwrap().pending = Some(Box::new(spec));
    let report = check!(scene, "pending_service");
    assert_eq!(show::exit_code(&report), 1);
}

#[test]
fn a_website_of_an_older_version_has_no_files_and_says_so() {
    let mut scene = Scene::healthy();
    let live = scene.stack().releases.get_mut(&tag(FIRST)).unwrap();
    let help = ReleaseNode {
        kind: NodeKind::Website {
            document_root: "help".to_owned(),
        },
        ..node(&tag(FIRST), 1)
    };
    live.nodes.insert(node_name("help"), help);
    live.nodes.get_mut(&node_name("web")).unwrap().domains = vec![Domain {
        name: "shop.example".to_owned(),
        port: None,
        since_ms: 0,
    }];
    let report = check!(scene, "website");
    assert_eq!(show::exit_code(&report), 0);
}

#[test]
fn a_website_is_as_its_hosts_say() {
    let mut scene = Scene::healthy();
    let live = scene.stack().releases.get_mut(&tag(FIRST)).unwrap();
    let help = ReleaseNode {
        kind: NodeKind::Website {
            document_root: "help".to_owned(),
        },
        ..node(&tag(FIRST), 1)
    };
    live.nodes.insert(node_name("help"), help);
    let image = ImageRecord {
        v: 1,
        repository: "shop/site.help".to_owned(),
        digest: "sha256:1".to_owned(),
        input: String::new(),
        size_bytes: 1,
        build_ms: 0,
        commit: String::new(),
        built_by: tag(FIRST),
        bases: Default::default(),
        made_of: None,
    };
    live.images
        .insert(ImageName::of_site(&node_name("help")), image);
    let all = scene.0.hosts.len();
    let note = |scene: &Scene| {
        let report = scene.report();
        let nodes = report.stacks[0].nodes.iter();
        let help = nodes.clone().find(|row| row.node == node_name("help"));
        (help.unwrap().note.clone(), report.stacks[0].health)
    };
    let (said, health) = note(&scene);
    assert_eq!(said, format!("files on 0 of {all} hosts"));
    assert_eq!(health, HealthWord::Progressing);
    let says = |scene: &mut Scene, error: &str| {
        for host in scene.0.hosts.values_mut() {
            host.sites = vec![SiteHere {
                digest: "sha256:1".to_owned(),
                error: error.to_owned(),
            }];
        }
    };
    says(&mut scene, "disk full");
    let (said, health) = note(&scene);
    assert!(said.ends_with("disk full"), "{said}");
    let told = scene.report().stacks[0].reason.clone();
    assert!(told.contains("shop/help: files on 0 of"), "{told}");
    assert_eq!(health, HealthWord::Degraded);
    says(&mut scene, "");
    let (said, health) = note(&scene);
    assert_eq!(said, format!("files on {all} of {all} hosts"));
    assert_eq!(health, HealthWord::Healthy);
}

#[test]
fn a_repository_that_cannot_be_read_is_unknown_never_fine() {
    let mut scene = Scene::healthy();
    let mut state = seen(first());
    state.state = "unreachable".to_owned();
    state.reason = "connection refused".to_owned();
    scene.stack().pointer.source = Some(state);
    let report = check!(scene, "unreachable");
    assert_eq!(show::exit_code(&report), 2);
}

#[test]
fn silence_of_docker_is_not_death() {
    let mut scene = Scene::healthy();
    let host = scene.0.hosts.get_mut(&host_name("host-a")).unwrap();
    host.engine = EngineState::Down {
        reason: "no socket".to_owned(),
    };
    let report = scene.report();
    let stack = &report.stacks[0];
    assert_eq!(stack.health, HealthWord::Degraded);
    assert!(
        stack.reason.contains("last seen healthy"),
        "{}",
        stack.reason
    );
    assert!(stack.jobs().all(|(_, job)| job.endpoints.is_empty()));
}

#[test]
fn a_first_commit_is_progress() {
    let mut scene = Scene::healthy();
    scene.0.assignments.clear();
    scene.0.run.clear();
    scene.0.states.clear();
    let pointer = &mut scene.stack().pointer;
    pointer.staged = pointer.live.take();
    pointer.phase = Phase::Staging;
    check!(scene, "first_commit");
}

#[test]
fn a_stack_with_an_unreadable_key_is_named() {
    let mut scene = Scene::healthy();
    scene.0.frozen_stacks.insert(stack_name());
    scene
        .0
        .frozen
        .insert("/release/shop".to_owned(), "not JSON".to_owned());
    let report = scene.report();
    assert_eq!(report.stacks[0].sync, SyncWord::Unknown);
    assert!(
        report.stacks[0]
            .reason
            .ends_with("cannot read /release/shop: not JSON")
    );
    assert_eq!(show::exit_code(&report), 3);
}

#[test]
fn a_suspended_stack_is_suspended_until_something_is_wrong_with_it() {
    let mut scene = Scene::healthy();
    let source = scene.stack().source.as_mut().unwrap();
    source.suspended_ms = Some(NOW - 3_600_000);
    let report = check!(scene, "suspended");
    assert_eq!(report.stacks[0].health, HealthWord::Suspended);
    let job = scene.job("web", &tag(FIRST), 1, JobState::Backoff);
    scene.state(&job).reason = "exited with code 1".to_owned();
    let report = scene.report();
    assert_eq!(report.stacks[0].health, HealthWord::Degraded);
    assert!(report.stacks[0].reason.ends_with("exited with code 1"));
}

#[test]
fn a_commit_that_a_rollback_left_is_set_aside_not_failed() {
    let mut scene = Scene::healthy();
    let pointer = &mut scene.stack().pointer;
    pointer.source = Some(seen(second()));
    pointer.quarantine = Some(Quarantine {
        commit: second(),
        tag: tag(SECOND),
        run: run(),
        stage: SET_ASIDE.to_owned(),
        reason: "set aside by a rollback to a1b2c3d4e5f6".to_owned(),
        log: Vec::new(),
        at_ms: NOW - 30_000,
    });
    let report = check!(scene, "set_aside");
    assert_eq!(report.stacks[0].sync, SyncWord::Quarantined);
}
