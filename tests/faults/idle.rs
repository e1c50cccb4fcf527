//! Idle workers: no wake-up is lost, and one that is frozen or killed does not keep others from working.

use std::time::Duration;

use motorpool::{Spec, TaskId, TaskOptions, TaskRecord};
use motorpool_tests::faults::signal;
use motorpool_tests::fleet::{Cli, Fleet};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

/// A lease with which an idle worker does not look by itself while a test waits: it blocks for a third of it. Where
/// nobody sweeps either, who misses a wake-up sleeps on, and the test waits in vain: no clock has to tell.
const LONG_LEASE_S: u64 = 600;

fn waited_ms(record: &TaskRecord) -> u64 {
    record.runs[0].started_ms - record.created_ms
}

/// So many idle workers, whom nothing wakes but a token.
async fn sleepers(count: usize) -> Fleet {
    let mut fleet = Fleet::with_lease(Cli::StandIn, LONG_LEASE_S).await;
    fleet.nobody_sweeps().await;
    for _ in 0..count {
        fleet.worker(&[]);
    }
    fleet.all_joined(count).await;
    fleet
}

#[tokio::test]
async fn no_wake_up_is_lost_among_four() {
    let fleet = sleepers(4).await;
    let mut waits_ms = Vec::new();
    for n in 0..40 {
        let record = fleet.run(&format!("@say {n}"), json!({})).await;
        assert_eq!((record.run, record.attempt), (1, 1), "{record:#?}");
        waits_ms.push(waited_ms(&record));
    }
    waits_ms.sort_unstable();
    eprintln!("40 one by one waited {} ms, the middle one; {} ms at most", waits_ms[20], waits_ms[39]);
    // Four that wait for each other need all four workers; where they come at once, one wakes the next.
    for round in 0..10 {
        let prompt = |n: usize| {
            format!("@bash touch {round}-{n}; until [ $(ls {round}-* | wc -l) = 4 ]; do sleep 0.02; done\n@say {n}")
        };
        let ids: Vec<TaskId> = if round % 2 == 0 {
            let specs = (0..4).map(|n| Spec::new(prompt(n), TaskOptions::default()).expect("a task that does"));
            let submitted = fleet.pool.submit_all(specs.collect()).await.expect("they are taken");
            submitted.into_iter().map(|task| task.id).collect()
        } else {
            let mut ids = Vec::new();
            for n in 0..4 {
                ids.push(fleet.submit(&prompt(n), json!({})).await);
            }
            ids
        };
        for record in fleet.completed_once(&ids).await {
            assert_eq!((record.run, record.attempt), (1, 1), "{record:#?}");
        }
    }
    fleet.end_empty().await;
}

/// An idle worker's wait ends now and then, and it looks for itself before it waits again.
#[tokio::test]
async fn no_wake_up_is_lost_where_a_wait_ends() {
    let fleet = sleepers(1).await;
    for n in 0..40 {
        let waiter = fleet.until("the worker waits", async |fleet| fleet.waiters().await.first().copied()).await;
        // As if its time were over, at the instant of a submission: sometimes just before, sometimes just after.
        let prompt = format!("@say {n}");
        let submit = fleet.submit(&prompt, json!({}));
        let id = match n % 2 {
            0 => tokio::join!(fleet.end_wait(waiter), submit).1,
            _ => tokio::join!(submit, fleet.end_wait(waiter)).0,
        };
        let record = fleet.over(id).await;
        assert_eq!((record.run, record.attempt), (1, 1), "{record:#?}");
    }
    fleet.end_empty().await;
}

/// The frozen one has waited longest, so Redis hands it the token; the sweep gives another one.
#[tokio::test]
async fn a_frozen_idle_worker_holds_nobody_up() {
    let mut fleet = Fleet::with_lease(Cli::StandIn, LONG_LEASE_S).await;
    let pids = [fleet.worker(&[]), fleet.worker(&[]), fleet.worker(&[])];
    fleet.all_joined(3).await;
    let sweeper = fleet.until("somebody sweeps", async |fleet| fleet.sweeper().await).await;
    let sweeper = fleet.pid_of(&sweeper).await;
    for frozen in pids.into_iter().filter(|pid| *pid != sweeper) {
        fleet.until("all wait", async |fleet| (fleet.waiters().await.len() == 3).then_some(())).await;
        signal(frozen, Signal::SIGSTOP);
        for n in 0..3 {
            let record = fleet.run(&format!("@say {n}"), json!({})).await;
            eprintln!("one is frozen: the task waited {} ms", waited_ms(&record));
            assert_eq!((record.run, record.attempt), (1, 1));
        }
        signal(frozen, Signal::SIGCONT);
    }
    fleet.end_empty().await;
}

/// The others look for themselves when their waits end, a third of the lease away at most, and one of them sweeps.
#[tokio::test]
async fn a_frozen_sweeper_is_replaced() {
    let mut fleet = Fleet::with_lease(Cli::StandIn, 3).await;
    for _ in 0..3 {
        fleet.worker(&[]);
    }
    fleet.all_joined(3).await;
    let sweeper = fleet.until("somebody sweeps", async |fleet| fleet.sweeper().await).await;
    let frozen = fleet.pid_of(&sweeper).await;
    signal(frozen, Signal::SIGSTOP);
    let record = fleet.run("@say the sweeper", json!({})).await;
    eprintln!("the sweeper is frozen: the task waited {} ms", waited_ms(&record));
    assert_eq!((record.run, record.attempt), (1, 1), "{record:#?}");
    fleet.until("another one sweeps", async |fleet| fleet.sweeper().await.filter(|next| *next != sweeper)).await;
    signal(frozen, Signal::SIGCONT);
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
        let mut fleet = Fleet::with_lease(Cli::StandIn, 90).await;
        fleet.nobody_sweeps().await;
        fleet.worker(&[]);
        fleet.all_joined(1).await;
        // Its waits are 30 s long: the third one has just begun.
        sleep(Duration::from_secs(62)).await;
        let record = fleet.run("@say awake", json!({})).await;
        eprintln!("idle for a minute: the task waited {} ms", waited_ms(&record));
        assert!(waited_ms(&record) < 15_000, "it was the end of the wait that woke it\n{}", fleet.logs());
        fleet.end_empty().await;
    }
}
