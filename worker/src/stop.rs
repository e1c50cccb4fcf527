//! How far the end of this process has come: signals and the drain's time, as one value to wait for.
//!
//! The first SIGTERM or SIGINT drains (what runs is finished, no more is claimed), the second one, or the end of the
//! drain's time, stops. SIGHUP lets a worker finish what it runs, however long that takes, and end; a host renews its
//! workers, one by one, unless it is a terminal's that was closed.

use std::time::Duration;

use motorpool::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Work goes on.
    #[default]
    No,
    /// What runs is finished, no more is claimed.
    Drain,
    /// What runs is given back.
    Now,
}

/// A view of it.
#[derive(Clone, Debug)]
pub struct Stopping(watch::Receiver<Stop>);

impl Stopping {
    /// How far it has come.
    #[must_use]
    pub fn now(&self) -> Stop {
        *self.0.borrow()
    }

    /// Returns when it has come so far; for ever where it never does.
    pub async fn at_least(&mut self, stop: Stop) -> Stop {
        match self.0.wait_for(|now| *now >= stop).await {
            Ok(now) => *now,
            Err(_) => std::future::pending().await,
        }
    }
}

/// How often a host was told to renew its workers.
pub type Renewals = watch::Receiver<u64>;

/// Listens, as a host, for SIGHUP from now on.
///
/// # Errors
/// The kernel refuses a handler.
pub fn renewals() -> Result<Renewals> {
    let (sender, receiver) = watch::channel(0);
    let mut hang_up = signal(SignalKind::hangup())
        .map_err(|error| Error::failed(format!("signals cannot be listened for: {error}")))?;
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            sender.send_modify(|count| *count += 1);
        }
    });
    Ok(receiver)
}

async fn hangs_up(hung_up: &mut Option<tokio::signal::unix::Signal>) {
    if let Some(hung_up) = hung_up
        && hung_up.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// Whether SIGHUP was ignored when this process was started, as nohup does: then it is none of ours. Only where there is
/// /proc.
fn is_hang_up_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Listens for signals from now on; for SIGHUP too, where `hang_up` says so.
///
/// # Errors
/// The kernel refuses a handler.
pub fn listen(drain: Duration, hang_up: bool) -> Result<Stopping> {
    let failed = |error: std::io::Error| Error::failed(format!("signals cannot be listened for: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let hang_up = hang_up && !is_hang_up_ignored();
    // Its listener would take away that it is ignored.
    let mut hung_up = if hang_up { Some(signal(SignalKind::hangup()).map_err(failed)?) } else { None };
    let (sender, receiver) = watch::channel(Stop::No);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = hangs_up(&mut hung_up) => {
                sender.send_replace(Stop::Drain);
                // Without a limit of time, until it is told to end.
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
        }
        sender.send_replace(Stop::Drain);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = tokio::time::sleep(drain) => {}
        }
        sender.send_replace(Stop::Now);
        // The value has to stay readable for as long as anybody asks.
        sender.closed().await;
    });
    Ok(Stopping(receiver))
}
