//! Every tool in both eras: what it answers, what it refuses, and that a call may be given up in its middle.

use motorpool::State;
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::ERAS;
use motorpool_tests::mcp::stdio::Coordinator;
use serde_json::{Value, json};

use crate::{at_gate, gated, let_go, t};

#[tokio::test]
async fn every_tool_answers() {
    for era in ERAS {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        fleet.joined(&[]).await;
        let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;

        let submitted = it.call("pool_submit", json!({"prompt": "@say one", "model": "haiku", "tags": ["x"]})).await;
        let submitted = submitted.json();
        assert_eq!((&submitted["id"], &submitted["state"]), (&"t1".into(), &"pending".into()), "{submitted}");
        assert_eq!(submitted["created"], true);
        assert!(submitted["mode"].as_str().unwrap_or_default().starts_with("t1 in plan mode"), "{submitted}");

        let result = it.call("pool_result", json!({"ids": "t1", "wait_s": 60})).await.json();
        assert_eq!((&result["state"], &result["output"]), (&"completed".into(), &"one".into()), "{result}");
        assert_eq!(result["runs"].as_array().map(Vec::len), Some(1), "{result}");

        let run = it.call("pool_run", json!({"prompt": "@say two\\nlines", "wait_s": 60})).await.good();
        assert!(run.starts_with("t2 completed, 1 turn"), "{run}");
        assert!(run.ends_with("<worker-output of=\"t2\">\ntwo\nlines\n</worker-output>\n"), "{run}");

        it.call("pool_submit", json!({"prompt": "@say three"})).await.json();
        let news = it.call("pool_wait", json!({"ids": ["t3"], "wait_s": 60})).await.good();
        assert!(news.starts_with("t3 completed") && news.contains("\nthree\n"), "{news}");

        let status = it.call("pool_status", json!({})).await.json();
        assert_eq!((&status["id"], &status["state"]), (&"pool".into(), &"idle".into()), "{status}");
        assert_eq!(status["tasks"], json!({"completed": 3}), "{status}");
        assert_eq!(status["slots"].as_array().map(Vec::len), Some(1), "{status}");

        let views = [
            (json!({"what": "tasks"}), "tasks: 3 tasks, newest first\nt3 completed"),
            (json!({"what": "tasks", "tag": "x", "state": ["completed"], "mine": true}), "tasks: 1 task"),
            (json!({"what": "tasks", "limit": 1}), "more with cursor: t3"),
            (json!({"what": "tasks", "cursor": "t2"}), "tasks: 1 task, newest first\nt1 "),
            (json!({"what": "task", "id": "t1"}), "\ncoordinator ann\nrun 1 ended well"),
            (json!({"what": "slots"}), "slots: 1 slot\n"),
            (json!({"what": "events", "limit": 2}), "events: the last 2, oldest first"),
            (json!({"what": "config"}), "config: the pool's defaults"),
        ];
        for (arguments, words) in views {
            let view = it.call("pool_view", arguments.clone()).await.good();
            assert!(view.contains(words), "{arguments}: {view}");
        }

        let running = it.call("pool_submit", json!({"prompt": gated("go")})).await.json();
        at_gate(&fleet, 4, "go").await;
        let live = it.call("pool_result", json!({"ids": ["t4"]})).await.json();
        assert_eq!((&live["state"], &live["output"]), (&"running".into(), &Value::Null), "{live} {running}");
        let busy = it.call("pool_submit", json!({"prompt": "@say behind", "lane": "nobody"})).await.json();
        let status = it.call("pool_status", json!({})).await.json();
        let waits = json!([{"state": "pending", "count": 1, "why": "no_worker",
            "what": "1 task in lane nobody: a worker: none that lives serves the lane"}]);
        assert_eq!((&status["state"], &status["waits"]), (&"stuck".into(), &waits), "{status}");
        it.call("pool_cancel", json!({"ids": [busy["id"]]})).await.good();
        let cancelled = it.call("pool_cancel", json!({"ids": ["t4", "t1"], "reason": "not wanted"})).await.good();
        assert!(cancelled.starts_with("t4 cancelled, not wanted"), "{cancelled}");
        assert!(
            cancelled
                .ends_with("t1 completed (it was over already; nothing is changed; pool_result t1 has its result)"),
            "{cancelled}"
        );
        it.end().await;
        fleet.end().await;
    }
}

#[tokio::test]
async fn a_wait_that_is_given_up_ends_and_the_work_goes_on() {
    for era in ERAS {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        fleet.joined(&[]).await;
        let it = Coordinator::start(&fleet, era, &[]).await;
        it.call("pool_submit", json!({"prompt": gated("go")})).await.good();
        fleet.reaches(t(1), State::Running).await;
        let waits = [
            ("pool_wait", json!({"wait_s": 600})),
            ("pool_wait", json!({"ids": ["t1"], "wait_s": 600})),
            ("pool_result", json!({"ids": ["t1"], "wait_s": 600})),
        ];
        let mut calls = Vec::new();
        for (tool, arguments) in waits {
            let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": calls.len()}});
            let call = it.request("tools/call", params).await;
            let is_ours = |message: &Value| message["params"]["progressToken"] == calls.len();
            let progress = it.hears("that it waits", |message| is_ours(message)).await;
            assert_eq!(progress["method"], "notifications/progress", "{progress}");
            it.cancel(call, None).await;
            calls.push(call);
        }
        // Once this is answered, all that was sent before has been read.
        it.call("pool_status", json!({})).await.json();
        let_go(&fleet, "go");
        assert_eq!(fleet.over(t(1)).await.state, State::Completed);
        // Had one of them gone on, it would have named the task in an answer by now, and this would be marked.
        let news = it.call("pool_wait", json!({"wait_s": 60})).await.good();
        assert!(news.starts_with("t1 completed, 2 turns"), "{news}");
        for call in calls {
            assert_eq!(it.answered(call), None);
        }
        it.end().await;
        fleet.end().await;
    }
}

#[tokio::test]
async fn any_call_may_be_given_up_at_once() {
    for era in ERAS {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        fleet.joined(&[]).await;
        let it = Coordinator::start(&fleet, era, &[]).await;
        it.call("pool_submit", json!({"prompt": gated("go")})).await.good();
        let tools = it.ask("tools/list", json!({})).await.unwrap();
        let names: Vec<&str> =
            tools["tools"].as_array().unwrap().iter().filter_map(|tool| tool["name"].as_str()).collect();
        assert!(names.len() >= 7, "{names:?}");
        let arguments = json!({"prompt": "@say x", "ids": ["t1"], "what": "tasks", "wait_s": 600});
        for name in names {
            // Each takes some of these, or refuses the others: either way it is on its way when it is given up.
            for wanted in ["prompt", "ids", "what", "wait_s"] {
                let call = it.begin(name, json!({wanted: arguments[wanted]})).await;
                it.cancel(call, Some("not wanted")).await;
            }
        }
        it.call("pool_status", json!({})).await.json();
        let_go(&fleet, "go");
        fleet.over(t(1)).await;
        it.end().await;
        fleet.end().await;
    }
}
