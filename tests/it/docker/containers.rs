//! The contract for containers, networks, volumes, logs, commands and events.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::Duration;

use viking::docker::fake::Behaviour;
use viking::docker::{Error, LogQuery, NewContainer, PortBinding, RunState};
use viking::model::spec::{HealthCheck, Proto};

use super::{Env, contract, eventually, words};

const SOON: Duration = Duration::from_secs(2);
const LATER: Duration = Duration::from_secs(10);

contract!(
    it_says_what_it_is,
    doing_it_twice_is_fine,
    what_a_container_was_made_from_is_seen_again,
    a_name_is_given_once,
    what_is_missing_is_not_found,
    other_peoples_containers_are_never_listed,
    an_end_is_seen_with_its_code,
    a_taken_port_is_told_at_the_start,
    a_volume_outlives_its_containers,
    other_peoples_volumes_and_networks_are_not_used,
    a_network_is_made_once_and_stays_while_used,
    limits_are_set_and_taken_away_again,
    a_frozen_container_thaws,
    a_frozen_container_stops,
    a_signal_of_our_choice_stops,
    what_ignores_the_signal_is_killed,
    a_user_that_is_not_there_is_the_specs_fault,
    the_log_has_a_tail_and_goes_on,
    a_command_inside_has_code_and_output,
    the_end_and_the_start_are_events,
    probes_judge_by_what_answers,
);

async fn it_says_what_it_is(env: Env) {
    let info = env.engine.info().await.unwrap();
    assert!(info.cpus > 0 && info.memory_bytes > 0 && !info.version.is_empty());
    env.done().await;
}

async fn doing_it_twice_is_fine(env: Env) {
    let engine = &env.engine;
    let id = env.run(&env.sleeper("a")).await;
    engine.start(&id).await.unwrap();
    assert_eq!(env.see(&id).await.state, RunState::Running);
    for _ in 0..2 {
        engine.stop(&id, None, SOON).await.unwrap();
        assert_eq!(env.see(&id).await.state, RunState::Exited);
    }
    engine.stop(&id, Some("SIGTERM"), SOON).await.unwrap();
    for _ in 0..2 {
        engine.remove(&id).await.unwrap();
        assert_eq!(engine.container(&id).await.unwrap(), None);
    }
    for signal in [None, Some("SIGTERM")] {
        engine.stop(&id, signal, SOON).await.unwrap();
    }
    env.done().await;
}

async fn what_a_container_was_made_from_is_seen_again(env: Env) {
    let volume = env.name("data");
    let network = env.name("net");
    env.engine
        .ensure_volume(&volume, &env.labels())
        .await
        .unwrap();
    env.engine
        .ensure_network(&network, &env.labels())
        .await
        .unwrap();
    let new = NewContainer {
        mounts: vec![(volume.clone(), "/data".into())],
        network: network.clone(),
        aliases: vec!["web".into()],
        ports: vec![port(free_port())],
        memory_bytes: 64 << 20,
        cpu_millis: 250,
        ..env.sleeper("a")
    };
    let id = env.engine.create(&new).await.unwrap();
    let made = env.see(&new.name).await;
    assert_eq!(
        (made.id.as_str(), made.state),
        (id.as_str(), RunState::Created)
    );
    assert_eq!((made.started_ms, made.finished_ms), (0, 0));
    assert_eq!(made.networks.get(&network), Some(&None));
    env.engine.start(&id).await.unwrap();
    let seen = env.see(&id).await;
    assert_eq!(seen.name, new.name);
    assert_eq!(seen.labels.get("viking.cluster"), Some(&env.cluster));
    assert!(matches!(seen.networks.get(&network), Some(Some(_))));
    assert_eq!(seen.mounts, new.mounts.iter().cloned().collect());
    assert_eq!(seen.published, new.ports.iter().cloned().collect());
    assert_eq!((seen.memory_bytes, seen.cpu_millis), (64 << 20, 250));
    assert!(seen.started_ms > 0 && seen.health.is_none());
    let image = env.engine.image(&new.image).await.unwrap().unwrap();
    assert_eq!(seen.image_id, image.id);
    env.engine.stop(&id, None, SOON).await.unwrap();
    let stopped = env.see(&id).await;
    assert_eq!(stopped.published, new.ports.iter().cloned().collect());
    assert_eq!(stopped.networks.get(&network), Some(&None));
    env.done().await;
}

