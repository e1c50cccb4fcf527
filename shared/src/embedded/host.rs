//! The pool's host: started, watched, restarted, ended.
//!
//! It outlives its keeper. Its standard input is the file of its lock, so the lock is free when it is gone, whoever
//! started it; what a host starts must have another standard input.
//! Not here: how a host keeps its workers (`worker/src/host`).

use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::Instant;

use super::event::{Event, KeepOptions};
use super::lock::Lock;
use super::place::Place;
use super::{log, record};
use crate::error::{Error, Result};
use crate::process;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A host that lived this long failed for a new reason: the pauses begin anew.
const HEALTHY: Duration = Duration::from_secs(30);

/// What is known of the host.
pub(super) struct Host {
    child: Option<Child>,
    /// Since when its lock is seen held; `None`: it is not.
    seen: Option<Instant>,
    pause: Duration,
    next: Instant,
}

impl Host {
    pub(super) fn new() -> Self {
        Self { child: None, seen: None, pause: PAUSE_MIN, next: Instant::now() }
    }

    /// Waits until our own child ended; for ever where the host is not ours. Losing the future loses nothing.
    pub(super) async fn ended(&mut self) {
        match &mut self.child {
            Some(child) => drop(child.wait().await),
            None => std::future::pending().await,
        }
        self.child = None;
    }

    /// When the next look is due, if sooner than usual.
    pub(super) fn due(&self) -> Option<Instant> {
        self.seen.is_none().then_some(self.next)
    }

    /// One look: a living host is left alone, a dead one is started again when its pause is over.
    pub(super) fn look(&mut self, place: &Place, options: &KeepOptions, events: &mut impl FnMut(Event)) -> Result<()> {
        self.reap();
        let now = Instant::now();
        let Some(lock) = Lock::try_exclusive(&place.file("host.lock"))? else {
            if self.seen.is_none() {
                self.seen = Some(now);
                events(Event::HostFound { pid: record::host_pid(place).map(Pid::as_raw) });
            }
            return Ok(());
        };
        if let Some(since) = self.seen.take() {
            self.pause = if now - since >= HEALTHY { PAUSE_MIN } else { self.pause };
            self.next = now + self.pause;
            events(Event::HostEnded { retry_in: self.pause });
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
        if now < self.next {
            return Ok(());
        }
        match start(place, options, lock) {
            Ok((child, pid)) => {
                self.child = Some(child);
                self.seen = Some(now);
                events(Event::HostStarted { pid });
            }
            Err(error) => {
                self.next = now + self.pause;
                events(Event::HostFailed { error, retry_in: self.pause });
                self.pause = (self.pause * 2).min(PAUSE_MAX);
            }
        }
        Ok(())
    }

    /// Whether nothing of the host is left.
    pub(super) fn is_gone(&mut self, place: &Place) -> bool {
        self.reap();
        self.child.is_none() && !Lock::is_held(&place.file("host.lock")).unwrap_or(false)
    }

    /// Sends it a signal, whoever started it.
    pub(super) fn signal(&self, place: &Place, signal: Signal) {
        let own = self.child.as_ref().and_then(Child::id).map(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = own.or_else(|| record::host_pid(place)) {
            record::signal(pid, signal);
        }
    }

    fn reap(&mut self) {
        if let Some(child) = &mut self.child
            && !matches!(child.try_wait(), Ok(None))
        {
            self.child = None;
        }
    }
}

fn start(place: &Place, options: &KeepOptions, lock: Lock) -> Result<(Child, u32)> {
    let failed =
        |error: std::io::Error| Error::failed(format!("cannot start {}: {error}", options.worker_bin.display()));
    // The record of the last one must not be read as this one's.
    let _ = std::fs::remove_file(place.file("host.json"));
    let output = log::open(&place.file("host.log"))?;
    let mut command = Command::new(&options.worker_bin);
    command.arg("host").arg("--slots").arg(options.slots.to_string()).args(&options.worker_args);
    command.envs(options.worker_env.iter().map(|(name, value)| (name, value)));
    command.current_dir(place.project());
    command.stdin(lock.into_file()).stdout(output.try_clone().map_err(failed)?).stderr(Stdio::from(output));
    process::own_session(&mut command);
    let child = tokio::process::Command::from(command).spawn().map_err(failed)?;
    let pid = child.id().unwrap_or_default();
    record::write_host(place, pid)?;
    Ok((child, pid))
}
