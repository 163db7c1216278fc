//! What `viking plan` says of a commit, held against what the commit then does: tags, hosts, containers
//! that run on and those that do not, over random commits of stacks on a few hosts. Of jobs that wait for
//! others it is not known which of them waits longer, so that two of them may swap hosts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use fastrand::Rng;
use viking::foretell::{Draft, FILE, foretell};
use viking::model::foretold::{Foretold, JobFate};
use viking::model::job::JobKey;
use viking::model::names::Tag;
use viking::model::release::Commit;
use viking::model::tree::{BlobSource, Entry, EntryKind, Tree};
use viking::model::world::World;

use super::{Cluster, name};

/// Walks, each over a cluster of its own.
const SEEDS: u64 = 6;
/// Commits of one walk.
const COMMITS: u64 = 10;

/// A commit that has nothing but its `viking.yml`.
struct Alone(Vec<u8>);

impl BlobSource for Alone {
    fn blob(&self, _: &str) -> io::Result<Vec<u8>> {
        Ok(self.0.clone())
    }
}

fn tree(yaml: &str) -> Tree {
    let entry = Entry {
        kind: EntryKind::File,
        oid: "1".to_owned(),
    };
    Tree {
        entries: BTreeMap::from([(FILE.to_owned(), entry)]),
        blobs: Arc::new(Alone(yaml.as_bytes().to_vec())),
    }
}

pub(super) fn told(world: &World, yaml: &str, id: &str) -> Result<Foretold, String> {
    let commit = Commit {
        id: id.to_owned(),
        subject: "as planned".to_owned(),
        author: "somebody".to_owned(),
        at_ms: 1,
    };
    let tree = tree(yaml);
    let draft = Draft {
        stack: None,
        commit,
        tag: None,
        tree: &tree,
        name: FILE,
        before: None,
    };
    foretell(world, &draft)
}

/// Some of four nodes, each in some form; one that links comes after what it links to.
fn yaml(rng: &mut Rng) -> String {
    let mut text = "viking: {name: shop}\ndeploy:\n".to_owned();
    let mut before: Vec<&str> = Vec::new();
    for node in ["db", "cache", "api", "web"] {
        if rng.u8(..5) == 0 {
            continue;
        }
        let version = rng.u8(..2);
        write!(
            text,
            "  {node}: {{image: {node}, run: v{version}, expose: [80]"
        )
        .unwrap();
        match node {
            "db" => text.push_str(", volume: [/data]"),
            "cache" if rng.bool() => text.push_str(", service: true"),
            _ => write!(text, ", scale: {}", rng.u8(1..4)).unwrap(),
        }
        if rng.u8(..3) == 0 {
            text.push_str(", filter: \"ssd:flexible\"");
        }
        if let Some(link) = before.last().filter(|_| rng.bool()) {
            write!(text, ", link: {link}").unwrap();
        }
        text.push_str("}\n");
        before.push(node);
    }
    if before.is_empty() {
        text.push_str("  web: {image: web, run: v1}\n");
    }
    text
}

/// What is of the jobs that were foretold.
fn found(before: &World, after: &World, told: &Foretold) -> Vec<JobFate> {
    let release = |world: &World| world.stacks.get(&name("shop"))?.live().cloned();
    let (old, new) = (release(before), release(after));
    let job = |release: &Option<viking::model::release::Release>, fate: &JobFate| {
        let release = release.as_ref()?;
        let node = release.nodes.get(&fate.node)?;
        let job: JobKey = release.job(&fate.node, fate.slot)?;
        (fate.slot < node.slots()).then_some(job)
    };
    let mut found = Vec::new();
    for fate in &told.jobs {
        let (was, is) = (job(&old, fate), job(&new, fate));
        let instance =
            |world: &World, job: &Option<JobKey>| Some(world.placement(job.as_ref()?)?.instance);
        let (one, other) = (instance(before, &was), instance(after, &is));
        found.push(JobFate {
            node: fate.node.clone(),
            slot: fate.slot,
            tag: is.as_ref().map(|job| job.tag.clone()),
            was: was.as_ref().and_then(|job| before.run.get(job)).cloned(),
            host: is.as_ref().and_then(|job| after.run.get(job)).cloned(),
            restarts: one != other || one.is_none(),
        });
    }
    found
}

