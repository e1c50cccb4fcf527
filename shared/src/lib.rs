//! Motorpool: a farm of Claude Code workers behind a Redis job queue.

pub mod error;

pub use error::{Error, ErrorKind, Result};
