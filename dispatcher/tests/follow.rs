//! `run` from submission to its end, with a worker played by the test.

mod yard;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use motorpool::domain::fleet::Unfit;
use motorpool::pool::{Beat, Claim, Seat};
use motorpool::{ChunkKind, Class, Ending, Failure, Outcome, Pool, Presence, Progress, Report};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use yard::{Ran, Yard, eventually};

/// A worker that does what the prompt says.
struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(yard: &Yard, unfit: Option<Unfit>) -> Self {
        let (url, stop) = (yard.url(), Arc::new(AtomicBool::new(false)));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                // Whatever it waits for: a pool whose work is done may be gone for good.
                tokio::select! {
                    () = work(&url, unfit, &told) => {}
                    () = stopped(&told) => {}
                }
            });
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Time to leave in good order.
    tokio::time::sleep(Duration::from_secs(2)).await;
}

async fn work(url: &str, unfit: Option<Unfit>, stop: &AtomicBool) {
    let pool = Pool::connect(url).await.expect("the pool");
    let is_fit = unfit.is_none();
    let presence = Presence { host: "h".into(), lanes: vec!["default".into()], unfit, ..Presence::default() };
    let mut seat = Seat::join(&pool, presence).await.expect("a seat");
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if !is_fit {
            continue;
        }
        let Claim::Run(lease) = seat.claim(None).await.expect("an answer") else { continue };
        let output = seat.output(&lease);
        let said = [(ChunkKind::Text, "wor"), (ChunkKind::Text, "king"), (ChunkKind::Tool, "Bash(ls)")];
        output.add(&said.map(|(kind, text)| (kind, text.to_owned()))).await;
        let prompt = lease.spec().prompt.clone();
        let ending = match prompt.as_str() {
            "hang" => {
                while seat.beat(&lease, &Progress::default()).await.expect("an answer") != Beat::Cancel {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                }
                Ending::Failed(Failure::new(Class::Cancelled, "stopped"))
            }
            "fail" => Ending::Failed(
                Failure { status: Some(400), ..Failure::new(Class::Request, "no such model") }.hint("choose another"),
            ),
            "timeout" => Ending::Failed(Failure::new(Class::Timeout, "timeout_s reached")),
            _ => Ending::Success,
        };
        let denied = if prompt == "denied" { vec!["Write".into(), "Bash(cargo test)".into()] } else { vec![] };
        let report = Report { output: Some(format!("did {prompt}")), cost_microusd: 1200, denied, ..Report::default() };
        seat.finish(lease, &Outcome { report, ending, retry_after_ms: None }).await.expect("an answer");
    }
    seat.leave().await;
}

fn start(yard: &Yard, args: &[&str]) -> Child {
    yard.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("the process is there");
}

fn state(yard: &Yard, id: &str) -> String {
    let ran = yard.run(&["result", id, "--json"]);
    serde_json::from_str::<serde_json::Value>(&ran.stdout)
        .ok()
        .map_or_else(String::new, |record| record["state"].as_str().unwrap_or_default().into())
}

#[test]
fn the_output_alone_is_on_stdout_and_the_exit_code_says_how_it_ended() {
    let yard = Yard::new();
    let _worker = Worker::start(&yard, None);
    let ran = yard.run(&["run", "well"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "did well\n"), "{ran:?}");
    assert!(ran.stderr.contains("t1 in plan mode") && !ran.stderr.contains('\x1b'), "{ran:?}");
    let ran = yard.run(&["run", "denied"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.stderr
            .contains("completed, 2 calls denied: Write, Bash(cargo test); allow with --allowed-tools, edits with"),
        "{ran:?}"
    );
    let ran = yard.run(&["run", "fail"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), "did fail\n"), "{ran:?}");
    assert!(
        ran.stderr.contains("error: t3 failed (request, status 400): no such model\n  hint: choose another"),
        "{ran:?}"
    );
    let ran = yard.run(&["run", "timeout", "--json"]);
    assert_eq!((ran.code, &ran.json()["error"]["class"]), (Some(4), &"timeout".into()), "{ran:?}");
    let logs = yard.run(&["logs", "-f", "t1"]);
    assert!(
        logs.stdout.starts_with("--- run 1 on w-")
            && logs.stdout.contains("\nworking\n> Bash(ls)\n--- run 1 ended well after "),
        "{logs:?}"
    );
    let logs = yard.run(&["logs", "t3", "--json"]).json();
    let end = logs["items"].as_array().and_then(|items| items.last()).expect("an end");
    assert_eq!(end["kind"], "end", "{logs}");
    assert!(end["text"].as_str().is_some_and(|text| text.ends_with("(request): no such model")), "{logs}");
    let record = yard.run(&["result", "t1", "--wait", "--json"]).json();
    assert_eq!((&record["output"], &record["cost_usd"]), (&"did well".into(), &0.0012.into()), "{record}");
    assert!(record["runs"][0]["ended"].is_string(), "{record}");
}

