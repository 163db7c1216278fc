//! What is due, case by case, and what always holds.

use proptest::prelude::*;

use super::*;

const DAY_MS: u64 = 24 * HOUR_MS;
/// Now, in these tests.
const NOW: u64 = 1_000 * DAY_MS;

fn names(domains: &[&str]) -> BTreeSet<String> {
    domains.iter().map(|name| (*name).to_owned()).collect()
}

/// A certificate of ninety days that is so old.
fn aged(days: u64) -> CertificateNote {
    CertificateNote {
        v: 1,
        from_ms: NOW - days * DAY_MS,
        until_ms: NOW - days * DAY_MS + 90 * DAY_MS,
        tried_ms: NOW - days * DAY_MS,
        ..CertificateNote::default()
    }
}

fn notes(of: &[(&str, CertificateNote)]) -> BTreeMap<String, CertificateNote> {
    let owned = |(name, note): &(&str, CertificateNote)| ((*name).to_owned(), note.clone());
    of.iter().map(owned).collect()
}

fn due_of(wanted: &[&str], of: &[(&str, CertificateNote)]) -> Due {
    due(&View {
        wanted: &names(wanted),
        all: true,
        open: true,
        notes: &notes(of),
        running: &BTreeSet::new(),
        now_ms: NOW,
    })
}

#[test]
fn a_certificate_is_renewed_when_two_thirds_of_its_life_have_passed() {
    let young = due_of(&["a.test"], &[("a.test", aged(59))]);
    assert_eq!(young.order, Vec::<String>::new());
    assert_eq!(young.next_ms, Some(NOW + DAY_MS));
    assert_eq!(
        due_of(&["a.test"], &[("a.test", aged(60))]).order,
        ["a.test"]
    );
}

#[test]
fn domains_without_any_certificate_come_before_renewals() {
    let due = due_of(
        &["a.test", "b.test", "c.test"],
        &[("a.test", aged(80)), ("b.test", aged(95))],
    );
    assert_eq!(due.order, ["c.test", "b.test"]);
}

