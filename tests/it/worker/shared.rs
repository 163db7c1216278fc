//! Shared variables: the worker gives a container the value of exactly the version its spec names, and
//! nothing it tells of the job shows it.

use std::time::Duration;

use viking::model::env::{SecretValue, VarRef};
use viking::model::job::{Fault, JobState};
use viking::model::spec::ContainerSpec;

use super::rig::{Rig, job};
use super::web;

/// What `web` names of the shared variables, at a version.
fn web_with_token(version: u64) -> ContainerSpec {
    let mut web = web();
    web.settings.env.insert("PLAIN".into(), "text".into());
    let shared = &mut web.settings.shared;
    shared.insert("API_TOKEN".into(), token().at(version));
    web
}

fn token() -> VarRef {
    VarRef {
        scope: "prod".parse().expect("a name"),
        name: "TOKEN".parse().expect("a name"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_shared_variable_is_read_at_its_version_and_waited_for_when_it_is_not_there() {
    let mut rig = Rig::start().await;
    let set = async |rig: &Rig, text: &str| {
        let value = SecretValue::parse(text.to_owned()).expect("a value");
        let (tables, var) = (&rig.tables, token());
        tables
            .set_variable(&var, &value, 0)
            .await
            .expect("the store works")
    };
    let job = job("t1", "web", 0);
    assert_eq!(set(&rig, "hunter1").await, 1);
    let name = rig.deploy(&job, &web_with_token(2)).await;
    let counter = rig.until_failures(&job, 1).await;
    assert_eq!(counter.fault, Fault::Outside, "{}", counter.reason);
    let reason = "the shared variable prod/TOKEN has no value on record for version 2: \
                  viking env set prod TOKEN";
    assert_eq!(counter.reason, reason);
    assert!(rig.find(&name).is_none());
    assert_eq!(set(&rig, "hunter2\nlines").await, 2);
    assert_eq!(set(&rig, "hunter3").await, 3);
    rig.until_state(&job, JobState::Healthy).await;
    let env = rig.engine.made(&name).env;
    assert!(env.contains(&"API_TOKEN=hunter2\nlines".to_owned()));
    assert!(env.contains(&"PLAIN=text".to_owned()));
    assert!(env.contains(&"VIKING_STACK=s".to_owned()));
    // It is no drift, and nothing that is told of the job shows it.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.drift_fields().await, Vec::<String>::new());
    let told = rig.tables.dump().await.expect("the store works");
    assert!(told.iter().all(|(_, value)| !value.contains("hunter")));
    let labels = rig.container(&name).labels;
    assert!(labels.values().all(|label| !label.contains("hunter")));
    rig.stop().await;
}