#[tokio::test(start_paused = true)]
async fn what_was_foretold_is_what_happens() {
    let (mut changed, mut same, mut all, mut elsewhere) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let mut rng = Rng::with_seed(seed);
        let mut cluster = Cluster::start(rng.usize(1..=4)).await;
        for n in 0..COMMITS {
            let yaml = yaml(&mut rng);
            let before = cluster.world().await;
            let id = format!("{:012x}{:028}", 0xab_0000_0000_u64 + n, 0);
            let told = told(&before, &yaml, &id).unwrap();
            assert_eq!((told.refused.as_str(), told.waits_for.as_str()), ("", ""));
            let tag = cluster.push_commit(&yaml, &id, 1).await;
            assert_eq!(tag, told.tag);
            cluster.until_live(&tag).await;
            let after = cluster.world().await;
            let happened = found(&before, &after, &told);
            let but_hosts = |jobs: &[JobFate]| {
                let jobs = jobs.iter().cloned();
                let bare = jobs.map(|job| (job.host.is_some(), JobFate { host: None, ..job }));
                bare.collect::<Vec<_>>()
            };
            let (foretold, found) = (but_hosts(&told.jobs), but_hosts(&happened));
            assert_eq!(
                foretold, found,
                "seed {seed}, commit {n}\n{yaml}{:#?}",
                told.order
            );
            let pairs = told.jobs.iter().zip(&happened);
            let swapped = pairs.filter(|(told, is)| told.host != is.host).count();
            assert!(
                swapped == 0 || yaml.contains("link"),
                "seed {seed}, commit {n}\n{yaml}"
            );
            (all, elsewhere) = (all + happened.len(), elsewhere + swapped);
            let jobs = after.run.keys().filter(|job| job.stack == name("shop"));
            assert_eq!(
                jobs.count(),
                told.jobs.iter().filter(|job| job.tag.is_some()).count()
            );
            if told.changes() {
                changed += 1;
            } else {
                same += 1;
            }
        }
    }
    println!("{changed} commits that changed something, {same} that did not");
    println!("{elsewhere} of {all} jobs came to another host than was foretold");
    assert!(changed > 25 && elsewhere * 10 < all);
}

#[tokio::test(start_paused = true)]
async fn a_digest_is_of_what_would_happen_and_of_nothing_else() {
    let mut cluster = Cluster::start(2).await;
    let web = |run: &str| {
        format!("viking: {{name: shop}}\ndeploy:\n  web: {{image: web, run: {run}, scale: 2}}\n")
    };
    cluster.go_live(&web("v1")).await;
    let id = format!("{:040x}", 0xabc);
    let digest = |world: &World, run: &str| told(world, &web(run), &id).unwrap().digest;
    let world = cluster.world().await;
    let first = digest(&world, "v2");
    assert!(first.starts_with(&format!("shop@{id}:")));
    assert_ne!(digest(&world, "v3"), first);
    // Time and what hosts say of themselves change nothing.
    let mut later = world.clone();
    later.now_ms += 3_600_000;
    later.revision += 100;
    assert_eq!(digest(&later, "v2"), first);
    // Another release, or one host less, does.
    let mut alone = world.clone();
    let lost = alone.hosts.pop_last().unwrap().0;
    alone.lost.insert(lost);
    assert_ne!(digest(&alone, "v2"), first);
    cluster.go_live(&web("v9")).await;
    assert_ne!(digest(&cluster.world().await, "v2"), first);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_cannot_be_placed_is_told_before_it_comes() {
    let cluster = Cluster::start(1).await;
    let yaml = "viking: {name: shop}\ndeploy:\n  web: {image: web, run: v1, filter: ssd}\n";
    let told = told(&cluster.world().await, yaml, &"a".repeat(40)).unwrap();
    assert!(
        told.waits_for.starts_with("shop/web.0: "),
        "{}",
        told.waits_for
    );
    assert!(told.waits_for.contains("ssd"), "{}", told.waits_for);
    assert_eq!(told.tag, Tag::parse("aaaaaaaaaaaa").unwrap());
}
