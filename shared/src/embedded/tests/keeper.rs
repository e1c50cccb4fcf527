//! The life of a pool: who starts it, what survives what, when it ends.
//!
//! Not here: the processes that stand in for keepers and hosts (`yard.rs`), but for the keeper's own test.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::server::{append_only_file, ask};
use super::yard::{MARK, PATIENCE, Yard, lives, options};
use crate::embedded::{End, Ensured, Ping, Place, Presence, find, join, keep, keeper_of, ping, stop};
use crate::settings::duration;
use crate::{Error, Result};

/// The keeper's process. As a test of its own it does nothing.
#[test]
fn stand_in() {
    let Ok(mark) = std::env::var(MARK) else { return };
    let (root, linger) = mark.split_once('\n').unwrap();
    let root = Path::new(root);
    let place = Place::new(&root.join("state"), &root.join("app"), None, &root.join("tmp"));
    let options = options(root, duration(linger).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let end = runtime.block_on(async {
        let mut signals = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        let stop = async move {
            let _ = signals.recv().await;
            // A clock that is set while a pool ends: the one on the wall against the keeper's own.
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(2)).await;
            tokio::time::resume();
        };
        keep(&place, &options, count, |event| println!("{event}"), stop, std::future::pending()).await
    });
    match end {
        Ok(end) => println!("ended: {end:?}"),
        Err(error) => {
            println!("{error}");
            std::process::exit(1);
        }
    }
}

/// The tests' unfinished tasks are a number under one key.
async fn count(url: String) -> Result<u64> {
    let answer = ask(Path::new(url.strip_prefix("unix://").unwrap()), "GET unfinished").await;
    if answer.starts_with('-') {
        return Err(Error::redis(answer));
    }
    Ok(answer.lines().nth(1).unwrap_or("0").parse().unwrap())
}

