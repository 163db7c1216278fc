//! What hosts write: under their lease, for their instance.

use super::*;
use crate::model::certificate::DoorRecord;

#[tokio::test(start_paused = true)]
async fn a_report_counts_only_for_its_instance() {
    let t = tables().await;
    let l = lead(&t).await;
    assign(&t, &l, vec![start(job(0), "a"), start(job(1), "a")], vec![]).await;
    let placed = t
        .world(0)
        .await
        .unwrap()
        .placement(&job(0))
        .unwrap()
        .instance;
    let lease = t.store.grant(Duration::from_secs(3)).await.unwrap();
    let reports = |instance: Instance| {
        [
            Report::State(job(0), Some(state(instance.0, JobState::Healthy))),
            Report::Started(job(0), instance, "c-1".into()),
            Report::Ports(
                job(0),
                instance,
                vec![endpoint(instance.0, 1), endpoint(instance.0, 2)],
            ),
            Report::State(job(1), Some(state(1, JobState::Healthy))),
        ]
    };
    let reported = t.report(&host("a"), lease, &reports(placed)).await.unwrap();
    assert_eq!(reported.stale, [job(1)], "another instance is placed there");
    let routes = t.routes(&host("a")).await.unwrap();
    assert_eq!(routes.endpoints.len(), 2);
    assert_eq!(routes.states[&job(0)].state, JobState::Healthy);
    assert_eq!(
        t.assigned(&host("a")).await.unwrap().assignments[0]
            .container
            .as_deref(),
        Some("c-1")
    );
    // The same again writes nothing; the placement is the same instance still.
    let before = t.world(0).await.unwrap();
    t.report(&host("a"), lease, &reports(placed)[..3])
        .await
        .unwrap();
    assert_eq!(t.world(0).await.unwrap(), before);
    let fewer = [Report::Ports(job(0), placed, vec![endpoint(placed.0, 2)])];
    t.report(&host("a"), lease, &fewer).await.unwrap();
    assert_eq!(
        t.routes(&host("a")).await.unwrap().endpoints,
        [endpoint(placed.0, 2)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_record_the_store_never_takes_holds_up_no_other() {
    let t = tables().await;
    let l = lead(&t).await;
    assign(&t, &l, vec![start(job(0), "a"), start(job(1), "a")], vec![]).await;
    let world = t.world(0).await.unwrap();
    let placed = |slot| world.placement(&job(slot)).unwrap().instance.0;
    let lease = t.store.grant(Duration::from_secs(3)).await.unwrap();
    let mut huge = state(placed(0), JobState::Exited);
    huge.reason = "x".repeat(crate::store::VALUE_BYTES_MAX);
    let reports = [
        Report::State(job(0), Some(huge)),
        Report::State(job(1), Some(state(placed(1), JobState::Healthy))),
    ];
    t.report(&host("a"), lease, &reports).await.unwrap();
    let states = t.routes(&host("a")).await.unwrap().states;
    assert_eq!(states.keys().collect::<Vec<_>>(), [&job(1)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_host_saw_goes_with_its_lease_and_is_deleted_without_a_placement() {
    let t = tables().await;
    let l = lead(&t).await;
    assign(&t, &l, vec![start(job(0), "a")], vec![]).await;
    let placed = t
        .world(0)
        .await
        .unwrap()
        .placement(&job(0))
        .cloned()
        .unwrap();
    let lease = t.store.grant(Duration::from_secs(3)).await.unwrap();
    let seen = Report::State(job(0), Some(state(placed.instance.0, JobState::Exited)));
    t.report(&host("a"), lease, std::slice::from_ref(&seen))
        .await
        .unwrap();
    assign(&t, &l, vec![], vec![placed]).await;
    assert_eq!(
        t.world(0).await.unwrap().states.len(),
        1,
        "its container is still there"
    );
    let reported = t
        .report(&host("a"), lease, &[Report::State(job(0), None)])
        .await
        .unwrap();
    assert!(reported.stale.is_empty() && t.world(0).await.unwrap().states.is_empty());
    t.store.revoke(lease).await.unwrap();
    let gone = t.report(&host("a"), lease, &[seen]).await;
    assert!(
        gone.is_ok_and(|reported| reported.stale == [job(0)]),
        "no such placement"
    );
}

#[tokio::test(start_paused = true)]
async fn a_name_belongs_to_one_machine() {
    let t = tables().await;
    let member = |id: &str| Member {
        v: 1,
        machine_id: id.into(),
        ..Member::default()
    };
    t.register_member(&host("a"), &member("m1")).await.unwrap();
    let twin = t.register_member(&host("a"), &member("m2")).await;
    assert!(
        matches!(twin, Err(Error::Refused(text)) if text.contains("m1") && text.contains("m2"))
    );
    let tags = BTreeSet::from(["ssd".to_owned()]);
    let more = Member {
        tags: tags.clone(),
        joined_ms: 9,
        ..member("m1")
    };
    let now = t.register_member(&host("a"), &more).await.unwrap();
    assert_eq!((&now.tags, now.joined_ms), (&tags, 0));
    let (on_record, at) = t.members().await.unwrap().remove(&host("a")).unwrap();
    assert_eq!(on_record, now);
    let stale = t.put_member(&host("a"), &now, at - 1).await.unwrap();
    assert_eq!(stale, Outcome::Conflict);
}

#[tokio::test(start_paused = true)]
async fn a_world_is_the_same_until_something_changes_or_a_lease_ends() {
    let t = tables().await;
    let lease = t.store.grant(Duration::from_secs(3)).await.unwrap();
    let record = HostRecord {
        v: 1,
        address: "127.0.0.1".parse().unwrap(),
        engine: EngineState::Up {
            version: "1".into(),
        },
        version: "1".into(),
        reads: crate::model::host::READS,
        api: String::new(),
        started_ms: 0,
        fetched: Vec::new(),
        draining: Vec::new(),
        door: DoorRecord::default(),
        sites: Vec::new(),
        volumes: None,
    };
    t.announce(&host("a"), &record, lease).await.unwrap();
    let first = t.world(1).await.unwrap();
    let again = t.world(2).await.unwrap();
    assert_eq!((first.now_ms, again.now_ms), (1, 2));
    assert_eq!(World { now_ms: 2, ..first }, again);
    assert!(again.hosts.contains_key(&host("a")));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(t.world(3).await.unwrap().hosts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_is_alive_as_long_as_its_lease() {
    let t = tables().await;
    let lease = t.store.grant(Duration::from_secs(3)).await.unwrap();
    let record = HostRecord {
        v: 1,
        address: "10.0.0.1".parse().unwrap(),
        engine: EngineState::Up {
            version: "20".into(),
        },
        version: "0".into(),
        reads: crate::model::host::READS,
        api: String::new(),
        started_ms: 0,
        fetched: Vec::new(),
        draining: Vec::new(),
        door: DoorRecord::default(),
        sites: Vec::new(),
        volumes: None,
    };
    t.announce(&host("a"), &record, lease).await.unwrap();
    let before = t.world(0).await.unwrap();
    assert_eq!(before.hosts[&host("a")], record);
    t.announce(&host("a"), &record, lease).await.unwrap();
    assert_eq!(t.world(0).await.unwrap().revision, before.revision);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(t.world(0).await.unwrap().hosts.is_empty());
    assert!(t.announce(&host("a"), &record, lease).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_went_with_its_lease_is_told_from_one_that_was_taken_back() {
    let t = tables().await;
    let l = lead(&t).await;
    assign(&t, &l, vec![start(job(0), "a"), start(job(1), "a")], vec![]).await;
    let world = t.world(0).await.unwrap();
    let placed = |slot| world.placement(&job(slot)).unwrap().clone();
    let lease = t.store.grant(Duration::from_secs(3)).await.unwrap();
    let end = |slot: u32| Endpoint {
        job_id: job(slot).id(placed(slot).instance),
        ..endpoint(placed(slot).instance.0, 20_000)
    };
    let seen = |slot, word| Report::State(job(slot), Some(state(placed(slot).instance.0, word)));
    // Slot 1's container has died, and its host says so.
    let reports = [seen(0, JobState::Healthy), seen(1, JobState::Exited)];
    t.report(&host("a"), lease, &reports).await.unwrap();
    let gone = [end(0), end(1)];
    let lapsed = async || t.lapsed(&gone).await.unwrap();
    assert!(lapsed().await.is_empty());
    t.store.revoke(lease).await.unwrap();
    assert_eq!(lapsed().await, gone.clone().into());
    // The leader has ended one of them, another copy answers for the other.
    assign(&t, &l, vec![], vec![placed(1)]).await;
    assert_eq!(lapsed().await, [end(0)].into());
    assign(&t, &l, vec![start(job(0), "b")], vec![placed(0)]).await;
    assert!(lapsed().await.is_empty());
}
