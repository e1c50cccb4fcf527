//! Processes of a run: started so that they die with the worker, found wherever they went, ended and verified gone.
//!
//! A run's processes are the descendants of its CLI, whoever carries its mark in the environment (tools start their
//! commands in sessions of their own), and the orphans that were handed to this process. A pid is only signalled
//! together with the start time it was seen with; zombies do not count as alive. Not here: reading the system's table
//! (`process/table.rs`), when to end what (`attempt/machine.rs`).

mod lines;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpgrp};
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use crate::claude::command::{Command, RUN_MARK};
pub use lines::{LONGEST_LINE_BYTES, Lines, Tail};
pub use table::{Process, processes};

/// Children of this process that are somebody's own: never taken for an adopted orphan, never reaped here.
static OWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn own() -> MutexGuard<'static, BTreeSet<i32>> {
    // A set of numbers is whole after any panic.
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a child of this process from being taken for an orphan of a run. Everything that the worker starts while a
/// run may be on needs one.
#[derive(Debug)]
pub struct Owned(i32);

impl Owned {
    /// For a child that was just started.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        own().insert(pid as i32);
        Self(pid as i32)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        own().remove(&self.0);
    }
}

/// A CLI that was started, with pipes to it.
#[derive(Debug)]
pub struct Started {
    /// The child; killed when this is dropped.
    pub child: Child,
    /// Its pid, also after its end.
    pub pid: i32,
    _owned: Owned,
}

/// Starts a call in a session of its own, to be killed when the calling **thread** ends: call it on the main thread
/// of a `current_thread` runtime.
pub fn start(call: &Command) -> io::Result<Started> {
    let mut command = std::process::Command::new(&call.program);
    command.args(&call.args).env_clear().envs(&call.env).current_dir(&call.cwd);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    motorpool::process::own_session(&mut command);
    motorpool::process::die_with_parent(&mut command, Signal::SIGKILL);
    let mut command = tokio::process::Command::from(command);
    let child = command.kill_on_drop(true).spawn()?;
    let pid = child.id().ok_or_else(|| io::Error::other("a child without a pid"))?;
    Ok(Started { child, pid: pid as i32, _owned: Owned::new(pid) })
}

/// The living processes of the run that `root` began, this process and its ancestors excepted.
#[must_use]
pub fn tree(root: i32, mark: &str) -> Vec<Process> {
    let all = processes();
    let spared = own().clone();
    let belongs =
        |one: &&Process| one.pid == root || is_adopted(one, &spared) || table::mark(one.pid).as_deref() == Some(mark);
    let seeds = all.iter().filter(belongs);
    with_descendants(&all, seeds.map(|one| one.pid).collect(), &spared, root)
}

/// The living ones of `found` and all below them. Never: this process, those above it, and other children of its own.
fn with_descendants(all: &[Process], mut found: BTreeSet<i32>, own: &BTreeSet<i32>, root: i32) -> Vec<Process> {
    let parents: BTreeMap<i32, i32> = all.iter().map(|one| (one.pid, one.parent)).collect();
    let mut never: BTreeSet<i32> = own.iter().copied().filter(|pid| *pid != root).collect();
    let mut above = std::process::id() as i32;
    while above > 0 && never.insert(above) {
        above = parents.get(&above).copied().unwrap_or(0);
    }
    found.retain(|pid| !never.contains(pid));
    loop {
        let before = found.len();
        let below = all.iter().filter(|one| found.contains(&one.parent) && !never.contains(&one.pid));
        let below: Vec<i32> = below.map(|one| one.pid).collect();
        found.extend(below);
        if found.len() == before {
            break;
        }
    }
    all.iter().filter(|one| found.contains(&one.pid) && !one.zombie).cloned().collect()
}

/// Sends a signal to each that is still the process it was.
pub fn signal_all(processes: &[Process], signal: Signal) {
    for process in processes {
        if table::is_still(process) {
            // It may have ended by itself meanwhile, which is what we want.
            let _ = kill(Pid::from_raw(process.pid), signal);
        }
    }
}

/// Sends a signal to every process of the run.
pub fn signal_tree(root: i32, mark: &str, signal: Signal) {
    signal_all(&tree(root, mark), signal);
}

