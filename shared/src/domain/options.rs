//! Every option of a task, once: name, kind of value, meaning, and whether it is built.
//!
//! Flags of the operator CLI and inputs of tools are drawn from [`TABLE`]; [`TaskOptions`] is what is stored. Not
//! here: how the levels are merged (`merge.rs`), how Claude is told (`worker/src/claude/command.rs`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use super::choice::{AfterFailure, Effort, Isolation, PermissionMode, Priority};
use super::ids::{Id, Name};
use super::{lane, limits};
use crate::error::{Error, Result, nearest};

/// What kind of value an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A whole number.
    Count,
    /// Decimal US dollars.
    Money,
    /// True or false.
    Flag,
    /// A list of strings.
    List,
    /// A JSON object.
    Json,
}

/// One row of [`TABLE`].
#[derive(Clone, Copy, Debug)]
pub struct OptionRow {
    /// The name in JSON; as a flag with `-` for `_`.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it means, in one line. Empty where it is not built yet.
    pub doc: &'static str,
}

impl OptionRow {
    /// Whether this version can do it.
    #[must_use]
    pub fn is_built(&self) -> bool {
        !self.doc.is_empty()
    }
}

const fn row(name: &'static str, kind: Kind, doc: &'static str) -> OptionRow {
    OptionRow { name, kind, doc }
}

/// Every option there is, those that are not built yet without a doc.
pub const TABLE: &[OptionRow] = &[
    row("model", Kind::Text, "the model: an alias (haiku, sonnet, opus) or a full name"),
    row("fallback_model", Kind::Text, "the model to go on with when the first is overloaded"),
    row("effort", Kind::Text, "how hard the model thinks: low, medium, high, xhigh, max"),
    row(
        "permission_mode",
        Kind::Text,
        "what Claude may do unasked: plan, dontAsk, default, acceptEdits, auto, bypassPermissions",
    ),
    row("max_turns", Kind::Count, "most turns of the conversation"),
    row("system_prompt", Kind::Text, "text added to Claude Code's own system prompt"),
    row("replace_system_prompt", Kind::Text, "text that replaces Claude Code's own system prompt"),
    row("allowed_tools", Kind::List, "tools that need no permission, as in Bash(cargo test:*)"),
    row("disallowed_tools", Kind::List, "tools that are refused"),
    row("tools", Kind::List, "the only tools that exist"),
    row("mcp_servers", Kind::Json, "MCP servers by name; values may name ${VAR}, filled in by the worker"),
    row("strict_mcp_config", Kind::Flag, "off: also the MCP servers of the repository and the user"),
    row("json_schema", Kind::Json, "the answer as JSON of this schema"),
    row("max_budget_usd", Kind::Money, "stop after this cost in US dollars (checked between turns)"),
    row("timeout_s", Kind::Count, "end the run after so many seconds"),
    row(
        "idle_timeout_s",
        Kind::Count,
        "end the run when Claude said nothing for so many seconds, the time of a tool call included",
    ),
    row("queue_timeout_s", Kind::Count, "fail if no run has begun so many seconds after it could"),
    row("max_attempts", Kind::Count, "how often the task is tried (3)"),
    row("working_dir", Kind::Text, "the directory it works in, as the worker sees it"),
    row("isolation", Kind::Text, "none: the working directory itself"),
    row("lane", Kind::Text, "the queue it stands in (default)"),
    row("needs", Kind::List, "labels that its worker must have, as in gpu, os:linux or host:NAME"),
    row("priority", Kind::Text, "high, normal or low; who has waited for 10 minutes is taken one class higher"),
    row("delay_s", Kind::Count, "begin no earlier than in so many seconds"),
    row("after", Kind::List, "ids of tasks, chains or batches that must be over before it begins"),
    row("after_failure", Kind::Text, "when one of those did not succeed: cancel (it is not run), or run"),
    row("tags", Kind::List, "words to find it by"),
    row("once", Kind::Text, "a key: a second task with it is not made, the first one's id is the answer"),
    row("fail_on_denied", Kind::Flag, "a denied tool makes the task fail"),
    row("review", Kind::Flag, "the result waits until it is approved; of a chain, that of its last step"),
    row("max_rejections", Kind::Count, "the rejection with which it has failed (3)"),
    row(
        "continue_from",
        Kind::Text,
        "the id of a task or chain whose Claude session it goes on with, on the same machine",
    ),
    row("resume_on_retry", Kind::Flag, "no: after a limit or a hand-back it begins anew, and not where it stopped"),
    row("coordinator", Kind::Text, "the name under which the work is handed over"),
    row("repo", Kind::Text, ""),
    row("base_ref", Kind::Text, ""),
    row("check", Kind::Text, ""),
    row("check_timeout_s", Kind::Count, ""),
    row("check_retries", Kind::Count, ""),
    row("touches", Kind::List, ""),
    row("permissions", Kind::Text, ""),
    row("question_timeout_s", Kind::Count, ""),
    row("may_dispatch", Kind::Flag, ""),
];

