//! Waiting for tasks, and their live output: a notice says "look", the record is the truth.

use tokio::time::{Instant, timeout_at};

use super::feed::{Listener, Notice};
use super::{Pool, unknown};
use crate::domain::ids::{Id, TaskId};
use crate::domain::state::State;
use crate::domain::task::Record;
use crate::domain::waits::{self, Why};
use crate::error::Result;
use crate::store::event::{Chunk, Entry};

/// Follows one task, or a chain or batch by whatever happens to tasks.
#[derive(Debug)]
pub struct Watch {
    pool: Pool,
    listener: Listener,
    id: Id,
}

/// What stands at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Its state.
    pub state: State,
    /// Its current or last run.
    pub run: u64,
}

impl Watch {
    /// What stands now.
    ///
    /// # Errors
    /// An id that nobody knows, Redis away for longer than the patience.
    pub async fn look(&self) -> Result<Glance> {
        let id = self.id;
        let seen = self.pool.patiently(move || self.pool.store().glance(id)).await?;
        let (state, _, run) = seen.ok_or_else(|| unknown(id))?;
        Ok(Glance { state, run })
    }

    /// Returns when the task may have moved, at the latest at `until` or after [`Pool::look_anyway`].
    pub async fn news(&mut self, until: Instant) {
        self.pool.tend().await;
        let until = until.min(Instant::now() + self.pool.look_anyway());
        while let Ok(notice) = timeout_at(until, self.listener.next()).await {
            match notice {
                Notice::Event(event) if matches!(self.id, Id::Task(id) if event.task != id) => {}
                _ => return,
            }
        }
    }
}

impl Pool {
    /// Follows a task, chain or batch from now on.
    pub async fn watch(&self, id: impl Into<Id>) -> Watch {
        Watch { pool: self.clone(), listener: self.listen().await, id: id.into() }
    }

    /// Waits until a task is over or up for review, or until a deadline; gives what is known of it then.
    ///
    /// # Errors
    /// An id that nobody knows.
    pub async fn wait(&self, id: TaskId, until: Option<Instant>) -> Result<Record> {
        let mut watch = self.watch(id).await;
        loop {
            let glance = watch.look().await?;
            if !glance.state.is_unfinished() || until.is_some_and(|until| Instant::now() >= until) {
                return self.task(id).await;
            }
            watch.news(until.unwrap_or_else(|| Instant::now() + self.look_anyway())).await;
        }
    }

    /// What the tasks of a lane wait for.
    ///
    /// # Errors
    /// Redis away for longer than the patience.
    pub async fn waits_for(&self, lane: &str) -> Result<Why> {
        let workers = self.workers().await?;
        Ok(waits::of_lane(lane, &workers))
    }

    /// Live output of a run behind a cursor (`0` is the start).
    pub async fn output_since(&self, id: TaskId, run: u64, cursor: &str) -> Result<Vec<Chunk>> {
        self.patiently(move || self.store().output_since(id, run, cursor)).await
    }
}

impl Pool {
    /// The last pieces of a run's live output, oldest first.
    pub async fn output_tail(&self, id: TaskId, run: u64, count: u64) -> Result<Vec<Chunk>> {
        self.patiently(move || self.store().output_tail(id, run, count)).await
    }

    /// What happened last, oldest first.
    pub async fn last_events(&self, count: u64) -> Result<Vec<Entry>> {
        self.patiently(move || self.store().last_events(count)).await
    }
}

/// Everything that happens to a pool's tasks, as it happens.
#[derive(Debug)]
pub struct Notices(Listener);

impl Notices {
    /// The next notice; `Missed` where some were dropped.
    pub async fn next(&mut self) -> Notice {
        self.0.next().await
    }
}

impl Pool {
    /// Listens to what happens from now on.
    pub async fn notices(&self) -> Notices {
        Notices(self.listen().await)
    }
}
