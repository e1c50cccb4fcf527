//! The tools: one table of names, descriptions, schemas and what carries them out.
//!
//! Options of a task are spelled out in `pool_run` alone. Schemas are written by hand, as short as they can be: the
//! coordinator pays for each of them. Not here: what the arguments mean (`args.rs`), what the pool does (the library).

pub(super) mod group;
pub(super) mod review;
pub(super) mod task;
pub(super) mod view;
pub(super) mod wait;

use std::sync::Arc;

use motorpool::Result;
use motorpool::domain::options::{AfterFailure, Kind, OptionRow, Priority, TABLE as OPTIONS};
use motorpool::settings::{EFFORTS, MODES};
use rmcp::model::{JsonObject, MetaObject, Tool, ToolAnnotations};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::call::Call;

/// One tool.
struct Row {
    name: &'static str,
    description: &'static str,
    /// Its own arguments: name, schema.
    arguments: fn() -> Value,
    needed: &'static [&'static str],
    is_read: bool,
    /// It spells out the options of a task.
    has_options: bool,
    /// The host has it in the first prompt.
    always_loaded: bool,
}

const RUN: Row = Row {
    name: "pool_run",
    description: "Run one task on a worker and wait for its result. Blocks until it is done (as a task, where the \
                  host can), else up to wait_s. A worker sees only this prompt and its directory: say all it needs.",
    arguments: || json!({"prompt": text("what is to be done"), "wait_s": count("seconds to wait (45; at most 600)")}),
    needed: &["prompt"],
    is_read: false,
    has_options: true,
    always_loaded: true,
};

