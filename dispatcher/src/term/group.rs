//! A chain or batch as `--json` and tools show it: the fields of a task, and its members.
//!
//! Not here: what it is (the library's `domain/group.rs`).

use std::collections::BTreeMap;

use motorpool::pool::{GroupView, Member};
use motorpool::{GroupKind, State, TaskId, TaskRecord};
use serde_json::{Value, json};

use super::record;
use super::time::{rfc3339, usd};

/// How a member stands, in a word: a step that never ran was skipped.
pub(crate) fn member_word(member: &Member) -> &'static str {
    match member {
        Member::Task(record) if record.state == State::Cancelled && record.run == 0 => "skipped",
        member => member.state().word(),
    }
}

/// The first that went wrong, with its name.
fn first_failed(view: &GroupView) -> Option<(String, &TaskRecord)> {
    view.members.iter().enumerate().find_map(|(at, member)| match member {
        Member::Task(record) if record.state == State::Failed => Some((view.name_of(at), record.as_ref())),
        Member::Group(inner) => {
            first_failed(inner).map(|(name, record)| (format!("{}, {name}", view.name_of(at)), record))
        }
        Member::Task(_) => None,
    })
}

/// What went wrong in a word or more, with the name of the step or item.
pub(crate) fn reason(view: &GroupView) -> Option<String> {
    if let Some((name, record)) = first_failed(view) {
        let message = record.error.as_ref().map(|error| error.message.clone()).or_else(|| record.reason.clone());
        return Some(format!("{name} ({}) failed: {}", record.id, message.unwrap_or_default()));
    }
    view.group.reason.clone()
}

/// As a record; `texts` are the records with outputs of those tasks whose words are wanted.
pub(crate) fn json(view: &GroupView, texts: &BTreeMap<TaskId, TaskRecord>) -> Value {
    let is_chain = view.group.id.kind == GroupKind::Chain;
    let started = view.tasks().filter_map(|record| record.started_ms).min();
    let last = if is_chain { view.last_done() } else { view.tasks().last().filter(|_| view.group.spec.collects) };
    let last = last.and_then(|record| texts.get(&record.id));
    let error = first_failed(view).and_then(|(_, record)| record.error.as_ref()).map(record::error);
    let denied: Vec<&String> = view.tasks().flat_map(|record| &record.denied).collect();
    let members: Vec<Value> =
        view.members.iter().enumerate().map(|(at, member)| member_json(view, at, member, texts)).collect();
    let mut value = json!({
        "id": view.group.id, "kind": view.group.id.kind.word(), "state": view.state.word(),
        "reason": reason(view), "output": last.and_then(|record| record.output.as_deref()),
        "structured": last.and_then(|record| record.structured.as_ref()), "error": error, "runs": [], "attempt": 0,
        "cost_usd": usd(view.cost_microusd()), "usage": null, "turns": null, "denied": denied, "files": null,
        "commit": null, "tags": view.group.tags, "created": rfc3339(view.group.created_ms),
        "started": started.map(rfc3339), "ended": view.group.ended_ms.map(rfc3339), "chain": null, "step": null,
        "title": view.group.title,
    });
    value[if is_chain { "steps" } else { "items" }] = members.into();
    value
}

fn member_json(view: &GroupView, at: usize, member: &Member, texts: &BTreeMap<TaskId, TaskRecord>) -> Value {
    match member {
        Member::Group(inner) => {
            let mut value = json(inner, texts);
            value["name"] = view.name_of(at).into();
            value
        }
        Member::Task(record) => {
            let whole = texts.get(&record.id);
            json!({
                "id": record.id, "kind": "task", "name": view.name_of(at), "state": member_word(member),
                "reason": record.reason, "output": whole.and_then(|whole| whole.output.as_deref()),
                "structured": whole.and_then(|whole| whole.structured.as_ref()),
                "error": record.error.as_ref().map(record::error), "cost_usd": usd(record.cost_microusd),
                "runs": record.run, "retries": record.failures, "recovered": record.recovering,
                "denied": record.denied,
            })
        }
    }
}
