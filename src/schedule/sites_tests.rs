//! Worlds in which some hosts have a site: what a release waits for, and what it does not.

use super::*;
use crate::model::host::{EngineState, SiteHere};
use crate::model::names::{ImageName, NodeName, StackName};
use crate::model::release::{ImageRecord, NodeKind};
use crate::schedule::compose::Procs;
use crate::schedule::{forms, rollout, script};

const SHOP: &str = "
hosts: {alpha: {}, beta: {}, gamma: {}}
stacks:
  shop:
    live: a1
    staged: b2
    phase: staging
    releases: {a1: {}, b2: {help: {}}}
";

const DIGEST: &str = "sha256:1";

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

fn shop() -> StackName {
    StackName::parse("shop").unwrap()
}

/// A staged release that is one website.
fn world() -> World {
    let mut world = script::world(SHOP).unwrap();
    let stack = world.stacks.get_mut(&shop()).unwrap();
    let tag = stack.pointer.staged.clone().unwrap();
    let release = stack.releases.get_mut(&tag).unwrap();
    let help = NodeName::parse("help").unwrap();
    release.nodes.get_mut(&help).unwrap().kind = NodeKind::Website {
        document_root: "www".to_owned(),
    };
    let image = ImageRecord {
        v: 1,
        repository: "shop/site.help".to_owned(),
        digest: DIGEST.to_owned(),
        input: String::new(),
        size_bytes: 1,
        build_ms: 0,
        commit: String::new(),
        built_by: tag,
        bases: Default::default(),
        made_of: None,
    };
    release.images.insert(ImageName::of_site(&help), image);
    world
}

fn says(world: &mut World, name: &str, error: &str) {
    let record = world.hosts.get_mut(&host(name)).unwrap();
    record.sites = vec![SiteHere {
        digest: DIGEST.to_owned(),
        error: error.to_owned(),
    }];
}

fn waits(world: &World) -> String {
    let held = holds_up(world, &world.stacks[&shop()]).unwrap_or_default();
    let stepped = rollout::step(world, &shop()).is_some();
    assert_eq!(
        held.is_empty(),
        stepped,
        "it goes on when nothing holds it up: {held}"
    );
    held
}

#[test]
fn a_release_is_live_only_when_every_host_has_its_files() {
    let mut world = world();
    assert_eq!(
        waits(&world),
        "the files of help are on 0 of 3 hosts, alpha fetches them"
    );
    says(&mut world, "alpha", "");
    says(&mut world, "gamma", "");
    assert_eq!(
        waits(&world),
        "the files of help are on 2 of 3 hosts, beta fetches them"
    );
    says(&mut world, "beta", "");
    assert_eq!(waits(&world), "");
    let step = rollout::step(&world, &shop()).unwrap();
    assert_eq!(step.event.0, "live");
}

#[test]
fn a_host_that_cannot_is_told_and_fails_no_commit_however_long_it_takes() {
    let mut world = world();
    says(&mut world, "beta", "");
    says(&mut world, "gamma", "no space left on device");
    world.now_ms += 24 * 60 * 60 * 1000;
    assert_eq!(
        waits(&world),
        "gamma cannot have the files of help: no space left on device"
    );
}

#[test]
fn only_hosts_that_are_alive_and_ready_are_waited_for_and_files_need_no_engine() {
    let mut world = world();
    says(&mut world, "alpha", "");
    world.hosts.remove(&host("beta"));
    let gamma = world.members.get_mut(&host("gamma")).unwrap();
    gamma.readiness = Readiness::Cordoned;
    assert_eq!(waits(&world), "");
    world.hosts.get_mut(&host("alpha")).unwrap().sites.clear();
    world.hosts.get_mut(&host("alpha")).unwrap().engine = EngineState::Down {
        reason: String::new(),
    };
    assert_eq!(
        waits(&world),
        "the files of help are on 0 of 1 hosts, alpha fetches them"
    );
}

#[test]
fn a_release_with_files_waits_for_hosts_of_versions_that_would_not_unpack_them() {
    let mut world = world();
    let staged = |world: &World| world.stacks[&shop()].staged().unwrap().clone();
    let waits = |world: &World| forms::waits(world, &staged(world), &Procs::new());
    assert_eq!(waits(&world), None);
    world.hosts.get_mut(&host("beta")).unwrap().reads = 2;
    assert!(waits(&world).unwrap().contains("waits for beta"));
}
