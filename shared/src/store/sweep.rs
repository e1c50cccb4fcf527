//! The sweep: one call a second by whoever was asked, as long as it is the sweeper.

use super::keys::RETENTION_MS;
use super::script::{Call, Reply};
use crate::error::Result;

/// What one sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Timers that came due.
    pub due: u64,
    /// Runs that lost their worker.
    pub lost: u64,
    /// Tasks that had lost their place in a lane.
    pub repaired: u64,
    /// Records that had had their time.
    pub removed: u64,
    /// Workers that were not heard for a lease.
    pub dead: u64,
    /// How long this pool's workers may be silent, in milliseconds.
    pub lease_ms: u64,
}

pub(crate) fn sweep(process: &str) -> Call {
    sweep_for(process, 2_000)
}

/// The same by somebody who does not stay: his place is free for a worker right away.
pub(crate) fn tend(process: &str) -> Call {
    sweep_for(process, 100)
}

fn sweep_for(process: &str, keeps_ms: u64) -> Call {
    Call::new("sweep").arg(process).number(RETENTION_MS).number(keeps_ms)
}

/// What was done; nothing if another process sweeps.
pub(crate) fn swept(reply: &Reply) -> Result<Option<Swept>> {
    match reply.word() {
        "ok" => Ok(Some(Swept {
            due: reply.number(1),
            lost: reply.number(2),
            repaired: reply.number(3),
            removed: reply.number(4),
            dead: reply.number(5),
            lease_ms: reply.number(6),
        })),
        "not_sweeper" => Ok(None),
        _ => Err(reply.unexpected()),
    }
}
