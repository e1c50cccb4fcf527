//! Submit, cancel, and reading a task.

use std::collections::HashMap;

use uuid::Uuid;

use super::Store;
use super::keys::RETENTION_MS;
use super::record::{self, SHORT};
use super::script::{Call, CallError, Reply, sort_error};
use crate::domain::ids::TaskId;
use crate::domain::limits;
use crate::domain::options::{AfterFailure, Priority};
use crate::domain::retry;
use crate::domain::state::State;
use crate::domain::task::{Record, Spec};
use crate::error::{Error, Result};

/// Attempts where nobody says how many.
pub(crate) const ATTEMPTS: u32 = 3;

/// A call that makes these tasks: may be repeated, since each carries its key. Refuses what is beyond a bound. `kept`: this
/// Redis forgets no write that it has answered.
pub(crate) fn submission(specs: &[Spec], pool_id: &str, lease_ms: u64, kept: bool) -> Result<Call> {
    let mut bytes = 0;
    let mut call = Call::new("submit")
        .arg(pool_id)
        .number(lease_ms)
        .number(limits::MAX_PENDING)
        .arg(Uuid::new_v4().simple().to_string())
        .number(u64::from(kept))
        .number(specs.len() as u64);
    for spec in specs {
        limits::check_prompt(&spec.prompt)?;
        spec.options.check()?;
        let text = serde_json::to_string(spec)
            .map_err(|error| Error::failed(format!("the task cannot be written as JSON: {error}")))?;
        bytes += text.len();
        let options = &spec.options;
        let attempts = options.max_attempts.unwrap_or(ATTEMPTS).clamp(1, limits::MAX_ATTEMPTS);
        call = call
            .arg(key_of(spec))
            .arg(text)
            .arg(spec.lane().to_string())
            .arg(options.priority.unwrap_or(Priority::Normal).word())
            .number(attempts)
            .arg(retry::if_lost(attempts))
            .arg(options.coordinator.as_deref().unwrap_or(""))
            .arg(options.tags.join("\n"))
            .number(options.delay_s.unwrap_or(0) * 1000)
            .number(options.queue_timeout_s.unwrap_or(0) * 1000)
            .arg(spec.title())
            .arg(options.after.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            .arg(options.after_failure.unwrap_or(AfterFailure::Cancel).word());
    }
    let followed: usize = specs.iter().map(|spec| spec.options.after.len()).sum();
    if followed > limits::CALL_FOLLOWED {
        return Err(Error::usage(format!(
            "{} tasks that follow {followed} others are too much for one call",
            specs.len()
        ))
        .hint("submit them in parts, or let one task follow them all, and the others that one"));
    }
    if specs.len() > limits::CALL_RECORDS || bytes > limits::CALL_BYTES && specs.len() > 1 {
        return Err(Error::usage(format!("{} tasks of {bytes} bytes are too much for one call", specs.len())));
    }
    Ok(call)
}

/// The key by which a submission that is repeated is known. A caller's own holds no control character.
fn key_of(spec: &Spec) -> String {
    match (&spec.options.once, spec.retry_of) {
        (Some(once), _) => once.clone(),
        (None, Some(id)) => format!("retry\t{id}"),
        (None, None) => format!("auto-{}", Uuid::new_v4()),
    }
}

/// What a submit answered: each task's id, and whether it was made now.
pub(crate) fn submitted(reply: &Reply) -> Result<Vec<(TaskId, bool)>> {
    if reply.word() != "ok" {
        return Err(reply.unexpected());
    }
    (1..reply.len()).step_by(2).map(|at| Ok((reply.text(at).parse()?, reply.text(at + 1) == "fresh"))).collect()
}

/// A call that cancels a task.
pub(crate) fn cancellation(id: TaskId, reason: &str) -> Call {
    Call::new("cancel").arg(id.to_string()).arg(reason).number(RETENTION_MS)
}

/// The state that a cancel found or made; `running` means that its worker was asked.
pub(crate) fn cancelled(reply: &Reply) -> Result<State> {
    match reply.word() {
        "ok" => reply.text(1).parse(),
        _ => Err(reply.unexpected()),
    }
}

impl Store {
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

    /// State, event number and run of a task: what a waiter looks at.
    pub(crate) async fn glance(&self, id: TaskId) -> Result<Option<(State, u64, u64)>, CallError> {
        let mut connection = self.connector.pooled().await?;
        let (state, n, run): (Option<String>, Option<u64>, Option<u64>) = redis::cmd("HMGET")
            .arg(self.keys.task(id))
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
