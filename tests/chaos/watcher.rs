//! Looks at the pool four times a second, behind everybody's back: which runs have a holder that can not be heard, and
//! how long it takes after each fault until all who were concerned are heard again.
//!
//! What was done to whom is told to it by who does it (`fault.rs`). Not here: what has to hold at the end (`verdict.rs`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use motorpool::TaskId;
use motorpool_tests::faults::{PREFIX, lives};
use redis::aio::MultiplexedConnection;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, timeout};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(250);
/// A look that takes longer finds Redis away.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// A look that comes so much too late shows that the machine stood still: nobody can be blamed for what it did then.
const STANDSTILL: Duration = Duration::from_millis(1000);
/// How long after the end of a lease a run may stay with a worker that is dead, Redis being there.
const OVER_LEASE: Duration = Duration::from_secs(10);
/// So long after a connection was left half open a call may be made on it: what it claims nobody runs.
pub(crate) const CALLS: Duration = Duration::from_secs(10);
/// So long after a way was half open a call may still hang on it: a wait and a call may find it one after the other, and
/// an answer is waited for 10 s.
pub(crate) const HANGS: Duration = Duration::from_secs(30);

/// A run, as the record names it.
pub(crate) type RunOf = (TaskId, u64);

/// A run that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Which.
    pub(crate) run: RunOf,
    /// By whom.
    pub(crate) worker: String,
}

/// A worker that was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Worker {
    /// Its process.
    pub(crate) pid: i32,
    /// The host that it belongs to.
    pub(crate) host: String,
}

/// Who is concerned by a fault.
#[derive(Clone, Debug)]
pub(crate) enum Whom {
    /// Whoever works.
    All,
    /// The workers of a host.
    Host(String),
    /// One process.
    Process(i32),
    /// No worker.
    Nobody,
}

/// A fault that is over, and who was concerned and not heard since.
struct Recovery {
    kind: &'static str,
    since: Instant,
    most: Duration,
    runs: Vec<Held>,
    /// With what was last heard of each before.
    workers: HashMap<String, Option<f64>>,
}

/// What has been seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// The runs of the last look.
    pub(crate) held: Vec<Held>,
    /// Every worker that ever was there.
    pub(crate) workers: HashMap<String, Worker>,
    heard: HashMap<String, f64>,
    /// Processes that were killed.
    pub(crate) killed: HashSet<i32>,
    /// Processes that stand still for longer than a lease.
    pub(crate) frozen: HashSet<i32>,
    /// Hosts that are cut off for longer than a lease, or were until then.
    pub(crate) cut_off: HashMap<String, Option<Instant>>,
    /// When Redis was last away for all.
    pub(crate) away: Option<Instant>,
    /// Runs that may be lost: something was done to their worker.
    pub(crate) excused: HashSet<RunOf>,
    /// Runs whose Claude was killed.
    pub(crate) failed: HashSet<RunOf>,
    dead_since: HashMap<RunOf, Instant>,
    /// The longest time that a run stayed with a dead worker, Redis being there.
    pub(crate) longest_dead: Duration,
    recoveries: Vec<Recovery>,
    /// By kind of fault: the longest until everybody was heard again, and every run of a dead worker was somebody
    /// else's, counted from the last fault that concerned one of them.
    pub(crate) recovered: BTreeMap<&'static str, Duration>,
    /// What must not be.
    pub(crate) wrong: Vec<String>,
}

/// See the module.
pub(crate) struct Watcher {
    seen: Arc<Mutex<Seen>>,
    /// How long it may take until everybody is heard again.
    most: Duration,
    looking: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl Watcher {
    /// Looks at the pool of this Redis from now on.
    pub(crate) fn of(url: String, lease: Duration) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let looking = tokio::spawn(keep_looking(url, lease, Arc::clone(&seen)));
        Self { seen, most: lease + OVER_LEASE, looking }
    }

