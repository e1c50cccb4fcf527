//! Submit, cancel, and reading a task.

use std::collections::HashMap;

use uuid::Uuid;

use super::Store;
use super::keys::RETENTION_MS;
use super::record::{self, SHORT};
use super::script::{Call, CallError, Reply, sort_error};
use crate::domain::chain::Node;
use crate::domain::ids::{Id, TaskId};
use crate::domain::limits;
use crate::domain::options::{AfterFailure, Priority};
use crate::domain::retry;
use crate::domain::state::State;
use crate::domain::task::{Record, Spec};
use crate::error::{Error, Result};

/// Attempts where nobody says how many.
pub(crate) const ATTEMPTS: u32 = 3;

/// A call that makes these tasks.
pub(crate) fn submission(specs: &[Spec], pool_id: &str, lease_ms: u64) -> Result<Call> {
    let nodes: Vec<Node> = specs.iter().map(|spec| Node::task(spec.clone())).collect();
    submission_of(&nodes, pool_id, lease_ms)
}

/// A call that makes these: may be repeated, since each carries its key. Refuses what is beyond a bound.
pub(crate) fn submission_of(nodes: &[Node], pool_id: &str, lease_ms: u64) -> Result<Call> {
    let mut bytes = 0;
    let mut followed = 0;
    let mut call = Call::new("submit")
        .arg(pool_id)
        .number(lease_ms)
        .number(limits::MAX_PENDING)
        .arg(Uuid::new_v4().simple().to_string())
        .number(nodes.len() as u64);
    let keys = keys_of(nodes);
    for (node, key) in nodes.iter().zip(keys) {
        call = match node {
            Node::Task { spec, follows, group } => {
                limits::check_prompt(&spec.prompt)?;
                spec.options.check()?;
                let text = json(spec)?;
                bytes += text.len();
                let options = &spec.options;
                let own = options.after.iter().map(ToString::to_string);
                let follows: Vec<String> = own.chain(follows.iter().map(ToString::to_string)).collect();
                followed += follows.len();
                let attempts = options.max_attempts.unwrap_or(ATTEMPTS).clamp(1, limits::MAX_ATTEMPTS);
                // Failures of the work are not among those that a task may ask for, and count as attempts.
                let tries =
                    spec.step.as_ref().map_or(0, |step| step.retries + u32::from(step.recovery_prompt.is_some()));
                call.arg(key)
                    .arg(text)
                    .arg(spec.lane().to_string())
                    .arg(options.priority.unwrap_or(Priority::Normal).word())
                    .number(attempts + tries)
                    .arg(retry::if_lost(attempts + tries))
                    .arg(options.coordinator.as_deref().unwrap_or(""))
                    .arg(options.tags.join("\n"))
                    .number(options.delay_s.unwrap_or(0) * 1000)
                    .number(options.queue_timeout_s.unwrap_or(0) * 1000)
                    .arg(spec.title())
                    .arg(follows.join("\n"))
                    .arg(options.after_failure.unwrap_or(AfterFailure::Cancel).word())
                    .arg("task")
                    .arg(group.map(|place| format!("@{place}")).unwrap_or_default())
            }
            Node::Group { kind, spec, options, title, members, group } => {
                let text = json(spec)?;
                bytes += text.len();
                followed += members.len();
                call.arg(key)
                    .arg(text)
                    .args(["", "", "", ""])
                    .arg(options.coordinator.as_deref().unwrap_or(""))
                    .arg(options.tags.join("\n"))
                    .args(["0", "0"])
                    .arg(title)
                    .arg(members.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
                    .arg("")
                    .arg(kind.word())
                    .arg(group.map(|place| format!("@{place}")).unwrap_or_default())
            }
        };
    }
    if followed > limits::CALL_FOLLOWED {
        return Err(Error::usage(format!(
            "{} tasks that follow {followed} others are too much for one call",
            nodes.len()
        ))
        .hint("submit them in parts, or let one task follow them all, and the others that one"));
    }
    let tasks = nodes.iter().filter(|node| matches!(node, Node::Task { .. })).count();
    if tasks > limits::CALL_RECORDS || bytes > limits::CALL_BYTES && tasks > 1 {
        return Err(Error::usage(format!("{tasks} tasks of {bytes} bytes are too much for one call")).hint(format!(
            "at most {} tasks and {} bytes are taken",
            limits::CALL_RECORDS,
            limits::CALL_BYTES
        )));
    }
    Ok(call)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::failed(format!("what is submitted cannot be written as JSON: {error}")))
}

/// The keys by which a submission that is repeated is known. A caller's own holds no control character.
fn keys_of(nodes: &[Node]) -> Vec<String> {
    let of_whole = match nodes.last() {
        Some(Node::Group { options, spec, .. }) => Some(match (&options.once, spec.retry_of) {
            (Some(once), _) => once.clone(),
            (None, Some(id)) => format!("retry\t{id}"),
            (None, None) => format!("auto-{}", Uuid::new_v4()),
        }),
        _ => None,
    };
    let last = nodes.len().saturating_sub(1);
    let key = |(at, node): (usize, &Node)| match (node, &of_whole) {
        (_, Some(whole)) if at == last => whole.clone(),
        (_, Some(whole)) => format!("{whole}\t{at}"),
        (Node::Task { spec, .. }, None) => match (&spec.options.once, spec.retry_of) {
            (Some(once), _) => once.clone(),
            (None, Some(id)) => format!("retry\t{id}"),
            (None, None) => format!("auto-{}", Uuid::new_v4()),
        },
        (Node::Group { .. }, None) => format!("auto-{}", Uuid::new_v4()),
    };
    nodes.iter().enumerate().map(key).collect()
}

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

/// A call that cancels a task.
#[cfg(test)]
pub(crate) fn cancellation(id: TaskId, reason: &str) -> Call {
    cancellation_of(id.into(), reason)
}

/// A call that cancels a task, or every member of a chain or batch.
pub(crate) fn cancellation_of(id: Id, reason: &str) -> Call {
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
