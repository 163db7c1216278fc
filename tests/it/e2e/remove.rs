//! `viking remove` takes away what runs and nothing that is kept.

use super::world::World;

const FILE: &str = "
viking: {name: vault}
deploy:
  web:
    image: viking/busybox:1
    run: sh -c 'date >> /data/starts; exec httpd -f -p 80 -h /data'
    expose: [80]
    volume: [/data, shared:/shared]
    health: {tcp: 80, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}
    stop: {timeout: 1s}
";

#[test]
fn a_removed_stack_leaves_its_volumes_and_finds_them_again() {
    let world = World::started("remove");
    let repo = world.repo("vault");
    let commit = repo.commit("Dig a vault", &[("viking.yml", FILE)]);
    world.add(&repo);
    world.settled("vault", &commit);
    let container = world.only("vault", "web");
    world.docker.run(&[
        "exec",
        &container.id,
        "sh",
        "-c",
        "echo gold > /data/mark; echo silver > /shared/mark",
    ]);
    let volumes = vault_volumes(&world);
    assert_eq!(volumes.len(), 2, "{volumes:?}");

    let refused = world.viking(&["remove", "vault", "--confirm", "vaults"]);
    assert_eq!(refused.status.code(), Some(64), "another name was typed");
    let refused = world.viking(&["remove", "vault"]);
    assert_eq!(refused.status.code(), Some(64), "no name was typed");
    assert_eq!(world.only("vault", "web"), container);

    world.must(&["remove", "vault", "--confirm", "vault"]);
    world.eventually("the vault is gone", || {
        let left = world.containers("vault");
        let network = world.docker.labelled("network", "viking.stack=vault");
        let known = world.status("vault");
        let gone = left.is_empty() && !in_cluster(&world, "network", &network) && known.is_err();
        gone.then_some(())
            .ok_or_else(|| format!("{left:?} {network:?} {known:?}"))
    });
    assert_eq!(vault_volumes(&world), volumes, "volumes stay");
    no_key_is_left(&world);

    world.add(&repo);
    world.settled("vault", &commit);
    let mark = world
        .page("vault", "web", "/mark")
        .expect("the vault is open");
    assert_eq!(mark.trim(), "gold");
    let id = world.only("vault", "web").id;
    assert_eq!(
        world.docker.run(&["exec", &id, "cat", "/shared/mark"]),
        "silver"
    );
    assert_eq!(vault_volumes(&world), volumes, "no volume was made anew");
}

fn vault_volumes(world: &World) -> Vec<String> {
    let ours = world.docker.labelled("volume", &world.label());
    let vault = world.docker.labelled("volume", "viking.stack=vault");
    ours.into_iter()
        .filter(|name| vault.contains(name))
        .collect()
}

fn in_cluster(world: &World, kind: &str, names: &[String]) -> bool {
    let ours = world.docker.labelled(kind, &world.label());
    names.iter().any(|name| ours.contains(name))
}

/// What is left names only what was kept: pins, and the record of what happened.
fn no_key_is_left(world: &World) {
    let keep = ["/fixed/", "/history/", "/event/", "/trash/"];
    let keys = world.keys().expect("the host answers");
    let left: Vec<&String> = keys
        .keys()
        .filter(|key| key.split('/').any(|part| part == "vault"))
        .filter(|key| !keep.iter().any(|kept| key.starts_with(kept)))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
