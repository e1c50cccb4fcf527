//! Motorpool: a farm of Claude Code workers behind a Redis job queue.

pub mod embedded;
pub mod error;
pub mod process;
pub mod settings;

pub use error::{Error, ErrorKind, Result};