const TABLE: &[Row] = &[
    RUN,
    Row {
        name: "pool_submit",
        description: "Start a task and get its id at once; pool_wait hands its result over. Takes every option of \
                      pool_run.",
        arguments: || json!({"prompt": {"type": "string"}}),
        needed: &["prompt"],
        is_read: false,
        has_options: false,
        always_loaded: false,
    },
    Row {
        name: "pool_fan_out",
        description: "Run many tasks at once: one batch, results in input order, failures by name. Takes every option of \
                      pool_run, for all items; an item's own win. An item is a prompt, {prompt, options...} or a chain \
                      {steps}.",
        arguments: || {
            json!({"items": {"type": "array"}, "collect": text("prompt of a task that gathers them all; {outputs} is what they gave"),
                "wait_s": count("0: the ids at once")})
        },
        needed: &["items"],
        is_read: false,
        has_options: false,
        always_loaded: false,
    },
    Row {
        name: "pool_chain",
        description: "Run steps one after the other and wait for the last one's result. A prompt may hold {previous_output} \
                      and {steps.NAME.VAR}, taken by output_vars ({VAR: \"path.in.json\"}) from step NAME. retries: of \
                      failed work; then recovery_prompt ({error}). Takes every option of pool_run, for all steps or in \
                      one.",
        arguments: || {
            json!({"steps": {"type": "array", "items": {"type": "object", "properties": {
                "name": {"type": "string"}, "prompt": {"type": "string"}, "output_vars": {"type": "object"},
                "retries": {"type": "integer"}, "recovery_prompt": {"type": "string"}}}},
                "wait_s": {"type": "integer"}})
        },
        needed: &["steps"],
        is_read: false,
        has_options: false,
        always_loaded: false,
    },
    Row {
        name: "pool_submit_chain",
        description: "Start a chain (see pool_chain) and get its id at once; pool_wait hands its result over.",
        arguments: || json!({"steps": {"type": "array"}}),
        needed: &["steps"],
        is_read: false,
        has_options: false,
        always_loaded: false,
    },
    Row {
        name: "pool_chain_result",
        description: "How far a chain is: step and its live tail, steps done, cost; its result when it is over. JSON.",
        arguments: || json!({"id": {"type": "string"}, "wait_s": {"type": "integer"}, "full": {"type": "boolean"}}),
        needed: &["id"],
        is_read: true,
        has_options: false,
        always_loaded: false,
    },
    Row {
        name: "pool_auto",
        description: "Let a worker decide whether work is one task, several at once or a chain, and do it so. dry_run: only \
                      the route. Takes every option of pool_run, for each part.",
        arguments: || {
            json!({"prompt": {"type": "string"}, "dry_run": {"type": "boolean"}, "wait_s": {"type": "integer"},
                "hints": {"type": "object", "description": "max_parallel, max_chain_steps, prefer, domain, decomposition_hints"}})
        },
        needed: &["prompt"],
        is_read: false,
        has_options: false,
        always_loaded: false,
    },
    Row {
        name: "pool_submit_with_review",
        description: "Start a task whose result waits in pending_review until you approve or reject it; what follows it \
                      waits too. Takes every option of pool_run.",
        arguments: || json!({"prompt": {"type": "string"}}),
        needed: &["prompt"],
        is_read: false,
        has_options: false,
        always_loaded: false,
    },
    Row {
        name: "pool_approve_result",
        description: "Approve results that are up for review (tasks, or all of a chain or batch). round: the one you \
                      looked at.",
        arguments: || json!({"ids": ids(), "round": {"type": "integer"}, "reason": {"type": "string"}}),
        needed: &["ids"],
        is_read: false,
        has_options: false,
        always_loaded: false,
    },
    Row {
        name: "pool_reject_result",
        description: "Reject a result: it is done anew with your feedback, with changed options if you give any (as a \
                      stronger model); with its max_rejections-th rejection it has failed.",
        arguments: || json!({"ids": ids(), "feedback": {"type": "string"}, "round": {"type": "integer"}}),
        needed: &["ids", "feedback"],
        is_read: false,
        has_options: false,
        always_loaded: false,
    },
    Row {
        name: "pool_result",
        description: "State and result of tasks whose ids you know, as JSON; the tail of live output while one runs.",
        arguments: || {
            json!({"ids": ids(), "wait_s": count("seconds to wait for all of them (0)"),
                "full": flag("all of the output"), "cursor": count("first character of the output to give, with full")})
        },
        needed: &["ids"],
        is_read: true,
        has_options: false,
        always_loaded: true,
    },
    Row {
        name: "pool_wait",
        description: "What is new? Waits until something of yours is done, and hands it over, each once. Without ids: \
                      anything that was not handed over yet, also from before this session.",
        arguments: || {
            json!({"ids": ids(), "all": flag("wait for all of the ids, not for any"),
                "wait_s": count("seconds to wait (45)"), "replay": count("hand over the last n again")})
        },
        needed: &[],
        is_read: true,
        has_options: false,
        always_loaded: false,
    },
    Row {
        name: "pool_cancel",
        description: "Stop tasks. One that runs is `cancelled` only once its processes are gone.",
        arguments: || json!({"ids": ids(), "reason": {"type": "string"}}),
        needed: &["ids"],
        is_read: false,
        has_options: false,
        always_loaded: false,
    },
    Row {
        name: "pool_status",
        description: "The pool at a glance, as JSON: tasks by state, slots, lanes, what is stuck and why.",
        arguments: || json!({}),
        needed: &[],
        is_read: true,
        has_options: false,
        always_loaded: false,
    },
    Row {
        name: "pool_view",
        description: "A listing. tasks: newest first; task: all that is known of one; slots: the workers; events: \
                      what happened last; config: the pool's defaults.",
        arguments: || {
            json!({"what": {"enum": view::VIEWS}, "id": {"type": "string"}, "state": {"type": "array", "items": {"type": "string"}},
                "tag": {"type": "string"}, "mine": flag("only your own tasks"), "limit": count("lines (20)"), "cursor": {"type": "string"}})
        },
        needed: &["what"],
        is_read: true,
        has_options: false,
        always_loaded: false,
    },
];

fn text(words: &str) -> Value {
    json!({"type": "string", "description": words})
}

fn count(words: &str) -> Value {
    json!({"type": "integer", "description": words})
}

fn flag(words: &str) -> Value {
    json!({"type": "boolean", "description": words})
}

fn ids() -> Value {
    json!({"type": "array", "items": {"type": "string"}})
}

