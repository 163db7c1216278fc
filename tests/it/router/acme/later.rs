//! Renewals: time goes on for the leader and for nobody else.

use viking::clock::jump;

use super::*;

/// More than two thirds of a certificate's life, less than all of it.
const THREE_DAYS_MS: i64 = 3 * 24 * 60 * 60 * 1_000;

#[test]
fn a_certificate_is_renewed_before_it_is_over_and_the_new_one_served() {
    alone(
        "router::acme::later::a_certificate_is_renewed_before_it_is_over_and_the_new_one_served",
        async {
            let (rig, leader, first, before) = certified().await;
            jump(THREE_DAYS_MS);
            // Any change makes the leader look.
            go_live(&rig.tables, &[SHOP]).await;
            let second = rig.until(SHOP, |note| note.from_ms > first.from_ms);
            assert_eq!(second.await.failures, 0);
            until_other(&rig, &before).await;
            rig.until_tidy().await;
            leader.end().await;
        },
    );
}

/// A domain has its certificate, and the door shows it: the note of it, and what is shown.
async fn certified() -> (Rig, Leader, CertificateNote, Vec<u8>) {
    let mut rig = Rig::new().await;
    rig.open("a", "127.0.0.1", &[Speaks::Http, Speaks::Https]);
    go_live(&rig.tables, &[SHOP]).await;
    let leader = rig.lead("a").await;
    let first = rig.until(SHOP, |note| note.until_ms > 0).await;
    rig.until_served("a", SHOP).await;
    let (_, before) = rig.page("a", SHOP).await;
    (rig, leader, first, before)
}

/// Waits until the door shows another certificate than this.
async fn until_other(rig: &Rig, before: &[u8]) {
    let waits = async {
        while rig.page("a", SHOP).await.1 == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waits).await;
    waited.expect("the new certificate is served");
}

#[test]
fn a_ca_that_is_down_costs_nothing_but_time() {
    alone(
        "router::acme::later::a_ca_that_is_down_costs_nothing_but_time",
        async {
            let (mut rig, leader, first, before) = certified().await;
            rig.ca.stop();
            jump(THREE_DAYS_MS);
            go_live(&rig.tables, &[SHOP]).await;
            let failed = rig.until(SHOP, |note| note.failures > 0).await;
            assert_eq!(failed.until_ms, first.until_ms);
            assert!(
                failed.next_ms > viking::clock::now_ms() + 200_000,
                "{failed:?}"
            );
            let words = failed.words(viking::clock::now_ms());
            assert!(words.contains("not renewed yet: "), "{words}");
            let (said, after) = rig.page("a", SHOP).await;
            assert!(said.ends_with("shop") && after == before, "{said}");
            // When it is back, the domain gets its certificate at the next try, proved the other way.
            rig.ca.again().await;
            jump(THREE_DAYS_MS);
            go_live(&rig.tables, &[SHOP]).await;
            let second = rig.until(SHOP, |note| note.from_ms > first.from_ms);
            let second = second.await;
            assert_eq!((second.failures, second.reason.as_str()), (0, ""));
            until_other(&rig, &before).await;
            leader.end().await;
        },
    );
}
