//! A worker is killed or frozen in the middle of a task.

use std::time::Duration;

use motorpool::pool::{Claim, Seat};
use motorpool::{Class, Ending, Outcome, Presence, Report, State};
use motorpool_tests::faults::{lives, signal};
use motorpool_tests::fleet::{Cli, Fleet, PATIENCE};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, timeout};

/// A recovery takes the lease and at most 10 s; and on a slow machine this.
const OVER_LEASE: Duration = Duration::from_secs(30);
/// What goes on until the test lets it.
const UNTIL_GO: &str = "until [ -e go ]; do sleep 0.02; done";

fn lines(fleet: &Fleet, name: &str) -> usize {
    std::fs::read_to_string(fleet.work.join(name)).map_or(0, |text| text.lines().count())
}

/// The worker is killed in the first of three calls of the real CLI; the first call of the first run ends with
/// `orphan`, a command that outlives the worker.
async fn killed_in_the_first_of_three_calls(lease_s: u64, orphan: &str) {
    let mut fleet = Fleet::with_lease(Cli::Real, lease_s).await;
    let workers = [fleet.worker(&[]), fleet.worker(&[])];
    fleet.all_joined(2).await;
    let prompt = format!(
        "Three calls.\n@bash echo $$ >> one; [ $(wc -l < one) -gt 1 ] || {orphan}\n@bash echo 2 >> two\n\
         @bash echo 3 >> three\n@say done"
    );
    let task = fleet
        .submit(&prompt, json!({"permission_mode": "acceptEdits", "allowed_tools": ["Bash"], "model": "sonnet"}))
        .await;
    let pid = fleet.holder(task).await;
    assert!(workers.contains(&pid));
    fleet.until("the first call runs", async |fleet| (lines(fleet, "one") > 0).then_some(())).await;
    fleet.kill(pid, Signal::SIGKILL);
    let killed = Instant::now();
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    let record = fleet
        .until("a second run", async |fleet| {
            let record = fleet.pool.task(task).await.expect("the pool answers");
            (record.run > 1).then_some(record)
        })
        .await;
    let recovered = killed.elapsed();
    eprintln!("lease {lease_s} s: the second run began {recovered:?} after the kill");
    assert!(recovered < Duration::from_secs(lease_s) + OVER_LEASE, "{recovered:?}\n{}", fleet.logs());
    let waited_ms = record.runs[1].started_ms - record.runs[0].started_ms;
    assert!(waited_ms >= lease_s * 1000, "taken away after {waited_ms} ms, within the lease");
    let record = fleet.completed_once(&[task]).await.remove(0);
    assert_ne!(record.runs[0].worker, record.runs[1].worker);
    assert_eq!((record.run, record.attempt), (2, 2));
    assert_eq!((record.runs[0].class, record.runs[0].charged), (Some(Class::Lost), true));
    assert_eq!((lines(&fleet, "one"), lines(&fleet, "two"), lines(&fleet, "three")), (2, 1, 1));
    // The shell of the first run's call had a session of its own.
    let shells = std::fs::read_to_string(fleet.work.join("one")).unwrap();
    for shell in shells.lines() {
        assert!(!lives(shell.parse().unwrap()), "the shell {shell} lives on");
    }
    fleet.end_empty().await;
}

#[tokio::test]
async fn a_killed_worker_takes_its_claude_along() {
    // Were its Claude alive, it would go on to the other calls long before the second run.
    killed_in_the_first_of_three_calls(15, UNTIL_GO).await;
}

#[tokio::test]
async fn what_a_killed_worker_left_is_ended_before_the_next_run() {
    killed_in_the_first_of_three_calls(6, "bash -c 'sleep 300; true'").await;
}

#[tokio::test]
async fn a_worker_frozen_past_its_lease_ends_its_claude_and_writes_nothing() {
    frozen("[ -e begun ] || { touch begun; sleep 300; }", true).await;
}

#[tokio::test]
async fn a_result_that_comes_after_the_lease_is_refused() {
    frozen(&format!("touch begun; {UNTIL_GO}"), false).await;
}

/// The worker is stopped past its lease while its Claude goes on, and another machine does the task meanwhile.
async fn frozen(command: &str, goes_on: bool) {
    let mut fleet = Fleet::with_lease(Cli::StandIn, 6).await;
    let worker = fleet.worker(&[]);
    fleet.all_joined(1).await;
    let task = fleet.submit(&format!("@bash {command}\n@say mine"), json!({})).await;
    assert_eq!(fleet.holder(task).await, worker);
    fleet.until("the command runs", async |fleet| fleet.work.join("begun").exists().then_some(())).await;
    signal(worker, Signal::SIGSTOP);
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    // A worker of another machine, which does not see the processes of this one: it could not end them.
    let (settled, other) = another_machine(&fleet).await;
    assert!(settled);
    assert!(!goes_on || !fleet.claudes().is_empty());
    signal(worker, Signal::SIGCONT);
    // Whichever it does first: it beats, or it offers the result.
    let walks_away = async |fleet: &Fleet| fleet.logs().contains("no longer this worker's").then_some(());
    fleet.until("the first worker walks away", walks_away).await;
    fleet.until("its Claude is gone", async |fleet| fleet.claudes().is_empty().then_some(())).await;
    let record = fleet.completed_once(&[task]).await.remove(0);
    assert_eq!(record.output.as_deref(), Some("the other machine's"));
    assert_eq!((record.run, record.worker), (2, None));
    other.leave().await;
    // And it goes on fetching.
    let next = fleet.run("@say again", json!({})).await;
    assert_eq!((next.state, next.run), (State::Completed, 1), "{}", fleet.logs());
    assert_eq!(next.runs[0].worker, record.runs[0].worker);
    fleet.end_empty().await;
}

/// Another machine does the task that is there, or is given up there.
pub(crate) async fn another_machine(fleet: &Fleet) -> (bool, Seat) {
    let presence = Presence { host: "elsewhere".into(), lanes: vec!["default".into()], ..Presence::default() };
    let mut seat = Seat::join(&fleet.pool, presence).await.expect("it joins");
    let taken = timeout(PATIENCE, async {
        let mut token = None;
        loop {
            if let Claim::Run(lease) = seat.claim(token.as_deref()).await.expect("it claims") {
                return lease;
            }
            token = seat.wait_for_work().await;
        }
    });
    let lease = taken.await.unwrap_or_else(|_| panic!("the task was not taken from the frozen worker"));
    let report = Report { output: Some("the other machine's".into()), spoke: true, ..Report::default() };
    let outcome = Outcome { report, ending: Ending::Success, retry_after_ms: None };
    (seat.finish(lease, &outcome).await.expect("it is answered"), seat)
}
