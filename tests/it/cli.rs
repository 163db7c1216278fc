//! The binary as people call it: help, exit codes, what goes to which stream; against nobody and
//! against a real API.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails there fails the test"
)]

use std::process::{Output, Stdio};

use serde_json::json;
use tokio::process::Command;

use crate::api::{COMMIT, Scene};

/// Runs viking without a terminal and without the caller's settings.
async fn viking(api: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_viking"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("VIKING_")) {
        command.env_remove(name);
    }
    command
        .env_remove("RUST_LOG")
        .env("VIKING_API", api)
        .env("VIKING_CONFIG", "/dev/null")
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A port that nobody listens on.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn help_teaches() {
    let output = viking(&nobody(), &["--help"]).await;
    assert_eq!(output.status.code(), Some(0));
    insta::assert_snapshot!("help", text(&output.stdout));
}

#[tokio::test]
async fn wrong_usage_ends_with_64() {
    for args in [
        &["nosuch"][..],
        &["status", "--nosuch"],
        &["remove"],
        &["status", "Not A Name"],
        &["logs", "shop/web.x"],
        &["rollback"],
        &["rollback", "shop", "../x"],
        &["restart", "shop"],
        &["restart", "shop/We b"],
        &["suspend"],
        &["remove", "shop"],
        &["why", "shop"],
        &["sim"],
        &["sim", "--world", "a", "--state", "b"],
        &["remove", "shop", "--confirm", "shpo"],
        &["add", "/nonexistent/repository"],
        &["host", "--api", "0.0.0.0:1"],
        &["host", "--etcd", "http://192.0.2.1:2379"],
        &["host", "--etcd", "https://192.0.2.1:2379"],
        &["host", "--etcd-user", "anna"],
        &["up", "--insecure-etcd"],
        &["status", "--api", "no address"],
        &[],
    ] {
        let output = viking(&nobody(), args).await;
        assert_eq!(
            output.status.code(),
            Some(64),
            "{args:?}: {}",
            text(&output.stderr)
        );
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[tokio::test]
async fn a_store_older_than_this_host_has_seen_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let id = {
        let path = dir.path().join("store.redb");
        let store = viking::store::local::LocalStore::open(&path).unwrap();
        let tables = viking::store::tables::Tables::open(store, "", None, 0).await;
        tables.unwrap().cluster().to_owned()
    };
    std::fs::write(dir.path().join("cluster"), &id).unwrap();
    std::fs::write(dir.path().join("seen"), "999999999").unwrap();
    let data_dir = dir.path().to_str().unwrap();
    let output = viking(&nobody(), &["host", "--data-dir", data_dir]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("this host has seen 999999999"), "{said}");
    assert!(said.contains("/seen"), "it says what to do: {said}");
}

#[tokio::test]
async fn another_name_for_a_host_that_has_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("host"), "old-name").unwrap();
    let data_dir = dir.path().to_str().unwrap();
    let args = ["host", "--data-dir", data_dir, "--host-name", "new-name"];
    let output = viking(&nobody(), &args).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("belongs to host old-name"), "{said}");
}

