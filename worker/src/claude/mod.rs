//! The Claude Code CLI: how it is found, called, understood and judged.
//!
//! Nothing here waits on a running attempt; `probe` alone starts a process. Not here: driving one (`attempt`).

pub mod classify;
pub mod command;
pub mod cost;
pub mod event;
pub mod mcp;
pub mod probe;
