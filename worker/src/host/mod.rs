//! The host: keeps N workers alive on this machine, and drains them at its end.
//!
//! A worker is told to drain when its host dies, so a new host never adds to the workers of an old one. Not here: what
//! a worker does (`slot.rs`), who keeps the host (`motorpool::embedded`).

pub mod restart;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use motorpool::embedded::{self, Joined, Ping};
use motorpool::process::die_with_parent;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until};

use crate::process::{Owned, end_orphans, reap_orphans};
use crate::stop::{Renewals, Stop, Stopping};
use restart::Restart;

/// How long workers get between the second signal and the end.
const SECOND: Duration = Duration::from_secs(10);

/// What a host keeps.
#[derive(Debug)]
pub struct Options {
    /// How many workers.
    pub slots: u32,
    /// The worker's program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables that it gets besides the host's own.
    pub env: Vec<(OsString, OsString)>,
    /// The embedded pool that it belongs to: brought back when its keeper was killed.
    pub joined: Option<Joined>,
}

/// Keeps the workers until it is told to stop; returns when all of them are gone.
///
/// At each of `renewals` every worker is told to finish what it runs and to end, and a new one is started in its place,
/// from the program as it lies on the disk by then.
pub async fn keep(options: Options, mut stopping: Stopping, renewals: Option<Renewals>) {
    let slots = (0..options.slots).map(|n| {
        let start = Start { program: options.program.clone(), args: options.args.clone(), env: options.env.clone() };
        tokio::task::spawn_local(keep_slot(n + 1, start, stopping.clone(), renewals.clone()))
    });
    let slots: Vec<_> = slots.collect();
    let watch = watch(options.joined.as_ref());
    tokio::select! {
        // Its cancellation loses a look at the pool, which is about to end.
        () = watch => {}
        _ = stopping.at_least(Stop::Drain) => {}
    }
    for slot in slots {
        let _ = slot.await;
    }
}

/// Once a second: orphans that ended are reaped, and the pool's server is brought back where its keeper died; a pool
/// that was ended on purpose stays ended.
async fn watch(joined: Option<&Joined>) {
    loop {
        sleep(Duration::from_secs(1)).await;
        reap_orphans();
        if let Some(joined) = joined
            && embedded::ping(&joined.socket()).await == Ping::Gone
            && let Err(error) = joined.ensure().await
        {
            tracing::warn!(%error, "the pool's server is gone and does not come back yet");
        }
    }
}

/// How a worker is started.
struct Start {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

/// The next renewal; never where there are none.
async fn renewed(renewals: &mut Option<Renewals>) {
    if let Some(renewals) = renewals
        && renewals.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

async fn keep_slot(n: u32, start: Start, mut stopping: Stopping, mut renewals: Option<Renewals>) {
    let mut restart = Restart::default();
    while stopping.now() == Stop::No {
        let started = Instant::now();
        if let Some(renewals) = &mut renewals {
            // Whoever is started now is new.
            renewals.borrow_and_update();
        }
        match start.worker() {
            Err(error) => {
                tracing::error!(slot = n, program = %start.program.display(), %error, "the worker cannot be started")
            }
            Ok(worker) => match attend(n, worker, &mut stopping, &mut renewals).await {
                Left::Stopped => return,
                Left::Renewed => continue,
                Left::Ended => {}
            },
        }
        let lived_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let wait = Duration::from_millis(restart.after(lived_ms));
        tokio::select! {
            () = sleep(wait) => {}
            _ = stopping.at_least(Stop::Drain) => {}
        }
    }
}

/// How a worker left its slot.
enum Left {
    /// By itself, or killed.
    Ended,
    /// It was to be followed by a new one, and has finished what it ran.
    Renewed,
    /// The host ends.
    Stopped,
}

async fn attend(n: u32, mut worker: Child, stopping: &mut Stopping, renewals: &mut Option<Renewals>) -> Left {
    let _owned = worker.id().map(Owned::new);
    let mut is_old = false;
    let status = loop {
        tokio::select! {
            status = worker.wait() => break status,
            () = renewed(renewals), if !is_old => {
                tracing::info!(slot = n, "the worker finishes what it runs; a new one follows it");
                signal(&worker, Signal::SIGHUP);
                is_old = true;
            }
            _ = stopping.at_least(Stop::Drain) => {
                end(n, worker, stopping.clone()).await;
                return Left::Stopped;
            }
        }
    };
    let is_well = status.as_ref().is_ok_and(std::process::ExitStatus::success);
    if !(is_old && is_well) {
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::warn!(slot = n, status, "the worker ended");
    }
    // Its Claude died with it; what Claude had started was handed to us.
    if let Err(left) = end_orphans(SECOND).await {
        tracing::error!(slot = n, ?left, "what the worker left behind cannot be ended");
    }
    if is_old && is_well { Left::Renewed } else { Left::Ended }
}

impl Start {
    fn worker(&self) -> std::io::Result<Child> {
        let mut command = std::process::Command::new(&self.program);
        // Its standard input is not ours: a lock may hang on that. A group of its own keeps a terminal's Ctrl-C away.
        command.args(&self.args).stdin(Stdio::null()).process_group(0);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        die_with_parent(&mut command, Signal::SIGTERM);
        Command::from(command).spawn()
    }
}

/// Drains a worker: told once, told again when the host is, killed when it does not end.
async fn end(n: u32, worker: Child, stopping: Stopping) {
    end_worker(n, worker, stopping).await;
    if let Err(left) = end_orphans(SECOND).await {
        tracing::error!(slot = n, ?left, "what the worker left behind cannot be ended");
    }
}

async fn end_worker(n: u32, mut worker: Child, mut stopping: Stopping) {
    signal(&worker, Signal::SIGTERM);
    tokio::select! {
        _ = worker.wait() => return,
        _ = stopping.at_least(Stop::Now) => {}
    }
    signal(&worker, Signal::SIGTERM);
    let until = Instant::now() + SECOND;
    tokio::select! {
        _ = worker.wait() => return,
        () = sleep_until(until) => {}
    }
    tracing::error!(slot = n, "the worker did not end in time and is killed");
    let _ = worker.kill().await;
}

fn signal(worker: &Child, signal: Signal) {
    if let Some(pid) = worker.id() {
        // It may have ended by itself meanwhile, which is what we want.
        let _ = kill(Pid::from_raw(pid as i32), signal);
    }
}
