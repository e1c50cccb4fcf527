//! The dispatcher as coordinators meet it: over pipes and HTTP, in both eras of the protocol, well and ill meant.
//!
//! Each test starts what it needs and ends it. Not here: the tools' parts without a process (`dispatcher/src/mcp`).

mod handover;
mod http;
mod refusals;
mod stop;
mod tasks;
mod tools;
mod typed;

use motorpool::TaskId;
use motorpool_tests::fleet::Fleet;

/// A prompt whose task runs until somebody lets it go.
fn gated(gate: &str) -> String {
    format!("@bash until [ -e {gate} ]; do sleep 0.02; done\n@say let go")
}

/// Lets such a task go.
fn let_go(fleet: &Fleet, gate: &str) {
    std::fs::write(fleet.work.join(gate), "").expect("a file in the working directory");
}

/// The task with this number.
fn t(number: u64) -> TaskId {
    TaskId::new(number)
}
