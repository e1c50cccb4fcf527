//! Faults for a fleet: processes of it are killed or frozen, its Redis goes away and comes back; and what the log
//! says of it afterwards.
//!
//! Only processes that the fleet has started, or that descend from them, are ever signalled, by their pid.

use std::collections::BTreeMap;
use std::time::Duration;

use motorpool::domain::event::Event;
use motorpool::domain::state::Cause;
use motorpool::{State, TaskId, TaskRecord};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::streams::StreamRangeReply;
use tokio::time::{Instant, sleep};

use crate::fleet::{Fleet, PATIENCE, redis};

/// Every key of the pool starts so.
pub const PREFIX: &str = "mp:{default}:";

/// Numbers by chance that can be had again: the seed is printed, and `TEST_SEED` sets it.
#[derive(Debug)]
pub struct Dice(u64);

impl Default for Dice {
    fn default() -> Self {
        let given = std::env::var("TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u64);
        eprintln!("TEST_SEED={seed}");
        Self(seed | 1)
    }
}

impl Dice {
    /// One of so many, from 0.
    pub fn one_of(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % count
    }
}

/// What stands in `/proc/PID/stat` behind the name: state, parent and so on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok())
}

/// Whether a process is there and has not ended.
#[must_use]
pub fn lives(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| !matches!(fields[0].as_str(), "Z" | "X"))
}

/// The living children of a process.
#[must_use]
pub fn children(parent: i32) -> Vec<i32> {
    let parent = parent.to_string();
    let is_child = |pid: &i32| stat(*pid).is_some_and(|fields| fields[1] == parent && fields[0] != "Z");
    pids().filter(is_child).collect()
}

/// Sends a signal to a process of a fleet.
pub fn signal(pid: i32, with: Signal) {
    // It may have ended meanwhile.
    let _ = kill(Pid::from_raw(pid), with);
}

