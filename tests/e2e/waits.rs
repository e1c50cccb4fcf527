//! `status` names what everything waits for that does not run.

use motorpool::State;
use motorpool_tests::fleet::{Cli, Fleet};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A task that goes on until the test lets it.
const UNTIL_GO: &str = "@bash until [ -e go ]; do sleep 0.05; done\n@say went";

/// The group of this lane and state, once it is there for this reason.
async fn group(fleet: &Fleet, state: &str, lane: Option<&str>, why: &str) -> Value {
    fleet
        .until(&format!("{state} in {lane:?} for {why}"), async |fleet| {
            let status = fleet.motorpool_json(&["status"]).await;
            let groups = status["waits"].as_array().expect("a list").clone();
            groups.into_iter().find(|one| {
                (one["state"].as_str(), one["lane"].as_str(), one["why"].as_str()) == (Some(state), lane, Some(why))
            })
        })
        .await
}

#[tokio::test]
async fn status_names_what_everything_waits_for() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    for lane in ["busy", "limit", "bad", "free"] {
        fleet.joined(&["--lanes", lane, "--account", lane]).await;
    }
    let leaving = fleet.joined(&["--lanes", "leaving"]).await;
    fleet.env("FAKE_CLAUDE_SIGNED_OUT", "1");
    fleet.env_remove("ANTHROPIC_API_KEY");
    fleet.joined(&["--lanes", "out"]).await;
    let runs = fleet.submit(UNTIL_GO, json!({"lane": "busy"})).await;
    let left = fleet.submit(UNTIL_GO, json!({"lane": "leaving"})).await;
    let spent = "@status 400 You have reached your specified API usage limits. You will regain access on 2099-01-01.";
    for (prompt, options) in [
        ("@say no", json!({"lane": "busy"})),
        ("@say no", json!({"lane": "busy"})),
        ("@say no", json!({"lane": "nobody"})),
        ("@say no", json!({"lane": "out"})),
        (spent, json!({"lane": "limit"})),
        ("@status 529 Overloaded", json!({"lane": "bad", "max_attempts": 20})),
        ("@say judge me", json!({"lane": "free", "review": true})),
        ("@say later", json!({"lane": "free", "delay_s": 3600})),
        ("@say then", json!({"lane": "free", "after": [runs.to_string()]})),
    ] {
        fleet.submit(prompt, options).await;
    }
    for id in [runs, left] {
        fleet.reaches(id, State::Running).await;
    }
    fleet.kill(leaving, Signal::SIGTERM);
    fleet.worker_is(leaving, "leaving", |worker| worker.draining).await;
    fleet.submit("@say no", json!({"lane": "leaving"})).await;

    let busy = group(&fleet, "pending", Some("busy"), "busy").await;
    assert_eq!((busy["count"].as_u64(), busy["until"].is_null()), (Some(2), true), "{busy}");
    group(&fleet, "pending", Some("nobody"), "no_worker").await;
    group(&fleet, "pending", Some("leaving"), "draining").await;
    let out = group(&fleet, "pending", Some("out"), "unfit").await;
    assert!(out["what"].as_str().is_some_and(|what| what.contains("auth: Claude Code is not signed in")), "{out}");
    let limit = group(&fleet, "pending", Some("limit"), "limit").await;
    assert!(limit["until"].is_string() && limit["account"] == "name:limit", "{limit}");
    let back_off = group(&fleet, "delayed", None, "back_off").await;
    assert!(back_off["what"].as_str().is_some_and(|what| what.contains("Overloaded")), "{back_off}");
    assert!(back_off["until"].is_string(), "{back_off}");
    let asked = group(&fleet, "delayed", None, "delay").await;
    assert_eq!((asked["count"].as_u64(), asked["until"].is_string()), (Some(1), true), "{asked}");
    group(&fleet, "pending_review", None, "review").await;
    let follows = group(&fleet, "waiting", None, "tasks").await;
    assert_eq!(follows["on"], json!([{"id": runs.to_string(), "state": "running"}]), "{follows}");

    let text = fleet.motorpool(&["status"]).await.out;
    let says = [
        "2 tasks in lane busy: a free worker: the only one is busy",
        "1 task in lane nobody: a worker: none that lives serves the lane",
        "1 task in lane limit: a fit worker, until 20",
        "limit of account name:limit",
        "a time that was asked for, the first 20",
        "a judgement (approve, reject)",
        &format!(": {runs} (running)"),
    ];
    for words in says {
        assert!(text.contains(words), "{words}\n{text}");
    }
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    fleet.end().await;
}

mod long {
    use std::time::Instant;

    use motorpool::{Spec, TaskOptions};

    use super::*;

    /// A look stays a look, however much waits.
    #[tokio::test]
    async fn a_look_at_a_hundred_thousand_tasks_is_quick() {
        let fleet = Fleet::new(Cli::StandIn).await;
        for (count, options) in [
            (60, json!({"lane": "a"})),
            (20, json!({"delay_s": 3600})),
            (15, json!({"lane": "b", "queue_timeout_s": 3600})),
            (5, json!({"after": ["t1"]})),
        ] {
            let options = TaskOptions::from_json(options.as_object().expect("an object")).expect("options");
            for _ in 0..count {
                let specs = (0..1000).map(|_| Spec::new("@say x", options.clone()).expect("a task")).collect();
                fleet.pool.submit_all(specs).await.expect("they are taken");
            }
        }
        let mut took: Vec<u128> = Vec::new();
        for _ in 0..11 {
            let began = Instant::now();
            let status = fleet.pool.status().await.expect("the pool answers");
            took.push(began.elapsed().as_millis());
            let waits = |state| status.waits.iter().filter(|one| one.state == state).map(|one| one.count).sum::<u64>();
            assert_eq!((waits(State::Pending), waits(State::Delayed), waits(State::Waiting)), (75_000, 20_000, 5_000));
        }
        took.sort_unstable();
        eprintln!("looks in ms: {took:?}");
        assert!(took[5] < 50, "{took:?}");
    }
}
