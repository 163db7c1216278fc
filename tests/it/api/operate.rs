//! Routes that ask something of a stack that is there: what they leave for the leader, and what they
//! refuse early, with a sentence that helps.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use viking::model::names::StackName;

use super::{Scene, TAG, check_error};

const BEFORE: &str = "bbbbbbbbbbbb";
const FAILED: &str = "cccccccccccc";

fn commit(digits: &str, subject: &str) -> Value {
    let id = format!("{digits:0<40}");
    json!({ "id": id, "subject": subject, "author": "anna", "at_ms": 0 })
}

impl Scene {
    /// Another release was live before, and a newer commit has failed since.
    pub(crate) async fn past(&self) {
        let image = json!({ "kind": "external", "name": "web", "digest": "sha256:1" });
        let spec = json!({ "v": 1, "image": image, "settings": {} });
        for tag in [TAG, BEFORE, FAILED] {
            self.put(&format!("/proc/shop/{tag}/web"), &spec).await;
        }
        let live: Value = self.release(TAG).await;
        for (tag, made_ms) in [(BEFORE, 0), (FAILED, 2)] {
            let mut release = live.clone();
            release["tag"] = json!(tag);
            release["commit"] = commit(tag, "Another");
            release["run"] = json!(format!("{made_ms}-1"));
            release["made_ms"] = json!(made_ms);
            release["nodes"]["web"]["tag"] = json!(tag);
            release["nodes"]["web"]["spec_hash"] = json!("v1:other");
            self.put(&format!("/release/shop/{tag}"), &release).await;
        }
        for (tag, run, end) in [
            (BEFORE, "0-1", "live"),
            (TAG, "1-1", "live"),
            (FAILED, "2-1", "failed"),
        ] {
            let record = json!({
                "v": 1, "run": run, "commit": commit(tag, "Another"), "tag": tag, "end": end, "ended_ms": 1
            });
            self.put(&format!("/history/shop/{run}"), &record).await;
        }
        let bad = commit(FAILED, "Another");
        self.put("/release/shop", &json!({
            "v": 1, "live": TAG, "phase": "failed",
            "source": { "state": "ok", "seen": bad, "since_ms": 0 },
            "quarantine": {
                "commit": bad, "tag": FAILED, "run": "2-1", "stage": "health", "at_ms": 0, "reason": "ill"
            }
        }))
        .await;
    }

    async fn release(&self, tag: &str) -> Value {
        let world = self.tables.world(0).await.unwrap();
        let releases = &world.stacks[&shop()].releases;
        let found = releases
            .values()
            .find(|release| release.tag.as_str() == tag);
        serde_json::to_value(found.unwrap()).unwrap()
    }

    async fn asks(&self, what: &str, body: Value) -> Value {
        let path = format!("/v1/stack/shop/{what}");
        let answer = self.ask(Method::POST, &path).json(&body).send().await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{what} {body}");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["schema"], "viking.accepted/v1");
        assert_eq!(answer["stack"], "shop");
        answer["accepted"].clone()
    }

    async fn is_refused(&self, what: &str, body: Value, status: StatusCode) -> (String, String) {
        let path = format!("/v1/stack/{what}");
        let answer = self.ask(Method::POST, &path).json(&body).send().await;
        let body = check_error(answer.unwrap(), status).await;
        let text = |key: &str| body[key].as_str().unwrap().to_owned();
        (text("error"), text("hint"))
    }

    async fn requests(&self) -> Vec<(String, String)> {
        let requests = self.tables.requests().await.unwrap().into_iter();
        requests.map(|(_, _, r)| (r.kind, r.about)).collect()
    }
}

fn shop() -> StackName {
    StackName::parse("shop").unwrap()
}

fn asked(kind: &str, about: &str) -> (String, String) {
    (kind.to_owned(), about.to_owned())
}

#[tokio::test]
async fn a_rollback_names_the_release_it_goes_to() {
    let scene = Scene::start().await;
    scene.past().await;
    let said = scene.asks("rollback", json!({})).await;
    assert_eq!(said, format!("goes back to {BEFORE} \"Another\""));
    scene.asks("rollback", json!({ "tag": BEFORE })).await;
    let to = || asked("rollback", BEFORE);
    assert_eq!(scene.requests().await, [to(), to()]);
}

