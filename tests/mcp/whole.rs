//! Chains and fan-outs through the tools: many items in one call, what failed by name, and a chain that needs nobody.

use std::collections::BTreeSet;

use motorpool::pool::{Claim, Seat};
use motorpool::{Class, Ending, Failure, Outcome, Pool, Presence, Report, State};
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::ERAS;
use motorpool_tests::mcp::stdio::Coordinator;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{gated, let_go, t};

/// Works as its prompts say until nothing is left: `fail WHY`, `deny TOOL`, else the prompt is the answer.
async fn answer_all(pool: &Pool, lanes: &[&str]) {
    let lanes: Vec<String> = lanes.iter().map(|lane| (*lane).to_owned()).collect();
    let presence = || Presence { host: "h".into(), lanes: lanes.clone(), ..Presence::default() };
    let mut seat = Seat::join(pool, presence()).await.unwrap();
    loop {
        let Claim::Run(lease) = seat.claim(None).await.unwrap() else { break };
        let prompt = lease.spec().prompt.clone();
        if prompt == "lose" {
            // As if its worker had died: another process goes on.
            seat = Seat::join(pool, presence()).await.unwrap();
            continue;
        }
        let (ending, denied) = match prompt.split_once(' ') {
            Some(("fail", why)) => (Ending::Failed(Failure::new(Class::Request, why)), vec![]),
            Some(("deny", tool)) => (Ending::Success, vec![tool.to_owned()]),
            _ => (Ending::Success, vec![]),
        };
        let report = Report { output: Some(prompt), spoke: true, denied, ..Report::default() };
        seat.finish(lease, &Outcome { report, ending, retry_after_ms: None }).await.unwrap();
    }
    seat.leave().await;
}

/// The ids that a text names, ranges as all that is in them.
fn named(text: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
        let number = |id: &str| id.strip_prefix('t').and_then(|digits| digits.parse::<u64>().ok());
        match word.split_once('-') {
            Some((from, to)) => {
                if let (Some(from), Some(to)) = (number(from), number(to)) {
                    ids.extend((from..=to).map(|n| format!("t{n}")));
                }
            }
            None => ids.extend(number(word).map(|n| format!("t{n}"))),
        }
    }
    ids
}

