//! What a worker says of its machine: the member's record follows the engine and the operator's
//! settings, and leaves alone what people decided.

use std::collections::BTreeSet;
use std::time::Duration;

use viking::model::host::{Declared, Member, Readiness};
use viking::store::Watched;

use super::rig::{Rig, host};

/// The record, once it is as wanted.
async fn until(rig: &Rig, holds: impl Fn(&Member) -> bool) -> (Member, i64) {
    let wait = async {
        loop {
            let mut members = rig.tables.members().await.expect("members");
            if let Some(found) = members.remove(&host()).filter(|(member, _)| holds(member)) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, wait).await.expect("in time")
}

#[tokio::test(start_paused = true)]
async fn a_members_record_follows_the_settings_and_keeps_what_people_decided() {
    let mut rig = Rig::start().await;
    let (seen, at) = until(&rig, |_| true).await;
    assert!(seen.tags.is_empty() && seen.capacity.cpu_millis > 0);
    let cordoned = Member {
        readiness: Readiness::Cordoned,
        ..seen.clone()
    };
    rig.tables
        .put_member(&host(), &cordoned, at)
        .await
        .expect("written");
    rig.stop().await;

    rig.declared = Declared {
        tags: BTreeSet::from(["ssd".to_owned()]),
        cpu_millis: None,
        memory_bytes: Some(1 << 30),
    };
    rig.restart();
    let (now, _) = until(&rig, |member| !member.tags.is_empty()).await;
    assert_eq!(now.readiness, Readiness::Cordoned);
    assert_eq!(now.capacity.memory_bytes, 1 << 30);
    assert_eq!(now.capacity.cpu_millis, seen.capacity.cpu_millis);
    assert_eq!(now.joined_ms, seen.joined_ms);
    rig.stop().await;

    // What is taken out of the settings is taken back.
    rig.declared = Declared::default();
    rig.restart();
    let (now, _) = until(&rig, |member| member.tags.is_empty()).await;
    assert_eq!(now, cordoned);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_member_is_seen_before_it_is_counted_on() {
    let rig = Rig::start().await;
    until(&rig, |_| true).await;
    let store = rig.tables.store();
    let mut watch = store.watch("/", 1).await.expect("watches");
    let mut order = Vec::new();
    while order.len() < 2 {
        let Some(Watched::Events(events)) = watch.recv().await else {
            panic!("nothing is compacted, and the store stays");
        };
        let keys = events.into_iter().map(|event| event.key);
        order.extend(keys.filter(|key| key.starts_with("/host/") || key.starts_with("/member/")));
    }
    // A member that is not seen is taken for lost, and a leader says so.
    assert!(order[0].starts_with("/host/"), "{order:?}");
}
