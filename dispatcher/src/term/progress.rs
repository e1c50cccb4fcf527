//! The status line of a command that waits: redrawn on a terminal, plain lines on change elsewhere.
//!
//! Not here: what stands in it (`cli/run.rs`).

use std::io::{self, Write};

use super::table::fit;
use super::{COLUMNS, is_terminal, tell};

/// A status line on stderr.
#[derive(Debug)]
pub(crate) struct Progress {
    redraws: bool,
    shown: String,
    open: bool,
}

impl Progress {
    /// A line for this stderr.
    pub(crate) fn new() -> Self {
        Self { redraws: is_terminal(), shown: String::new(), open: false }
    }

    /// Whether the line is redrawn, so that passing time is worth showing.
    pub(crate) fn is_redrawn(&self) -> bool {
        self.redraws
    }

    /// Shows what stands: a plain line says `lasting` when it changes, a redrawn one `passing` too.
    pub(crate) fn show(&mut self, lasting: &str, passing: &str) {
        if self.redraws {
            let width = terminal_size::terminal_size().map_or(COLUMNS, |(width, _)| usize::from(width.0));
            let line = if passing.is_empty() { lasting.to_owned() } else { format!("{lasting}  {passing}") };
            let mut stderr = io::stderr().lock();
            // One short of the width: a full line would wrap.
            let _ = write!(stderr, "\r\x1b[2K{}", fit(&line, width.min(COLUMNS).saturating_sub(1)));
            let _ = stderr.flush();
            self.open = true;
        } else if lasting != self.shown {
            tell(lasting);
            lasting.clone_into(&mut self.shown);
        }
    }

    /// Says something that stays.
    pub(crate) fn say(&mut self, line: &str) {
        self.clear();
        tell(line);
    }

    /// Takes the line away, so that something else can be written.
    pub(crate) fn clear(&mut self) {
        if self.open {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[2K");
            let _ = stderr.flush();
            self.open = false;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