    /// What has been seen so far. Not to be held across a wait.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fault is over that concerned these: from now on counts how long they take, for former faults too.
    pub(crate) fn over(&self, kind: &'static str, whom: &Whom) {
        if matches!(whom, Whom::Nobody) {
            return;
        }
        let now = Instant::now();
        let mut seen = self.seen();
        let concerned = |worker: &str| match whom {
            Whom::All => true,
            Whom::Host(host) => seen.workers.get(worker).is_some_and(|known| known.host == *host),
            Whom::Process(pid) => seen.workers.get(worker).is_some_and(|known| known.pid == *pid),
            Whom::Nobody => false,
        };
        let runs: Vec<Held> = seen.held.iter().filter(|held| concerned(&held.worker)).cloned().collect();
        let workers: HashMap<String, Option<f64>> =
            seen.heard.keys().filter(|worker| concerned(worker)).map(|worker| (worker.clone(), None)).collect();
        let hangs = matches!(whom, Whom::Host(host) if matches!(seen.cut_off.get(host), Some(Some(_))));
        let mut most = if hangs { HANGS } else { self.most };
        for open in &mut seen.recoveries {
            let again = open.workers.keys().any(|worker| workers.contains_key(worker))
                || open.runs.iter().any(|held| runs.contains(held));
            if again {
                open.since = now;
                most = most.max(open.most);
                open.most = most;
            }
        }
        seen.recoveries.push(Recovery { kind, since: now, most, runs, workers });
    }

    /// Whether somebody concerned by a fault was not heard yet.
    pub(crate) fn is_recovering(&self) -> bool {
        !self.seen().recoveries.is_empty()
    }
}

/// What one look finds.
struct Look {
    held: Vec<Held>,
    heard: HashMap<String, f64>,
    new: HashMap<String, Worker>,
}

async fn keep_looking(url: String, lease: Duration, seen: Arc<Mutex<Seen>>) {
    let client = redis::Client::open(url).expect("a good address");
    let mut connection = None;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        let known: HashSet<String> =
            seen.lock().unwrap_or_else(PoisonError::into_inner).workers.keys().cloned().collect();
        let begun = Instant::now();
        let stood_still = begun.duration_since(last) > EVERY + STANDSTILL;
        let found = timeout(LOOK_MAX, look(&client, &mut connection, &known)).await;
        last = Instant::now();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(Ok(found)) => seen.take(found, lease, stood_still),
            _ => {
                connection = None;
                seen.away = Some(Instant::now());
            }
        }
    }
}

async fn look(
    client: &redis::Client,
    connection: &mut Option<MultiplexedConnection>,
    known: &HashSet<String>,
) -> redis::RedisResult<Look> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(client.get_multiplexed_async_connection().await?),
    };
    let mut pipe = redis::pipe();
    pipe.cmd("ZRANGE").arg(format!("{PREFIX}index:state:running")).arg(&["0", "-1"]);
    pipe.cmd("ZRANGE").arg(format!("{PREFIX}workers")).arg(&["0", "-1", "WITHSCORES"]);
    let (running, heard): (Vec<String>, HashMap<String, f64>) = pipe.query_async(connection).await?;
    let mut pipe = redis::pipe();
    for id in &running {
        pipe.cmd("HMGET").arg(format!("{PREFIX}task:{id}")).arg(&["state", "run", "worker"]);
    }
    let rows: Vec<(Option<String>, Option<u64>, Option<String>)> =
        if running.is_empty() { Vec::new() } else { pipe.query_async(connection).await? };
    let held: Vec<Held> = running
        .iter()
        .zip(rows)
        .filter_map(|(id, (state, run, worker))| {
            let is_held = state.as_deref() == Some("running");
            is_held.then_some(Held { run: (id.parse().ok()?, run?), worker: worker? })
        })
        .collect();
    let mut new = HashMap::new();
    let everybody = heard.keys().chain(held.iter().map(|held| &held.worker));
    for worker in everybody.filter(|worker| !known.contains(*worker)) {
        let mut ask = redis::cmd("HMGET");
        ask.arg(format!("{PREFIX}worker:{worker}")).arg(&["pid", "labels"]);
        let (pid, labels): (Option<i32>, Option<String>) = ask.query_async(connection).await?;
        let labels = labels.unwrap_or_default();
        let host = labels.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let host = host.into_iter().find(|label| label.starts_with(super::field::LABEL)).unwrap_or_default().to_owned();
        if let Some(pid) = pid {
            new.insert(worker.clone(), Worker { pid, host });
        }
    }
    Ok(Look { held, heard, new })
}

