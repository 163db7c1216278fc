//! The way to a job: from one container to another (`ambassador`), and from this host's Docker to
//! the registry. The front HTTP router comes later. Started by `host`; reads the store, writes
//! nothing, decides by the one resolver of `model`.

pub mod ambassador;
pub mod forward;
mod gate;
mod registry;
pub mod table;
