//! What goes into the machine of a run, and what comes out.
//!
//! Values only; times are milliseconds since the claim was sent. Not here: what follows from which (`machine.rs`), who
//! carries it out (`drive.rs`).

use motorpool::pool::Beat;
use motorpool::{ChunkKind, Progress};

use crate::claude::classify::{Classified, Exit};
use crate::claude::event::Event;

/// What bounds a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The lease.
    pub lease_ms: u64,
    /// `timeout_s` of the task.
    pub timeout_ms: Option<u64>,
    /// `idle_timeout_s` of the task.
    pub idle_ms: Option<u64>,
    /// A schema was given.
    pub structured: bool,
}

/// What may happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A line came.
    Event(Event),
    /// Stdout cannot be read on, for this reason.
    Broken(String),
    /// A beat was answered, or will not be.
    Beat {
        /// When it was sent.
        sent_ms: u64,
        /// The answer.
        answer: Beat,
    },
    /// Time has passed.
    Tick,
    /// The task is to be stopped.
    Cancel,
    /// The worker finishes what it has; nothing to do for what it has.
    Drain,
    /// The worker ends now.
    Stop,
    /// The CLI has ended.
    Exited(Exit),
    /// Every process of the run is verified gone, and all that it said has been read.
    Gone {
        /// The tail of stderr.
        stderr: String,
    },
}

/// Live output that waits to be published. What is said in one go is one piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    pieces: Vec<(ChunkKind, String)>,
    bytes: usize,
}

impl Live {
    /// Adds a piece; text goes on where text ended.
    pub fn add(&mut self, kind: ChunkKind, text: &str) {
        self.bytes += text.len();
        match self.pieces.last_mut() {
            Some((last, before)) if *last == kind && kind == ChunkKind::Text => before.push_str(text),
            _ => self.pieces.push((kind, text.to_owned())),
        }
    }

    /// Adds what another one holds.
    pub fn append(&mut self, other: Self) {
        for (kind, text) in other.pieces {
            self.add(kind, &text);
        }
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How much waits.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What waits, oldest first.
    #[must_use]
    pub fn pieces(&self) -> &[(ChunkKind, String)] {
        &self.pieces
    }

    /// Drops the oldest beyond so many bytes.
    pub fn keep_last(&mut self, bytes: usize) {
        while self.bytes > bytes {
            let over = self.bytes - bytes;
            let Some((_, first)) = self.pieces.first_mut() else { return };
            if first.len() <= over {
                self.bytes -= first.len();
                self.pieces.remove(0);
            } else {
                let cut = (over..first.len()).find(|at| first.is_char_boundary(*at)).unwrap_or(first.len());
                first.drain(..cut);
                self.bytes -= cut;
            }
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send a beat; its answer comes as an input.
    Beat(Progress),
    /// Publish live output.
    Output(Live),
    /// Write a line to stdin.
    Answer(String),
    /// Close stdin.
    CloseStdin,
    /// SIGINT to the CLI.
    Interrupt,
    /// SIGTERM to every process of the run.
    Terminate,
    /// SIGKILL to every process of the run until it is gone; then [`Input::Gone`].
    EndTree,
    /// The run is over.
    Finish(Finished),
}

/// How it is over.
#[derive(Clone, Debug, PartialEq)]
pub enum Finished {
    /// With an outcome.
    Outcome(Box<Classified>),
    /// The lease was lost: nothing is to be written.
    Stale,
}
