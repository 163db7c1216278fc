//! The one integration binary: real edges and whole-cluster tests, one module per area.

mod build;
mod docker;
mod plans;
mod status;
mod store;
mod sync;
mod vikingfile;
mod worker;
