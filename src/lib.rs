//! viking turns a git repository into running containers.
//!
//! The map, in reading order: nouns first, then what remembers them, then each stage a commit goes
//! through, then the processes that put the stages together.

pub mod model;

pub mod store;

pub mod docker;

pub mod clock;
pub mod config;
pub mod failpoint;
pub mod wake;

pub mod acme;
pub mod build;
pub mod sync;

pub mod schedule;

pub mod foretell;

pub mod deploy;

pub mod router;

pub mod api;
pub mod cli;

pub mod host;
pub mod leader;
