//! A host: its workers come back, drain with it, and outlive it only as long as they have something to finish.

use std::time::Duration;

use motorpool::TaskId;
use motorpool_tests::faults::{children, lives, signal};
use motorpool_tests::fleet::{Cli, Fleet};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

pub(crate) const UNTIL_GO: &str = "until [ -e go ]; do sleep 0.02; done";

/// The workers that are a host's children. What a killed worker had started is handed to the host as well, and is none.
pub(crate) fn workers_of(host: i32) -> Vec<i32> {
    let name = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    // The kernel keeps fifteen characters.
    children(host).into_iter().filter(|pid| name(pid).trim_end() == "motorpool-worke").collect()
}

/// Waits until all these workers are told to end, and lets their tasks go on.
async fn let_go_when_told(fleet: &Fleet, count: usize) {
    fleet
        .until("the workers are told", async |fleet| {
            let workers = fleet.pool.workers().await.expect("the pool answers");
            (workers.iter().filter(|worker| worker.draining).count() == count).then_some(())
        })
        .await;
    std::fs::write(fleet.work.join("go"), "").expect("a file");
}

pub(crate) async fn keeps(fleet: &Fleet, host: i32, count: usize) -> Vec<i32> {
    fleet
        .until(&format!("the host keeps {count}"), async |_| {
            let workers = workers_of(host);
            (workers.len() == count).then_some(workers)
        })
        .await
}

/// Each worker of a host runs a task that has begun and goes on until the file `go` is there.
pub(crate) async fn at_work(fleet: &Fleet, count: usize) -> Vec<TaskId> {
    fleet.all_joined(count).await;
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(fleet.submit(&format!("@bash touch begun-{n}; {UNTIL_GO}\n@say {n}"), json!({})).await);
    }
    fleet
        .until("every task has begun", async |fleet| {
            (0..count).all(|n| fleet.work.join(format!("begun-{n}")).exists()).then_some(())
        })
        .await;
    ids
}

#[tokio::test]
async fn a_killed_worker_is_started_again_with_growing_waits() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let host = fleet.host(2);
    let mut before = keeps(&fleet, host, 2).await;
    let other = before[1];
    let mut waits = Vec::new();
    for _ in 0..5 {
        let victim = before.iter().copied().find(|pid| *pid != other).expect("the slot has a worker");
        signal(victim, Signal::SIGKILL);
        let killed = Instant::now();
        before = fleet
            .until("a new one", async |fleet| {
                // As the host tells: what the killed one was just starting has its name for an instant, too.
                let hosts = fleet.pool.hosts().await.expect("the pool answers");
                let slots = hosts.first()?.slots.iter().filter_map(|slot| slot.pid);
                let now: Vec<i32> = slots.map(|pid| pid as i32).collect();
                (now.len() == 2 && !now.contains(&victim)).then_some(now)
            })
            .await;
        waits.push(killed.elapsed().as_millis());
        assert!(before.contains(&other), "the other slot is not concerned");
    }
    eprintln!("waits in ms: {waits:?}");
    // 100 ms, doubling, and the time of a start and of a look, which may be anything.
    assert!(waits.iter().enumerate().all(|(n, wait)| *wait >= 100 << n), "{waits:?}");
    fleet.all_joined(2).await;
    let record = fleet.run("@say well", json!({})).await;
    assert_eq!(record.attempt, 1);
    fleet.end_empty().await;
}

#[tokio::test]
async fn a_host_that_is_told_to_end_drains_its_workers() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let host = fleet.host(3);
    let ids = at_work(&fleet, 3).await;
    let waiting = fleet.submit("@say nobody takes this one", json!({})).await;
    fleet.kill(host, Signal::SIGTERM);
    let_go_when_told(&fleet, 3).await;
    assert_eq!(fleet.ended(host).await, Some(0));
    assert_eq!(fleet.alive(), Vec::<i32>::new());
    for id in &ids {
        let record = fleet.over(*id).await;
        assert_eq!((record.run, record.attempt), (1, 1), "{}", fleet.logs());
    }
    assert_eq!(fleet.pool.workers().await.unwrap().len(), 0);
    assert_eq!(fleet.pool.task(waiting).await.unwrap().run, 0);
    fleet.end_empty().await;
}

#[tokio::test]
async fn workers_of_a_killed_host_finish_and_end() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let host = fleet.host(3);
    let ids = at_work(&fleet, 3).await;
    let workers = workers_of(host);
    assert_eq!(workers.len(), 3);
    fleet.kill(host, Signal::SIGKILL);
    let_go_when_told(&fleet, 3).await;
    let killed = Instant::now();
    for id in &ids {
        let record = fleet.over(*id).await;
        assert_eq!((record.run, record.attempt), (1, 1), "{}", fleet.logs());
    }
    fleet.until("the workers have ended", async |_| (!workers.iter().any(|pid| lives(*pid))).then_some(())).await;
    eprintln!("everything had ended {:?} after the tasks could", killed.elapsed());
    assert_eq!(fleet.pool.workers().await.unwrap().len(), 0, "they have left in good order");
    fleet.end_empty().await;
}

