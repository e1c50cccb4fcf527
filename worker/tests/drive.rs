//! Whole runs with shell scripts in the place of the CLI: what is done to processes and pipes.
//!
//! A script says `hi` when it is where the test wants it. Not here: how long things take (`attempt/machine_tests.rs`).

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use motorpool::Progress;
use motorpool::domain::attempt::{Class, Ending};
use motorpool::pool::Beat;
use motorpool_worker::attempt::drive::{Finished, Job, Live, Notices, Outside, drive};
use motorpool_worker::claude::classify::Classified;
use motorpool_worker::claude::command::{Command, Environment, RUN_MARK};
use motorpool_worker::process;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

/// Orphans are handed to the process as a whole, so one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

const INIT: &str = r#"{"type":"system","subtype":"init","session_id":"s1","model":"m"}"#;
const TEXT: &str = r#"{"type":"assistant","message":{"id":"a","model":"m","content":[{"type":"text","text":"hi"}]}}"#;
const RESULT: &str =
    r#"{"type":"result","subtype":"success","is_error":false,"result":"hi","num_turns":1,"total_cost_usd":0.5}"#;

struct Redis {
    answer: Beat,
    beats: RefCell<Vec<Progress>>,
    live: RefCell<String>,
}

impl Redis {
    fn answers(answer: Beat) -> Self {
        Self { answer, beats: RefCell::default(), live: RefCell::default() }
    }
}

impl Outside for Redis {
    async fn beat(&self, progress: &Progress) -> Beat {
        if progress.session_id.is_empty() {
            // The shell has yet to begin.
            return Beat::Ok;
        }
        self.beats.borrow_mut().push(progress.clone());
        match self.answer {
            // A Redis that is away does not answer at all.
            Beat::Unreachable => std::future::pending().await,
            answer => answer,
        }
    }

    async fn live(&self, live: Live) {
        self.live.borrow_mut().extend(live.pieces().iter().map(|(_, text)| text.as_str()));
    }
}

fn job(script: &str, input: String, lease: Duration) -> Job {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let run = format!("drive-{}/t{number}/1", std::process::id());
    let mut env: Environment = std::env::vars_os().filter(|(name, _)| name == "PATH").collect();
    env.insert(RUN_MARK.into(), run.as_str().into());
    let command = Command {
        program: Path::new("/bin/sh").to_owned(),
        args: vec!["-c".into(), script.into()],
        env,
        cwd: std::env::temp_dir(),
        run,
        input,
        structured: false,
    };
    Job { command, claimed: Instant::now(), lease, timeout: None, idle: None }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cancel {
    Never,
    /// As soon as the script has said something.
    Ready,
}

async fn play(job: Job, redis: &Redis, cancel_when: Cancel) -> Finished {
    motorpool::process::adopt_orphans().unwrap();
    let (cancel, cancelled) = watch::channel(false);
    let (_stop, stopped) = watch::channel(false);
    let mark = job.command.run.clone();
    let canceller = async {
        if cancel_when == Cancel::Ready {
            while redis.live.borrow().is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
            cancel.send_replace(true);
        }
        std::future::pending::<()>().await;
    };
    let finished = tokio::select! {
        finished = drive(job, redis, Notices { cancel: cancelled, stop: stopped }) => finished,
        () = canceller => unreachable!("pending"),
    };
    assert_eq!(process::tree(0, &mark), [], "verified gone");
    finished
}

fn outcome(finished: Finished) -> Classified {
    match finished {
        Finished::Outcome(classified) => *classified,
        Finished::Stale => panic!("stale"),
    }
}

fn class(finished: Finished) -> Class {
    match outcome(finished).outcome.ending {
        Ending::Failed(failure) => failure.class,
        other => panic!("{other:?}"),
    }
}

const LEASE: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "current_thread")]
async fn a_prompt_of_a_mebibyte_goes_in_while_lines_come_out() {
    let _alone = ALONE.lock().await;
    let closed = tempfile::tempdir().unwrap();
    let closed = closed.path().join("closed");
    // Says more than a pipe holds before it reads anything.
    let script = format!(
        "i=0; while [ $i -lt 3000 ]; do echo '{{\"type\":\"system\",\"subtype\":\"status\",\"n\":\"{}\"}}'; i=$((i+1)); \
         done; n=$(head -n 2 | wc -c); echo '{INIT}'; echo '{TEXT}'; \
         echo \"{{\\\"type\\\":\\\"result\\\",\\\"subtype\\\":\\\"success\\\",\\\"result\\\":\\\"$n\\\"}}\"; \
         cat > /dev/null; touch {}",
        "x".repeat(100),
        closed.display()
    );
    let input = format!("first\n{}\n", "p".repeat(1024 * 1024));
    let bytes = input.len();
    let redis = Redis::answers(Beat::Ok);
    let finished = play(job(&script, input, LEASE), &redis, Cancel::Never).await;
    let got = outcome(finished).outcome;
    assert_eq!(got.ending, Ending::Success);
    assert_eq!(got.report.output.as_deref().map(str::trim), Some(bytes.to_string().as_str()));
    assert_eq!(*redis.live.borrow(), "hi\n");
    assert!(closed.exists(), "stdin was closed after the result");
}

