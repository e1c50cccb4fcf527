//! Idle workers: no wake-up is lost, and one that is frozen or killed does not keep others from working.

use std::time::Duration;

use motorpool::{TaskId, TaskRecord};
use motorpool_tests::faults::signal;
use motorpool_tests::fleet::{Cli, Fleet};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

/// From submit to start, both by Redis's clock; 100 ms is the aim, on a machine that does nothing else.
const PROMPT_MS: u64 = 300;

fn waited_ms(record: &TaskRecord) -> u64 {
    record.runs[0].started_ms - record.created_ms
}

fn prompt(record: &TaskRecord, fleet: &Fleet) {
    assert_eq!((record.run, record.attempt), (1, 1), "{record:#?}");
    assert!(waited_ms(record) <= PROMPT_MS, "{} waited {} ms\n{}", record.id, waited_ms(record), fleet.logs());
}

async fn idle_for(seconds: &[f64]) {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.worker(&[]);
    fleet.all_joined(1).await;
    for idle in seconds {
        sleep(Duration::from_secs_f64(*idle)).await;
        let record = fleet.run("@say awake", json!({})).await;
        eprintln!("idle for {idle} s: the task waited {} ms", waited_ms(&record));
        prompt(&record, &fleet);
    }
    fleet.end_empty().await;
}

#[tokio::test]
async fn a_worker_that_was_idle_starts_at_once() {
    // An idle worker blocks for 5 s at a time: one wait ends within the first, one around its end, one behind it.
    idle_for(&[2.0, 5.0, 6.0]).await;
}

#[tokio::test]
async fn no_wake_up_is_lost_among_four() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    for _ in 0..4 {
        fleet.worker(&[]);
    }
    fleet.all_joined(4).await;
    let mut longest_ms = 0;
    for n in 0..40 {
        let record = fleet.run(&format!("@say {n}"), json!({})).await;
        longest_ms = longest_ms.max(waited_ms(&record));
        prompt(&record, &fleet);
    }
    eprintln!("40 one by one: at most {longest_ms} ms");
    let mut ids: Vec<TaskId> = Vec::new();
    for n in 0..40 {
        ids.push(fleet.submit(&format!("@sleep 50\n@say {n}"), json!({})).await);
    }
    let records = fleet.completed_once(&ids).await;
    let mut starts: Vec<u64> = records.iter().map(|record| record.runs[0].started_ms).collect();
    let mut ends: Vec<u64> = records.iter().map(|record| record.runs[0].ended_ms.unwrap()).collect();
    starts.sort_unstable();
    ends.sort_unstable();
    for record in &records {
        assert_eq!((record.run, record.attempt), (1, 1));
    }
    let first = records.iter().map(|record| record.created_ms).max().unwrap();
    let waits = starts.iter().enumerate().map(|(n, start)| match n.checked_sub(4) {
        // The first four find an idle worker each.
        None => start.saturating_sub(first),
        // Each other one starts when a worker is free.
        Some(before) => start.saturating_sub(ends[before].max(first)),
    });
    let longest_ms = waits.max().unwrap();
    eprintln!("40 at once: no worker was free for more than {longest_ms} ms");
    assert!(longest_ms <= PROMPT_MS, "{longest_ms} ms\n{}", fleet.logs());
    fleet.end_empty().await;
}

/// The frozen one has waited longest, so Redis hands it the token.
#[tokio::test]
async fn a_frozen_idle_worker_holds_nobody_up() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let pids = [fleet.worker(&[]), fleet.worker(&[]), fleet.worker(&[])];
    fleet.all_joined(3).await;
    let sweeper = fleet.until("somebody sweeps", async |fleet| fleet.sweeper().await).await;
    let sweeper = fleet.pid_of(&sweeper).await;
    for frozen in pids.into_iter().filter(|pid| *pid != sweeper) {
        signal(frozen, Signal::SIGSTOP);
        for n in 0..3 {
            let record = fleet.run(&format!("@say {n}"), json!({})).await;
            eprintln!("one is frozen: the task waited {} ms", waited_ms(&record));
            assert_eq!((record.run, record.attempt), (1, 1));
            assert!(waited_ms(&record) <= 2000, "{} ms\n{}", waited_ms(&record), fleet.logs());
        }
        signal(frozen, Signal::SIGCONT);
    }
    // The sweeper itself: another one takes its place at its next claim, a third of the lease away at most.
    signal(sweeper, Signal::SIGSTOP);
    let record = fleet.run("@say the sweeper", json!({})).await;
    eprintln!("the sweeper is frozen: the task waited {} ms", waited_ms(&record));
    assert!(waited_ms(&record) <= 8500, "{} ms\n{}", waited_ms(&record), fleet.logs());
    signal(sweeper, Signal::SIGCONT);
    fleet.end_empty().await;
}

#[tokio::test]
async fn another_one_sweeps_when_the_sweeper_is_killed() {
    let mut fleet = Fleet::with_lease(Cli::StandIn, 3).await;
    let mut pids = vec![fleet.worker(&[]), fleet.worker(&[])];
    fleet.all_joined(2).await;
    for _ in 0..3 {
        let sweeper = fleet.until("somebody sweeps", async |fleet| fleet.sweeper().await).await;
        let pid = fleet.pid_of(&sweeper).await;
        assert!(pids.contains(&pid));
        fleet.kill(pid, Signal::SIGKILL);
        let killed = Instant::now();
        let next = fleet
            .until("another one sweeps", async |fleet| fleet.sweeper().await.filter(|next| *next != sweeper))
            .await;
        eprintln!("another one sweeps {:?} after the kill", killed.elapsed());
        assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
        assert_ne!(fleet.pid_of(&next).await, pid);
        pids.push(fleet.worker(&[]));
        fleet
            .until("its presence is gone", async |fleet| {
                let workers = fleet.pool.workers().await.expect("the pool answers");
                (workers.len() == 2 && workers.iter().all(|worker| worker.pid as i32 != pid)).then_some(())
            })
            .await;
    }
    fleet.end_empty().await;
}

mod long {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_was_idle_for_a_minute_starts_at_once() {
        idle_for(&[60.0]).await;
    }
}
