//! Stopping: what ends work, what ends a wait alone, and what ends the dispatcher.

use std::time::{Duration, Instant};

use motorpool::State;
use motorpool_tests::fleet::{Cli, Fleet, PATIENCE};
use motorpool_tests::mcp::stdio::Coordinator;
use motorpool_tests::mcp::{ERAS, Era};
use motorpool_tests::project::User;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::timeout;

use crate::{at_gate, gated, let_go, t};

/// What a dispatcher has for its end, doubled for a machine that is busy.
const END: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_run_that_is_stopped_is_cancelled_and_one_that_took_too_long_is_not() {
    for era in ERAS {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        for _ in 0..2 {
            fleet.worker(&[]);
        }
        let it = Coordinator::start(&fleet, era, &[]).await;
        let cases = [
            (Some("The user pressed Esc"), Some("The user pressed Esc")),
            (None, Some("stopped by the coordinator")),
            (Some(""), Some("stopped by the coordinator")),
            (Some("McpError: Request timed out"), None),
            (Some("TIMEOUT of 60 s"), None),
        ];
        for (number, (reason, expected)) in (1..).zip(cases) {
            let gate = format!("go{number}");
            let call = it.begin("pool_run", json!({"prompt": gated(&gate), "wait_s": 600})).await;
            at_gate(&fleet, number, &gate).await;
            it.cancel(call, reason).await;
            match expected {
                Some(expected) => {
                    let record = fleet.over(t(number)).await;
                    assert_eq!((record.state, record.reason.as_deref()), (State::Cancelled, Some(expected)));
                }
                None => {
                    // Once this is answered, the stop before it has been carried out.
                    it.call("pool_status", json!({})).await.json();
                    it.call("pool_view", json!({"what": "task", "id": t(number).to_string()})).await.good();
                    let record = fleet.reaches(t(number), State::Running).await;
                    assert!(!record.cancel, "{reason:?}: {record:#?}");
                    let_go(&fleet, &gate);
                    assert_eq!(fleet.over(t(number)).await.state, State::Completed);
                }
            }
            assert_eq!(it.answered(call), None, "nobody waits for it any more");
        }
        it.end().await;
        fleet.end().await;
    }
}

/// Whatever ends the dispatcher, its task goes on.
async fn ends(fleet: &Fleet, era: Era, number: u64, how: Option<Signal>) {
    let mut it = Coordinator::start(fleet, era, &["--coordinator=ann"]).await;
    let gate = format!("go{number}");
    it.begin("pool_run", json!({"prompt": gated(&gate), "wait_s": 600})).await;
    let running = at_gate(fleet, number, &gate).await;
    let begin = Instant::now();
    match how {
        Some(signal) => it.signal(signal),
        None => it.hang_up().await,
    }
    let status = it.ended().await;
    let took = begin.elapsed();
    eprintln!("{era:?}, {how:?}: ended within {took:?}");
    assert!(status.success() && took < END, "{how:?}: {status} after {took:?}\n{}", it.logged());
    assert_eq!(it.odd(), Vec::<String>::new());
    let record = fleet.pool.task(t(number)).await.unwrap();
    assert_eq!((record.state, record.run, record.cancel), (State::Running, running.run, false), "{how:?}");
    let_go(fleet, &gate);
    assert_eq!(fleet.over(t(number)).await.state, State::Completed);
    let it = Coordinator::start(fleet, era, &["--coordinator=ann"]).await;
    let news = it.call("pool_wait", json!({"wait_s": 60})).await.good();
    assert!(news.starts_with(&format!("t{number} completed")) && news.contains("\nlet go\n"), "{news}");
    it.call("pool_status", json!({})).await.json();
    it.end().await;
}

#[tokio::test]
async fn the_end_of_the_input_ends_the_dispatcher_and_no_work() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    ends(&fleet, Era::Legacy, 1, None).await;
    ends(&fleet, Era::Modern, 2, None).await;
    fleet.end().await;
}

