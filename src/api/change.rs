//! What people ask to be done: follow a repository, stop following it, look at it now. Checks the
//! form of what is asked; the leader does it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::error::{Answer, ApiError, stack};
use super::{Ask, Shared};
use crate::clock;
use crate::model::names::{CORE_STACK, StackName};
use crate::model::release::Source;
use crate::model::wire::{self, Accepted, AddRequest, Added, SyncRequest, rfc3339};
use crate::model::world::{StackWorld, World};
use crate::schedule::require;
use crate::store::tables::Request;

/// Longest remote, branch and folder: far above real ones, far below what hurts.
const TEXT_BYTES_MAX: usize = 2048;
/// Shortest time between two looks at a repository.
const POLL_MS_MIN: u64 = 1000;
/// Longest time between two looks: a day.
const POLL_MS_MAX: u64 = 24 * 3600 * 1000;

/// Follows a repository.
pub(crate) async fn add(
    State(shared): State<Arc<Shared>>,
    Json(request): Json<AddRequest>,
) -> Answer<Json<Added>> {
    let source = source(&request)?;
    let asked = ask(&shared, |reply| Ask::Add { source, reply }).await?;
    let hint = "nothing is followed because of this; repair it and add the repository again";
    asked
        .map(Json)
        .map_err(|why| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, why, hint))
}

/// Asks what needs git.
pub(super) async fn ask<T>(
    shared: &Shared,
    ask: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Ask,
) -> Answer<Result<T, String>> {
    let (reply, answer) = oneshot::channel();
    let busy = |_| {
        ApiError::later(
            "the host is busy with other requests",
            "try again in a moment",
        )
    };
    shared.state.asks.try_send(ask(reply)).map_err(busy)?;
    answer.await.map_err(|_| {
        ApiError::later(
            "the host stopped before it could look at the repository",
            "try again once the host runs",
        )
    })
}

/// A source whose form is right; whether it exists is for git to say.
fn source(request: &AddRequest) -> Answer<Source> {
    no_password(&request.url)?;
    let url = plain(
        "url",
        &request.url,
        "give an https, ssh or file URL, or an absolute path",
    )?;
    let hint = "leave the branch out to follow the one that the repository's HEAD names";
    let branch = request
        .branch
        .as_deref()
        .map(|branch| plain("branch", branch, hint));
    let path = request.path.trim_start_matches("./").trim_matches('/');
    if path.split('/').any(|part| part == "..") || path.contains(char::is_control) {
        let hint = "name a folder inside the repository";
        return Err(ApiError::bad(
            format!("path {path:?} leaves the repository"),
            hint,
        ));
    }
    if !(POLL_MS_MIN..=POLL_MS_MAX).contains(&request.poll_ms) {
        let found = format!("a look every {} ms", request.poll_ms);
        return Err(ApiError::bad(found, "give a time between 1s and 24h"));
    }
    Ok(Source {
        v: 1,
        url: url.to_owned(),
        branch: branch.transpose()?.map(str::to_owned),
        path: if path == "." {
            String::new()
        } else {
            path.to_owned()
        },
        poll_ms: request.poll_ms,
        suspended_ms: None,
    })
}

/// A text that cannot be anything but what it looks like to a program it is given to.
fn plain<'a>(what: &str, text: &'a str, hint: &str) -> Answer<&'a str> {
    let odd = |c: char| c.is_control() || c.is_whitespace();
    if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.starts_with('-') || text.contains(odd)
    {
        let shown: String = without_userinfo(text).chars().take(80).collect();
        return Err(ApiError::bad(format!("{what} {shown:?} is not one"), hint));
    }
    Ok(text)
}

/// The store is read by many: a password does not belong there.
fn no_password(url: &str) -> Answer<()> {
    let parsed = url::Url::parse(url).ok();
    let secret = parsed.is_some_and(|url| {
        url.password().is_some() || (url.scheme().starts_with("http") && !url.username().is_empty())
    });
    if secret {
        return Err(ApiError::bad(
            "the URL holds a user or password, which would be kept in plain text",
            "leave them out, and put them into the file `credentials` of the host's data directory \
             (`https://user:token@host` a line, mode 0600); or use ssh with a key",
        ));
    }
    Ok(())
}

/// A text that may be a URL, however broken, without what may be its user and password.
fn without_userinfo(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((before, rest)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            let mark = if scheme.is_empty() { "" } else { "://" };
            format!("{scheme}{mark}…@{rest}")
        }
        None => text.to_owned(),
    }
}

/// The name once more.
#[derive(Debug, Deserialize)]
pub(crate) struct Confirm {
    confirm: Option<String>,
}

