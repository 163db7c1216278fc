//! The part of every host that runs containers: it does as the store tells it and reports what it
//! sees. Called by `host`; never decides where a job runs, and never touches what viking did not
//! make.
//!
//! In reading order: `worker` puts the parts together; `desk` is one pass (`hear`, decide, `acts`);
//! `reconcile` decides; `ops` does; `ledger` is what is on record.

mod acts;
pub mod container;
pub mod desk;
pub mod endpoints;
mod engine_state;
pub mod failure;
pub mod fake_source;
mod fetch;
pub mod health;
pub mod hear;
pub mod heartbeat;
pub mod ledger;
pub mod link;
mod make;
pub mod monitor;
pub mod network;
pub mod observed;
pub mod ops;
pub mod ports;
pub mod reconcile;
pub mod runs;
mod sites;
pub mod source;
pub mod state;
mod tries;
mod unpack;
pub mod view;
pub mod volume;
pub mod wanted;
pub mod worker;
