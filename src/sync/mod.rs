//! Commits arrive: which commit a source's branch points at, and its files. Called by the leader and,
//! for checking URLs, by the API. It reads git objects from a bare mirror; it never makes a work
//! tree, never runs a hook or a filter, never follows a submodule, and knows nothing of the store.
//!
//! Only this folder touches git2: `repo` asks (through `mirror`, the folders, and `remote`, one
//! conversation), `tree` and `history` read, `folder` reads what is not committed yet, `transport` moves
//! bytes. The rest is pure.

mod address;
mod credentials;
mod error;
pub mod folder;
mod history;
mod hostile;
mod mirror;
pub mod poll;
mod remote;
mod repo;
mod transport;
mod tree;

pub use address::Address;
pub use error::Error;
pub use repo::{Mirrors, Options};
pub use transport::SshOptions;
pub use tree::{BLOB_MAX_BYTES, DEPTH_MAX, ENTRIES_MAX, TOTAL_MAX_BYTES};
