//! The way to a job: from outside (`front`), from one container to another (`ambassador`), and from
//! this host's Docker to the registry. Started by `host`; reads the store, writes
//! nothing, decides by the one resolver of `model`.

pub mod ambassador;
pub mod certificates;
mod datagrams;
mod flows;
pub mod forward;
pub mod front;
mod gate;
mod registry;
pub mod table;
