//! What only the real engine has: deadlines against a daemon that hangs, the hardening as Docker
//! sees it, and the removal of what these tests made.

use std::collections::BTreeMap;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{
    ListContainersOptions, ListImagesOptions, ListNetworksOptions, ListVolumesOptions,
    RemoveContainerOptions, RemoveImageOptions, RemoveVolumeOptions,
};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use viking::docker::bollard::{BollardEngine, Deadlines};
use viking::docker::{BuildRequest, Engine, Error, LogQuery, RunState, label};
use viking::model::spec::HealthCheck;

use super::{Env, PREFIX, docker_address, words};

/// Far below the real ones, so that the test is short.
const SHORT: Duration = Duration::from_millis(100);

fn short() -> Deadlines {
    Deadlines {
        look: SHORT,
        create: SHORT,
        start: SHORT,
        stop_extra: SHORT,
        registry: SHORT,
        transfer: SHORT,
        build: SHORT,
    }
}

#[tokio::test]
async fn a_daemon_that_hangs_is_unreachable_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let hang = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
    let address = format!("unix://{}", socket.display());
    let engine = BollardEngine::connect_with(&address, short()).unwrap();
    all_unreachable(&engine).await;
    hang.abort();
}

/// Answers the question for its version, then nothing more: each call's own deadline counts.
#[tokio::test]
async fn a_daemon_that_hangs_later_is_unreachable_too() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let hang = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            if String::from_utf8_lossy(&request[..read]).contains("/version ") {
                let body = r#"{"ApiVersion":"1.41"}"#;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + body).as_bytes()).await.unwrap();
            }
            held.push(stream);
        }
    });
    let address = format!("unix://{}", socket.display());
    let engine = BollardEngine::connect_with(&address, short()).unwrap();
    all_unreachable(&engine).await;
    hang.abort();
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_unreachable_and_found_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix://{}/docker.sock", folder.path().display());
    let engine = BollardEngine::connect(&address).unwrap();
    all_unreachable(&engine).await;
}

async fn all_unreachable(engine: &BollardEngine) {
    let (lines, _reader) = mpsc::channel(10);
    let (_pieces, context) = mpsc::channel(1);
    let request = BuildRequest {
        dockerfile: "Dockerfile".into(),
        target: None,
        args: Default::default(),
        platform: None,
        labels: Default::default(),
        name: "a:1".into(),
        context,
    };
    let labels = Default::default();
    let calls = [
        engine.info().await.map(|_| ()),
        engine.list("c").await.map(|_| ()),
        engine.container("a").await.map(|_| ()),
        engine.create(&Default::default()).await.map(|_| ()),
        engine.start("a").await,
        engine.stop("a", None, SHORT).await,
        engine.stop("a", Some("SIGTERM"), SHORT).await,
        engine.set_limits("a", 0, 0).await,
        engine.remove("a").await,
        engine.logs("a", LogQuery::following(1)).await.map(|_| ()),
        engine.exec("a", &words(&["true"]), SHORT).await.map(|_| ()),
        engine.events().await.map(|_| ()),
        engine.image("a:1").await.map(|_| ()),
        engine.pull("a:1", &lines).await,
        engine.remote_digest("a:1").await.map(|_| ()),
        engine.push("a", "1", &lines).await.map(|_| ()),
        engine.build(request, &lines).await.map(|_| ()),
        engine.ensure_network("a", &labels).await.map(|_| ()),
        engine.ensure_volume("a", &labels).await,
        engine.ping().await,
    ];
    for (index, call) in calls.into_iter().enumerate() {
        // The empty container's name is refused before Docker is asked.
        let refused = matches!(call, Err(Error::BadSpec(_))) && index == 3;
        let unreachable = matches!(call, Err(Error::Unreachable(_)));
        assert!(unreachable || refused, "call {index}: {call:?}");
    }
}

