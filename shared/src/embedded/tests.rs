//! The embedded pool with a real Redis.

mod server;
