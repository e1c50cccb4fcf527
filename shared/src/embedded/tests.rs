//! The embedded pool with a real Redis, real processes for keepers, and a shell script for the host.

mod keeper;
mod place;
mod server;
mod yard;
