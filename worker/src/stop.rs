//! How far the end of this process has come: signals and the drain's time, as one value to wait for.
//!
//! The first SIGTERM or SIGINT drains (what runs is finished, no more is claimed), the second one, or the end of the
//! drain's time, stops.

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

/// Listens for signals from now on.
///
/// # Errors
/// The kernel refuses a handler.
pub fn listen(drain: Duration) -> Result<Stopping> {
    let failed = |error: std::io::Error| Error::failed(format!("signals cannot be listened for: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let (sender, receiver) = watch::channel(Stop::No);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
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
