//! The built-in stack: writes the release of `core/registry` once its image is on this host, another
//! with a second copy when there is a second host, and another when the operator names another image.
//! Says to builds whether it answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Parts;
use crate::clock::now_ms;
use crate::model::host::Readiness;
use crate::model::job::Seat;
use crate::model::names::{NodeName, StackName, Tag};
use crate::model::registry::{Credential, IMAGE_REPOSITORY, REGISTRY_PORT, image_tag, is_registry};
use crate::model::release::{Commit, NodeKind, Phase, Pointer, Release, ReleaseNode, RunId};
use crate::model::spec::{
    ContainerSpec, Expose, Health, HealthCheck, ImageRef, Settings, StopPolicy, VolumeMount,
};
use crate::model::world::{Pin, PinKey, StackWorld, World};
use crate::schedule::compose::next_tag;
use crate::schedule::wanted::any_healthy;
use crate::store::Op;
use crate::store::election::Leadership;
use crate::store::tables::Outcome;
use crate::wake::{self, Ear, Next};

/// Copies of the registry where there are hosts for them.
const COPIES: u32 = 2;

/// Longest push of the registry's own image: some ten megabytes, through this host.
const SHARE_MAX: Duration = Duration::from_secs(120);

/// Looks again at least this often.
const INTERVAL: Duration = Duration::from_secs(60);

/// Between two looks for the registry's image while the registry works: people may have configured
/// another, or have cleared it away.
const IMAGE_LOOK: Duration = Duration::from_secs(300);

/// When somebody else changed the stack at the same time.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Between two looks while the registry does not work: its image may be what it lacks.
const IMAGE_LOOK_ILL: Duration = Duration::from_secs(15);

/// What the loop remembers between two looks.
#[derive(Default)]
struct Memory {
    /// When the engine was last asked for the registry's image.
    looked: Option<Instant>,
    /// There is a credential.
    credential: bool,
}

/// Keeps the built-in stack's records right until shutdown.
pub(super) async fn run(
    parts: Parts,
    leadership: Arc<Leadership>,
    ear: Ear,
    stop: CancellationToken,
) {
    let memory: Mutex<Memory> = Mutex::default();
    wake::run("core", INTERVAL, ear, stop, || async {
        ensure(&parts, &leadership, &mut *memory.lock().await).await
    })
    .await;
}

async fn ensure(
    parts: &Parts,
    leadership: &Leadership,
    memory: &mut Memory,
) -> anyhow::Result<Next> {
    if !memory.credential {
        let made = parts.tables.ensure_credential(leadership, credential);
        memory.credential = matches!(made.await?, Outcome::Done(_));
    }
    let world = parts.tables.world(now_ms()).await?;
    let up = registry_up(&world);
    let pause = if up { IMAGE_LOOK } else { IMAGE_LOOK_ILL };
    if world.frozen_stacks.contains(&StackName::core()) {
        return Ok(Next::After(pause));
    }
    set_free(parts, leadership, &world).await?;
    let stack = world.stacks.get(&StackName::core());
    let scale = scale_due(&world);
    let live = stack.and_then(StackWorld::live).and_then(registry_of);
    let grows = live.is_some_and(|node| node.scale < scale);
    // Whoever rings does not make the engine answer anew.
    if !grows && memory.looked.is_some_and(|at| at.elapsed() < pause) {
        return Ok(Next::After(pause));
    }
    // While there is one already, a pull that fails is not tried again at once.
    memory.looked = live.is_some().then(Instant::now);
    let id = match recorded(&world, &parts.config.registry_image) {
        Some(id) => id,
        None => registry_image(parts).await?,
    };
    let spec = spec(id);
    let key = (NodeName::registry(), Tag::of_services());
    let same = stack.is_some_and(|stack| stack.procs.get(&key) == Some(&spec));
    let release = stack.and_then(StackWorld::live);
    let shared = release.is_some_and(|release| release.external.contains_key(IMAGE_REPOSITORY));
    // A push that failed is made up for, once the registry works.
    let unshared = scale > 1 && up && !shared && matches!(spec.image, ImageRef::Local { .. });
    if same && live.is_some() && !grows && !unshared {
        return Ok(Next::After(pause));
    }
    let external = external(parts, &spec, scale, up).await;
    if same && live.is_some() && !grows && !external.contains_key(IMAGE_REPOSITORY) {
        return Ok(Next::After(pause));
    }
    let draft = Draft {
        scale,
        external,
        stack,
        now_ms: world.now_ms,
    };
    let done = write(parts, leadership, &world, spec, &draft).await?;
    memory.looked = done.then(Instant::now);
    Ok(Next::After(if done { pause } else { TRY_AGAIN }))
}

/// Writes the built-in stack's next release; `false` when somebody else changed it meanwhile.
async fn write(
    parts: &Parts,
    leadership: &Leadership,
    world: &World,
    spec: ContainerSpec,
    draft: &Draft<'_>,
) -> anyhow::Result<bool> {
    let (release, pointer) = records(&spec, draft);
    let (tag, copies) = (&release.tag, draft.scale);
    let image = &parts.config.registry_image;
    tracing::info!(stack = %release.stack, %tag, copies, "the registry runs {image}");
    let key = (NodeName::registry(), Tag::of_services());
    let procs = [(key, spec)].into_iter().collect();
    let revision = draft.stack.map_or(0, |stack| stack.pointer_revision);
    let pin = first_pin(parts, world, draft);
    let staged = parts
        .tables
        .stage(
            leadership,
            &release,
            &procs,
            &parts.config.registry(),
            &pointer,
            revision,
            pin.into_iter().collect(),
        )
        .await?;
    Ok(matches!(staged, Outcome::Done(_)))
}

