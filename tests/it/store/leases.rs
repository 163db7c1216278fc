//! The contract's part about leases: what ends with them, when, and who is told.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::sleep;
use viking::store::{Error, Op};

use super::{PATIENCE, Subject, events};

pub(super) async fn a_lease_ends_and_its_keys_go_at_one_revision(s: Subject) {
    let lease = s.store.grant(s.ttl).await.expect("grants");
    let mut watch = s.store.watch("/", 0).await.expect("watches");
    s.put_leased("/h/1", lease).await;
    s.put_leased("/h/2", lease).await;
    s.put("/h/3", "").await;
    let seen = events(&mut watch, 5).await;
    let gone: BTreeMap<&str, i64> = seen[3..]
        .iter()
        .filter(|event| event.value.is_none())
        .map(|event| (event.key.as_str(), event.revision))
        .collect();
    assert_eq!(gone.keys().copied().collect::<Vec<_>>(), ["/h/1", "/h/2"]);
    assert_eq!(gone.values().collect::<BTreeSet<_>>().len(), 1);
    assert!(s.get("/h/3").await.is_some() && s.get("/h/1").await.is_none());
}

pub(super) async fn a_lease_that_is_kept_alive_stays(s: Subject) {
    let lease = s.store.grant(s.ttl).await.expect("grants");
    s.put_leased("/h", lease).await;
    for _ in 0..12 {
        sleep(s.ttl / 4).await;
        s.store.keep_alive(lease).await.expect("is alive");
    }
    assert_eq!(s.get("/h").await.map(|kv| kv.lease), Some(lease));
}

pub(super) async fn an_ended_lease_is_gone(s: Subject) {
    let lease = s.store.grant(s.ttl).await.expect("grants");
    let mut watch = s.store.watch("/", 0).await.expect("watches");
    s.put_leased("/h", lease).await;
    events(&mut watch, 2).await;
    assert_eq!(
        s.store.keep_alive(lease).await,
        Err(Error::LeaseGone(lease))
    );
    let late = Op::Put {
        key: "/h".into(),
        value: vec![],
        lease,
    };
    assert_eq!(s.refusal(vec![late]).await, Error::LeaseGone(lease));
    assert_eq!(s.store.revoke(lease).await, Ok(()));
    assert_ne!(s.store.grant(s.ttl).await.expect("grants"), lease);
}

pub(super) async fn a_revoked_lease_takes_its_keys(s: Subject) {
    let lease = s.store.grant(PATIENCE).await.expect("grants");
    s.put_leased("/h", lease).await;
    let before = s.revision().await;
    s.store.revoke(lease).await.expect("revokes");
    assert!(s.get("/h").await.is_none());
    assert_eq!(s.revision().await, before + 1);
    assert_eq!(
        s.store.keep_alive(lease).await,
        Err(Error::LeaseGone(lease))
    );
}

pub(super) async fn a_key_lives_by_its_last_lease(s: Subject) {
    let first = s.store.grant(PATIENCE).await.expect("grants");
    let second = s.store.grant(PATIENCE).await.expect("grants");
    for key in ["/moved", "/freed", "/again"] {
        s.put_leased(key, first).await;
    }
    s.put_leased("/moved", second).await;
    s.put("/freed", "").await;
    s.commit(vec![], vec![Op::delete("/again")]).await;
    s.put("/again", "").await;
    s.store.revoke(first).await.expect("revokes");
    for key in ["/moved", "/freed", "/again"] {
        assert!(s.get(key).await.is_some(), "{key}");
    }
    s.store.revoke(second).await.expect("revokes");
    assert!(s.get("/moved").await.is_none());
}