#[test]
fn no_more_orders_are_begun_than_may_be_under_way_or_in_an_hour() {
    let many: Vec<String> = (0..200).map(|n| format!("n{n:03}.test")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(due_of(&many, &[]).order.len(), AT_A_TIME);
    let running = names(&many[..1]);
    let one = due(&View {
        wanted: &names(&many),
        all: true,
        open: true,
        notes: &BTreeMap::new(),
        running: &running,
        now_ms: NOW,
    });
    assert_eq!(one.order, [many[1]]);
    let begun = |n: u64| CertificateNote {
        tried_ms: NOW - HOUR_MS + 1 + n,
        next_ms: NOW + DAY_MS,
        ..CertificateNote::default()
    };
    let tried: Vec<_> = many.iter().take(PER_HOUR).zip(0..).collect();
    let tried: Vec<_> = tried.iter().map(|(name, n)| (**name, begun(*n))).collect();
    let full = due_of(&many, &tried);
    assert_eq!(full.order, Vec::<String>::new());
    assert_eq!(
        full.next_ms,
        Some(NOW + 1),
        "when the oldest is an hour ago"
    );
}

#[test]
fn who_failed_waits_longer_each_time_and_never_more_than_a_day_and_a_bit() {
    let refused = Failed {
        reason: "no\nsuch\u{1b}name".to_owned(),
        limited: false,
    };
    let mut note = aged(70);
    let mut waits = Vec::new();
    for _ in 0..12 {
        note = failed(&note, &refused, NOW, 0.0);
        waits.push((note.next_ms - NOW) / 60_000);
    }
    assert_eq!(
        waits,
        [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440, 1440]
    );
    assert_eq!(note.reason, "no such name");
    assert_eq!(note.until_ms, aged(70).until_ms, "the certificate stays");
    let late = failed(&note, &refused, NOW, 1.0);
    assert!(late.next_ms - NOW <= AGAIN_MAX_MS * 6 / 5);
    assert_eq!(
        due_of(&["a.test"], &[("a.test", note.clone())]).order,
        Vec::<String>::new()
    );
    let limited = Failed {
        limited: true,
        ..refused
    };
    assert_eq!(
        failed(&aged(70), &limited, NOW, 0.0).next_ms,
        NOW + LIMITED_MS
    );
    let life = Validity {
        from_ms: NOW,
        until_ms: NOW + DAY_MS,
    };
    let good = certified(&note, life);
    assert_eq!(
        (good.failures, good.next_ms, good.reason.as_str()),
        (0, 0, "")
    );
}

#[test]
fn an_order_that_a_leader_died_over_is_begun_again_soon_but_not_at_once() {
    let begun = begins(&CertificateNote::default(), NOW - 1_000);
    let due = due_of(&["a.test"], &[("a.test", begun)]);
    assert_eq!(due.order, Vec::<String>::new());
    assert_eq!(due.next_ms, Some(NOW - 1_000 + APART_MS));
    let begun = begins(&CertificateNote::default(), NOW - APART_MS);
    assert_eq!(due_of(&["a.test"], &[("a.test", begun)]).order, ["a.test"]);
}

#[test]
fn a_certificate_that_nobody_needs_goes_after_a_week_or_when_it_is_over() {
    let first = due_of(&[], &[("a.test", aged(1))]);
    assert_eq!(first.changed["a.test"].unwanted_ms, NOW);
    assert!(first.forget.is_empty());
    let unwanted = |days: u64, age: u64| CertificateNote {
        unwanted_ms: NOW - days * DAY_MS,
        ..aged(age)
    };
    let later = due_of(&[], &[("a.test", unwanted(6, 10))]);
    assert!(later.forget.is_empty() && later.changed.is_empty());
    assert_eq!(later.next_ms, Some(NOW + DAY_MS));
    assert_eq!(
        due_of(&[], &[("a.test", unwanted(7, 10))]).forget,
        names(&["a.test"])
    );
    assert_eq!(
        due_of(&[], &[("a.test", unwanted(1, 90))]).forget,
        names(&["a.test"])
    );
    // One that never came to be.
    let none = failed(
        &CertificateNote::default(),
        &Failed {
            reason: String::new(),
            limited: false,
        },
        NOW,
        0.0,
    );
    assert_eq!(due_of(&[], &[("a.test", none)]).forget, names(&["a.test"]));
    // A domain that comes back keeps what it has.
    let back = due_of(&["a.test"], &[("a.test", unwanted(6, 10))]);
    assert_eq!(back.changed["a.test"].unwanted_ms, 0);
    assert!(back.forget.is_empty() && back.order.is_empty());
}

#[test]
fn nothing_is_forgotten_while_a_stack_cannot_be_read() {
    let due = due(&View {
        wanted: &BTreeSet::new(),
        all: false,
        open: true,
        notes: &notes(&[("a.test", aged(95))]),
        running: &BTreeSet::new(),
        now_ms: NOW,
    });
    assert_eq!(due, Due::default());
}

#[test]
fn nothing_is_ordered_while_there_is_no_door_for_the_ca_to_come_to() {
    let shut = due(&View {
        wanted: &names(&["a.test"]),
        all: true,
        open: false,
        notes: &BTreeMap::new(),
        running: &BTreeSet::new(),
        now_ms: NOW,
    });
    assert_eq!(shut, Due::default());
}

#[test]
fn http_goes_first_and_each_failure_is_the_other_ways_turn() {
    let door = |http, https| DoorRecord {
        http,
        https,
        answers: Vec::new(),
    };
    let (http, tls) = (Some(ChallengeKind::Http01), Some(ChallengeKind::TlsAlpn01));
    let both = [door(true, false), door(false, true)];
    let turns: Vec<_> = (0..4).map(|n| kind(&both.iter(), n)).collect();
    assert_eq!(turns, [http, tls, http, tls]);
    for n in 0..3 {
        assert_eq!(kind(&[door(false, true)].iter(), n), tls);
        assert_eq!(kind(&[door(true, false)].iter(), n), http);
        assert_eq!(kind(&[DoorRecord::default()].iter(), n), None);
    }
}

prop_compose! {
    fn any_note()(
        from in 0_u64..2_000,
        life in 0_u64..200,
        tried in 0_u64..2_000,
        failures in 0_u32..40,
        next in 0_u64..2_000,
        unwanted in 0_u64..2_000,
    ) -> CertificateNote {
        CertificateNote {
            v: 1,
            from_ms: from * DAY_MS,
            until_ms: (from + life) * DAY_MS,
            tried_ms: tried * DAY_MS,
            failures,
            reason: String::new(),
            next_ms: next * DAY_MS,
            unwanted_ms: unwanted * DAY_MS,
        }
    }
}

proptest! {
    /// Nobody is ordered twice, unwanted or early; what is forgotten is neither wanted nor under way;
    /// and what was decided is decided no more once it is written down.
    #[test]
    fn what_is_due_is_due_once(
        of in proptest::collection::btree_map("[a-e]", any_note(), 0..5),
        wanted in proptest::collection::btree_set("[a-e]", 0..5),
        running in proptest::collection::btree_set("[a-e]", 0..2),
    ) {
        let view = View { wanted: &wanted, all: true, open: true, notes: &of, running: &running, now_ms: NOW };
        let first = due(&view);
        for domain in &first.order {
            prop_assert!(wanted.contains(domain) && !running.contains(domain));
            let note = of.get(domain).cloned().unwrap_or_default();
            prop_assert!(note.next_ms <= NOW && ripe_ms(&note) <= NOW);
        }
        prop_assert!(first.order.len() + running.len() <= AT_A_TIME.max(running.len()));
        for domain in &first.forget {
            prop_assert!(!wanted.contains(domain) && !running.contains(domain));
        }
        prop_assert!(first.next_ms.is_none_or(|at| at > NOW));
        let mut after = of.clone();
        after.extend(first.changed.clone());
        after.retain(|domain, _| !first.forget.contains(domain));
        for domain in &first.order {
            let note = after.get(domain).cloned().unwrap_or_default();
            after.insert(domain.clone(), begins(&note, NOW));
        }
        let second = due(&View { notes: &after, ..view });
        prop_assert_eq!(second.changed, BTreeMap::new());
        prop_assert_eq!(second.forget, BTreeSet::new());
        prop_assert!(second.order.iter().all(|domain| !first.order.contains(domain)));
    }

    /// A failure never costs the certificate that there is, and the next try is never in the past.
    #[test]
    fn a_failure_only_ever_makes_it_wait(note in any_note(), limited: bool, dice in 0.0..1.0) {
        let after = failed(&note, &Failed { reason: "x".repeat(1_000), limited }, NOW, dice);
        prop_assert_eq!((after.from_ms, after.until_ms), (note.from_ms, note.until_ms));
        prop_assert!(after.next_ms >= NOW + AGAIN_MS && after.next_ms <= NOW + AGAIN_MAX_MS * 6 / 5);
        prop_assert!(after.reason.chars().count() <= REASON_MAX);
    }
}
