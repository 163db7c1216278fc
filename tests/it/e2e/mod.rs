//! The real binary on real Docker, real git and a real registry: one module per theme, named for
//! what it promises. A [`world::World`] is one `viking host` of its own beside the others; all that
//! it made is gone when it is dropped. Nothing here looks inside the process: what the API, the
//! command line, Docker and the endpoints say is all a test may know.
//!
//! Needs Docker (`VIKING_TEST_DOCKER`, else `DOCKER_HOST`, else the usual socket), the images of
//! `deploy/base-images.sh`, and a binary built with `--features failpoints`. `tests/run.sh` has all
//! of them.

mod bad;
mod client;
mod commands;
mod crash;
pub(crate) mod docker;
mod drift;
mod example;
mod hosts;
pub(crate) mod http;
mod inside;
mod links;
mod load;
mod plan;
mod proxy;
mod push;
mod registry;
mod remove;
pub(crate) mod repo;
mod router;
mod source;
pub(crate) mod world;
