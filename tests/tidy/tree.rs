//! The files of the repository, read once a test.

use std::fs;
use std::path::{Path, PathBuf};

/// Directories that are built or fetched, never written.
const NOT_OURS: &[&str] = &[".git", "target", ".cache", ".motorpool", "node_modules"];

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// A file by its path from the root, with `/` between the parts.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file, by its path from the root, sorted.
pub(crate) fn all() -> Vec<String> {
    let root = root();
    let (mut files, mut dirs) = (Vec::new(), vec![root.clone()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let entry = entry.expect("an entry of a directory");
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() {
                if !NOT_OURS.contains(&name.as_str()) {
                    dirs.push(entry.path());
                }
            } else if name != ".git" && name != ".env" {
                let path = entry.path();
                let path = path.strip_prefix(&root).expect("it lies below the root");
                files.push(path.to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    files
}

/// The files with this ending below a directory.
pub(crate) fn below(dir: &str, ending: &str) -> Vec<String> {
    all().into_iter().filter(|file| file.starts_with(dir) && file.ends_with(ending)).collect()
}

/// Fails with everything that is wrong.
#[track_caller]
pub(crate) fn expect_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The lines of Rust code with their numbers: without comments and without texts, so that a word in a message is no
/// use of the thing.
pub(crate) fn code_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut in_text = false;
    for (i, line) in text.lines().enumerate() {
        let mut code = String::new();
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if in_text => drop(chars.next()),
                // '"' as a character.
                '\'' if !in_text && chars.peek() == Some(&'"') => drop((chars.next(), chars.next())),
                '"' => in_text = !in_text,
                _ if in_text => {}
                '/' if chars.peek() == Some(&'/') => break,
                _ => code.push(c),
            }
        }
        lines.push((i + 1, code));
    }
    lines
}
