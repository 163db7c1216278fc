//! The contract for images: builds, push and pull.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use viking::docker::{BuildRequest, Error, NewContainer};
use viking::model::spec::HealthCheck;

use super::containers::{free_port, port};
use super::{BUSYBOX, Env, contract, eventually};

/// Lines that no test here exceeds.
const LINES: usize = 1000;

contract!(
    a_build_streams_its_log_and_names_its_image,
    a_failing_step_is_the_commits_fault_with_its_last_lines,
    a_broken_context_is_not_the_commits_fault,
    a_cancelled_build_leaves_no_container,
    an_image_travels_by_digest,
    an_image_tells_what_a_build_on_it_runs_first,
    a_registry_that_is_away_is_an_error_and_no_absence,
);

async fn a_build_streams_its_log_and_names_its_image(env: Env) {
    let script = "printf '\\033[31mred words\\033[0m\\n'";
    let dockerfile = format!("FROM {BUSYBOX}\nCOPY greeting /\nRUN {script}\n");
    env.script(|fake| fake.build_behaves("red words", Default::default()));
    let name = env.image("built");
    let files = [("Dockerfile", dockerfile.as_str()), ("greeting", "hello\n")];
    let (id, lines) = env.build(&name, &files).await;
    let id = id.unwrap();
    assert!(id.starts_with("sha256:"), "{id}");
    assert!(lines[0].starts_with("Step 1/"), "{lines:?}");
    let coloured = lines.iter().any(|line| line.contains('\u{1b}'));
    assert!(!coloured, "{lines:?}");
    let image = env.engine.image(&name).await.unwrap().unwrap();
    assert_eq!(image.id, id);
    assert!(image.size_bytes > 0 && !image.has_healthcheck);
    assert_eq!(env.engine.image(&id).await.unwrap().unwrap().id, id);
    // The same again is the same image.
    assert_eq!(env.build(&name, &files).await.0.unwrap(), id);
    let (repository, _) = name.rsplit_once(':').unwrap();
    env.engine.tag(&id, repository, "other").await.unwrap();
    env.engine.untag(&name).await.unwrap();
    assert_eq!(env.engine.image(&name).await.unwrap(), None);
    let other = format!("{repository}:other");
    assert_eq!(env.engine.image(&other).await.unwrap().unwrap().id, id);
    env.engine.untag(&other).await.unwrap();
    assert_eq!(env.engine.image(&id).await.unwrap(), None);
    env.done().await;
}

async fn a_failing_step_is_the_commits_fault_with_its_last_lines(env: Env) {
    let dockerfile = format!("FROM {BUSYBOX}\nRUN echo it went; echo wrong; exit 7\n");
    env.script(|fake| {
        let error = "The command returned a non-zero code: 7";
        fake.build_fails("exit 7", &["it went", "wrong"], error);
    });
    let name = env.image("failed");
    let (built, lines) = env.build(&name, &[("Dockerfile", &dockerfile)]).await;
    let Err(Error::BuildFailed(text)) = built else {
        panic!("{built:?}");
    };
    assert!(
        text.contains("non-zero code: 7") && text.ends_with("it went\nwrong"),
        "{text}"
    );
    let streamed = |line: &str| lines.iter().any(|streamed| streamed == line);
    assert!(streamed("it went") && streamed("wrong"), "{lines:?}");
    assert_eq!(env.engine.image(&name).await.unwrap(), None);
    env.done().await;
}

async fn a_broken_context_is_not_the_commits_fault(env: Env) {
    let (pieces, context) = mpsc::channel(1);
    let (lines, _reader) = mpsc::channel(LINES);
    let name = env.image("broken");
    let build = env.engine.build(env.request(&name, context), &lines);
    let feed = async {
        let tar = tar(&[("Dockerfile", &format!("FROM {BUSYBOX}\n"))]);
        pieces.send(Ok(Bytes::from(tar))).await.unwrap();
        let broken = std::io::Error::other("the object store is gone");
        pieces.send(Err(broken)).await.unwrap();
    };
    let (built, ()) = tokio::join!(build, feed);
    let Err(Error::Other(text)) = built else {
        panic!("{built:?}");
    };
    assert!(text.contains("the object store is gone"), "{text}");
    assert_eq!(env.engine.image(&name).await.unwrap(), None);
    env.done().await;
}

async fn a_cancelled_build_leaves_no_container(env: Env) {
    // The label makes the container of the running step findable.
    let dockerfile = format!(
        "FROM {BUSYBOX}\nLABEL viking.cluster={}\nRUN sleep 1000\n",
        env.cluster
    );
    env.script(|fake| fake.latency("build", Duration::from_secs(1000)));
    let name = env.image("cancelled");
    let count = async || env.engine.list(&env.cluster).await.unwrap().len();
    let files = [("Dockerfile", dockerfile.as_str())];
    let build = env.build(&name, &files);
    let on_docker = env.fake.is_none();
    tokio::select! {
        (built, _) = build => panic!("the build ended: {built:?}"),
        () = eventually("the step runs", || async {
            (!on_docker || count().await == 1).then_some(())
        }) => {}
    }
    eventually("the step's container is gone", || async {
        (count().await == 0).then_some(())
    })
    .await;
    assert_eq!(env.engine.image(&name).await.unwrap(), None);
    env.done().await;
}

