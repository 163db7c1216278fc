//! Routes that ask something of a stack that is there: what they leave for the leader, and what they
//! refuse early, with a sentence that helps.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use viking::model::names::StackName;

use super::{Scene, check_error};

impl Scene {
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
}

fn shop() -> StackName {
    StackName::parse("shop").unwrap()
}

#[tokio::test]
async fn a_suspended_stack_says_so_and_is_resumed() {
    let scene = Scene::start().await;
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
    for what in ["shop/sync"] {
        let (error, hint) = scene
            .is_refused(what, json!({}), StatusCode::CONFLICT)
            .await;
        assert!(error.starts_with("shop is suspended since "), "{error}");
        assert!(hint.starts_with("viking resume shop"), "{hint}");
    }
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
    for what in ["suspend", "resume"] {
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