async fn a_name_is_given_once(env: Env) {
    env.engine.create(&env.sleeper("a")).await.unwrap();
    let again = env.engine.create(&env.sleeper("a")).await;
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    env.done().await;
}

async fn what_is_missing_is_not_found(env: Env) {
    let missing = env.name("missing");
    let image = NewContainer {
        image: format!("{missing}:1"),
        ..env.sleeper("a")
    };
    let volume = NewContainer {
        mounts: vec![(missing.clone(), "/data".into())],
        ..env.sleeper("a")
    };
    let network = NewContainer {
        network: missing.clone(),
        ..env.sleeper("a")
    };
    for new in [image, volume, network] {
        let made = env.engine.create(&new).await;
        assert!(matches!(made, Err(Error::NotFound(_))), "{made:?}");
    }
    let engine = &env.engine;
    let calls = [
        engine.start(&missing).await,
        engine.unpause(&missing).await,
        engine.set_limits(&missing, 0, 0).await,
        engine
            .logs(&missing, LogQuery::following(1))
            .await
            .map(|_| ()),
        engine
            .exec(&missing, &words(&["true"]), SOON)
            .await
            .map(|_| ()),
    ];
    for call in calls {
        assert!(matches!(call, Err(Error::NotFound(_))), "{call:?}");
    }
    assert_eq!(engine.container(&missing).await.unwrap(), None);
    assert_eq!(engine.image(&missing).await.unwrap(), None);
    engine.remove_network(&missing).await.unwrap();
    engine.untag(&format!("{missing}:1")).await.unwrap();
    env.done().await;
}

async fn other_peoples_containers_are_never_listed(env: Env) {
    let foreign = NewContainer {
        labels: [(
            "viking.cluster".to_owned(),
            format!("{}-other", env.cluster),
        )]
        .into(),
        ..env.sleeper("foreign")
    };
    env.run(&foreign).await;
    env.engine.create(&env.sleeper("b")).await.unwrap();
    env.run(&env.sleeper("a")).await;
    let listed = env.engine.list(&env.cluster).await.unwrap();
    let names: Vec<_> = listed.into_iter().map(|container| container.name).collect();
    assert_eq!(names, [env.name("a"), env.name("b")]);
    assert_eq!(env.see(&foreign.name).await.state, RunState::Running);
    env.done().await;
}

async fn an_end_is_seen_with_its_code(env: Env) {
    env.script(|fake| fake.behave("sh -c exit 3", Behaviour::ExitsAfter(Duration::ZERO, 3)));
    let id = env.run(&env.container("a", &["sh", "-c", "exit 3"])).await;
    let ended = env.until(&id, |seen| seen.state == RunState::Exited).await;
    assert_eq!((ended.exit_code, ended.oom_killed), (3, false));
    assert!(ended.finished_ms >= ended.started_ms);
    env.done().await;
}

async fn a_taken_port_is_told_at_the_start(env: Env) {
    let network = env.name("net");
    env.engine
        .ensure_network(&network, &env.labels())
        .await
        .unwrap();
    let ports = vec![port(free_port())];
    let with_port = |name| NewContainer {
        network: network.clone(),
        ports: ports.clone(),
        ..env.sleeper(name)
    };
    let first = env.run(&with_port("a")).await;
    let second = env.engine.create(&with_port("b")).await.unwrap();
    let started = env.engine.start(&second).await;
    assert!(matches!(started, Err(Error::PortTaken(_))), "{started:?}");
    env.engine.stop(&first, None, SOON).await.unwrap();
    env.engine.start(&second).await.unwrap();
    env.done().await;
}

