//! What idle workers cost: commands to Redis, memory, processor time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use futures_util::StreamExt;
use motorpool_tests::fleet::{Cli, Fleet};
use tokio::time::{Instant, sleep, timeout_at};

use crate::Measure;

const LEASE_S: u64 = 15;
/// Commands a second of one idle worker.
const COMMANDS: f64 = 0.5;
/// Resident memory of one idle worker, in MB.
const RESIDENT_MB: f64 = 8.0;

/// Starts so many workers and watches them for so long.
pub(crate) async fn measure(workers: usize, seconds: u64) -> Vec<Measure> {
    let mut fleet = Fleet::with_lease(Cli::StandIn, LEASE_S).await;
    let mut pids = Vec::new();
    for _ in 0..workers {
        let pid = fleet.worker(&[]);
        fleet.worker_is(pid, "fit", |worker| worker.unfit.is_none()).await;
        pids.push(pid);
        // Each at another point of its wait, or all would make their last call just within the time, or just after.
        sleep(Duration::from_secs(LEASE_S) / 3 / workers as u32).await;
    }
    let sweeper = fleet.until("somebody sweeps", async |fleet| fleet.sweeper().await).await;
    let sweeping_pid = fleet.pid_of(&sweeper).await;

    let before: Vec<f64> = pids.iter().map(|pid| processor_ms(*pid)).collect();
    let heard = listen(&fleet, Duration::from_secs(seconds)).await;
    let processor = pids.iter().zip(before).map(|(pid, before)| (*pid, processor_ms(*pid) - before));
    let (sweeping, idle): (Vec<_>, Vec<_>) = processor.partition(|(pid, _)| *pid == sweeping_pid);
    let resident = pids.iter().map(|pid| megabytes(*pid, "status", &["VmRSS"])).collect();
    let shared = pids.iter().map(|pid| megabytes(*pid, "smaps_rollup", &["Pss"])).collect();
    let own = pids.iter().map(|pid| megabytes(*pid, "smaps_rollup", &["Private_Clean", "Private_Dirty"])).collect();
    assert_eq!(fleet.sweeper().await, Some(sweeper.clone()), "the sweeper has changed");
    fleet.end_empty().await;

    let (resident, shared, own) = (Spread::of(resident), Spread::of(shared), Spread::of(own));
    let idle = Spread::of(idle.into_iter().map(|(_, ms)| ms).collect());
    let seconds = seconds as f64;
    let sweeps = heard.only_by(&sweeper);
    let commands = (heard.commands - sweeps) as f64 / seconds / workers as f64;
    vec![
        Measure::new("idle worker: commands to Redis", commands, "a second").at_most(COMMANDS),
        Measure::new("the sweeper: commands beside these", sweeps as f64 / seconds, "a second"),
        Measure::new("idle worker: resident memory, median", resident.median, "MB"),
        Measure::new(format!("idle worker: resident memory, most of {workers}"), resident.most, "MB")
            .at_most(RESIDENT_MB),
        Measure::new("idle worker: its share of resident memory (PSS), median", shared.median, "MB"),
        Measure::new("idle worker: memory of its own, median", own.median, "MB"),
        Measure::new(format!("idle worker: processor time in {seconds} s, median"), idle.median, "ms"),
        Measure::new(format!("the sweeper: processor time in {seconds} s"), sweeping[0].1, "ms"),
    ]
}

pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { median: values[values.len() / 2], most: values[values.len() - 1] }
    }
}

/// What Redis was sent. Its own counters do not do: they count what scripts call as well.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) commands: u64,
    /// Calls of scripts, by the script's hash and the worker that called it.
    scripts: BTreeMap<(String, String), u64>,
}

impl Heard {
    /// A line of MONITOR, as in `1700000000.000001 [0 unix:/SOCKET] "EVALSHA" "HASH" "1" "PREFIX" "WORKER" …`.
    fn add(&mut self, line: &str) {
        let (from, command) = line.split_once("] ").unwrap_or_else(|| panic!("MONITOR says {line:?}"));
        if from.ends_with(" lua") {
            return;
        }
        self.commands += 1;
        let words: Vec<&str> = command.trim_matches('"').split("\" \"").collect();
        if let ["EVALSHA", hash, "1", _, worker, ..] = words[..] {
            *self.scripts.entry((hash.to_owned(), worker.to_owned())).or_default() += 1;
        }
    }

    /// Calls of scripts that this worker alone has called.
    fn only_by(&self, worker: &str) -> u64 {
        let others: BTreeSet<&str> =
            self.scripts.keys().filter(|(_, caller)| caller != worker).map(|(hash, _)| hash.as_str()).collect();
        let own = self.scripts.iter().filter(|((hash, _), _)| !others.contains(hash.as_str()));
        own.map(|(_, calls)| calls).sum()
    }
}

/// Listens to everything that Redis is sent. Nothing of the benchmark's own is among it.
pub(crate) async fn listen(fleet: &Fleet, time: Duration) -> Heard {
    let client = redis::Client::open(fleet.server.url()).expect("a good address");
    let monitor = client.get_async_monitor().await.expect("Redis tells what it is sent");
    let mut lines = monitor.into_on_message::<String>();
    let until = Instant::now() + time;
    let mut heard = Heard::default();
    while let Ok(line) = timeout_at(until, lines.next()).await {
        heard.add(&line.expect("Redis goes on telling"));
    }
    heard
}

/// Processor time that a process has used.
fn processor_ms(pid: i32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads").flatten();
    let nanoseconds = threads.map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).expect("its times");
        text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).expect("a number")
    });
    nanoseconds.sum::<u64>() as f64 / 1e6
}

/// The sum of some lines of a file in `/proc/PID`, in MB.
pub(crate) fn megabytes(pid: i32, file: &str, names: &[&str]) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("its memory");
    let value = |name: &&str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(*name)?.strip_prefix(':')).expect("a line");
        rest.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    // The kernel's kB are 1,024 bytes.
    names.iter().map(value).sum::<u64>() as f64 * 1024.0 / 1e6
}
