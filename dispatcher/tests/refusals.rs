//! What is wrong in itself ends with exit 2 and a word on what would do, before anything is contacted or started.

mod yard;

use yard::{Ran, Yard, file};

#[track_caller]
fn refused(yard: &Yard, ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    assert_eq!(ran.stdout, "", "{ran:?}");
    for word in words {
        assert!(ran.stderr.contains(word), "{word}: {ran:?}");
    }
    assert!(yard.is_untouched(), "{ran:?}");
}

#[test]
fn a_wrong_command_line_contacts_nobody() {
    let yard = Yard::new();
    let cases: &[(&[&str], &[&str])] = &[
        (&["run", ""], &["the prompt is empty"]),
        (&["submit", " \n"], &["the prompt is empty"]),
        (&["submit", "-"], &["the prompt is empty"]),
        (&["run", "hi", "--modle", "x"], &["--modle", "--model"]),
        (&["run", "hi", "--check", "true"], &["check is not built yet"]),
        (&["submit", "hi", "--touches", "src"], &["touches is not built yet"]),
        (&["run", "hi", "--max-turns", "many"], &["--max-turns", "whole number"]),
        (&["run", "hi", "--max-turns", "0"], &["max_turns", "from 1"]),
        (&["run", "hi", "--effort", "hihg"], &["effort", "did you mean high?"]),
        (&["run", "hi", "--mcp-servers", "{"], &["--mcp-servers", "not JSON"]),
        (&["run", "hi", "--fail-on-denied=maybe"], &["yes or no"]),
        (&["run", "hi", "--timeout", "0"], &["--timeout"]),
        (&["run", "@nowhere.md"], &["cannot read nowhere.md"]),
        (&["submit", "hi", "--slots", "many"], &["--slots", "whole number"]),
        (&["submit", "hi", "--redis-url", "http://x"], &["--redis-url", "redis://"]),
        (&["result", "17"], &["no id", "t17"]),
        (&["list", "--state", "runing"], &["did you mean running?"]),
        (&["list", "--limit", "0"], &["--limit"]),
        (&["up", "--redis-url", "redis://127.0.0.1:1"], &["motorpool-worker host"]),
        (&["frobnicate"], &["frobnicate"]),
    ];
    for (args, words) in cases {
        refused(&yard, &yard.run(args), 2, words);
    }
}

#[test]
fn a_prompt_is_text_of_at_most_a_mebibyte() {
    let yard = Yard::new();
    let large = file(&yard.path("large"), &vec![b'a'; 1024 * 1024 + 1]);
    refused(&yard, &yard.run(&["run", &format!("@{large}")]), 2, &["1048576"]);
    let binary = file(&yard.path("binary"), b"\xff\xfe");
    refused(&yard, &yard.run(&["run", &format!("@{binary}")]), 2, &["UTF-8"]);
}

#[test]
fn wrong_settings_name_their_place() {
    let yard = Yard::new();
    let ran = Ran::of(yard.command(&["list"]).env("MOTORPOOL_SLOT_S", "1").output().expect("it starts"));
    refused(&yard, &ran, 2, &["MOTORPOOL_SLOT_S", "MOTORPOOL_SLOTS"]);
    file(&yard.project().join("motorpool.toml"), b"slotz = 1\n");
    refused(&yard, &yard.run(&["list"]), 2, &["slotz", "motorpool.toml", "did you mean slots?"]);
}

#[test]
fn errors_are_json_where_that_is_asked_for() {
    let yard = Yard::new();
    let ran = yard.run(&["list", "--limit", "0", "--json"]);
    refused(&yard, &ran, 2, &["\"kind\":\"usage\""]);
    assert!(serde_json::from_str::<serde_json::Value>(&ran.stderr).is_ok(), "{ran:?}");
}

#[test]
fn inside_a_run_no_work_is_started() {
    let yard = Yard::new();
    for verb in [&["run", "hi"][..], &["submit", "hi"], &["up"], &["keep"]] {
        let ran = Ran::of(yard.command(verb).env("MOTORPOOL_RUN", "t1").output().expect("it starts"));
        refused(&yard, &ran, 6, &["inside a run", "t1"]);
    }
}

#[test]
fn an_unreachable_redis_says_what_was_tried() {
    let yard = Yard::new();
    for args in [&["run", "hi"][..], &["submit", "hi"], &["status"], &["list"], &["result", "t1", "--wait"]] {
        let args = [args, &["--redis-url", "redis://:geheim@127.0.0.1:1"]].concat();
        let ran = yard.run(&args);
        refused(&yard, &ran, 3, &["127.0.0.1:1", "cannot be reached"]);
        assert!(!ran.stderr.contains("geheim"), "{ran:?}");
    }
}

#[test]
fn down_and_doctor_start_nothing() {
    let yard = Yard::new();
    let down = yard.run(&["down", "--json"]);
    assert_eq!((down.code, down.json()), (Some(0), serde_json::json!({"state": "down", "stopped": false})));
    let doctor = yard.run(&["doctor", "--json"]);
    assert_eq!(doctor.json()["checks"][0]["state"], "ok", "{doctor:?}");
    assert!(yard.is_untouched());
}

#[test]
fn every_help_has_examples_and_fits_eighty_columns() {
    let yard = Yard::new();
    for command in [
        "run",
        "submit",
        "result",
        "cancel",
        "logs",
        "list",
        "show",
        "retry",
        "events",
        "status",
        "scale",
        "slots",
        "config",
        "up",
        "down",
        "doctor",
        "serve",
        "mcp-config",
    ] {
        let ran = yard.run(&[command, "--help"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.stdout.contains(&format!("motorpool {command}")), "{ran:?}");
        assert!(ran.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ran.stdout);
    }
    let help = yard.run(&["--help"]).stdout;
    assert!(!help.contains("keep"), "{help}");
}
