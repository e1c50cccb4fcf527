//! Stopping: a task on request, a worker by signal, and what a killed worker leaves behind.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use motorpool::{Class, State, TaskId};
use motorpool_tests::fleet::{Cli, Fleet};
use nix::sys::signal::Signal;
use serde_json::json;

/// A call that says `on.txt` and then runs for five minutes: in the shell, in a session of its own, and in one that
/// has dropped its environment, so that nothing but its descent tells whose it is.
const LONG: &str = "@bash (setsid sleep 300 &) ; (env -i setsid sleep 300 &) ; echo on > on.txt ; \
                    bash -c 'sleep 300; true'\n@say no";

/// A few seconds, also on a slow machine; what is not stopped sleeps for five minutes, and a drain may take one.
const SOON: Duration = Duration::from_secs(30);

fn may_run() -> serde_json::Value {
    json!({"resume_on_retry": false, "permission_mode": "acceptEdits", "allowed_tools": ["Bash"]})
}

#[tokio::test]
async fn a_cancelled_task_is_cancelled_once_nothing_of_it_is_left() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.worker(&[]);
    let id = fleet.submit(LONG, may_run()).await;
    fleet.written("on.txt").await;
    fleet.until("the sleepers run", async |fleet| (fleet.strays().len() >= 4).then_some(())).await;
    let asked = Instant::now();
    assert_eq!(fleet.pool.cancel(id, "not wanted").await.expect("it is known"), State::Running);
    let record = fleet.over(id).await;
    let took = asked.elapsed();
    assert_eq!(fleet.strays(), Vec::<String>::new());
    assert_eq!((record.state, record.reason.as_deref()), (State::Cancelled, Some("not wanted")), "{record:#?}");
    assert_eq!(record.runs[0].class, Some(Class::Cancelled), "{record:#?}");
    assert!(record.cost_microusd > 0 && record.runs[0].session_id.is_some(), "{record:#?}");
    assert!(took < SOON, "{took:?}");
    eprintln!("cancelled within {took:?}");

    // A task that waits is over at once, and its worker does the next.
    let running = fleet.submit("@bash until [ -e go.txt ]; do sleep 0.02; done\n@say one", may_run()).await;
    fleet.reaches(running, State::Running).await;
    let waiting = fleet.submit("@say two", json!({})).await;
    assert_eq!(fleet.pool.cancel(waiting, "").await.expect("it is known"), State::Cancelled);
    std::fs::write(fleet.work.join("go.txt"), "").unwrap();
    assert_eq!(fleet.over(running).await.output.as_deref(), Some("one"));
    let record = fleet.over(waiting).await;
    assert_eq!((record.state, record.run), (State::Cancelled, 0));
    assert_eq!(fleet.pool.cancel(running, "too late").await.expect("it is known"), State::Completed);
    fleet.end().await;
}

/// A program that has its success ready when it is interrupted, which the real one cannot be made to.
const LATE: &str = r#"#!/bin/bash
[ "$1" = --version ] && { echo '2.1.330 (Claude Code)'; exit; }
trap 'echo "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"result\":\"just made it\",\"num_turns\":1,\"session_id\":\"s\",\"total_cost_usd\":0.5}"; exit 0' INT
echo '{"type":"system","subtype":"init","session_id":"s"}'
echo on > on.txt
while :; do sleep 0.02; done
"#;

#[tokio::test]
async fn a_success_that_comes_after_the_cancel_is_a_success() {
    let mut fleet = Fleet::new(Cli::Real).await;
    let late = fleet.script("late", LATE);
    fleet.worker(&["--claude-bin", &late.display().to_string()]);
    let id = fleet.submit("anything", json!({})).await;
    fleet.written("on.txt").await;
    assert_eq!(fleet.pool.cancel(id, "not wanted").await.expect("it is known"), State::Running);
    let record = fleet.over(id).await;
    assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("just made it")), "{record:#?}");
    assert_eq!((record.cancel, record.cost_microusd), (true, 500_000), "{record:#?}");
    fleet.end().await;
}

#[tokio::test]
async fn a_worker_that_is_told_once_finishes_what_it_has_and_takes_no_more() {
    let mut fleet = Fleet::new(Cli::Real).await;
    let pid = fleet.joined(&[]).await;
    let running = fleet.submit("@bash until [ -e go.txt ]; do sleep 0.02; done\n@say finished", may_run()).await;
    fleet.reaches(running, State::Running).await;
    let waiting = fleet.submit("@say later", json!({})).await;
    fleet.kill(pid, Signal::SIGTERM);
    fleet.worker_is(pid, "draining", |worker| worker.draining).await;
    assert_eq!(fleet.pool.task(running).await.expect("it is known").state, State::Running);
    std::fs::write(fleet.work.join("go.txt"), "").unwrap();
    let record = fleet.over(running).await;
    assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("finished")), "{record:#?}");
    assert_eq!(fleet.ended(pid).await, Some(0), "{}", fleet.logs());
    let record = fleet.pool.task(waiting).await.expect("it is known");
    assert_eq!((record.state, record.run), (State::Pending, 0), "{record:#?}");
    assert!(fleet.pool.workers().await.expect("the pool answers").is_empty());
    fleet.worker(&[]);
    assert_eq!(fleet.over(waiting).await.output.as_deref(), Some("later"));
    fleet.end().await;
}

