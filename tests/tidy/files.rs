//! Files: what each begins with, that none is forgotten, and that none names a place that is not for everybody.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use crate::tree::{all, below, code_lines, expect_none, read, root};

/// A file beyond this is printed: worth a look, not wrong.
const LINES: usize = 500;
const LUA: &str = "shared/src/store/lua/";

#[test]
fn every_module_says_what_it_is() {
    let wrong: Vec<_> = below("", ".rs").into_iter().filter(|file| !read(file).starts_with("//! ")).collect();
    expect_none(&wrong.iter().map(|file| format!("{file} does not begin with `//! `")).collect::<Vec<_>>());
}

#[test]
fn every_script_has_its_header_in_order() {
    let mut wrong = Vec::new();
    for file in below(LUA, ".lua") {
        let text = read(&file);
        let name = file.rsplit('/').next().unwrap_or_default().trim_end_matches(".lua").to_owned();
        let is_part = file.contains("/parts/");
        let header: Vec<&str> =
            text.lines().take_while(|line| line.starts_with("--") || line.starts_with("#!")).collect();
        let mut wanted = vec![format!("-- {name}: ")];
        if is_part {
            // A part without needs has no `uses`.
            if header.iter().any(|line| line.starts_with("-- uses:")) {
                wanted.push("-- uses:".into());
            }
        } else {
            wanted.insert(0, "#!lua".into());
            wanted.extend(["-- uses:", "-- args:", "-- replies:", "-- events:"].map(String::from));
        }
        let mut lines = header.iter();
        for start in &wanted {
            if !lines.any(|line| line.starts_with(start)) {
                wrong.push(format!("{file}: no line `{start}…` where it belongs"));
            }
        }
        let writes = !is_part && !header.first().is_some_and(|line| line.contains("no-writes"));
        if writes && !text.contains("\n-- writes from here\n") {
            wrong.push(format!("{file}: no line `-- writes from here`"));
        }
    }
    expect_none(&wrong);
}

#[test]
fn every_rust_file_belongs_to_a_crate() {
    let files: BTreeSet<String> = below("", ".rs").into_iter().collect();
    let mut open = Vec::new();
    for package in ["shared", "dispatcher", "worker", "tests"] {
        let targets = ["lib.rs", "main.rs"].map(|name| format!("{package}/src/{name}"));
        open.extend(targets.into_iter().filter(|file| files.contains(file)));
        let manifest = read(&format!("{package}/Cargo.toml"));
        let paths = manifest.lines().filter_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'));
        open.extend(paths.map(|path| format!("{package}/{path}")).filter(|file| files.contains(file)));
        // What cargo finds by itself.
        let mut dirs = vec![format!("{package}/examples"), format!("{package}/benches")];
        if !manifest.contains("autotests = false") {
            dirs.push(format!("{package}/tests"));
        }
        let is_found = |file: &&String| file.rsplit_once('/').is_some_and(|(dir, _)| dirs.iter().any(|one| one == dir));
        open.extend(files.iter().filter(is_found).cloned());
    }
    let roots: BTreeSet<String> = open.iter().cloned().collect();
    let mut known = BTreeSet::new();
    while let Some(file) = open.pop() {
        if !known.insert(file.clone()) {
            continue;
        }
        let (dir, name) = file.rsplit_once('/').unwrap_or(("", &file));
        let own = if roots.contains(&file) || name == "mod.rs" {
            dir.to_owned()
        } else {
            file.trim_end_matches(".rs").to_owned()
        };
        let text = read(&file);
        let mut path: Option<String> = None;
        for ((_, code), line) in code_lines(&text).into_iter().zip(text.lines()) {
            if let Some(given) = line.trim().strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
                path = Some(format!("{dir}/{given}"));
                continue;
            }
            let words: Vec<&str> = code.trim().trim_end_matches(';').split_whitespace().collect();
            let is_module = code.trim().ends_with(';') && words.len() >= 2 && words[words.len() - 2] == "mod";
            if is_module {
                let module = words[words.len() - 1];
                let places = [format!("{own}/{module}.rs"), format!("{own}/{module}/mod.rs")];
                open.extend(path.take().into_iter().chain(places).filter(|place| files.contains(place)));
            }
        }
    }
    let lost: Vec<_> = files.difference(&known).map(|file| format!("{file} is reached by no `mod`")).collect();
    expect_none(&lost);
}

#[test]
fn nothing_is_left_lying_about() {
    let endings = [".orig", ".rej", ".bak", ".swp", "~", ".tmp", ".deb", ".rdb", ".snap.new", ".log"];
    let names = ["package-lock.json", "npm-shrinkwrap.json", ".npmrc", "nohup.out", ".DS_Store"];
    let mut wrong = Vec::new();
    for file in all() {
        let name = file.rsplit('/').next().unwrap_or_default();
        if endings.iter().any(|ending| name.ends_with(ending)) || names.contains(&name) || file == ".cargo/config.toml"
        {
            wrong.push(format!("{file} does not belong here"));
        }
    }
    expect_none(&wrong);
}

#[test]
fn scripts_can_be_executed() {
    let mut wrong = Vec::new();
    for file in all() {
        let Ok(bytes) = std::fs::read(root().join(&file)) else { continue };
        let is_library = file == "deploy/lib.sh";
        if bytes.starts_with(b"#!/") && !is_library {
            let mode = root().join(&file).metadata().map_or(0, |metadata| metadata.permissions().mode());
            if mode & 0o111 == 0 {
                wrong.push(format!("{file} begins with #! and is not executable"));
            }
        }
    }
    expect_none(&wrong);
}

#[test]
fn addresses_are_for_everybody() {
    let known = [
        "127.0.0.1",
        "localhost",
        "HOST",
        "example.com",
        "api.anthropic.com",
        "github.com",
        "nexte.st",
        "keepachangelog.com",
        "semver.org",
        "www.apache.org",
        "json-schema.org",
        "docs.claude.com",
        "code.claude.com",
        "claude.ai",
        "console.anthropic.com",
        "platform.claude.com",
        "support.claude.com",
        "redis.io",
    ];
    let mut wrong = Vec::new();
    for file in all() {
        // Recorded words of the CLI stand as they were said.
        if file.starts_with("tests/transcripts/") || file.starts_with("tests/tidy/") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root().join(&file)) else { continue };
        for (i, line) in text.lines().enumerate() {
            for rest in line.split("http://").skip(1).chain(line.split("https://").skip(1)) {
                let host: String =
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')).collect();
                // `http://{address}`, `http://$HOST` and the like name nobody; a bare word is a made-up one.
                if host.contains('.')
                    && !known.contains(&host.as_str())
                    && !host.ends_with(".example")
                    && !host.ends_with(".example.com")
                {
                    wrong.push(format!("{file}:{}: {host}", i + 1));
                }
            }
        }
    }
    let lock = read("Cargo.lock");
    let sources = lock.lines().filter_map(|line| line.strip_prefix("source = "));
    let public = "\"registry+https://github.com/rust-lang/crates.io-index\"";
    wrong.extend(sources.filter(|source| *source != public).map(|source| format!("Cargo.lock: {source}")));
    expect_none(&wrong);
}

#[test]
fn long_files_are_named() {
    let mut long: Vec<(usize, String)> = all()
        .into_iter()
        .filter(|file| file.ends_with(".rs") || file.ends_with(".lua"))
        .map(|file| (read(&file).lines().count(), file))
        .filter(|(lines, _)| *lines > LINES)
        .collect();
    long.sort();
    for (lines, file) in long.iter().rev() {
        println!("{file} has {lines} lines");
    }
}
