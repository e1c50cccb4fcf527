//! The real Claude Code as a coordinator's host: `motorpool serve` as its MCP server, against the scripted API.
//!
//! What the protocol says is tested elsewhere; here a host that nobody here has written decides what goes over the wire.

mod config;
mod interactive;
mod print;
mod stop;
mod terminal;
mod within;
mod yard;