/// Kills every process of the run, again and again until none is there; the pids of those that stay.
pub async fn kill_tree_and_verify(root: i32, mark: &str, deadline: Duration) -> Result<(), Vec<i32>> {
    let gone = end(deadline, || {
        let alive = tree(root, mark);
        signal_all(&alive, Signal::SIGKILL);
        alive.iter().map(|one| one.pid).collect()
    })
    .await;
    reap_orphans();
    gone
}

/// Calls `round` until it finds nobody, in growing steps.
async fn end(deadline: Duration, mut round: impl FnMut() -> Vec<i32>) -> Result<(), Vec<i32>> {
    let until = Instant::now() + deadline;
    let mut pause = Duration::from_millis(5);
    loop {
        let alive = round();
        if alive.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(alive);
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Whether it was handed to this process: a child that nobody here started. What the worker starts is in its own
/// group, if it has no [`Owned`]; so it is neither killed nor reaped for an orphan.
fn is_adopted(process: &Process, own: &BTreeSet<i32>) -> bool {
    process.parent == std::process::id() as i32 && process.group != getpgrp().as_raw() && !own.contains(&process.pid)
}

/// Takes the exit status of orphans that have ended. To be called every second or so.
pub fn reap_orphans() {
    if !table::any_child_ended() {
        return;
    }
    let own = own().clone();
    for process in processes().iter().filter(|one| one.zombie && is_adopted(one, &own)) {
        let _ = waitpid(Pid::from_raw(process.pid), Some(WaitPidFlag::WNOHANG));
    }
}

/// Ends what a dead worker left behind: processes of a run that were handed to this process as orphans, and all below
/// them. For a host, whose own children carry no mark. Gives what is still there after the deadline.
pub async fn end_orphans(deadline: Duration) -> Result<(), Vec<i32>> {
    let me = std::process::id() as i32;
    end(deadline, || {
        let all = processes();
        let is_orphan = |one: &&Process| one.parent == me && !one.zombie && table::mark(one.pid).is_some();
        let seeds = all.iter().filter(is_orphan).map(|one| one.pid).collect();
        let alive = with_descendants(&all, seeds, &own().clone(), 0);
        signal_all(&alive, Signal::SIGKILL);
        alive.iter().filter(|one| !one.zombie).map(|one| one.pid).collect()
    })
    .await
}

/// What [`leftovers`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Runs whose processes were found and are gone, as `TASK/RUN`.
    pub ended: Vec<String>,
    /// Processes that are still there.
    pub survivors: Vec<i32>,
}

/// Ends this user's processes that carry the mark of this pool and of a run that is not current. `is_current` asks the
/// record; where it cannot tell, it fails, and nothing of that run or of the rest is touched.
pub async fn leftovers<E>(
    pool_id: &str,
    mut is_current: impl AsyncFnMut(&str, &str) -> Result<bool, E>,
    deadline: Duration,
) -> Result<Leftovers, E> {
    let mut runs = BTreeSet::new();
    if pool_id.is_empty() {
        return Ok(Leftovers::default());
    }
    let me = std::process::id() as i32;
    for process in processes().iter().filter(|one| one.pid != me && !one.zombie) {
        let Some(mark) = table::mark(process.pid) else { continue };
        let mut parts = mark.split('/');
        if let (Some(pool), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
            && pool == pool_id
        {
            runs.insert(mark);
        }
    }
    let mut done = Leftovers::default();
    for mark in runs {
        let (task, run) = mark[pool_id.len() + 1..].split_once('/').unwrap_or_default();
        if is_current(task, run).await? {
            continue;
        }
        // By the mark and from there downwards; our own children are of no earlier run.
        let gone = end(deadline, || {
            let all = processes();
            let seeds = all.iter().filter(|one| table::mark(one.pid).as_deref() == Some(mark.as_str()));
            let alive = with_descendants(&all, seeds.map(|one| one.pid).collect(), &own().clone(), 0);
            signal_all(&alive, Signal::SIGKILL);
            alive.iter().map(|one| one.pid).collect()
        });
        match gone.await {
            Ok(()) => done.ended.push(format!("{task}/{run}")),
            Err(alive) => done.survivors.extend(alive),
        }
    }
    Ok(done)
}

/// The entry that a marked process has in its environment.
fn mark_entry() -> String {
    format!("{RUN_MARK}=")
}
