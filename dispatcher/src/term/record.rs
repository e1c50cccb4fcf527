//! A task as `--json` shows it: the fields of the contract, all of them, always.
//!
//! A value that does not exist is null, never absent. Not here: the record itself (the library's `domain/task.rs`).

use motorpool::{Failure, GroupKind, Run, TaskRecord};
use serde::Serialize;
use serde_json::Value;

use super::time::{rfc3339, usd};

/// A task in `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct RecordJson<'a> {
    id: String,
    kind: &'static str,
    state: &'static str,
    reason: Option<&'a str>,
    output: Option<&'a str>,
    structured: Option<&'a Value>,
    error: Option<ErrorJson<'a>>,
    runs: Vec<RunJson<'a>>,
    attempt: u32,
    cost_usd: f64,
    usage: Option<&'a Value>,
    turns: Option<u32>,
    denied: &'a [String],
    files: Option<Vec<String>>,
    commit: Option<String>,
    tags: &'a [String],
    created: String,
    started: Option<String>,
    ended: Option<String>,
    chain: Option<String>,
    step: Option<u32>,
}

#[derive(Debug, Serialize)]
pub(super) struct ErrorJson<'a> {
    class: &'static str,
    status: Option<u16>,
    message: &'a str,
    hint: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct RunJson<'a> {
    n: u64,
    worker: &'a str,
    host: &'a str,
    session_id: Option<&'a str>,
    resumed: Option<&'a str>,
    started: String,
    ended: Option<String>,
    class: Option<&'static str>,
    cost_usd: f64,
}

/// What a listing does not hold: it is in `show`.
const TEXTS: [&str; 4] = ["output", "structured", "runs", "usage"];

/// The record of a task in a listing: without its texts and runs, which are left out and not told as nothing.
pub(crate) fn short_json(record: &TaskRecord) -> Value {
    let mut value = serde_json::to_value(json(record)).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        TEXTS.iter().for_each(|name| drop(fields.remove(*name)));
        fields.insert("title".into(), record.title.clone().into());
    }
    value
}

/// The record of a task for `--json`.
pub(crate) fn json(record: &TaskRecord) -> RecordJson<'_> {
    RecordJson {
        id: record.id.to_string(),
        kind: "task",
        state: record.state.word(),
        reason: record.reason.as_deref(),
        output: record.output.as_deref(),
        structured: record.structured.as_ref(),
        error: record.error.as_ref().map(error),
        runs: record.runs.iter().map(run).collect(),
        attempt: record.attempt,
        cost_usd: usd(record.cost_microusd),
        usage: record.usage.as_ref(),
        turns: record.turns,
        denied: &record.denied,
        files: None,
        commit: None,
        tags: &record.tags,
        created: rfc3339(record.created_ms),
        started: record.started_ms.map(rfc3339),
        ended: record.ended_ms.map(rfc3339),
        chain: record.group.filter(|group| group.kind == GroupKind::Chain).map(|group| group.to_string()),
        step: record.spec.as_ref().and_then(|spec| spec.step.as_ref()).map(|step| step.number),
    }
}

pub(super) fn error(failure: &Failure) -> ErrorJson<'_> {
    ErrorJson {
        class: failure.class.word(),
        status: failure.status,
        message: &failure.message,
        hint: failure.hint.as_deref(),
    }
}

fn run(run: &Run) -> RunJson<'_> {
    RunJson {
        n: run.n,
        worker: &run.worker,
        host: &run.host,
        session_id: run.session_id.as_deref(),
        resumed: run.resumed.as_deref(),
        started: rfc3339(run.started_ms),
        ended: run.ended_ms.map(rfc3339),
        class: run.class.map(motorpool::Class::word),
        cost_usd: usd(run.cost_microusd),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use motorpool::{Class, State, TaskId};

    pub(crate) fn pending() -> TaskRecord {
        TaskRecord {
            id: TaskId::new(17),
            state: State::Pending,
            title: "a prompt".into(),
            reason: None,
            spec: None,
            lane: "default".into(),
            coordinator: None,
            tags: vec![],
            run: 0,
            attempt: 0,
            max_attempts: 3,
            round: 1,
            entry: None,
            worker: None,
            cancel: false,
            created_ms: 1_735_689_600_000,
            started_ms: None,
            ended_ms: None,
            tool: None,
            heard_ms: None,
            output: None,
            structured: None,
            error: None,
            cost_microusd: 0,
            cost_estimated: false,
            usage: None,
            turns: None,
            denied: vec![],
            runs: vec![],
            rounds: vec![],
            group: None,
            vars: Default::default(),
            failures: 0,
            recovering: false,
            n: 1,
            news: None,
            offered: None,
        }
    }

    /// One that has brought this.
    pub(crate) fn completed(output: &str) -> TaskRecord {
        TaskRecord { state: State::Completed, output: Some(output.into()), ..pending() }
    }

    const FIELDS: &str = "id kind state reason output structured error runs attempt cost_usd usage turns denied files \
                          commit tags created started ended chain step";

    #[test]
    fn a_record_has_every_field_whatever_is_known() {
        let mut failed = pending();
        failed.state = State::Failed;
        failed.error = Some(Failure { status: Some(401), ..Failure::new(Class::Auth, "no") });
        failed.runs = vec![Run { n: 1, worker: "w".into(), class: Some(Class::Auth), ..Run::default() }];
        for record in [pending(), failed] {
            let value = serde_json::to_value(json(&record)).unwrap();
            let mut names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
            let mut wanted: Vec<&str> = FIELDS.split_whitespace().collect();
            names.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(names, wanted);
        }
    }

    #[test]
    fn errors_and_runs_have_theirs() {
        let mut record = pending();
        record.error = Some(Failure { status: Some(401), ..Failure::new(Class::Auth, "no") });
        record.runs = vec![Run { n: 1, worker: "w".into(), cost_microusd: 500, ..Run::default() }];
        let value = serde_json::to_value(json(&record)).unwrap();
        assert_eq!(value["error"], serde_json::json!({"class": "auth", "status": 401, "message": "no", "hint": null}));
        let run = serde_json::json!({"n": 1, "worker": "w", "host": "", "session_id": null, "resumed": null,
            "started": "1970-01-01T00:00:00.000Z", "ended": null, "class": null, "cost_usd": 0.0005});
        assert_eq!(value["runs"][0], run);
        assert_eq!(value["created"], "2025-01-01T00:00:00.000Z");
    }
}
