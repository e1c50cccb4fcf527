//! Tasks of the protocol (SEP-2663): begun at once, asked for, stopped; their state is the pool's.

use motorpool::State;
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::stdio::Coordinator;
use motorpool_tests::mcp::{ERAS, Host, Told};
use serde_json::{Value, json};

use crate::{at_gate, gated, let_go, t};

/// `tasks/get`.
async fn get(it: &Coordinator, id: &str) -> Value {
    let task = it.ask("tasks/get", json!({"taskId": id})).await.unwrap();
    assert_eq!(task["taskId"], id, "{task}");
    task
}

/// Asks again and again, as a host does, until the task is over.
async fn finished(fleet: &Fleet, it: &Coordinator, id: &str) -> Value {
    fleet
        .until(&format!("{id} is over"), async |_| {
            let task = get(it, id).await;
            (task["status"] != "working").then_some(task)
        })
        .await
}

fn words(task: &Value) -> &str {
    task["statusMessage"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_run_is_a_task_at_once_and_its_result_comes_with_it() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let it = Coordinator::start(&fleet, Host::FOLLOWING, &[]).await;
    let begun = it.ask("tools/call", json!({"name": "pool_run", "arguments": {"prompt": gated("go")}})).await.unwrap();
    assert_eq!((&begun["resultType"], &begun["taskId"]), (&"task".into(), &"t1".into()), "{begun}");
    assert_eq!((&begun["status"], words(&begun)), (&"working".into(), "t1 pending"), "{begun}");
    assert_eq!((&begun["ttlMs"], &begun["pollIntervalMs"]), (&Value::Null, &1000.into()), "{begun}");

    fleet.joined(&[]).await;
    fleet.reaches(t(1), State::Running).await;
    let working = get(&it, "t1").await;
    assert_eq!(working["status"], "working", "{working}");
    assert!(words(&working).starts_with("t1 running"), "{working}");
    assert_eq!(working["createdAt"], begun["createdAt"]);
    assert!(working["lastUpdatedAt"].as_str() > begun["lastUpdatedAt"].as_str(), "{working}");

    let_go(&fleet, "go");
    let done = finished(&fleet, &it, "t1").await;
    assert_eq!(done["status"], "completed", "{done}");
    assert!(words(&done).starts_with("t1 completed, 2 turns"), "{done}");
    let text = Told::of(&done["result"]).good();
    assert!(text.starts_with("t1 completed") && text.contains("\nlet go\n"), "{text}");
    // It stays so, here and elsewhere.
    let other = Coordinator::start(&fleet, Host::FOLLOWING, &[]).await;
    for it in [&it, &other] {
        assert_eq!(get(it, "t1").await, done);
    }
    other.end().await;
    it.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn a_task_that_fails_is_completed_with_an_error() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let it = Coordinator::start(&fleet, Host::FOLLOWING, &[]).await;
    it.ask("tools/call", json!({"name": "pool_run", "arguments": {"prompt": "@status 400 no such thing"}}))
        .await
        .unwrap();
    let done = finished(&fleet, &it, "t1").await;
    assert_eq!((&done["status"], done.get("error")), (&"completed".into(), None), "{done}");
    let text = Told::of(&done["result"]).bad();
    assert!(text.starts_with("t1 failed, request, status 400: ") && text.contains("no such thing"), "{text}");
    it.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn a_task_is_stopped_as_often_as_a_host_likes() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let it = Coordinator::start(&fleet, Host::FOLLOWING, &[]).await;
    for (number, gate) in [(1, "never"), (2, "neither")] {
        let id = t(number).to_string();
        it.ask("tools/call", json!({"name": "pool_run", "arguments": {"prompt": gated(gate)}})).await.unwrap();
        at_gate(&fleet, number, gate).await;
        // Once at one dispatcher and once at another, which has never heard of it.
        let other = Coordinator::start(&fleet, Host::FOLLOWING, &[]).await;
        for stopping in [&it, &other, &it] {
            stopping.ask("tasks/cancel", json!({ "taskId": id })).await.unwrap();
        }
        let done = finished(&fleet, &it, &id).await;
        assert_eq!((&done["status"], done.get("result")), (&"cancelled".into(), None), "{done}");
        assert_eq!(finished(&fleet, &other, &id).await["status"], "cancelled");
        it.ask("tasks/cancel", json!({ "taskId": id })).await.unwrap();
        other.end().await;
    }
    // Nothing of it is left to be told: the human has stopped it.
    let record = fleet.over(t(1)).await;
    assert_eq!((record.state, record.reason.as_deref()), (State::Cancelled, Some("stopped by the coordinator")));
    it.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn what_nobody_knows_has_failed_and_is_no_error() {
    let fleet = Fleet::new(Cli::StandIn).await;
    let it = Coordinator::start(&fleet, Host::FOLLOWING, &[]).await;
    let before = fleet.writes().await;
    for id in ["t99", "nonsense", "", "t0", "wait/any/t99/1/1/ann", "wait/odd"] {
        let task = get(&it, id).await;
        assert_eq!(task["status"], "failed", "{task}");
        assert!(task["error"]["message"].is_string() && !words(&task).is_empty(), "{task}");
    }
    let long = "x".repeat(50_000);
    let task = it.ask("tasks/get", json!({ "taskId": long })).await.unwrap();
    assert!(task["status"] == "failed" && task.to_string().len() < 5_000, "{task}");
    for id in ["t99", "nonsense"] {
        let error = it.ask("tasks/cancel", json!({ "taskId": id })).await.unwrap_err();
        assert_eq!(error["code"], -32602, "{error}");
    }
    it.ask("tasks/update", json!({"taskId": "t99", "inputResponses": {}})).await.unwrap_err();
    assert_eq!(fleet.writes().await, before);
    it.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn a_wait_is_a_task_too_and_stopping_it_stops_no_work() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let it = Coordinator::start(&fleet, Host::FOLLOWING, &["--coordinator=ann"]).await;
    let wait = async |arguments: Value| {
        it.ask("tools/call", json!({"name": "pool_wait", "arguments": arguments})).await.unwrap()
    };
    // With nothing to wait for there is nothing to follow.
    let told = Told::of(&wait(json!({})).await).good();
    assert!(told.starts_with("nothing is new, and nothing of yours is under way (coordinator ann)"), "{told}");
    it.call("pool_submit", json!({"prompt": gated("go")})).await.good();
    let mut ids = Vec::new();
    for (arguments, says) in [
        (json!({}), "waiting for whatever is done next"),
        (json!({"ids": ["t1"]}), "waiting for any of t1"),
        (json!({"ids": ["t1"], "all": true}), "waiting for all of t1"),
    ] {
        let begun = wait(arguments).await;
        assert_eq!((&begun["resultType"], &begun["status"]), (&"task".into(), &"working".into()), "{begun}");
        assert_eq!(words(&begun), says);
        ids.push(begun["taskId"].as_str().unwrap().to_owned());
        assert_eq!(get(&it, &ids[ids.len() - 1]).await["status"], "working");
    }
    for _ in 0..2 {
        it.ask("tasks/cancel", json!({"taskId": ids[1]})).await.unwrap();
        assert_eq!(get(&it, &ids[1]).await["status"], "cancelled");
    }
    assert_eq!(fleet.reaches(t(1), State::Running).await.reason, None);
    let_go(&fleet, "go");
    // Another dispatcher of the pool knows the wait by its id alone.
    let other = Coordinator::start(&fleet, Host::FOLLOWING, &["--coordinator=bob"]).await;
    let first = finished(&fleet, &other, &ids[0]).await;
    let second = finished(&fleet, &it, &ids[2]).await;
    for done in [first, second] {
        assert_eq!(done["status"], "completed", "{done}");
        let text = Told::of(&done["result"]).good();
        assert!(text.starts_with("t1 completed") && text.contains("\nlet go\n"), "{text}");
    }
    other.end().await;
    it.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn who_does_not_follow_tasks_is_given_none() {
    for era in ERAS {
        let fleet = Fleet::new(Cli::StandIn).await;
        let it = Coordinator::start(&fleet, era, &[]).await;
        let told = it.call("pool_run", json!({"prompt": "@say one", "wait_s": 0})).await.good();
        assert!(told.starts_with("t1 is still pending; do not start it again; pool_wait hands it over"), "{told}");
        assert!(told.contains("no live worker serves the lane default"), "{told}");
        for method in ["tasks/get", "tasks/cancel"] {
            let error = it.ask(method, json!({"taskId": "t1"})).await.unwrap_err();
            assert_eq!(error["code"], -32021, "{error}");
        }
        assert_eq!(fleet.pool.task(t(1)).await.unwrap().state, State::Pending);
        it.end().await;
        fleet.end().await;
    }
}

/// A task may end at any moment of a look at it.
#[tokio::test]
async fn a_wait_that_is_asked_all_the_time_misses_nothing() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let it = Coordinator::start(&fleet, Host::FOLLOWING, &["--coordinator=ann"]).await;
    for n in 1..=20 {
        let id = t(n).to_string();
        it.call("pool_submit", json!({"prompt": "@say one"})).await.good();
        let arguments = if n % 2 == 0 { json!({"ids": [id]}) } else { json!({}) };
        let mut answer = it.ask("tools/call", json!({"name": "pool_wait", "arguments": arguments})).await.unwrap();
        if answer["resultType"] == "task" {
            let wait = answer["taskId"].as_str().unwrap().to_owned();
            while answer["status"] == "working" {
                answer = get(&it, &wait).await;
            }
            answer = answer["result"].clone();
        }
        let text = Told::of(&answer).good();
        assert!(text.starts_with(&format!("{id} completed")), "{text}");
    }
    it.end().await;
    fleet.end().await;
}
