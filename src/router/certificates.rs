//! What the front door serves from the store: certificates that the leader was given by a CA, and the
//! challenges it poses meanwhile. Follows the store on every host and says which challenges are answered
//! here. Writes nothing, and never tells a key.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::front::Certificates;
use crate::model::certificate::DoorRecord;
use crate::store::tables::Tables;
use crate::wake::{self, Bell, Next};

/// A full look at least this often: events are hints.
const INTERVAL: Duration = Duration::from_secs(15);

/// Follows the store until shutdown. `door` is told which challenges are answered.
pub async fn follow(
    tables: Tables,
    certificates: Arc<Certificates>,
    door: watch::Sender<DoorRecord>,
    shutdown: CancellationToken,
) {
    let bell = Bell::new();
    let prefixes = tables.served_prefixes();
    let known: Mutex<BTreeMap<String, i64>> = Mutex::default();
    let looks = wake::run(
        "certificates",
        INTERVAL,
        bell.ear(),
        shutdown.clone(),
        || look(&tables, &certificates, &door, &known),
    );
    tokio::join!(looks, tables.ring(&bell, &prefixes, &shutdown));
}

async fn look(
    tables: &Tables,
    certificates: &Certificates,
    door: &watch::Sender<DoorRecord>,
    known: &Mutex<BTreeMap<String, i64>>,
) -> anyhow::Result<Next> {
    let before = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let served = tables.served(&before).await?;
    certificates.give(&served.there, &served.new);
    let answers = certificates.challenges.pose(served.challenges);
    door.send_if_modified(|said| {
        let news = said.answers != answers;
        said.answers = answers;
        news
    });
    *known.lock().unwrap_or_else(PoisonError::into_inner) = served.there;
    Ok(Next::OnChange)
}
