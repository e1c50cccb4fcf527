//! The life of a pool: who starts it, what survives what, when it ends.
//!
//! A keeper is this test program again, called for the one test `stand_in`; a host is a shell script that says what
//! happens to it in a file.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::server::{append_only_file, ask, path};
use crate::embedded::lock::Lock;
use crate::embedded::{
    Ensured, Joined, KeepOptions, Ping, Place, Presence, Starter, find, join, keep, keeper_of, ping, record, stop,
};
use crate::settings::duration;
use crate::{Error, Result};

const MARK: &str = "EMBEDDED_TEST_KEEPER";

const HOST: &str = r#"#!/bin/sh
# The stand-in for a host: it drains when it is told to, as soon as the file `release` is there.
dir=$(dirname "$0")
trap 'told=yes; echo "told" >> "$dir/events"' TERM
echo "started $$ $*" >> "$dir/events"
while :; do
    if [ -n "$told" ] && [ -e "$dir/release" ]; then echo "drained" >> "$dir/events"; exit 0; fi
    sleep 0.02 &
    wait $!
done
"#;

/// A project with a pool of its own; whatever of it still runs at the end is killed.
struct Yard {
    root: tempfile::TempDir,
    place: Place,
    starter: Starter,
}

impl Yard {
    fn new(linger: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let [project, bin, temp] = ["app", "bin", "tmp"].map(|name| {
            fs::create_dir(root.path().join(name)).unwrap();
            root.path().join(name)
        });
        let host = bin.join("host");
        fs::write(&host, HOST).unwrap();
        fs::set_permissions(&host, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(bin.join("release"), "").unwrap();
        let starter = Starter {
            program: std::env::current_exe().unwrap(),
            args: ["--exact", "embedded::tests::keeper::stand_in", "--nocapture"].map(OsString::from).into(),
            env: vec![(MARK.into(), format!("{}\n{linger}", root.path().display()).into())],
        };
        let place = Place::new(&root.path().join("state"), &project, None, &temp);
        Self { root, place, starter }
    }

    async fn join(&self) -> Joined {
        join(&self.place, &self.starter, Presence::User, |_| {}).await.unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root.path().join("bin").join(name)
    }

    fn events(&self) -> Vec<String> {
        fs::read_to_string(self.file("events")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.file("keeper.log")).unwrap_or_default()
    }

    fn starts(&self) -> usize {
        self.log().matches("redis started").count()
    }

    fn is_held(&self, lock: &str) -> bool {
        Lock::is_held(&self.place.file(lock)).unwrap()
    }

    fn keeper(&self) -> Pid {
        Pid::from_raw(keeper_of(&self.place).unwrap().unwrap().pid)
    }

    /// The hosts that ever started, by their process ids.
    fn hosts(&self) -> Vec<Pid> {
        let events = self.events();
        let words = events.iter().filter_map(|line| line.strip_prefix("started "));
        words.map(|line| Pid::from_raw(line.split(' ').next().unwrap().parse().unwrap())).collect()
    }

    async fn until(&self, what: &str, check: impl Fn(&Self) -> bool) {
        let until = Instant::now() + Duration::from_secs(15);
        while !check(self) {
            assert!(Instant::now() < until, "never: {what}\n{:?}\n{}", self.events(), self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The server has been started so many times. It answers a little before its keeper says so.
    async fn started(&self, times: usize) {
        self.until("a server's start", |yard| yard.starts() >= times).await;
        assert_eq!(self.starts(), times, "{}", self.log());
    }

    async fn until_host(&self, nth: usize) -> Pid {
        self.until("a host", |yard| yard.hosts().len() >= nth).await;
        self.hosts()[nth - 1]
    }

    async fn until_over(&self) {
        self.until("over", |yard| !["server.lock", "keeper.lock", "host.lock"].iter().any(|lock| yard.is_held(lock)))
            .await;
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && ["server.lock", "host.lock"].iter().any(|lock| self.is_held(lock)) {
            let keeper = keeper_of(&self.place).ok().flatten().map(|keeper| Pid::from_raw(keeper.pid));
            let host = self.is_held("host.lock").then(|| record::host_pid(&self.place)).flatten();
            for pid in [keeper, host].into_iter().flatten() {
                record::signal(pid, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn lives(pid: Pid) -> bool {
    // A child that nobody waited for is no life.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// The keeper's process. As a test of its own it does nothing.
#[test]
fn stand_in() {
    let Ok(mark) = std::env::var(MARK) else { return };
    let (root, linger) = mark.split_once('\n').unwrap();
    let root = Path::new(root);
    let place = Place::new(&root.join("state"), &root.join("app"), None, &root.join("tmp"));
    let options = KeepOptions {
        slots: 2,
        linger: duration(linger).unwrap(),
        drain_timeout: Duration::from_secs(10),
        worker_bin: root.join("bin/host"),
        worker_args: vec!["--more".into()],
        worker_env: vec![],
        path: path(),
        host: true,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let end = runtime.block_on(async {
        let mut signals = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        let stop = async move {
            let _ = signals.recv().await;
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
    let log = yard.log();
    let server = log.split("redis started, process ").nth(1).unwrap().split(',').next().unwrap();
    kill(Pid::from_raw(server.parse().unwrap()), Signal::SIGKILL).unwrap();
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
    let until = Instant::now() + Duration::from_secs(10);
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
    let yard = Yard::new("1s");
    let joined = yard.join().await;
    drop(joined);
    let began = Instant::now();
    let mut last = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        drop(find(&yard.place, &yard.starter, Presence::User).await.unwrap().expect("it runs"));
        last = Instant::now();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    yard.started(1).await;
    yard.until_over().await;
    assert!(last.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn who_joins_while_it_ends_waits_and_starts_it_anew() {
    let yard = Yard::new("1m");
    let user = yard.join().await;
    yard.until_host(1).await;
    assert_eq!(ask(&user.socket(), "SET x 1").await, "+OK");
    fs::remove_file(yard.file("release")).unwrap();
    let down = stop(&yard.place, Duration::from_secs(15));
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
    assert!(stop(&yard.place, Duration::from_secs(15)).await.unwrap());
    assert!(yard.log().contains("ended: Stopped"), "{}", yard.log());
    assert_eq!(user.ensure().await.unwrap(), Ensured::Ended);
    yard.started(1).await;
    user.start(|_| {}).await.unwrap();
    assert_eq!(user.ensure().await.unwrap(), Ensured::Running);
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
    assert!(stop(&yard.place, Duration::from_secs(10)).await.unwrap());
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
    stop(&yard.place, Duration::from_secs(15)).await.unwrap();
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