/// Bytes that nobody can guess; `None` when the machine has none to give.
fn credential() -> Option<Credential> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).ok()?;
    Some(Credential::new(random))
}

/// How many copies there are to be: a second one as soon as there is another host for it, and the
/// first one works, which the second one gets its image from. Never fewer than there are: a host that
/// is lost comes back with its copy.
fn scale_due(world: &World) -> u32 {
    let live = world.stacks.get(&StackName::core());
    let live = live.and_then(StackWorld::live).and_then(registry_of);
    let before = live.map_or(1, |node| node.scale);
    if world.members.len() >= 2 && live.is_some() && registry_up(world) {
        return before.max(COPIES);
    }
    before
}

fn registry_of(release: &Release) -> Option<&ReleaseNode> {
    release.nodes.get(&NodeName::registry())
}

/// The id on record of the image that is configured. With several hosts it is the one that was found
/// first, as with every external reference: each host may know another by that name, and which of
/// them leads must not restart the registry. A single host follows its engine.
fn recorded(world: &World, configured: &str) -> Option<String> {
    let live = world.stacks.get(&StackName::core())?.live()?;
    match live.external.get(configured)? {
        ImageRef::Local { id } if world.members.len() >= 2 => Some(id.clone()),
        _ => None,
    }
}

/// What the release names besides: what the configured image was found to be, and where other hosts
/// can have it from.
async fn external(
    parts: &Parts,
    spec: &ContainerSpec,
    scale: u32,
    up: bool,
) -> BTreeMap<String, ImageRef> {
    let configured = parts.config.registry_image.clone();
    let mut external = BTreeMap::from([(configured, spec.image.clone())]);
    if let (ImageRef::Local { id }, true) = (&spec.image, scale > 1 && up) {
        match share_image(parts, id).await {
            Ok(shared) => drop(external.insert(IMAGE_REPOSITORY.to_owned(), shared)),
            // Other hosts then need it from elsewhere.
            Err(error) => tracing::warn!("the registry's own image is not in it: {error:#}"),
        }
    }
    external
}

/// Puts the registry's own image into it, for hosts that have it from nowhere else.
async fn share_image(parts: &Parts, id: &str) -> anyhow::Result<ImageRef> {
    let tag = image_tag(id);
    let name = format!("{}/{IMAGE_REPOSITORY}", parts.registry.address());
    parts.engine.tag(id, &name, &tag).await?;
    let (lines, mut unread) = tokio::sync::mpsc::channel(1);
    unread.close();
    let push = parts.engine.push(&name, &tag, &lines);
    let digest = timeout(SHARE_MAX, push)
        .await
        .with_context(|| format!("not pushed within {SHARE_MAX:?}"))??;
    Ok(ImageRef::Ours {
        repository: IMAGE_REPOSITORY.to_owned(),
        digest,
    })
}

/// The first copy starts where its image is known to be.
fn first_pin(parts: &Parts, world: &World, draft: &Draft<'_>) -> Option<Op> {
    let host = &parts.config.host;
    let pin = PinKey::Seat(Seat {
        stack: StackName::core(),
        node: NodeName::registry(),
        slot: 0,
    });
    let first = draft.stack.and_then(StackWorld::live).is_none();
    let member = world.members.get(host);
    let ready = member.is_some_and(|member| member.readiness == Readiness::Ready);
    let here = first && ready && !world.fixed.contains_key(&pin);
    let record = Pin {
        v: 1,
        host: host.clone(),
        since_ms: world.now_ms,
        reason: "its image is there".to_owned(),
    };
    here.then(|| parts.tables.pin_op(&pin, &record))
}

/// A copy whose host people have forgotten starts anew elsewhere: what it held is in the other copy,
/// or is built again.
async fn set_free(parts: &Parts, leadership: &Leadership, world: &World) -> anyhow::Result<()> {
    // A member that cannot be read is not forgotten.
    if !world.frozen.is_empty() || world.members.is_empty() {
        return Ok(());
    }
    let of_registry = |key: &PinKey| match key {
        PinKey::Seat(seat) => is_registry(&seat.stack, &seat.node),
        PinKey::Volume(..) => false,
    };
    let pins = world.fixed.iter().filter(|(key, _)| of_registry(key));
    for (key, pin) in pins.filter(|(_, pin)| !world.members.contains_key(&pin.host)) {
        tracing::warn!(
            "{} was forgotten: its copy of the registry starts anew elsewhere",
            pin.host
        );
        parts.tables.unpin(leadership, key, pin).await?;
    }
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

/// What the next release of the built-in stack says besides the spec.
struct Draft<'a> {
    scale: u32,
    external: BTreeMap<String, ImageRef>,
    stack: Option<&'a StackWorld>,
    now_ms: u64,
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

/// The release of this image and a pointer that has it live. A later image, or a further copy, is
/// another release, named for the image's id; the registry itself runs under `static`, so that what
/// did not change is not started again.
fn records(spec: &ContainerSpec, draft: &Draft<'_>) -> (Release, Pointer) {
    let (stack, now_ms) = (draft.stack, draft.now_ms);
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
        scale: draft.scale,
        domains: Vec::new(),
        filter: Vec::new(),
        spread_required: true,
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
        external: draft.external.clone(),
        nodes: [(NodeName::registry(), node)].into_iter().collect(),
        stages_ms: Vec::new(),
        before: Default::default(),
        require: Default::default(),
        again: None,
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