/// Options that are fixed with the submission: a task's place in the pool.
pub const FIXED: [&str; 12] = [
    "lane",
    "needs",
    "priority",
    "delay_s",
    "after",
    "after_failure",
    "once",
    "coordinator",
    "tags",
    "continue_from",
    "max_attempts",
    "queue_timeout_s",
];

/// The options of a task as they were asked for; what is absent is decided at a more general level.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskOptions {
    /// See [`TABLE`] for the meaning of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `fallback_model`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback_model: Option<String>,
    /// `effort`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effort: Option<Effort>,
    /// `permission_mode`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission_mode: Option<PermissionMode>,
    /// `max_turns`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    /// `system_prompt`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// `replace_system_prompt`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_system_prompt: Option<String>,
    /// `allowed_tools`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_tools: Vec<String>,
    /// `disallowed_tools`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disallowed_tools: Vec<String>,
    /// `tools`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// `mcp_servers`
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mcp_servers: BTreeMap<String, Value>,
    /// `strict_mcp_config`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict_mcp_config: Option<bool>,
    /// `json_schema`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<Value>,
    /// `max_budget_usd`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_budget_usd: Option<f64>,
    /// `timeout_s`, seconds
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
    /// `idle_timeout_s`, seconds
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout_s: Option<u64>,
    /// `queue_timeout_s`, seconds
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_timeout_s: Option<u64>,
    /// `max_attempts`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// `working_dir`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// `isolation`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// `lane`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<Name>,
    /// `needs`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// `priority`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// `delay_s`, seconds
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_s: Option<u64>,
    /// `after`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Id>,
    /// `after_failure`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_failure: Option<AfterFailure>,
    /// `tags`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// `once`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub once: Option<String>,
    /// `fail_on_denied`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_on_denied: Option<bool>,
    /// `review`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub review: Option<bool>,
    /// `max_rejections`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rejections: Option<u32>,
    /// `continue_from`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continue_from: Option<Id>,
    /// `resume_on_retry`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_on_retry: Option<bool>,
    /// `coordinator`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<String>,
}