/// An option of a task as an argument.
fn option(row: &OptionRow) -> Value {
    let words = match row.name {
        "effort" => return json!({"enum": EFFORTS}),
        "priority" => return json!({"enum": Priority::ALL.iter().map(|one| one.word()).collect::<Vec<_>>()}),
        "permission_mode" => {
            return json!({"enum": MODES, "description": "plan (reads, writes nothing) unless this or the pool's default says otherwise"});
        }
        "after_failure" => return json!({"enum": AfterFailure::ALL.iter().map(|one| one.word()).collect::<Vec<_>>()}),
        "isolation" => return json!({"enum": ["none"]}),
        _ => row.doc,
    };
    let mut schema = match row.kind {
        Kind::Text => json!({"type": "string"}),
        Kind::Count => json!({"type": "integer"}),
        Kind::Money => json!({"type": "number"}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::List => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Json => json!({"type": "object"}),
    };
    // A name that says it all needs no words.
    if !["model", "json_schema", "max_turns", "lane", "tags", "fail_on_denied", "max_rejections"].contains(&row.name) {
        schema["description"] = words.into();
    }
    schema
}

impl Row {
    fn tool(&self) -> Tool {
        let mut properties = Map::new();
        if let Value::Object(own) = (self.arguments)() {
            properties.extend(own);
        }
        if self.has_options {
            let built = OPTIONS.iter().filter(|row| row.is_built());
            properties.extend(built.map(|row| (row.name.to_owned(), option(row))));
        }
        let mut schema = JsonObject::new();
        schema.insert("type".into(), "object".into());
        schema.insert("properties".into(), properties.into());
        if !self.needed.is_empty() {
            schema.insert("required".into(), json!(self.needed));
        }
        let mut tool = Tool::new(self.name, self.description, Arc::new(schema));
        if self.is_read {
            tool = tool.with_annotations(ToolAnnotations::new().read_only(true));
        }
        if self.always_loaded {
            let mut meta = JsonObject::new();
            meta.insert("anthropic/alwaysLoad".into(), true.into());
            tool = tool.with_meta(MetaObject(meta));
        }
        tool
    }
}

/// `tools/list`.
pub(super) fn list() -> Vec<Tool> {
    TABLE.iter().map(Row::tool).collect()
}

/// The names of the tools.
pub(super) fn names() -> impl Iterator<Item = &'static str> + Clone {
    TABLE.iter().map(|row| row.name)
}

/// The names of the tools that only look.
pub(crate) fn reads() -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(|row| row.is_read).map(|row| row.name)
}

/// Carries a call out; nothing if there is no such tool.
pub(super) async fn call(name: &str, call: Call) -> Option<Result<Answer>> {
    Some(match name {
        "pool_run" => task::run(call).await,
        "pool_submit" => task::submit(call).await,
        "pool_fan_out" => group::fan_out(call).await,
        "pool_chain" => group::chain(call).await,
        "pool_submit_chain" => group::submit_chain(call).await,
        "pool_chain_result" => task::result(call).await,
        "pool_auto" => group::auto(call).await,
        "pool_submit_with_review" => review::submit(call).await,
        "pool_approve_result" => review::approve(call).await,
        "pool_reject_result" => review::reject(call).await,
        "pool_result" => task::result(call).await,
        "pool_cancel" => task::cancel(call).await,
        "pool_wait" => wait::wait(call).await,
        "pool_status" => view::status(call).await,
        "pool_view" => view::view(call).await,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_short_and_spells_every_option_once() {
        let list = list();
        let text = serde_json::to_string(&list).unwrap();
        assert!(text.is_ascii());
        // The bound of the whole set of tools, of which these are a third.
        assert!(text.len() / 4 < 2_500, "{} characters", text.len());
        for row in OPTIONS.iter().filter(|row| row.is_built() && row.name != "coordinator") {
            assert_eq!(text.matches(&format!("\"{}\":", row.name)).count(), 1, "{}", row.name);
        }
        for tool in &list {
            let words = tool.description.as_deref().unwrap_or_default();
            assert!((20..2_000).contains(&words.len()), "{}", tool.name);
        }
    }
}
