//! Hosts that are told to keep more or fewer workers, that die, and that live without Redis.

use std::time::Duration;

use motorpool_tests::faults::{lives, signal};
use motorpool_tests::fleet::{Cli, Fleet};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::host::{UNTIL_GO, at_work, keeps, workers_of};

/// The hosts that the pool knows, by name.
pub(crate) async fn hosts(fleet: &Fleet) -> Vec<motorpool::domain::host::Host> {
    fleet.pool.hosts().await.expect("the pool answers")
}

/// Waits until so many hosts are known; gives their names.
pub(crate) async fn known(fleet: &Fleet, count: usize) -> Vec<String> {
    fleet
        .until(&format!("{count} hosts are known"), async |fleet| {
            let hosts = hosts(fleet).await;
            (hosts.len() == count).then(|| hosts.into_iter().map(|host| host.name).collect())
        })
        .await
}

#[tokio::test]
async fn more_come_under_load_and_the_surplus_finishes_and_takes_nothing_new() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    // Whoever were told to drain would have no time at all.
    let host = fleet.start("motorpool-worker", &["host", "--slots=1", "--max-slots=4", "--drain-timeout=0s"]);
    fleet.all_joined(1).await;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(fleet.submit(&format!("@bash touch begun-{n}; {UNTIL_GO}\n@say {n}"), json!({})).await);
    }
    let told = fleet.motorpool_json(&["scale", "4"]).await;
    assert_eq!((&told["target"], &told["items"][0]["before"]), (&4.into(), &1.into()), "{told}");
    let told_at = Instant::now();
    fleet
        .until("four tasks have begun", async |fleet| {
            (0..4).all(|n| fleet.work.join(format!("begun-{n}")).exists()).then_some(())
        })
        .await;
    eprintln!("four ran {:?} after the word", told_at.elapsed());
    let four = keeps(&fleet, host, 4).await;

    let later: Vec<_> =
        [fleet.submit("@say later", json!({})).await, fleet.submit("@say last", json!({})).await].into();
    // More than it may, then what is wanted; said twice.
    let bounded = fleet.motorpool(&["scale", "9"]).await;
    assert_eq!(bounded.code, Some(0), "{bounded:?}");
    assert!(bounded.err.contains("4 workers instead of 9"), "{bounded:?}");
    for _ in 0..2 {
        assert_eq!(fleet.motorpool_json(&["scale", "1"]).await["target"], 1);
    }
    let kept = fleet
        .until("three are told to go", async |fleet| {
            let workers = fleet.pool.workers().await.expect("the pool answers");
            let (gone, kept): (Vec<_>, Vec<_>) = workers.into_iter().partition(|worker| worker.draining);
            (gone.len() == 3 && kept.len() == 1).then(|| kept.into_iter().next())?
        })
        .await;
    assert!(four.iter().all(|pid| lives(*pid)), "none is interrupted\n{}", fleet.logs());
    fleet
        .until("status says so", async |fleet| {
            let status = fleet.motorpool_json(&["status"]).await;
            let host = &status["hosts"][0];
            let leaving = |slot: &&Value| slot["state"] == "leaving";
            let leaving = host["slots"].as_array()?.iter().filter(leaving).count();
            (leaving == 3 && host["wanted"] == 1 && host["actual"] == 4).then_some(())
        })
        .await;

    std::fs::write(fleet.work.join("go"), "").expect("a file");
    for id in ids {
        let record = fleet.over(id).await;
        assert_eq!((record.state, record.run, record.attempt), (motorpool::State::Completed, 1, 1), "{}", fleet.logs());
    }
    for id in later {
        assert_eq!(fleet.over(id).await.runs[0].worker, kept.id, "who is leaving takes nothing new");
    }
    let one = keeps(&fleet, host, 1).await;
    assert_eq!(one, [kept.pid as i32], "the one that stays is the same");
    // The target again changes nothing.
    fleet.motorpool_json(&["scale", "1"]).await;
    assert_eq!(fleet.run("@say still", json!({})).await.runs[0].worker, kept.id);
    assert_eq!(workers_of(host), one);
    fleet.end_empty().await;
}