async fn a_volume_outlives_its_containers(env: Env) {
    env.script(|fake| fake.exec_answers(&["cat", "/data/x"], 0, "kept\n"));
    let volume = env.name("data");
    for _ in 0..2 {
        env.engine
            .ensure_volume(&volume, &env.labels())
            .await
            .unwrap();
    }
    let with_volume = |name| NewContainer {
        mounts: vec![(volume.clone(), "/data".into())],
        ..env.sleeper(name)
    };
    let first = env.run(&with_volume("a")).await;
    let write = words(&["sh", "-c", "echo kept > /data/x"]);
    assert_eq!(env.engine.exec(&first, &write, LATER).await.unwrap().0, 0);
    env.engine.remove(&first).await.unwrap();
    let volumes = env.engine.volumes(&env.cluster).await.unwrap();
    assert_eq!(volumes.len(), 1);
    assert_eq!(
        (&volumes[0].name, &volumes[0].labels),
        (&volume, &env.labels())
    );
    let second = env.run(&with_volume("b")).await;
    let read = env
        .engine
        .exec(&second, &words(&["cat", "/data/x"]), LATER)
        .await;
    assert_eq!(read.unwrap(), (0, "kept\n".to_owned()));
    env.done().await;
}

async fn other_peoples_volumes_and_networks_are_not_used(env: Env) {
    let theirs = [(
        "viking.cluster".to_owned(),
        format!("{}-other", env.cluster),
    )]
    .into();
    let name = env.name("shared");
    env.engine.ensure_volume(&name, &theirs).await.unwrap();
    env.engine.ensure_network(&name, &theirs).await.unwrap();
    let volume = env.engine.ensure_volume(&name, &env.labels()).await;
    assert!(matches!(volume, Err(Error::Conflict(_))), "{volume:?}");
    let network = env.engine.ensure_network(&name, &env.labels()).await;
    assert!(matches!(network, Err(Error::Conflict(_))), "{network:?}");
    assert_eq!(env.engine.volumes(&env.cluster).await.unwrap(), []);
    assert_eq!(env.engine.networks(&env.cluster).await.unwrap(), []);
    env.done().await;
}

async fn a_network_is_made_once_and_stays_while_used(env: Env) {
    let name = env.name("net");
    let labels = env.labels();
    let (made, again) = tokio::join!(
        env.engine.ensure_network(&name, &labels),
        env.engine.ensure_network(&name, &labels),
    );
    let made = made.unwrap();
    assert_eq!(made, again.unwrap());
    assert!(made.gateway.is_some());
    assert_eq!(env.engine.networks(&env.cluster).await.unwrap(), [made]);
    let new = NewContainer {
        network: name.clone(),
        ..env.sleeper("a")
    };
    let id = env.run(&new).await;
    let removed = env.engine.remove_network(&name).await;
    assert!(matches!(removed, Err(Error::Conflict(_))), "{removed:?}");
    env.engine.remove(&id).await.unwrap();
    env.engine.remove_network(&name).await.unwrap();
    assert_eq!(env.engine.networks(&env.cluster).await.unwrap(), []);
    env.done().await;
}

async fn limits_are_set_and_taken_away_again(env: Env) {
    let limits = async |id: &str, memory: u64, cpu: u64| {
        env.engine.set_limits(id, memory, cpu).await.unwrap();
        let seen = env.see(id).await;
        assert_eq!((seen.memory_bytes, seen.cpu_millis), (memory, cpu));
    };
    let limited = NewContainer {
        memory_bytes: 32 << 20,
        cpu_millis: 500,
        ..env.sleeper("limited")
    };
    for new in [limited, env.sleeper("free")] {
        let id = env.run(&new).await;
        limits(&id, 64 << 20, 250).await;
        limits(&id, 32 << 20, 250).await;
        limits(&id, 0, 0).await;
        limits(&id, 0, 0).await;
        limits(&id, 48 << 20, 1000).await;
        limits(&id, 0, 1000).await;
    }
    env.done().await;
}

async fn a_frozen_container_thaws(env: Env) {
    let id = env.run(&env.sleeper("a")).await;
    env.freeze("a").await;
    assert_eq!(env.see(&id).await.state, RunState::Paused);
    env.engine.unpause(&id).await.unwrap();
    assert_eq!(env.see(&id).await.state, RunState::Running);
    env.done().await;
}

async fn a_frozen_container_stops(env: Env) {
    for (name, signal) in [("a", None), ("b", Some("SIGTERM"))] {
        let id = env.run(&env.sleeper(name)).await;
        env.freeze(name).await;
        env.engine.stop(&id, signal, LATER).await.unwrap();
        assert_eq!(env.see(&id).await.state, RunState::Exited);
    }
    env.done().await;
}

