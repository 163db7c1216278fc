//! The same worker over real Docker: what the fake cannot promise. Needs a Docker that answers and
//! the image `viking/busybox:1`; removes everything it made.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use viking::docker::bollard::BollardEngine;
use viking::docker::{RunState, SharedEngine};
use viking::model::job::JobState;
use viking::model::spec::{ContainerSpec, Expose, ImageRef, Proto, Settings, VolumeMount};

use super::rig::{Rig, job};

const DOCKER: &str = "unix:///var/run/docker.sock";
const BUSYBOX: &str = "viking/busybox:1";

async fn engine() -> (SharedEngine, String) {
    let engine = BollardEngine::connect(DOCKER).expect("a good address");
    let engine: SharedEngine = Arc::new(engine);
    let image = engine.image(BUSYBOX).await.expect("Docker must answer");
    let image = image.expect("viking/busybox:1 must be there: run tests/run.sh");
    (engine, image.id)
}

fn httpd(image: &str) -> ContainerSpec {
    let mut settings = Settings {
        run: Some(
            ["httpd", "-f", "-p", "80", "-h", "/data"]
                .map(str::to_owned)
                .to_vec(),
        ),
        ..Settings::default()
    };
    settings.expose.push(Expose {
        port: 80,
        proto: Proto::Tcp,
        host_port: None,
    });
    settings.volume.push(VolumeMount {
        name: None,
        path: "/data".to_owned(),
    });
    settings.resources.memory_bytes = Some(64 << 20);
    let id = image.to_owned();
    ContainerSpec::new(ImageRef::Local { id }, settings)
}

/// Waits until the container runs and is not the one that started at `before`.
async fn until_new_start(engine: &SharedEngine, name: &str, before: u64) -> (u64, Duration) {
    let asked = Instant::now();
    loop {
        let found = engine.container(name).await.expect("Docker answers");
        let found = found.filter(|c| c.state == RunState::Running && c.started_ms != before);
        if let Some(container) = found {
            return (container.started_ms, asked.elapsed());
        }
        assert!(
            asked.elapsed() < Duration::from_secs(30),
            "{name} never came back"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_real_docker_a_job_comes_up_and_comes_back() {
    let (engine, image) = engine().await;
    let mut rig = Rig::start_with(Arc::clone(&engine)).await;
    let _sweep = Sweep(rig.cluster().to_owned());
    // Another run of this test may use the same Docker.
    let job = job(&format!("t{}", std::process::id()), "web", 0);
    let asked = Instant::now();
    let name = rig.deploy(&job, &httpd(&image)).await;
    let (mut started, up) = until_new_start(&engine, &name, 0).await;
    rig.until_state(&job, JobState::Healthy).await;
    println!("placed to running {up:?}, to healthy {:?}", asked.elapsed());
    let port = rig.ports(&job).await[0].address();
    tokio::net::TcpStream::connect(port)
        .await
        .expect("its endpoint answers");

    engine.remove(&name).await.expect("removed");
    let (next, back) = until_new_start(&engine, &name, started).await;
    started = next;
    println!("rm -f to running {back:?}");
    // Only once its host knows the new container: a hand that is quicker than that looks like the
    // end of the one before.
    loop {
        let state = rig.until_state(&job, JobState::Healthy).await;
        if state.since_ms >= started {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    engine
        .stop(&name, None, Duration::ZERO)
        .await
        .expect("stopped");
    let (_, back) = until_new_start(&engine, &name, started).await;
    println!("stop to running {back:?}");
    engine
        .set_limits(&name, 32 << 20, 0)
        .await
        .expect("limited");
    let asked = Instant::now();
    loop {
        let container = engine.container(&name).await.expect("Docker answers");
        if container.is_some_and(|c| c.memory_bytes == 64 << 20)
            && rig
                .drift_fields()
                .await
                .iter()
                .any(|field| field == "memory")
        {
            break;
        }
        assert!(
            asked.elapsed() < Duration::from_secs(30),
            "its limit never came back"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rig.until_state(&job, JobState::Healthy).await;
    let fields = rig.drift_fields().await;
    for wanted in ["container", "state"] {
        assert!(
            fields.iter().any(|field| field == wanted),
            "{wanted} in {fields:?}"
        );
    }
    assert!(
        rig.counter(&job).await.is_none(),
        "a hand at the shell is no failure"
    );

    // A restart of viking touches nothing.
    rig.stop().await;
    let before = engine.container(&name).await.expect("Docker answers");
    rig.restart();
    rig.until_state(&job, JobState::Healthy).await;
    let after = engine.container(&name).await.expect("Docker answers");
    assert_eq!(before.map(|c| c.started_ms), after.map(|c| c.started_ms));

    rig.undeploy(&job).await;
    let gone = Instant::now();
    while engine
        .container(&name)
        .await
        .expect("Docker answers")
        .is_some()
    {
        assert!(
            gone.elapsed() < Duration::from_secs(30),
            "{name} is never removed"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rig.stop().await;
    let volumes = engine.volumes(rig.cluster()).await.expect("Docker answers");
    assert_eq!(volumes.len(), 1, "the volume outlives its container");
}

/// Removes what the test made, also when it fails: viking itself never removes a volume.
struct Sweep(String);

impl Drop for Sweep {
    fn drop(&mut self) {
        let label = format!("label=viking.cluster={}", self.0);
        for (list, remove) in [
            (["ps", "-aq", "--filter"], ["rm", "-f"]),
            (["network", "ls", "-q"], ["network", "rm"]),
            (["volume", "ls", "-q"], ["volume", "rm"]),
        ] {
            let filter = (list[2] != "--filter").then_some("--filter");
            let args = list.into_iter().chain(filter).chain([label.as_str()]);
            let Ok(found) = docker(args) else { continue };
            for id in found.split_whitespace() {
                drop(docker(remove.into_iter().chain([id])));
            }
        }
    }
}

fn docker<'a>(args: impl Iterator<Item = &'a str>) -> std::io::Result<String> {
    let output = std::process::Command::new("docker").args(args).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