#[test]
fn what_failed_is_tried_anew_once_and_the_log_tells_it_all() {
    let yard = Yard::new();
    let _worker = Worker::start(&yard, None);
    assert_eq!(yard.run(&["run", "fail", "--tags", "a,b", "--priority", "low"]).code, Some(1));
    let again = yard.run(&["retry", "t1"]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), "t2\n"), "{again:?}");
    let twice = yard.run(&["retry", "t1", "--json"]);
    assert_eq!((twice.code, &twice.json()["id"], &twice.json()["created"]), (Some(0), &"t2".into(), &false.into()));
    assert!(twice.stderr.contains("t1 was tried anew before, as t2"), "{twice:?}");
    assert_eq!(yard.run(&["result", "t2", "--wait"]).code, Some(1));
    let shown = yard.run(&["show", "t2", "--json"]).json();
    assert_eq!((&shown["retry_of"], &shown["tags"]), (&"t1".into(), &serde_json::json!(["a", "b"])), "{shown}");
    assert_eq!((&shown["prompt"], &shown["options"]["priority"]), (&"fail".into(), &"low".into()), "{shown}");
    let done = yard.run(&["submit", "--delay-s", "1", "well"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "t3\n"), "{done:?}");
    assert!(done.stderr.contains("begins in 1s"), "{done:?}");
    assert_eq!(yard.run(&["result", "t3", "--wait"]).code, Some(0));
    for (id, words) in [("t3", "only what failed or was cancelled"), ("t9", "no task t9")] {
        let refused = yard.run(&["retry", id]);
        assert_eq!((refused.code, refused.stderr.contains(words)), (Some(6), true), "{refused:?}");
    }
    let log = yard.run(&["events"]).stdout;
    let moves: Vec<&str> = log.lines().filter_map(|line| line.split_once("t3     ")).map(|(_, moved)| moved).collect();
    let wanted = [
        "- -> delayed (submit)",
        "delayed -> pending (due)",
        "pending -> running (claim, run 1)",
        "running -> completed (complete, run 1)",
    ];
    assert_eq!(moves, wanted, "{log}");
    let all = yard.run(&["events", "--json"]).json();
    let cursor = all["items"][0]["cursor"].as_str().expect("a cursor").to_owned();
    let behind = yard.run(&["events", "--cursor", &cursor, "--json"]).json();
    assert_eq!(behind["items"].as_array().map(Vec::len), all["items"].as_array().map(|all| all.len() - 1));
    assert_eq!(yard.run(&["events", "--cursor", "now"]).code, Some(2));
    for _ in 0..2 {
        assert_eq!(yard.run(&["submit", "--delay-s", "600", "later"]).code, Some(0));
    }
    let stopped = yard.run(&["cancel", "t4", "t99"]);
    assert_eq!((stopped.code, state(&yard, "t4").as_str()), (Some(6), "delayed"), "{stopped:?}");
    let stopped = yard.run(&["cancel", "t4", "t3", "t5", "--json"]);
    assert_eq!(stopped.code, Some(6), "one was over: {stopped:?}");
    let states: Vec<String> = ["t3", "t4", "t5"].map(|id| state(&yard, id)).to_vec();
    assert_eq!(states, ["completed", "cancelled", "cancelled"], "{stopped:?}");
    assert_eq!(stopped.json()["items"].as_array().map(Vec::len), Some(3));
}

