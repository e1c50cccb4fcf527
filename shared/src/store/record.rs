//! A task's hash and its [`Record`]: fields that this version does not know stay in Redis untouched.

use std::collections::HashMap;

use crate::domain::attempt::{Class, Failure};
use crate::domain::ids::TaskId;
use crate::domain::review::Round;
use crate::domain::task::{Record, Run};
use crate::error::{Error, Result};

/// The fields of a record without its texts, as a listing asks for them.
pub(crate) const SHORT: &[&str] = &[
    "state",
    "title",
    "reason",
    "lane",
    "coordinator",
    "tags",
    "run",
    "attempt",
    "max_attempts",
    "round",
    "entry",
    "worker",
    "cancel",
    "created",
    "started",
    "ended",
    "tool",
    "heard",
    "error_class",
    "error_status",
    "error_message",
    "error_hint",
    "cost",
    "estimated",
    "usage",
    "turns",
    "denied",
    "n",
    "news",
    "offered",
    "group",
    "failures",
    "recovering",
];

/// Reads a record; nothing if there is none.
pub(crate) fn read(id: TaskId, fields: &HashMap<String, String>) -> Result<Option<Record>> {
    let text = |name: &str| fields.get(name).filter(|value| !value.is_empty()).cloned();
    let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
    let json = |name: &str| text(name).and_then(|value| serde_json::from_str(&value).ok());
    let Some(state) = text("state") else { return Ok(None) };
    let state = state.parse().map_err(|_| {
        Error::failed(format!("task {id} is in a state that this version does not know: {state}"))
            .hint("use the version of Motorpool that wrote it")
    })?;
    let spec = match text("spec") {
        None => None,
        Some(text) => Some(serde_json::from_str(&text).map_err(|error| {
            Error::failed(format!("the spec of task {id} cannot be read: {error}")).hint("`motorpool doctor`")
        })?),
    };
    let error = text("error_class").and_then(|class| class.parse::<Class>().ok()).map(|class| Failure {
        class,
        status: number("error_status").and_then(|status| u16::try_from(status).ok()),
        message: text("error_message").unwrap_or_default(),
        hint: text("error_hint"),
    });
    let run = number("run").unwrap_or(0);
    Ok(Some(Record {
        id,
        state,
        title: text("title").unwrap_or_default(),
        reason: text("reason"),
        spec,
        lane: text("lane").unwrap_or_default(),
        coordinator: text("coordinator"),
        tags: text("tags").map(|tags| tags.lines().map(str::to_owned).collect()).unwrap_or_default(),
        run,
        attempt: number("attempt").unwrap_or(0) as u32,
        max_attempts: number("max_attempts").unwrap_or(0) as u32,
        round: number("round").unwrap_or(1) as u32,
        entry: text("entry"),
        worker: text("worker"),
        cancel: text("cancel").as_deref() == Some("1"),
        created_ms: number("created").unwrap_or(0),
        started_ms: number("started"),
        ended_ms: number("ended"),
        tool: text("tool"),
        heard_ms: number("heard"),
        output: fields.get("output").cloned(),
        structured: json("structured"),
        error,
        cost_microusd: number("cost").unwrap_or(0),
        cost_estimated: text("estimated").as_deref() == Some("1"),
        usage: json("usage"),
        turns: number("turns").map(|turns| turns as u32),
        denied: json("denied").and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default(),
        rounds: (1..=number("round").unwrap_or(1) as u32).filter_map(|n| read_round(n, fields)).collect(),
        runs: (1..=run).filter_map(|n| read_run(n, fields)).collect(),
        group: text("group").and_then(|id| id.parse().ok()),
        vars: json("vars").and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default(),
        failures: number("failures").unwrap_or(0) as u32,
        recovering: text("recovering").as_deref() == Some("1"),
        n: number("n").unwrap_or(0),
        news: number("news"),
        offered: number("offered"),
    }))
}

fn read_round(n: u32, fields: &HashMap<String, String>) -> Option<Round> {
    let text = |name: &str| fields.get(&format!("round:{n}:{name}")).cloned();
    let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
    Some(Round {
        n,
        approved: text("verdict")? == "approve",
        by: text("by").unwrap_or_default(),
        why: text("why").unwrap_or_default(),
        run: number("run").unwrap_or(0),
        output: text("output"),
        at_ms: number("at").unwrap_or(0),
    })
}

fn read_run(n: u64, fields: &HashMap<String, String>) -> Option<Run> {
    let text = |name: &str| fields.get(&format!("run:{n}:{name}")).filter(|value| !value.is_empty()).cloned();
    let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
    Some(Run {
        n,
        worker: text("worker")?,
        host: text("host").unwrap_or_default(),
        session_id: text("session"),
        resumed: text("resumed"),
        started_ms: number("started").unwrap_or(0),
        ended_ms: number("ended"),
        class: text("class").and_then(|class| class.parse().ok()),
        message: text("message"),
        cost_microusd: number("cost").unwrap_or(0),
        charged: text("charged").as_deref() != Some("0"),
    })
}
