//! Settings: one table, one precedence, typed values.
//!
//! The library reads no environment and no home: a face collects [`Sources`] and hands them in.
//! Not here: options of single tasks (`domain/options.rs`), what a pool keeps in Redis (`store/config.rs`).

pub mod flags;
mod load;
mod table;
mod value;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use load::{LogFormat, PoolDefaults, Settings, Sources, load};
pub use table::{INTERNAL_VARIABLES, Kind, NOT_BUILT, PREFIX, Row, Scope, TABLE, reference_markdown, row_of};
pub use value::{EFFORTS, MODES, RedisUrl, duration, duration_text};

/// The project that a directory belongs to: the next directory upwards with a `.git` (a directory, or the file of a
/// worktree), else the directory itself. Symbolic links are resolved where that is possible.
#[must_use]
pub fn project_dir(current_dir: &Path) -> PathBuf {
    let real = current_dir.canonicalize().unwrap_or_else(|_| current_dir.to_owned());
    real.ancestors().find(|dir| dir.join(".git").exists()).unwrap_or(&real).to_owned()
}

/// The name under which work is submitted where none is given: `user@machine:project`.
#[must_use]
pub fn default_coordinator(user: &str, machine: &str, project: &Path) -> String {
    format!("{user}@{machine}:{}", project.display())
}
