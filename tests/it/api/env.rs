//! Shared variables through the API and the command line: what is set is never given out, and what is in
//! use is not unset.

use std::process::Stdio;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use viking::api::ROUTES;

use super::{Scene, TAG, check_error, filled};

const SECRET: &str = "hunter2-hunter2";

impl Scene {
    async fn set(&self, name: &str, body: Value) -> reqwest::Response {
        let path = format!("/v1/env/prod/{name}");
        self.ask(Method::POST, &path)
            .json(&body)
            .send()
            .await
            .unwrap()
    }

    async fn unset(&self, name: &str) -> reqwest::Response {
        let path = format!("/v1/env/prod/{name}");
        self.ask(Method::DELETE, &path).send().await.unwrap()
    }

    /// The live release of `shop` names `prod/TOKEN` at version 1.
    async fn names_token(&self) {
        let image = json!({ "kind": "external", "name": "web", "digest": "sha256:1" });
        let shared = json!({ "TOKEN": { "scope": "prod", "name": "TOKEN", "version": 1 } });
        let spec = json!({ "v": 1, "image": image, "settings": { "shared": shared } });
        self.put(&format!("/proc/shop/{TAG}/web"), &spec).await;
    }
}

#[tokio::test]
async fn a_variable_is_set_listed_and_unset_and_its_value_never_told() {
    let scene = Scene::start().await;
    let answer = scene.set("TOKEN", json!({ "value": SECRET })).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let set: Value = answer.json().await.unwrap();
    assert_eq!(set["schema"], "viking.variable/v1");
    assert_eq!(set["version"], 1);
    let said = "is at version 1; no release that is live or on its way names it";
    assert_eq!(set["accepted"], said);
    scene.names_token().await;
    let set: Value = scene
        .set("TOKEN", json!({ "value": SECRET }))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        set["accepted"],
        "is at version 2; shop gets it in a new release"
    );
    let list: Value = scene.get("/v1/env?scope=prod").await.json().await.unwrap();
    assert_eq!(list["schema"], "viking.variables/v1");
    let row = &list["items"][0];
    assert_eq!(
        (&row["scope"], &row["name"]),
        (&json!("prod"), &json!("TOKEN"))
    );
    assert_eq!(row["version"], 2);
    let used = json!([{ "stack": "shop", "release": "live", "version": 1 }]);
    assert_eq!(row["used_by"], used);
    // No route gives it out.
    for route in ROUTES.iter().filter(|route| route.method == "GET") {
        if [
            "/v1/progress",
            "/v1/logs/{stack}",
            "/v1/logs/{stack}/{node}",
        ]
        .contains(&route.path)
        {
            continue; // streams, of what jobs print
        }
        let text = scene.get(&filled(route.path)).await.text().await.unwrap();
        assert!(!text.contains(SECRET), "{}", route.path);
    }
    let body = check_error(scene.unset("TOKEN").await, StatusCode::CONFLICT).await;
    assert_eq!(body["error"], "prod/TOKEN is in use by shop");
    let hint = body["hint"].as_str().unwrap();
    assert!(
        hint.contains("does not name _prod:TOKEN any more"),
        "{hint}"
    );
    // Once nobody names it.
    scene.set("OTHER", json!({ "value": "" })).await;
    let gone: Value = scene.unset("OTHER").await.json().await.unwrap();
    assert_eq!(gone.get("version"), None);
    let body = check_error(scene.unset("OTHER").await, StatusCode::NOT_FOUND).await;
    assert_eq!(body["hint"], "known: prod/TOKEN");
    let again: Value = scene
        .set("OTHER", json!({ "value": "" }))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(again["version"], 2, "no number is used twice");
}

#[tokio::test]
async fn what_is_wrong_with_a_value_is_said_without_it() {
    let scene = Scene::start().await;
    let large = SECRET.repeat(5_000);
    for value in [
        json!(format!("{SECRET}\0")),
        json!(large),
        json!([SECRET]),
        json!(271_828_182),
    ] {
        let answer = scene.set("TOKEN", json!({ "value": value })).await;
        let body = check_error(answer, StatusCode::UNPROCESSABLE_ENTITY)
            .await
            .to_string();
        assert!(
            !body.contains(SECRET) && !body.contains("271828182"),
            "{body}"
        );
    }
    let answer = scene.set("1X", json!({ "value": SECRET })).await;
    let body = check_error(answer, StatusCode::BAD_REQUEST).await;
    assert!(!body.to_string().contains(SECRET));
    let list: Value = scene.get("/v1/env").await.json().await.unwrap();
    assert_eq!(list["items"], json!([]));
    check_error(
        scene.get("/v1/env?scope=nosuch").await,
        StatusCode::NOT_FOUND,
    )
    .await;
}