#[tokio::test]
async fn nobody_there_is_said_with_what_to_do() {
    let api = nobody();
    let output = viking(&api, &["stacks"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr).replace(&api, "API");
    insta::assert_snapshot!("refused", said);
    let output = viking(&api, &["status", "--exit-code"]).await;
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn status_is_green_for_people_and_programs() {
    let scene = Scene::start().await;
    let output = viking(&scene.address, &["status", "shop", "--exit-code"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    assert!(
        shown.starts_with("STACK shop  a1b2c3d4e5f6 \"Add search\" (anna, "),
        "{shown}"
    );
    assert!(shown.contains("80/tcp at 127.0.0.1:20001"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "no colour without a terminal");

    let output = viking(&scene.address, &["status", "-o", "json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "viking.status/v1");
    let output = viking(&scene.address, &["status", "-o", "name"]).await;
    assert_eq!(text(&output.stdout), "shop\n");
    let output = viking(&scene.address, &["status", "shpo"]).await;
    assert!(text(&output.stderr).contains("hint: did you mean shop?"));
}

#[tokio::test]
async fn lists_print_in_every_form() {
    let scene = Scene::start().await;
    for command in [
        &["stacks"][..],
        &["hosts"],
        &["images"],
        &["events"],
        &["history", "shop"],
    ] {
        for form in ["table", "wide", "json", "yaml", "name"] {
            let args = [command, &["-o", form]].concat();
            let output = viking(&scene.address, &args).await;
            assert_eq!(
                output.status.code(),
                Some(0),
                "{args:?}: {}",
                text(&output.stderr)
            );
        }
    }
    let output = viking(&scene.address, &["stacks", "--no-header"]).await;
    assert!(
        text(&output.stdout).starts_with("shop "),
        "{}",
        text(&output.stdout)
    );
    let output = viking(&scene.address, &["debug", "keys"]).await;
    let keys = text(&output.stdout);
    assert!(
        keys.lines()
            .any(|line| line == "/run/shop/a1b2c3d4e5f6/web/0\thost-a"),
        "{keys}"
    );
}

#[tokio::test]
async fn up_says_at_once_what_is_live_already() {
    let mut scene = Scene::start().await;
    let leader = scene.leader(Ok(()));
    let output = viking(
        &scene.address,
        &["up", "https://git.example/shop", "--once"],
    )
    .await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let expected = "live at a1b2c3d4e5f6: 1 job on 1 host\n  shop/web.0  80/tcp  127.0.0.1:20001\n";
    assert_eq!(text(&output.stdout), expected);
    assert_eq!(leader.await.unwrap().poll_ms, 30_000);
}

#[tokio::test]
async fn up_ends_with_1_and_the_log_when_the_commit_failed() {
    let mut scene = Scene::start().await;
    let commit = json!({ "id": COMMIT, "subject": "Add search", "author": "anna", "at_ms": 0 });
    let pointer = json!({
        "v": 1, "phase": "failed",
        "source": { "state": "ok", "seen": commit, "since_ms": 0 },
        "quarantine": {
            "commit": commit, "tag": "a1b2c3d4e5f6", "run": "1-1", "stage": "build", "at_ms": 0,
            "reason": "RUN make exited with 2", "log": ["make: no rule"]
        }
    });
    scene.put("/release/shop", &pointer).await;
    let leader = scene.leader(Ok(()));
    let output = viking(
        &scene.address,
        &["up", "https://git.example/shop", "--once"],
    )
    .await;
    leader.await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let said = text(&output.stderr);
    let expected = "shop a1b2c3d4e5f6 \"Add search\" failed at build: RUN make exited with 2";
    assert!(said.contains(expected), "{said}");
    assert!(said.contains("    make: no rule"), "{said}");
}

/// What follows a line of the documentation up to the end of its block.
fn documented<'a>(page: &'a str, command: &str) -> &'a str {
    let (_, rest) = page.split_once(command).expect("the command is there");
    rest.trim_start().split("```").next().unwrap()
}

#[tokio::test]
async fn worlds_are_planned_as_the_documentation_says() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/worlds.md")).unwrap();
    let file = root.join("examples/worlds/lost-host.yml");
    let file = file.to_str().unwrap();
    let output = viking(&nobody(), &["sim", "--world", file]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let told = documented(&page, "$ viking sim --world examples/worlds/lost-host.yml");
    assert_eq!(text(&output.stdout), told);
    let output = viking(&nobody(), &["sim", "--world", file, "-o", "json"]).await;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["schema"], "viking.plan/v1");
    assert_eq!(answer["plans"][0]["start"][0]["host"], "beta");
}

/// The reader of worlds names what it knows when it meets what it does not.
#[test]
fn every_key_of_a_world_is_documented() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/worlds.md")).unwrap();
    for world in [
        "nosuch: 1",
        "hosts: {a: {nosuch: 1}}",
        "stacks: {a: {nosuch: 1}}",
        "stacks: {a: {releases: {a1: {web: {nosuch: 1}}}}}",
        "jobs: [{nosuch: 1}]",
    ] {
        let error = viking::schedule::script::world(world).unwrap_err();
        let known = error
            .lines()
            .next()
            .and_then(|line| line.split("expected one of ").nth(1));
        let known: Vec<_> = known.unwrap_or_default().split(", ").collect();
        assert!(known.len() > 3, "{error}");
        for key in known {
            assert!(page.contains(&format!("`{key}`")), "{key} of {world}");
        }
    }
}

#[tokio::test]
async fn a_dumped_world_can_be_tried_out_without_a_host() {
    let scene = Scene::start().await;
    let dump = viking(&scene.address, &["debug", "dump"]).await;
    assert_eq!(dump.status.code(), Some(0), "{}", text(&dump.stderr));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump.json");
    std::fs::write(&file, &dump.stdout).unwrap();
    let file = file.to_str().unwrap();
    let output = viking(&nobody(), &["sim", "--state", file, "--lose", "host-a"]).await;
    let said = text(&output.stdout);
    assert!(
        said.contains("blocked shop/a1b2c3d4e5f6/web/0: host-a is lost"),
        "{said}"
    );
    for wrong in [
        &["--lose", "nosuch"][..],
        &["--add", "host-a"],
        &["--add", "host-b:cores=4"],
        &["--add", "host-b:cpu=many"],
    ] {
        let args = [&["sim", "--state", file], wrong].concat();
        let output = viking(&nobody(), &args).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}: {said}");
    }
}

#[tokio::test]
async fn what_would_move_is_told_step_by_step() {
    let text_of = "hosts: {alpha: {}, beta: {}}\nstacks:\n  shop:\n    live: a1\n    \
        releases: {a1: {db: {filter: [ssd]}, web: {link: [db]}}}\n";
    let world = viking::schedule::script::world(text_of).unwrap();
    let dump = viking::model::dump::Dump::of(world);
    let json = serde_json::to_vec(&dump).unwrap();
    let back: viking::model::dump::Dump = serde_json::from_slice(&json).unwrap();
    assert_eq!(back, dump, "nothing is lost on the way");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump.json");
    std::fs::write(&file, &json).unwrap();
    let add = "gamma:cpu=4,memory=8G,tags=ssd+gpu";
    let args = ["sim", "--state", file.to_str().unwrap(), "--add", add];
    let output = viking(&nobody(), &args).await;
    assert_eq!(
        text(&output.stdout),
        "step 1\nstart   shop/a1/db/0 on gamma\nstep 2\nstart   shop/a1/web/0 on alpha\n"
    );
}

/// A world with one release live, and a folder whose `viking.yml` would follow it.
fn world_and_folder(yaml: &str) -> (tempfile::TempDir, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let world = "hosts: {alpha: {}, beta: {tags: [ssd]}}\nstacks:\n  shop:\n    live: a1\n    \
        releases: {a1: {db: {volume: true}, web: {scale: 2}}}\njobs:\n  \
        - {job: shop/a1/db/0, host: beta, state: healthy}\n  \
        - {job: shop/a1/web/0, host: alpha, state: healthy}\n  \
        - {job: shop/a1/web/1, host: beta, state: healthy}\nfixed: {shop/db.0: beta}\n";
    let file = dir.path().join("world.yml");
    std::fs::write(&file, world).unwrap();
    let folder = dir.path().join("shop");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("viking.yml"), yaml).unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    (dir, text(&file), text(&folder))
}

#[tokio::test]
async fn what_a_folder_would_do_is_told_without_a_host() {
    let yaml = "viking: {name: shop}\nbuild:\n  page: |\n    FROM scratch\n    ADD index.html /\ndeploy:\n  \
        db: {image: db, volume: [/data], expose: [5432]}\n  web: {image: 'viking:shop/page', scale: 3, link: db, expose: [80], domains: [shop.example]}\n";
    let (dir, world, folder) = world_and_folder(yaml);
    std::fs::write(dir.path().join("shop/index.html"), "hello").unwrap();
    let args = ["sim", "--world", &world, "--commit", &folder];
    let output = viking(&nobody(), &args).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout).replace(&folder, "FOLDER");
    insta::assert_snapshot!(said);
    let output = viking(&nobody(), &[&args[..], &["-o", "json"]].concat()).await;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["schema"], "viking.foretold/v1");
    assert_eq!(answer["nodes"][0]["downtime"], "data");
    let output = viking(&nobody(), &[&args[..], &["-o", "name"]].concat()).await;
    assert!(text(&output.stdout).starts_with("shop@"), "the digest");
}

