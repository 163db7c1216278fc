//! Builds against the real engine and a real registry. Needs Docker with the images
//! `viking/busybox:1` and `viking/registry:2`.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use viking::build::registry::{HttpRegistry, Registry};
use viking::build::{Error, LOG_LINES_KEPT};
use viking::docker::bollard::BollardEngine;
use viking::model::names::StackName;
use viking::model::spec::ImageRef;
use viking::model::vikingfile::{BuildEntry, DockerfileSource};

use super::{Stack, entry, image, node, outside, own};

/// A registry in a container of this test; removed with everything that was pushed there.
struct Real {
    container: String,
    address: String,
}

impl Real {
    async fn start() -> (Self, Stack) {
        let container = docker(&[
            "run",
            "-d",
            "-p",
            "127.0.0.1:0:5000",
            "--label",
            "viking.test=build",
            "viking/registry:2",
        ]);
        let real = Self {
            address: docker(&["port", &container, "5000/tcp"]),
            container,
        };
        let registry = HttpRegistry::new(&real.address).expect("an HTTP client");
        let up = async {
            while registry.digest("none", "none").await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), up)
            .await
            .expect("the registry comes up");
        let engine = BollardEngine::connect("unix:///var/run/docker.sock")
            .expect("Docker must run for this test");
        let stack = Stack::new(Arc::new(engine), Arc::new(registry));
        (real, stack)
    }

    /// What a command prints inside an image.
    fn run(&self, image: &ImageRef, command: &str) -> String {
        let reference = image.reference(&self.address);
        docker(&["run", "--rm", &reference, "sh", "-c", command])
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let format = "{{.Repository}}:{{.Tag}}";
        let filter = format!("reference={}/*/*", self.address);
        let names = docker(&["images", "--filter", &filter, "--format", format]);
        for name in names.lines().filter(|name| !name.ends_with("<none>")) {
            Command::new("docker")
                .args(["rmi", "-f", name])
                .output()
                .ok();
        }
        let remove = ["rm", "-f", "-v", &self.container];
        Command::new("docker").args(remove).output().ok();
    }
}

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker")
        .args(args)
        .output()
        .expect("the docker command must be there for this test");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {args:?}: {error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn chain() -> Vec<BuildEntry> {
    vec![
        entry(
            "web",
            "FROM viking/busybox:1 AS tool\nRUN echo made > /made\n\
             FROM viking:s/src\nCOPY --from=tool /made /made\n\
             COPY --from=viking:s/assets /assets.txt /assets.txt",
        ),
        entry("src", "FROM viking:s/base\nCOPY app /app"),
        entry("base", "FROM viking/busybox:1\nCOPY base.txt /"),
        entry("assets", "FROM viking/busybox:1\nCOPY assets.txt /"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn only_images_whose_input_changed_are_built() {
    let (real, mut stack) = Real::start().await;
    let first = [
        ("app/main", "one"),
        ("assets.txt", "a"),
        ("base.txt", "b"),
        ("README.md", "1"),
    ];
    let built = stack.build(&first, &chain(), &[]).await.unwrap();
    assert_eq!(stack.ran(), ["assets", "base", "src", "web"]);
    let web = built.images[&image("web")].image_ref();
    assert_eq!(
        real.run(&web, "cat /made /assets.txt /base.txt /app/main"),
        "made\nabone"
    );

    let readme = [first[0], first[1], first[2], ("README.md", "2")];
    let again = stack.build(&readme, &chain(), &[]).await.unwrap();
    assert_eq!(stack.ran(), [""; 0]);
    for (name, record) in &again.images {
        assert_eq!(record.digest, built.images[name].digest);
        assert_eq!(record.built_by, built.images[name].built_by);
        assert_eq!(record.build_ms, 0);
    }

    let parent = [first[0], first[1], ("base.txt", "B"), first[3]];
    let changed = stack.build(&parent, &chain(), &[]).await.unwrap();
    assert_eq!(stack.ran(), ["base", "src", "web"]);
    let web = changed.images[&image("web")].image_ref();
    assert_eq!(real.run(&web, "cat /base.txt"), "B");
    assert!(changed.images[&image("web")].size_bytes > 0);

    // Back to the first files: its records are still known.
    stack.build(&first, &chain(), &[]).await.unwrap();
    assert_eq!(stack.ran(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_holds_the_folder_and_nothing_of_ours() {
    let (real, mut stack) = Real::start().await;
    let entries = [entry("all", "FROM viking/busybox:1\nCOPY . /c/\n")];
    let files = [
        ("viking.yml", "1"),
        ("docs/a.md", "x"),
        ("docs/keep.md", "x"),
        (".dockerignore", "**/*.md\n!docs/keep.md"),
        ("link", "->docs"),
    ];
    let built = stack.build(&files, &entries, &[]).await.unwrap();
    let all = built.images[&image("all")].image_ref();
    let listing = "cd /c && find . -type f -o -type l | sort";
    let want = "./.dockerignore\n./docs/keep.md\n./link";
    assert_eq!(real.run(&all, listing), want);
    assert_eq!(real.run(&all, "stat -c %Y /c/docs/keep.md"), "946684800");

    let scaled = [("viking.yml", "2"), files[1], files[2], files[3], files[4]];
    stack.build(&scaled, &entries, &[]).await.unwrap();
    assert_eq!(stack.ran(), [""; 0]);

    let named = [entry(
        "all",
        "FROM viking/busybox:1\nCOPY viking.yml docs /c/\n",
    )];
    let plain = [files[0], files[1]];
    let built = stack.build(&plain, &named, &[]).await.unwrap();
    let all = built.images[&image("all")].image_ref();
    assert_eq!(real.run(&all, listing), "./a.md\n./viking.yml");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_command_is_the_commits_fault_with_its_last_lines() {
    let (_real, mut stack) = Real::start().await;
    let text = "FROM viking/busybox:1\nRUN for i in $(seq 40); do echo line $i; done; exit 3";
    let failed = stack.build(&[], &[entry("web", text)], &[]).await;
    let (name, reason, log) = own(failed);
    assert_eq!(name, "web");
    assert!(reason.ends_with("returned a non-zero code: 3"), "{reason}");
    assert!(log.iter().any(|line| line == "line 40"), "{log:?}");
    assert!(log.len() <= LOG_LINES_KEPT);
    assert!(
        stack
            .seen
            .iter()
            .any(|p| p.line == "line 1" && p.about == "web")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_builder_can_see_is_the_commits_fault_too() {
    let (_real, mut stack) = Real::start().await;
    let base = "FROM viking/busybox:1\n";
    for rest in [
        "COPY nope /x",
        "COPY nope* /x",
        "COPY --from=viking/busybox:1 /nope /x",
        "COPY --from=7 /nope /x",
        "USER nope\nRUN true",
        "RUN [\"nope\"]",
        "RUN echo address already in use && exit 3",
        "ENV A=${B:?is wanted}",
        "WORKDIR /etc/passwd",
        "FROM UPPER/x",
        "ENV x",
        "EXPOSE x",
    ] {
        let text = format!("{base}{rest}");
        let failed = stack.build(&[], &[entry("web", &text)], &[]).await;
        assert!(
            matches!(failed, Err(Error::Own { .. })),
            "{rest}: {failed:?}"
        );
    }
    // Nobody listens there.
    let away = entry("web", "FROM 127.0.0.1:1/x:1");
    outside(stack.build(&[], &[away], &[]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_commit_is_a_dockerfile_and_its_mistakes_are_told() {
    let (real, mut stack) = Real::start().await;
    let mut web = entry("web", "");
    web.dockerfile = DockerfileSource::File("build/Dockerfile".to_owned());
    web.context = "app".to_owned();
    web.args = BTreeMap::from([("WHO".to_owned(), "you".to_owned())]);
    web.target = Some("one".to_owned());
    let text = "ARG BASE=viking/busybox:1\nFROM $BASE AS one\nARG WHO\nRUN echo $WHO > /who\nFROM one\nRUN false";
    let files = [("app/build/Dockerfile", text), ("other", "x")];
    let built = stack.build(&files, &[web.clone()], &[]).await.unwrap();
    let reference = built.images[&image("web")].image_ref();
    assert_eq!(real.run(&reference, "cat /who"), "you");

    let broken = [("app/build/Dockerfile", "FROM a\nRUN cat <<EOF\nx\nEOF")];
    let (_, reason, _) = own(stack.build(&broken, &[web.clone()], &[]).await);
    assert!(
        reason.starts_with("build/Dockerfile: Dockerfile line 2:"),
        "{reason}"
    );
    let (_, reason, _) = own(stack.build(&[("app/x", "")], &[web], &[]).await);
    assert!(reason.contains("is not in the commit"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_this_engine_alone_goes_to_our_registry_once() {
    let (real, mut stack) = Real::start().await;
    let nodes = [node("a", "viking/busybox:1"), node("b", "viking/busybox:1")];
    let built = stack.build(&[], &[], &nodes).await.unwrap();
    let found = built.external["viking/busybox:1"].clone();
    assert!(
        matches!(&found, ImageRef::Ours { repository, .. } if repository.starts_with("s/external."))
    );
    assert_eq!(real.run(&found, "echo works"), "works");
    assert!(!stack.seen.is_empty());
    let again = stack.build(&[], &[], &nodes).await.unwrap();
    assert_eq!(again.external["viking/busybox:1"], found);
    assert!(stack.seen.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_the_registry_lost_comes_back_from_the_engine() {
    let (real, mut stack) = Real::start().await;
    let entries = [entry("web", "FROM viking/busybox:1\nRUN echo kept > /kept")];
    let first = stack.build(&[], &entries, &[]).await.unwrap();
    let record = &first.images[&image("web")];
    let manifest = format!(
        "http://{}/v2/{}/manifests/{}",
        real.address, record.repository, record.digest
    );
    let gone = reqwest::Client::new().delete(manifest).send().await;
    assert!(gone.unwrap().status().is_success());
    let second = stack.build(&[], &entries, &[]).await.unwrap();
    assert_eq!(stack.ran(), [""; 0]);
    assert_eq!(second.images[&image("web")].digest, record.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_registries_refuse_can_be_pushed() {
    let (real, mut stack) = Real::start().await;
    stack.name = StackName::parse("s-_s-").expect("a name");
    let entries = [entry("a__-", "FROM viking/busybox:1\nRUN echo odd > /odd")];
    let built = stack.build(&[], &entries, &[]).await.unwrap();
    let reference = built.images[&image("a__-")].image_ref();
    assert_eq!(real.run(&reference, "cat /odd"), "odd");
}
