//! How a run fails: each of the API's refusals under its class, what passes tried again, what does not told.

use motorpool::{Class, State, TaskRecord};
use motorpool_tests::api::FakeApi;
use motorpool_tests::fleet::{Cli, Fleet};
use serde_json::{Value, json};

/// A fleet whose CLI does not retry by itself: that is the queue's part, and the tests'.
async fn fleet() -> Fleet {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.env("CLAUDE_CODE_MAX_RETRIES", "0");
    fleet
}

#[track_caller]
fn failed(record: &TaskRecord, class: Class, status: Option<u16>, message: &str) {
    let error = record.error.as_ref().unwrap_or_else(|| panic!("no error: {record:#?}"));
    assert_eq!(record.state, State::Failed, "{record:#?}");
    assert_eq!((error.class, error.status), (class, status), "{record:#?}");
    assert!(error.message.contains(message), "{message:?} is not in {record:#?}");
    let run = record.runs.last().expect("it ran");
    assert_eq!(run.class, Some(class), "{record:#?}");
    assert!(run.message.as_deref().unwrap_or_default().contains(message), "{record:#?}");
}

#[tokio::test]
async fn what_would_fail_again_fails_at_once_in_the_apis_words() {
    let mut fleet = fleet().await;
    fleet.worker(&[]);
    fleet.worker(&[]);
    let cases: Vec<(&str, Value, Class, Option<u16>, &str)> = vec![
        ("@status 400 tools.0: no such thing", json!({}), Class::Request, Some(400), "tools.0: no such thing"),
        (
            "@status 400 prompt is too long: 300000 tokens > 200000 maximum",
            json!({}),
            Class::Request,
            Some(400),
            "Prompt is too long",
        ),
        ("@status 404", json!({"model": "claude-none"}), Class::Request, Some(404), "claude-none"),
        ("@status 413", json!({}), Class::Request, Some(413), "Request too large"),
        ("@bash pwd\n@bash pwd\n@say no", json!({"max_turns": 1}), Class::Turns, None, "maximum number of turns"),
        ("@usage 100000 100000\n@bash pwd\n@bash pwd", json!({"max_budget_usd": 0.01}), Class::Budget, None, "budget"),
        ("@text-instead", json!({"json_schema": {"type": "object"}}), Class::Check, None, "json_schema"),
    ];
    let mut ids = Vec::new();
    for (prompt, options, ..) in &cases {
        ids.push(fleet.submit(prompt, options.clone()).await);
    }
    for (id, (prompt, _, class, status, message)) in ids.into_iter().zip(cases) {
        let record = fleet.over(id).await;
        eprintln!("{prompt}: {:?}", record.error);
        failed(&record, class, status, message);
        assert_eq!((record.run, record.attempt), (1, 1), "{record:#?}");
        assert!(record.runs[0].charged);
    }
    fleet.end().await;
}

#[tokio::test]
async fn a_limit_of_turns_keeps_what_was_said_and_a_schema_gives_its_json() {
    let mut fleet = fleet().await;
    fleet.worker(&[]);
    let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}});
    let record = fleet.run("@json {\"n\": 7}", json!({"json_schema": schema})).await;
    assert_eq!((record.state, record.structured.clone()), (State::Completed, Some(json!({"n": 7}))), "{record:#?}");
    fleet.end().await;
}

/// Failures that pass: the task is done in the end, and what is charged is what Claude was heard in.
#[tokio::test]
async fn what_passes_is_tried_again_until_it_does() {
    let mut fleet = fleet().await;
    fleet.worker(&[]);
    fleet.worker(&[]);
    let mut cases = Vec::new();
    for status in [429, 500, 503, 529] {
        cases.push((format!("@fail s{status} 1 {status} busy {status}\n@say fine"), format!("busy {status}")));
    }
    cases.push(("@fail twice 2 529\n@say fine".to_owned(), "Overloaded".to_owned()));
    let mut ids = Vec::new();
    for (prompt, _) in &cases {
        ids.push(fleet.submit(prompt, json!({})).await);
    }
    for (id, (prompt, message)) in ids.into_iter().zip(cases) {
        let record = fleet.over(id).await;
        eprintln!("{prompt}: {:#?}", record.runs);
        assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("fine")), "{record:#?}");
        let (last, before) = record.runs.split_last().expect("it ran");
        assert_eq!(last.class, None);
        assert!(!before.is_empty());
        for run in before {
            // Claude had not said a word: that costs no attempt.
            assert_eq!((run.class, run.charged), (Some(Class::Transient), false), "{prompt}: {record:#?}");
            assert!(run.message.as_deref().unwrap_or_default().contains(&message), "{prompt}: {record:#?}");
        }
        assert_eq!(record.attempt, 1);
        assert!(record.error.is_none(), "{record:#?}");
    }
    fleet.end().await;
}

