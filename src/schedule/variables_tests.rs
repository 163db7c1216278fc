//! Which stacks a variable that was set anew moves, and how.

use super::*;
use crate::model::env::VarIndex;
use crate::model::names::{NodeName, Tag};
use crate::model::release::{Phase, Pointer};
use crate::schedule::script;

/// `web` and the service `db` name a variable each, `cache` names none.
const SHOP: &str = "
now_ms: 1000000
hosts: {alpha: {}}
stacks:
  shop:
    live: a1
    phase: live
    releases: {a1: {web: {expose: true}, db: {service: true}, cache: {}}}
";

fn name() -> StackName {
    StackName::parse("shop").unwrap()
}

fn node(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn var(text: &str) -> VarRef {
    VarRef {
        scope: "prod".parse().unwrap(),
        name: text.parse().unwrap(),
    }
}

fn set(world: &mut World, text: &str, version: u64) {
    let index = world.env.entry(var(text)).or_default();
    index.set = true;
    index.versions.insert(version);
}

fn stack(world: &mut World) -> &mut StackWorld {
    world.stacks.get_mut(&name()).unwrap()
}

/// The world in which everything names version 1, which is the current one.
fn shop() -> World {
    let mut world = script::world(SHOP).unwrap();
    for (of, text) in [("web", "TOKEN"), ("db", "PASSWORD")] {
        set(&mut world, text, 1);
        let stack = stack(&mut world);
        let spec = stack
            .procs
            .iter_mut()
            .find(|((name, _), _)| name.as_str() == of);
        let spec = spec.unwrap().1;
        spec.settings.shared.insert("X".into(), var(text).at(1));
        let hash = spec.hash();
        let release = stack.releases.values_mut().next().unwrap();
        release.nodes.get_mut(&node(of)).unwrap().spec_hash = hash;
    }
    world
}

fn made(world: &World) -> Option<Ready> {
    renew(world, &name(), RunId::new(9, 9))
}

/// As if the release had gone live.
fn go_live(world: &mut World, ready: Ready) {
    let stack = stack(world);
    stack.pointer = ready.pointer;
    stack.pointer.live = stack.pointer.staged.take();
    stack.pointer.phase = Phase::Live;
    stack.procs.extend(ready.procs);
    stack
        .releases
        .insert(ready.release.tag.clone(), ready.release);
}

#[test]
fn only_the_node_that_names_a_changed_variable_moves_and_only_once() {
    let mut world = shop();
    assert_eq!(due(&world), []);
    assert_eq!(made(&world), None);
    set(&mut world, "TOKEN", 2);
    set(&mut world, "OTHER", 7);
    assert_eq!(due(&world), [name()]);
    let ready = made(&world).unwrap();
    let Ready {
        release,
        procs,
        pointer,
        ..
    } = &ready;
    let live = &world.stacks[&name()].releases[&Tag::parse("a1").unwrap()];
    assert_eq!(release.commit, live.commit);
    assert_eq!(pointer.staged.as_ref(), Some(&release.tag));
    assert_eq!(release.nodes[&node("cache")], live.nodes[&node("cache")]);
    assert_eq!(release.nodes[&node("db")], live.nodes[&node("db")]);
    let web = &release.nodes[&node("web")];
    assert_eq!(web.tag, release.tag);
    let spec = &procs[&(node("web"), release.tag.clone())];
    assert_eq!(
        (procs.len(), &spec.settings.shared["X"]),
        (1, &var("TOKEN").at(2))
    );
    assert_eq!(spec.hash(), web.spec_hash);
    let said = release.again.as_ref().map(ToString::to_string);
    assert_eq!(said.as_deref(), Some("change of prod/TOKEN"));
    go_live(&mut world, ready);
    assert_eq!((due(&world), made(&world)), (vec![], None));
}

#[test]
fn a_service_keeps_running_and_its_spec_waits() {
    let mut world = shop();
    set(&mut world, "PASSWORD", 2);
    let ready = made(&world).unwrap();
    let db = &ready.release.nodes[&node("db")];
    assert!(db.tag.is_static() && ready.procs.is_empty());
    let waits = db.pending.as_ref().unwrap();
    assert_eq!(waits.settings.shared["X"], var("PASSWORD").at(2));
    go_live(&mut world, ready);
    assert_eq!(due(&world), []);
    // What waits is made anew too, and what runs is still in use.
    set(&mut world, "PASSWORD", 3);
    let ready = made(&world).unwrap();
    let waits = ready.release.nodes[&node("db")].pending.clone().unwrap();
    assert_eq!(waits.settings.shared["X"], var("PASSWORD").at(3));
    let used = uses(&world).remove(&var("PASSWORD")).unwrap();
    let used: Vec<_> = used.into_iter().map(|one| one.version).collect();
    assert_eq!(used, [1, 2]);
}

#[test]
fn a_stack_that_is_not_at_rest_waits() {
    type Edit = fn(&mut StackWorld);
    let edits: [Edit; 5] = [
        |stack| stack.pointer.staged = stack.pointer.live.clone(),
        |stack| stack.pointer.removing = true,
        |stack| stack.source = None,
        |stack| stack.source.as_mut().unwrap().suspended_ms = Some(1),
        |stack| stack.pointer.live = None,
    ];
    for edit in edits {
        let mut world = shop();
        set(&mut world, "TOKEN", 2);
        edit(stack(&mut world));
        assert_eq!((due(&world), made(&world)), (vec![], None));
    }
    let mut world = shop();
    set(&mut world, "TOKEN", 2);
    world.frozen_stacks.insert(name());
    assert_eq!((due(&world), made(&world)), (vec![], None));
}

#[test]
fn what_was_set_aside_is_not_tried_again_and_what_comes_after_it_is() {
    let mut world = shop();
    set(&mut world, "TOKEN", 2);
    set(&mut world, "PASSWORD", 2);
    let pointer: &mut Pointer = &mut stack(&mut world).pointer;
    pointer.leave_variables([var("TOKEN").at(2)]);
    // The other one moves without it.
    let ready = made(&world).unwrap();
    assert!(ready.procs.is_empty());
    assert!(ready.release.nodes[&node("db")].pending.is_some());
    stack(&mut world)
        .pointer
        .leave_variables([var("PASSWORD").at(2)]);
    assert_eq!(due(&world), []);
    set(&mut world, "TOKEN", 3);
    assert_eq!(due(&world), [name()]);
    stack(&mut world)
        .pointer
        .leave_variables([var("TOKEN").at(3)]);
    assert_eq!(stack(&mut world).pointer.variables_aside.len(), 2);
}

#[test]
fn a_variable_that_is_not_set_any_more_moves_nobody() {
    let mut world = shop();
    let gone = VarIndex {
        set: false,
        versions: [1, 2].into(),
    };
    world.env.insert(var("TOKEN"), gone);
    assert_eq!(due(&world), []);
}

#[test]
fn values_are_kept_as_long_as_anything_on_record_names_them() {
    let mut world = shop();
    set(&mut world, "TOKEN", 2);
    set(&mut world, "TOKEN", 3);
    set(&mut world, "OTHER", 1);
    set(&mut world, "OTHER", 2);
    world.env.get_mut(&var("OTHER")).unwrap().set = false;
    let gone = [var("OTHER").at(1), var("OTHER").at(2), var("TOKEN").at(2)];
    assert_eq!(unnamed(&world), gone.into());
    world.frozen_stacks.insert(name());
    assert_eq!(unnamed(&world), BTreeSet::new());
}

#[test]
fn a_release_of_variables_waits_until_every_host_can_read_it() {
    let mut world = shop();
    set(&mut world, "TOKEN", 2);
    let host = world.hosts.values_mut().next().unwrap();
    host.reads = 1;
    host.version = "0.5.9".to_owned();
    assert!(made(&world).is_none());
    world.hosts.values_mut().next().unwrap().reads = 2;
    let ready = made(&world).unwrap();
    world.hosts.values_mut().next().unwrap().reads = 1;
    let why = forms::waits(&world, &ready.release, &ready.procs).unwrap();
    let said = "waits for alpha, whose viking 0.5.9 cannot read such a release: upgrade it";
    assert_eq!(why, said);
    let live = stack(&mut world).live().unwrap().clone();
    assert_eq!(
        forms::waits(&world, &live, &Procs::new()),
        None,
        "it says nothing new"
    );
}