async fn an_image_travels_by_digest(env: Env) {
    let registry = env.registry().await;
    let repository = format!("{registry}/{}/web", env.cluster);
    let local = env.image("travels");
    let dockerfile = format!("FROM {BUSYBOX}\nLABEL made.for={}\n", env.cluster);
    let (id, _) = env.build(&local, &[("Dockerfile", &dockerfile)]).await;
    let id = id.unwrap();
    env.engine.tag(&local, &repository, "v1").await.unwrap();
    let (lines, _reader) = mpsc::channel(LINES);
    let digest = env.engine.push(&repository, "v1", &lines).await.unwrap();
    assert_eq!(
        env.engine.push(&repository, "v1", &lines).await.unwrap(),
        digest
    );
    let tagged = format!("{repository}:v1");
    let exact = format!("{repository}@{digest}");
    let known = env.engine.remote_digest(&tagged).await.unwrap();
    assert_eq!(known.as_ref(), Some(&digest));
    let unknown = env.engine.remote_digest(&format!("{repository}:v2")).await;
    assert_eq!(unknown.unwrap(), None);
    let image = env.engine.image(&exact).await.unwrap().unwrap();
    assert_eq!(image.id, id);
    assert!(image.repo_digests.contains(&exact), "{image:?}");
    for name in [&local, &tagged] {
        env.engine.untag(name).await.unwrap();
    }
    assert_eq!(env.engine.image(&exact).await.unwrap(), None);
    env.engine.pull(&exact, &lines).await.unwrap();
    assert_eq!(env.engine.image(&exact).await.unwrap().unwrap().id, id);
    let new = NewContainer {
        image: exact.clone(),
        ..env.sleeper("a")
    };
    let container = env.run(&new).await;
    assert_eq!(env.see(&container).await.image_id, id);
    let missing = env.engine.pull(&format!("{repository}:v2"), &lines).await;
    assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");
    env.done().await;
}

async fn an_image_tells_what_a_build_on_it_runs_first(env: Env) {
    let name = env.image("triggers");
    let dockerfile = format!("FROM {BUSYBOX}\nONBUILD COPY . /x\nONBUILD RUN true\n");
    env.script(|fake| fake.build_triggers("ONBUILD", &["COPY . /x", "RUN true"]));
    let (id, _) = env.build(&name, &[("Dockerfile", &dockerfile)]).await;
    id.unwrap();
    let image = env.engine.image(&name).await.unwrap().unwrap();
    assert_eq!(image.on_build, ["COPY . /x", "RUN true"]);
    env.engine.untag(&name).await.unwrap();
    env.done().await;
}

async fn a_registry_that_is_away_is_an_error_and_no_absence(env: Env) {
    env.script(|fake| fake.registry().down(true));
    let reference = format!("127.0.0.1:{}/x/y:1", free_port());
    let digest = env.engine.remote_digest(&reference).await;
    assert!(matches!(digest, Err(Error::Other(_))), "{digest:?}");
    let (lines, _reader) = mpsc::channel(LINES);
    let pulled = env.engine.pull(&reference, &lines).await;
    assert!(matches!(pulled, Err(Error::Other(_))), "{pulled:?}");
    env.done().await;
}

impl Env {
    fn image(&self, name: &str) -> String {
        format!("{}:{name}", self.cluster)
    }

    fn request(&self, name: &str, context: mpsc::Receiver<std::io::Result<Bytes>>) -> BuildRequest {
        BuildRequest {
            dockerfile: "Dockerfile".into(),
            target: None,
            args: Default::default(),
            platform: None,
            labels: Default::default(),
            name: name.into(),
            context,
        }
    }

    /// Builds from these files; answers the result and the log.
    async fn build(
        &self,
        name: &str,
        files: &[(&str, &str)],
    ) -> (Result<String, Error>, Vec<String>) {
        let (pieces, context) = mpsc::channel(1);
        let (lines, mut reader) = mpsc::channel(LINES);
        let tar = tar(files);
        let feed = async move {
            for piece in tar.chunks(1000) {
                // An engine that has failed already does not read on.
                pieces.send(Ok(Bytes::copy_from_slice(piece))).await.ok();
            }
        };
        let build = async {
            let built = self.engine.build(self.request(name, context), &lines).await;
            drop(lines);
            built
        };
        let (built, ()) = tokio::join!(build, feed);
        let mut log = Vec::new();
        while let Some(line) = reader.recv().await {
            log.push(line);
        }
        (built, log)
    }

    /// Where a registry listens that is this test's own.
    async fn registry(&self) -> String {
        let at = free_port();
        if self.fake.is_some() {
            return format!("127.0.0.1:{at}");
        }
        let network = self.name("registry");
        self.engine
            .ensure_network(&network, &self.labels())
            .await
            .unwrap();
        let mut binding = port(at);
        binding.port = 5000;
        let new = NewContainer {
            image: "viking/registry:2".into(),
            command: None,
            network,
            ports: vec![binding],
            ..self.sleeper("registry")
        };
        let id = self.run(&new).await;
        let seen = self.see(&id).await;
        let check = HealthCheck::Http {
            path: "/v2/".into(),
            port: None,
            status: None,
        };
        eventually("the registry answers", || async {
            let probe = self
                .engine
                .probe(&seen, &check, None, Duration::from_secs(2));
            probe.await.unwrap().ok()
        })
        .await;
        format!("127.0.0.1:{at}")
    }
}

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder
            .append_data(&mut header, path, text.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}
