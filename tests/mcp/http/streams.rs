//! Connections that end: a caller's does not stop work, the dispatcher's own end is a good one.

use std::time::{Duration, Instant};

use motorpool::State;
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::http::{Caller, Connection, Server};
use motorpool_tests::mcp::{ERAS, Era};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{gated, let_go, t};

#[tokio::test]
async fn a_stream_that_is_closed_stops_no_work() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let server = Server::start(&fleet, &["--coordinator=ann"]).await;
    for (number, era) in [1, 2].into_iter().zip(ERAS) {
        let ann = Caller::meet(&server, era, None).await;
        let gate = format!("go{number}");
        let run = ann.begin("pool_run", json!({"prompt": gated(&gate), "wait_s": 600})).await;
        fleet.reaches(t(number), State::Running).await;
        let waiting = ann.begin("pool_wait", json!({"wait_s": 600})).await;
        drop((run, waiting));
        // Whoever is answered now is answered by somebody who has heard of the end.
        for _ in 0..3 {
            ann.call("pool_status", json!({})).await.json();
        }
        let record = fleet.reaches(t(number), State::Running).await;
        assert!(!record.cancel, "{era:?}: {record:#?}");
        let_go(&fleet, &gate);
        assert_eq!(fleet.over(t(number)).await.state, State::Completed);
        let news = ann.call("pool_wait", json!({"wait_s": 60})).await.good();
        assert!(news.starts_with(&format!("t{number} completed")) && news.contains("\nlet go\n"), "{era:?}: {news}");
        let news = ann.call("pool_wait", json!({"wait_s": 60})).await.good();
        assert!(news.starts_with("nothing is new"), "{era:?}: {news}");
    }
    server.end().await;
    fleet.end().await;
}

/// A session's call goes on without its stream; its answer reaches nobody, however often somebody comes back.
#[tokio::test]
async fn answers_that_nobody_took_hold_nobody_up() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let server = Server::start(&fleet, &["--coordinator=ann"]).await;
    let ann = Caller::meet(&server, Era::Legacy, None).await;
    ann.call("pool_submit", json!({"prompt": gated("go")})).await.good();
    let mut left = Vec::new();
    for _ in 0..100 {
        let mut waiting = ann.begin("pool_wait", json!({"wait_s": 600})).await;
        assert_eq!(waiting.head().await.expect("the stream begins").status, 200);
        left.push(waiting);
    }
    drop(left);
    ann.call("pool_status", json!({})).await.json();
    let_go(&fleet, "go");
    fleet.over(t(1)).await;
    // Asked by another, which says nothing of what this one has heard; meanwhile the waits end.
    for _ in 0..20 {
        ann.call("pool_status", json!({"coordinator": "bob"})).await.json();
    }
    let begin = Instant::now();
    let news = ann.call("pool_wait", json!({"wait_s": 60})).await.good();
    let took = begin.elapsed();
    assert!(news.contains("(handed over before; that answer may not have arrived)"), "{news}");
    let again = ann.call("pool_wait", json!({"wait_s": 60})).await.good();
    assert!(again.starts_with("nothing is new"), "{again}");
    eprintln!("answered within {took:?}");
    // A moment of patience for each of them is a multiple of this.
    assert!(took < Duration::from_secs(8), "{took:?}");
    server.end().await;
    fleet.end().await;
}

#[tokio::test]
async fn a_dead_dispatcher_loses_nothing_that_a_caller_has_not_read() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    for (number, era) in [1, 2].into_iter().zip(ERAS) {
        let server = Server::start(&fleet, &["--coordinator=ann"]).await;
        let ann = Caller::meet(&server, era, None).await;
        ann.call("pool_submit", json!({"prompt": "@say one"})).await.good();
        let news = ann.call("pool_wait", json!({"wait_s": 60})).await.good();
        assert!(!news.contains("handed over before"), "{news}");
        server.killed().await;
        let server = Server::start(&fleet, &["--coordinator=ann"]).await;
        let ann = Caller::meet(&server, era, None).await;
        let news = ann.call("pool_wait", json!({"wait_s": 60})).await.good();
        assert!(news.starts_with(&format!("t{number} completed")), "{era:?}: {news}");
        assert!(news.contains("(handed over before; that answer may not have arrived)"), "{era:?}: {news}");
        let news = ann.call("pool_wait", json!({"wait_s": 60})).await.good();
        assert!(news.starts_with("nothing is new"), "{era:?}: {news}");
        server.end().await;
    }
    fleet.end().await;
}

#[tokio::test]
async fn the_end_of_the_dispatcher_ends_waits_and_no_work() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.joined(&[]).await;
    let server = Server::start(&fleet, &[]).await;
    let mut waiting = Vec::new();
    for era in ERAS {
        let ann = Caller::meet(&server, era, None).await;
        if waiting.is_empty() {
            waiting.push(ann.begin("pool_run", json!({"prompt": gated("go"), "wait_s": 600})).await);
            fleet.reaches(t(1), State::Running).await;
        }
        waiting.push(ann.begin("pool_wait", json!({"wait_s": 600})).await);
        ann.call("pool_status", json!({})).await.json();
    }
    // Connected, and silent.
    let idle = Connection::open(server.address).await;
    let address = server.address;
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    server.end().await;
    let took = begin.elapsed();
    eprintln!("ended within {took:?}");
    // It has ten seconds; a busy machine has more.
    assert!(took < Duration::from_secs(20), "{took:?}");
    drop((waiting, idle));
    tokio::net::TcpStream::connect(address).await.unwrap_err();
    let record = fleet.reaches(t(1), State::Running).await;
    assert!(!record.cancel, "{record:#?}");
    let_go(&fleet, "go");
    assert_eq!(fleet.over(t(1)).await.state, State::Completed);
    fleet.end().await;
}