#[tokio::test]
async fn a_thousand_items_go_in_one_call_and_what_went_wrong_is_named_in_a_short_answer() {
    let fleet = Fleet::with_lease(Cli::StandIn, 2).await;
    let it = Coordinator::start(&fleet, ERAS[0], &["--coordinator=ann"]).await;
    let item = |n: usize| match n {
        _ if n % 50 == 7 => json!(format!("fail reason {n}")),
        500 => json!({"prompt": "lose", "max_attempts": 1}),
        _ if n % 100 == 9 => json!("deny Write"),
        _ if n % 200 == 11 => json!({"prompt": "never", "lane": "nobody"}),
        _ => json!(format!("item {n}")),
    };
    let items: Vec<Value> = (1..=1000).map(item).collect();
    let told = it.call("pool_fan_out", json!({"items": items, "wait_s": 0})).await.good();
    let told: Value = serde_json::from_str(&told).unwrap();
    let ids: Vec<String> = (1..=1000).map(|n| format!("t{n}")).collect();
    assert_eq!((&told["id"], &told["items"]), (&json!("b1"), &json!(ids)), "in input order");
    answer_all(&fleet.pool, &["default"]).await;
    assert_eq!(fleet.pool.wait(t(500), None).await.unwrap().error.map(|error| error.class), Some(Class::Lost));
    // Those of the lane that nobody serves are cancelled; what is done is kept.
    let cancelled = it.call("pool_cancel", json!({"ids": ["b1"], "reason": "enough"})).await.good();
    assert!(cancelled.contains("b1 failed"), "{cancelled}");
    let news = it.call("pool_wait", json!({"wait_s": 60})).await;
    let text = news.bad();
    assert!(text.len() / 4 < 3_000 && text.chars().count() <= 8_000, "{} characters", text.chars().count());
    assert!(text.starts_with("b1 failed, 10 calls denied ("), "{text}");
    assert!(text.contains("1000 items: 974 completed, 21 failed, 5 cancelled"), "{text}");
    let names = named(&text);
    for n in (1..=1000).filter(|n| *n == 500 || n % 50 == 7 || n % 200 == 11 || n % 100 == 9) {
        assert!(names.contains(&format!("t{n}")), "t{n} is not named: {text}");
    }
    assert!(text.contains("request: reason 57") && text.contains("cancelled: enough"), "{text}");
    assert!(text.contains("\nitem 1\n") && text.find("\nitem 1\n") < text.find("\nitem 2\n"), "{text}");
    let json = it.call("pool_result", json!({"ids": ["b1"]})).await.bad();
    assert!(json.chars().count() <= 8_000, "{}", json.chars().count());
    let json: Value = serde_json::from_str(&json).unwrap();
    let failures = named(&json["failures"].to_string());
    assert!((1..=1000).filter(|n| n % 50 == 7).all(|n| failures.contains(&format!("t{n}"))), "{json}");
    it.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn fifty_chains_of_five_are_one_batch() {
    let fleet = Fleet::new(Cli::StandIn).await;
    let it = Coordinator::start(&fleet, ERAS[1], &["--coordinator=ann"]).await;
    let chain = |n: usize| {
        let steps: Vec<String> =
            (1..=5).map(|k| if (n, k) == (7, 3) { "fail here".into() } else { format!("{n}.{k}") }).collect();
        json!({"steps": steps})
    };
    let items: Vec<Value> = (1..=50).map(chain).collect();
    it.call("pool_fan_out", json!({"items": items, "wait_s": 0})).await.good();
    answer_all(&fleet.pool, &["default"]).await;
    let news = it.call("pool_wait", json!({"wait_s": 60})).await.bad();
    assert!(news.starts_with("b1 failed, 50 items: 49 completed, 1 failed"), "{news}");
    assert!(news.contains("c7 failed: step-3 (t33) failed: here"), "{news}");
    assert!(news.contains("\n1.5\n") && !news.contains("\n1.4\n"), "the output of a chain is its last step's: {news}");
    let nothing = it.call("pool_wait", json!({})).await.good();
    assert!(nothing.starts_with("nothing is new"), "members are no news of their own: {nothing}");
    let steps = fleet.pool.group_view("c7".parse().unwrap()).await.unwrap();
    let runs: Vec<u64> = steps.tasks().map(|record| record.run).collect();
    assert_eq!(runs, [1, 1, 1, 0, 0]);
    it.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn a_chain_goes_on_without_any_dispatcher_and_a_dead_worker_repeats_its_step_alone() {
    for era in ERAS {
        let mut fleet = Fleet::with_lease(Cli::StandIn, 6).await;
        let worker = fleet.joined(&["--allow-mode=acceptEdits"]).await;
        let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
        let steps = json!([
            {"name": "one", "prompt": "@say 1"},
            {"name": "two", "prompt": gated("two")},
            {"name": "three", "prompt": "@say {previous_output} 3"},
            {"name": "four", "prompt": format!("{}{{previous_output}} 4", gated("four").replace("let go", ""))},
        ]);
        let arguments = json!({"steps": steps, "permission_mode": "acceptEdits", "wait_s": 600});
        it.begin("pool_chain", arguments).await;
        fleet.written("two.on").await;
        it.killed().await;
        fleet.kill(worker, Signal::SIGKILL);
        std::fs::remove_file(fleet.work.join("two.on")).unwrap();
        fleet.joined(&["--allow-mode=acceptEdits"]).await;
        fleet.written("two.on").await;
        let_go(&fleet, "two");
        fleet.written("four.on").await;
        // Nobody has asked for anything since the first step.
        let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
        let_go(&fleet, "four");
        let news = it.call("pool_wait", json!({"wait_s": 60})).await.good();
        assert!(news.starts_with("c1 completed, 4 steps") && news.contains("let go 3 4"), "{news}\n{}", fleet.logs());
        let view = fleet.pool.group_view("c1".parse().unwrap()).await.unwrap();
        let runs: Vec<u64> = view.tasks().map(|record| record.run).collect();
        assert_eq!(runs, [1, 2, 1, 1], "{}", fleet.logs());
        it.end().await;
        fleet.end().await;
    }
}

#[tokio::test]
async fn a_chain_is_found_again_by_the_call_that_made_it_and_stopped_with_it() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let it = Coordinator::start(&fleet, ERAS[0], &["--coordinator=ann"]).await;
    let steps = json!([gated("go"), "@say after"]);
    let first = it.call("pool_chain", json!({"steps": steps, "wait_s": 0, "once": "k"})).await.good();
    assert!(first.starts_with("c1 is still "), "{first}");
    let again = it.call("pool_submit_chain", json!({"steps": steps, "once": "k"})).await.good();
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&again["id"], &again["created"]), (&json!("c1"), &json!(false)));
    fleet.written("go.on").await;
    let shown = it.call("pool_chain_result", json!({"id": "c1"})).await.good();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["state"], &shown["steps"][1]["state"]), (&json!("running"), &json!("waiting")));
    assert!(shown["progress"].as_str().unwrap().contains("step 1 of 2 (step-1) running"), "{shown}");
    let stopped = it.call("pool_cancel", json!({"ids": ["c1"]})).await.good();
    assert!(stopped.starts_with("c1 cancelled, step 1 of 2"), "{stopped}");
    assert!(fleet.claudes().is_empty());
    assert_eq!(fleet.over(t(2)).await.state, State::Cancelled);
    it.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn a_rejected_result_comes_back_through_the_tools_in_its_round() {
    let fleet = Fleet::new(Cli::StandIn).await;
    let it = Coordinator::start(&fleet, ERAS[1], &["--coordinator=ann"]).await;
    it.call("pool_submit_with_review", json!({"prompt": "draft", "max_rejections": 2})).await.good();
    answer_all(&fleet.pool, &["default"]).await;
    let news = it.call("pool_wait", json!({"wait_s": 60})).await.good();
    assert!(news.starts_with("t1 pending_review, round 1, to be judged with pool_approve_result"), "{news}");
    let reject = json!({"ids": ["t1"], "feedback": "shorter", "round": 1, "model": "opus"});
    let told = it.call("pool_reject_result", reject.clone()).await.good();
    assert!(told.contains("\"state\":\"pending\""), "{told}");
    // Its answer was lost, and the call comes once more.
    let told = it.call("pool_reject_result", reject).await.good();
    assert!(told.contains("\"again\":true"), "{told}");
    let other = it.call("pool_approve_result", json!({"ids": ["t1"], "round": 1})).await.bad();
    assert!(other.contains("round 1 of t1 was rejected by ann"), "{other}");
    answer_all(&fleet.pool, &["default"]).await;
    assert_eq!(fleet.pool.task(t(1)).await.unwrap().spec.unwrap().options.model.as_deref(), Some("opus"));
    let told = it.call("pool_reject_result", json!({"ids": ["t1"], "feedback": "no"})).await.good();
    assert!(told.contains("\"state\":\"failed\"") && told.contains("for the last time"), "{told}");
    let record = fleet.pool.task(t(1)).await.unwrap();
    assert_eq!(record.rounds.iter().map(|round| round.why.as_str()).collect::<Vec<_>>(), ["shorter", "no"]);
    it.end().await;
    fleet.end_empty().await;
}