/// What the CLI itself gets over is no failure at all.
#[tokio::test]
async fn two_overloads_in_a_row_are_no_run_of_their_own() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.worker(&[]);
    let record = fleet.run("@fail own 2 529\n@say fine", json!({})).await;
    assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("fine")), "{record:#?}");
    assert_eq!((record.run, record.attempt), (1, 1), "{record:#?}");
    fleet.end().await;
}

#[tokio::test]
async fn a_failure_after_work_was_done_is_charged_until_none_is_left() {
    let mut fleet = fleet().await;
    fleet.worker(&[]);
    let record = fleet.run("@bash pwd\n@status 500 broken inside\n@after 1", json!({"max_attempts": 2})).await;
    failed(&record, Class::Transient, Some(500), "broken inside");
    assert_eq!((record.run, record.attempt), (2, 2), "{record:#?}");
    assert!(record.runs.iter().all(|run| run.charged && run.class == Some(Class::Transient)));
    fleet.end().await;
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_made_good() {
    let mut fleet = fleet().await;
    fleet.worker(&[]);
    // The CLI itself tries once more without a stream.
    let record = fleet.run("@drop once 1\n@say whole again", json!({})).await;
    assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("whole again")), "{record:#?}");
    assert_eq!(record.run, 1, "{record:#?}");
    // When that breaks off too it is the queue's turn; words that were heard make it an attempt.
    let record = fleet.run("@drop twice 2\n@say whole again", json!({})).await;
    assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("whole again")), "{record:#?}");
    eprintln!("{:#?}", record.runs);
    assert_eq!(record.runs[0].class, Some(Class::Transient), "{record:#?}");
    fleet.end().await;
}

#[tokio::test]
async fn an_api_that_is_away_is_waited_for() {
    let mut fleet = fleet().await;
    let port = fleet.api.port();
    // Another port for the fleet's own, so that this one is free.
    fleet.api = FakeApi::start().await;
    fleet.worker(&[]);
    let id = fleet.submit("@say here again", json!({})).await;
    let record = fleet.reaches(id, State::Delayed).await;
    let run = &record.runs[0];
    assert_eq!((run.class, run.charged), (Some(Class::Transient), false), "{record:#?}");
    assert!(run.message.as_deref().unwrap_or_default().contains("onnect"), "{record:#?}");
    fleet.api = FakeApi::serve(port, None).expect("the port is free again");
    let record = fleet.over(id).await;
    assert_eq!((record.output.as_deref(), record.attempt), (Some("here again"), 1), "{record:#?}");
    fleet.end().await;
}

#[tokio::test]
async fn a_task_that_takes_too_long_is_ended_with_what_it_said() {
    let mut fleet = fleet().await;
    fleet.worker(&[]);
    fleet.worker(&[]);
    // The CLI itself may take seconds to begin.
    let options = json!({"timeout_s": 15, "permission_mode": "acceptEdits", "allowed_tools": ["Bash"]});
    let prompt = "@bash setsid bash -c 'echo on > on.txt; sleep 300; true'\n@say no";
    let hangs = fleet.submit(prompt, options.clone()).await;
    // A minute of text.
    let talks = fleet.submit(&format!("@slow 300 200\n@say {}", "word ".repeat(600)), options).await;
    fleet.written("on.txt").await;
    for id in [hangs, talks] {
        let record = fleet.over(id).await;
        failed(&record, Class::Timeout, None, "15 s");
        if id == talks {
            eprintln!("{record:#?}");
            assert!(record.output.as_deref().unwrap_or_default().contains("word"), "{record:#?}");
        }
    }
    assert_eq!(fleet.strays(), Vec::<String>::new());
    fleet.end().await;
}
