//! Sync against real edges: repositories made by git, an https server, sshd, servers that hang or
//! refuse. What a remote can do to us, one promise per test.

mod fetching;
mod hostile;
mod servers;
mod source;
mod trouble;
