//! A result that Redis cannot take outlives its worker, and is told by the next one of the machine.

use motorpool::{State, TaskId};
use motorpool_tests::faults::{lives, signal};
use motorpool_tests::fleet::{Cli, Fleet};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::host::{UNTIL_GO, keeps};
use crate::kill::another_machine;

/// The files in the outbox that end so.
fn files(fleet: &Fleet, ending: &str) -> Vec<String> {
    let entries = std::fs::read_dir(fleet.path("state/outbox")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(ending)).collect()
}

/// A task that has begun, and ends while Redis is away: its result is in the outbox.
async fn ends_without_redis(fleet: &mut Fleet) -> TaskId {
    fleet.all_joined(1).await;
    let id = fleet.submit(&format!("@bash echo on >> ran; touch begun; {UNTIL_GO}\n@say kept"), json!({})).await;
    fleet.until("the task has begun", async |fleet| fleet.work.join("begun").exists().then_some(())).await;
    fleet.redis_down().await;
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    fleet.until("the result is kept", async |fleet| (files(fleet, ".result").len() == 1).then_some(())).await;
    id
}

#[tokio::test]
async fn a_result_that_a_killed_worker_could_not_tell_is_told_by_the_next() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let host = fleet.host(1);
    let worker = keeps(&fleet, host, 1).await[0];
    let id = ends_without_redis(&mut fleet).await;
    signal(worker, Signal::SIGKILL);
    fleet.until("it is gone", async |_| (!lives(worker)).then_some(())).await;
    fleet.redis_up().await;
    let record = fleet.completed_once(&[id]).await.remove(0);
    assert_eq!((record.run, record.attempt), (1, 1), "{record:#?}\n{}", fleet.logs());
    assert_eq!(record.output.as_deref(), Some("kept"), "{record:#?}");
    assert_eq!(fleet.read("ran").as_deref(), Some("on"), "Claude ran once");
    fleet.until("the outbox is empty", async |fleet| files(fleet, "").is_empty().then_some(())).await;
    // Whoever told it is no worker of the pool any more; the new one is.
    let next = fleet.run("@say next", json!({})).await;
    assert_ne!(next.runs[0].worker, record.runs[0].worker);
    let workers = fleet.pool.workers().await.expect("the pool answers");
    assert_eq!(workers.len(), 1, "{workers:?}");
    fleet.end_empty().await;
}

/// Redis is away for longer than the lease: what is kept says that the work is whole and was only stopped.
#[tokio::test]
async fn what_a_lonely_worker_hands_back_outlives_it_too() {
    let mut fleet = Fleet::with_lease(Cli::StandIn, 6).await;
    let host = fleet.host(1);
    let worker = keeps(&fleet, host, 1).await[0];
    fleet.all_joined(1).await;
    let command = "echo on >> ran; [ $(wc -l < ran) -gt 1 ] || sleep 300";
    let id = fleet.submit(&format!("@bash {command}\n@say at last"), json!({})).await;
    fleet.written("ran").await;
    fleet.redis_down().await;
    fleet.until("the run is handed back", async |fleet| (files(fleet, ".result").len() == 1).then_some(())).await;
    signal(worker, Signal::SIGKILL);
    fleet.until("it is gone", async |_| (!lives(worker)).then_some(())).await;
    fleet.redis_up().await;
    let record = fleet.completed_once(&[id]).await.remove(0);
    assert_eq!((record.run, record.attempt), (2, 1), "{record:#?}\n{}", fleet.logs());
    assert!(!record.runs[0].charged && record.runs[0].class.is_none(), "{:?}", record.runs[0]);
    fleet.end_empty().await;
}

#[tokio::test]
async fn a_result_that_was_kept_for_too_long_changes_nothing_but_the_books() {
    let mut fleet = Fleet::with_lease(Cli::StandIn, 3).await;
    let worker = fleet.worker(&["--drain-timeout", "1s"]);
    let id = ends_without_redis(&mut fleet).await;
    fleet.kill(worker, Signal::SIGTERM);
    fleet.ended(worker).await;
    fleet.redis_up().await;
    let (settled, other) = another_machine(&fleet).await;
    assert!(settled);
    let before = fleet.over(id).await;
    assert_eq!((before.state, before.run, before.cost_microusd), (State::Completed, 2, 0), "{before:#?}");
    let kept = files(&fleet, ".result").remove(0);
    let pool = kept.split('.').next().expect("a pool");
    // One that is refused comes first, and holds up none.
    let text = std::fs::read_to_string(fleet.path(&format!("state/outbox/{kept}"))).expect("a letter");
    let mut earlier: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    earlier["finish"][1] = "0".into();
    let refused = ("earlier", earlier.to_string());
    let damaged = [("half", "{\"form\":1,\"wor"), ("newer", "{\"form\":9}"), ("bytes", "\u{0}")];
    for (name, text) in damaged.map(|(name, text)| (name, text.to_owned())).into_iter().chain([refused]) {
        let path = fleet.path(&format!("state/outbox/{pool}.w-{name}.result"));
        std::fs::write(&path, text).expect("a file");
        std::fs::File::open(&path).and_then(|file| file.set_modified(std::time::UNIX_EPOCH)).expect("a time");
    }
    fleet.worker(&[]);
    fleet.until("the outbox is empty", async |fleet| files(fleet, ".result").is_empty().then_some(())).await;
    assert_eq!(files(&fleet, ".damaged").len(), 4, "{}", fleet.logs());
    let record = fleet.over(id).await;
    assert_eq!((record.output, record.run), (before.output, 2));
    assert_eq!((record.runs[0].cost_microusd, record.cost_microusd), (1000, 1000), "its cost is booked");
    assert_eq!(fleet.run("@say next", json!({})).await.run, 1);
    other.leave().await;
    fleet.end_empty().await;
}