/// Runs `viking env …` with this on stdin; code, stdout, stderr.
async fn env(api: &str, args: &[&str], stdin: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_viking"))
        .env("VIKING_API", api)
        .env("VIKING_CONFIG", "/dev/null")
        .env("RUST_LOG", "trace")
        .arg("env")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // One that does not read it ends before.
    pipe.write_all(stdin.as_bytes()).await.ok();
    drop(pipe);
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

async fn value(scene: &Scene, name: &str, version: u64) -> String {
    let var = viking::model::env::VarRef {
        scope: "prod".parse().unwrap(),
        name: name.parse().unwrap(),
    };
    let wanted = [var.at(version)].into();
    let found = scene.tables.secrets(&wanted).await.unwrap();
    found[&var.at(version)].expose().to_owned()
}

#[tokio::test]
async fn the_command_line_takes_a_value_from_its_arguments_or_from_stdin() {
    let scene = Scene::start().await;
    let api = scene.address.as_str();
    let (code, out, err) = env(api, &["set", "prod", "TOKEN=a=b"], "").await;
    assert_eq!(code, 0, "{err}");
    let said = "prod/TOKEN is at version 1; no release that is live or on its way names it\n";
    assert_eq!(out, said);
    assert!(!err.contains("a=b"), "not in the log either: {err}");
    assert_eq!(value(&scene, "TOKEN", 1).await, "a=b");
    for (args, stdin, expected) in [
        (&["set", "prod", "TOKEN"][..], "two\n", "two"),
        (
            &["set", "prod", "TOKEN", "-"],
            "three\nlines\n\n",
            "three\nlines\n",
        ),
        (&["set", "prod", "TOKEN="], "", ""),
    ] {
        let (code, out, err) = env(api, &[args, &["-o", "json"]].concat(), stdin).await;
        assert_eq!(code, 0, "{err}");
        let set: Value = serde_json::from_str(&out).unwrap();
        let version = set["version"].as_u64().unwrap();
        assert_eq!(value(&scene, "TOKEN", version).await, expected);
    }
    for form in ["table", "wide", "json", "yaml", "name"] {
        let (code, out, _) = env(api, &["list", "prod", "-o", form], "").await;
        assert_eq!(code, 0);
        assert!(out.contains("TOKEN") && !out.contains("three"), "{out}");
    }
    let (code, out, _) = env(api, &["unset", "prod", "TOKEN"], "").await;
    assert_eq!(code, 0);
    assert!(out.starts_with("prod/TOKEN is not set any more"), "{out}");
}

#[tokio::test]
async fn what_is_wrong_on_the_command_line_is_said_without_the_value() {
    let scene = Scene::start().await;
    for (args, stdin) in [
        (&["set", "prod", "1X=hunter2-hunter2"][..], ""),
        (&["set", "prod", "TOKEN", "hunter2-hunter2"], ""),
        (&["set", "prod", "TOKEN=hunter2-hunter2", "-"], ""),
        (&["set", "prod", "TOKEN"], ""),
        (&["set", "prod", "TOKEN"], "hunter2-hunter2\0"),
        (&["set", "Not A Scope", "TOKEN=x"], ""),
        (&["unset", "prod", "TOKEN=x"], ""),
        (&["set", "prod"], "x"),
    ] {
        let (code, out, err) = env(&scene.address, args, stdin).await;
        assert_eq!((code, out.as_str()), (64, ""), "{args:?}: {err}");
        assert!(!err.contains(SECRET), "{args:?}: {err}");
    }
    let large = SECRET.repeat(5_000);
    let (code, _, err) = env(&scene.address, &["set", "prod", "TOKEN"], &large).await;
    assert!(code == 64 && err.contains("more than 65536 bytes"), "{err}");
}
