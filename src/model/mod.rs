//! The nouns of viking: what a `viking.yml` says, what a release is, what a host saw, and the
//! world a planner reads. Every other module speaks in these types.
//!
//! Never does I/O, knows no clock, and imports nothing of ours.

pub mod again;
mod before;
pub mod certificate;
pub mod dump;
pub mod endpoint;
pub mod env;
pub mod foretold;
pub mod history;
pub mod host;
pub mod job;
pub mod names;
pub mod plan;
pub mod progress;
pub mod reach;
pub mod registry;
pub mod release;
pub mod resolve;
pub mod route;
pub mod site;
pub mod source;
pub mod spec;
pub mod status;
pub mod trash;
pub mod tree;
pub mod verdict;
pub mod vikingfile;
pub mod wire;
pub mod world;
