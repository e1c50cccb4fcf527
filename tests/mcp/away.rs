//! A dispatcher whose Redis is away: it answers what needs none, says what to do, and goes on when Redis is back.

use motorpool::State;
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::ERAS;
use motorpool_tests::mcp::stdio::Coordinator;
use serde_json::{Value, json};

use crate::{at_gate, gated, let_go, t};

#[tokio::test]
async fn a_host_that_starts_without_redis_is_told_what_to_do() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.redis_down().await;
    let it = Coordinator::start(&fleet, ERAS[1], &[]).await;
    let tools = it.ask("tools/list", json!({})).await.unwrap();
    assert!(tools["tools"].as_array().is_some_and(|tools| tools.len() >= 7), "{tools}");
    let told = it.call("pool_submit", json!({"prompt": "@say one"})).await.bad();
    assert!(told.starts_with("error: ") && told.contains("Redis") && told.contains("\nhint: "), "{told}");
    fleet.redis_up().await;
    it.call("pool_submit", json!({"prompt": "@say one"})).await.good();
    assert_eq!(fleet.reaches(t(1), State::Pending).await.run, 0);
    it.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn a_wait_goes_on_when_redis_is_back() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let it = Coordinator::start(&fleet, ERAS[0], &["--coordinator=ann"]).await;
    let run = it.begin("pool_run", json!({"prompt": gated("go"), "wait_s": 600})).await;
    at_gate(&fleet, 1, "go").await;
    let arguments = json!({"ids": ["t1"], "wait_s": 600});
    let wait = json!({"name": "pool_wait", "arguments": arguments, "_meta": {"progressToken": "wait"}});
    let wait = it.request("tools/call", wait).await;
    it.hears("that it waits", |message: &Value| message["params"]["progressToken"] == "wait").await;
    fleet.redis_down().await;
    fleet.redis_up().await;
    let_go(&fleet, "go");
    for call in [run, wait] {
        let told = it.told(call).await.good();
        assert!(told.starts_with("t1 completed") && told.contains("\nlet go\n"), "{told}");
    }
    let told = it.call("pool_wait", json!({})).await.good();
    assert!(told.starts_with("nothing is new"), "{told}");
    it.end().await;
    fleet.end().await;
}
