//! Redis is killed or frozen, for less and for more than a lease, while tasks run.

use std::time::Duration;

use motorpool::TaskId;
use motorpool_tests::faults::signal;
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::report;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

const FEW: usize = 3;

/// How Redis is away.
#[derive(Clone, Copy)]
enum Away {
    Killed,
    Frozen,
}

impl Away {
    fn word(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Frozen => "frozen",
        }
    }

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

/// Many must not look as often as few: each look is a process.
fn until_go(workers: usize) -> String {
    format!("until [ -e go ]; do sleep {}; done", 0.02 * workers as f64)
}

/// Workers, each in the middle of a task that has begun with `command`.
pub(crate) async fn at_work(workers: usize, lease_s: u64, command: impl Fn(usize) -> String) -> (Fleet, Vec<TaskId>) {
    let mut fleet = Fleet::with_lease(Cli::StandIn, lease_s).await;
    for _ in 0..workers {
        fleet.worker(&[]);
    }
    fleet.all_joined(workers).await;
    let mut ids = Vec::new();
    for n in 0..workers {
        ids.push(fleet.submit(&format!("@bash {}\n@say {n}", command(n)), json!({})).await);
    }
    fleet
        .until("every task has begun", async |fleet| {
            (0..workers).all(|n| fleet.work.join(format!("begun-{n}")).exists()).then_some(())
        })
        .await;
    (fleet, ids)
}

/// For how long each worker was not heard.
async fn silent_ms(fleet: &Fleet) -> impl Iterator<Item = u64> + use<> {
    let workers = fleet.pool.workers().await.expect("the pool answers");
    assert!(!workers.is_empty());
    workers.into_iter().map(|worker| worker.silent_ms)
}

/// Less than a lease: no run is lost, and none starts twice.
async fn shorter_than_the_lease(away: Away, workers: usize) {
    // A beat every five seconds; what is away for a little more than that and for less than ten is no loss.
    let (mut fleet, ids) = at_work(workers, 15, |n| format!("touch begun-{n}; {}", until_go(workers))).await;
    let mut longest = Duration::ZERO;
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
        longest = longest.max(back.elapsed());
    }
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    for record in fleet.completed_once(&ids).await {
        let happened = fleet.happened(record.id).await;
        assert_eq!((record.run, record.attempt), (1, 1), "{happened:?}\n{}", fleet.logs());
    }
    fleet.end_empty().await;
    let what = format!("Redis {} for 1.8 s, lease 15 s: until every worker was heard", away.word());
    told(&what, workers, longest);
}

/// More than a lease: the workers end their Claude; nothing is charged; the tasks are done by a new run.
async fn longer_than_the_lease(away: Away, workers: usize, lease_s: u64) {
    // Back in touch, they have two thirds of it to hand back what they had.
    let command = |n| format!("[ -e begun-{n} ] || {{ touch begun-{n}; sleep 300; }}");
    let (mut fleet, ids) = at_work(workers, lease_s, command).await;
    away.begins(&mut fleet).await;
    let begin = Instant::now();
    fleet.until("the workers end their Claude", async |fleet| fleet.claudes().is_empty().then_some(())).await;
    let ended = begin.elapsed();
    eprintln!("all Claudes were gone {ended:?} after Redis");
    sleep(Duration::from_secs(lease_s + 3).saturating_sub(ended)).await;
    away.ends(&mut fleet).await;
    let back = Instant::now();
    for record in fleet.completed_once(&ids).await {
        let happened = fleet.happened(record.id).await;
        assert_eq!((record.run, record.attempt), (2, 1), "{happened:?}\n{}", fleet.logs());
        assert!(!record.runs[0].charged && record.runs[0].class.is_none(), "{:?}", record.runs[0]);
        assert_eq!(happened.get("lost"), None);
    }
    let took = back.elapsed();
    fleet.end_empty().await;
    let what =
        format!("Redis {} for {} s, lease {lease_s} s: until every task was done anew", away.word(), lease_s + 3);
    told(&what, workers, took);
}

/// A row of what was measured; the stories above hold only where nothing was charged.
fn told(what: &str, tasks: usize, longest: Duration) {
    report::row_of("TEST_RECOVERY", &[what, &tasks.to_string(), "0", "-", &format!("{:.1} s", longest.as_secs_f64())]);
}

#[tokio::test]
async fn killed_for_less_than_a_lease() {
    shorter_than_the_lease(Away::Killed, FEW).await;
}

#[tokio::test]
async fn frozen_for_less_than_a_lease() {
    shorter_than_the_lease(Away::Frozen, FEW).await;
}

#[tokio::test]
async fn killed_for_more_than_a_lease() {
    longer_than_the_lease(Away::Killed, FEW, 6).await;
}

#[tokio::test]
async fn frozen_for_more_than_a_lease() {
    longer_than_the_lease(Away::Frozen, FEW, 6).await;
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

/// Commands that follow something: each says once that Redis is away, and once that it is back, and goes on.
#[tokio::test]
async fn commands_that_follow_say_so_once() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    fleet.worker(&[]);
    let id = fleet.submit("@bash touch begun; until [ -e go ]; do sleep 0.02; done\n@say done", json!({})).await;
    fleet.until("it has begun", async |fleet| fleet.work.join("begun").exists().then_some(())).await;
    let name = id.to_string();
    let commands: [&[&str]; 4] =
        [&["events", "-f"], &["logs", "-f", &name], &["status", "--watch"], &["result", &name, "--wait"]];
    let pids: Vec<i32> = commands.iter().map(|arguments| fleet.start("motorpool", arguments)).collect();
    let log = |fleet: &Fleet, n: usize| {
        std::fs::read_to_string(fleet.path(&format!("motorpool-{}.log", n + 1))).unwrap_or_default()
    };
    let says = async |fleet: &Fleet, words: &str, which: std::ops::Range<usize>| {
        let all = |fleet: &Fleet| which.clone().all(|n| log(fleet, n).contains(words));
        fleet.until(words, async |fleet| all(fleet).then_some(())).await;
    };
    // The last one says nothing while it waits; it listens like the others.
    says(&fleet, "running", 0..1).await;
    says(&fleet, "running", 2..3).await;
    fleet.redis_down().await;
    says(&fleet, "reconnecting: Redis at ", 0..4).await;
    fleet.redis_up().await;
    says(&fleet, "connected again", 0..4).await;
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    for pid in [pids[1], pids[3]] {
        assert_eq!(fleet.ended(pid).await, Some(0), "{}", fleet.logs());
    }
    says(&fleet, "completed", 0..1).await;
    for n in 0..4 {
        let log = log(&fleet, n);
        assert_eq!(log.matches("reconnecting: ").count(), 1, "{log}");
        assert_eq!(log.matches("connected again").count(), 1, "{log}");
        // What the library logs of it would be the same once more.
        assert!(!log.contains("Redis is away"), "{log}");
    }
    for pid in [pids[0], pids[2]] {
        fleet.kill(pid, Signal::SIGTERM);
        fleet.ended(pid).await;
    }
    fleet.end_empty().await;
}

mod long {
    use super::*;

    #[tokio::test]
    async fn killed_under_a_hundred_tasks_for_less_than_a_lease() {
        shorter_than_the_lease(Away::Killed, 100).await;
    }

    #[tokio::test]
    async fn killed_under_a_hundred_tasks_for_more_than_a_lease() {
        longer_than_the_lease(Away::Killed, 100, 15).await;
    }
}
