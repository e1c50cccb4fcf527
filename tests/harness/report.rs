//! What a long run has measured: rows of the tables that `tests/run --long` prints at its end.

use std::io::Write;

/// Says a row on standard error, and adds it to the file that `TEST_REPORT` names, if it names one; the heads of the
/// tables are written by `tests/run`.
///
/// # Panics
/// The file cannot be written.
pub fn row(cells: &[&str]) {
    row_of("TEST_REPORT", cells);
}

/// The same for a table of its own, in the file that this variable names.
///
/// # Panics
/// The file cannot be written.
pub fn row_of(table: &str, cells: &[&str]) {
    let row = format!("| {} |\n", cells.join(" | "));
    eprint!("{row}");
    if let Some(path) = std::env::var_os(table) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        // In one piece: tests write at the same time.
        file.and_then(|mut file| file.write_all(row.as_bytes()))
            .unwrap_or_else(|error| panic!("{table}={}: {error}", path.display()));
    }
}
