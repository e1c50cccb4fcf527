//! Bad input to every tool: an error that the model reads, with what to do about it, and nothing written.

use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::ERAS;
use motorpool_tests::mcp::stdio::Coordinator;
use serde_json::{Value, json};

/// A call that is refused: tool, arguments, words of the message, words of the hint.
type Case = (&'static str, Value, &'static str, &'static str);

fn options_cases(tool: &'static str) -> Vec<Case> {
    let with = |name: &str, value: Value| json!({"prompt": "@say no", name: value});
    vec![
        (tool, json!({}), "prompt is missing", "say what the task is to do"),
        (tool, json!({"prompt": 7}), "prompt: 7 does not do", "give a text"),
        (tool, json!({"prompt": " \n"}), "the prompt is empty", "say what"),
        (tool, json!({"prompt": "x".repeat(1024 * 1024 + 1)}), "at most 1048576 are taken", "into a file"),
        (tool, with("modle", json!("haiku")), "\"modle\" is not an option", "did you mean model?"),
        (tool, with("permissionmode", json!("plan")), "is not an option", "did you mean permission_mode?"),
        (tool, with("zzzzzzzz", json!(1)), "is not an option", "known: "),
        (tool, with("check", json!("true")), "check is not built yet", "leave it out"),
        (tool, with("priority", json!("urgent")), "option priority", "it is one of high, normal, low"),
        (tool, with("needs", json!(["a b"])), "is no label", "as in gpu or os:linux"),
        (tool, with("delay_s", json!(0)), "option delay_s", "from 1 to"),
        (tool, with("model", json!("m".repeat(50_000))), "option model", "1 to 200 bytes"),
        (tool, with("effort", json!("e".repeat(50_000))), "option effort", "it is one of"),
        (tool, with("tools", json!(["-".repeat(50_000)])), "no name of a tool", "as in Bash"),
        (tool, with("model", json!(7)), "option model: 7 is not a text", ""),
        (tool, with("max_turns", json!("5")), "option max_turns: \"5\" is not a whole number", ""),
        (tool, with("max_turns", json!(-1)), "max_turns", ""),
        (tool, with("max_attempts", json!(1000)), "1000 does not do", "from 1 to 100"),
        (tool, with("max_budget_usd", json!(0)), "0 is no budget", "above 0"),
        (tool, with("effort", json!("hihg")), "\"hihg\"", "did you mean high?"),
        (tool, with("permission_mode", json!("yolo")), "\"yolo\"", "it is one of"),
        (tool, with("json_schema", json!("no")), "json_schema", ""),
        (tool, with("allowed_tools", json!([1])), "allowed_tools: [1] is not a list of texts", ""),
        (tool, with("tags", json!(vec!["x"; 33])), "33 tags", ""),
        (tool, with("tags", json!([""])), "\"\" is no tag", "200 bytes"),
        (tool, with("lane", json!("no such:lane")), "lane", ""),
        (tool, with("isolation", json!("worktree")), "not built yet", "none"),
        (tool, with("coordinator", json!("\n")), "coordinator", "1 to 200 bytes"),
    ]
}

fn cases() -> Vec<Case> {
    let many: Vec<String> = (1..=41).map(|n| format!("t{n}")).collect();
    let mut cases = options_cases("pool_run");
    cases.extend(options_cases("pool_submit"));
    cases.extend([
        ("pool_run", json!({"prompt": "x", "wait_s": 601}), "601 is more than 600", "give 600 at the most"),
        ("pool_run", json!({"prompt": "x", "wait_s": -1}), "wait_s: -1", "give a whole number"),
        ("pool_run", json!({"prompt": "x", "wait_s": 1.5}), "wait_s: 1.5", "give a whole number"),
        ("pool_result", json!({}), "ids is missing", "as in {\"ids\": [\"t17\"]}"),
        ("pool_result", json!({"ids": []}), "ids is missing", "name them"),
        ("pool_result", json!({"ids": [1]}), "ids: [1] does not do", "give a list of ids"),
        ("pool_result", json!({"ids": "seventeen"}), "\"seventeen\"", "an id is t, c or b"),
        ("pool_result", json!({"ids": ["t1", "t99"]}), "no task t99", "the newest is t1; pool_view tasks lists them"),
        ("pool_result", json!({ "ids": many }), "41 ids", "make several calls"),
        ("pool_result", json!({"ids": ["t1"], "wiat_s": 1}), "\"wiat_s\" is not an argument", "did you mean wait_s?"),
        ("pool_result", json!({"ids": ["t1"], "wait_s": 601}), "601 is more than 600", "600"),
        ("pool_result", json!({"ids": ["t1"], "full": "yes"}), "full: \"yes\"", "give true or false"),
        ("pool_result", json!({"ids": ["t1"], "cursor": -1}), "cursor: -1", "give a whole number"),
        ("pool_wait", json!({"ids": ["t99"]}), "no task t99", "the newest is t1"),
        ("pool_wait", json!({"ids": {"a": 1}}), "does not do", "give a list of ids"),
        ("pool_wait", json!({"al": true}), "\"al\" is not an argument", "did you mean all?"),
        ("pool_wait", json!({"all": "x"}), "all: \"x\"", "give true or false"),
        ("pool_wait", json!({"wait_s": "5"}), "wait_s: \"5\"", "give a whole number"),
        ("pool_wait", json!({"replay": 101}), "101 is more than 100", "give 100 at the most"),
        ("pool_cancel", json!({}), "ids is missing", "name them"),
        ("pool_cancel", json!({"ids": ["t1", "t99"]}), "no task t99", "the newest is t1"),
        ("pool_cancel", json!({"ids": ["t1"], "reason": 5}), "reason: 5", "give a text"),
        ("pool_cancel", json!({"ids": ["t1"], "resaon": "x"}), "\"resaon\"", "did you mean reason?"),
        ("pool_status", json!({"verbose": true}), "\"verbose\" is not an argument", ""),
        ("pool_view", json!({}), "what is missing", "one of tasks, task"),
        ("pool_view", json!({"what": 7}), "what: 7", "give a text"),
        ("pool_view", json!({"what": "taks"}), "\"taks\" is no listing", "did you mean task"),
        ("pool_view", json!({"what": "everything"}), "is no listing", "one of tasks, task"),
        ("pool_view", json!({"what": "tasks", "state": ["runing"]}), "\"runing\"", "did you mean running?"),
        ("pool_view", json!({"what": "tasks", "state": "s".repeat(50_000)}), "not known here", "it is one of"),
        ("pool_view", json!({"what": "tasks", "cursor": "c".repeat(50_000)}), "no task id", "a task id is"),
        ("pool_view", json!({"what": "tasks", "limit": 101}), "101 is more than 100", "100"),
        ("pool_view", json!({"what": "tasks", "cursor": "x"}), "\"x\"", ""),
        ("pool_view", json!({"what": "tasks", "mine": 1}), "mine: 1", "give true or false"),
        ("pool_view", json!({"what": "task"}), "ids is missing", "name them"),
        ("pool_view", json!({"what": "task", "id": "t99"}), "no task t99", "the newest is t1"),
        ("pool_view", json!({"what": "task", "ids": ["t1", "t1", "t1"], "x": 1}), "\"x\" is not an argument", ""),
        ("pool_view", json!({"what": "slots", "limit": 1}), "\"limit\" is not an argument", ""),
        ("pool_view", json!({"what": "events", "limit": "x"}), "limit: \"x\"", "give a whole number"),
        ("pool_view", json!({"what": "config", "set": {}}), "\"set\" is not an argument", ""),
    ]);
    cases
}

#[tokio::test]
async fn bad_input_is_refused_with_what_would_do_and_writes_nothing() {
    for era in ERAS {
        // Nobody works here, so that only a call can write.
        let fleet = Fleet::new(Cli::StandIn).await;
        let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
        let empty = fleet.writes().await;
        it.call("pool_submit", json!({"prompt": "@say one"})).await.good();
        let before = fleet.writes().await;
        assert!(before > empty, "a call that writes is not noticed");
        let mut wrong = Vec::new();
        for (tool, arguments, message, hint) in cases() {
            let told = it.call(tool, arguments.clone()).await;
            let shown = arguments.to_string().chars().take(120).collect::<String>();
            let parts = told.text.strip_prefix("error: ").and_then(|rest| rest.split_once("\nhint: "));
            let fits = parts.is_some_and(|(says, hints)| says.contains(message) && hints.contains(hint));
            if !told.is_error || !fits || told.text.chars().count() > 1_000 {
                wrong.push(format!("{tool} {shown}: {told:?}"));
            }
            if fleet.writes().await != before {
                wrong.push(format!("{tool} {shown} has written something"));
                break;
            }
        }
        assert!(wrong.is_empty(), "{era:?}:\n{}", wrong.join("\n"));
        assert_eq!(fleet.pool.unfinished().await.unwrap(), 1);
        it.end().await;
        fleet.end().await;
    }
}

#[tokio::test]
async fn what_no_tool_can_answer_is_an_error_of_the_protocol() {
    for era in ERAS {
        let fleet = Fleet::new(Cli::StandIn).await;
        let it = Coordinator::start(&fleet, era, &[]).await;
        let before = fleet.writes().await;
        for (name, words) in [("pool_rum", "did you mean pool_run?"), ("bash", "the tools are pool_run, pool_submit")] {
            let error = it.ask("tools/call", json!({"name": name, "arguments": {}})).await.unwrap_err();
            assert_eq!(error["code"], -32602, "{error}");
            assert!(error["message"].as_str().unwrap_or_default().contains(words), "{error}");
        }
        let error = it.ask("no/such/method", json!({})).await.unwrap_err();
        assert_eq!(error["code"], -32601, "{error}");
        // Its arguments may be left out, and be null.
        it.call("pool_status", Value::Null).await.json();
        it.call("pool_view", json!({"what": "tasks", "state": null, "limit": null})).await.good();
        assert_eq!(fleet.writes().await, before);
        it.end().await;
        fleet.end().await;
    }
}