async fn a_signal_of_our_choice_stops(env: Env) {
    let script = "trap 'exit 143' USR1; echo ready; while :; do sleep 0.05; done";
    env.script(|fake| fake.prints(&format!("sh -c {script}"), &["ready"]));
    let id = env.run(&env.container("a", &["sh", "-c", script])).await;
    // A signal that comes before the shell has heard of it would do something else.
    let mut log = env.engine.logs(&id, LogQuery::following(1)).await.unwrap();
    assert_eq!(log.recv().await.unwrap().text, "ready");
    env.engine.stop(&id, Some("SIGUSR1"), LATER).await.unwrap();
    let ended = env.see(&id).await;
    assert_eq!((ended.state, ended.exit_code), (RunState::Exited, 143));
    env.done().await;
}

async fn what_ignores_the_signal_is_killed(env: Env) {
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    env.script(|fake| {
        fake.behave(&format!("sh -c {script}"), Behaviour::IgnoresStop);
        fake.prints(&format!("sh -c {script}"), &["ready"]);
    });
    for (name, signal) in [("a", None), ("b", Some("SIGTERM"))] {
        let id = env.run(&env.container(name, &["sh", "-c", script])).await;
        let mut log = env.engine.logs(&id, LogQuery::following(1)).await.unwrap();
        assert_eq!(log.recv().await.unwrap().text, "ready");
        let timeout = Duration::from_secs(1);
        env.engine.stop(&id, signal, timeout).await.unwrap();
        let ended = env.see(&id).await;
        assert_eq!((ended.state, ended.exit_code), (RunState::Exited, 137));
    }
    env.done().await;
}

async fn a_user_that_is_not_there_is_the_specs_fault(env: Env) {
    let new = NewContainer {
        user: Some("nobody-of-that-name".into()),
        ..env.container("a", &["true"])
    };
    env.script(|fake| fake.behave(&new.name, Behaviour::FailsToStart));
    let id = env.engine.create(&new).await.unwrap();
    let started = env.engine.start(&id).await;
    assert!(matches!(started, Err(Error::BadSpec(_))), "{started:?}");
    assert!(!env.see(&id).await.error.is_empty());
    env.done().await;
}

async fn the_log_has_a_tail_and_goes_on(env: Env) {
    let script = "echo one; echo two; while [ ! -e /go ]; do sleep 0.05; done; echo three";
    env.script(|fake| fake.prints(&format!("sh -c {script}"), &["one", "two"]));
    let id = env.run(&env.container("a", &["sh", "-c", script])).await;
    let tail = eventually("two lines are logged", || async {
        let lines = env.log(&id, 5).await;
        (lines.len() == 2).then_some(lines)
    })
    .await;
    assert_eq!(tail, ["one", "two"]);
    assert_eq!(env.log(&id, 1).await, ["two"]);
    let mut followed = env.engine.logs(&id, LogQuery::following(1)).await.unwrap();
    let two = followed.recv().await.unwrap();
    assert_eq!(two.text, "two");
    env.engine
        .exec(&id, &words(&["touch", "/go"]), LATER)
        .await
        .unwrap();
    env.script(|fake| {
        fake.print(&id, "three");
        fake.exit(&id, 0);
    });
    let three = followed.recv().await.unwrap();
    assert_eq!(three.text, "three");
    assert!(three.at_ns > two.at_ns);
    // The stream ends with the container.
    assert_eq!(followed.recv().await, None);
    let query = LogQuery {
        after_ns: two.at_ns,
        ..LogQuery::last(5)
    };
    let mut later = env.engine.logs(&id, query).await.unwrap();
    assert_eq!(later.recv().await.unwrap().text, "three");
    assert_eq!(later.recv().await, None);
    env.done().await;
}

async fn a_command_inside_has_code_and_output(env: Env) {
    let command = ["sh", "-c", "echo out; exit 4"];
    let other = ["sh", "-c", "echo err >&2"];
    env.script(|fake| {
        fake.exec_answers(&command, 4, "out\n");
        fake.exec_answers(&other, 0, "err\n");
    });
    let id = env.run(&env.sleeper("a")).await;
    let answer = env.engine.exec(&id, &words(&command), LATER).await.unwrap();
    assert_eq!(answer, (4, "out\n".to_owned()));
    let answer = env.engine.exec(&id, &words(&other), LATER).await.unwrap();
    assert_eq!(answer, (0, "err\n".to_owned()));
    env.engine.stop(&id, None, SOON).await.unwrap();
    let stopped = env.engine.exec(&id, &words(&command), LATER).await;
    assert!(matches!(stopped, Err(Error::Conflict(_))), "{stopped:?}");
    env.done().await;
}

