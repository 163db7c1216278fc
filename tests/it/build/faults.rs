//! Builds against the fake engine and registry: whose fault it is, what is asked for how often.

use std::sync::Arc;
use std::time::Duration;

use viking::build::Places;
use viking::build::fake_registry::FakeManifests;
use viking::build::registry::HttpRegistry;
use viking::docker::fake::FakeEngine;
use viking::model::names::StackName;
use viking::model::spec::ImageRef;
use viking::model::vikingfile::BuildEntry;

use super::{FAKE_ADDRESS, Stack, entry, image, node, outside, own};

#[tokio::test]
async fn a_registry_that_does_not_answer_is_nobodys_fault() {
    let registry = HttpRegistry::new("127.0.0.1:1").expect("an HTTP client");
    let engine = FakeEngine::new();
    engine.registry().down(true);
    let mut stack = Stack::new(Arc::new(engine.clone()), Arc::new(registry));
    let entries = [entry("web", "FROM x")];
    outside(stack.build(&[], &entries, &[]).await);
    let (_, mut stack) = Stack::fake();
    stack.build(&[], &entries, &[]).await.unwrap();
    stack.registry = Arc::new(HttpRegistry::new("127.0.0.1:1").expect("an HTTP client"));
    let reason = outside(stack.build(&[], &entries, &[]).await);
    assert_eq!(reason, "the registry at 127.0.0.1:1 cannot be reached");
}

/// Files, images, what the reason must say.
type Case<'a> = (Vec<(&'a str, &'a str)>, Vec<BuildEntry>, &'a str);

#[tokio::test]
async fn hostile_and_impossible_commits_fail_before_anything_is_built() {
    let (engine, mut stack) = Stack::fake();
    let all = "FROM x\nCOPY . /";
    let cases: Vec<Case<'_>> = vec![
        (
            vec![("l", "->../../etc/passwd")],
            vec![entry("a", all)],
            "leads outside",
        ),
        (
            vec![("l", "->/etc/passwd")],
            vec![entry("a", all)],
            "leads outside",
        ),
        (
            vec![(".dockerignore", "[")],
            vec![entry("a", all)],
            "not a pattern",
        ),
        (
            vec![],
            vec![entry("a", "FROM x"), entry("b", "FORM x")],
            "not an instruction",
        ),
        (vec![], vec![entry("a", "FROM viking:s/b")], "a → b"),
        (
            vec![],
            vec![
                entry("a", "FROM viking:s/b"),
                entry("b", "FROM x\nCOPY --from=viking:s/a x y"),
            ],
            "a → b → a",
        ),
    ];
    for (files, entries, want) in cases {
        let (_, reason, _) = own(stack.build(&files, &entries, &[]).await);
        assert!(reason.contains(want), "{reason}");
    }
    let mut outside_folder = entry("a", all);
    outside_folder.context = "../x".to_owned();
    own(stack.build(&[], &[outside_folder], &[]).await);
    assert_eq!(engine.calls().get("build"), None);
}

#[tokio::test]
async fn a_parent_of_another_stack_is_its_live_image() {
    let (engine, mut stack) = Stack::fake();
    let entries = [entry("web", "FROM viking:other/base")];
    let reason = outside(stack.build(&[], &entries, &[]).await);
    assert!(
        reason.contains("viking:other/base, which is not live"),
        "{reason}"
    );
    let key = (StackName::parse("other").expect("a name"), image("base"));
    for digest in ["sha256:1", "sha256:2", "sha256:2"] {
        let live = ImageRef::Ours {
            repository: "other/base".to_owned(),
            digest: digest.to_owned(),
        };
        stack.others.insert(key.clone(), live);
        stack.build(&[], &entries, &[]).await.unwrap();
    }
    assert_eq!(engine.calls().get("build"), Some(&2));
}

#[tokio::test]
async fn a_lost_manifest_is_pushed_again_or_built_again() {
    let (engine, mut stack) = Stack::fake();
    let entries = [entry("web", "FROM x")];
    let first = stack.build(&[], &entries, &[]).await.unwrap();
    let repository = format!("{FAKE_ADDRESS}/s/web");
    stack.lost = true;
    engine.registry().lose(&repository);
    let second = stack.build(&[], &entries, &[]).await.unwrap();
    assert_eq!(
        first.images[&image("web")].digest,
        second.images[&image("web")].digest
    );
    assert_eq!(engine.calls().get("build"), Some(&1));

    engine.registry().lose(&repository);
    for tag in engine_tags(&stack) {
        stack
            .engine
            .untag(&format!("{repository}:{tag}"))
            .await
            .unwrap();
    }
    stack.build(&[], &entries, &[]).await.unwrap();
    assert_eq!(engine.calls().get("build"), Some(&2));
}

