//! Motorpool's worker: runs one task at a time with the Claude Code CLI of its machine.
//!
//! A library so that tests reach its parts; the program is `main.rs`. Not here: the queue (`motorpool::pool`).

pub mod attempt;
pub mod claude;
pub mod disk;
mod fitness;
pub mod host;
mod parked;
pub mod process;
mod prompt;
mod route;
mod run;
mod session;
pub mod slot;
pub mod stop;
pub mod workplace;