async fn the_end_and_the_start_are_events(env: Env) {
    let id = env.engine.create(&env.sleeper("a")).await.unwrap();
    let mut events = env.engine.events().await.unwrap();
    env.engine.start(&id).await.unwrap();
    env.engine
        .exec(&id, &words(&["true"]), LATER)
        .await
        .unwrap();
    env.engine.stop(&id, None, SOON).await.unwrap();
    env.engine.remove(&id).await.unwrap();
    let name = env.name("a");
    let mut actions = Vec::new();
    while actions.last().map(String::as_str) != Some("destroy") {
        let event = events.recv().await.expect("the engine is there");
        if event.name == name {
            assert_eq!(event.labels.get("viking.cluster"), Some(&env.cluster));
            assert!(event.at_ms > 0);
            actions.push(event.action);
        }
    }
    // Only what happened after the subscription, or in the same moment.
    actions.retain(|action| action != "create");
    assert_eq!(actions, ["start", "kill", "die", "stop", "destroy"]);
    env.done().await;
}

async fn probes_judge_by_what_answers(env: Env) {
    env.script(|fake| {
        fake.behave(&env.name("mute"), Behaviour::NeverHealthy);
        fake.exec_answers(&["false"], 1, "");
    });
    let network = env.name("net");
    env.engine
        .ensure_network(&network, &env.labels())
        .await
        .unwrap();
    let on_network = |new: NewContainer| NewContainer {
        network: network.clone(),
        ports: vec![port(free_port())],
        ..new
    };
    let serve = "mkdir /www && echo hi > /www/index.html && exec httpd -f -p 80 -h /www";
    let good = env
        .run(&on_network(env.container("good", &["sh", "-c", serve])))
        .await;
    let mute = env.run(&on_network(env.sleeper("mute"))).await;
    let good_checks = [
        http("/", None),
        http("/index.html", Some(200)),
        HealthCheck::Tcp { port: 80 },
        HealthCheck::Cmd {
            argv: words(&["true"]),
        },
    ];
    for check in &good_checks {
        eventually("the probe is good", || async {
            env.probe(&good, check).await.ok()
        })
        .await;
    }
    let failed = env
        .probe(
            &good,
            &HealthCheck::Cmd {
                argv: words(&["false"]),
            },
        )
        .await;
    assert!(failed.unwrap_err().contains("exit code 1"));
    for check in [http("/", None), HealthCheck::Tcp { port: 80 }] {
        let failed = env.probe(&mute, &check).await.unwrap_err();
        assert!(failed.to_lowercase().contains("refused"), "{failed}");
    }
    env.engine.stop(&good, None, SOON).await.unwrap();
    for check in &good_checks {
        env.probe(&good, check).await.unwrap_err();
    }
    env.done().await;
}

fn http(path: &str, status: Option<u16>) -> HealthCheck {
    HealthCheck::Http {
        path: path.into(),
        port: None,
        status,
    }
}

/// Container port 80 on this host port.
pub(crate) fn port(host_port: u16) -> PortBinding {
    PortBinding {
        port: 80,
        proto: Proto::Tcp,
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        host_port,
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

impl Env {
    /// What somebody at the host's shell does.
    async fn freeze(&self, name: &str) {
        let name = self.name(name);
        match &self.fake {
            Some(fake) => fake.pause(&name),
            None => super::real::pause(&name).await,
        }
    }

    async fn log(&self, id: &str, tail: usize) -> Vec<String> {
        let mut reader = self.engine.logs(id, LogQuery::last(tail)).await.unwrap();
        let mut lines = Vec::new();
        while let Some(line) = reader.recv().await {
            lines.push(line.text);
        }
        lines
    }

    async fn probe(&self, id: &str, check: &HealthCheck) -> Result<(), String> {
        let seen = self.see(id).await;
        let answer = self.engine.probe(&seen, check, None, SOON).await;
        answer.expect("the engine is there")
    }
}
