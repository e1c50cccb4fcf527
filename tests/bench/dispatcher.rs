//! What the dispatcher costs: until its first answer, in memory, with and without many finished tasks, and with many
//! coordinators at once.

use std::time::Duration;

use futures_util::future::join_all;
use motorpool::{Spec, TaskOptions};
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::mcp::http::{Caller, Server};
use motorpool_tests::mcp::stdio::Coordinator;
use motorpool_tests::mcp::{Era, MODERN};
use serde_json::json;
use tokio::time::Instant;

use crate::Measure;
use crate::idle::{Spread, megabytes};

/// Tasks that are over.
const FINISHED: usize = 1_000;
/// Dispatchers whose first answer is waited for.
const STARTS: usize = 11;
/// Coordinators at once, and the calls that each has under way.
const COORDINATORS: usize = 50;
const CALLS: usize = 4;

pub(crate) async fn measure() -> Vec<Measure> {
    let mut fleet = Fleet::with_lease(Cli::StandIn, 15).await;
    let mut measures = words(&fleet).await;
    measures.extend(starts(&fleet, 0).await);
    finish(&fleet, FINISHED).await;
    measures.extend(starts(&fleet, FINISHED).await);
    measures.extend(crowd(&mut fleet).await);
    fleet.end().await;
    measures
}

/// What a session pays before anything is done.
async fn words(fleet: &Fleet) -> Vec<Measure> {
    let dispatcher = Coordinator::open(fleet, Era::Legacy, &[]);
    let told = dispatcher.greet().await;
    let instructions = told["instructions"].as_str().unwrap_or_default().len();
    let tools = dispatcher.ask("tools/list", json!({})).await.expect("a list")["tools"].to_string().len();
    dispatcher.end().await;
    vec![
        Measure::new("tools/list", tools as f64, "characters"),
        Measure::new("tools/list, characters / 4", tools as f64 / 4.0, "tokens").at_most(3_000.0),
        Measure::new("instructions", instructions as f64, "characters").at_most(1_200.0),
    ]
}

/// From the start of the process to its first answers, and what it then holds.
async fn starts(fleet: &Fleet, finished: usize) -> Vec<Measure> {
    let (mut first, mut useful, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let began = Instant::now();
        let dispatcher = Coordinator::open(fleet, Era::Modern, &[]);
        dispatcher.greet().await;
        first.push(began.elapsed().as_secs_f64() * 1e3);
        dispatcher.call("pool_status", json!({})).await.good();
        useful.push(began.elapsed().as_secs_f64() * 1e3);
        dispatcher.call("pool_view", json!({"what": "tasks", "limit": 100})).await.good();
        dispatcher.call("pool_wait", json!({"wait_s": 0})).await.good();
        memory.push(megabytes(dispatcher.pid(), "status", &["VmRSS"]));
        dispatcher.end().await;
    }
    let (first, useful, memory) = (Spread::of(first), Spread::of(useful), Spread::of(memory));
    let with = format!("{finished} finished tasks");
    vec![
        Measure::new(format!("dispatcher: start to first answer ({MODERN}), {with}, median"), first.median, "ms"),
        Measure::new(format!("dispatcher: start to `pool_status`, {with}, median"), useful.median, "ms"),
        Measure::new(format!("dispatcher: resident memory after a few calls, {with}, median"), memory.median, "MB"),
    ]
}

/// Tasks that end without having run.
async fn finish(fleet: &Fleet, count: usize) {
    let options = TaskOptions { coordinator: Some("bench".into()), ..TaskOptions::default() };
    let spec = Spec::new("a prompt", options).expect("a task that does");
    let submitted = fleet.pool.submit_all(vec![spec; count]).await.expect("they are taken");
    for task in submitted {
        fleet.pool.cancel(task.id, "enough").await.expect("it is cancelled");
    }
}

/// Many coordinators over HTTP, each with several calls that wait.
async fn crowd(fleet: &mut Fleet) -> Vec<Measure> {
    for _ in 0..2 {
        fleet.worker(&[]);
    }
    fleet.all_joined(2).await;
    let server = Server::start(fleet, &[]).await;
    let callers = join_all((0..COORDINATORS).map(|n| {
        let era = if n % 2 == 0 { Era::Legacy } else { Era::Modern };
        Caller::meet(&server, era, None)
    }))
    .await;
    let before = server.memory_kib() as f64 * 1024.0 / 1e6;
    let began = Instant::now();
    let call = async |n: usize, caller: &Caller, k: usize| {
        let arguments = json!({"prompt": format!("@say {n} {k}"), "coordinator": format!("c{n}"), "wait_s": 300});
        let text = caller.call("pool_run", arguments).await.good();
        assert!(text.contains(&format!("{n} {k}")), "{text}");
        began.elapsed()
    };
    let calls = callers.iter().enumerate().flat_map(|(n, caller)| (0..CALLS).map(move |k| (n, caller, k)));
    let mut took: Vec<Duration> = join_all(calls.map(|(n, caller, k)| call(n, caller, k))).await;
    took.sort();
    let after = server.memory_kib() as f64 * 1024.0 / 1e6;
    server.end().await;
    let (half, last) = (took[took.len() / 2].as_secs_f64(), took[took.len() - 1].as_secs_f64());
    let who = format!("{COORDINATORS} coordinators over HTTP with {CALLS} calls each");
    vec![
        Measure::new(format!("{who}: the last answer against the median one"), last / half, "times as late"),
        Measure::new(format!("{who}: resident memory before"), before, "MB"),
        Measure::new(format!("{who}: resident memory after"), after, "MB"),
    ]
}
