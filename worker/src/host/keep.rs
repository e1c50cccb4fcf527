//! One slot of a host: its worker is started, watched, started again, renewed, let go of.
//!
//! Not here: how many slots there are (`mod.rs`), how long to wait (`restart.rs`).

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use motorpool::domain::host::Keeping;
use motorpool::process::die_with_parent;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::LAST_WORDS;
use super::board::Board;
use super::restart::{Next, Restart};
use crate::process::{Owned, end_orphans};
use crate::stop::{Renewals, Stop, Stopping};

/// How long workers get between the second signal and the end.
const SECOND: Duration = Duration::from_secs(10);

/// How a worker is started.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
}

/// What a slot was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// Whether it is to have a worker.
    pub(super) keep: bool,
    /// How often the host was told how many it is to keep: a new word tries anew what was given up.
    pub(super) told: u64,
}

/// One slot.
pub(super) struct Keeper {
    pub(super) n: u32,
    /// Its name in the pool.
    pub(super) name: String,
    pub(super) start: Rc<Start>,
    pub(super) board: Board,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) stopping: Stopping,
    pub(super) renewals: Option<Renewals>,
    pub(super) max_restarts: u32,
    /// Where its worker leaves what it says last.
    pub(super) words: PathBuf,
}

/// How a worker left its slot.
enum Left {
    /// By itself, or killed.
    Ended(std::io::Result<ExitStatus>),
    /// It was told to go, and has finished what it ran.
    Told,
    /// The host ends.
    Stopped,
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

/// The next order; never where nobody gives any more.
async fn ordered(orders: &mut watch::Receiver<Order>) {
    if orders.changed().await.is_err() {
        std::future::pending().await
    }
}

impl Keeper {
    /// Keeps a worker in the slot until it is let go of, or the host ends.
    pub(super) async fn keep(mut self) {
        let began = Instant::now();
        let mut restart = Restart::new(self.max_restarts);
        while self.stopping.now() == Stop::No && self.orders.borrow_and_update().keep {
            if let Some(renewals) = &mut self.renewals {
                // Whoever is started now is new.
                renewals.borrow_and_update();
            }
            let started = Instant::now();
            let ended = match self.worker() {
                Err(error) => {
                    let program = self.start.program.display();
                    tracing::error!(slot = self.name, %program, %error, "the worker cannot be started");
                    Err(error)
                }
                Ok(worker) => match self.attend(worker).await {
                    Left::Stopped => break,
                    Left::Told => continue,
                    Left::Ended(status) => status,
                },
            };
            let badly = !ended.as_ref().is_ok_and(|status| status.success() || finds_no_redis(*status));
            let said = self.last_words();
            self.board.note(self.n, &self.name, |slot| {
                (slot.state, slot.pid) = (Keeping::Starting, None);
                if badly {
                    slot.ended = Some(ended.map_or_else(|error| error.to_string(), |status| status.to_string()));
                    slot.said = said;
                }
            });
            match restart.ended(ms(began.elapsed()), ms(started.elapsed()), badly) {
                Next::After(wait) => self.pause(Duration::from_millis(wait)).await,
                Next::GiveUp => {
                    self.give_up().await;
                    restart = Restart::new(self.max_restarts);
                }
            }
        }
        let _ = std::fs::remove_file(&self.words);
        self.board.remove(self.n);
    }

