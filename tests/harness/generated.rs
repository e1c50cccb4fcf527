//! Files of the repository that are written by a program, and checked to be what it would write today.

use std::path::Path;

/// Compares a file with what it has to hold; `UPDATE=1` writes it anew.
///
/// # Panics
/// It is stale.
#[track_caller]
pub fn expect_fresh(file: &str, wanted: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository");
    let path = root.join(file);
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        std::fs::write(&path, wanted).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{file} is stale; UPDATE=1 ./tests/run writes it anew");
}