#[tokio::test]
async fn a_signal_ends_the_dispatcher_and_no_work() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    ends(&fleet, Era::Legacy, 1, Some(Signal::SIGTERM)).await;
    ends(&fleet, Era::Modern, 2, Some(Signal::SIGINT)).await;
    ends(&fleet, Era::Modern, 3, Some(Signal::SIGHUP)).await;
    fleet.end().await;
}

/// A host that hangs until its pipe is full, says this, and goes.
async fn ends_unheard(era: Era, last: &[u8]) {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let mut it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
    // More than a pipe takes, and whatever stands before it.
    let prompt = format!("@say {}", "x".repeat(150_000));
    it.call("pool_submit", json!({ "prompt": prompt })).await.good();
    assert_eq!(fleet.over(t(1)).await.state, State::Completed);
    it.begin("pool_run", json!({"prompt": gated("go"), "wait_s": 600})).await;
    let running = at_gate(&fleet, 2, "go").await;
    let pipe = it.deaf().await;
    it.begin("pool_result", json!({"ids": ["t1"], "full": true})).await;
    timeout(PATIENCE, pipe.readable()).await.expect("an answer").unwrap();
    it.send_bytes(last).await;
    let begin = Instant::now();
    it.hang_up().await;
    let status = it.ended().await;
    let took = begin.elapsed();
    eprintln!("{era:?}: ended within {took:?}");
    assert!(status.success() && took < END, "{era:?}: {status} after {took:?}\n{}", it.logged());
    drop(pipe);
    let record = fleet.pool.task(t(2)).await.unwrap();
    assert_eq!((record.state, record.run, record.cancel), (State::Running, running.run, false), "{era:?}");
    let_go(&fleet, "go");
    assert_eq!(fleet.over(t(2)).await.state, State::Completed);
    // What nobody has read was not handed over.
    let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
    let news = it.call("pool_wait", json!({"wait_s": 60})).await.good();
    assert!(news.starts_with("t1 completed") && news.contains("handed over before"), "{news}");
    assert!(news.contains("\nt2 completed") && news.contains("\nlet go\n"), "{news}");
    it.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn an_answer_that_nobody_reads_does_not_keep_the_dispatcher() {
    // All at once, since each takes its time. A line that is no request is answered as well.
    let odd = b"{\"jsonrpc\": 1}\n";
    tokio::join!(ends_unheard(Era::Legacy, b""), ends_unheard(Era::Modern, b""), ends_unheard(Era::Modern, odd));
}

#[tokio::test]
async fn a_dispatcher_to_whom_nothing_was_said_ends_well() {
    let fleet = Fleet::new(Cli::StandIn).await;
    Coordinator::open(&fleet, Era::Legacy, &[]).end().await;
    let mut probed = Vec::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        for _ in 0..3 {
            // Asked what it can do, and for nothing yet.
            let it = Coordinator::start(&fleet, Era::Modern, &[]).await;
            it.signal(signal);
            probed.push((signal, it));
        }
    }
    for (signal, mut it) in probed {
        let status = it.ended().await;
        assert!(status.success(), "{signal}: {status}\n{}", it.logged());
    }
    fleet.end().await;
}

#[tokio::test]
async fn a_call_that_is_made_again_finds_its_task() {
    for era in ERAS {
        let mut fleet = Fleet::new(Cli::StandIn).await;
        let call = |prompt: &str, use_id: &str| {
            json!({"name": "pool_run", "arguments": {"prompt": prompt, "wait_s": 60},
                "_meta": {"claudecode/toolUseId": use_id}})
        };
        let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
        it.request("tools/call", call("@say one", "toolu_01")).await;
        fleet.reaches(t(1), State::Pending).await;
        it.killed().await;

        let it = Coordinator::start(&fleet, era, &["--coordinator=ann"]).await;
        let again = it.request("tools/call", call("@say one", "toolu_01")).await;
        let other = it.request("tools/call", call("@say one", "toolu_02")).await;
        fleet.reaches(t(2), State::Pending).await;
        fleet.joined(&[]).await;
        assert!(it.told(again).await.good().starts_with("t1 completed"));
        assert!(it.told(other).await.good().starts_with("t2 completed"));
        // Over, it is found as well.
        let id = it.request("tools/call", call("@say one", "toolu_01")).await;
        assert!(it.told(id).await.good().starts_with("t1 completed"));
        assert_eq!(fleet.pool.status().await.unwrap().tasks.iter().map(|(_, count)| count).sum::<u64>(), 2);
        it.end().await;
        fleet.end().await;
    }
}

