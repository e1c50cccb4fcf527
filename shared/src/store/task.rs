//! What a submit answered, cancel, and reading a task.
//!
//! Not here: the call that submits (`submission.rs`).

use std::collections::HashMap;

use super::Store;
use super::keys::RETENTION_MS;
use super::record::{self, SHORT};
use super::script::{Call, CallError, Reply, sort_error};
use crate::domain::ids::{Id, TaskId};
use crate::domain::state::State;
use crate::domain::task::Record;
use crate::error::{Error, Result};

/// What a submit of tasks answered: each id, and whether it was made now.
pub(crate) fn submitted(reply: &Reply) -> Result<Vec<(TaskId, bool)>> {
    let task =
        |(id, fresh)| match id {
            Id::Task(id) => Ok((id, fresh)),
            Id::Group(id) => Err(Error::refused(format!("the key of this task is that of {id}"))
                .hint("give the task another key (once)")),
        };
    submitted_all(reply)?.into_iter().map(task).collect()
}

/// What a submit answered: each id, and whether it was made now.
pub(crate) fn submitted_all(reply: &Reply) -> Result<Vec<(Id, bool)>> {
    if reply.word() != "ok" {
        return Err(reply.unexpected());
    }
    (1..reply.len()).step_by(2).map(|at| Ok((reply.text(at).parse()?, reply.text(at + 1) == "fresh"))).collect()
}

/// What a part of a submission answered that waits on an opening: the first so many of it.
pub(crate) fn submitted_part(reply: &Reply, gate: &str, count: usize) -> Result<Vec<(Id, bool)>> {
    if reply.word() == "unknown" && reply.text(1) == gate {
        return Err(Error::failed("the submission took so long that its first parts were given up")
            .hint("submit it again; what had come of it was cancelled"));
    }
    if reply.word() != "ok" {
        return Err(reply.unexpected());
    }
    (0..count).map(|n| Ok((reply.text(1 + 2 * n).parse()?, reply.text(2 + 2 * n) == "fresh"))).collect()
}

/// A call that cancels a task.
#[cfg(test)]
pub(crate) fn cancellation(id: TaskId, reason: &str) -> Call {
    cancellation_of(id.into(), reason)
}

/// A call that cancels a task, or every member of a chain or batch.
pub(crate) fn cancellation_of(id: Id, reason: &str) -> Call {
    Call::new("cancel").arg(id.to_string()).arg(reason).number(RETENTION_MS)
}

/// A call that gives up a submission of which some parts have come.
pub(crate) fn abandonment(gate: &str) -> Call {
    Call::new("cancel").arg(gate).arg("the rest of its submission was refused").number(RETENTION_MS)
}

/// The state that a cancel found or made; `running` means that its worker was asked.
pub(crate) fn cancelled(reply: &Reply) -> Result<State> {
    match reply.word() {
        "ok" => reply.text(1).parse(),
        _ => Err(reply.unexpected()),
    }
}

impl Store {
    /// What a key (`once`) has made, or is about to.
    pub(crate) async fn made_by(&self, once: &str) -> Result<Option<Id>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let mut get = redis::cmd("GET");
        let found: Option<String> =
            get.arg(self.keys.once(once)).query_async(&mut *connection).await.map_err(|error| sort_error(&error))?;
        Ok(found.and_then(|text| text.split(' ').next()?.parse().ok()))
    }

    /// A record with its texts; nothing if there is none.
    pub(crate) async fn task(&self, id: TaskId) -> Result<Option<Record>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let fields: HashMap<String, String> = redis::cmd("HGETALL")
            .arg(self.keys.task(id))
            .query_async(&mut *connection)
            .await
            .map_err(|error| sort_error(&error))?;
        record::read(id, &fields).map_err(CallError::Refused)
    }

    /// Records without texts, in the order of the ids; those that are gone are left out.
    pub(crate) async fn tasks_short(&self, ids: &[TaskId]) -> Result<Vec<Record>, CallError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("HMGET").arg(self.keys.task(*id)).arg(SHORT);
        }
        let mut connection = self.connector.pooled().await?;
        let rows: Vec<Vec<Option<String>>> =
            pipe.query_async(&mut *connection).await.map_err(|error| sort_error(&error))?;
        let mut records = Vec::new();
        for (id, row) in ids.iter().zip(rows) {
            let fields = SHORT.iter().zip(row).filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect();
            records.extend(record::read(*id, &fields).map_err(CallError::Refused)?);
        }
        Ok(records)
    }

    /// State, event number and run of a task: what a waiter looks at. A chain or batch has no events and no runs.
    pub(crate) async fn glance(&self, id: impl Into<Id>) -> Result<Option<(State, u64, u64)>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let (state, n, run): (Option<String>, Option<u64>, Option<u64>) = redis::cmd("HMGET")
            .arg(self.keys.record(id.into()))
            .arg(&["state", "n", "run"])
            .query_async(&mut *connection)
            .await
            .map_err(|error| sort_error(&error))?;
        match state {
            None => Ok(None),
            Some(state) => Ok(Some((state.parse().map_err(CallError::Refused)?, n.unwrap_or(0), run.unwrap_or(0)))),
        }
    }
}