#[test]
fn interrupted_it_cancels_and_waits_for_the_proof() {
    let yard = Yard::new();
    let _worker = Worker::start(&yard, None);
    let child = start(&yard, &["run", "hang"]);
    eventually("t1 running", || (state(&yard, "t1") == "running").then_some(()));
    signal(&child, Signal::SIGINT);
    let ran = Ran::of(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert_eq!(state(&yard, "t1"), "cancelled");
}

#[test]
fn out_of_time_it_cancels_and_hung_up_it_leaves_the_task_alone() {
    let yard = Yard::new();
    let _worker = Worker::start(&yard, None);
    let ran = yard.run(&["run", "hang", "--timeout", "1", "--json"]);
    assert_eq!((ran.code, &ran.json()["state"]), (Some(4), &"cancelled".into()), "{ran:?}");
    let mut child = start(&yard, &["run", "hang"]);
    eventually("t2 running", || (state(&yard, "t2") == "running").then_some(()));
    signal(&child, Signal::SIGHUP);
    assert!(!child.wait().expect("it ends").success());
    assert_eq!(state(&yard, "t2"), "running");
    assert_eq!(yard.run(&["cancel", "t2"]).code, Some(0));
}

#[test]
fn a_second_signal_does_not_wait() {
    let yard = Yard::new();
    let child = start(&yard, &["run", "hi"]);
    eventually("t1", || (state(&yard, "t1") == "pending").then_some(()));
    // Nobody runs it, so it is over at once.
    signal(&child, Signal::SIGTERM);
    let ran = Ran::of(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, Some(5), "{ran:?}");

    let worker = Worker::start(&yard, None);
    let mut child = start(&yard, &["run", "hang"]);
    eventually("t2 running", || (state(&yard, "t2") == "running").then_some(()));
    drop(worker);
    signal(&child, Signal::SIGINT);
    let mut lines = BufReader::new(child.stderr.as_mut().expect("a pipe")).lines();
    assert!(lines.any(|line| line.expect("a line").contains("cancelling")));
    signal(&child, Signal::SIGINT);
    let ran = Ran::of(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(ran.stderr.contains("t2 may still run"), "{ran:?}");
}

#[test]
fn out_of_time_the_first_signal_does_not_wait() {
    let yard = Yard::new();
    let worker = Worker::start(&yard, None);
    assert_eq!(yard.run(&["submit", "hang", "--once", "k"]).code, Some(0));
    eventually("t1 running", || (state(&yard, "t1") == "running").then_some(()));
    // From now on nobody brings the proof.
    drop(worker);
    let mut child = start(&yard, &["run", "hang", "--once", "k", "--timeout", "1"]);
    let mut lines = BufReader::new(child.stderr.as_mut().expect("a pipe")).lines();
    assert!(lines.any(|line| line.expect("a line").contains("the time is up; cancelling; Ctrl-C does not wait")));
    signal(&child, Signal::SIGINT);
    // Without it, the proof would be waited for, for a minute.
    eventually("its end", || child.try_wait().expect("a status"));
    let ran = Ran::of(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.stderr.contains("t1 may still run: there is no proof yet"), "{ran:?}");
    let shown = yard.run(&["show", "t1", "--json"]).json();
    assert_eq!(shown["state"], "running", "{shown}");
}

#[test]
fn two_signals_at_once_still_cancel() {
    let yard = Yard::new();
    let child = start(&yard, &["run", "hi"]);
    eventually("t1", || (state(&yard, "t1") == "pending").then_some(()));
    signal(&child, Signal::SIGINT);
    signal(&child, Signal::SIGTERM);
    let ran = Ran::of(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert_eq!(state(&yard, "t1"), "cancelled", "{ran:?}");
}

#[test]
fn with_nobody_fit_an_embedded_pool_gives_up() {
    let yard = Yard::new();
    let unfit = Unfit {
        class: Class::Auth,
        message: "not signed in".into(),
        hint: Some("claude auth login".into()),
        until_ms: None,
    };
    let _worker = Worker::start(&yard, Some(unfit));
    let ran = yard.run(&["run", "hi", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("not signed in") && ran.stderr.contains("claude auth login"), "{ran:?}");
    let record = ran.json();
    assert_eq!((&record["state"], &record["error"]["class"]), (&"cancelled".into(), &"auth".into()), "{record}");
}

#[test]
fn a_redis_that_comes_back_is_no_failure() {
    let yard = Yard::new();
    let worker = Worker::start(&yard, None);
    drop(worker);
    let child = start(&yard, &["run", "late"]);
    eventually("t1", || (state(&yard, "t1") == "pending").then_some(()));
    let status = yard.run(&["status", "--json"]).json();
    let keeper = status["embedded"]["keeper_pid"].as_i64().expect("a keeper");
    kill(Pid::from_raw(i32::try_from(keeper).expect("a pid")), Signal::SIGKILL).expect("the keeper is there");
    let _worker = Worker::start(&yard, None);
    let ran = Ran::of(child.wait_with_output().expect("it ends"));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "did late\n"), "{ran:?}");
}