impl TaskOptions {
    /// Reads options as a caller wrote them: unknown names, options that are not built yet and values that do not
    /// fit are refused, each with what would do.
    pub fn from_json(given: &Map<String, Value>) -> Result<Self> {
        for (name, value) in given {
            let Some(row) = TABLE.iter().find(|row| row.name == name) else {
                let hint = match nearest(name, TABLE.iter().map(|row| row.name)) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!(
                        "the options are {}",
                        TABLE.iter().filter(|row| row.is_built()).map(|row| row.name).collect::<Vec<_>>().join(", ")
                    ),
                };
                return Err(Error::usage(format!("unknown option {name}")).hint(hint));
            };
            if !row.is_built() {
                return Err(Error::usage(format!("the option {name} is not built yet")).hint("leave it out"));
            }
            check_kind(row, value)?;
        }
        let mut options = Self::default();
        for (name, value) in given {
            options.set(name, value).map_err(|error| {
                let hint = error.hint_text().unwrap_or("see `motorpool run --help`").to_owned();
                Error::usage(format!("option {name}: {}", error.message())).hint(hint)
            })?;
        }
        options.check()?;
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        let text = || value.as_str().unwrap_or_default().to_owned();
        let flag = value.as_bool();
        let list = || -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
        };
        match name {
            "model" => self.model = Some(text()),
            "fallback_model" => self.fallback_model = Some(text()),
            "effort" => self.effort = Some(text().parse()?),
            "permission_mode" => self.permission_mode = Some(text().parse()?),
            "max_turns" => self.max_turns = Some(count(value, u64::from(u32::MAX))? as u32),
            "system_prompt" => self.system_prompt = Some(text()),
            "replace_system_prompt" => self.replace_system_prompt = Some(text()),
            "allowed_tools" => self.allowed_tools = list(),
            "disallowed_tools" => self.disallowed_tools = list(),
            "tools" => self.tools = Some(list()),
            "mcp_servers" => {
                let servers = value.as_object().into_iter().flatten();
                self.mcp_servers = servers.map(|(name, server)| (name.clone(), server.clone())).collect();
            }
            "strict_mcp_config" => self.strict_mcp_config = flag,
            "json_schema" => self.json_schema = Some(value.clone()),
            "max_budget_usd" => self.max_budget_usd = value.as_f64(),
            "timeout_s" => self.timeout_s = Some(count(value, limits::TIMEOUT_S)?),
            "idle_timeout_s" => self.idle_timeout_s = Some(count(value, limits::TIMEOUT_S)?),
            "queue_timeout_s" => self.queue_timeout_s = Some(count(value, limits::TIMEOUT_S)?),
            "max_attempts" => self.max_attempts = Some(count(value, u64::from(limits::MAX_ATTEMPTS))? as u32),
            "working_dir" => self.working_dir = Some(text()),
            "isolation" => {
                self.isolation = Some(match text().as_str() {
                    "worktree" | "clone" => {
                        return Err(Error::usage("isolation in a worktree or clone is not built yet").hint("use none"));
                    }
                    other => other.parse()?,
                });
            }
            "lane" => self.lane = Some(text().parse()?),
            "needs" => self.needs = list(),
            "priority" => self.priority = Some(text().parse()?),
            "delay_s" => self.delay_s = Some(count(value, limits::TIMEOUT_S)?),
            "after" => self.after = list().iter().map(|id| id.parse()).collect::<Result<_>>()?,
            "after_failure" => self.after_failure = Some(text().parse()?),
            "tags" => self.tags = list(),
            "once" => self.once = Some(text()),
            "fail_on_denied" => self.fail_on_denied = flag,
            "continue_from" => self.continue_from = Some(text().parse()?),
            "resume_on_retry" => self.resume_on_retry = flag,
            "review" => self.review = flag,
            "max_rejections" => self.max_rejections = Some(count(value, u64::from(limits::MAX_REJECTIONS))? as u32),
            "coordinator" => self.coordinator = Some(text()),
            // `from_json` has looked the name up; a row without an arm here fails the test below.
            _ => return Err(Error::usage("it is not built yet")),
        }
        Ok(())
    }

    /// What of these options is for each step or item, and not for the whole.
    #[must_use]
    pub fn of_one(&self) -> Self {
        Self {
            coordinator: None,
            once: None,
            after: Vec::new(),
            after_failure: None,
            delay_s: None,
            review: None,
            max_rejections: None,
            ..self.clone()
        }
    }

    /// What of these options is for the whole of a chain or fan-out.
    #[must_use]
    pub fn of_whole(&self) -> Self {
        Self {
            coordinator: self.coordinator.clone(),
            once: self.once.clone(),
            after: self.after.clone(),
            after_failure: self.after_failure,
            delay_s: self.delay_s,
            tags: self.tags.clone(),
            review: self.review,
            max_rejections: self.max_rejections,
            ..Self::default()
        }
    }

    /// These options with others in their place, each as far as it is given there.
    ///
    /// # Errors
    /// What is the pool's place for the task (lane, labels, priority, what it follows, its key, its coordinator) is not
    /// changed any more.
    pub fn changed(&self, by: &Self) -> Result<Self> {
        let as_map = |options: &Self| match serde_json::to_value(options) {
            Ok(Value::Object(map)) => Ok(map),
            _ => Err(Error::failed("options cannot be written as JSON")),
        };
        let changes = as_map(by)?;
        if let Some(name) = FIXED.iter().find(|name| changes.contains_key(**name)) {
            return Err(Error::usage(format!("{name} cannot be changed by a rejection"))
                .hint("change how Claude works: model, effort, max_turns, allowed_tools and the like"));
        }
        let mut map = as_map(self)?;
        map.extend(changes);
        Self::from_json(&map)
    }

    /// Checks what a single value cannot show: lengths, signs, emptiness.
    pub fn check(&self) -> Result<()> {
        let texts = [
            ("model", self.model.as_deref()),
            ("fallback_model", self.fallback_model.as_deref()),
            ("working_dir", self.working_dir.as_deref()),
            ("once", self.once.as_deref()),
            ("coordinator", self.coordinator.as_deref()),
        ];
        for (name, text) in texts {
            let Some(text) = text else { continue };
            let longest = if name == "working_dir" { 4096 } else { limits::KEY_BYTES };
            if text.trim().is_empty() || text.len() > longest || text.chars().any(char::is_control) {
                return Err(Error::usage(format!("option {name}: {text:?} does not do"))
                    .hint(format!("give 1 to {longest} bytes without control characters")));
            }
            // It becomes an argument of the CLI, where a leading dash would make it an option.
            if name.ends_with("model") && text.starts_with('-') {
                return Err(Error::usage(format!("option {name}: {text:?} is no model"))
                    .hint("give an alias (haiku, sonnet, opus) or a full name"));
            }
        }
        for (name, text) in
            [("system_prompt", &self.system_prompt), ("replace_system_prompt", &self.replace_system_prompt)]
        {
            let bytes = text.as_ref().map_or(0, String::len);
            if bytes > limits::SYSTEM_PROMPT_BYTES {
                return Err(Error::usage(format!("option {name} has {bytes} bytes"))
                    .hint(format!("at most {} are taken", limits::SYSTEM_PROMPT_BYTES)));
            }
        }
        let tools = self.allowed_tools.iter().chain(&self.disallowed_tools).chain(self.tools.iter().flatten());
        for tool in tools {
            if tool.trim().is_empty() || tool.starts_with('-') || tool.chars().any(char::is_control) {
                return Err(Error::usage(format!("{tool:?} is no name of a tool")).hint("as in Bash(cargo test:*)"));
            }
        }
        if self.tags.len() > limits::TAGS {
            return Err(Error::usage(format!("{} tags; at most {} are taken", self.tags.len(), limits::TAGS))
                .hint("give fewer"));
        }
        if self.after.len() > limits::FOLLOWED {
            return Err(Error::usage(format!(
                "{} tasks to follow; at most {} are taken",
                self.after.len(),
                limits::FOLLOWED
            ))
            .hint("let one task follow them all, and the next one that one"));
        }
        if self.needs.len() > limits::LABELS {
            return Err(Error::usage(format!("{} labels; at most {} are taken", self.needs.len(), limits::LABELS))
                .hint("give fewer"));
        }
        for label in &self.needs {
            lane::check_label(label)?;
        }
        for tag in &self.tags {
            if tag.trim().is_empty() || tag.len() > limits::KEY_BYTES || tag.chars().any(char::is_control) {
                return Err(Error::usage(format!("{tag:?} is no tag"))
                    .hint(format!("give 1 to {} bytes without control characters", limits::KEY_BYTES)));
            }
        }
        if let Some(budget) = self.max_budget_usd
            && !(budget.is_finite() && budget > 0.0 && budget <= 1e6)
        {
            return Err(Error::usage(format!("option max_budget_usd: {budget} is no budget"))
                .hint("give dollars above 0, as in 0.5"));
        }
        let bytes = serde_json::to_string(self).map_or(0, |text| text.len());
        if bytes > limits::OPTIONS_BYTES {
            return Err(Error::usage(format!("the options have {bytes} bytes"))
                .hint(format!("at most {} are taken", limits::OPTIONS_BYTES)));
        }
        Ok(())
    }
}

fn check_kind(row: &OptionRow, value: &Value) -> Result<()> {
    let (fits, wanted) = match row.kind {
        Kind::Text => (value.is_string(), "a text"),
        Kind::Count => (value.as_u64().is_some(), "a whole number"),
        Kind::Money => (value.is_number(), "an amount of dollars"),
        Kind::Flag => (value.is_boolean(), "true or false"),
        Kind::List => (value.as_array().is_some_and(|list| list.iter().all(Value::is_string)), "a list of texts"),
        Kind::Json => (value.is_object(), "a JSON object"),
    };
    if fits {
        return Ok(());
    }
    let mut shown = value.to_string();
    if shown.len() > 80 {
        shown = limits::cut_middle(&shown, 80);
    }
    Err(Error::usage(format!("option {}: {shown} is not {wanted}", row.name)).hint(row.doc))
}

fn count(value: &Value, most: u64) -> Result<u64> {
    match value.as_u64() {
        Some(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(Error::usage(format!("{value} does not do")).hint(format!("give a whole number from 1 to {most}"))),
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