impl Seen {
    fn take(&mut self, found: Look, lease: Duration, stood_still: bool) {
        let now = Instant::now();
        self.workers.extend(found.new);
        self.held = found.held;
        self.heard = found.heard;
        if stood_still {
            self.away = Some(now);
            self.excused.extend(self.held.iter().map(|held| held.run));
        }
        self.cut_off.retain(|_, until| until.is_none_or(|until| now < until));
        let held: HashSet<RunOf> = self.held.iter().map(|held| held.run).collect();
        self.dead_since.retain(|run, _| held.contains(run));
        for held in self.held.clone() {
            let Some(worker) = self.workers.get(&held.worker).cloned() else { continue };
            let is_dead = !lives(worker.pid);
            if is_dead || self.frozen.contains(&worker.pid) || self.cut_off.contains_key(&worker.host) {
                self.excused.insert(held.run);
            }
            if !is_dead {
                continue;
            }
            let (id, run) = held.run;
            let Some(since) = self.dead_since.get(&held.run).copied() else {
                // It may have finished and ended since the record was read.
                self.dead_since.insert(held.run, now);
                continue;
            };
            if !self.killed.contains(&worker.pid) {
                let died = format!("{id}: the worker {} of run {run} has ended, and nobody killed it", worker.pid);
                if !self.wrong.contains(&died) {
                    self.wrong.push(died);
                }
            }
            let since = self.away.map_or(since, |away| since.max(away));
            self.longest_dead = self.longest_dead.max(now.duration_since(since));
            if now.duration_since(since) > lease + OVER_LEASE {
                self.wrong.push(format!(
                    "{id}: run {run} is running, its worker {} is dead since {:?}",
                    worker.pid,
                    now - since
                ));
                self.dead_since.insert(held.run, now);
            }
        }
        self.recover(now);
    }

    /// Whoever is heard, or has lost what it held, is back.
    fn recover(&mut self, now: Instant) {
        let mut open = std::mem::take(&mut self.recoveries);
        open.retain_mut(|recovery| {
            let known = |worker: &String| self.workers.get(worker).cloned().unwrap_or_default();
            recovery.workers.retain(|worker, before| {
                let Some(heard) = self.heard.get(worker).filter(|_| lives(known(worker).pid)) else { return false };
                *before.get_or_insert(*heard) == *heard
            });
            recovery.runs.retain(|held| {
                let waits = recovery.workers.contains_key(&held.worker);
                self.held.contains(held) && (waits || !lives(known(&held.worker).pid))
            });
            let hindered = |worker: &String| {
                let Worker { pid, host } = known(worker);
                self.frozen.contains(&pid) || self.cut_off.get(&host) == Some(&None)
            };
            if recovery.workers.keys().any(hindered) {
                recovery.since = now;
            }
            // Nobody can be heard while Redis is away.
            let took = now.duration_since(self.away.map_or(recovery.since, |away| recovery.since.max(away)));
            if took > recovery.most {
                let (runs, workers) = (&recovery.runs, recovery.workers.keys());
                self.wrong.push(format!("{}: {took:?} later {runs:?} {workers:?} are not back", recovery.kind));
                recovery.runs.clear();
                recovery.workers.clear();
            }
            let is_over = recovery.workers.is_empty() && recovery.runs.is_empty();
            if is_over {
                let longest = self.recovered.entry(recovery.kind).or_default();
                *longest = (*longest).max(took);
            }
            !is_over
        });
        self.recoveries = open;
    }
}
