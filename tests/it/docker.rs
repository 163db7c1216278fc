//! One contract for both engines: each promise is a function over an engine, run against the fake
//! and against Docker. What a command does in Docker, the fake is told in the same test.
//!
//! Docker is found at `VIKING_TEST_DOCKER` or its usual socket, with `viking/busybox:1` and
//! `viking/registry:2` present (`deploy/base-images.sh`); without it these tests fail. What they
//! make is named after their process, and removed by the test or by the next run.

// Tells the lints that helpers here are tests too.
#![cfg(test)]

mod containers;
mod images;
mod real;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use viking::docker::bollard::BollardEngine;
use viking::docker::fake::FakeEngine;
use viking::docker::{Container, Engine, NewContainer, SharedEngine, label};

/// First part of the name of all that these tests make.
pub(crate) const PREFIX: &str = "vkdock";
/// The image of most containers here.
pub(crate) const BUSYBOX: &str = "viking/busybox:1";
/// How long something is waited for before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// An engine, and a corner of it that belongs to one test.
pub(crate) struct Env {
    pub(crate) engine: SharedEngine,
    /// What the fake is told; nothing for Docker.
    fake: Option<FakeEngine>,
    /// Cluster id, and first part of all names.
    pub(crate) cluster: String,
}

impl Env {
    pub(crate) fn fake(test: &str) -> Self {
        let fake = FakeEngine::new();
        fake.add_image(BUSYBOX);
        Self {
            engine: Arc::new(fake.clone()),
            fake: Some(fake),
            cluster: cluster(test),
        }
    }

    pub(crate) async fn real(test: &str) -> Self {
        let docker = docker_address();
        let engine = BollardEngine::connect(&docker).expect("an address");
        if let Err(error) = engine.info().await {
            panic!("these tests need Docker at {docker} (or VIKING_TEST_DOCKER): {error}");
        }
        let base = engine.image(BUSYBOX).await.expect("Docker answers");
        assert!(
            base.is_some(),
            "{BUSYBOX} is missing: run deploy/base-images.sh"
        );
        real::sweep(&docker).await;
        Self {
            engine: Arc::new(engine),
            fake: None,
            cluster: cluster(test),
        }
    }

    /// Tells the fake what Docker does by itself.
    pub(crate) fn script(&self, script: impl FnOnce(&FakeEngine)) {
        if let Some(fake) = &self.fake {
            script(fake);
        }
    }

    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.cluster)
    }

    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(label::CLUSTER.to_owned(), self.cluster.clone())])
    }

    /// A container of ours that runs `command`.
    pub(crate) fn container(&self, name: &str, command: &[&str]) -> NewContainer {
        NewContainer {
            name: self.name(name),
            image: BUSYBOX.into(),
            command: Some(words(command)),
            labels: self.labels(),
            ..NewContainer::default()
        }
    }

    /// A container of ours that runs until it is told to end.
    pub(crate) fn sleeper(&self, name: &str) -> NewContainer {
        self.container(name, &["sleep", "1000"])
    }

    /// Makes and starts; answers the id.
    pub(crate) async fn run(&self, new: &NewContainer) -> String {
        let id = self.engine.create(new).await.unwrap();
        self.engine.start(&id).await.unwrap();
        id
    }

    pub(crate) async fn see(&self, name: &str) -> Container {
        let found = self.engine.container(name).await.unwrap();
        found.unwrap_or_else(|| panic!("{name} is not there"))
    }

    /// Waits until the container is as wanted.
    pub(crate) async fn until(&self, id: &str, wanted: impl Fn(&Container) -> bool) -> Container {
        eventually("the container is as wanted", || async {
            Some(self.see(id).await).filter(&wanted)
        })
        .await
    }

    /// Removes what the test made.
    pub(crate) async fn done(self) {
        if self.fake.is_none() {
            real::remove_all(&docker_address(), &self.cluster).await;
        }
    }
}

pub(crate) fn docker_address() -> String {
    let address = std::env::var("VIKING_TEST_DOCKER");
    address.unwrap_or_else(|_| "unix:///var/run/docker.sock".into())
}

fn cluster(test: &str) -> String {
    format!("{PREFIX}-{}-{test}", std::process::id())
}

pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Asks until there is an answer; fails after [`PATIENCE`].
pub(crate) async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// Runs each promise against both engines.
macro_rules! contract {
    ($($promise:ident),* $(,)?) => {
        mod fake {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise($crate::docker::Env::fake(stringify!($promise))).await;
            })*
        }
        mod docker {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise($crate::docker::Env::real(stringify!($promise)).await).await;
            })*
        }
    };
}
pub(crate) use contract;
