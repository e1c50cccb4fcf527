//! The dispatcher as coordinators meet it: over pipes and HTTP, in both eras of the protocol, well and ill meant.
//!
//! Each test starts what it needs and ends it. Not here: the tools' parts without a process (`dispatcher/src/mcp`).

mod away;
mod handover;
mod hostile;
mod http;
mod refusals;
mod resources;
mod snapshot;
mod stop;
mod tasks;
mod tools;
mod typed;
mod whole;

use motorpool::{State, TaskId, TaskRecord};
use motorpool_tests::fleet::Fleet;

/// A prompt whose task runs until somebody lets it go.
fn gated(gate: &str) -> String {
    format!("@bash echo on > {gate}.on; until [ -e {gate} ]; do sleep 0.02; done\n@say let go")
}

/// Waits until such a task is at its gate.
async fn at_gate(fleet: &Fleet, number: u64, gate: &str) -> TaskRecord {
    fleet.written(&format!("{gate}.on")).await;
    fleet.reaches(t(number), State::Running).await
}

/// Lets such a task go.
fn let_go(fleet: &Fleet, gate: &str) {
    std::fs::write(fleet.work.join(gate), "").expect("a file in the working directory");
}

/// The task with this number.
fn t(number: u64) -> TaskId {
    TaskId::new(number)
}
