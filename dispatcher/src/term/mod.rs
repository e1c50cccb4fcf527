//! What a command shows: output on stdout, everything else on stderr.
//!
//! A closed stdout ends the output, never the program with a panic. Colours and redrawn lines only on a terminal.
//! Not here: what is said (`cli`).

pub(crate) mod group;
pub(crate) mod live;
pub(crate) mod progress;
pub(crate) mod record;
pub(crate) mod table;
pub(crate) mod time;

use std::io::{self, IsTerminal, Write};

use motorpool::{Error, Result};
use serde::Serialize;

/// The width that everything fits into.
pub(crate) const COLUMNS: usize = 80;

/// Writes to stdout; false once nobody reads it any more.
///
/// # Errors
/// It cannot be written for another reason, such as a full disk.
pub(crate) fn print(text: &str) -> Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::failed(format!("cannot write to stdout: {error}"))),
    }
}

/// Writes a text that ends with exactly the newline it needs.
pub(crate) fn print_text(text: &str) -> Result<bool> {
    if text.is_empty() || text.ends_with('\n') { print(text) } else { print(&format!("{text}\n")) }
}

/// Writes one JSON document on one line.
pub(crate) fn print_json(value: &impl Serialize) -> Result<bool> {
    let text = serde_json::to_string(value)
        .map_err(|error| Error::failed(format!("the answer cannot be written as JSON: {error}")))?;
    print(&format!("{text}\n"))
}

/// Says a line on stderr. Nobody listening is no error.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A Redis that is away while a command goes on: told once, and once when it is back.
#[derive(Default)]
pub(crate) struct Away {
    is_told: bool,
}

impl Away {
    /// It was asked in vain.
    pub(crate) fn is(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.is_told, true) {
            tell(&format!("reconnecting: {}", error.message()));
        }
    }

    /// Whether it was told, and is not over yet.
    pub(crate) fn lasts(&self) -> bool {
        self.is_told
    }

    /// It has answered.
    pub(crate) fn is_over(&mut self) {
        if std::mem::take(&mut self.is_told) {
            tell("connected again");
        }
    }
}

/// Says what went wrong and what to do about it; as JSON where that was asked for.
pub(crate) fn tell_error(error: &Error, json: bool) {
    if json {
        let error = serde_json::json!({
            "error": { "kind": kind(error), "message": error.message(), "hint": error.hint_text() },
            "exit_code": error.kind().exit_code(),
        });
        return tell(&error.to_string());
    }
    tell(&error_text(error.message(), error.hint_text(), has_colour()));
}

fn kind(error: &Error) -> &'static str {
    use motorpool::ErrorKind::{Failed, Redis, Refused, Timeout, Usage};
    match error.kind() {
        Usage => "usage",
        Redis => "redis",
        Timeout => "timeout",
        Refused => "refused",
        Failed => "failed",
    }
}

/// `error: what happened`, and below it what to do.
pub(crate) fn error_text(message: &str, hint: Option<&str>, colour: bool) -> String {
    let head = if colour { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    let hint = hint.map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
    format!("{head} {message}{hint}")
}

/// Whether stderr shows colours.
pub(crate) fn has_colour() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether stderr is a terminal that can redraw a line.
pub(crate) fn is_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// `1 task`, `2 tasks`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