#[tokio::test(flavor = "current_thread")]
async fn a_cancelled_run_that_ignores_everything_is_gone() {
    let _alone = ALONE.lock().await;
    // What it ignores its children ignore.
    let stubborn = "while :; do sleep 0.2; done";
    let script =
        format!("trap '' INT TERM HUP; echo '{INIT}'; setsid sh -c \"{stubborn}\" & echo '{TEXT}'; {stubborn}");
    let redis = Redis::answers(Beat::Ok);
    let finished = play(job(&script, String::new(), LEASE), &redis, Cancel::Ready).await;
    assert_eq!(class(finished), Class::Cancelled);
}

#[tokio::test(flavor = "current_thread")]
async fn sigint_lets_it_tell_its_result() {
    let _alone = ALONE.lock().await;
    let aborted = r#"{"type":"result","subtype":"error_during_execution","is_error":true,"total_cost_usd":0.25}"#;
    // In a variable, since one quote within another is a riddle.
    let script = format!(
        "r='{aborted}'; trap 'echo \"$r\"; exit 1' INT; echo '{INIT}'; echo '{TEXT}'; \
         while :; do sleep 0.05; done"
    );
    let redis = Redis::answers(Beat::Ok);
    let finished = play(job(&script, String::new(), LEASE), &redis, Cancel::Ready).await;
    let got = outcome(finished).outcome;
    assert_eq!(got.report.cost_microusd, 250_000, "{got:?}");
    assert!(matches!(got.ending, Ending::Failed(failure) if failure.class == Class::Cancelled));
}

#[tokio::test(flavor = "current_thread")]
async fn a_child_that_holds_the_pipe_open_does_not_hold_up_the_result() {
    let _alone = ALONE.lock().await;
    let script = format!("(setsid sleep 300 &) ; echo '{INIT}'; echo '{RESULT}'; exit 0");
    let redis = Redis::answers(Beat::Ok);
    let begun = Instant::now();
    let finished = play(job(&script, String::new(), LEASE), &redis, Cancel::Never).await;
    assert_eq!(outcome(finished).outcome.ending, Ending::Success);
    assert!(begun.elapsed() < Duration::from_secs(60), "the child sleeps for five minutes");
}

#[tokio::test(flavor = "current_thread")]
async fn a_lost_lease_ends_it_at_once() {
    let _alone = ALONE.lock().await;
    let script = format!("echo '{INIT}'; sleep 300");
    let redis = Redis::answers(Beat::Stale);
    let finished = play(job(&script, String::new(), Duration::from_millis(900)), &redis, Cancel::Never).await;
    assert_eq!(finished, Finished::Stale);
    assert_eq!(redis.beats.borrow()[0].session_id, "s1");
}

#[tokio::test(flavor = "current_thread")]
async fn a_redis_that_does_not_answer_ends_it_when_the_lease_is_almost_over() {
    let _alone = ALONE.lock().await;
    let script = format!("echo '{INIT}'; sleep 300");
    let redis = Redis::answers(Beat::Unreachable);
    let begun = Instant::now();
    let finished = play(job(&script, String::new(), Duration::from_millis(900)), &redis, Cancel::Never).await;
    let got = outcome(finished).outcome;
    assert!(matches!(&got.ending, Ending::Stopped(reason) if reason.contains("Redis")), "{got:?}");
    assert!(begun.elapsed() >= Duration::from_millis(720), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "current_thread")]
async fn stderr_of_a_cli_that_refuses_is_the_message() {
    let _alone = ALONE.lock().await;
    let redis = Redis::answers(Beat::Ok);
    let job = job("echo 'no such option' >&2; exit 1", "x\n".into(), LEASE);
    let finished = play(job, &redis, Cancel::Never).await;
    let got = outcome(finished).outcome;
    let Ending::Failed(failure) = got.ending else { panic!("{got:?}") };
    assert_eq!((failure.class, failure.message.as_str()), (Class::Request, "no such option"));
}

#[tokio::test(flavor = "current_thread")]
async fn what_cannot_be_started_says_whose_fault_it_is() {
    let _alone = ALONE.lock().await;
    let redis = Redis::answers(Beat::Ok);
    let mut nowhere = job("true", String::new(), LEASE);
    nowhere.command.cwd = Path::new("/nowhere").to_owned();
    let finished = play(nowhere, &redis, Cancel::Never).await;
    assert_eq!(class(finished), Class::Request);
    let mut gone = job("true", String::new(), LEASE);
    gone.command.program = Path::new("/nowhere/claude").to_owned();
    let finished = play(gone, &redis, Cancel::Never).await;
    let got = outcome(finished);
    assert!(matches!(got.outcome.ending, Ending::Stopped(_)));
    assert_eq!(got.unfit.unwrap().class, Class::Internal);
}
