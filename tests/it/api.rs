//! The API over a real socket, on a store in memory and the fake engine: every route of the table
//! answers, nobody foreign may ask, and every error has the one form.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails there fails the test"
)]

mod env;
mod operate;

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use viking::api::{ApiState, Ask, ROUTES, Route, ServeError, serve};
use viking::config::Config;
use viking::docker::fake::FakeEngine;
use viking::docker::{Engine, NewContainer};
use viking::model::host::Member;
use viking::model::names::{HostName, StackName};
use viking::model::progress::{Progress, Stage};
use viking::model::release::{Commit, Source};
use viking::model::wire::Added;
use viking::store::local::LocalStore;
use viking::store::tables::Tables;
use viking::store::{Op, SharedStore, Txn};
use viking::wake::ProgressSink;

pub(crate) const COMMIT: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f9012345678";
const TAG: &str = "a1b2c3d4e5f6";

/// An API with a stack `shop` whose node `web` has a volume and runs once on `host-a`.
pub(crate) struct Scene {
    pub(crate) address: String,
    pub(crate) tables: Tables,
    store: SharedStore,
    engine: FakeEngine,
    progress: ProgressSink,
    asks: mpsc::Receiver<Ask>,
    shutdown: CancellationToken,
    http: Client,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Scene {
    pub(crate) async fn start() -> Self {
        let store: SharedStore = LocalStore::in_memory();
        let tables = Tables::open(store.clone(), "", None, 0).await.unwrap();
        let engine = FakeEngine::new();
        let (asks_in, asks) = mpsc::channel(4);
        let (_, leader) = watch::channel(None);
        let progress = broadcast::Sender::new(64);
        let config = Config {
            host: HostName::parse("host-a").unwrap(),
            ..Config::default()
        };
        let state = ApiState {
            tables: tables.clone(),
            engine: Arc::new(engine.clone()),
            config: Arc::new(config),
            asks: asks_in,
            progress: progress.clone(),
            leader,
            metrics: Arc::new(|| "counted\n".to_owned()),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(listener, state, shutdown.clone()));
        let scene = Self {
            address,
            tables,
            store,
            engine,
            progress,
            asks,
            shutdown,
            http: Client::builder().no_proxy().build().unwrap(),
        };
        scene.fill().await;
        scene
    }

    /// The keys of the stack, as a leader and a host would have written them.
    async fn fill(&self) {
        let commit = json!({
            "id": COMMIT, "subject": "Add search", "author": "anna", "at_ms": 1_700_000_000_000_u64
        });
        let job = format!("host-a/shop/{TAG}/web/0");
        self.put(
            "/stack/shop",
            &json!({ "v": 1, "url": "https://git.example/shop", "poll_ms": 1000 }),
        )
        .await;
        self.put(
            "/member/host-a",
            &json!({
                "v": 1, "machine_id": "m", "joined_ms": 0,
                "capacity": { "cpu_millis": 2000, "memory_bytes": 1 << 30 }
            }),
        )
        .await;
        self.put(
            "/host/host-a",
            &json!({
                "v": 1, "address": "127.0.0.1", "engine": { "state": "up", "version": "20.10" },
                "version": "0.6.0", "api": self.address, "started_ms": 0
            }),
        )
        .await;
        self.put(
            &format!("/release/shop/{TAG}"),
            &json!({
                "v": 1, "stack": "shop", "tag": TAG, "commit": commit, "run": "1-1", "made_ms": 1,
                "nodes": { "web": {
                    "tag": TAG, "kind": { "kind": "container" }, "spec_hash": "v1:0", "scale": 1,
                    "stop": { "timeout_ms": 1000 }, "has_volume": true, "exclusive": true
                } }
            }),
        )
        .await;
        self.put(
            "/release/shop",
            &json!({
                "v": 1, "live": TAG, "phase": "live",
                "source": { "state": "ok", "seen": commit, "since_ms": 0 }
            }),
        )
        .await;
        self.text(&format!("/deploy/{job}"), "shop-web").await;
        self.text(&format!("/run/shop/{TAG}/web/0"), "host-a").await;
        let world = self.tables.world(0).await.unwrap();
        let instance = world.assignments.values().next().unwrap().instance;
        self.put(&format!("/state/{job}"), &json!({
            "v": 1, "instance": instance, "state": "healthy", "since_ms": 0, "container": "shop-web",
            "published": [{ "port": 80, "proto": "tcp", "ip": "127.0.0.1", "host_port": 20001 }]
        }))
        .await;
    }

    pub(crate) async fn put(&self, key: &str, value: &Value) {
        self.text(key, &value.to_string()).await;
    }

    async fn text(&self, key: &str, value: &str) {
        let txn = Txn {
            compares: Vec::new(),
            ops: vec![Op::put(key, value)],
        };
        self.store.commit(txn).await.unwrap();
    }

    /// A container `shop-web` that printed two lines.
    async fn container(&self) {
        self.engine.add_image("img");
        self.engine.prints("shop-web", &["one", "two"]);
        let new = NewContainer {
            name: "shop-web".to_owned(),
            image: "img".to_owned(),
            ..NewContainer::default()
        };
        let network = self.engine.ensure_network("net", &Default::default()).await;
        let new = NewContainer {
            network: network.unwrap().name,
            ..new
        };
        let id = self.engine.create(&new).await.unwrap();
        self.engine.start(&id).await.unwrap();
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("http://{}{path}", self.address);
        self.http
            .request(method, url)
            .timeout(Duration::from_secs(20))
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).send().await.unwrap()
    }

