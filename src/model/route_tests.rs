//! Which domain leads where, and whose it is.

use super::*;
use crate::model::endpoint::Endpoint;
use crate::model::job::{Instance, JobKey};
use crate::model::release::{Commit, NodeKind, Pointer, ReleaseNode, RunId};
use crate::model::resolve::StackMap;
use crate::model::spec::{Resources, StopPolicy};

fn name(text: &str) -> StackName {
    StackName::parse(text).unwrap()
}

fn web() -> NodeName {
    NodeName::parse("web").unwrap()
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

fn release(stack: &str, at: &str, domains: &[(&str, u64)]) -> Release {
    let domains = domains.iter().map(|(domain, since_ms)| Domain {
        name: (*domain).to_owned(),
        port: Some(80),
        since_ms: *since_ms,
    });
    let node = ReleaseNode {
        tag: tag(at),
        kind: NodeKind::Container,
        spec_hash: String::new(),
        scale: 1,
        domains: domains.collect(),
        filter: Vec::new(),
        spread_required: false,
        stop: StopPolicy::default(),
        service: false,
        fixed: false,
        exclusive: false,
        squeezed: false,
        link: Vec::new(),
        shared_volumes: Vec::new(),
        has_volume: false,
        host_ports: Vec::new(),
        resources: Resources::default(),
        pending: None,
    };
    Release {
        v: 1,
        stack: name(stack),
        tag: tag(at),
        commit: Commit {
            id: String::new(),
            subject: String::new(),
            author: String::new(),
            at_ms: 0,
        },
        run: RunId(String::new()),
        made_ms: 0,
        images: BTreeMap::new(),
        external: BTreeMap::new(),
        nodes: [(web(), node)].into(),
        stages_ms: Vec::new(),
        before: BTreeMap::new(),
        require: Default::default(),
        again: None,
    }
}

/// Live releases, and a copy of each.
fn seen(live: &[Release]) -> Seen {
    let mut seen = Seen::default();
    for (n, release) in live.iter().enumerate() {
        let pointer = Pointer {
            live: Some(release.tag.clone()),
            ..Pointer::default()
        };
        let releases = [(release.tag.clone(), release.clone())].into();
        let map = StackMap { pointer, releases };
        seen.stacks.insert(release.stack.clone(), map);
        let job = JobKey {
            stack: release.stack.clone(),
            tag: release.tag.clone(),
            node: web(),
            slot: 0,
        };
        seen.endpoints.push(Endpoint {
            stack: release.stack.clone(),
            tag: release.tag.clone(),
            node: web(),
            port: 80,
            proto: Proto::Tcp,
            ip: [10, 0, 0, 1].into(),
            host_port: 20_000 + u16::try_from(n).unwrap(),
            job_id: job.id(Instance(1)),
        });
    }
    seen
}

fn whose(table: &RouteTable, host: &str) -> Option<String> {
    table.find(host).map(|route| route.stack.to_string())
}

#[test]
fn the_very_domain_goes_before_the_longest_that_covers_it() {
    let table = table(&seen(&[
        release("exact", "a1", &[("shop.test", 1), ("x.deep.shop.test", 1)]),
        release("wide", "a1", &[("*.shop.test", 1)]),
        release("deep", "a1", &[("*.deep.shop.test", 1)]),
    ]));
    for (host, stack) in [
        ("shop.test", "exact"),
        ("a.shop.test", "wide"),
        ("a.b.shop.test", "wide"),
        ("deep.shop.test", "wide"),
        ("a.deep.shop.test", "deep"),
        ("x.deep.shop.test", "exact"),
    ] {
        assert_eq!(whose(&table, host).as_deref(), Some(stack), "{host}");
    }
    for host in ["test", "other.test", "ashop.test", ""] {
        assert_eq!(whose(&table, host), None, "{host}");
    }
}

#[test]
fn of_two_stacks_that_name_a_domain_the_first_keeps_it_whatever_is_pushed_later() {
    let first = release("zebra", "a1", &[("shop.test", 5)]);
    let second = release("ape", "b1", &[("shop.test", 9)]);
    let both = seen(&[first.clone(), second.clone()]);
    let route = table(&both).find("shop.test").unwrap().clone();
    assert_eq!(route.stack, name("zebra"));
    assert_eq!(route.denied, [(name("ape"), web())]);
    assert_eq!(route.copies.len(), 1, "its own copies only");

    let mut next = release("zebra", "a2", &[("shop.test", 0), ("new.test", 0)]);
    claim(&mut next, Some(&first), 77);
    let since = |release: &Release| {
        let domains = domains(release);
        domains
            .map(|(_, domain)| domain.since_ms)
            .collect::<Vec<_>>()
    };
    assert_eq!(since(&next), [5, 77]);
    // Given up and taken again, also by a rollback, it is anew.
    let without = release("zebra", "a3", &[]);
    let mut back = first.clone();
    claim(&mut back, Some(&without), 99);
    assert_eq!(since(&back), [99]);
    let both = seen(&[back, second]);
    assert_eq!(whose(&table(&both), "shop.test").as_deref(), Some("ape"));
}

#[test]
fn only_copies_of_the_live_release_are_asked_and_a_stack_on_its_way_out_leads_nowhere() {
    let live = release("shop", "b2", &[("shop.test", 1)]);
    let mut seen = seen(&[live]);
    let mut staged = seen.endpoints[0].clone();
    staged.tag = tag("c3");
    staged.host_port = 29_999;
    seen.endpoints.push(staged);
    let copies = |seen: &Seen| {
        let table = table(seen);
        table.find("shop.test").map(|route| route.copies.clone())
    };
    let found = copies(&seen).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].address.port(), 20_000);
    let map = seen.stacks.get_mut(&name("shop")).unwrap();
    map.pointer.removing = true;
    assert_eq!(copies(&seen), None);
}

#[test]
fn a_host_name_is_known_however_it_is_written() {
    for good in ["Shop.Test", "shop.test:80", "shop.test.", "shop.test.:443"] {
        assert_eq!(host_of(good).as_deref(), Some("shop.test"), "{good}");
    }
    let long = format!("{}.test", "a".repeat(253));
    for bad in [
        "", ".", ":80", "a b", "a/b", "[::1]", "[::1]:80", "a:b", "a:123456", "é", &long,
    ] {
        assert_eq!(host_of(bad), None, "{bad:?}");
    }
}

#[test]
fn a_slot_that_the_live_scale_leaves_out_is_asked_no_more() {
    let live = release("shop", "b2", &[("shop.test", 1)]);
    let mut seen = seen(&[live]);
    let job = JobKey {
        stack: name("shop"),
        tag: tag("b2"),
        node: web(),
        slot: 1,
    };
    let mut left_out = seen.endpoints[0].clone();
    left_out.job_id = job.id(Instance(2));
    left_out.host_port = 29_999;
    seen.endpoints.push(left_out);
    let copies = table(&seen).find("shop.test").unwrap().copies.clone();
    let ports: Vec<_> = copies.iter().map(|copy| copy.address.port()).collect();
    assert_eq!(ports, [20_000]);
}
