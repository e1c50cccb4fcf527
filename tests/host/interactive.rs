//! On a terminal: work goes to the background, its result comes by itself, and a session that goes on finds it.

use motorpool_tests::api::Request;
use motorpool_tests::fleet::{Cli, PATIENCE};
use serde_json::json;

use super::yard::{Session, call, connect, coordinator, end, gated, open, reaches, settle};

/// A notification that carries the words of a worker.
fn tells(request: &Request, words: &str) -> bool {
    request.user_texts.iter().any(|text| text.contains("<task-notification>") && text.contains(words))
}

#[tokio::test]
async fn a_result_wakes_the_coordinator_that_went_on() {
    let user = coordinator(Cli::StandIn).await;
    settle(&user);
    connect(&user, "one", &["pool_run"]).await;
    let mut session = Session::start(&user, &[]).await;
    session.say(&format!("Go.\n{}\n@say it is under way", call("pool_run", &gated("go", "the first words")))).await;
    let started = |request: &Request| request.last_result.contains("started server-side task t1");
    user.api.wait_for(started, PATIENCE).await;
    session.0.shows("it is under way").await;
    session.0.shows("1 MCP task").await;
    assert!(!user.api.requests().iter().any(|request| tells(request, "the first words")));
    open(&user, "go");
    let woken = user.api.wait_for(|request| tells(request, "the first words"), PATIENCE).await;
    let text = woken.user_texts.iter().find(|text| text.contains("<task-notification>")).expect("it tells");
    assert!(text.contains("t1 completed") && text.contains("worker-output of=\"t1\""), "{text}");
    session.0.shows("MCP task t1 (pool/pool_run) completed").await;
    session.quit(false).await;
    end(&user).await;
}

#[tokio::test]
async fn work_outlives_a_session_and_its_results_reach_the_next_one() {
    let user = coordinator(Cli::StandIn).await;
    settle(&user);
    connect(&user, "one", &["pool_run"]).await;
    let mut session = Session::start(&user, &[]).await;
    let (first, second) = (call("pool_run", &gated("one", "done alone")), call("pool_run", &gated("two", "done late")));
    session.say(&format!("Go.\n{first}\n{second}\n@say both are under way")).await;
    let started = |request: &Request| request.last_result.contains("started server-side task t2");
    user.api.wait_for(started, PATIENCE).await;
    session.0.shows("both are under way").await;
    session.quit(true).await;
    user.until("the dispatcher goes with it", |user| user.processes(&["motorpool serve"]).is_empty().then_some(()))
        .await;

    // Nobody is there when the first one is done.
    open(&user, "one");
    reaches(&user, "t1", "completed").await;
    assert_eq!(reaches(&user, "t2", "running").await["cancelled"], json!(null));
    let session = Session::start(&user, &["--continue"]).await;
    user.api.wait_for(|request| tells(request, "done alone"), PATIENCE).await;
    assert!(!user.api.requests().iter().any(|request| tells(request, "done late")));
    open(&user, "two");
    user.api.wait_for(|request| tells(request, "done late"), PATIENCE).await;
    session.quit(false).await;
    end(&user).await;
}