    /// Answers the next question as the leader would.
    pub(crate) fn leader(&mut self, answer: Result<(), String>) -> tokio::task::JoinHandle<Source> {
        let mut asks = std::mem::replace(&mut self.asks, mpsc::channel(1).1);
        tokio::spawn(async move {
            let Some(Ask::Add { source, reply }) = asks.recv().await else {
                panic!("something else was asked");
            };
            let added = answer.map(|()| Added {
                schema: "viking.added/v1".to_owned(),
                stack: StackName::parse("shop").unwrap(),
                head: Some(Commit {
                    id: COMMIT.to_owned(),
                    subject: "Add search".to_owned(),
                    author: "anna".to_owned(),
                    at_ms: 0,
                }),
            });
            reply.send(added).unwrap();
            source
        })
    }
}

/// A path of the table with names that exist.
fn filled(path: &str) -> String {
    path.replace("{stack}", "shop")
        .replace("{tag}", TAG)
        .replace("{node}", "web")
        .replace("{host}", "host-a")
        .replace("{scope}", "prod")
        .replace("{var}", "TOKEN")
}

fn body_for(path: &str) -> Value {
    match path {
        "/v1/stacks" => json!({ "url": "/srv/shop", "poll_ms": 1000 }),
        "/v1/env/{scope}/{var}" => json!({ "value": "x" }),
        _ => json!({}),
    }
}

async fn check_error(response: Response, status: StatusCode) -> Value {
    assert_eq!(response.status(), status);
    let header = response.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let body: Value = response.json().await.unwrap();
    let keys: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["error", "hint", "id"], "{body}");
    assert_eq!(body["id"], header);
    assert!(!body["error"].as_str().unwrap().is_empty());
    assert!(!body["hint"].as_str().unwrap().is_empty(), "{body}");
    body
}

