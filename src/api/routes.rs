//! Every route in one table: method, path, what it answers, and how long it may take. The router is
//! built from the table, so a route that is not listed does not exist.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, delete, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;

use super::{Shared, change, env, guard, hosts, operate, plan, read, route, streams, why};

/// One route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// HTTP method.
    pub method: &'static str,
    /// Path, with parameters in braces.
    pub path: &'static str,
    /// What it answers, in words.
    pub what: &'static str,
    handler: fn() -> MethodRouter<Arc<Shared>>,
    pace: Pace,
}

/// How long a route may take.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// Reads the store.
    Quick,
    /// Waits for git.
    Slow,
    /// Goes on until one side ends it.
    Stream,
}

const fn quick(
    method: &'static str,
    path: &'static str,
    what: &'static str,
    handler: fn() -> MethodRouter<Arc<Shared>>,
) -> Route {
    Route {
        method,
        path,
        what,
        handler,
        pace: Pace::Quick,
    }
}

const fn slow(route: Route) -> Route {
    Route {
        pace: Pace::Slow,
        ..route
    }
}

const fn stream(route: Route) -> Route {
    Route {
        pace: Pace::Stream,
        ..route
    }
}

/// All routes: those of 0.5.3 first.
pub const ROUTES: &[Route] = &[
    quick("GET", "/v1/ping", "whether the API works", || {
        get(read::ping)
    }),
    quick("GET", "/v1/info", "the current state", || get(read::info)),
    quick(
        "GET",
        "/v1/network",
        "the hosts and their addresses",
        || get(hosts::list),
    ),
    quick("GET", "/v1/server/{host}", "one host and its jobs", || {
        get(hosts::server)
    }),
    quick("GET", "/v1/stacks", "the stacks", || get(read::stacks)),
    quick(
        "GET",
        "/v1/stack/{stack}",
        "a stack: source and pointer",
        || get(read::stack_info),
    ),
    quick(
        "GET",
        "/v1/tags/{stack}",
        "a stack's recorded releases",
        || get(read::tags),
    ),
    quick(
        "GET",
        "/v1/nodes/{stack}/{tag}",
        "a release's nodes",
        || get(read::nodes),
    ),
    quick(
        "GET",
        "/v1/allocate/{stack}/{tag}/{node}",
        "where a node's jobs run or would run, with a verdict per host",
        || get(read::allocate),
    ),
    quick(
        "GET",
        "/v1/why/{stack}/{node}",
        "why NODE's or NODE.SLOT's jobs are where they are, or nowhere; ?not=HOST",
        || get(why::why),
    ),
    quick("GET", "/v1/routes", "domains and where they lead", || {
        get(route::routes)
    }),
    quick(
        "GET",
        "/v1/route",
        "where a URL leads, and why; ?url=",
        || get(route::route),
    ),
    quick(
        "GET",
        "/metrics",
        "what this host's router counted, for Prometheus",
        || get(route::metrics),
    ),
    quick("GET", "/v1/status", "how all stacks are", || {
        get(read::status_of_all)
    }),
    quick("GET", "/v1/status/{stack}", "how a stack is", || {
        get(read::status_of_one)
    }),
    quick("GET", "/v1/hosts", "the hosts", || get(hosts::list)),
    quick(
        "GET",
        "/v1/hosts/{host}/jobs",
        "a host's jobs, and which of them can leave",
        || get(hosts::jobs),
    ),
    quick(
        "POST",
        "/v1/hosts/{host}/cordon",
        "gives a host no new jobs",
        || post(hosts::cordon),
    ),
    quick(
        "POST",
        "/v1/hosts/{host}/uncordon",
        "gives a host jobs again",
        || post(hosts::uncordon),
    ),
    quick(
        "POST",
        "/v1/hosts/{host}/drain",
        "moves a host's jobs away, where they may move",
        || post(hosts::drain),
    ),
    quick(
        "DELETE",
        "/v1/hosts/{host}",
        "counts no longer on a host that is gone",
        || delete(hosts::forget),
    ),
    quick("GET", "/v1/images", "build records; ?stack=", || {
        get(read::images)
    }),
    quick(
        "GET",
        "/v1/events",
        "what happened, oldest first; ?stack=",
        || get(read::events),
    ),
    quick(
        "GET",
        "/v1/history/{stack}",
        "how a stack's runs ended, newest first",
        || get(read::history),
    ),
    quick(
        "GET",
        "/v1/debug/dump",
        "the world that the planner reads, for `viking sim`",
        || get(read::dump),
    ),
    quick(
        "GET",
        "/v1/debug/keys",
        "every key and value but secret ones",
        || get(read::keys),
    ),
    quick(
        "GET",
        "/v1/env",
        "shared variables and who names them, never their values; ?scope=",
        || get(env::list),
    ),
    quick(
        "POST",
        "/v1/env/{scope}/{var}",
        "sets a shared variable; {value}",
        || post(env::set),
    ),
    quick(
        "DELETE",
        "/v1/env/{scope}/{var}",
        "unsets a shared variable that no release names",
        || delete(env::unset),
    ),
    slow(quick("POST", "/v1/stacks", "follows a repository", || {
        post(change::add)
    })),
    quick(
        "DELETE",
        "/v1/stack/{stack}",
        "stops a stack; volumes stay; ?confirm=STACK",
        || delete(change::remove),
    ),
    quick(
        "POST",
        "/v1/stack/{stack}/sync",
        "looks at the repository now; {pull}",
        || post(change::sync),
    ),
    slow(quick(
        "POST",
        "/v1/stack/{stack}/plan",
        "what a commit would do; {revision}",
        || post(plan::plan),
    )),
    slow(quick(
        "POST",
        "/v1/stack/{stack}/apply",
        "brings up a suspended stack's newest commit, if it does what was planned; {plan}",
        || post(plan::apply_plan),
    )),
    quick(
        "POST",
        "/v1/stack/{stack}/rollback",
        "brings an earlier release back; {tag}",
        || post(operate::rollback),
    ),
    quick(
        "POST",
        "/v1/stack/{stack}/retry",
        "tries the newest commit again, which failed or was set aside",
        || post(operate::retry),
    ),
    quick(
        "POST",
        "/v1/stack/{stack}/restart/{node}",
        "makes a node's containers anew",
        || post(operate::restart),
    ),
    quick(
        "POST",
        "/v1/stack/{stack}/suspend",
        "looks at the repository no longer; what runs is kept",
        || post(operate::suspend),
    ),
    quick(
        "POST",
        "/v1/stack/{stack}/resume",
        "follows the repository again",
        || post(operate::resume),
    ),
    stream(quick(
        "GET",
        "/v1/logs/{stack}",
        "lines of a stack's jobs; ?follow&tail",
        || get(streams::logs_of_stack),
    )),
    stream(quick(
        "GET",
        "/v1/logs/{stack}/{node}",
        "lines of NODE's or NODE.SLOT's jobs; ?follow&tail",
        || get(streams::logs_of_node),
    )),
    stream(quick(
        "GET",
        "/v1/progress",
        "steps of commits as they happen; ?stack=",
        || get(streams::progress),
    )),
];

/// The table for people.
pub(crate) fn listing() -> serde_json::Value {
    let row = |route: &Route| serde_json::json!({ "method": route.method, "path": route.path, "what": route.what });
    ROUTES.iter().map(row).collect()
}

/// The routes behind their guards, in the order a request passes them from below.
pub(crate) fn router(shared: Arc<Shared>, own: IpAddr) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let handler = (route.handler)();
        let handler = match route.pace {
            Pace::Quick => handler.layer(from_fn_with_state(guard::QUICK, guard::deadline)),
            Pace::Slow => handler.layer(from_fn_with_state(guard::SLOW, guard::deadline)),
            Pace::Stream => handler,
        };
        router = router.route(route.path, handler);
    }
    router
        .with_state(shared)
        .layer(RequestBodyLimitLayer::new(guard::BODY_BYTES_MAX))
        .layer(from_fn_with_state(own, guard::only_local_names))
        .layer(CatchPanicLayer::custom(guard::panicked))
        .layer(from_fn(guard::finish))
}