#[tokio::test]
async fn a_task_cannot_serve_a_pool() {
    let fleet = Fleet::new(Cli::StandIn).await;
    let (mut command, log) = fleet.dispatcher(&[]);
    command.env("MOTORPOOL_RUN", "00000000-0000-0000-0000-000000000000/t1/1");
    let mut it = Coordinator::of(command, log, Era::Legacy);
    assert_eq!(it.ended().await.code(), Some(6), "{}", it.logged());
    assert!(it.logged().contains("`motorpool serve` does not work inside a run"), "{}", it.logged());
    assert_eq!((it.odd(), it.others()), (vec![], vec![]), "nothing is said where the protocol is spoken");
    fleet.end().await;
}

/// A dispatcher of a project's own pool.
async fn embedded(user: &User) -> Coordinator {
    let log = user.project("state").join("serve.log");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
    let mut command = user.command("one", &["serve"]);
    command.stderr(file);
    let it = Coordinator::of(command, log, Era::Modern);
    it.greet().await;
    it
}

#[tokio::test]
async fn a_pool_that_was_ended_on_purpose_comes_back_for_new_work_alone() {
    let user = User::new(Cli::StandIn).await;
    let it = embedded(&user).await;
    it.call("pool_status", json!({})).await.json();
    assert_eq!(user.motorpool("one", &["down"]).await.code, Some(0));
    let kept = |user: &User| !user.processes(&["motorpool keep"]).is_empty();
    let started = || user.logs().matches("redis started").count();
    user.until("the pool ends", |user| (!kept(user)).then_some(())).await;
    assert_eq!(started(), 1, "{}", user.logs());
    let looks =
        [("pool_status", json!({})), ("pool_view", json!({"what": "tasks"})), ("pool_wait", json!({"wait_s": 0}))];
    let mut calls = Vec::new();
    // At once, since each tries for a while.
    for (tool, arguments) in looks {
        calls.push(it.begin(tool, arguments).await);
    }
    for call in calls {
        let told = it.told(call).await.bad();
        assert!(told.contains("cannot be reached"), "{told}");
    }
    assert_eq!((kept(&user), started()), (false, 1), "{}", user.logs());

    it.call("pool_submit", json!({"prompt": "@say back"})).await.good();
    let news = it.call("pool_wait", json!({"wait_s": 60})).await.good();
    assert!(news.starts_with("t1 completed") && news.contains("\nback\n"), "{news}");
    assert_eq!(started(), 2, "{}", user.logs());
    it.end().await;
    assert_eq!(user.motorpool("one", &["down"]).await.code, Some(0));
    user.until("the pool ends", |user| user.processes(&[]).is_empty().then_some(())).await;
}

#[tokio::test]
async fn an_embedded_pool_outlives_its_dispatcher() {
    let user = User::new(Cli::StandIn).await;
    let it = embedded(&user).await;
    let prompt = gated("go");
    it.call("pool_submit", json!({ "prompt": prompt })).await.good();
    let live = user.project("one");
    it.killed().await;
    std::fs::write(live.join("go"), "").unwrap();
    let it = embedded(&user).await;
    let news = it.call("pool_wait", json!({"wait_s": 60})).await.good();
    assert!(news.starts_with("t1 completed") && news.contains("\nlet go\n"), "{news}");
    it.end().await;
    assert_eq!(user.motorpool("one", &["down"]).await.code, Some(0));
}
