//! One worker in this process: the fake engine, the store in memory, time that is held still. Each
//! test is a promise a host makes about containers.

mod member;
mod properties;
mod real;
mod rig;
mod shared;

use std::time::Duration;

use rig::{Rig, job, spec, tag};
use viking::docker::RunState;
use viking::docker::fake::Behaviour;
use viking::model::host::Fetched;
use viking::model::job::{Fault, JobState};
use viking::model::release::Phase;
use viking::model::spec::{DURATION_MS_MAX, Expose, HealthCheck, ImageRef, Proto, VolumeMount};

fn web() -> viking::model::spec::ContainerSpec {
    let mut spec = spec();
    spec.settings.expose.push(Expose {
        port: 80,
        proto: Proto::Tcp,
        host_port: None,
    });
    spec
}

fn db() -> viking::model::spec::ContainerSpec {
    let mut db = spec();
    db.settings.expose.push(Expose {
        port: 6379,
        proto: Proto::Tcp,
        host_port: None,
    });
    db
}

fn web_linked_to_db() -> viking::model::spec::ContainerSpec {
    let mut web = web();
    web.settings.link.push(viking::model::spec::LinkTarget {
        stack: None,
        node: viking::model::names::NodeName::parse("db").expect("a name"),
    });
    web
}

#[tokio::test(start_paused = true)]
async fn a_placement_becomes_a_healthy_container_with_endpoints_and_viking_env() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    let name = rig.deploy(&job, &web()).await;
    rig.until_state(&job, JobState::Healthy).await;
    let container = rig.container(&name);
    assert_eq!(container.state, RunState::Running);
    let new = rig.engine.made(&name);
    for wanted in [
        format!("VIKING_ID={name}"),
        "VIKING_STACK=s".to_owned(),
        "VIKING_TAG=t1".to_owned(),
        "VIKING_NODE=web".to_owned(),
        "VIKING_SLOT=0".to_owned(),
        "VIKING_HOST=host-1".to_owned(),
    ] {
        assert!(new.env.contains(&wanted), "{wanted} in {:?}", new.env);
    }
    let ports = rig.ports(&job).await;
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0].job_id.0, name);
    assert!((20_000..30_000).contains(&ports[0].host_port));
    let assigned = rig.assigned().await;
    assert_eq!(assigned.assignments[0].container.as_deref(), Some(&*name));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_backs_off_counts_and_keeps_the_last_lines() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    let crash = Behaviour::ExitsAfter(Duration::from_millis(50), 3);
    rig.engine.behave("crash", crash);
    rig.engine.prints("crash", &["going down"]);
    let mut spec = web();
    spec.settings.run = Some(vec!["crash".to_owned()]);
    spec.settings.health.check = Some(HealthCheck::Cmd {
        argv: vec!["never".to_owned()],
    });
    rig.engine.exec_answers(&["never"], 1, "no");
    let name = rig.deploy(&job, &spec).await;
    let counter = rig.until_failures(&job, 4).await;
    assert_eq!(counter.fault, Fault::Own);
    assert_eq!(counter.last_exit, Some(3));
    assert_eq!(counter.next_try_ms - counter.at_ms, 4_000);
    assert!(counter.log_tail.iter().any(|line| line == "going down"));
    let state = rig.until_state(&job, JobState::Backoff).await;
    assert!(state.reason.contains("code 3"), "{}", state.reason);
    // A process that ends by itself is no drift.
    assert_eq!(state.drift, []);
    // The same container is started again; it is never made anew.
    assert_eq!(rig.engine.calls()["create"], 1);
    let starts = rig.engine.calls()["start"];
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert_eq!(rig.engine.calls()["start"], starts, "waits its time out");
    rig.until_failures(&job, 5).await;
    assert!(rig.events("crashed").await >= 5);
    assert!(rig.ports(&job).await.is_empty());
    assert_eq!(rig.container(&name).name, name);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_hangs_holds_up_the_repair_of_no_other() {
    let mut rig = Rig::start().await;
    let (stuck, other) = (job("t1", "stuck", 0), job("t1", "web", 0));
    let stuck_name = rig.deploy(&stuck, &web()).await;
    let name = rig.deploy(&other, &web()).await;
    for job in [&stuck, &other] {
        rig.until_state(job, JobState::Healthy).await;
    }
    rig.engine.hang(&stuck_name);
    // Long enough for a look at everything.
    tokio::time::sleep(Duration::from_secs(30)).await;
    rig.engine.kill(&name);
    let began = tokio::time::Instant::now();
    rig.until_running(&name).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    rig.until_state(&other, JobState::Healthy).await;
    // It is left as it was known, and is not reported as gone.
    let state = rig.state(&stuck).await.expect("on record still");
    assert_eq!(state.state, JobState::Healthy);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_container_whose_network_went_away_is_made_anew() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    let name = rig.deploy(&job, &web()).await;
    rig.until_state(&job, JobState::Healthy).await;
    rig.stop().await;
    rig.engine.stop_outside(&name);
    rig.engine.prune_networks();
    rig.restart();
    rig.until_running(&name).await;
    rig.until_state(&job, JobState::Healthy).await;
    assert_eq!(rig.engine.calls()["create"], 2);
    assert!(rig.engine.calls()["start"] <= 3, "no hot loop");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_ended_is_left_alone_for_longer_each_time() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    let name = rig.deploy(&job, &web()).await;
    rig.until_state(&job, JobState::Healthy).await;
    let refused = viking::docker::Error::Other("device or resource busy".to_owned());
    rig.engine.fail_next("remove", refused, 6);
    rig.undeploy(&job).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let tries = rig.engine.calls()["remove"];
    assert!((2..=5).contains(&tries), "{tries}");
    rig.until("it is gone", |rig| rig.find(&name).is_none())
        .await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_of_viking_one_failed_probe_withdraws_nothing() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    rig.engine.behave("web", Behaviour::Runs);
    let mut spec = web();
    spec.settings.run = Some(vec!["web".to_owned()]);
    rig.deploy(&job, &spec).await;
    rig.until_state(&job, JobState::Healthy).await;
    rig.stop().await;
    rig.engine.behave("web", Behaviour::NeverHealthy);
    rig.restart();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let state = rig.state(&job).await.expect("on record");
    assert_eq!(state.state, JobState::Healthy);
    rig.until_failures(&job, 1).await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_others_do_to_their_networks_makes_nobody_look_at_everything() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    rig.deploy(&job, &web()).await;
    rig.until_state(&job, JobState::Healthy).await;
    // One full look may be due by the clock.
    let lists = rig.engine.calls()["list"];
    for n in 0..20 {
        rig.engine.add_foreign(&format!("build-step-{n}"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(rig.engine.calls()["list"] <= lists + 1);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_forgotten_after_a_healthy_minute_and_not_before() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    let name = rig.deploy(&job, &web()).await;
    rig.until_state(&job, JobState::Healthy).await;
    rig.engine.exit(&name, 1);
    rig.until_failures(&job, 1).await;
    rig.until_state(&job, JobState::Healthy).await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(rig.counter(&job).await.is_some());
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(rig.counter(&job).await.is_none());
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_somebody_did_by_hand_is_repaired_at_once_and_told_as_drift() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    let mut spec = web();
    spec.settings.resources.memory_bytes = Some(64 << 20);
    let name = rig.deploy(&job, &spec).await;
    rig.until_state(&job, JobState::Healthy).await;

    rig.engine.rm_f(&name);
    rig.until_drift(1).await;
    rig.until_running(&name).await;
    rig.engine.stop_outside(&name);
    rig.until_drift(2).await;
    rig.until_running(&name).await;
    rig.engine.pause(&name);
    rig.until_drift(3).await;
    rig.until_running(&name).await;
    rig.engine.update_memory(&name, 1 << 20);
    rig.until_drift(4).await;
    rig.until("the limit is back", |rig| {
        rig.container(&name).memory_bytes == 64 << 20
    })
    .await;
    rig.engine.disconnect(&name);
    rig.until_drift(5).await;
    rig.until("it is on its network again", |rig| {
        rig.find(&name)
            .is_some_and(|c| !c.networks.is_empty() && c.state == RunState::Running)
    })
    .await;
    rig.until_state(&job, JobState::Healthy).await;
    // A hand at the shell is no failure of the job.
    assert!(rig.counter(&job).await.is_none());
    assert_eq!(
        rig.drift_fields().await,
        ["container", "state", "paused", "memory", "network"]
    );
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_the_engine_cannot_set_back_makes_the_container_anew() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    let name = rig.deploy(&job, &web()).await;
    rig.until_state(&job, JobState::Healthy).await;
    let refused = viking::docker::Error::Other("no".to_owned());
    rig.engine.fail_next("set_limits", refused, 1);
    rig.engine.update_memory(&name, 1 << 20);
    rig.until("it is made anew", |rig| {
        rig.engine.calls()["create"] == 2 && rig.find(&name).is_some_and(|c| c.memory_bytes == 0)
    })
    .await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_held_container_is_stopped_and_kept_and_the_same_one_comes_back() {
    let mut rig = Rig::start().await;
    let mut spec = web();
    spec.settings.volume.push(VolumeMount {
        name: None,
        path: "/data".to_owned(),
    });
    let (old, new) = (job("old", "db", 0), job("new", "db", 0));
    rig.release("old", "db", "old").await;
    rig.point(Some("old"), None, Phase::Live, &[]).await;
    let old_name = rig.deploy(&old, &spec).await;
    rig.until_state(&old, JobState::Healthy).await;

    rig.release("new", "db", "new").await;
    rig.point(Some("old"), Some("new"), Phase::Cutting, &[("db", 0)])
        .await;
    let new_name = rig.deploy(&new, &spec).await;
    rig.until_state(&new, JobState::Healthy).await;
    assert_eq!(rig.container(&old_name).state, RunState::Exited);
    assert!(rig.ports(&old).await.is_empty());
    rig.until_state(&old, JobState::Exited).await;

    // The new release fails: its copy is taken away, the kept one starts again.
    rig.point(Some("old"), Some("new"), Phase::Reverting, &[("db", 0)])
        .await;
    rig.undeploy(&new).await;
    rig.until_state(&old, JobState::Healthy).await;
    assert!(rig.find(&new_name).is_none());
    assert_eq!(rig.engine.calls()["create"], 2);
    assert!(rig.counter(&old).await.is_none());
    assert_eq!(rig.events("drift").await, 0);
    assert!(
        rig.engine.violations().is_empty(),
        "{:?}",
        rig.engine.violations()
    );
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_viking_adopts_what_runs_and_touches_nothing() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    let name = rig.deploy(&job, &web()).await;
    rig.until_state(&job, JobState::Healthy).await;
    rig.stop().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(rig.ports(&job).await.is_empty(), "the lease has ended");
    rig.engine.reset_calls();
    rig.restart();
    rig.until_state(&job, JobState::Healthy).await;
    assert_eq!(rig.ports(&job).await.len(), 1);
    tokio::time::sleep(Duration::from_secs(30)).await;
    for verb in ["create", "start", "stop", "remove"] {
        assert_eq!(rig.engine.calls().get(verb), None, "{verb}");
    }
    assert_eq!(rig.container(&name).state, RunState::Running);
    assert_eq!(rig.events("drift").await, 0);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_is_not_forgotten_by_a_restart_of_viking() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    let name = rig.deploy(&job, &spec()).await;
    rig.engine
        .behave(&name, Behaviour::ExitsAfter(Duration::from_millis(10), 1));
    rig.until_failures(&job, 6).await;
    rig.stop().await;
    rig.restart();
    let counter = rig.until_failures(&job, 7).await;
    assert_eq!(counter.failures, 7);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_news_is_no_order() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    let name = rig.deploy(&job, &web()).await;
    rig.until_state(&job, JobState::Healthy).await;
    rig.engine.reset_calls();
    rig.store_down(true);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(rig.container(&name).state, RunState::Running);
    assert_eq!(rig.engine.calls().get("stop"), None);
    // What it was told last still counts: a crash is mended.
    rig.engine.exit(&name, 1);
    rig.until("it runs again", |rig| {
        rig.container(&name).state == RunState::Running
    })
    .await;
    rig.store_down(false);
    rig.until_state(&job, JobState::Healthy).await;
    assert_eq!(rig.ports(&job).await.len(), 1);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_engine_makes_nothing_dead() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    let name = rig.deploy(&job, &web()).await;
    rig.until_state(&job, JobState::Healthy).await;
    rig.engine.down(true);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let state = rig.state(&job).await.expect("its state stays on record");
    assert_eq!(state.state, JobState::Healthy);
    assert_eq!(rig.ports(&job).await.len(), 1);
    assert!(rig.counter(&job).await.is_none());
    // The engine took the container down with it: that is not the job's fault.
    rig.engine.exit(&name, 137);
    rig.engine.down(false);
    rig.until_running(&name).await;
    rig.until_state(&job, JobState::Healthy).await;
    assert!(rig.counter(&job).await.is_none());
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_unwanted_container_ends_what_routers_asked_it_though_not_for_ever() {
    let mut rig = Rig::start().await;
    for ends in [true, false] {
        let job = job("t1", "web", u32::from(ends));
        let name = rig.deploy(&job, &web()).await;
        rig.until_state(&job, JobState::Healthy).await;
        let copy = rig.ports(&job).await.remove(0).job_id;
        rig.another_host_asks(&[copy]).await;
        let since = tokio::time::Instant::now();
        rig.undeploy(&job).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(rig.container(&name).state, RunState::Running);
        assert!(rig.ports(&job).await.is_empty());
        match ends {
            true => rig.another_host_asks(&[]).await,
            false => tokio::time::sleep(Duration::from_millis(DURATION_MS_MAX)).await,
        }
        rig.until("it is gone", |rig| rig.find(&name).is_none())
            .await;
        let limit = Duration::from_millis(DURATION_MS_MAX);
        assert_eq!(since.elapsed() < limit, ends, "{:?}", since.elapsed());
    }
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_unwanted_container_goes_after_its_endpoints_and_nobody_elses_does() {
    let mut rig = Rig::start().await;
    rig.engine.add_foreign("theirs");
    let (slow, quick) = (job("t1", "slow", 0), job("t1", "quick", 0));
    let slow_name = rig.deploy(&slow, &web()).await;
    rig.engine.behave(&slow_name, Behaviour::IgnoresStop);
    rig.until_state(&slow, JobState::Healthy).await;
    rig.undeploy(&slow).await;
    // One that takes its whole time to stop holds nobody up.
    let quick_name = rig.deploy(&quick, &web()).await;
    rig.until_state(&quick, JobState::Healthy).await;
    assert_eq!(rig.container(&slow_name).state, RunState::Running);
    assert!(rig.ports(&slow).await.is_empty());
    assert!(
        rig.state(&slow).await.is_some(),
        "there until its container is gone"
    );
    rig.until("it is gone", |rig| rig.find(&slow_name).is_none())
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rig.state(&slow).await.is_none());
    assert_eq!(rig.container("theirs").state, RunState::Running);
    assert_eq!(rig.container(&quick_name).state, RunState::Running);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_never_works_is_restarted_and_counts_as_unhealthy() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    rig.engine
        .behave(web().image.digest(), Behaviour::NeverHealthy);
    rig.deploy(&job, &web()).await;
    let counter = rig.until_failures(&job, 1).await;
    assert!(counter.unhealthy && counter.fault == Fault::Own);
    assert!(rig.ports(&job).await.is_empty());
    rig.until_failures(&job, 2).await;
    assert!(rig.engine.calls()["stop"] >= 1);
    assert_eq!(rig.engine.calls()["create"], 1);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn faults_from_outside_are_told_from_the_commits_own() {
    let mut rig = Rig::start().await;
    let (pull, bad) = (job("t1", "pull", 0), job("t1", "bad", 0));
    let mut missing = spec();
    missing.image = ImageRef::Ours {
        repository: "s/none".to_owned(),
        digest: "sha256:0".to_owned(),
    };
    rig.deploy(&pull, &missing).await;
    let mut wrong = spec();
    wrong.settings.run = Some(vec!["nope".to_owned()]);
    rig.engine.behave("nope", Behaviour::FailsToStart);
    rig.deploy(&bad, &wrong).await;
    assert_eq!(rig.until_failures(&pull, 2).await.fault, Fault::Outside);
    assert_eq!(rig.until_failures(&bad, 2).await.fault, Fault::Own);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_taken_port_is_passed_over() {
    let mut rig = Rig::start().await;
    (20_000..20_003).for_each(|port| rig.engine.take_port(port));
    let job = job("t1", "web", 0);
    rig.deploy(&job, &web()).await;
    rig.until_state(&job, JobState::Healthy).await;
    assert!(rig.ports(&job).await[0].host_port >= 20_003);
    assert!(rig.counter(&job).await.is_none());
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_link_names_the_ambassador_and_its_listener_comes_back_after_a_restart() {
    let mut rig = Rig::start().await;
    rig.release_of("t1", &["db", "web"], "t1").await;
    rig.point(Some("t1"), None, Phase::Live, &[]).await;
    rig.deploy(&job("t1", "db", 0), &db()).await;
    rig.until_state(&job("t1", "db", 0), JobState::Healthy)
        .await;
    let name = rig.deploy(&job("t1", "web", 0), &web_linked_to_db()).await;
    rig.until_state(&job("t1", "web", 0), JobState::Healthy)
        .await;
    let asked = rig.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].key.port, asked[0].port), (6379, None));
    assert_eq!(asked[0].key.tag, tag("t1"));
    let url = format!("tcp://{}:{}", asked[0].gateway.addr(), rig::LISTENER);
    let env = rig.engine.made(&name).env;
    for wanted in [format!("DB_PORT={url}"), format!("DB_PORT_6379_TCP={url}")] {
        assert!(env.contains(&wanted), "{wanted} in {env:?}");
    }
    rig.stop().await;
    rig.restart();
    rig.until("it is bound again", |rig| rig.asked().len() == 2)
        .await;
    assert_eq!(rig.asked()[1].port, Some(rig::LISTENER));
    // What could not be bound then is asked for again: one failed look is not the last word.
    rig.until("it is asked for again", |rig| rig.asked().len() == 3)
        .await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_was_started_before_its_target_is_told_of_it_when_it_starts_again() {
    let mut rig = Rig::start().await;
    rig.release_of("t1", &["db", "web"], "t1").await;
    rig.point(Some("t1"), None, Phase::Live, &[]).await;
    let name = rig.deploy(&job("t1", "web", 0), &web_linked_to_db()).await;
    rig.until_state(&job("t1", "web", 0), JobState::Healthy)
        .await;
    assert!(rig.asked().is_empty());
    rig.deploy(&job("t1", "db", 0), &db()).await;
    rig.until_state(&job("t1", "db", 0), JobState::Healthy)
        .await;
    // What runs is left alone.
    assert_eq!(rig.engine.calls()["create"], 2);
    rig.engine.exit(&name, 1);
    rig.until("it was told", |rig| {
        let made = rig.find(&name).map(|_| rig.engine.made(&name).env);
        made.is_some_and(|env| env.iter().any(|one| one.starts_with("DB_PORT=")))
    })
    .await;
    rig.until_state(&job("t1", "web", 0), JobState::Healthy)
        .await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_placement_replaces_the_container() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    let first = rig.deploy(&job, &web()).await;
    rig.until_state(&job, JobState::Healthy).await;
    rig.undeploy(&job).await;
    let second = rig.deploy(&job, &web()).await;
    assert_ne!(first, second);
    rig.until_running(&second).await;
    rig.until("the old one is gone", |rig| rig.find(&first).is_none())
        .await;
    rig.until_state(&job, JobState::Healthy).await;
    let ports = rig.ports(&job).await;
    assert!(
        ports.iter().all(|port| port.job_id.0 == second),
        "{ports:?}"
    );
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_somebody_else_has_is_no_obstacle_and_their_container_stays() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    // The first placement in an empty store has this instance.
    let taken = rig.deploy(&job, &web()).await;
    rig.until_state(&job, JobState::Healthy).await;
    rig.stop().await;
    rig.engine.rm_f(&taken);
    rig.engine.add_foreign(&taken);
    rig.restart();
    rig.until("a second one runs", |rig| rig.engine.snapshot().len() == 2)
        .await;
    rig.until_state(&job, JobState::Healthy).await;
    assert!(rig.container(&taken).labels.is_empty());
    assert_eq!(rig.container(&taken).state, RunState::Running);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.engine.snapshot().len(), 2);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_a_hand_over_needs_is_fetched_ahead_and_a_failure_is_told_and_tried_again() {
    let mut rig = Rig::start().await;
    let registry = rig.engine.registry().clone();
    let digest = registry.publish("127.0.0.1:5000/s/db:b2", "db");
    let repository = "s/db".to_owned();
    let image = ImageRef::Ours { repository, digest };
    registry.down(true);
    rig.ask_to_fetch(std::slice::from_ref(&image)).await;
    let failed = |fetched: &[Fetched]| fetched.iter().any(|f| !f.error.is_empty());
    rig.until_fetched(failed).await;
    registry.down(false);
    let there = |fetched: &[Fetched]| {
        fetched
            .iter()
            .any(|f| f.image == image && f.error.is_empty())
    };
    rig.until_fetched(there).await;
    let pulls = rig.engine.calls()["pull"];
    // It is there now: nothing is pulled again, not by a worker that comes back either.
    rig.stop().await;
    rig.restart();
    rig.ask_to_fetch(&[]).await;
    rig.until_fetched(<[Fetched]>::is_empty).await;
    rig.ask_to_fetch(std::slice::from_ref(&image)).await;
    rig.until_fetched(there).await;
    assert_eq!(rig.engine.calls()["pull"], pulls);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_rebuilt_from_a_copy_makes_no_container_anew() {
    let mut rig = Rig::start().await;
    let job = job("t1", "web", 0);
    let name = rig.deploy(&job, &web()).await;
    rig.until_state(&job, JobState::Healthy).await;
    let before = rig.container(&name);
    rig.stop().await;
    rig.rebuild(&job, &name).await;
    rig.restart();
    let instance = rig.assigned().await.assignments[0].instance;
    // The record of the old instance is still there at first.
    let state = loop {
        let state = rig.until_state(&job, JobState::Healthy).await;
        if state.instance == instance {
            break state;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(state.container.as_deref(), Some(&*name));
    assert_eq!(rig.container(&name).id, before.id);
    assert_eq!(rig.engine.calls()["create"], 1);
    // It still is one job like any other: what it does counts, and it can be taken away.
    rig.engine.exit(&name, 1);
    rig.until_failures(&job, 1).await;
    rig.until_state(&job, JobState::Healthy).await;
    assert_eq!(rig.engine.calls()["create"], 1);
    rig.undeploy(&job).await;
    rig.until("it is gone", |rig| rig.find(&name).is_none())
        .await;
    rig.stop().await;
}