fn engine_tags(stack: &Stack) -> Vec<String> {
    (1..=stack.releases).map(|n| format!("{n:012x}")).collect()
}

#[tokio::test(start_paused = true)]
async fn independent_images_are_built_at_the_same_time() {
    let (engine, mut stack) = Stack::fake();
    engine.latency("build", Duration::from_secs(60));
    let entries = [
        entry("a", "FROM x"),
        entry("b", "FROM y"),
        entry("c", "FROM viking:s/a\nCOPY --from=viking:s/b p q"),
    ];
    let started = tokio::time::Instant::now();
    stack.build(&[], &entries, &[]).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 120);
}

/// Where the registry listens is not part of what an image is made from.
#[tokio::test]
async fn a_registry_at_another_port_builds_nothing() {
    let (engine, mut stack) = Stack::fake();
    let entries = [entry("base", "FROM x"), entry("web", "FROM viking:s/base")];
    stack.build(&[], &entries, &[]).await.unwrap();
    stack.registry = Arc::new(FakeManifests::new("127.0.0.1:5001", engine.registry()));
    for (name, record) in stack.known.clone() {
        // What the registry keeps, under its new address.
        for at in [FAKE_ADDRESS, "127.0.0.1:5001"] {
            let repository = format!("{at}/s/{name}");
            let tag = record[0].built_by.as_str();
            let old = format!("{FAKE_ADDRESS}/s/{name}:{tag}");
            stack.engine.tag(&old, &repository, tag).await.unwrap();
            let (lines, _reader) = tokio::sync::mpsc::channel(10);
            stack.engine.push(&repository, tag, &lines).await.unwrap();
        }
    }
    stack.build(&[], &entries, &[]).await.unwrap();
    assert_eq!(engine.calls()["build"], 2, "one each, the first time");
}

#[tokio::test]
async fn a_base_whose_onbuild_lines_read_the_context_makes_every_file_count() {
    let (engine, mut stack) = Stack::fake();
    engine.build_triggers("made for others", &["RUN true", "copy . /app"]);
    let base = "FROM x\nRUN echo made for others";
    // By an external name, and as another stack's live image.
    let built = stack.build(&[], &[entry("base", base)], &[]).await.unwrap();
    let live = built.images[&image("base")].image_ref();
    stack.name = StackName::parse("t").expect("a name");
    let key = (StackName::parse("s").expect("a name"), image("base"));
    stack.others.insert(key, live.clone());
    let external = live.reference(FAKE_ADDRESS);
    for from in ["viking:s/base", external.as_str()] {
        stack.known.clear();
        engine.reset_calls();
        let entries = [entry("web", &format!("FROM {from}"))];
        for text in ["1", "2", "2"] {
            stack.build(&[("f", text)], &entries, &[]).await.unwrap();
        }
        assert_eq!(engine.calls()["build"], 2, "{from}");
    }
}

#[tokio::test]
async fn a_base_is_fetched_only_when_something_must_be_built_on_it() {
    let (engine, mut stack) = Stack::fake();
    engine.registry().publish("base:1", "one");
    let entries = [entry("web", "FROM base:1\nCOPY f /")];
    stack.build(&[("f", "1")], &entries, &[]).await.unwrap();
    assert_eq!(engine.calls()["pull"], 1);
    // Cleaned up on this host, and its registry is away: nothing is built, so nobody is asked.
    stack.engine.untag("base:1").await.unwrap();
    engine.registry().lose("base");
    stack.build(&[("f", "1")], &entries, &[]).await.unwrap();
    assert_eq!((engine.calls()["pull"], engine.calls()["build"]), (1, 1));
    // It is not there to be built on: the builder says so in its own words.
    engine.build_fails("", &[], "manifest unknown");
    own(stack.build(&[("f", "2")], &entries, &[]).await);
}

