//! Orders over small worlds: what each makes of the record, and what is refused.

use super::*;
use crate::model::history::RunEnd;
use crate::schedule::script;

/// `c3` is live, with the three before it on record; `b2` and `c3` changed `web`.
const SHOP: &str = "
now_ms: 1000000
hosts: {alpha: {}}
stacks:
  shop:
    live: c3
    phase: live
    releases:
      a1: {web: {expose: true}, db: {volume: true}, old: {}}
      b2: {web: {expose: true}, db: {volume: true, tag: a1}}
      c3: {web: {expose: true}, db: {volume: true, tag: a1}}
";

fn name() -> StackName {
    StackName::parse("shop").unwrap()
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

fn tags(texts: &[&str]) -> Vec<Tag> {
    texts.iter().map(|text| tag(text)).collect()
}

fn node(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

/// The tag of another release of one that the script made.
fn nth(of: &str, n: u32) -> Tag {
    let commit = format!("{of:0<40}");
    Tag::of_commit(&commit, n).unwrap()
}

struct Shop {
    world: World,
    lived: Vec<Tag>,
}

impl Shop {
    fn new(text: &str, lived: &[&str]) -> Self {
        let world = script::world(text).unwrap();
        let lived = tags(lived);
        Self { world, lived }
    }

    fn stack(&mut self) -> &mut StackWorld {
        self.world.stacks.get_mut(&name()).unwrap()
    }

    fn obey(&self, order: &Order) -> Obeyed {
        obey(&self.world, &name(), order, &self.lived, RunId::new(9, 9))
    }

    fn ready(&self, order: &Order) -> Ready {
        match self.obey(order) {
            Obeyed::Staged(ready) => *ready,
            other => panic!("{other:?}"),
        }
    }

    fn refused(&self, order: &Order) -> String {
        match self.obey(order) {
            Obeyed::Refused(Refused { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }

    fn before(&self) -> Result<String, String> {
        let stack = &self.world.stacks[&name()];
        let before = last_before(&name(), stack, &self.lived);
        before.map(|tag| tag.to_string()).map_err(|no| no.why)
    }

    /// As if the order had been obeyed and its release had gone live.
    fn go_live(&mut self, order: &Order) {
        let Ready {
            release,
            procs,
            mut pointer,
            ..
        } = self.ready(order);
        pointer.live = pointer.staged.take();
        pointer.forgive(&release.commit.id);
        pointer.phase = Phase::Live;
        self.lived.insert(0, release.tag.clone());
        let stack = self.stack();
        stack.pointer = pointer;
        stack.procs.extend(procs);
        stack.releases.insert(release.tag.clone(), release);
        self.world.now_ms += 1000;
    }
}

fn back(to: &str) -> Order {
    Order::Rollback(tag(to))
}

#[test]
fn what_is_the_same_keeps_its_tag_and_the_rest_gets_the_releases_own() {
    let shop = Shop::new(SHOP, &["c3", "b2", "a1"]);
    let Ready {
        release,
        procs,
        pointer,
        end,
    } = shop.ready(&back("a1"));
    assert_eq!(
        release.tag,
        nth("a1", 1),
        "the short tag of a script is another"
    );
    let of = |name: &str| release.nodes[&node(name)].tag.clone();
    assert_eq!(of("db"), tag("a1"), "it runs at a1 in c3 too");
    assert_eq!(
        (of("web"), of("old")),
        (release.tag.clone(), release.tag.clone())
    );
    let made: Vec<_> = procs.keys().map(|(node, _)| node.to_string()).collect();
    assert_eq!(made, ["old", "web"]);
    assert_eq!(
        procs[&(node("web"), release.tag.clone())].image.digest(),
        "sha256:a1"
    );
    assert_eq!(pointer.staged, Some(release.tag));
    assert_eq!(end, None);
    assert!(pointer.is_set_aside(&format!("{:0<40}", "c3")));
}

#[test]
fn the_release_to_go_back_to_is_the_last_one_that_was_live_and_not_left() {
    let mut shop = Shop::new(SHOP, &["c3", "b2", "a1"]);
    assert_eq!(shop.before().unwrap(), "b2");
    shop.go_live(&back("b2"));
    // Neither c3, which was left, nor b2, which serves again.
    assert_eq!(shop.before().unwrap(), "a1");
    shop.go_live(&back("a1"));
    let why = shop.before().unwrap_err();
    assert!(
        why.starts_with("no other release of shop was live before"),
        "{why}"
    );
    // Forward by name: what is left then is older than where it goes.
    shop.go_live(&back("c3"));
    let last = nth("a1", 1).to_string();
    assert_eq!(shop.before().unwrap(), last);
    assert_eq!(shop.stack().pointer.quarantine, None);
    // A restart is no other release.
    shop.go_live(&Order::Restart(node("web")));
    assert_eq!(shop.stack().pointer.live, Some(nth("c3", 2)));
    assert_eq!(shop.before().unwrap(), last);
}

#[test]
fn however_often_something_is_restarted_the_release_before_is_another() {
    let mut shop = Shop::new(SHOP, &["c3", "b2", "a1"]);
    for _ in 0..12 {
        shop.go_live(&Order::Restart(node("web")));
        // Clean-up forgets the ones between.
        let live = shop.stack().pointer.live.clone();
        let kept = |tag: &Tag| Some(tag) == live.as_ref() || tag.as_str().len() == 2;
        shop.stack().releases.retain(|tag, _| kept(tag));
        assert_eq!(shop.before().unwrap(), "b2");
    }
}

#[test]
fn while_something_is_on_its_way_going_back_means_what_serves() {
    let staging =
        SHOP.replace("phase: live", "staged: d4\n    phase: staging") + "      d4: {web: {}}\n";
    let mut shop = Shop::new(&staging, &["c3", "b2", "a1"]);
    assert_eq!(shop.before().unwrap(), "c3");
    let Ready {
        pointer,
        end,
        release,
        ..
    } = shop.ready(&back("c3"));
    assert_eq!(end.unwrap().end, RunEnd::RolledBack);
    assert_eq!(pointer.quarantine.unwrap().tag, tag("d4"));
    assert!(
        !pointer.quarantined.contains_key(&release.commit.id),
        "c3 serves"
    );
    for phase in [Phase::Cutting, Phase::Reverting] {
        shop.stack().pointer.phase = phase;
        assert!(matches!(shop.obey(&back("c3")), Obeyed::Wait(_)));
    }
    shop.stack().pointer.phase = Phase::Staging;
    assert!(matches!(
        shop.obey(&Order::Restart(node("web"))),
        Obeyed::Wait(_)
    ));
    // A rollback is not rolled back by saying it twice.
    let again = Some(Again::Rollback { of: tag("b2") });
    shop.stack().releases.get_mut(&tag("d4")).unwrap().again = again;
    let why = shop.before().unwrap_err();
    assert_eq!(why, "a rollback to b2 is on its way already, as d4");
    assert_eq!(shop.refused(&back("b2")), "d4 is on its way already");
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let mut shop = Shop::new(SHOP, &["c3", "a1"]);
    assert_eq!(shop.refused(&back("c3")), "c3 is live already");
    assert_eq!(shop.refused(&back("b2")), "b2 never went live");
    assert_eq!(
        shop.refused(&back("e5")),
        "release e5 of shop is not on record"
    );
    let restart = |name: &str| Order::Restart(node(name));
    assert_eq!(shop.refused(&restart("old")), "c3 has no node old");
    let live = shop.stack().releases.get_mut(&tag("c3")).unwrap();
    live.nodes.get_mut(&node("web")).unwrap().scale = 0;
    assert_eq!(shop.refused(&restart("web")), "web is scaled to 0");
    shop.stack().pointer.live = None;
    assert_eq!(shop.refused(&restart("web")), "nothing of shop is live");
    assert_eq!(shop.refused(&back("a1")), "nothing of shop is live");
}

#[test]
fn a_port_that_another_node_has_now_is_not_taken_by_a_rollback() {
    let text = "
stacks:
  shop:
    live: b2
    phase: live
    releases: {a1: {web: {port: 80}}, b2: {site: {port: 80}}}
";
    let shop = Shop::new(text, &["b2", "a1"]);
    let why = shop.refused(&back("a1"));
    assert!(
        why.starts_with("web takes port 80 of the host over from site"),
        "{why}"
    );
}

#[test]
fn a_tag_that_something_runs_at_is_not_given_twice() {
    let mut shop = Shop::new(SHOP, &["c3", "b2", "a1"]);
    // The release is forgotten, a node of it runs on.
    let of = nth("a1", 1);
    let spec = shop.stack().procs[&(node("db"), tag("a1"))].clone();
    shop.stack().procs.insert((node("db"), of), spec);
    assert_eq!(shop.ready(&back("a1")).release.tag, nth("a1", 2));
}

#[test]
fn a_service_whose_old_spec_is_gone_runs_on_as_it_is() {
    let text = "
stacks:
  shop:
    live: b2
    phase: live
    releases: {a1: {db: {service: true}, web: {}}, b2: {db: {service: true}, web: {}}}
";
    let mut shop = Shop::new(text, &["b2", "a1"]);
    let old = shop.stack().releases.get_mut(&tag("a1")).unwrap();
    old.nodes.get_mut(&node("db")).unwrap().spec_hash = "v1:gone".to_owned();
    let before = shop.stack().releases[&tag("b2")].nodes[&node("db")].clone();
    assert_eq!(shop.ready(&back("a1")).release.nodes[&node("db")], before);
}

#[test]
fn only_the_newest_commit_is_tried_again_and_only_when_it_failed() {
    let mut shop = Shop::new(SHOP, &["c3"]);
    let retry = |shop: &Shop| retryable(&name(), &shop.world.stacks[&name()]);
    assert_eq!(
        retry(&shop).unwrap_err().why,
        "no commit of shop was seen yet"
    );
    let commit = shop.stack().releases[&tag("c3")].commit.clone();
    let source = crate::model::release::SourceState {
        state: "ok".to_owned(),
        reason: String::new(),
        seen: Some(commit.clone()),
        since_ms: 0,
    };
    shop.stack().pointer.source = Some(source);
    assert!(
        retry(&shop)
            .unwrap_err()
            .why
            .ends_with(", the newest commit of shop, is live")
    );
    shop.stack().pointer.live = None;
    assert!(retry(&shop).unwrap_err().why.ends_with("has not failed"));
    let bad = left(
        &name(),
        &Shop::new(SHOP, &[]).world.stacks[&name()],
        &shop.stack().releases[&tag("a1")].clone(),
        0,
    );
    shop.stack().pointer.set_aside(bad[0].clone());
    assert_eq!(retry(&shop).unwrap(), commit.id);
    let order = Order::Retry(commit.id);
    let Obeyed::Pointer(pointer) = shop.obey(&order) else {
        panic!("not obeyed");
    };
    assert_eq!(pointer.quarantine, None);
    shop.stack().pointer = *pointer;
    assert!(shop.refused(&order).ends_with("has not failed"));
}

#[test]
fn orders_are_read_as_they_are_written() {
    for order in [
        back("a1"),
        Order::Restart(node("web")),
        Order::Retry("c".repeat(40)),
    ] {
        assert_eq!(Order::read(order.kind(), order.about()), Some(Ok(order)));
    }
    assert_eq!(Order::read("sync", ""), None);
    assert!(Order::read("rollback", "../x").unwrap().is_err());
}