#[tokio::test]
async fn every_container_is_hardened_as_docker_sees_it() {
    let env = Env::real("every_container_is_hardened").await;
    let id = env.run(&env.sleeper("a")).await;
    let seen = docker(&docker_address())
        .inspect_container(&id, None)
        .await
        .unwrap();
    let config = seen.host_config.unwrap();
    assert_eq!(config.init, Some(true));
    assert_eq!(config.privileged, Some(false));
    assert_eq!(config.pids_limit, Some(4096));
    assert_eq!(config.security_opt.unwrap(), ["no-new-privileges:true"]);
    assert_eq!(
        config.restart_policy.unwrap().name.unwrap().to_string(),
        "no"
    );
    let status = words(&["grep", "NoNewPrivs", "/proc/self/status"]);
    let (_, output) = env
        .engine
        .exec(&id, &status, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(output.trim(), "NoNewPrivs:\t1");
    // NET_RAW (13), AUDIT_WRITE (29), MKNOD (27) and SETFCAP (31) are out, CHOWN (0) and SETUID
    // (7) are in.
    let status = words(&["grep", "CapBnd", "/proc/self/status"]);
    let (_, output) = env
        .engine
        .exec(&id, &status, Duration::from_secs(10))
        .await
        .unwrap();
    let set = output.trim().rsplit('\t').next().unwrap();
    let set = u64::from_str_radix(set, 16).unwrap();
    assert_eq!(set & (1 << 13 | 1 << 27 | 1 << 29 | 1 << 31), 0);
    assert_eq!(set & 0b1000_0001, 0b1000_0001);
    env.done().await;
}

#[tokio::test]
async fn a_command_that_does_not_end_is_given_up() {
    let env = Env::real("a_command_that_does_not_end").await;
    let id = env.run(&env.sleeper("a")).await;
    let sleep = words(&["sleep", "1000"]);
    let answer = env.engine.exec(&id, &sleep, SHORT).await;
    assert!(matches!(answer, Err(Error::Other(_))), "{answer:?}");
    let check = HealthCheck::Cmd { argv: sleep };
    let seen = env.see(&id).await;
    let probe = env.engine.probe(&seen, &check, None, SHORT).await.unwrap();
    assert!(probe.unwrap_err().contains("no end within"));
    env.done().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_ends_at_once_and_says_so() {
    let env = Env::real("a_program_that_is_not_there").await;
    let id = env.run(&env.container("a", &["no-such-program"])).await;
    let ended = env.until(&id, |seen| seen.state == RunState::Exited).await;
    assert_eq!(ended.exit_code, 127);
    let mut log = env.engine.logs(&id, LogQuery::last(1)).await.unwrap();
    let said = log.recv().await.unwrap();
    assert!(said.text.contains("no-such-program"), "{said:?}");
    env.done().await;
}

#[tokio::test]
async fn a_log_without_line_ends_is_cut() {
    let env = Env::real("a_log_without_line_ends").await;
    let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end";
    let id = env.run(&env.container("a", &["sh", "-c", script])).await;
    env.until(&id, |seen| seen.state == RunState::Exited).await;
    let mut log = env.engine.logs(&id, LogQuery::last(100)).await.unwrap();
    let first = log.recv().await.unwrap();
    assert!(
        (16_384..17_000).contains(&first.text.len()),
        "{}",
        first.text.len()
    );
    assert_eq!(log.recv().await.unwrap().text, "end");
    env.done().await;
}

pub(crate) async fn pause(name: &str) {
    docker(&docker_address())
        .pause_container(name)
        .await
        .unwrap();
}

fn docker(address: &str) -> Docker {
    let path = address.trim_start_matches("unix://");
    Docker::connect_with_unix(path, 120, bollard::API_DEFAULT_VERSION).unwrap()
}

/// Removes what runs of these tests left that are no more.
pub(crate) async fn sweep(address: &str) {
    let dead = |name: &str| {
        let pid = name
            .strip_prefix(PREFIX)?
            .strip_prefix('-')?
            .split('-')
            .next()?;
        let gone = !std::path::Path::new("/proc").join(pid).exists();
        gone.then(|| format!("{PREFIX}-{pid}"))
    };
    for name in names(&docker(address)).await {
        if let Some(prefix) = dead(&name) {
            remove_all(address, &prefix).await;
        }
    }
}

/// Removes everything whose name begins so. What somebody else is removing is fine.
pub(crate) async fn remove_all(address: &str, prefix: &str) {
    let docker = docker(address);
    let force = RemoveContainerOptions {
        force: true,
        v: true,
        link: false,
    };
    let names: Vec<_> = names(&docker)
        .await
        .into_iter()
        .filter(|n| n.starts_with(prefix))
        .collect();
    for name in &names {
        docker
            .remove_container(name, Some(force.clone()))
            .await
            .ok();
    }
    for name in &names {
        docker
            .remove_volume(name, None::<RemoveVolumeOptions>)
            .await
            .ok();
        docker.remove_network(name).await.ok();
    }
    for image in images(&docker, prefix).await {
        let options = None::<RemoveImageOptions>;
        docker.remove_image(&image, options, None).await.ok();
    }
}

/// Names of all containers, volumes and networks, and whose images there are.
async fn names(docker: &Docker) -> Vec<String> {
    let all = ListContainersOptions {
        all: true,
        ..ListContainersOptions::default()
    };
    let mut names = Vec::new();
    for container in docker.list_containers(Some(all)).await.unwrap() {
        let found = container.names.unwrap_or_default();
        names.extend(
            found
                .into_iter()
                .map(|name| name.trim_start_matches('/').to_owned()),
        );
    }
    let networks = docker
        .list_networks(None::<ListNetworksOptions>)
        .await
        .unwrap();
    names.extend(networks.into_iter().filter_map(|network| network.name));
    let images = docker.list_images(None::<ListImagesOptions>).await.unwrap();
    let cluster = |labels: BTreeMap<_, String>| labels.get(label::CLUSTER).cloned();
    let labels = images
        .into_iter()
        .map(|image| image.labels.into_iter().collect());
    names.extend(labels.filter_map(cluster));
    let volumes = docker
        .list_volumes(None::<ListVolumesOptions>)
        .await
        .unwrap();
    names.extend(
        volumes
            .volumes
            .unwrap_or_default()
            .into_iter()
            .map(|volume| volume.name),
    );
    names
}

/// Names of images that hold `prefix`, and ids of nameless ones that a build left with our label.
async fn images(docker: &Docker, prefix: &str) -> Vec<String> {
    let all = docker.list_images(None::<ListImagesOptions>).await.unwrap();
    let mut found = Vec::new();
    for image in all {
        let named = image.repo_tags.into_iter().chain(image.repo_digests);
        let named: Vec<_> = named.filter(|name| name.contains(prefix)).collect();
        let label = image.labels.get(label::CLUSTER);
        if named.is_empty() && label.is_some_and(|cluster| cluster.starts_with(prefix)) {
            found.push(image.id);
        }
        found.extend(named);
    }
    found
}
