//! What a person stops: work that was started is stopped with its call, a wait ends alone.

use motorpool_tests::fleet::Cli;
use serde_json::json;

use super::terminal::{DOWN, ENTER, ESCAPE};
use super::yard::{Session, call, connect, coordinator, end, gated, open, reaches, settle};

const ALLOWED: [&str; 2] = ["pool_run", "pool_submit"];

#[tokio::test]
async fn a_task_that_is_stopped_stops_the_work_and_a_wait_that_is_stopped_does_not() {
    let user = coordinator(Cli::StandIn).await;
    settle(&user);
    connect(&user, "one", &ALLOWED).await;
    let mut session = Session::start(&user, &[]).await;
    session.say(&format!("Go.\n{}\n@say it is under way", call("pool_run", &gated("one", "never")))).await;
    stop_the_only_task(&mut session).await;
    let record = reaches(&user, "t1", "cancelled").await;
    assert_eq!(record["reason"], "stopped by the coordinator", "{record:#}");

    let (submit, wait) =
        (call("pool_submit", &gated("two", "all the same")), call("pool_wait", &json!({"ids": ["t2"]})));
    session.say(&format!("Go on.\n@now\n{submit}\n{wait}\n@say it is waited for")).await;
    stop_the_only_task(&mut session).await;
    assert_eq!(reaches(&user, "t2", "running").await["reason"], json!(null));
    open(&user, "two");
    assert_eq!(reaches(&user, "t2", "completed").await["output"], "all the same");
    session.quit(false).await;
    end(&user).await;
}

/// As a person does it: the list of what runs in the background, and `x`.
async fn stop_the_only_task(session: &mut Session) {
    session.0.shows("1 MCP task · ↓ to manage").await;
    session.0.press(DOWN).await;
    session.0.shows("enter to view").await;
    session.0.press(ENTER).await;
    session.0.shows("x to stop").await;
    session.0.press("x").await;
    session
        .0
        .until("nothing runs", |screen| screen.contains("No tasks currently running") || !screen.contains("x to stop"))
        .await;
    session.0.press(ESCAPE).await;
    session.0.until("the list is closed", |screen| !screen.contains("Esc to close")).await;
}

#[tokio::test]
async fn escape_ends_a_call_that_blocks() {
    let mut user = coordinator(Cli::StandIn).await;
    // As in a subagent, and in hosts that know no tasks.
    user.env("CLAUDE_CODE_DISABLE_MCP_TASKS", "1");
    settle(&user);
    connect(&user, "one", &ALLOWED).await;
    let mut session = Session::start(&user, &[]).await;
    let (submit, wait) =
        (call("pool_submit", &gated("one", "all the same")), call("pool_wait", &json!({"wait_s": 600})));
    session.say(&format!("Go.\n{submit}\n{wait}\n@say never")).await;
    session.0.shows("waiting for whatever is done next").await;
    session.0.press(ESCAPE).await;
    session.0.shows("Interrupted").await;

    session.say(&format!("Go on.\n@now\n{}\n@say never", call("pool_run", &gated("two", "never")))).await;
    session.0.shows("t2 running").await;
    session.0.press(ESCAPE).await;
    // What was sent before it has arrived with it.
    reaches(&user, "t2", "cancelled").await;
    assert_eq!(reaches(&user, "t1", "running").await["reason"], json!(null));
    open(&user, "one");
    assert_eq!(reaches(&user, "t1", "completed").await["output"], "all the same");
    session.quit(false).await;
    end(&user).await;
}
