//! Workers as the pool sees them: presence and fitness. What tasks wait for is in `waits.rs`.

use super::attempt::Class;
use super::lane::Lane;

/// A worker's own word that it cannot work now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// Whose fault: `auth`, `limit`, or `internal` (no CLI).
    pub class: Class,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Until when, where that is known: milliseconds since 1970.
    pub until_ms: Option<u64>,
}

/// A worker as its presence tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// One process start.
    pub id: String,
    /// The slot that it fills; empty where it is of a version that knows none.
    pub slot: String,
    /// The machine.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// The CLI's version, where one was found.
    pub claude: Option<String>,
    /// The lanes it serves, in its order.
    pub lanes: Vec<String>,
    /// What it has, as tasks may need it.
    pub labels: Vec<String>,
    /// Whose account its Claude uses, as a hash, where that can be told.
    pub account: Option<String>,
    /// Why it claims nothing, where it does not.
    pub unfit: Option<Unfit>,
    /// Finishes what it has and claims no more.
    pub draining: bool,
    /// The task it runs.
    pub task: Option<String>,
    /// Milliseconds since it was last heard.
    pub silent_ms: u64,
    /// Tasks it finished.
    pub done: u64,
}

impl Worker {
    /// Whether it could take a task of this lane, now or when it is free.
    #[must_use]
    pub fn serves(&self, lane: &str) -> bool {
        !self.draining && Lane::parse(lane).is_served_by(&self.lanes, &self.labels)
    }
}
