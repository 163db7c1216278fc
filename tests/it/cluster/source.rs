//! The product's own leader, with a git repository behind it: what becomes of commits before they
//! are staged. Git reads its files in real time; everything else happens in virtual time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use viking::build::fake_registry::{FakeCopies, FakeManifests};
use viking::clock::now_ms;
use viking::config::Config;
use viking::docker::Container;
use viking::leader::{self, Parts};
use viking::model::history::{ChangeKind, RunEnd};
use viking::model::names::Tag;
use viking::model::release::{Pointer, Source};
use viking::model::verdict::Verdict;
use viking::model::world::World;
use viking::store::election;
use viking::store::keys::Key;
use viking::store::tables::Request;
use viking::sync::{Mirrors, Options};

use super::{Cluster, REGISTRY, name, s};
use crate::e2e::repo::{Commit, Repo};

/// How long the lease of a leader lasts.
const TTL: Duration = Duration::from_secs(3);

/// A node that runs, and one more line for the deploy part.
pub(super) fn web(run: &str) -> String {
    format!("viking: {{name: shop}}\ndeploy:\n  web: {{image: web, run: {run}, expose: [80]}}\n")
}

/// Hosts, led by the real leader on the first of them, that follows one repository.
pub(super) struct Followed {
    pub(super) cluster: Cluster,
    pub(super) repo: Repo,
    pub(super) copies: FakeCopies,
    dir: tempfile::TempDir,
    config: Config,
    leading: CancellationToken,
}

impl Followed {
    pub(super) async fn start() -> Self {
        Self::start_on(1).await
    }

    pub(super) async fn start_on(hosts: usize) -> Self {
        let cluster = Cluster::unled(hosts).await;
        for image in ["registry:2", "web", "db"] {
            cluster.registry.publish(image, image);
        }
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::new(dir.path().join("repo"));
        let manifests = FakeManifests::new(REGISTRY, &cluster.registry);
        let config = Config {
            host: cluster.hosts[0].name.clone(),
            ..Config::default()
        };
        let mut followed = Self {
            copies: FakeCopies::new(&manifests),
            cluster,
            repo,
            dir,
            config,
            leading: CancellationToken::new(),
        };
        followed.lead().await;
        followed
    }

    /// Another leader takes over, with nothing in its memory.
    pub(super) async fn lead(&mut self) {
        self.leading.cancel();
        self.leading = CancellationToken::new();
        let parts = self.parts();
        let tables = parts.tables.clone();
        let stop = self.leading.clone();
        tokio::spawn(async move {
            let key = tables.keys().text(&Key::Leader);
            let runtime = tokio::runtime::Handle::current();
            let store = tables.store();
            let elected = election::campaign(store, &key, "host-a", TTL, &runtime, &stop).await;
            let Some(leadership) = elected else { return };
            let leadership = Arc::new(leadership);
            leader::run(parts, Arc::clone(&leadership), stop).await;
            if let Some(leadership) = Arc::into_inner(leadership) {
                leadership.resign().await;
            }
        });
    }

    /// What a leader on the first host has.
    pub(super) fn parts(&self) -> Parts {
        let (progress, _) = broadcast::channel(64);
        Parts {
            engine: Arc::new(self.cluster.engine().clone()),
            mirrors: Mirrors::new(&self.dir.path().join("data"), Options::from_env()).unwrap(),
            registry: Arc::new(FakeManifests::new(REGISTRY, &self.cluster.registry)),
            copies: Arc::new(self.copies.clone()),
            config: self.config.clone(),
            covered: Arc::new(|_| Some(false)),
            builds: viking::build::Places::default(),
            progress,
            tables: self.cluster.tables.clone(),
        }
    }

    /// Nobody leads until [`Self::lead`].
    pub(super) fn stop_leading(&self) {
        self.leading.cancel();
    }

    pub(super) async fn add(&self) {
        self.add_polled(2_000).await;
    }

    async fn add_polled(&self, poll_ms: u64) {
        let source = Source {
            v: 1,
            url: self.repo.path().to_owned(),
            branch: None,
            path: String::new(),
            poll_ms,
            suspended_ms: None,
        };
        let stack = name("shop");
        let put = self.cluster.clear.put_source(&stack, &source, 0);
        put.await.unwrap();
    }

    pub(super) fn push(&self, yaml: &str) -> Commit {
        for line in yaml.lines() {
            let run = line.split("run: ").nth(1).and_then(|r| r.split(',').next());
            self.cluster.script(run.unwrap_or_default());
        }
        self.repo.commit("a commit", &[("viking.yml", yaml)])
    }

    async fn ask(&self, kind: &str) {
        self.ask_about(kind, "").await;
    }

    pub(super) async fn ask_about(&self, kind: &str, about: &str) {
        let request = Request {
            v: 1,
            kind: kind.to_owned(),
            about: about.to_owned(),
            at_ms: now_ms(),
        };
        let stack = name("shop");
        let asked = self.cluster.clear.request(&stack, &request);
        asked.await.unwrap();
    }

