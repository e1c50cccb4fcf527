//! A host's place in its pool: it reports, and hears how many workers it is to keep.
//!
//! Without Redis a host goes on keeping what it keeps. Not here: what it does about a number (`mod.rs`).

use std::time::Duration;

use motorpool::names::OwnName;
use motorpool::pool::HostSeat;
use motorpool::{HostPresence, HostTold, Pool, Result};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Bounds;
use super::board::Board;

/// How long a pool is waited for before the first workers are started without its word.
const FIRST_WORD: Duration = Duration::from_secs(3);
/// Several changes in one word.
const GATHER: Duration = Duration::from_millis(50);

/// How many workers are wanted, and how often that was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) count: u32,
    pub(super) told: u64,
}

/// A host's name, and its seat.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: OwnName,
    seat: HostSeat,
    lease: Duration,
}

impl Place {
    /// Takes the first name that no other host has, and hears what was wanted of it.
    ///
    /// # Errors
    /// The directory of names cannot be written to.
    pub(super) async fn take(
        pool: &Pool,
        bounds: Bounds,
        name: impl Fn(u32) -> Result<OwnName>,
    ) -> Result<(Self, Wanted)> {
        let mut name_now = name(1)?;
        loop {
            let seat = HostSeat::new(pool, name_now.name(), name_now.place());
            let mut wanted = Wanted { count: bounds.slots, told: 0 };
            let mut lease = motorpool::pool::LEASE;
            match timeout(FIRST_WORD, seat.report(&presence(&Board::new(), bounds, wanted))).await {
                Ok(Ok(HostTold::Taken)) => {
                    name_now = name(name_now.number() + 1)?;
                    continue;
                }
                Ok(Ok(HostTold::Known { lease_ms, target, scaled })) => {
                    wanted = Wanted { count: bounds.bound(target.unwrap_or(bounds.slots)), told: scaled };
                    lease = Duration::from_millis(lease_ms);
                }
                Ok(Err(error)) => tracing::warn!(%error, "the pool does not say how many workers it wants"),
                Err(_) => tracing::warn!("the pool does not say how many workers it wants"),
            }
            return Ok((Self { name: name_now, seat, lease }, wanted));
        }
    }

    /// Reports each third of the lease, at each change and at each notice; never returns.
    pub(super) async fn keep(&mut self, board: &Board, bounds: Bounds, wanted: &watch::Sender<Wanted>) {
        let mut changes = board.changes();
        let mut hears = wanted.subscribe();
        let mut is_away = false;
        loop {
            changes.borrow_and_update();
            let now = *hears.borrow_and_update();
            match timeout(self.lease / 3, self.seat.report(&presence(board, bounds, now))).await {
                Ok(Ok(HostTold::Known { lease_ms, target, scaled })) => {
                    is_away = false;
                    self.lease = Duration::from_millis(lease_ms);
                    let count = target.map_or(now.count, |target| bounds.bound(target));
                    let told = Wanted { count, told: scaled };
                    wanted.send_if_modified(|wanted| std::mem::replace(wanted, told) != told);
                }
                Ok(Ok(HostTold::Taken)) => {
                    let host = self.seat.name();
                    tracing::error!(host, "another host of this name is in the pool; this one is not listed meanwhile");
                }
                failed => {
                    if !std::mem::replace(&mut is_away, true) {
                        let why = failed.map_or_else(|_| "no answer".to_owned(), |told| format!("{told:?}"));
                        tracing::warn!(why, "the host is not heard in the pool; it goes on keeping its workers");
                    }
                }
            }
            tokio::select! {
                () = sleep(self.lease / 3) => {}
                _ = self.seat.notice() => {}
                // Neither of the two ends before this does.
                _ = changes.changed() => sleep(GATHER).await,
                _ = hears.changed() => {}
            }
        }
    }

    /// Leaves the list.
    pub(super) async fn leave(&self) {
        self.seat.leave().await;
    }
}

fn presence(board: &Board, bounds: Bounds, wanted: Wanted) -> HostPresence {
    let slots = board.slots();
    HostPresence {
        pid: std::process::id(),
        wanted: wanted.count,
        actual: slots.iter().filter(|slot| slot.pid.is_some()).count() as u32,
        min: bounds.min,
        max: bounds.max,
        slots,
    }
}