#[tokio::test]
async fn the_idle_go_before_the_busy_and_who_is_leaving_is_kept_when_more_are_wanted_again() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let host = fleet.host(2);
    let both = keeps(&fleet, host, 2).await;
    fleet.all_joined(2).await;
    let task = fleet.submit(&format!("@bash touch begun; {UNTIL_GO}\n@say kept"), json!({})).await;
    let busy = fleet.holder(task).await;
    fleet.until("it has begun", async |fleet| fleet.work.join("begun").exists().then_some(())).await;
    fleet.motorpool_json(&["scale", "down"]).await;
    assert_eq!(keeps(&fleet, host, 1).await, [busy], "{both:?}");
    fleet.motorpool_json(&["scale", "0"]).await;
    fleet.worker_is(busy, "told to go", |worker| worker.draining).await;
    fleet.motorpool_json(&["scale", "up"]).await;
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    assert_eq!(fleet.over(task).await.run, 1);
    // A new one follows it in its slot.
    fleet
        .until("another one", async |_| {
            let now = workers_of(host);
            (now.len() == 1 && now != [busy]).then_some(())
        })
        .await;
    assert_eq!(fleet.run("@say well", json!({})).await.state, motorpool::State::Completed);
    fleet.end_empty().await;
}

#[tokio::test]
async fn several_hosts_share_a_number_and_a_dead_one_is_gone_within_a_lease() {
    let lease_s = 3;
    let mut fleet = Fleet::with_lease(Cli::StandIn, lease_s).await;
    let first = fleet.host(1);
    let name = known(&fleet, 1).await.remove(0);
    let second = fleet.host(1);
    let names = known(&fleet, 2).await;
    assert_eq!(names, [name.clone(), format!("{name}.2")], "each has its own");
    let told = fleet.motorpool_json(&["scale", "5"]).await;
    assert_eq!((&told["items"][0]["target"], &told["items"][1]["target"]), (&3.into(), &2.into()), "{told}");
    let (of_first, of_second) = (keeps(&fleet, first, 3).await, keeps(&fleet, second, 2).await);
    let unknown = fleet.motorpool(&["scale", "1", "--host", "nobody"]).await;
    assert_eq!(unknown.code, Some(6), "{unknown:?}");
    assert!(unknown.err.contains(&name), "{unknown:?}");

    fleet.all_joined(5).await;
    for pid in std::iter::once(first).chain(of_first) {
        fleet.kill(pid, Signal::SIGKILL);
    }
    let killed = Instant::now();
    assert_eq!(known(&fleet, 1).await, [format!("{name}.2")]);
    fleet
        .until("its workers are gone from the list", async |fleet| {
            (fleet.pool.workers().await.expect("the pool answers").len() == 2).then_some(())
        })
        .await;
    eprintln!("gone from the lists {:?} after the kill", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(lease_s + 10), "a lease, and what a slow machine takes");
    assert_eq!(workers_of(second), of_second);

    // Whatever its flag says: the target is the pool's, under the name.
    let again = fleet.host(1);
    keeps(&fleet, again, 3).await;
    assert_eq!(known(&fleet, 2).await, names);
    fleet.end_empty().await;
}

/// A kill of the host alone, and a new one before anybody has noticed.
#[tokio::test]
async fn a_host_that_comes_back_at_once_has_its_name_and_its_target() {
    let mut fleet = Fleet::new(Cli::StandIn).await;
    let host = fleet.host(1);
    let name = known(&fleet, 1).await;
    fleet.motorpool_json(&["scale", "2"]).await;
    at_work(&fleet, 2).await;
    fleet.kill(host, Signal::SIGKILL);
    let again = fleet.host(1);
    keeps(&fleet, again, 2).await;
    assert_eq!(known(&fleet, 1).await, name);
    std::fs::write(fleet.work.join("go"), "").expect("a file");
    fleet.end_empty().await;
}

#[tokio::test]
async fn a_host_without_redis_keeps_its_workers_and_reports_afterwards() {
    let mut fleet = Fleet::with_lease(Cli::StandIn, 3).await;
    // The kill is the one bad end that is borne: a worker that finds no Redis has not ended badly.
    let host = fleet.start("motorpool-worker", &["host", "--slots", "2", "--max-restarts", "1"]);
    let before = keeps(&fleet, host, 2).await;
    fleet.all_joined(2).await;
    fleet.redis_down().await;
    signal(before[0], Signal::SIGKILL);
    // Each lives for some milliseconds: what its host has seen is sure, a look at the processes is not.
    fleet
        .until("it is replaced again and again", async |fleet| {
            (fleet.logs().matches("the worker ended slot=").count() >= 5).then_some(())
        })
        .await;
    fleet.redis_up().await;
    fleet.until("it is back", async |fleet| hosts(fleet).await.iter().any(|host| host.actual == 2).then_some(())).await;
    assert_eq!(fleet.run("@say well", json!({})).await.attempt, 1);
    fleet.end_empty().await;
}
