//! The embedded pool: a private Redis and a host for one project, kept while somebody needs them.
//!
//! Nobody owns it. A keeper holds it together and may be replaced at any instant; locks in the pool's directory, which
//! end with the processes that hold them, say who is there. There is at most one server per pool.
//!
//! | lock | held by | means |
//! |---|---|---|
//! | `keeper.lock` | the keeper | `keeper.json` is true |
//! | `server.lock` | the keeper and its server, which inherits it | no other server may start |
//! | `host.lock` | the host, whatever keeper started it | `host.json` is true |
//! | `users.lock` | shared: dispatchers and commands; alone: a keeper that ends the pool | who needs the pool |
//! | `closing.lock` | a keeper that ends the pool | do not join, wait |
//! | `start.lock` | who is just starting a keeper | do not start another |
//!
//! The file `ended` says that the pool was ended on purpose: nobody brings it back but who has new work.
//! Not here: what a pool does with its Redis (`store/`, `pool/`), how a host keeps its workers (`worker/src/host`).

mod event;
mod host;
mod join;
mod keeper;
mod lock;
mod log;
mod place;
mod record;
mod server;

#[cfg(test)]
mod tests;

pub use event::{End, Event, KeepOptions};
pub use join::{Ensured, Joined, Presence, Starter, find, join, stop};
pub use keeper::keep;
pub(crate) use lock::Lock;
pub use place::Place;
pub use record::{KeeperRecord, keeper_of};
pub use server::{Ping, Server, ServerOptions, ping, socket_url};
