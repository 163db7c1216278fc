//! Websites under the product's own leader: from a folder of a commit to a folder on every host, and what
//! happens when one of them cannot have it.

use std::path::PathBuf;

use viking::model::history::{ChangeKind, RunEnd};
use viking::model::names::{ImageName, NodeName};
use viking::model::release::{Pointer, Release};
use viking::model::site;
use viking::model::world::World;

use super::source::Followed;
use super::{Cluster, name, s};

const HELP: &str = "viking: {name: shop}\ndeploy:\n  help: {type: website, document_root: ./help/www, domains: \
    [help.example]}\n  web: {image: web, run: v1, expose: [80]}\n";

fn live(world: &World) -> &Release {
    world.stacks[&name("shop")].live().unwrap()
}

fn digest(release: &Release) -> String {
    let help = NodeName::parse("help").unwrap();
    release.images[&ImageName::of_site(&help)].digest.clone()
}

/// Where a host has a site.
fn place(cluster: &Cluster, host: usize, digest: &str) -> PathBuf {
    let sites = cluster.hosts[host].dir.path().join(site::FOLDER);
    site::folder(&sites, digest).unwrap()
}

fn page(cluster: &Cluster, host: usize, digest: &str) -> Option<String> {
    std::fs::read_to_string(place(cluster, host, digest).join("index.html")).ok()
}

#[tokio::test(start_paused = true)]
async fn a_site_is_on_every_host_when_it_goes_live_and_only_other_files_are_another_one() {
    let followed = Followed::start_on(3).await;
    let files = [
        ("viking.yml", HELP),
        ("help/www/index.html", "one"),
        ("other", "1"),
    ];
    let first = followed.repo.commit("first", &files);
    followed.add().await;
    followed.until_live(&first).await;
    let world = followed.cluster.world().await;
    let (one, tag) = (digest(live(&world)), live(&world).tag.clone());
    for host in 0..3 {
        assert_eq!(page(&followed.cluster, host, &one).as_deref(), Some("one"));
    }

    // A commit beside it moves nothing of it.
    let second = followed.repo.commit("second", &[("other", "2")]);
    followed.until_live(&second).await;
    let world = followed.cluster.world().await;
    let help = &live(&world).nodes[&NodeName::parse("help").unwrap()];
    assert_eq!((digest(live(&world)), &help.tag), (one.clone(), &tag));

    let third = followed
        .repo
        .commit("third", &[("help/www/index.html", "two")]);
    followed.until_live(&third).await;
    let world = followed.cluster.world().await;
    let two = digest(live(&world));
    assert_ne!(one, two);
    for host in 0..3 {
        assert_eq!(page(&followed.cluster, host, &two).as_deref(), Some("two"));
    }
    let history = followed.cluster.clear.history(&name("shop")).await.unwrap();
    let run = history.iter().find(|run| run.tag.as_str() == third.tag());
    let changes = run.unwrap().plan.iter();
    let changed = changes.filter(|change| change.what == ChangeKind::Changed);
    let changed: Vec<_> = changed.map(|change| change.node.to_string()).collect();
    assert_eq!(changed, ["help"], "web runs on");

    // Who still reads the old one can, for a while.
    assert!(place(&followed.cluster, 0, &one).is_dir());
    tokio::time::sleep(s(900)).await;
    assert!(!place(&followed.cluster, 0, &one).exists());
    assert!(place(&followed.cluster, 0, &two).is_dir());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_cannot_have_a_site_keeps_the_release_from_going_live_until_it_can() {
    let followed = Followed::start_on(2).await;
    let files = [("viking.yml", HELP), ("help/www/index.html", "one")];
    let first = followed.repo.commit("first", &files);
    followed.add().await;
    followed.until_live(&first).await;
    // Nothing can be made where a file is.
    let folder = followed.cluster.hosts[1].dir.path().join(site::FOLDER);
    let aside = folder.with_extension("aside");
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::write(&folder, "").unwrap();
    let second = followed
        .repo
        .commit("second", &[("help/www/index.html", "two")]);
    let staged = |pointer: &Pointer| {
        let staged = pointer.staged.as_ref();
        staged.is_some_and(|staged| staged.as_str() == second.tag())
    };
    followed.until("it is staged", staged).await;
    tokio::time::sleep(s(1_200)).await;
    let world = followed.cluster.world().await;
    assert_eq!(live(&world).tag.as_str(), first.tag());
    let stack = &world.stacks[&name("shop")];
    let told = viking::schedule::sites::holds_up(&world, stack).unwrap();
    assert!(
        told.starts_with("host-b cannot have the files of help: "),
        "{told}"
    );
    assert!(stack.pointer.quarantine.is_none());
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    followed.until_live(&second).await;
    let ends = followed.ends().await;
    assert!(ends.iter().all(|(_, end)| *end == RunEnd::Live), "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_not_there_is_the_commits_own_fault_and_names_its_line() {
    let followed = Followed::start().await;
    let bad = followed.repo.commit("bad", &[("viking.yml", HELP)]);
    followed.add().await;
    let failed = |pointer: &Pointer| {
        let bad = pointer.quarantine.as_ref();
        let line = "document_root of help (viking.yml line 3)";
        bad.is_some_and(|bad| bad.reason.contains(line))
    };
    followed.until("it has failed", failed).await;
    let ends = followed.ends().await;
    assert_eq!(ends, [(bad.tag().to_owned(), RunEnd::Failed)]);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_brings_the_files_back_that_were() {
    let followed = Followed::start_on(2).await;
    let files = [("viking.yml", HELP), ("help/www/index.html", "one")];
    let first = followed.repo.commit("first", &files);
    followed.add().await;
    followed.until_live(&first).await;
    let one = digest(live(&followed.cluster.world().await));
    let second = followed
        .repo
        .commit("second", &[("help/www/index.html", "two")]);
    followed.until_live(&second).await;
    tokio::time::sleep(s(900)).await;
    assert!(!place(&followed.cluster, 1, &one).exists());
    followed.ask_about("rollback", first.tag()).await;
    followed.until_settled(&format!("{}-2", first.tag())).await;
    assert_eq!(digest(live(&followed.cluster.world().await)), one);
    assert_eq!(page(&followed.cluster, 1, &one).as_deref(), Some("one"));
}
