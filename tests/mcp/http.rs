//! The HTTP face: who is let in, what a request may be, and that nobody's end is another's.

mod crowd;
mod door;
mod streams;

use std::path::PathBuf;

use motorpool_tests::fleet::Fleet;

/// A token of a length that is taken, one for each name.
fn token(name: &str) -> String {
    format!("{name:->32}")
}

/// A file of tokens with these lines.
fn tokens(fleet: &Fleet, lines: &[String]) -> PathBuf {
    let file = fleet.path("tokens");
    std::fs::write(&file, lines.join("\n")).expect("a file");
    file
}

/// The line that lets somebody in.
fn line(name: &str) -> String {
    format!("{name} {}", token(name))
}
