//! What surrounds a run besides its calls: live output goes out, notices come in. Either may be lost.
//!
//! Not here: the calls that count (`attempt.rs`).

use super::{Backoff, Pool};
use crate::domain::ids::{TaskId, WorkerId};
use crate::store::event::ChunkKind;
use crate::store::wait::Channel;

/// Where a run's live output goes: a courtesy, so it is tried once, and its loss is none.
#[derive(Clone, Debug)]
pub struct Output {
    pub(super) pool: Pool,
    pub(super) task: TaskId,
    pub(super) run: u64,
}

impl Output {
    /// Adds pieces.
    pub async fn add(&self, pieces: &[(ChunkKind, String)]) {
        let _ = self.pool.store().add_output(self.task, self.run, pieces).await;
    }
}

/// Notices to one worker. A notice that is lost is repaired by the next beat.
pub struct Control {
    pub(super) pool: Pool,
    pub(super) worker: WorkerId,
    pub(super) channel: Channel,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Control {
    /// The next notice, as in `cancel t17`; waits for ever where none comes.
    pub async fn next(&mut self) -> String {
        let mut backoff = Backoff::default();
        loop {
            if let Some(notice) = self.pool.store().next_notice(&mut self.channel, self.worker.as_str()).await {
                return notice;
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}