    async fn pause(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                () = ordered(&mut self.orders) => if !self.orders.borrow_and_update().keep { return },
                _ = self.stopping.at_least(Stop::Drain) => return,
            }
        }
    }

    /// Until the host is told again.
    async fn give_up(&mut self) {
        let why = self.board.get(self.n).map(|slot| slot.why()).unwrap_or_default();
        tracing::error!(
            slot = self.name,
            why,
            "its workers end badly too often: given up until the host is told again"
        );
        self.board.note(self.n, &self.name, |slot| slot.state = Keeping::Errored);
        tokio::select! {
            () = ordered(&mut self.orders) => {}
            () = renewed(&mut self.renewals) => {}
            _ = self.stopping.at_least(Stop::Drain) => {}
        }
        self.board.note(self.n, &self.name, |slot| slot.state = Keeping::Starting);
    }

    async fn attend(&mut self, mut worker: Child) -> Left {
        let _owned = worker.id().map(Owned::new);
        self.board.note(self.n, &self.name, |slot| (slot.state, slot.pid) = (Keeping::Kept, worker.id()));
        let mut is_old = false;
        let status = loop {
            let keep = self.orders.borrow_and_update().keep;
            if !keep && !is_old {
                tracing::info!(slot = self.name, "the worker finishes what it runs; none follows it");
                signal(&worker, Signal::SIGHUP);
                is_old = true;
            }
            let state = if keep { Keeping::Kept } else { Keeping::Leaving };
            self.board.note(self.n, &self.name, |slot| slot.state = state);
            tokio::select! {
                status = worker.wait() => break status,
                () = renewed(&mut self.renewals), if !is_old => {
                    tracing::info!(slot = self.name, "the worker finishes what it runs; a new one follows it");
                    signal(&worker, Signal::SIGHUP);
                    is_old = true;
                }
                () = ordered(&mut self.orders) => {}
                _ = self.stopping.at_least(Stop::Drain) => {
                    self.end(worker).await;
                    return Left::Stopped;
                }
            }
        };
        let is_well = status.as_ref().is_ok_and(ExitStatus::success);
        if !(is_old && is_well) {
            let status = status.as_ref().map_or_else(ToString::to_string, ToString::to_string);
            tracing::warn!(slot = self.name, status, "the worker ended");
        }
        // Its Claude died with it; what Claude had started was handed to us.
        if let Err(left) = end_orphans(SECOND).await {
            tracing::error!(slot = self.name, ?left, "what the worker left behind cannot be ended");
        }
        if is_old && is_well { Left::Told } else { Left::Ended(status) }
    }

    fn worker(&self) -> std::io::Result<Child> {
        let _ = std::fs::remove_file(&self.words);
        let mut command = std::process::Command::new(&self.start.program);
        command.args(&self.start.args).arg(format!("--slot={}", self.name));
        // Its standard input is not ours: a lock may hang on that. A group of its own keeps a terminal's Ctrl-C away.
        command.stdin(Stdio::null()).process_group(0);
        command.envs(self.start.env.iter().map(|(name, value)| (name, value))).env(LAST_WORDS, &self.words);
        die_with_parent(&mut command, Signal::SIGTERM);
        Command::from(command).spawn()
    }

    /// What a worker that ended has left to be told.
    fn last_words(&self) -> Option<String> {
        let text = std::fs::read_to_string(&self.words).ok()?;
        Some(text.trim().chars().take(500).collect()).filter(|text: &String| !text.is_empty())
    }

    /// Drains a worker: told once, told again when the host is, killed when it does not end.
    async fn end(&mut self, worker: Child) {
        self.end_worker(worker).await;
        if let Err(left) = end_orphans(SECOND).await {
            tracing::error!(slot = self.name, ?left, "what the worker left behind cannot be ended");
        }
    }

    async fn end_worker(&mut self, mut worker: Child) {
        signal(&worker, Signal::SIGTERM);
        tokio::select! {
            _ = worker.wait() => return,
            _ = self.stopping.at_least(Stop::Now) => {}
        }
        signal(&worker, Signal::SIGTERM);
        tokio::select! {
            _ = worker.wait() => return,
            () = sleep(SECOND) => {}
        }
        tracing::error!(slot = self.name, "the worker did not end in time and is killed");
        let _ = worker.kill().await;
    }
}

/// Redis is away, which is none of the worker's fault and passes by itself.
fn finds_no_redis(status: ExitStatus) -> bool {
    status.code() == Some(i32::from(motorpool::ErrorKind::Redis.exit_code()))
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn signal(worker: &Child, signal: Signal) {
    if let Some(pid) = worker.id() {
        // It may have ended by itself meanwhile, which is what we want.
        let _ = kill(Pid::from_raw(pid as i32), signal);
    }
}