/// The first run hangs; the second one is another worker's.
const FIRST_HANGS: &str = "@bash if [ -e first ]; then echo second; else touch first; (setsid sleep 300 &) ; \
                           echo on > on.txt; bash -c 'sleep 300; true'; fi\n@echo result";

async fn given_back(fleet: &mut Fleet, pid: i32, id: TaskId, told: Instant) {
    assert_eq!(fleet.ended(pid).await, Some(0), "{}", fleet.logs());
    assert!(told.elapsed() < SOON, "{:?}", told.elapsed());
    eprintln!("ended within {:?}", told.elapsed());
    assert_eq!(fleet.strays(), Vec::<String>::new());
    let record = fleet.pool.task(id).await.expect("it is known");
    assert_eq!((record.state, record.run, record.attempt), (State::Pending, 1, 0), "{record:#?}");
    assert!(!record.runs[0].charged, "{record:#?}");
    fleet.worker(&[]);
    let record = fleet.over(id).await;
    assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("second")), "{record:#?}");
    assert_eq!((record.run, record.attempt), (2, 1), "{record:#?}");
}

#[tokio::test]
async fn a_worker_that_is_told_twice_gives_its_task_back_unspent() {
    let mut fleet = Fleet::new(Cli::Real).await;
    let pid = fleet.joined(&[]).await;
    let id = fleet.submit(FIRST_HANGS, may_run()).await;
    fleet.written("on.txt").await;
    fleet.kill(pid, Signal::SIGTERM);
    // Two signals at once would be one.
    fleet.worker_is(pid, "draining", |worker| worker.draining).await;
    let told = Instant::now();
    fleet.kill(pid, Signal::SIGTERM);
    given_back(&mut fleet, pid, id, told).await;
    fleet.end().await;
}

#[tokio::test]
async fn a_drain_takes_no_longer_than_it_may() {
    let mut fleet = Fleet::new(Cli::Real).await;
    let pid = fleet.joined(&["--drain-timeout=500ms"]).await;
    let id = fleet.submit(FIRST_HANGS, may_run()).await;
    fleet.written("on.txt").await;
    let told = Instant::now();
    fleet.kill(pid, Signal::SIGINT);
    given_back(&mut fleet, pid, id, told).await;
    fleet.end().await;
}

/// The first run leaves a loop in a session of its own; the second one looks whether it still turns. A zombie, which
/// only waits for its parent to take notice, does not.
const LEAVES: &str = "@bash if [ -e first ]; then s=$(cut -d' ' -f3 /proc/$(cat loop.pid)/stat 2>/dev/null); \
                      case \"$s\" in ''|Z|X) echo ended;; *) echo turns;; esac; else \
                      touch first; setsid bash -c 'echo $$ > loop.pid; while true; do sleep 0.1; done'; fi\n@echo result";

#[tokio::test]
async fn what_a_killed_worker_leaves_is_ended_before_the_next_run() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.env("MOTORPOOL_LEASE", "6s");
    let strangers = Command::new("sleep")
        .arg("300")
        .current_dir("/")
        .env("MOTORPOOL_RUN", "00000000-0000-0000-0000-000000000000/t1/1")
        .stdin(Stdio::null())
        .spawn();
    let mut stranger = strangers.expect("it starts");
    let pid = fleet.joined(&[]).await;
    let id = fleet.submit(LEAVES, may_run()).await;
    let looping = fleet.written("loop.pid").await;
    let claudes = |fleet: &Fleet| fleet.strays().iter().filter(|line| line.contains("stream-json")).count();
    assert_eq!(claudes(&fleet), 1, "{:?}", fleet.strays());
    fleet.kill(pid, Signal::SIGKILL);
    fleet.until("its Claude dies with it", async |fleet| (claudes(fleet) == 0).then_some(())).await;
    assert!(std::path::Path::new("/proc").join(&looping).exists(), "the loop survives, or nothing is shown here");
    fleet.worker(&[]);
    let record = fleet.over(id).await;
    assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("ended")), "{record:#?}");
    assert_eq!((record.run, record.attempt), (2, 2), "a lost run is charged: {record:#?}");
    assert_eq!(record.runs[0].class, Some(Class::Lost), "{record:#?}");
    assert!(fleet.logs().contains(&format!("ended what was left of former runs runs=\"{id}/1\"")), "{}", fleet.logs());
    assert!(stranger.try_wait().expect("its status").is_none(), "another pool's process was ended");
    stranger.kill().and_then(|()| stranger.wait()).expect("it was ours");
    fleet.end().await;
}
