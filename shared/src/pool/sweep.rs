//! Sweeping: what one process of a pool does for all of it, once a second.
//!
//! Not here: what is swept (`store/sweep.rs` and its script), who is asked to do it (whoever calls and finds nobody).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::Pool;
use crate::domain::ids::WorkerId;
use crate::error::Error;
use crate::store::Line;
use crate::store::script::CallError;
use crate::store::sweep::{self, Swept};

/// How often who waits looks whether anybody sweeps, at the least.
const TEND: Duration = Duration::from_secs(2);
/// How often the sweeper sweeps, at the least.
const SWEEP: Duration = Duration::from_secs(1);

/// As good as never.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

impl Pool {
    /// How long who waits trusts that no notice means no news. Where a lease is short, for a part of it: a silence of half
    /// a lease counts as an outage, after which nothing is taken from anybody for a while.
    #[must_use]
    pub fn look_anyway(&self) -> Duration {
        self.within_lease(TEND)
    }

    fn within_lease(&self, most: Duration) -> Duration {
        match self.inner.lease_told_ms.load(Ordering::Relaxed) {
            0 => most,
            lease_ms => most.min(Duration::from_millis(lease_ms / 4)),
        }
    }

    fn hear_of_lease(&self, swept: &Swept) {
        self.inner.lease_told_ms.store(swept.lease_ms, Ordering::Relaxed);
    }

    /// Carries out what is due where nobody else does: in a pool without workers who waits is all there is. Costs one
    /// call in [`Pool::look_anyway`], and nothing is told of it.
    pub async fn tend(&self) {
        {
            let mut tended = self.inner.tended.lock().await;
            if tended.is_some_and(|last| last.elapsed() < self.look_anyway()) {
                return;
            }
            *tended = Some(Instant::now());
        }
        let answer = timeout(TEND, self.store().call(&sweep::tend(&self.inner.name))).await;
        match answer {
            // Who may not will not be asked again.
            Ok(Err(CallError::Refused(_))) => *self.inner.tended.lock().await = Some(Instant::now() + NEVER),
            Ok(Ok(reply)) => {
                if let Ok(Some(swept)) = sweep::swept(&reply) {
                    self.hear_of_lease(&swept);
                }
            }
            Ok(Err(CallError::Away(_) | CallError::Locked(_))) | Err(_) => {}
        }
    }
}

/// Sweeps once a second, as long as this process is the sweeper.
pub(super) async fn keep_sweeping(pool: Pool, id: WorkerId, sweeping: Arc<AtomicBool>) {
    let line = Mutex::new(Line::default());
    loop {
        tokio::time::sleep(pool.within_lease(SWEEP)).await;
        let answer = pool.store().call_on(&mut *line.lock().await, &sweep::sweep(id.as_str())).await;
        let answer = answer.map_err(Error::from).and_then(|reply| sweep::swept(&reply));
        if let Ok(Some(swept)) = &answer {
            pool.hear_of_lease(swept);
        }
        match answer {
            Ok(Some(swept)) if swept.lost + swept.repaired + swept.dead > 0 => {
                tracing::info!(lost = swept.lost, repaired = swept.repaired, dead = swept.dead, "swept");
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "the sweep was not answered");
                break;
            }
        }
    }
    sweeping.store(false, Ordering::SeqCst);
}