impl Fleet {
    /// Living processes with this fleet's home, whoever their parent is by now.
    #[must_use]
    pub fn alive(&self) -> Vec<i32> {
        let home = format!("HOME={}", self.root.path().join("home").canonicalize().unwrap_or_default().display());
        let ours = |pid: &i32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|entry| entry == home.as_bytes()) && lives(*pid)
        };
        pids().filter(ours).collect()
    }

    /// A connection of the test's own.
    pub async fn redis(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.server.url()).expect("a good address");
        client.get_multiplexed_async_connection().await.expect("Redis answers")
    }

    /// Redis is killed and its end awaited.
    pub async fn redis_down(&mut self) {
        signal(self.redis_pid(), Signal::SIGKILL);
        self.server.ended().await;
    }

    /// Redis is started again, with what it has on its disk.
    pub async fn redis_up(&mut self) {
        self.server = redis(self.root.path(), &self.servers).await;
    }

    /// The process of Redis.
    #[must_use]
    pub fn redis_pid(&self) -> i32 {
        self.server.pid().expect("Redis runs") as i32
    }

    /// The log of the pool.
    pub async fn events(&self) -> Vec<Event> {
        let range: StreamRangeReply = redis::cmd("XRANGE")
            .arg(format!("{PREFIX}events"))
            .arg(&["-", "+"])
            .query_async(&mut self.redis().await)
            .await
            .expect("the log");
        let notices = range.ids.iter().map(|entry| entry.get::<String>("e").expect("a notice"));
        notices.map(|notice| Event::parse(&notice).unwrap_or_else(|| panic!("{notice}"))).collect()
    }

    /// How often each thing happened to a task.
    pub async fn happened(&self, id: TaskId) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for event in self.events().await.iter().filter(|event| event.task == id) {
            *counts.entry(event.cause.word()).or_default() += 1;
        }
        counts
    }

    /// The process of the worker that holds a task.
    pub async fn holder(&self, id: TaskId) -> i32 {
        let worker = self.reaches(id, State::Running).await.worker.expect("a running task has a worker");
        self.pid_of(&worker).await
    }

    /// The process of a worker.
    pub async fn pid_of(&self, worker: &str) -> i32 {
        let pid: Option<i32> = redis::cmd("HGET")
            .arg(format!("{PREFIX}worker:{worker}"))
            .arg("pid")
            .query_async(&mut self.redis().await)
            .await
            .expect("its record");
        pid.unwrap_or_else(|| panic!("{worker} is not known"))
    }

    /// Waits until so many workers are known and idle or at work.
    pub async fn all_joined(&self, count: usize) {
        self.until(&format!("{count} workers"), async |fleet| {
            (fleet.pool.workers().await.expect("the pool answers").len() >= count).then_some(())
        })
        .await;
    }

    /// Who sweeps.
    pub async fn sweeper(&self) -> Option<String> {
        redis::cmd("GET")
            .arg(format!("{PREFIX}sweeper"))
            .query_async(&mut self.redis().await)
            .await
            .expect("Redis answers")
    }

    /// From now on no process of the pool sweeps: the place is taken for good.
    pub async fn nobody_sweeps(&self) {
        let mut set = redis::cmd("SET");
        let () = set
            .arg(format!("{PREFIX}sweeper"))
            .arg("nobody")
            .query_async(&mut self.redis().await)
            .await
            .expect("Redis answers");
    }

    /// The connections of idle workers that wait to be woken, as Redis numbers them.
    pub async fn waiters(&self) -> Vec<u64> {
        let mut list = redis::cmd("CLIENT");
        let clients: String = list.arg("LIST").query_async(&mut self.redis().await).await.expect("Redis answers");
        let is_blocked = |word: &str| word.strip_prefix("flags=").is_some_and(|flags| flags.contains('b'));
        let waits = |line: &&str| line.contains(" cmd=blpop ") && line.split(' ').any(is_blocked);
        let id = |line: &str| line.strip_prefix("id=")?.split(' ').next()?.parse().ok();
        clients.lines().filter(waits).filter_map(id).collect()
    }

    /// Ends a wait as if its time were over.
    pub async fn end_wait(&self, waiter: u64) {
        let mut unblock = redis::cmd("CLIENT");
        // It may have ended meanwhile.
        let _: i64 =
            unblock.arg("UNBLOCK").arg(waiter).query_async(&mut self.redis().await).await.expect("Redis answers");
    }

    /// Every one of them completed, once; nothing stands in a lane or is held.
    pub async fn completed_once(&self, ids: &[TaskId]) -> Vec<TaskRecord> {
        let mut records = Vec::new();
        for id in ids {
            let record = self.over(*id).await;
            assert_eq!(record.state, State::Completed, "{record:#?}\n{}", self.logs());
            records.push(record);
        }
        let events = self.events().await;
        for id in ids {
            let results = events.iter().filter(|event| event.task == *id && event.cause == Cause::Complete).count();
            assert_eq!(results, 1, "{id} has {results} results");
        }
        let mut connection = self.redis().await;
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("mp:?default?:lane:*").query_async(&mut connection).await.expect("keys");
        for key in keys {
            let length: usize = redis::cmd("XLEN").arg(&key).query_async(&mut connection).await.expect("its length");
            let mut list = redis::cmd("XPENDING");
            list.arg(&key).arg(&["workers", "-", "+", "10"]);
            let pending: Vec<redis::Value> = list.query_async(&mut connection).await.expect("a list");
            assert_eq!((length, pending.len()), (0, 0), "{key} is not empty");
        }
        records
    }

    /// Kills a random worker of a host at each tick, so many at most, until the tasks are over; gives how many.
    pub async fn shoot(&self, host: i32, ids: &[TaskId], every: Duration, most: usize) -> usize {
        let mut dice = Dice::default();
        let mut killed = 0;
        let mut seen = Instant::now();
        while killed < most {
            sleep(every).await;
            if self.pool.unfinished().await.expect("the pool answers") == 0 {
                break;
            }
            let workers = children(host);
            if !workers.is_empty() {
                signal(workers[dice.one_of(workers.len())], Signal::SIGKILL);
                killed += 1;
                seen = Instant::now();
            }
            assert!(seen.elapsed() < PATIENCE, "the host has no worker any more\n{}", self.logs());
        }
        // The rest of the work is undisturbed; each task gets the usual patience.
        let begin = Instant::now();
        for id in ids {
            self.over(*id).await;
        }
        eprintln!("{killed} workers killed; the rest took {:?}", begin.elapsed());
        killed
    }

    /// As [`Fleet::end`]; and not one process of the fleet is left, workers and what they started included.
    pub async fn end_empty(self) {
        for child in &self.children {
            signal(child.id() as i32, Signal::SIGTERM);
        }
        // Children of the test that have ended are zombies here, which do not count.
        self.until("no process is left", async |fleet| fleet.alive().is_empty().then_some(())).await;
        self.end().await;
    }
}
