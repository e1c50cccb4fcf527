//! The project's own pool from the command line: started once, joined by all, ended by `down`.

mod yard;

use std::process::Stdio;

use yard::{Ran, Yard};

#[test]
fn the_first_command_starts_the_pool_and_the_next_join_it() {
    let yard = Yard::new();
    let first = yard.run(&["submit", "count the lines", "--tags", "a"]);
    assert_eq!((first.code, first.stdout.as_str()), (Some(0), "t1\n"), "{first:?}");
    assert!(first.stderr.contains("starting a pool for") && first.stderr.contains("0 workers"), "{first:?}");
    assert!(first.stderr.contains("t1 in plan mode"), "{first:?}");
    let second = yard.run(&["submit", "again", "--json", "--permission-mode", "acceptEdits", "--lane", "big"]);
    let answer = second.json();
    assert_eq!((&answer["id"], &answer["state"]), (&"t2".into(), &"pending".into()), "{second:?}");
    assert_eq!(answer["permission_mode"], "acceptEdits");
    assert!(answer["warning"].as_str().is_some_and(|words| words.contains("lane big")), "{answer}");
    assert!(!second.stderr.contains("starting"), "{second:?}");

    let list = yard.run(&["list", "--json", "--limit", "1"]).json();
    assert_eq!((&list["items"][0]["id"], &list["cursor"]), (&"t2".into(), &"t2".into()), "{list}");
    let rest = yard.run(&["list", "--json", "--cursor", "t2"]).json();
    assert_eq!((&rest["items"][0]["id"], &rest["cursor"]), (&"t1".into(), &serde_json::Value::Null), "{rest}");
    assert_eq!(yard.run(&["list", "--json", "--tag", "a"]).json()["items"].as_array().map(Vec::len), Some(1));
    let status = yard.run(&["status", "--json"]).json();
    assert_eq!((&status["tasks"]["pending"], &status["slots"]), (&2.into(), &serde_json::json!([])), "{status}");
    assert_eq!(status["stuck"].as_array().map(Vec::len), Some(2), "{status}");
    let shown = yard.run(&["show", "t1"]).stdout;
    assert!(shown.contains("count the lines") && shown.contains("pending"), "{shown}");

    assert_eq!(yard.run(&["result", "t1"]).code, Some(0));
    let waited = yard.run(&["result", "t1", "--wait", "--timeout", "100ms"]);
    assert_eq!(waited.code, Some(4), "{waited:?}");
    assert_eq!(yard.run(&["result", "t99"]).code, Some(6));
    assert_eq!(yard.run(&["cancel", "t1", "--reason", "not needed"]).code, Some(0));
    let cancelled = yard.run(&["result", "t1", "--json"]);
    assert_eq!((cancelled.code, &cancelled.json()["state"]), (Some(5), &"cancelled".into()), "{cancelled:?}");
    assert_eq!(cancelled.json()["reason"], "not needed");

    // What is unfinished survives the pool.
    assert_eq!(yard.run(&["down"]).code, Some(0));
    assert_eq!(yard.run(&["list", "--json"]).json()["items"].as_array().map(Vec::len), Some(2));
}

#[test]
fn two_commands_at_once_have_one_server() {
    let yard = Yard::new();
    let start =
        || yard.command(&["submit", "hi"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let both: Vec<Ran> =
        [start(), start()].into_iter().map(|child| Ran::of(child.wait_with_output().expect("it ends"))).collect();
    let mut ids: Vec<&str> = both.iter().map(|ran| ran.stdout.trim()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["t1", "t2"], "{both:?}");
}

#[test]
fn a_pool_without_the_workers_program_serves_but_runs_nothing() {
    let yard = Yard::new();
    // Elsewhere, so that no worker lies beside it.
    let alone = yard.path("motorpool");
    std::fs::copy(yard::BINARY, &alone).expect("a copy of the binary");
    let run = |args: &[&str]| {
        let mut command = yard.program(&alone, args);
        Ran::of(command.env("MOTORPOOL_SLOTS", "1").output().expect("it starts"))
    };
    let ran = run(&["run", "hi"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("motorpool-worker") && yard.is_untouched(), "{ran:?}");
    assert_eq!(run(&["submit", "hi"]).code, Some(0));
    assert_eq!(run(&["status"]).code, Some(0));
}

#[test]
fn up_in_the_background_is_idempotent() {
    let yard = Yard::new();
    let first = yard.run(&["up", "--detach", "--json", "--model", "sonnet"]);
    assert_eq!((first.code, &first.json()["started"]), (Some(0), &true.into()), "{first:?}");
    let second = yard.run(&["up", "--detach", "--json"]);
    assert_eq!((second.code, &second.json()["started"]), (Some(0), &false.into()), "{second:?}");
    // What is not so is said, and not taken for granted.
    for other in [&["up", "--detach", "--slots", "5"][..], &["up"]] {
        let refused = yard.run(other);
        assert_eq!(refused.code, Some(6), "{other:?}: {refused:?}");
        assert!(refused.stderr.contains("ends 10m after its last use"), "{refused:?}");
        assert!(refused.stderr.contains("motorpool down"), "{refused:?}");
    }
    for (flags, told) in [(&["--slots", "5"][..], true), (&["--linger", "10m"], false), (&[], false)] {
        let listed = yard.run(&[&["list"], flags].concat());
        assert_eq!((listed.code, listed.stderr.contains("runs already, without --slots=5")), (Some(0), told));
    }
    let down = yard.run(&["down"]);
    assert_eq!(down.code, Some(0), "{down:?}");
    assert!(yard.run(&["down"]).stderr.contains("no pool runs"));
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let yard = Yard::new();
    for _ in 0..3 {
        assert_eq!(yard.run(&["submit", "hi"]).code, Some(0));
    }
    let mut child = yard
        .command(&["status", "--watch", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let ran = Ran::of(child.wait_with_output().expect("it ends"));
    assert_eq!((ran.code, ran.stderr.contains("panic")), (Some(0), false), "{ran:?}");
}
