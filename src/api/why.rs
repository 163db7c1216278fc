//! `/v1/why`: why jobs are where they are, or nowhere. Reads the world and what was placed; the words are
//! `schedule::why`'s.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;

use super::Shared;
use super::error::{Answer, ApiError, node_and_slot, stack};
use crate::model::names::{HostName, StackName};
use crate::model::wire::{self, WhyReport};
use crate::schedule::wanted::wanted;
use crate::schedule::why::{self, Question};

/// A host that jobs are not on.
#[derive(Debug, Deserialize)]
pub(crate) struct WhyQuery {
    not: Option<HostName>,
}

/// Why the jobs of a node, or one of them, are where they are.
pub(crate) async fn why(
    State(shared): State<Arc<Shared>>,
    Path((name, node)): Path<(StackName, String)>,
    Query(query): Query<WhyQuery>,
) -> Answer<Json<WhyReport>> {
    let (node, slot) = node_and_slot(&node)?;
    let world = Arc::new(shared.state.world().await?);
    let found = stack(&world, &name)?;
    let known = |host: &HostName| world.members.contains_key(host);
    if let Some(host) = query.not.as_ref().filter(|host| !known(host)) {
        let members = world.members.keys().map(HostName::as_str);
        return Err(ApiError::unknown("host", host.as_str(), members));
    }
    let events = shared.state.tables.events(Some(&name)).await?;
    let events: Vec<_> = events.into_iter().map(|(_, event)| event).collect();
    let (of_world, of_stack, of_node) = (Arc::clone(&world), name.clone(), node.clone());
    let look = move || {
        let question = Question {
            stack: &of_stack,
            node: &of_node,
            slot,
            not: query.not.as_ref(),
        };
        why::why(&of_world, &events, &question)
    };
    // A plan of a large cluster takes too long between other requests.
    let jobs = tokio::task::spawn_blocking(look).await;
    let jobs = jobs.map_err(|error| ApiError::later(error.to_string(), "ask again"))?;
    if jobs.is_empty() {
        let all = wanted(&name, found);
        let mut known: BTreeSet<String> = all.iter().map(|w| w.job.node.to_string()).collect();
        if known.contains(node.as_str()) {
            let slots = all.iter().filter(|wanted| wanted.job.node == node);
            known = slots.map(|w| format!("{node}.{}", w.job.slot)).collect();
        }
        let asked = slot.map_or_else(|| node.to_string(), |slot| format!("{node}.{slot}"));
        let known = known.iter().map(String::as_str);
        return Err(ApiError::unknown("node with jobs", &asked, known));
    }
    Ok(Json(WhyReport {
        schema: wire::schema("why"),
        jobs,
    }))
}