#[tokio::test]
async fn a_folder_that_would_fail_says_why_by_words_and_exit_code() {
    let scene = Scene::start().await;
    let (dir, _, folder) = world_and_folder("viking: {name: shop}\ndeploy:\n  web: {imige: web}\n");
    let output = viking(&scene.address, &["plan", &folder, "--exit-code"]).await;
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("did you mean \"image\""), "{said}");
    let yaml = "viking: {name: shop}\nbuild:\n  page: |\n    FROM scratch\n    ADD index.html /\ndeploy:\n  \
        web: {image: 'viking:shop/other'}\n";
    std::fs::write(dir.path().join("shop/viking.yml"), yaml).unwrap();
    let output = viking(&scene.address, &["plan", &folder, "--exit-code"]).await;
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    let nothing = dir.path().join("nothing");
    std::fs::create_dir(&nothing).unwrap();
    let output = viking(&scene.address, &["plan", nothing.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("there is no "), "{said}");
    let output = viking(&scene.address, &["apply", "--plan", "nonsense"]).await;
    assert_eq!(output.status.code(), Some(64));
    let said = text(&output.stderr);
    assert!(said.contains("STACK@COMMIT:HASH"), "{said}");
}

#[tokio::test]
async fn what_people_decide_is_accepted_and_says_where_to_look() {
    let scene = Scene::start().await;
    scene.past().await;
    for (args, said) in [
        (
            &["rollback", "shop"][..],
            "goes back to bbbbbbbbbbbb \"Another\"",
        ),
        (
            &["rollback", "shop", "bbbbbbbbbbbb"],
            "goes back to bbbbbbbbbbbb \"Another\"",
        ),
        (&["retry", "shop"], "cccccccccccc is made again"),
        (&["restart", "shop/web"], "web is made anew"),
        (&["resume", "shop"], "was not suspended"),
        (
            &["suspend", "shop"],
            "its repository is not looked at and nothing new is brought up until `viking resume`; what \
             runs is kept running",
        ),
    ] {
        let output = viking(&scene.address, args).await;
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(text(&output.stdout), format!("shop: {said}\n"));
        assert!(
            text(&output.stderr).contains("viking status shop"),
            "{args:?}"
        );
    }
    let output = viking(&scene.address, &["rollback", "shop", "-o", "json"]).await;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["schema"], "viking.accepted/v1");
    let output = viking(&scene.address, &["sync", "shop"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("shop is suspended since "), "{said}");
    assert!(said.contains("hint: viking resume shop"), "{said}");
    let output = viking(&scene.address, &["rollback", "shop", "dddddddddddd"]).await;
    assert!(text(&output.stderr).contains("hint: known: bbbbbbbbbbbb"));
}
