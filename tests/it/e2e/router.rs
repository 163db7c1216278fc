//! Domains in front of real containers: which node answers, that nobody notices a push, a bad push, a
//! change of scale or a container that dies, and what people are told of the way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::http::page;
use super::repo::Repo;
use super::world::World;

/// A page that takes longer than copies go on after they were replaced, unless they still have requests.
const SLOW: &str = "mkdir -p /www/cgi-bin; cd /www/cgi-bin; echo \\#\\!/bin/sh > slow; \
    echo sleep 5 >> slow; echo echo >> slow; echo echo slow >> slow; chmod +x slow; cd /";

fn shop(says: &str, scale: u32) -> String {
    format!(
        "viking: {{name: shop}}\ndeploy:\n  web:\n    image: viking/busybox:1\n    \
         run: sh -c '{SLOW}; echo {says} > /www/index.html; exec httpd -f -p 80 -h /www'\n    \
         expose: [80]\n    scale: {scale}\n    domains: [shop.example, \"*.shop.example\"]\n    \
         health: {{http: /, interval: 200ms, timeout: 1s, start_period: 5s, retries: 3}}\n    \
         stop: {{timeout: 1s}}\n"
    )
}

/// Asks for a page again and again until it is told to stop; what it was answered.
pub(super) struct Visitor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Result<String, String>>>,
}

impl Visitor {
    pub(super) fn of(world: &World, domain: &str, path: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, front, domain) = (Arc::clone(&stop), world.front.clone(), domain.to_owned());
        let thread = std::thread::spawn(move || {
            let mut answers = Vec::new();
            while !told.load(Ordering::SeqCst) {
                answers.push(page(&front, &domain, path));
                std::thread::sleep(Duration::from_millis(5));
            }
            answers
        });
        Self { stop, thread }
    }

    /// Every different answer, each of which must be one.
    pub(super) fn all(self) -> BTreeSet<String> {
        self.pages().into_iter().collect()
    }

    /// Every answer, each of which must be one.
    pub(super) fn pages(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        let answers = self.thread.join().expect("a visitor does not panic");
        let count = answers.len();
        let failed: Vec<&String> = answers.iter().filter_map(|a| a.as_ref().err()).collect();
        assert!(
            failed.is_empty(),
            "{} of {count} failed: {failed:?}",
            failed.len()
        );
        answers
            .into_iter()
            .flatten()
            .map(|page| page.trim().to_owned())
            .collect()
    }
}

fn opened(world: &World) -> Repo {
    let repo = world.repo("shop");
    let commit = repo.commit("Open", &[("viking.yml", &shop("one", 2))]);
    world.add(&repo);
    world.settled("shop", &commit);
    repo
}

fn set(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn visitors_notice_neither_pushes_nor_bad_ones_nor_scale_nor_a_container_that_dies() {
    let world = World::started("router");
    let repo = opened(&world);
    assert_eq!(world.visit("shop.example", "/").as_deref(), Ok("one\n"));
    assert_eq!(
        world.visit("WWW.shop.example:80", "/").as_deref(),
        Ok("one\n")
    );
    let visitors = [
        Visitor::of(&world, "shop.example", "/"),
        Visitor::of(&world, "a.shop.example", "/"),
    ];
    let patient = Visitor::of(&world, "shop.example", "/cgi-bin/slow");
    world.push("shop", &repo, "Two", &[("viking.yml", &shop("two", 2))]);
    let bad = repo.commit("Crash", &[("viking.yml", &shop("three; exit 3", 2))]);
    world.must(&["sync", "shop"]);
    world.failed("shop", &bad);
    world.push("shop", &repo, "More", &[("viking.yml", &shop("two", 3))]);
    world.push("shop", &repo, "Fewer", &[("viking.yml", &shop("two", 1))]);
    let more = world.push(
        "shop",
        &repo,
        "Two of them",
        &[("viking.yml", &shop("two", 2))],
    );
    // Of one that is killed nobody can save what it had begun.
    assert_eq!(patient.all(), set(&["5\r\nslow\n\r\n0"]), "in one chunk");
    let victim = world.node("shop", "web").remove(0);
    world.docker.run(&["kill", "--signal", "KILL", &victim.id]);
    world.settled("shop", &more);
    world.must(&["restart", "shop/web"]);
    world.eventually("it was restarted", || {
        let gone = world
            .node("shop", "web")
            .iter()
            .all(|found| found.id != victim.id);
        let status = world.status("shop")?;
        let tag = format!("{}-2", more.tag());
        let done = status["live"]["tag"] == tag.as_str() && status["staged"].is_null();
        (gone && done)
            .then_some(())
            .ok_or_else(|| status.to_string())
    });
    for visitor in visitors {
        assert_eq!(
            visitor.all(),
            set(&["one", "two"]),
            "of what was live, and nothing else"
        );
    }
}

#[test]
fn people_are_told_where_an_address_leads_and_whose_a_domain_is() {
    let world = World::started("routes");
    let _shop = opened(&world);
    let told = world.must(&["route", "https://www.shop.example/cart?x=1"]);
    assert!(
        told.starts_with("www.shop.example → shop/web, port 80\n"),
        "{told}"
    );
    assert!(
        told.contains("*.shop.example of shop/web is the longest that covers it"),
        "{told}"
    );
    assert_eq!(
        told.matches("healthy, on this host: dialled directly")
            .count(),
        2,
        "{told}"
    );
    let nowhere = world.viking(&["route", "nobody.example"]);
    assert_eq!(nowhere.status.code(), Some(1));

    // Another stack that wants the same domain does not get it, and both are told.
    let other = world.repo("other");
    let file = shop("stolen", 1).replace("name: shop", "name: ape");
    let commit = other.commit("Take it", &[("viking.yml", &file)]);
    let plan = world.viking(&["plan", other.path()]);
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(plan.contains("shop.example"), "{plan}");
    world.add(&other);
    world.settled("ape", &commit);
    assert_eq!(world.visit("shop.example", "/").as_deref(), Ok("one\n"));
    let rows = world.must(&["routes"]);
    assert!(rows.contains("not given to ape/web"), "{rows}");
    world.must(&["remove", "shop", "--confirm", "shop"]);
    world.eventually("the next in line has it", || {
        let page = world.visit("shop.example", "/")?;
        (page == "stolen\n").then_some(()).ok_or(page)
    });
}
