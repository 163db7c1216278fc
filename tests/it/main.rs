//! The one integration binary: real edges and whole-cluster tests, one module per area.

mod api;
mod build;
mod cli;
mod cluster;
mod config;
mod docker;
mod e2e;
mod install;
mod layering;
mod placement;
mod plans;
mod rig;
mod router;
mod status;
mod store;
mod sync;
mod vikingfile;
mod worker;
