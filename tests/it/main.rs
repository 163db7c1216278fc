//! The one integration binary: real edges and whole-cluster tests, one module per area.

mod store;
mod vikingfile;
