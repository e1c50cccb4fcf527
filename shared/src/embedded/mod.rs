//! The embedded pool: a private Redis and a host for one project, kept while somebody needs them.
//!
//! Nobody owns it. A keeper holds it together and may be replaced at any instant; locks in the pool's directory, which
//! end with the processes that hold them, say who is there. There is at most one server per pool.
//! Not here: what a pool does with its Redis (`store/`, `pool/`), how a host keeps its workers (`worker/src/host`).

#![allow(dead_code, reason = "the keeper comes next")]

mod lock;
mod log;
mod place;
mod server;

#[cfg(test)]
mod tests;

pub use place::Place;
pub use server::{Ping, Server, ServerOptions, ping, socket_url};
