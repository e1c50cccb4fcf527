//! The log files of a pool: appended to, bounded, and quoted in errors.
//!
//! A log is bounded where it is opened, so a program that runs on writes into what it has.
//! Not here: Motorpool's own log lines (`telemetry.rs`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Error, Result};

/// A log that is larger than this when it is opened begins anew.
const BYTES_MAX: u64 = 10 * 1024 * 1024;

/// How much of a log's end an error may quote.
const QUOTE_BYTES_MAX: u64 = 4096;
const QUOTE_LINES_MAX: usize = 5;

/// Opens a log to append to it.
pub(super) fn open(file: &Path) -> Result<File> {
    let failed = |error: io::Error| Error::failed(format!("cannot write {}: {error}", file.display()));
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(file).map_err(failed)?;
    if log.metadata().map_err(failed)?.len() > BYTES_MAX {
        log.set_len(0).map_err(failed)?;
    }
    Ok(log)
}

/// How long a log is; 0 if there is none.
pub(super) fn length(file: &Path) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

/// The last lines that were written after the first `from` bytes, without what Redis puts before its words.
pub(super) fn last_lines(file: &Path, from: u64) -> String {
    let Ok(mut log) = File::open(file) else { return String::new() };
    let end = length(file);
    let from = if end < from { 0 } else { from };
    let mut bytes = Vec::new();
    let start = from.max(end.saturating_sub(QUOTE_BYTES_MAX));
    if log.seek(SeekFrom::Start(start)).and_then(|_| log.read_to_end(&mut bytes)).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(words).filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(QUOTE_LINES_MAX)..].join("\n")
}

/// `4711:M 01 Jan 2025 10:00:00.000 # words`: the words alone.
fn words(line: &str) -> &str {
    // An error of ours is quoted in another one.
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let head = |at: usize| line[..at].contains(':') && line[..at].starts_with(|c: char| c.is_ascii_digit());
    for mark in [" # ", " * ", " - ", " . "] {
        if let Some(at) = line.find(mark)
            && at < 50
            && head(at)
        {
            return &line[at + mark.len()..];
        }
    }
    line
}
