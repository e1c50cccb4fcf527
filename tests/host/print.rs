//! In print mode (`-p`): the whole way of a call, host, dispatcher, pool, worker and back, with the real CLI at both ends.

use motorpool_tests::fleet::{Cli, real_claude};
use serde_json::{Value, json};

use super::yard::{call, connect, coordinator, end, print, settle};

#[tokio::test]
async fn a_call_goes_all_the_way_and_its_result_reaches_the_model() {
    let user = coordinator(Cli::Real).await;
    settle(&user);
    connect(&user, "one", &["pool_run"]).await;
    // Long enough for a worker that has to start first: a host without tasks waits, or hands out the id.
    let run = call("pool_run", &json!({"prompt": "Go.\n@say words of a worker", "wait_s": 600}));
    let done = print(&user, &real_claude(), "one", &[], &format!("Go.\n{run}\n@say the coordinator is done")).await;
    assert_eq!(done.code, Some(0), "{done:#?}\n{}", user.logs());
    let result = done.json();
    assert_eq!(result["result"], "the coordinator is done", "{result:#}");
    assert_eq!(result["permission_denials"], json!([]), "{result:#}");

    let requests = user.api.requests();
    let offered = requests.iter().find(|request| request.tools.iter().any(|tool| tool == "mcp__pool__pool_run"));
    assert!(
        offered.is_some_and(|request| request.mentions("the coordinator is done")),
        "the tool is in no first prompt"
    );
    let told = requests.iter().find(|request| request.last_result.contains("words of a worker"));
    let told = told.unwrap_or_else(|| panic!("no result reached the model: {requests:#?}"));
    assert!(told.last_result.starts_with("t1 completed, 1 turn"), "{}", told.last_result);
    assert!(told.last_result.contains("<worker-output of=\"t1\">\nwords of a worker\n"), "{}", told.last_result);
    let worker = requests.iter().find(|request| request.last_user_text().ends_with("@say words of a worker"));
    assert!(worker.is_some_and(|request| !request.tools.iter().any(|tool| tool.starts_with("mcp__pool"))));
    end(&user).await;
}

#[tokio::test]
async fn the_printed_rules_allow_what_only_looks() {
    let user = coordinator(Cli::StandIn).await;
    settle(&user);
    connect(&user, "one", &[]).await;
    let run = call("pool_run", &json!({"prompt": "@say never"}));
    let status = call("pool_status", &json!({}));
    let done = print(&user, &real_claude(), "one", &[], &format!("Go.\n{run}\n{status}\n@echo result")).await;
    let result = done.json();
    let denied: Vec<&Value> = result["permission_denials"].as_array().into_iter().flatten().collect();
    assert_eq!(denied.len(), 1, "{result:#}");
    assert_eq!(denied[0]["tool_name"], "mcp__pool__pool_run", "{result:#}");
    let status: Value = serde_json::from_str(result["result"].as_str().unwrap_or_default()).expect("JSON of a tool");
    assert_eq!((&status["id"], &status["tasks"]), (&json!("pool"), &json!({})), "{result:#}");
    end(&user).await;
}
