//! The built-in stack: writes the release of `core/registry` once its image is on this host, and
//! another when the operator names another image. Says to builds whether it answers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Parts;
use crate::model::names::{NodeName, StackName, Tag};
use crate::model::release::{Commit, NodeKind, Phase, Pointer, Release, ReleaseNode, RunId};
use crate::model::spec::{
    ContainerSpec, Expose, Health, HealthCheck, ImageRef, Settings, StopPolicy, VolumeMount,
};
use crate::model::world::{StackWorld, World};
use crate::schedule::compose::next_tag;
use crate::schedule::wanted::any_healthy;
use crate::store::election::Leadership;
use crate::store::tables::Outcome;
use crate::wake::{self, Ear, Next, now_ms};

/// The port the registry listens on in its container.
pub(crate) const REGISTRY_PORT: u16 = 5000;

/// Looks again at least this often.
const INTERVAL: Duration = Duration::from_secs(60);

/// Between two looks for the registry's image while the registry works: people may have configured
/// another, or have cleared it away.
const IMAGE_LOOK: Duration = Duration::from_secs(300);

/// When somebody else changed the stack at the same time.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Between two looks while the registry does not work: its image may be what it lacks.
const IMAGE_LOOK_ILL: Duration = Duration::from_secs(15);

/// Keeps the built-in stack's records right until shutdown.
pub(super) async fn run(
    parts: Parts,
    leadership: Arc<Leadership>,
    ear: Ear,
    stop: CancellationToken,
) {
    let looked: Mutex<Option<Instant>> = Mutex::default();
    wake::run("core", INTERVAL, ear, stop, || async {
        ensure(&parts, &leadership, &mut *looked.lock().await).await
    })
    .await;
}

async fn ensure(
    parts: &Parts,
    leadership: &Leadership,
    looked: &mut Option<Instant>,
) -> anyhow::Result<Next> {
    let core = StackName::core();
    let world = parts.tables.world(now_ms()).await?;
    let stack = world.stacks.get(&core);
    let pause = if registry_up(&world) {
        IMAGE_LOOK
    } else {
        IMAGE_LOOK_ILL
    };
    // Whoever rings does not make the engine answer anew.
    if world.frozen_stacks.contains(&core) || looked.is_some_and(|at| at.elapsed() < pause) {
        return Ok(Next::After(pause));
    }
    let live = stack.is_some_and(|stack| stack.live().is_some());
    // While there is one already, a pull that fails is not tried again at once.
    *looked = live.then(Instant::now);
    let spec = spec(registry_image(parts).await?);
    let key = (NodeName::registry(), Tag::of_services());
    if live && stack.is_some_and(|stack| stack.procs.get(&key) == Some(&spec)) {
        return Ok(Next::After(pause));
    }
    let (release, pointer) = records(&spec, stack, world.now_ms);
    tracing::info!(stack = %core, tag = %release.tag, "the registry runs {}", parts.config.registry_image);
    let procs = [(key, spec)].into_iter().collect();
    let revision = stack.map_or(0, |stack| stack.pointer_revision);
    let tables = &parts.tables;
    let registry = parts.config.registry();
    let staged = tables
        .stage(
            leadership,
            &release,
            &procs,
            &registry,
            &pointer,
            revision,
            vec![],
        )
        .await?;
    let done = matches!(staged, Outcome::Done(_));
    *looked = done.then(Instant::now);
    Ok(Next::After(if done { pause } else { TRY_AGAIN }))
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
        // Else it refuses to forget what clean-up throws away.
        env: [(
            "REGISTRY_STORAGE_DELETE_ENABLED".to_owned(),
            "true".to_owned(),
        )]
        .into(),
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

/// The release of this image and a pointer that has it live. A later image is another release, named
/// for its id; the registry itself runs under `static`.
fn records(spec: &ContainerSpec, stack: Option<&StackWorld>, now_ms: u64) -> (Release, Pointer) {
    let id = match (&spec.image, stack.and_then(StackWorld::live)) {
        (ImageRef::Local { id }, Some(_)) => id.trim_start_matches("sha256:"),
        _ => "",
    };
    let id: String = id.chars().chain(std::iter::repeat('0')).take(40).collect();
    let on_record = |tag: &Tag| stack.is_some_and(|stack| stack.releases.contains_key(tag));
    let tag = if stack.is_some_and(|stack| stack.live().is_some()) {
        next_tag(&id, on_record)
    } else {
        Tag::of_services()
    };
    let run = RunId::new(now_ms, 0);
    let node = ReleaseNode {
        tag: Tag::of_services(),
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
        id,
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
        stages_ms: Vec::new(),
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