/// Stops following a repository; the leader stops its jobs. Volumes stay.
pub(crate) async fn remove(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<StackName>,
    Query(query): Query<Confirm>,
) -> Answer<Json<Accepted>> {
    let world = shared.state.world().await?;
    let found = stack(&world, &name)?;
    not_core(&name)?;
    let by = require::by_whom(&world, &name);
    if !by.is_empty() {
        let by: Vec<_> = by.into_iter().map(StackName::as_str).collect();
        let by = by.join(", ");
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("{name} is required by what is live of {by}"),
            format!("push a commit to {by} that does not require {name}, or remove that first"),
        ));
    }
    if has_volumes(found) && query.confirm.as_deref() != Some(name.as_str()) {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("{name} has volumes: removing it needs its name typed"),
            format!("viking remove {name}; its volumes stay on their hosts"),
        ));
    }
    if !shared.state.tables.remove_source(&name).await? {
        let hint = format!("viking status {name}");
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("{name} is removed already"),
            hint,
        ));
    }
    let accepted = "its jobs will be stopped and removed; its volumes stay";
    Ok(accepted_of(name, accepted))
}

fn has_volumes(stack: &StackWorld) -> bool {
    let nodes = |release: &crate::model::release::Release| {
        release.nodes.values().any(|node| node.has_volume)
    };
    stack.releases.values().any(nodes)
}

pub(super) fn not_core(name: &StackName) -> Answer<()> {
    if name.as_str() == CORE_STACK {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("{name} is viking's own stack and follows no repository"),
            "it holds the registry, without which nothing can be built; viking looks after it by itself",
        ));
    }
    Ok(())
}

/// Asks the leader to look at the repository now.
pub(crate) async fn sync(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<StackName>,
    Json(request): Json<SyncRequest>,
) -> Answer<Json<Accepted>> {
    let world = shared.state.world().await?;
    let found = followed(&world, &name)?;
    if let Some(since_ms) = found.suspended_ms() {
        let since = rfc3339(since_ms);
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("{name} is suspended since {since}: its repository is not looked at"),
            format!("viking resume {name} follows it again, and looks at once"),
        ));
    }
    let (kind, accepted) = if request.pull {
        (
            "pull",
            "its repository and its external images are looked up now",
        )
    } else {
        ("sync", "its repository is looked at now")
    };
    ask_leader(&shared, &name, kind, "").await?;
    Ok(accepted_of(name, accepted))
}

/// A stack that is people's own and follows a repository.
pub(super) fn followed<'a>(world: &'a World, name: &StackName) -> Answer<&'a StackWorld> {
    let found = stack(world, name)?;
    not_core(name)?;
    if found.source.is_none() || found.pointer.removing {
        let hint = "viking add URL follows a repository again";
        let error = format!("{name} follows no repository any more");
        return Err(ApiError::new(StatusCode::CONFLICT, error, hint));
    }
    Ok(found)
}

/// Leaves word for the leader.
pub(super) async fn ask_leader(
    shared: &Shared,
    name: &StackName,
    kind: &str,
    about: &str,
) -> Answer<()> {
    let asked = Request {
        v: 1,
        kind: kind.to_owned(),
        about: about.to_owned(),
        at_ms: clock::now_ms(),
    };
    shared.state.tables.request(name, &asked).await?;
    Ok(())
}

/// What will happen, in words.
pub(super) fn accepted_of(stack: StackName, accepted: impl Into<String>) -> Json<Accepted> {
    Json(Accepted {
        schema: wire::schema("accepted"),
        accepted: accepted.into(),
        stack,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adding(url: &str) -> AddRequest {
        AddRequest {
            url: url.to_owned(),
            branch: None,
            path: String::new(),
            poll_ms: 30_000,
        }
    }

    #[test]
    fn a_source_cannot_be_an_option_or_hold_a_secret() {
        for bad in [
            "",
            "--upload-pack=x",
            "https://a:b@h/x",
            "https://token@h/x",
            "a b",
            "a\nb",
        ] {
            assert!(source(&adding(bad)).is_err(), "{bad:?}");
        }
        for good in [
            "https://h/x.git",
            "ssh://git@h/x",
            "git@h:x.git",
            "/srv/x",
            "file:///x",
        ] {
            assert!(source(&adding(good)).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_refused_url_never_shows_its_user_and_password() {
        for url in [
            "https://anna:s3cret@h/x",
            "https://anna:s3cret@h/x y",
            " https://anna:s3cret@h/x",
            "https://anna:s3c ret@h/x",
            "https://anna:s3c/r@et@h /x",
            "ht tps//anna:s3cret@h/x",
            "-https://anna:s3cret@h/x",
        ] {
            let error = source(&adding(url)).unwrap_err();
            let shown = format!("{error:?}");
            for secret in ["anna", "s3c", "ret"] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
    }

    #[test]
    fn a_folder_stays_inside_and_is_written_one_way() {
        let at = |path: &str| {
            source(&AddRequest {
                path: path.to_owned(),
                ..adding("/srv/x")
            })
        };
        assert_eq!(at("./deploy/").unwrap().path, "deploy");
        assert_eq!(at(".").unwrap().path, "");
        assert!(at("../other").is_err());
        assert!(at("a/../../b").is_err());
    }

    #[test]
    fn looks_are_neither_a_storm_nor_never() {
        for poll_ms in [0, 1, 500, 999, u64::MAX] {
            let request = AddRequest {
                poll_ms,
                ..adding("/srv/x")
            };
            assert!(source(&request).is_err());
        }
    }
}