#[tokio::test]
async fn many_who_join_at_once_find_one_server() {
    let yard = Yard::new("1m");
    let joined = futures_util::future::join_all((0..8).map(|_| yard.join())).await;
    let mut ids = vec![];
    for joined in &joined {
        ids.push(
            ask(&joined.socket(), "INFO server").await.lines().find(|l| l.starts_with("run_id")).map(str::to_owned),
        );
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    yard.started(1).await;
    yard.until_host(1).await;
    assert!(yard.events()[0].ends_with(" host --slots 2 --more"));
    let record = keeper_of(&yard.place).unwrap().unwrap();
    assert_eq!((record.socket, record.slots, record.linger_ms), (Some(joined[0].socket()), 2, 60_000));
    assert_eq!(joined[0].ensure().await.unwrap(), Ensured::Running);
    assert!(find(&yard.place, &yard.starter, Presence::Worker).await.unwrap().is_some());
}

#[tokio::test]
async fn a_killed_keeper_takes_the_server_along_and_leaves_the_host() {
    let yard = Yard::new("1m");
    let joined = yard.join().await;
    let host = yard.until_host(1).await;
    assert_eq!(ask(&joined.socket(), "SET x 1").await, "+OK");
    kill(yard.keeper(), Signal::SIGKILL).unwrap();
    yard.until("the server ends", |yard| !yard.is_held("server.lock")).await;
    assert_eq!(ping(&joined.socket()).await, Ping::Gone);
    assert!(find(&yard.place, &yard.starter, Presence::Worker).await.unwrap().is_none());

    let again = yard.join().await;
    assert_eq!(ask(&again.socket(), "GET x").await, "$1\r\n1");
    yard.until("the host is found", |yard| yard.log().contains(&format!("host runs already, process {host}"))).await;
    assert_eq!(yard.hosts(), [host]);
    assert!(lives(host));

    // Again, and this time somebody who was there all the time notices.
    kill(yard.keeper(), Signal::SIGKILL).unwrap();
    yard.until("the server ends", |yard| !yard.is_held("server.lock")).await;
    assert_eq!(joined.ensure().await.unwrap(), Ensured::Running);
    assert_eq!(ask(&joined.socket(), "GET x").await, "$1\r\n1");
    assert_eq!(yard.hosts(), [host]);
}

#[tokio::test]
async fn a_dead_host_and_a_dead_server_are_started_again() {
    let yard = Yard::new("1m");
    let joined = yard.join().await;
    let first = yard.until_host(1).await;
    kill(first, Signal::SIGKILL).unwrap();
    let second = yard.until_host(2).await;
    assert!(lives(second) && !lives(first));
    kill(yard.server(1), Signal::SIGKILL).unwrap();
    yard.started(2).await;
    assert!(yard.log().contains("redis is down, it ended (signal: 9 (SIGKILL))"), "{}", yard.log());
    assert_eq!(ping(&joined.socket()).await, Ping::Ready);

    // A socket that somebody tidied away.
    fs::remove_file(joined.socket()).unwrap();
    yard.started(3).await;
    assert_eq!(joined.ensure().await.unwrap(), Ensured::Running);
    assert_eq!(yard.hosts().len(), 2);
}

#[tokio::test]
async fn without_linger_it_ends_with_its_last_user_and_its_last_task() {
    let yard = Yard::new("0");
    let (one, two) = (yard.join().await, yard.join().await);
    yard.until_host(1).await;
    let socket = one.socket();
    assert_eq!(ask(&socket, "SET unfinished 2").await, "+OK");
    drop(one);
    drop(two);
    // Held by its tasks: it still counts them after nobody is there.
    let asked = |answer: String| {
        answer.lines().find_map(|l| l.strip_prefix("cmdstat_get:calls=")?.split(',').next()?.parse::<u64>().ok())
    };
    let until = Instant::now() + PATIENCE;
    while asked(ask(&socket, "INFO commandstats").await).unwrap_or(0) < 5 {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ask(&socket, "SET unfinished 0").await, "+OK");
    yard.until_over().await;
    assert!(yard.log().contains("ended: Idle"), "{}", yard.log());
    assert_eq!(yard.events().last().unwrap(), "drained");
    assert!(!socket.exists() && !yard.place.file("keeper.json").exists());
    assert!(keeper_of(&yard.place).unwrap().is_none());
    assert!(!stop(&yard.place, Duration::from_secs(1)).await.unwrap());
}

#[tokio::test]
async fn a_user_keeps_it_and_the_linger_time_begins_anew_with_each() {
    // So long that a machine that stands still for a while does not end it.
    let linger = Duration::from_secs(4);
    let yard = Yard::new("4s");
    let joined = yard.join().await;
    drop(joined);
    let began = Instant::now();
    let mut last = Instant::now();
    while began.elapsed() < linger + linger / 2 {
        drop(find(&yard.place, &yard.starter, Presence::User).await.unwrap().expect("it runs"));
        last = Instant::now();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    yard.started(1).await;
    yard.until_over().await;
    assert!(last.elapsed() >= linger);
}

#[tokio::test]
async fn who_joins_while_it_ends_waits_and_starts_it_anew() {
    let yard = Yard::new("1m");
    let user = yard.join().await;
    yard.until_host(1).await;
    assert_eq!(ask(&user.socket(), "SET x 1").await, "+OK");
    fs::remove_file(yard.file("release")).unwrap();
    let down = stop(&yard.place, PATIENCE);
    let comes = async {
        yard.until("the host is told", |yard| yard.events().iter().any(|event| event == "told")).await;
        assert_eq!(user.ensure().await.unwrap(), Ensured::Ended);
        assert!(find(&yard.place, &yard.starter, Presence::Worker).await.unwrap().is_none());
        let (told, is_told) = mpsc::channel();
        let joined = join(&yard.place, &yard.starter, Presence::User, |words| {
            fs::write(yard.file("release"), "").unwrap();
            told.send(words.to_owned()).unwrap();
        })
        .await
        .unwrap();
        assert_eq!(is_told.try_iter().collect::<Vec<_>>(), ["the pool is shutting down; waiting"]);
        joined
    };
    // Who takes down the old pool does not take down the new one.
    let (down, joined) = tokio::join!(down, comes);
    assert!(down.unwrap());
    assert_eq!(ask(&joined.socket(), "GET x").await, "$1\r\n1");
    yard.started(2).await;
    assert_eq!(user.ensure().await.unwrap(), Ensured::Running);
}

#[tokio::test]
async fn taken_down_it_stays_down_until_somebody_has_work() {
    let yard = Yard::new("1m");
    let user = yard.join().await;
    yard.until_host(1).await;
    assert!(stop(&yard.place, PATIENCE).await.unwrap());
    assert!(yard.log().contains("ended: Stopped"), "{}", yard.log());
    assert_eq!(user.ensure().await.unwrap(), Ensured::Ended);
    yard.started(1).await;
    user.start(|_| {}).await.unwrap();
    assert_eq!(user.ensure().await.unwrap(), Ensured::Running);
}

#[tokio::test]
async fn who_takes_it_down_waits_for_its_end_whatever_happens_to_its_server() {
    let yard = Yard::new("1m");
    drop(yard.join().await);
    let host = yard.until_host(1).await;
    yard.started(1).await;
    fs::remove_file(yard.file("release")).unwrap();
    let keeper = keeper_of(&yard.place).unwrap();
    let down = async { (stop(&yard.place, PATIENCE).await.unwrap(), lives(host)) };
    let meanwhile = async {
        yard.until("the host is told", |yard| yard.events().iter().any(|event| event == "told")).await;
        // Twice, with a pause of a second: by then who waits has looked many times.
        for nth in 1..=2 {
            kill(yard.server(nth), Signal::SIGKILL).unwrap();
            yard.started(nth + 1).await;
            assert_eq!(keeper_of(&yard.place).unwrap(), keeper, "it is the same keeper");
        }
        fs::write(yard.file("release"), "").unwrap();
    };
    let (down, ()) = tokio::join!(down, meanwhile);
    assert_eq!(down, (true, false), "the host has ended by then");
}

#[tokio::test]
async fn a_host_without_keeper_is_taken_down_too() {
    let yard = Yard::new("1m");
    drop(yard.join().await);
    let host = yard.until_host(1).await;
    kill(yard.keeper(), Signal::SIGKILL).unwrap();
    yard.until("the server ends", |yard| !yard.is_held("server.lock")).await;
    // As if the keeper had been killed before it wrote down whom it had started.
    fs::remove_file(yard.place.file("host.json")).unwrap();
    assert!(stop(&yard.place, PATIENCE).await.unwrap());
    assert_eq!(yard.events().last().unwrap(), "drained");
    assert!(!lives(host));
}

#[tokio::test]
async fn damaged_data_is_told_to_who_joins() {
    let yard = Yard::new("1m");
    let joined = yard.join().await;
    for n in 0..20 {
        ask(&joined.socket(), &format!("SET key{n} value{n}")).await;
    }
    drop(joined);
    stop(&yard.place, PATIENCE).await.unwrap();
    let file = append_only_file(yard.place.dir());
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 40].fill(b'!');
    fs::write(&file, &bytes).unwrap();
    let error = join(&yard.place, &yard.starter, Presence::User, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("its append-only file is damaged") && error.contains("redis-check-aof --fix"), "{error}");
    assert!(error.contains("keeper.log"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), bytes);
}

#[tokio::test]
async fn a_host_that_does_not_end_is_told_again_and_killed() {
    let yard = Yard::new("1m");
    fs::remove_file(yard.file("release")).unwrap();
    let options = options(yard.root.path(), Duration::MAX);
    let mut said = vec![];
    let stop = async {
        yard.until_host(1).await;
    };
    let hurry = yard.until("told", |yard| yard.events().iter().any(|event| event == "told"));
    let end = keep(&yard.place, &options, count, |event| said.push(event.to_string()), stop, hurry).await.unwrap();
    assert_eq!(end, End::Stopped);
    assert!(!lives(yard.hosts()[0]));
    assert_eq!(yard.events().iter().filter(|event| *event == "told").count(), 2);
    assert_eq!(
        said[2..],
        [
            "the pool ends; running tasks get 10s",
            "the host did not end in time: sent it SIGTERM again",
            "the host did not end in time: sent it SIGKILL"
        ]
    );
    yard.until_over().await;
}

#[tokio::test]
async fn a_second_keeper_leaves_the_first_alone() {
    let yard = Yard::new("1m");
    let joined = yard.join().await;
    let (keeper, options) = (yard.keeper(), options(yard.root.path(), Duration::MAX));
    let never = std::future::pending;
    let end = keep(&yard.place, &options, count, |_| {}, never(), never()).await.unwrap();
    assert_eq!(end, End::AlreadyRunning);
    assert_eq!(yard.keeper(), keeper);
    assert_eq!(ping(&joined.socket()).await, Ping::Ready);
}