/// The whole machine's processes at once; what Claude's tools had started is ended by the next one that works there.
#[tokio::test]
async fn host_and_workers_killed_together_leave_nothing_behind() {
    let mut fleet = Fleet::with_lease(Cli::StandIn, 6).await;
    let host = fleet.host(2);
    fleet.all_joined(2).await;
    let mut ids = Vec::new();
    for n in 0..2 {
        let prompt = format!("@bash [ -e begun-{n} ] || {{ touch begun-{n}; sleep 300; }}\n@say {n}");
        ids.push(fleet.submit(&prompt, json!({})).await);
    }
    fleet
        .until("both have begun", async |fleet| {
            (0..2).all(|n| fleet.work.join(format!("begun-{n}")).exists()).then_some(())
        })
        .await;
    let workers = workers_of(host);
    for pid in std::iter::once(host).chain(workers) {
        fleet.kill(pid, Signal::SIGKILL);
    }
    let killed = Instant::now();
    // The new host has nobody's word of the old one.
    sleep(Duration::from_millis(200)).await;
    fleet.host(2);
    for record in fleet.completed_once(&ids).await {
        assert_eq!((record.run, record.attempt), (2, 2));
    }
    eprintln!("both tasks were done {:?} after the kill", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(6 + 30), "the lease, and what a slow machine takes");
    fleet.end_empty().await;
}

#[tokio::test]
async fn a_host_hands_the_url_from_a_file_to_its_workers() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let file = fleet.path("url");
    std::fs::write(&file, format!("{}\n", fleet.server.url())).expect("a file");
    fleet.env_remove("MOTORPOOL_REDIS_URL");
    fleet.env("MOTORPOOL_REDIS_URL_FILE", &file.display().to_string());
    fleet.host(2);
    fleet.all_joined(2).await;
    assert_eq!(fleet.run("@say well", json!({})).await.output.as_deref(), Some("well"));
    fleet.end_empty().await;
}

/// What is wrong from the beginning is told at once, by the exit code too.
#[tokio::test]
async fn what_cannot_work_ends_a_worker_and_a_host_at_their_start() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("its number").port();
    // Something that is no Redis.
    let answer = std::thread::spawn(move || {
        for stream in silent.incoming().take(2) {
            use std::io::Write;
            let _ = stream.expect("a caller").write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let nowhere = fleet.path("nowhere").display().to_string();
    let away = format!("unix://{nowhere}");
    let stranger = format!("redis://127.0.0.1:{port}");
    let cases: [(&[&str], i32, &str); 3] = [
        (&["--working-dir", &nowhere], 2, "--working-dir"),
        (&["--redis-url", &away], 3, "cannot be reached"),
        (&["--redis-url", &stranger], 3, "does not speak Redis"),
    ];
    for (flags, code, words) in cases {
        for host in [&[][..], &["host"]] {
            let args = [host, flags].concat();
            let pid = fleet.start("motorpool-worker", &args);
            assert_eq!(fleet.ended(pid).await, Some(code), "{args:?}: {}", fleet.logs());
            let log = fleet.logs();
            assert!(log.contains(words) && log.contains("hint:"), "{args:?}: {log}");
        }
    }
    answer.join().expect("both have called");
    fleet.end_empty().await;
}

/// An upgrade under work: new workers come in place of the old ones, and no task notices.
#[tokio::test]
async fn a_host_that_is_told_to_renew_replaces_each_worker_when_it_is_done() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let host = fleet.host(2);
    let before = keeps(&fleet, host, 2).await;
    fleet.all_joined(2).await;
    let task = fleet.submit(&format!("@bash touch begun; {UNTIL_GO}\n@say kept"), json!({})).await;
    let busy = fleet.holder(task).await;
    fleet.until("the command runs", async |fleet| fleet.work.join("begun").exists().then_some(())).await;
    let idle = before.iter().copied().find(|pid| *pid != busy).expect("one is idle");
    signal(host, Signal::SIGHUP);
    fleet
        .until("the idle one is replaced", async |_| {
            let now = workers_of(host);
            (now.len() == 2 && !now.contains(&idle)).then_some(())
        })
        .await;
    assert!(lives(busy), "{}", fleet.logs());
    // New work is not for the old one.
    let next = fleet.run("@say new", json!({})).await;
    assert_eq!(next.state, motorpool::State::Completed);
    assert!(lives(busy));
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    let record = fleet.over(task).await;
    assert_eq!((record.output.as_deref(), record.run, record.attempt), (Some("kept"), 1, 1), "{}", fleet.logs());
    fleet
        .until("both are new", async |_| {
            let now = workers_of(host);
            (now.len() == 2 && now.iter().all(|pid| !before.contains(pid))).then_some(())
        })
        .await;
    fleet.all_joined(2).await;
    fleet.end_empty().await;
}
