//! The built-in stack: writes the release of `core/registry` once its image is on this host, and
//! waits for it on behalf of builds.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;

use super::Parts;
use crate::model::names::{NodeName, StackName, Tag};
use crate::model::release::{Commit, NodeKind, Phase, Pointer, Release, ReleaseNode, RunId};
use crate::model::spec::{
    ContainerSpec, Expose, Health, HealthCheck, ImageRef, Settings, StopPolicy, VolumeMount,
};
use crate::model::world::World;
use crate::schedule::wanted::any_healthy;
use crate::store::election::Leadership;
use crate::wake::{self, Ear, Next, now_ms};

/// The port the registry listens on in its container.
pub(crate) const REGISTRY_PORT: u16 = 5000;

/// Looks again at least this often.
const INTERVAL: Duration = Duration::from_secs(60);

/// Keeps the built-in stack's records right until shutdown.
pub(super) async fn run(
    parts: Parts,
    leadership: Arc<Leadership>,
    ear: Ear,
    stop: CancellationToken,
) {
    wake::run("core", INTERVAL, ear, stop, || async {
        ensure(&parts, &leadership).await?;
        Ok(Next::OnChange)
    })
    .await;
}

async fn ensure(parts: &Parts, leadership: &Leadership) -> anyhow::Result<()> {
    let core = StackName::core();
    let world = parts.tables.world(now_ms()).await?;
    if world
        .stacks
        .get(&core)
        .is_some_and(|stack| stack.live().is_some())
    {
        return Ok(());
    }
    let id = registry_image(parts).await?;
    let spec = spec(id);
    let (release, pointer) = records(&spec, world.now_ms);
    let key = (NodeName::registry(), Tag::of_services());
    let procs = [(key, spec)].into_iter().collect();
    let revision = world
        .stacks
        .get(&core)
        .map_or(0, |stack| stack.pointer_revision);
    parts
        .tables
        .stage(
            leadership,
            &release,
            &procs,
            &parts.config.registry(),
            &pointer,
            revision,
            vec![],
        )
        .await?;
    Ok(())
}

/// The id of the registry's image, pulled if it is not here.
async fn registry_image(parts: &Parts) -> anyhow::Result<String> {
    let reference = &parts.config.registry_image;
    if let Some(image) = parts.engine.image(reference).await? {
        return Ok(image.id);
    }
    let (lines, mut read) = tokio::sync::mpsc::channel(16);
    let drain = async { while read.recv().await.is_some() {} };
    let pull = async move { parts.engine.pull(reference, &lines).await };
    let (pulled, ()) = tokio::join!(pull, drain);
    pulled.with_context(|| {
        format!(
            "pulling the registry's image {reference}; name one this host has with --registry-image"
        )
    })?;
    match parts.engine.image(reference).await? {
        Some(image) => Ok(image.id),
        None => bail!("the registry's image {reference} is not on this host after a pull"),
    }
}

fn spec(id: String) -> ContainerSpec {
    let settings = Settings {
        expose: vec![Expose {
            port: REGISTRY_PORT,
            proto: Default::default(),
            host_port: None,
        }],
        volume: vec![VolumeMount {
            name: None,
            path: "/var/lib/registry".to_owned(),
        }],
        health: Health {
            check: Some(HealthCheck::Http {
                path: "/v2/".to_owned(),
                port: None,
                status: None,
            }),
            ..Health::default()
        },
        ..Settings::default()
    };
    ContainerSpec::new(ImageRef::Local { id }, settings)
}

fn records(spec: &ContainerSpec, now_ms: u64) -> (Release, Pointer) {
    let tag = Tag::of_services();
    let run = RunId::new(now_ms, 0);
    let node = ReleaseNode {
        tag: tag.clone(),
        kind: NodeKind::Container,
        spec_hash: spec.hash(),
        scale: 1,
        domains: Vec::new(),
        filter: Vec::new(),
        spread_required: false,
        stop: StopPolicy::default(),
        service: true,
        fixed: true,
        exclusive: true,
        squeezed: false,
        link: Vec::new(),
        shared_volumes: Vec::new(),
        has_volume: true,
        host_ports: Vec::new(),
        resources: spec.settings.resources,
        pending: None,
    };
    let commit = Commit {
        id: "0".repeat(40),
        subject: "the built-in stack".to_owned(),
        author: "viking".to_owned(),
        at_ms: now_ms,
    };
    let release = Release {
        v: 1,
        stack: StackName::core(),
        tag: tag.clone(),
        commit,
        run: run.clone(),
        made_ms: now_ms,
        images: Default::default(),
        external: Default::default(),
        nodes: [(NodeName::registry(), node)].into_iter().collect(),
    };
    let pointer = Pointer {
        v: 1,
        live: Some(tag),
        phase: Phase::Live,
        since_ms: now_ms,
        run: Some(run),
        ..Pointer::default()
    };
    (release, pointer)
}

/// Whether the registry answers, as its host sees it.
pub(super) fn registry_up(world: &World) -> bool {
    any_healthy(
        world,
        &StackName::core(),
        &NodeName::registry(),
        &[Tag::of_services()],
    )
}
