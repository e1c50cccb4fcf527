//! Tasks of the protocol (SEP-2663): their state is the pool's, so that they outlive this process and the host.
//!
//! The task of a call that makes work has the id of that work. A wait has no record; its id says all there is to know
//! of it. An id that nobody knows is a task that failed: a host that is told an error asks for ever.

use motorpool::pool::{GroupView, Known};
use motorpool::{Error, ErrorKind, GroupId, Id, Result, State, TaskRecord};
use rmcp::ErrorData;
use rmcp::model::{DetailedTask, GetTaskResult, JsonObject, Task, TaskPayload, TaskStatus};
use serde_json::{Value, json};

use super::answer::{in_line, tool_result};
use super::call::Call;
use super::digest;
use super::tools::wait::{self, Wait};
use super::whole;
use crate::term::time::{now_ms, rfc3339};

/// How long a host waits between two looks at a task, in milliseconds.
const POLL_MS: u64 = 1_000;
/// The same at one that has run for a while.
const SLOW_POLL_MS: u64 = 3_000;
/// What a while is, in milliseconds.
const WHILE_MS: u64 = 60_000;

/// The task of a call that made `record`.
pub(super) fn of(record: &TaskRecord) -> Task {
    let moved = [record.ended_ms, record.heard_ms, record.started_ms].into_iter().flatten().max();
    let poll_ms = if now_ms().saturating_sub(record.created_ms) > WHILE_MS { SLOW_POLL_MS } else { POLL_MS };
    Task::new(
        record.id.to_string(),
        status(record.state),
        rfc3339(record.created_ms),
        rfc3339(moved.unwrap_or(record.created_ms)),
    )
    .with_status_message(digest::head(record))
    .with_poll_interval_ms(poll_ms)
}

/// The task of a call that made a chain or batch.
pub(super) fn of_group(view: &GroupView) -> Task {
    let moved = view.tasks().flat_map(|record| [record.ended_ms, record.started_ms]).flatten().max();
    let created_ms = view.group.created_ms;
    let poll_ms = if now_ms().saturating_sub(created_ms) > WHILE_MS { SLOW_POLL_MS } else { POLL_MS };
    let moved_ms = moved.unwrap_or(created_ms);
    Task::new(view.group.id.to_string(), status(view.state), rfc3339(created_ms), rfc3339(moved_ms))
        .with_status_message(whole::head(view))
        .with_poll_interval_ms(poll_ms)
}

fn status(state: State) -> TaskStatus {
    match state {
        // What a failed task brought is a result; `failed` of the protocol is an error of the protocol.
        State::Completed | State::Failed | State::PendingReview => TaskStatus::Completed,
        State::Cancelled => TaskStatus::Cancelled,
        State::Waiting | State::Delayed | State::Pending | State::Held | State::Running => TaskStatus::Working,
    }
}

/// The task of a call that waits.
pub(super) fn of_wait(wait: &Wait) -> Task {
    let created = rfc3339(wait.created_ms);
    Task::new(wait.id(), TaskStatus::Working, created, rfc3339(now_ms()))
        .with_status_message(wait.words())
        .with_poll_interval_ms(POLL_MS)
}

/// `tasks/get`.
pub(super) async fn get(call: &mut Call, id: &str) -> std::result::Result<GetTaskResult, ErrorData> {
    let task = match look(call, id).await {
        Ok(task) => task,
        // Redis away, a pool that is just being started: the host asks again.
        Err(error) if !matches!(error.kind(), ErrorKind::Usage | ErrorKind::Refused) => {
            return Err(ErrorData::internal_error(in_line(&error), None));
        }
        Err(error) => gone(id, &error),
    };
    Ok(GetTaskResult::new(task))
}

async fn look(call: &mut Call, id: &str) -> Result<DetailedTask> {
    if let Some(wait) = Wait::parse(id) {
        call.speak_for(&wait.coordinator);
        if call.desk.is_dropped(id) {
            return Ok(DetailedTask::new(of_wait(&wait), TaskPayload::Cancelled));
        }
        let payload = match wait::answer_if_any(call, &wait).await? {
            Some((text, is_error)) => completed(text, is_error),
            None => TaskPayload::Working,
        };
        return Ok(DetailedTask::new(of_wait(&wait), payload));
    }
    let id = match id.parse()? {
        Id::Task(id) => id,
        Id::Group(id) => return look_at_group(call, id).await,
    };
    // Without its texts, which may be long, as long as it is asked for again and again.
    let short = call.pool().await?.find_short(id).await?;
    let record = match short.filter(|record| status(record.state) == TaskStatus::Working) {
        Some(record) => record,
        None => call.find(id).await?,
    };
    if let Some(name) = &record.coordinator {
        // Whoever holds the id of the call's own task is its coordinator.
        call.speak_for(name);
    }
    let payload = match status(record.state) {
        TaskStatus::Completed => {
            call.names([&record]).await?;
            completed(digest::record(&record), record.state == State::Failed)
        }
        TaskStatus::Cancelled => {
            call.names([&record]).await?;
            TaskPayload::Cancelled
        }
        _ => TaskPayload::Working,
    };
    Ok(DetailedTask::new(of(&record), payload))
}

async fn look_at_group(call: &mut Call, id: GroupId) -> Result<DetailedTask> {
    let known = call.known(id.into()).await?;
    let Known::Group(view) = &known else { return Err(Error::refused(format!("no chain or batch {id}"))) };
    if let Some(name) = &view.group.coordinator {
        call.speak_for(name);
    }
    let payload = match status(view.state) {
        TaskStatus::Completed => {
            call.names_any([&known]).await?;
            completed(whole::text(&call.pool().await?, &known).await?, view.state == State::Failed)
        }
        TaskStatus::Cancelled => {
            call.names_any([&known]).await?;
            TaskPayload::Cancelled
        }
        _ => TaskPayload::Working,
    };
    Ok(DetailedTask::new(of_group(view), payload))
}

fn completed(text: String, is_error: bool) -> TaskPayload {
    let result = serde_json::to_value(tool_result(text, is_error)).ok();
    let result = result.and_then(|value| if let Value::Object(object) = value { Some(object) } else { None });
    TaskPayload::Completed { result: result.unwrap_or_default() }
}

/// A task that is not there any more.
fn gone(id: &str, error: &Error) -> DetailedTask {
    let now = rfc3339(now_ms());
    let text = format!("{}; it is older than what the pool keeps, or of another pool", in_line(error));
    let task = Task::new(digest::cut(id, 200), TaskStatus::Failed, now.clone(), now).with_status_message(text.clone());
    let mut object = JsonObject::new();
    object.insert("code".into(), json!(-32602));
    object.insert("message".into(), json!(text));
    DetailedTask::new(task, TaskPayload::Failed { error: object })
}

/// `tasks/cancel`: asked for as often as a host likes.
pub(super) async fn cancel(call: &Call, id: &str) -> std::result::Result<(), ErrorData> {
    if Wait::parse(id).is_some() {
        // The work goes on; nobody waits for it here any more.
        call.desk.drop_wait(id);
        return Ok(());
    }
    let told = |error: Error| match error.kind() {
        ErrorKind::Usage | ErrorKind::Refused => ErrorData::invalid_params(in_line(&error), None),
        _ => ErrorData::internal_error(in_line(&error), None),
    };
    let id: Id = id.parse().map_err(told)?;
    let pool = call.pool().await.map_err(told)?;
    pool.cancel(id, "stopped by the coordinator").await.map(drop).map_err(told)
}