#[tokio::test]
async fn a_rollback_that_makes_no_sense_is_refused_early() {
    let scene = Scene::start().await;
    let nothing = "no other release of shop was live before a1b2c3d4e5f6";
    let refused = async |body: Value, status| scene.is_refused("shop/rollback", body, status).await;
    let (error, hint) = refused(json!({}), StatusCode::CONFLICT).await;
    assert_eq!(
        (error.as_str(), hint.as_str()),
        (nothing, "push a commit that reverts what is wrong")
    );
    scene.past().await;
    let (error, hint) = refused(json!({ "tag": "dddddddddddd" }), StatusCode::NOT_FOUND).await;
    assert_eq!(error, "no release \"dddddddddddd\"");
    assert_eq!(hint, format!("known: {BEFORE}"));
    let (error, _) = refused(json!({ "tag": FAILED }), StatusCode::CONFLICT).await;
    assert_eq!(error, format!("{FAILED} never went live"));
    let (error, hint) = refused(json!({ "tag": TAG }), StatusCode::CONFLICT).await;
    assert_eq!(error, format!("{TAG} is live already"));
    assert!(hint.starts_with("viking restart shop/NODE"), "{hint}");
    refused(json!({ "tga": TAG }), StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(scene.requests().await, []);
}

#[tokio::test]
async fn only_a_commit_that_failed_is_tried_again() {
    let scene = Scene::start().await;
    let (error, _) = scene
        .is_refused("shop/retry", json!({}), StatusCode::CONFLICT)
        .await;
    assert_eq!(error, "a1b2c3d4e5f6, the newest commit of shop, is live");
    scene.past().await;
    let said = scene.asks("retry", json!({})).await;
    assert_eq!(said, format!("{FAILED} is made again"));
    assert_eq!(
        scene.requests().await,
        [asked("retry", &format!("{FAILED:0<40}"))]
    );
}

#[tokio::test]
async fn a_restart_names_a_node_that_is_live() {
    let scene = Scene::start().await;
    scene.past().await;
    assert_eq!(
        scene.asks("restart/web", json!({})).await,
        "web is made anew"
    );
    assert_eq!(scene.requests().await, [asked("restart", "web")]);
    let what = "shop/restart/wbe";
    let (error, hint) = scene
        .is_refused(what, json!({}), StatusCode::NOT_FOUND)
        .await;
    assert_eq!(
        (error.as_str(), hint.as_str()),
        ("no node \"wbe\"", "did you mean web?")
    );
}

#[tokio::test]
async fn a_suspended_stack_says_so_and_is_resumed() {
    let scene = Scene::start().await;
    scene.past().await;
    let since = async || {
        let world = scene.tables.world(0).await.unwrap();
        world.stacks[&shop()].suspended_ms()
    };
    let said = scene.asks("resume", json!({})).await;
    assert_eq!(said, "was not suspended");
    scene.asks("suspend", json!({})).await;
    let first = since().await.unwrap();
    let said = scene.asks("suspend", json!({})).await;
    assert!(
        said.as_str()
            .unwrap()
            .starts_with("was suspended already, since ")
    );
    assert_eq!(since().await, Some(first));
    for what in ["shop/sync", "shop/retry"] {
        let (error, hint) = scene
            .is_refused(what, json!({}), StatusCode::CONFLICT)
            .await;
        assert!(error.starts_with("shop is suspended since "), "{error}");
        assert!(hint.starts_with("viking resume shop"), "{hint}");
    }
    scene.asks("rollback", json!({})).await;
    let status: Value = scene.get("/v1/status/shop").await.json().await.unwrap();
    assert_eq!(status["stacks"][0]["health"], "suspended");
    scene.asks("resume", json!({})).await;
    assert_eq!(since().await, None);
    scene.asks("sync", json!({})).await;
}

#[tokio::test]
async fn unknown_stacks_and_vikings_own_are_refused() {
    let scene = Scene::start().await;
    scene
        .put("/release/core", &json!({ "v": 1, "phase": "live" }))
        .await;
    for what in ["rollback", "retry", "restart/registry", "suspend", "resume"] {
        let path = format!("shpo/{what}");
        let (_, hint) = scene
            .is_refused(&path, json!({}), StatusCode::NOT_FOUND)
            .await;
        assert_eq!(hint, "did you mean shop?");
        let path = format!("core/{what}");
        let (error, _) = scene
            .is_refused(&path, json!({}), StatusCode::CONFLICT)
            .await;
        assert_eq!(
            error,
            "core is viking's own stack and follows no repository"
        );
    }
}

#[tokio::test]
async fn a_stack_that_others_require_is_not_removed_from_under_them() {
    let scene = Scene::start().await;
    let mut sagas = scene.release(TAG).await;
    sagas["stack"] = json!("sagas");
    sagas["require"] = json!(["shop"]);
    scene.put(&format!("/release/sagas/{TAG}"), &sagas).await;
    let pointer =
        |removing: bool| json!({ "v": 1, "live": TAG, "phase": "live", "removing": removing });
    scene.put("/release/sagas", &pointer(false)).await;
    let remove = || scene.ask(Method::DELETE, "/v1/stack/shop?confirm=shop");
    let refused = check_error(remove().send().await.unwrap(), StatusCode::CONFLICT).await;
    let error = refused["error"].as_str().unwrap();
    assert_eq!(error, "shop is required by what is live of sagas");
    // Once that is on its way out it needs nothing any more.
    scene.put("/release/sagas", &pointer(true)).await;
    assert_eq!(remove().send().await.unwrap().status(), StatusCode::OK);
}
