//! Redis is killed or frozen, for less and for more than a lease, while tasks run.

use std::time::Duration;

use motorpool::TaskId;
use motorpool_tests::faults::signal;
use motorpool_tests::fleet::{Cli, Fleet};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

const WORKERS: usize = 3;

/// How Redis is away.
#[derive(Clone, Copy)]
enum Away {
    Killed,
    Frozen,
}

impl Away {
    async fn begins(self, fleet: &mut Fleet) {
        match self {
            Self::Killed => fleet.redis_down().await,
            Self::Frozen => signal(fleet.redis_pid(), Signal::SIGSTOP),
        }
    }

    async fn ends(self, fleet: &mut Fleet) {
        match self {
            Self::Killed => fleet.redis_up().await,
            Self::Frozen => signal(fleet.redis_pid(), Signal::SIGCONT),
        }
    }
}

const UNTIL_GO: &str = "until [ -e go ]; do sleep 0.02; done";

/// Workers, each in the middle of a task that has begun with `command`.
async fn at_work(lease_s: u64, command: impl Fn(usize) -> String) -> (Fleet, Vec<TaskId>) {
    let mut fleet = Fleet::with_lease(Cli::StandIn, lease_s).await;
    for _ in 0..WORKERS {
        fleet.worker(&[]);
    }
    fleet.all_joined(WORKERS).await;
    let mut ids = Vec::new();
    for n in 0..WORKERS {
        ids.push(fleet.submit(&format!("@bash {}\n@say {n}", command(n)), json!({})).await);
    }
    fleet
        .until("every task has begun", async |fleet| {
            (0..WORKERS).all(|n| fleet.work.join(format!("begun-{n}")).exists()).then_some(())
        })
        .await;
    (fleet, ids)
}

/// For how long each worker was not heard.
async fn silent_ms(fleet: &Fleet) -> impl Iterator<Item = u64> + use<> {
    let workers = fleet.pool.workers().await.expect("the pool answers");
    assert_eq!(workers.len(), WORKERS);
    workers.into_iter().map(|worker| worker.silent_ms)
}

/// Less than a lease: no run is lost, and none starts twice.
async fn shorter_than_the_lease(away: Away) {
    // A beat every five seconds; what is away for a little more than that and for less than ten is no loss.
    let (mut fleet, ids) = at_work(15, |n| format!("touch begun-{n}; {UNTIL_GO}")).await;
    for _ in 0..2 {
        // So that at least one of them would have beaten meanwhile.
        fleet.until("a beat is due", async |fleet| silent_ms(fleet).await.any(|ms| ms > 3500).then_some(())).await;
        away.begins(&mut fleet).await;
        sleep(Duration::from_millis(1800)).await;
        away.ends(&mut fleet).await;
        let back = Instant::now();
        fleet
            .until("every worker was heard since", async |fleet| {
                let since = back.elapsed().as_millis();
                silent_ms(fleet).await.all(|ms| u128::from(ms) < since).then_some(())
            })
            .await;
    }
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    for record in fleet.completed_once(&ids).await {
        let happened = fleet.happened(record.id).await;
        assert_eq!((record.run, record.attempt), (1, 1), "{happened:?}\n{}", fleet.logs());
    }
    fleet.end_empty().await;
}

/// More than a lease: the workers end their Claude; nothing is charged; the tasks are done by a new run.
async fn longer_than_the_lease(away: Away) {
    // Back in touch, they have two thirds of it to hand back what they had.
    const LEASE_S: u64 = 6;
    let command = |n| format!("[ -e begun-{n} ] || {{ touch begun-{n}; sleep 300; }}");
    let (mut fleet, ids) = at_work(LEASE_S, command).await;
    away.begins(&mut fleet).await;
    let begin = Instant::now();
    fleet.until("the workers end their Claude", async |fleet| fleet.claudes().is_empty().then_some(())).await;
    let ended = begin.elapsed();
    eprintln!("all Claudes were gone {ended:?} after Redis");
    sleep(Duration::from_secs(LEASE_S + 3).saturating_sub(ended)).await;
    away.ends(&mut fleet).await;
    let back = Instant::now();
    for record in fleet.completed_once(&ids).await {
        let happened = fleet.happened(record.id).await;
        assert_eq!((record.run, record.attempt), (2, 1), "{happened:?}\n{}", fleet.logs());
        assert!(!record.runs[0].charged && record.runs[0].class.is_none(), "{:?}", record.runs[0]);
        assert_eq!(happened.get("lost"), None);
    }
    eprintln!("all tasks were done {:?} after Redis was back", back.elapsed());
    fleet.end_empty().await;
}

#[tokio::test]
async fn killed_for_less_than_a_lease() {
    shorter_than_the_lease(Away::Killed).await;
}

#[tokio::test]
async fn frozen_for_less_than_a_lease() {
    shorter_than_the_lease(Away::Frozen).await;
}

#[tokio::test]
async fn killed_for_more_than_a_lease() {
    longer_than_the_lease(Away::Killed).await;
}

#[tokio::test]
async fn frozen_for_more_than_a_lease() {
    longer_than_the_lease(Away::Frozen).await;
}

/// Idle workers come back by themselves: each fetches its next task soon after Redis is there again.
#[tokio::test]
async fn idle_workers_fetch_again() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    for lane in ["a", "b", "c"] {
        fleet.worker(&["--lanes", lane]);
    }
    fleet.all_joined(3).await;
    for away in [Away::Killed, Away::Frozen] {
        away.begins(&mut fleet).await;
        sleep(Duration::from_secs(3)).await;
        away.ends(&mut fleet).await;
        let back = Instant::now();
        let mut ids = Vec::new();
        for lane in ["a", "b", "c"] {
            // In a lane that only one worker serves, so that no other one hides it.
            ids.push(fleet.submit("@say here", json!({"lane": lane})).await);
        }
        for record in fleet.completed_once(&ids).await {
            assert_eq!((record.run, record.attempt), (1, 1));
        }
        eprintln!("all idle workers had fetched {:?} after Redis was back", back.elapsed());
    }
    fleet.end_empty().await;
}

/// A password that is changed while a task runs, and changed back.
#[tokio::test]
async fn a_result_is_kept_while_redis_refuses_its_worker() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.worker(&[]);
    let id = fleet.submit("@bash touch begun; until [ -e go ]; do sleep 0.02; done\n@say kept", json!({})).await;
    fleet.until("the task has begun", async |fleet| fleet.work.join("begun").exists().then_some(())).await;
    // It was there before the password, so it does not need it.
    let mut operator = fleet.redis().await;
    let mut does = async |command: &[&str]| {
        let _: redis::Value =
            redis::cmd(command[0]).arg(&command[1..]).query_async(&mut operator).await.expect("Redis obeys");
    };
    does(&["CONFIG", "SET", "requirepass", "another"]).await;
    does(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    let says = "Redis refuses a result; it is kept";
    fleet.until("the worker says so", async |fleet| fleet.logs().contains(says).then_some(())).await;
    does(&["CONFIG", "SET", "requirepass", ""]).await;
    let record = fleet.completed_once(&[id]).await.remove(0);
    assert_eq!((record.run, record.attempt), (1, 1), "{}", fleet.logs());
    assert_eq!(record.output.as_deref(), Some("kept"));
    // And it goes on fetching.
    assert_eq!(fleet.run("@say next", json!({})).await.run, 1);
    fleet.end_empty().await;
}