#[tokio::test]
async fn a_pull_builds_on_a_newer_base_once() {
    let (engine, mut stack) = Stack::fake();
    let entries = [entry("web", "FROM base:1")];
    let builds = async |pull: bool, stack: &mut Stack| {
        engine.reset_calls();
        stack.pull = pull;
        stack.build(&[], &entries, &[]).await.unwrap();
        engine.calls().get("build").copied().unwrap_or(0)
    };
    engine.registry().publish("base:1", "one");
    assert_eq!(builds(false, &mut stack).await, 1);
    assert_eq!(builds(true, &mut stack).await, 0, "still the newest");
    let newer = engine.registry().publish("base:1", "with a fix");
    assert_eq!(builds(false, &mut stack).await, 0, "nobody asked");
    assert_eq!(builds(true, &mut stack).await, 1);
    let record = &stack.known[&image("web")][0];
    assert_eq!(record.bases["base:1"], newer);
    assert_eq!(builds(false, &mut stack).await, 0);
    assert_eq!(builds(true, &mut stack).await, 0);
    engine.registry().lose("base");
    assert_eq!(
        builds(true, &mut stack).await,
        0,
        "a silent registry is no news"
    );
}

#[tokio::test(start_paused = true)]
async fn builds_of_all_stacks_share_the_places() {
    let places = Places::default();
    let minute = Duration::from_secs(60);
    let stacks = (0..20).map(|_| {
        let (engine, mut stack) = Stack::fake();
        engine.latency("build", minute);
        stack.places = places.clone();
        async move { stack.build(&[], &[entry("a", "FROM x")], &[]).await }
    });
    let started = tokio::time::Instant::now();
    for built in futures_util::future::join_all(stacks).await {
        built.unwrap();
    }
    // Eight places at most.
    assert!(started.elapsed() >= 3 * minute, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_is_nobodys_fault() {
    let (engine, mut stack) = Stack::fake();
    engine.latency("build", Duration::from_secs(24 * 60 * 60));
    let reason = outside(stack.build(&[], &[entry("web", "FROM x")], &[]).await);
    assert!(reason.contains("did not end the build"), "{reason}");
}

#[tokio::test]
async fn external_references_are_asked_for_once_and_missing_ones_told_apart() {
    let (engine, mut stack) = Stack::fake();
    let digest = engine.registry().publish("redis:7", "one");
    let nodes = [node("db", "redis:7")];
    let want = ImageRef::External {
        name: "redis".to_owned(),
        digest,
    };
    let built = stack.build(&[], &[], &nodes).await.unwrap();
    assert_eq!(built.external["redis:7"], want);
    // The tag moves, its registry goes away: what was found stays.
    engine.registry().publish("redis:7", "two");
    engine.registry().down(true);
    let built = stack.build(&[], &[], &nodes).await.unwrap();
    assert_eq!(built.external["redis:7"], want);

    outside(stack.build(&[], &[], &[node("db", "redis:8")]).await);
    engine.registry().down(false);
    let (name, reason, _) = own(stack.build(&[], &[], &[node("db", "redis:8")]).await);
    assert_eq!(name, "redis:8");
    assert!(
        reason.contains("neither in this engine nor in its registry"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_forecast_says_why_an_image_is_built() {
    let (_, mut stack) = Stack::fake();
    let base = || entry("base", "FROM x\nCOPY base.txt /");
    let all = |web: &str| [base(), entry("web", web)];
    let web = "FROM viking:s/base\nCOPY src /src";
    let files = [
        ("base.txt", "b"),
        ("src/a", "1"),
        ("src/b", "1"),
        ("README", "1"),
    ];
    assert_eq!(
        stack.why(&files, &[], &all(web)).unwrap(),
        "it is built on base, which is built"
    );
    assert_eq!(
        stack.why(&files, &[], &[base()]).unwrap(),
        "it was never built"
    );
    stack.build(&files, &all(web), &[]).await.unwrap();
    let other = |file: usize| {
        let mut files = files;
        files[file].1 = "2";
        files
    };
    assert_eq!(stack.why(&other(3), &files, &all(web)), None);
    assert_eq!(
        stack.why(&other(2), &files, &all(web)).unwrap(),
        "changed: src/b"
    );
    assert_eq!(
        stack.why(&other(2), &[], &all(web)).unwrap(),
        "files that it reads changed"
    );
    assert_eq!(
        stack.why(&other(0), &files, &all(web)).unwrap(),
        "it is built on base, which is built"
    );
    let why = stack.why(
        &files,
        &files,
        &all("FROM viking:s/base\nRUN true\nCOPY src /src"),
    );
    assert_eq!(
        why.unwrap(),
        "its Dockerfile, or an image that it names, changed"
    );
    let mut args = all(web);
    args[1].args.insert("A".to_owned(), "b".to_owned());
    let why = stack.why(&files, &files, &args).unwrap();
    assert_eq!(why, "its args, target or platform changed");
}
