//! Many coordinators at one dispatcher.

use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::ERAS;
use motorpool_tests::mcp::http::{Caller, Server};
use serde_json::json;

use super::{line, token, tokens};

const COORDINATORS: usize = 50;

#[tokio::test]
async fn fifty_coordinators_call_at_once_and_none_is_starved() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    for _ in 0..3 {
        fleet.worker(&[]);
    }
    fleet.all_joined(3).await;
    let names: Vec<String> = (0..COORDINATORS).map(|n| format!("coordinator{n}")).collect();
    let file = tokens(&fleet, &names.iter().map(|name| line(name)).collect::<Vec<_>>());
    let server = Server::start(&fleet, &["--token-file", &file.display().to_string()]).await;
    let mut callers = Vec::new();
    for (n, name) in names.iter().enumerate() {
        callers.push(Caller::meet(&server, ERAS[n % 2], Some(&token(name))).await);
    }
    let before = server.memory_kib();
    let calls = callers.iter().zip(&names).map(|(caller, name)| async move {
        let run = json!({"prompt": format!("@say the answer for {name}"), "wait_s": 600});
        let (run, status, view, wait) = tokio::join!(
            caller.call("pool_run", run),
            caller.call("pool_status", json!({})),
            caller.call("pool_view", json!({"what": "tasks", "mine": true})),
            caller.call("pool_result", json!({"ids": ["t1"], "wait_s": 600})),
        );
        let run = run.good();
        assert!(run.contains(&format!("\nthe answer for {name}\n")), "{name}: {run}");
        assert_eq!(status.json()["id"], "pool");
        assert!(view.good().starts_with("tasks: "));
        // Whoever came first; those who asked before are told that there is none yet.
        assert!(wait.text.contains("\"completed\"") || wait.text.contains("no task t1"), "{wait:?}");
    });
    futures_util::future::join_all(calls).await;
    let after = server.memory_kib();
    eprintln!("{COORDINATORS} coordinators with 4 calls each: {before} KiB before, {after} KiB after");
    assert!(after < before + 100 * 1024, "{before} KiB before, {after} KiB after");
    // They have closed their connections once the answer was there; it counts as handed over all the same.
    for (caller, name) in callers.iter().zip(&names) {
        let told = caller.call("pool_wait", json!({})).await.good();
        let nothing = format!("nothing is new, and nothing of yours is under way (coordinator {name})");
        assert_eq!(told, nothing);
        let told = caller.call("pool_view", json!({"what": "tasks", "mine": true})).await.good();
        assert!(told.starts_with("tasks: 1 task,"), "{told}");
    }
    server.end().await;
    fleet.end().await;
}
