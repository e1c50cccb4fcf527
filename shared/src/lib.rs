//! Motorpool: a farm of Claude Code workers behind a Redis job queue.

pub mod domain;
pub mod error;
pub mod process;

pub use error::{Error, ErrorKind, Result};
