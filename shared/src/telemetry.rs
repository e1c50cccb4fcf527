//! Logs: lines on standard error, as text or JSON, by a filter. Never the interface.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::error::{Error, Result};
use crate::settings::LogFormat;

/// Under this name it is logged that Redis is away, and that it is back: a program that tells so by itself leaves it out.
pub const CONTACT: &str = "motorpool::contact";

/// Starts logging, once a process. `filter` is a level, or a filter as in `motorpool=debug`.
///
/// # Errors
/// A filter that cannot be read.
pub fn init(filter: &str, format: LogFormat, color: bool) -> Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Error::usage(format!("--log {filter:?}: {error}"))
            .hint("give a level (error, warn, info, debug) or motorpool=debug")
    })?;
    let color = color && std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second start is a test's; the first one stands.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(color).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}
