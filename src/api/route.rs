//! `/v1/routes` and `/v1/route`: which domains lead where, and why. Built by the function that the router
//! builds its table by, from the same keys; what single requests do it does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Deserialize;

use super::Shared;
use super::error::{Answer, ApiError};
use crate::clock::now_ms;
use crate::model::certificate::{CertificateNote, SHUT, WILDCARD};
use crate::model::endpoint::Copy;
use crate::model::job::{Assignment, JobState};
use crate::model::names::Tag;
use crate::model::reach::Seen;
use crate::model::resolve;
use crate::model::route::{Route, host_of, table};
use crate::model::spec::LinkTarget;
use crate::model::wire::{self, List, RouteCopy, RouteReport, RouteRow, rfc3339};
use crate::model::world::World;

/// Domains of every live release.
pub(crate) async fn routes(State(shared): State<Arc<Shared>>) -> Answer<Json<List<RouteRow>>> {
    let seen = seen(&shared).await?;
    let (table, certificates) = (table(&seen), certificates(&shared).await?);
    let rows = table.iter().map(|route| row(route, &certificates));
    let mut rows: Vec<RouteRow> = rows.collect();
    rows.sort_by(|a, b| a.domain.cmp(&b.domain));
    Ok(Json(List::new("routes", rows)))
}

/// What this host's router counted.
pub(crate) async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], (shared.state.metrics)())
}

/// What is asked.
#[derive(Debug, Deserialize)]
pub(crate) struct RouteQuery {
    url: String,
}

/// Where one URL leads.
pub(crate) async fn route(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<RouteQuery>,
) -> Answer<Json<RouteReport>> {
    let host = host_in(&query.url).ok_or_else(|| {
        let hint = "like https://shop.example/cart, or shop.example alone";
        ApiError::bad(format!("{:?} names no host", query.url), hint)
    })?;
    let seen = seen(&shared).await?;
    let (world, certificates) = (shared.state.world().await?, certificates(&shared).await?);
    Ok(Json(explain(&world, &seen, &certificates, host)))
}

/// How certificates by ACME stand.
struct Certificates {
    notes: BTreeMap<String, CertificateNote>,
    /// Whether they are asked for at all, as far as this host knows.
    asked: bool,
    /// Whether a CA could come to any host.
    open: bool,
    now_ms: u64,
}

async fn certificates(shared: &Shared) -> Answer<Certificates> {
    let state = &shared.state;
    let world = state.world().await?;
    Ok(Certificates {
        notes: state.tables.certificate_notes().await?,
        asked: state.config.front.acme.is_some(),
        open: world
            .hosts
            .values()
            .any(|host| host.door.http || host.door.https),
        now_ms: now_ms(),
    })
}

impl Certificates {
    fn words(&self, domain: &str) -> String {
        match self.notes.get(domain) {
            Some(note) => note.words(self.now_ms),
            None if self.asked && domain.starts_with("*.") => WILDCARD.to_owned(),
            None if self.asked && !self.open => format!("none: {SHUT}"),
            None => String::new(),
        }
    }
}

async fn seen(shared: &Shared) -> Answer<Seen> {
    let state = &shared.state;
    let routes = state.tables.routes(&state.config.host).await?;
    Ok(Seen {
        stacks: routes.stacks,
        endpoints: routes.endpoints,
        own: routes.states,
    })
}

/// The host name in a URL, or in what is written of one.
fn host_in(url: &str) -> Option<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    host_of(authority)
}

fn row(route: &Route, certificates: &Certificates) -> RouteRow {
    let denied = route.denied.iter();
    RouteRow {
        domain: route.domain.clone(),
        stack: route.stack.clone(),
        node: route.node.clone(),
        port: route.port,
        copies: route.copies.len(),
        since: match route.since_ms {
            0 => String::new(),
            ms => rfc3339(ms),
        },
        denied: denied
            .map(|(stack, node)| format!("{stack}/{node}"))
            .collect(),
        certificate: certificates.words(&route.domain),
    }
}

fn explain(world: &World, seen: &Seen, certificates: &Certificates, host: String) -> RouteReport {
    let table = table(seen);
    let Some(route) = table.find(&host) else {
        return RouteReport {
            schema: wire::schema("route"),
            because: "no live release names this domain: the router answers 404".to_owned(),
            host,
            route: None,
            copies: Vec::new(),
        };
    };
    let Route { stack, node, .. } = route;
    let mut because = match route.domain == host {
        true => format!("{stack}/{node} names this very domain"),
        false => format!(
            "no live release names this very domain, and {} of {stack}/{node} is the longest that covers it",
            route.domain
        ),
    };
    if !route.denied.is_empty() {
        because += ", and has had it for longer than others that name it";
    }
    if route.copies.is_empty() {
        because += "; no copy of it is healthy: requests wait for one for 10 s, then the router answers 503";
    }
    RouteReport {
        schema: wire::schema("route"),
        host,
        because,
        copies: copies(world, seen, route),
        route: Some(row(route, certificates)),
    }
}

/// Every copy of the node that is placed.
fn copies(world: &World, seen: &Seen, route: &Route) -> Vec<RouteCopy> {
    let live = seen.stacks.get(&route.stack).and_then(|map| map.live());
    let target = LinkTarget {
        stack: None,
        node: route.node.clone(),
    };
    let tags = live.map(|live| resolve::copies(&seen.stacks, &route.stack, &live.tag, &target));
    let tags: BTreeSet<Tag> = tags.into_iter().flatten().collect();
    let placed = world.assignments.values();
    let placed = placed.filter(|at| at.job.stack == route.stack && at.job.node == route.node);
    let mut copies: Vec<RouteCopy> = placed.map(|at| copy(world, route, &tags, at)).collect();
    copies.sort_by(|a, b| (!a.asked, &a.job, &a.tag).cmp(&(!b.asked, &b.job, &b.tag)));
    copies
}

fn copy(world: &World, route: &Route, tags: &BTreeSet<Tag>, at: &Assignment) -> RouteCopy {
    let id = at.job.id(at.instance);
    let found: Option<&Copy> = route.copies.iter().find(|copy| copy.job_id == id);
    let because = match (found, world.state(at)) {
        (Some(copy), _) if copy.here => "healthy, on this host: dialled directly".to_owned(),
        (Some(_), _) => "healthy, on another host: dialled at its published port".to_owned(),
        (None, _) if !tags.contains(&at.job.tag) => "not of the live release".to_owned(),
        (None, None) => format!("{}: its host has not said how it is", JobState::Assigned),
        (None, Some(state)) if state.state == JobState::Healthy => match route.port {
            Some(port) => format!("healthy, but port {port} of it is not published"),
            None => "healthy, but it publishes no port".to_owned(),
        },
        (None, Some(state)) if state.reason.is_empty() => state.state.to_string(),
        (None, Some(state)) => format!("{}: {}", state.state, state.reason),
    };
    RouteCopy {
        job: at.job.short(),
        tag: at.job.tag.clone(),
        host: at.host.clone(),
        address: found.map(|copy| copy.address.to_string()),
        asked: found.is_some(),
        because,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_in_whatever_people_paste() {
        for text in [
            "https://Shop.test/a?b#c",
            "http://shop.test:8080",
            "shop.test",
            "shop.test/a",
            "shop.test.",
        ] {
            assert_eq!(host_in(text).as_deref(), Some("shop.test"), "{text}");
        }
        for text in ["", "https://", "http://[::1]/", "a b"] {
            assert_eq!(host_in(text), None, "{text}");
        }
    }
}