    pub(super) async fn until(&self, what: &str, is: impl Fn(&Pointer) -> bool) {
        self.cluster
            .until(what, s(400), |world| {
                world
                    .stacks
                    .get(&name("shop"))
                    .is_some_and(|stack| is(&stack.pointer))
            })
            .await;
    }

    pub(super) async fn until_live(&self, commit: &Commit) {
        self.until_settled(commit.tag()).await;
    }

    pub(super) async fn until_settled(&self, tag: &str) {
        let tag = Tag::parse(tag).unwrap();
        let live = format!("{tag} is live and settled");
        self.cluster
            .until(&live, s(400), |world| super::look::settled(world, &tag))
            .await;
    }

    pub(super) async fn ends(&self) -> Vec<(String, RunEnd)> {
        let ends = self.cluster.ends("shop").await.into_iter();
        ends.map(|(tag, end)| (tag.to_string(), end)).collect()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.leading.cancel();
    }
}

pub(super) fn tag(commit: &Commit) -> String {
    commit.tag().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_build_that_a_newer_commit_replaces_has_its_end() {
    let followed = Followed::start().await;
    let first = followed.push(&web("v1"));
    followed.add().await;
    followed.until_live(&first).await;
    let second = followed.push(&waiting("v2"));
    followed.until("it is held up", is_held_up).await;
    let third = followed.push(&web("v3"));
    followed.until_live(&third).await;
    let wanted = [
        (tag(&first), RunEnd::Live),
        (tag(&second), RunEnd::Superseded),
        (tag(&third), RunEnd::Live),
    ];
    assert_eq!(followed.ends().await, wanted);
}

#[tokio::test(start_paused = true)]
async fn a_failed_release_and_a_newer_commit_that_does_not_parse_both_stay_quarantined() {
    let followed = Followed::start().await;
    let db = |run: &str| web("v1") + &format!("  db: {{image: db, run: {run}, volume: [/data]}}\n");
    let first = followed.push(&db("v1"));
    followed.add().await;
    followed.until_live(&first).await;
    let failing = followed.push(&db("never").replace("volume", "health: {tcp: 1}, volume"));
    followed
        .until("it is cutting", |pointer| !pointer.cut.is_empty())
        .await;
    let unreadable = followed.push("nonsense");
    followed
        .until("both have failed", |pointer| {
            pointer.staged.is_none()
                && pointer.building.is_none()
                && pointer.live.is_some()
                && pointer
                    .quarantine
                    .as_ref()
                    .is_some_and(|bad| bad.tag.as_str() == unreadable.tag())
        })
        .await;
    // Neither is tried again.
    let created = followed.cluster.calls("create");
    tokio::time::sleep(s(900)).await;
    assert_eq!(followed.cluster.calls("create"), created);
    let wanted = [
        (tag(&first), RunEnd::Live),
        (tag(&failing), RunEnd::Failed),
        (tag(&unreadable), RunEnd::Failed),
    ];
    assert_eq!(followed.ends().await, wanted);
    followed.push(&db("v2"));
    let fixed = followed.push(&db("v3"));
    followed.until_live(&fixed).await;
}

#[tokio::test(start_paused = true)]
async fn another_registry_image_takes_the_place_of_the_first_and_keeps_its_data() {
    let mut followed = Followed::start().await;
    let first = followed.push(&web("v1"));
    followed.add().await;
    followed.until_live(&first).await;
    let before = followed.cluster.running("registry").remove(0);
    // The same image, whoever leads.
    followed.lead().await;
    tokio::time::sleep(s(700)).await;
    assert_eq!(followed.cluster.running("registry").remove(0).id, before.id);
    followed.cluster.registry.publish("registry:3", "another");
    followed.config.registry_image = "registry:3".to_owned();
    followed.lead().await;
    let replaced = |c: &Container| c.image_id != before.image_id;
    let cluster = &followed.cluster;
    let settled = |_: &World| {
        cluster.running("registry").iter().all(replaced) && !cluster.running("registry").is_empty()
    };
    cluster.until("the other image runs", s(60), settled).await;
    let after = cluster.running("registry").remove(0);
    assert_eq!(after.mounts, before.mounts);
    let second = followed.push(&web("v2"));
    followed.until_live(&second).await;
}

/// An image of another stack, which has not made it yet.
pub(super) fn waiting(run: &str) -> String {
    web(run).replace("image: web", "image: \"viking:other/app\"")
}

pub(super) fn is_held_up(pointer: &Pointer) -> bool {
    let building = pointer.building.as_ref();
    building.is_some_and(|building| !building.reason.is_empty())
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_at_once_while_a_build_is_held_up() {
    let followed = Followed::start().await;
    followed.push(&waiting("v1"));
    followed.add_polled(3_600_000).await;
    followed.until("it is held up", is_held_up).await;
    // Until tries are as far apart as they get.
    tokio::time::sleep(s(120)).await;
    for n in 2..6 {
        let good = followed.push(&web(&format!("v{n}")));
        followed.ask("sync").await;
        let tag = Tag::parse(good.tag()).unwrap();
        let live = |world: &World| super::look::settled(world, &tag);
        followed.cluster.until("it is live", s(5), live).await;
        followed.push(&waiting("v1"));
        followed.ask("sync").await;
        followed.until("it is held up", is_held_up).await;
        tokio::time::sleep(s(13)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_goes_on_with_the_commit_seen_last_while_the_remote_is_away() {
    let mut followed = Followed::start().await;
    let first = followed.push(&web("v1"));
    followed.add().await;
    followed.until_live(&first).await;
    followed.cluster.registry.down(true);
    let second = followed.push(&web("v2").replace("image: web", "image: db"));
    followed.until("it is held up", is_held_up).await;
    followed.repo.delete_branch();
    followed.lead().await;
    tokio::time::sleep(s(20)).await;
    followed.cluster.registry.down(false);
    followed.until_live(&second).await;
    let ends = [(tag(&first), RunEnd::Live), (tag(&second), RunEnd::Live)];
    assert_eq!(followed.ends().await, ends);
}

#[tokio::test(start_paused = true)]
async fn a_pull_is_asked_for_until_something_was_pulled() {
    let followed = Followed::start().await;
    followed.add().await;
    followed.ask("pull").await;
    tokio::time::sleep(s(60)).await;
    let asked = async || followed.cluster.clear.requests().await.unwrap().len();
    assert_eq!(asked().await, 1, "there is no commit yet");
    let first = followed.push(&web("v1"));
    followed.until_live(&first).await;
    assert_eq!(asked().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_port_goes_to_another_node_in_two_commits() {
    let followed = Followed::start().await;
    let port = |yaml: &str| yaml.replace("expose: [80]", "expose: [\"18080:80\"]");
    let first = followed.push(&port(&web("v1")));
    followed.add().await;
    followed.until_live(&first).await;
    let moved = port(&web("v1")).replace("  web:", "  site:");
    let second = followed.push(&moved);
    let refused = |pointer: &Pointer| {
        pointer
            .quarantine
            .as_ref()
            .is_some_and(|bad| bad.stage == "stage")
    };
    followed.until("it is refused", refused).await;
    let third = followed.push(&web("v1"));
    followed.until_live(&third).await;
    let fourth = followed.push(&moved);
    followed.until_live(&fourth).await;
    let ends = [
        (tag(&first), RunEnd::Live),
        (tag(&second), RunEnd::Failed),
        (tag(&third), RunEnd::Live),
        (tag(&fourth), RunEnd::Live),
    ];
    assert_eq!(followed.ends().await, ends);
}

#[tokio::test(start_paused = true)]
async fn the_record_of_a_run_holds_its_times_its_plan_and_the_verdicts() {
    let followed = Followed::start().await;
    let first = followed.repo.commit("one", &[("viking.yml", &web("v1"))]);
    followed.add().await;
    followed.until_live(&first).await;
    let both = web("v2") + "  db: {image: db, run: v1}\n";
    let second = followed.repo.commit("two", &[("viking.yml", &both)]);
    followed.ask("sync").await;
    followed.until_live(&second).await;
    let bad = followed
        .repo
        .commit("bad", &[("viking.yml", "viking: {name: shop}\nbogus: 1\n")]);
    followed.ask("sync").await;
    let failed = |pointer: &Pointer| pointer.quarantine.is_some();
    followed.until("the bad commit has failed", failed).await;
    let records = followed.cluster.history("shop").await;
    let of = |commit: &Commit| records.iter().find(|r| r.commit.id == commit.0).unwrap();
    let stages = |commit: &Commit| -> Vec<String> {
        let stages = of(commit).stages_ms.iter();
        stages.map(|(stage, _)| stage.clone()).collect()
    };
    let whole = ["fetch", "parse", "build", "turn", "staging"];
    assert_eq!(
        (stages(&first), stages(&second)),
        (
            whole.map(str::to_owned).into(),
            whole.map(str::to_owned).into()
        )
    );
    assert_eq!(stages(&bad), ["fetch", "parse"]);
    let record = of(&second);
    let plan: Vec<_> = record
        .plan
        .iter()
        .map(|c| (c.node.to_string(), c.what))
        .collect();
    let expected = [
        ("db".to_owned(), ChangeKind::New),
        ("web".to_owned(), ChangeKind::Changed),
    ];
    assert_eq!(plan, expected);
    let placed = record.placed.iter().map(|start| start.job.node.as_str());
    assert_eq!(
        placed.collect::<std::collections::BTreeSet<_>>(),
        ["db", "web"].into()
    );
    assert!(
        record
            .placed
            .iter()
            .all(|start| start.verdicts.iter().any(Verdict::fits))
    );
}
