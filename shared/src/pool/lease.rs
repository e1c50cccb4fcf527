//! What a worker's seat gives: a [`Lease`], the right to write to one run, and what a beat heard.

use std::time::Duration;

use crate::domain::attempt::History;
use crate::domain::ids::{GroupId, TaskId};
use crate::domain::task::Spec;
use crate::store::attempt::Held;

/// The right to write to one run of a task; `finish` and `step` consume it.
#[derive(Debug)]
pub struct Lease {
    pub(super) held: Box<Held>,
}

impl Lease {
    /// Which task.
    #[must_use]
    pub fn task(&self) -> TaskId {
        self.held.id
    }

    /// Which run of it.
    #[must_use]
    pub fn run(&self) -> u64 {
        self.held.run
    }

    /// What was asked.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.held.spec
    }

    /// The round of review, from 1.
    #[must_use]
    pub fn round(&self) -> u32 {
        self.held.round.parse().unwrap_or(1)
    }

    /// The chain or batch that the task belongs to.
    #[must_use]
    pub fn group(&self) -> Option<GroupId> {
        self.held.group
    }

    /// Of a step that failed: why, for its recovery prompt.
    #[must_use]
    pub fn last_error(&self) -> &str {
        &self.held.last_error
    }

    /// Earlier attempts.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.held.history
    }

    /// How long its worker may be silent.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.held.lease_ms)
    }
}

/// What a claim brought.
#[derive(Debug)]
pub enum Claim {
    /// A run begins.
    Run(Lease),
    /// There is nothing to do.
    Idle,
    /// The account of this worker is at its limit.
    Limited {
        /// How long it lasts yet.
        left: Duration,
        /// In the words of the worker that met it.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

/// What a beat heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Go on.
    Ok,
    /// The task is to be stopped.
    Cancel,
    /// The run is not this worker's any more: end Claude and write nothing.
    Stale,
    /// Redis did not answer in time.
    Unreachable,
}
