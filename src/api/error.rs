//! What a request is told when it does not succeed: a status, an error, a hint. Handlers return it;
//! `guard` adds the request's id and writes the body.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::model::names::{self, NodeName, StackName};
use crate::model::world::{StackWorld, World};
use crate::store::tables;

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// What was attempted, what was found. Never a secret.
    pub(crate) error: String,
    /// What to do.
    pub(crate) hint: String,
}

/// A handler's result.
pub(crate) type Answer<T> = Result<T, ApiError>;

impl ApiError {
    /// An error with a hint.
    pub(crate) fn new(
        status: StatusCode,
        error: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            status,
            error: error.into(),
            hint: hint.into(),
        }
    }

    /// Nothing of that name. The hint names what there is.
    pub(crate) fn unknown<'a>(
        kind: &str,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let close = known
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, name), *known))
            .filter(|(distance, _)| *distance <= 2)
            .min();
        let hint = match (close, known.is_empty()) {
            (Some((_, close)), _) => format!("did you mean {close}?"),
            (None, true) => format!("there is no {kind} yet"),
            (None, false) => format!("known: {}", first_of(&known)),
        };
        Self::new(StatusCode::NOT_FOUND, format!("no {kind} {name:?}"), hint)
    }

    /// The request itself is wrong.
    pub(crate) fn bad(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, hint)
    }

    /// Cannot be done now.
    pub(crate) fn later(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, hint)
    }

    /// A fault of ours.
    pub(crate) fn internal(error: impl Into<String>) -> Self {
        let hint = "this is a fault of viking: the host's log holds more under the id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error, hint)
    }
}

/// Names for a hint: enough to recognise one, not a listing.
fn first_of(known: &[&str]) -> String {
    const SHOWN: usize = 8;
    let more = if known.len() > SHOWN { ", …" } else { "" };
    let shown: Vec<&str> = known.iter().take(SHOWN).copied().collect();
    shown.join(", ") + more
}

impl IntoResponse for ApiError {
    /// The body is written by `guard::finish`, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<tables::Error> for ApiError {
    fn from(error: tables::Error) -> Self {
        let hint = "containers keep running meanwhile; try again, and see the host's log";
        match error {
            tables::Error::Store(error) => {
                Self::later(format!("the store cannot be asked: {error}"), hint)
            }
            tables::Error::Frozen(_) => Self::later(error.to_string(), hint),
            tables::Error::Refused(_) => Self::new(
                StatusCode::CONFLICT,
                error.to_string(),
                "see `viking events`",
            ),
        }
    }
}

/// `node` or `node.slot`, as a path names jobs.
pub(crate) fn node_and_slot(text: &str) -> Answer<(NodeName, Option<u32>)> {
    let hint = "name jobs as stack/node or stack/node.slot";
    let (node, slot) = names::node_and_slot(text);
    let slot = slot.map(str::parse::<u32>).transpose();
    let slot = slot.map_err(|error| ApiError::bad(format!("the slot: {error}"), hint))?;
    let node = NodeName::parse(node).map_err(|error| ApiError::bad(error.to_string(), hint))?;
    Ok((node, slot))
}

/// A stack of the world.
pub(crate) fn stack<'a>(world: &'a World, name: &StackName) -> Answer<&'a StackWorld> {
    let known = || world.stacks.keys().map(StackName::as_str);
    world
        .stacks
        .get(name)
        .ok_or_else(|| ApiError::unknown("stack", name.as_str(), known()))
}