#[tokio::test]
async fn every_route_of_the_table_answers() {
    let mut scene = Scene::start().await;
    scene.container().await;
    scene.past().await;
    let leader = scene.leader(Ok(()));
    let gone = HostName::parse("host-gone").unwrap();
    let member = Member {
        v: 1,
        machine_id: "gone".to_owned(),
        ..Member::default()
    };
    scene.tables.register_member(&gone, &member).await.unwrap();
    // What takes the stack away comes last.
    let taking = |route: &&Route| route.method == "DELETE";
    // These two look at the repository, which is not there: `e2e::plan` has one.
    let looks = |route: &&Route| {
        ["plan", "apply"]
            .iter()
            .any(|end| route.path.ends_with(end))
    };
    let first = ROUTES
        .iter()
        .filter(|route| !taking(route) && !looks(route));
    for route in first.chain(ROUTES.iter().filter(taking)) {
        let method: Method = route.method.parse().unwrap();
        let query = if method == Method::DELETE {
            "?confirm=shop"
        } else {
            ""
        };
        // Only a host that is gone can be forgotten.
        let path = match (route.method, route.path) {
            ("DELETE", "/v1/hosts/{host}") => "/v1/hosts/host-gone".to_owned(),
            (_, "/v1/route") => "/v1/route?url=https://shop.example/".to_owned(),
            (_, path) => filled(path),
        };
        let mut request = scene.ask(method.clone(), &(path + query));
        if method == Method::POST {
            request = request.json(&body_for(route.path));
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        // A stream of progress has an answer at once and no end.
        if route.path == "/v1/progress" {
            assert!(status.is_success(), "{route:?}: {status}");
            continue;
        }
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{route:?}: {status} {text}");
        if route.path == "/metrics" {
            assert_eq!(text, "counted\n", "as Prometheus reads it");
            continue;
        }
        let lines = text.lines().filter(|line| !line.is_empty());
        for line in lines {
            serde_json::from_str::<Value>(line).unwrap();
        }
    }
    assert_eq!(leader.await.unwrap().url, "/srv/shop");
}

#[tokio::test]
async fn the_routes_of_0_5_3_tell_what_they_told() {
    let scene = Scene::start().await;
    let json = async |path: String| scene.get(&path).await.json::<Value>().await.unwrap();
    assert_eq!(json("/v1/ping".into()).await, json!(true));
    assert_eq!(
        json("/v1/network".into()).await["items"][0]["address"],
        "127.0.0.1"
    );
    assert_eq!(
        json("/v1/server/host-a".into()).await["jobs"][0]["job"]["node"],
        "web"
    );
    assert_eq!(json("/v1/stacks".into()).await["items"][0]["stack"], "shop");
    assert_eq!(json("/v1/stack/shop".into()).await["pointer"]["live"], TAG);
    assert_eq!(
        json("/v1/tags/shop".into()).await["items"][0]["role"],
        "live"
    );
    let nodes = json(format!("/v1/nodes/shop/{TAG}")).await;
    assert_eq!(nodes["nodes"]["web"]["node"]["scale"], 1);
    let allocation = json(format!("/v1/allocate/shop/{TAG}/web")).await;
    assert_eq!(allocation["jobs"][0]["host"], "host-a");
    assert_eq!(allocation["jobs"][0]["verdicts"][0]["host"], "host-a");
    let why = json("/v1/why/shop/web.0?not=host-a".into()).await;
    assert_eq!(why["schema"], "viking.why/v1");
    assert_eq!(why["jobs"][0]["not"]["because"], "it is on that host");
    let dump = json("/v1/debug/dump".into()).await;
    assert_eq!(dump["schema"], "viking.dump/v1");
    let dump: viking::model::dump::Dump = serde_json::from_value(dump).unwrap();
    assert_eq!(dump.world.members.len(), 1);
    let info = json("/v1/info".into()).await;
    assert_eq!(info["routes"].as_array().unwrap().len(), ROUTES.len());
    assert_eq!(info["stacks"][0]["health"], "healthy");
}

#[tokio::test]
async fn unknown_names_are_404_with_a_hint() {
    let scene = Scene::start().await;
    for path in [
        "/v1/stack/shpo",
        "/v1/status/nosuch",
        "/v1/tags/nosuch",
        "/v1/server/nosuch",
        "/v1/history/nosuch",
        "/v1/logs/nosuch/web",
        "/v1/logs/shop/nosuch",
        "/v1/nodes/shop/bbbbbbbbbbbb",
        "/v1/allocate/shop/a1b2c3d4e5f6/nosuch",
        "/v1/why/shop/nosuch",
        "/v1/why/shop/web.7",
        "/v1/why/shop/web?not=nosuch",
        "/v1/nosuch",
        "/",
    ] {
        check_error(scene.get(path).await, StatusCode::NOT_FOUND).await;
    }
    let body = check_error(scene.get("/v1/stack/shpo").await, StatusCode::NOT_FOUND).await;
    assert_eq!(body["hint"], "did you mean shop?");
}

#[tokio::test]
async fn wrong_requests_have_the_same_form() {
    let scene = Scene::start().await;
    let put = scene.ask(Method::PUT, "/v1/ping").send().await.unwrap();
    check_error(put, StatusCode::METHOD_NOT_ALLOWED).await;
    let stacks = || scene.ask(Method::POST, "/v1/stacks");
    let odd = stacks()
        .json(&json!({ "url": "x", "poll_ms": 1000, "nosuch": 1 }))
        .send();
    check_error(odd.await.unwrap(), StatusCode::UNPROCESSABLE_ENTITY).await;
    let big = stacks()
        .header("content-type", "application/json")
        .body(vec![b' '; 2 << 20]);
    check_error(big.send().await.unwrap(), StatusCode::PAYLOAD_TOO_LARGE).await;
    let form = stacks()
        .header("content-type", "text/plain")
        .body("{}")
        .send();
    check_error(form.await.unwrap(), StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
    let secret = json!({ "url": "https://u:hunter2@h/x", "poll_ms": 1000 });
    let body = stacks().json(&secret).send().await.unwrap();
    let body = check_error(body, StatusCode::BAD_REQUEST).await;
    assert!(!body.to_string().contains("hunter2"));
}

#[tokio::test]
async fn names_that_are_not_this_machines_are_refused() {
    let scene = Scene::start().await;
    let named = |host: &str| {
        scene
            .ask(Method::GET, "/v1/ping")
            .header("host", host.to_owned())
    };
    for evil in ["evil.example", "evil.example:8791", "10.0.0.1"] {
        check_error(named(evil).send().await.unwrap(), StatusCode::FORBIDDEN).await;
    }
    for own in ["localhost", "localhost:1", "127.0.0.1"] {
        assert!(named(own).send().await.unwrap().status().is_success());
    }
    let page = named("localhost").header("origin", "https://evil.example");
    check_error(page.send().await.unwrap(), StatusCode::FORBIDDEN).await;
}

#[tokio::test]
async fn an_api_open_to_others_is_not_served() {
    let scene = Scene::start().await;
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let (asks, _) = mpsc::channel(1);
    let state = ApiState {
        tables: scene.tables.clone(),
        engine: Arc::new(scene.engine.clone()),
        config: Arc::new(Config::default()),
        asks,
        progress: scene.progress.clone(),
        leader: watch::channel(None).1,
        metrics: Arc::new(String::new),
    };
    let served = serve(listener, state, CancellationToken::new()).await;
    assert!(
        matches!(served, Err(ServeError::NotLoopback(_))),
        "{served:?}"
    );
}

#[tokio::test]
async fn a_stack_with_volumes_is_removed_only_by_its_name() {
    let scene = Scene::start().await;
    let remove = |query: &str| scene.ask(Method::DELETE, &format!("/v1/stack/shop{query}"));
    for query in ["", "?confirm=shpo"] {
        check_error(remove(query).send().await.unwrap(), StatusCode::CONFLICT).await;
    }
    let shop = StackName::parse("shop").unwrap();
    assert!(
        scene
            .tables
            .sources()
            .await
            .unwrap()
            .sources
            .contains_key(&shop)
    );
    assert!(
        remove("?confirm=shop")
            .send()
            .await
            .unwrap()
            .status()
            .is_success()
    );
    assert!(scene.tables.sources().await.unwrap().sources.is_empty());
    check_error(
        remove("?confirm=shop").send().await.unwrap(),
        StatusCode::CONFLICT,
    )
    .await;
}

#[tokio::test]
async fn a_sync_is_a_request_to_the_leader() {
    let scene = Scene::start().await;
    let sync = scene
        .ask(Method::POST, "/v1/stack/shop/sync")
        .json(&json!({ "pull": true }));
    assert!(sync.send().await.unwrap().status().is_success());
    let requests = scene.tables.requests().await.unwrap();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].2.kind, "pull");
}

