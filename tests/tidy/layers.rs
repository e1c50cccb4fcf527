//! The layers: what a room must not know of.
//!
//! That a face cannot name the store is the compiler's business: it is private to its crate.

use crate::tree::{below, code_lines, expect_none, read};

const DOMAIN: &str = "shared/src/domain/";
const STORE: &str = "shared/src/store/";

/// The lines of a file that use one of these words.
fn uses(file: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (line, code) in code_lines(&read(file)) {
        found.extend(words.iter().filter(|word| code.contains(**word)).map(|word| format!("{file}:{line}: {word}")));
    }
    found
}

#[test]
fn the_domain_is_pure() {
    let banned = [
        "tokio",
        "redis::",
        "tracing::",
        "uuid::",
        "nix::",
        "futures",
        "std::time",
        "std::env",
        "std::fs",
        "std::process",
        "std::net",
        "std::thread",
        "std::io",
        "SystemTime",
        "Instant",
        "async ",
        ".await",
        "println!",
        "crate::store",
        "crate::pool",
        "crate::embedded",
        "crate::settings",
        "crate::process",
    ];
    expect_none(&below(DOMAIN, ".rs").iter().flat_map(|file| uses(file, &banned)).collect::<Vec<_>>());
}

#[test]
fn the_store_knows_nobody_above_it() {
    let banned = ["crate::pool", "crate::embedded", "crate::settings"];
    // Its tests run on the embedded server.
    let files = below(STORE, ".rs").into_iter().filter(|file| !file.starts_with("shared/src/store/tests/"));
    expect_none(&files.flat_map(|file| uses(&file, &banned)).collect::<Vec<_>>());
}

#[test]
fn redis_is_known_in_the_store_alone() {
    let mut wrong = Vec::new();
    // Tests set a Redis up, break it, and look at it behind the product's back.
    let tests = ["shared/tests/", "tests/"];
    let outside = |file: &&String| !file.starts_with(STORE) && !tests.iter().any(|dir| file.starts_with(dir));
    for file in below("", ".rs").iter().filter(outside) {
        wrong.extend(uses(file, &["redis::", "deadpool"]));
    }
    expect_none(&wrong);
}

#[test]
fn keys_are_spelled_in_one_place() {
    let mut wrong = Vec::new();
    for file in below("", ".rs").into_iter().chain(below("", ".lua")) {
        if file == "shared/src/store/keys.rs" || file.starts_with("tests/") {
            continue;
        }
        for (i, line) in read(&file).lines().enumerate() {
            // With the pool's name left open it is a pattern for people.
            if line.replace("mp:{POOL}", "").contains("mp:{") {
                wrong.push(format!("{file}:{}: a key is spelled out; keys.rs makes them", i + 1));
            }
        }
    }
    expect_none(&wrong);
}

#[test]
fn each_big_dependency_has_one_owner() {
    let owners = [("redis", "shared"), ("deadpool", "shared"), ("rmcp", "dispatcher")];
    let mut wrong = Vec::new();
    for package in ["shared", "dispatcher", "worker", "tests"] {
        let manifest = read(&format!("{package}/Cargo.toml"));
        for (dependency, owner) in owners {
            let named = manifest
                .lines()
                .any(|line| line.strip_prefix(dependency).is_some_and(|rest| rest.starts_with([' ', '.', '='])));
            // Tests look at a Redis behind the product's back.
            if named && package != owner && package != "tests" {
                wrong.push(format!("{package}/Cargo.toml names {dependency}, which belongs to {owner}/"));
            }
        }
    }
    expect_none(&wrong);
}

#[test]
fn unsafe_code_stands_in_modules_about_processes_alone() {
    let mut wrong = Vec::new();
    for file in below("", ".rs") {
        if file.ends_with("/process.rs") || file.contains("/process/") {
            continue;
        }
        wrong.extend(uses(&file, &["unsafe {", "unsafe fn", "allow(unsafe_code"]));
    }
    expect_none(&wrong);
}

#[test]
fn no_test_is_skipped() {
    expect_none(&below("", ".rs").iter().flat_map(|file| uses(file, &["#[ignore"])).collect::<Vec<_>>());
}
