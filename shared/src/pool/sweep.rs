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
use crate::store::sweep;

/// How often who waits looks whether anybody sweeps.
const TEND: Duration = Duration::from_secs(2);

/// As good as never.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

impl Pool {
    /// Carries out what is due where nobody else does: in a pool without workers who waits is all there is. Costs one
    /// call in two seconds, and nothing is told of it.
    pub async fn tend(&self) {
        {
            let mut tended = self.inner.tended.lock().await;
            if tended.is_some_and(|last| last.elapsed() < TEND) {
                return;
            }
            *tended = Some(Instant::now());
        }
        let answer = timeout(TEND, self.store().call(&sweep::tend(&self.inner.name))).await;
        if matches!(answer, Ok(Err(CallError::Refused(_)))) {
            // Who may not will not be asked again.
            *self.inner.tended.lock().await = Some(Instant::now() + NEVER);
        }
    }
}

/// Sweeps once a second, as long as this process is the sweeper.
pub(super) async fn keep_sweeping(pool: Pool, id: WorkerId, sweeping: Arc<AtomicBool>) {
    let line = Mutex::new(Line::default());
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let answer = pool.store().call_on(&mut *line.lock().await, &sweep::sweep(id.as_str())).await;
        match answer.map_err(Error::from).and_then(|reply| sweep::swept(&reply)) {
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
