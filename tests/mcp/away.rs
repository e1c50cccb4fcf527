//! A dispatcher whose Redis is away: it answers what needs none, says what to do, and goes on when Redis is back.

use motorpool::{Filter, State};
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::stdio::Coordinator;
use motorpool_tests::mcp::{ERAS, Host};
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

/// What everybody may ask of Redis from now on: one more rule of its `ACL`.
async fn allow(fleet: &Fleet, rule: &str) {
    let mut command = redis::cmd("ACL");
    let () = command.arg(&["SETUSER", "default", rule]).query_async(&mut fleet.redis().await).await.unwrap();
}

/// Redis refuses what is asked behind a submission, and that alone: as if it went away just then, without the wait.
#[tokio::test]
async fn an_error_behind_a_submission_names_the_task_that_goes_on() {
    for host in [Host::from(ERAS[0]), Host::from(ERAS[1]), Host::FOLLOWING] {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        let it = Coordinator::start(&fleet, host, &["--coordinator=ann"]).await;
        let over = fleet.submit("@say no", json!({"once": "over", "coordinator": "ann"})).await;
        fleet.pool.cancel(over, "not wanted").await.unwrap();
        fleet.submit("@say mine", json!({"once": "made", "coordinator": "ann"})).await;
        let made = |once: &str| json!({"prompt": "@say mine", "once": once, "wait_s": 0});
        let fresh = json!({"prompt": "@say mine", "wait_s": 0});
        let mut calls = vec![
            // The record of the task.
            ("t2", "hgetall", "pool_submit", json!({"prompt": "@say mine", "once": "made"})),
            ("t3", "hgetall", "pool_run", fresh.clone()),
            ("t2", "hgetall", "pool_run", made("made")),
        ];
        // Who follows a task is answered before anything is waited for.
        if !host.tasks {
            // How far it is; that its end is told.
            calls.extend([("t4", "hmget", "pool_run", fresh), ("t1", "hset", "pool_run", made("over"))]);
        }
        for (id, refused, tool, arguments) in calls {
            allow(&fleet, &format!("-{refused}")).await;
            let told = it.call(tool, arguments).await.bad();
            allow(&fleet, &format!("+{refused}")).await;
            let begins = format!("error: {id} was submitted and goes on; do not start it again. ");
            let ends = format!("\nhint: pool_wait hands it over; pool_result {id} shows how far it is");
            assert!(told.starts_with(&begins) && told.ends_with(&ends), "{host:?}, {tool}, {refused}: {told}");
        }
        // So it does, and nothing was told yet.
        let tasks = fleet.pool.list(&Filter::default(), 10).await.unwrap().items;
        fleet.joined(&[]).await;
        for task in &tasks {
            fleet.over(task.id).await;
        }
        let news = it.call("pool_wait", json!({"wait_s": 60})).await.good();
        assert_eq!(news.matches("\nmine\n").count(), tasks.len() - 1, "{news}");
        assert!(!news.contains("handed over before"), "{news}");
        it.end().await;
        fleet.end().await;
    }
}

#[tokio::test]
async fn a_submission_without_an_answer_may_have_been_one() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let it = Coordinator::start(&fleet, ERAS[0], &[]).await;
    it.call("pool_status", json!({})).await.json();
    fleet.redis_down().await;
    let mut calls = Vec::new();
    for tool in ["pool_submit", "pool_run"] {
        calls.push(it.begin(tool, json!({"prompt": "@say one"})).await);
    }
    let status = it.begin("pool_status", json!({})).await;
    for call in calls {
        let told = it.told(call).await.bad();
        assert!(told.starts_with("error: Redis at ") && told.contains("cannot be reached"), "{told}");
        assert!(told.contains("the task may have been made all the same: look at pool_view tasks"), "{told}");
    }
    let told = it.told(status).await.json();
    assert_eq!(told["state"], "reconnecting", "{told}");
    assert!(told["stuck"][0]["what"].as_str().is_some_and(|what| what.starts_with("Redis at ")), "{told}");
    fleet.redis_up().await;
    assert_eq!(it.call("pool_status", json!({})).await.json()["state"], "idle");
    it.end().await;
    fleet.end().await;
}