#[tokio::test]
async fn what_the_leader_says_against_a_repository_is_passed_on() {
    let mut scene = Scene::start().await;
    let leader = scene.leader(Err("viking.yml:3: unknown key imgae".to_owned()));
    let add = scene
        .ask(Method::POST, "/v1/stacks")
        .json(&body_for("/v1/stacks"));
    let body = check_error(add.send().await.unwrap(), StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(body["error"], "viking.yml:3: unknown key imgae");
    leader.await.unwrap();
}

/// The next line of a stream that is not empty.
async fn next_line(response: &mut Response, buffer: &mut Vec<u8>) -> Option<Value> {
    loop {
        if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            if line.len() > 1 {
                return Some(serde_json::from_slice(&line).unwrap());
            }
            continue;
        }
        buffer.extend_from_slice(&response.chunk().await.ok()??);
    }
}

#[tokio::test]
async fn logs_come_with_their_job_and_follow_until_the_host_stops() {
    let scene = Scene::start().await;
    scene.container().await;
    let mut stream = scene.get("/v1/logs/shop/web.0?follow=true&tail=1").await;
    let mut buffer = Vec::new();
    let first = next_line(&mut stream, &mut buffer).await.unwrap();
    assert_eq!(
        (&first["job"], &first["text"]),
        (&json!("shop/web.0"), &json!("two"))
    );
    scene.engine.print("shop-web", "three");
    assert_eq!(
        next_line(&mut stream, &mut buffer).await.unwrap()["text"],
        "three"
    );
    scene.shutdown.cancel();
    assert_eq!(next_line(&mut stream, &mut buffer).await, None);
}

#[tokio::test]
async fn progress_is_told_to_who_asks_for_that_stack() {
    let scene = Scene::start().await;
    let mut stream = scene.get("/v1/progress?stack=shop").await;
    for stack in ["other", "shop"] {
        let step = Progress {
            stack: StackName::parse(stack).unwrap(),
            run: None,
            at_ms: 0,
            stage: Stage::Build,
            about: "web".to_owned(),
            line: "Step 1/2".to_owned(),
        };
        scene.progress.send(step).unwrap();
    }
    let mut buffer = Vec::new();
    let step = next_line(&mut stream, &mut buffer).await.unwrap();
    assert_eq!(
        (&step["stack"], &step["stage"]),
        (&json!("shop"), &json!("build"))
    );
}
