//! What the CLI says on stdout: one line, one [`Event`].
//!
//! Lenient: unknown types and fields are passed over, a line that is no JSON is [`Event::Noise`], key order means
//! nothing. Not here: what follows from an event (`attempt/machine.rs`), what a run amounts to (`classify.rs`).

use serde_json::{Value, json};

/// Tokens of one answer of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Read anew.
    pub input: u64,
    /// Written.
    pub output: u64,
    /// Read from the cache.
    pub cache_read: u64,
    /// Put into the cache for five minutes.
    pub cache_write: u64,
    /// Put into the cache for an hour.
    pub cache_write_1h: u64,
}

impl Usage {
    fn read(value: &Value) -> Self {
        let count = |name: &str| value[name].as_u64().unwrap_or(0);
        let hour = value["cache_creation"]["ephemeral_1h_input_tokens"].as_u64().unwrap_or(0);
        Self {
            input: count("input_tokens"),
            output: count("output_tokens"),
            cache_read: count("cache_read_input_tokens"),
            cache_write: count("cache_creation_input_tokens").saturating_sub(hour),
            cache_write_1h: hour,
        }
    }
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its id, under which the result comes.
    pub id: String,
    /// As in `Bash(cargo test)`.
    pub short: String,
}

/// A part of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assistant {
    /// Its text.
    pub text: String,
    /// The tools it calls.
    pub calls: Vec<Call>,
    /// The CLI's own word for a failure: `authentication_failed`, `rate_limit`, …
    pub error: Option<String>,
    /// The CLI wrote it, not the model.
    pub synthetic: bool,
    /// A subagent's, by the id of the call that started it.
    pub parent: Option<String>,
    /// The answer that it is a part of.
    pub answer: Answer,
}

/// An answer of the model, as far as it costs something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The message's id; empty where it was not told.
    pub id: String,
    /// The model; empty where it was not told.
    pub model: String,
    /// Tokens so far.
    pub usage: Usage,
}

/// A `rate_limit_event`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// `allowed`, `allowed_warning`, `rejected`.
    pub status: String,
    /// The end of the window, milliseconds since 1970.
    pub resets_ms: Option<u64>,
    /// Which window: `five_hour`, `seven_day`, `seven_day_opus`, …
    pub window: Option<String>,
}

/// The last line of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunResult {
    /// `success`, `error_max_turns`, …
    pub subtype: String,
    /// True also under `success`: 401, 429, not logged in.
    pub is_error: bool,
    /// The status of the API.
    pub status: Option<u16>,
    /// The answer, or what went wrong.
    pub text: Option<String>,
    /// The CLI's own errors.
    pub errors: Vec<String>,
    /// The newer CLI's word: `usage_limit_reached`, `org_disabled_credential`, …
    pub api_error: Option<String>,
    /// The API's own error type.
    pub api_error_type: Option<String>,
    /// `completed`, `aborted_tools`, `prompt_too_long`, …
    pub terminal_reason: Option<String>,
    /// The answer by the schema.
    pub structured: Option<Value>,
    /// The session.
    pub session_id: Option<String>,
    /// Cost in microdollars.
    pub cost_microusd: Option<u64>,
    /// Tokens by kind, as the CLI wrote them.
    pub usage: Option<Value>,
    /// Turns.
    pub turns: u32,
    /// Denied calls in short form.
    pub denied: Vec<String>,
}

/// One line of stdout.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A turn begins.
    Init {
        /// The session.
        session_id: String,
        /// The model.
        model: String,
        /// The permission mode.
        permission_mode: String,
        /// MCP servers that did not start.
        failed_servers: Vec<String>,
    },
    /// A part of an answer, whole.
    Assistant(Box<Assistant>),
    /// Text of an answer as it is written (of the task itself, not of a subagent).
    Partial(String),
    /// An answer begins.
    AnswerStart {
        /// A subagent's, by the call that started it.
        parent: Option<String>,
        /// The answer.
        answer: Answer,
    },
    /// Tokens of the answer that is being written.
    AnswerUsage {
        /// A subagent's, by the call that started it.
        parent: Option<String>,
        /// Tokens so far.
        usage: Usage,
    },
    /// Results of these calls have come.
    ToolResults(Vec<String>),
    /// The CLI tries a request again.
    Retry {
        /// Which retry.
        attempt: u64,
        /// It waits so long, in milliseconds.
        delay_ms: u64,
        /// The status of the API.
        status: Option<u16>,
        /// The CLI's word for the failure.
        error: String,
    },
    /// The account's windows.
    RateLimit(RateLimit),
    /// The run's result.
    Result(Box<RunResult>),
    /// The answer to a request of ours.
    Answered {
        /// The request's id.
        id: String,
        /// Why it was refused.
        error: Option<String>,
    },
    /// The CLI asks something and waits.
    Asks {
        /// The request's id.
        id: String,
        /// `can_use_tool`, `mcp_message`, …
        subtype: String,
    },
    /// Something that nobody here needs to know.
    Other,
    /// A line that is no JSON object.
    Noise,
}

impl Event {
    /// Reads a line.
    #[must_use]
    pub fn read(line: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(line) {
            Ok(value) if value.is_object() => Self::from_json(value),
            _ => Self::Noise,
        }
    }

    fn from_json(mut value: Value) -> Self {
        let kind = (text(&value, "type"), text(&value, "subtype"));
        match (kind.0.as_str(), kind.1.as_str()) {
            ("system", "init") => Self::Init {
                session_id: text(&value, "session_id"),
                model: text(&value, "model"),
                permission_mode: text(&value, "permissionMode"),
                failed_servers: list(&value["mcp_servers"])
                    .iter()
                    .filter(|server| server["status"] == "failed")
                    .map(|server| text(server, "name"))
                    .collect(),
            },
            ("system", "api_retry") => Self::Retry {
                attempt: value["attempt"].as_u64().unwrap_or(0),
                // One version writes fractions.
                delay_ms: value["retry_delay_ms"].as_f64().unwrap_or(0.0).max(0.0) as u64,
                status: status(&value["error_status"]),
                error: text(&value, "error"),
            },
            ("rate_limit_event", _) => {
                let info = &value["rate_limit_info"];
                Self::RateLimit(RateLimit {
                    status: text(info, "status"),
                    resets_ms: info["resetsAt"].as_f64().filter(|at| *at > 0.0).map(|at| (at * 1000.0) as u64),
                    window: some(info, "rateLimitType"),
                })
            }
            ("assistant", _) => Self::Assistant(Box::new(assistant(&value))),
            ("user", _) => Self::ToolResults(
                list(&value["message"]["content"])
                    .iter()
                    .filter(|block| block["type"] == "tool_result")
                    .map(|block| text(block, "tool_use_id"))
                    .collect(),
            ),
            ("stream_event", _) => stream(&value),
            ("result", _) => Self::Result(Box::new(result(&mut value))),
            ("control_response", _) => {
                let response = &value["response"];
                let error = (response["subtype"] == "error").then(|| text(response, "error"));
                Self::Answered { id: text(response, "request_id"), error }
            }
            ("control_request", _) => {
                Self::Asks { id: text(&value, "request_id"), subtype: text(&value["request"], "subtype") }
            }
            _ => Self::Other,
        }
    }
}

fn stream(value: &Value) -> Event {
    let parent = some(value, "parent_tool_use_id");
    let event = &value["event"];
    match event["type"].as_str() {
        Some("message_start") => Event::AnswerStart { parent, answer: answer(&event["message"]) },
        Some("message_delta") if event["usage"].is_object() => {
            Event::AnswerUsage { parent, usage: Usage::read(&event["usage"]) }
        }
        Some("content_block_delta") if event["delta"]["type"] == "text_delta" && parent.is_none() => {
            Event::Partial(text(&event["delta"], "text"))
        }
        _ => Event::Other,
    }
}

fn assistant(value: &Value) -> Assistant {
    let message = &value["message"];
    let mut read = Assistant {
        error: some(value, "error"),
        synthetic: message["model"] == "<synthetic>",
        parent: some(value, "parent_tool_use_id"),
        answer: answer(message),
        ..Assistant::default()
    };
    for block in list(&message["content"]) {
        match block["type"].as_str() {
            Some("text") => {
                if !read.text.is_empty() {
                    read.text.push('\n');
                }
                read.text.push_str(block["text"].as_str().unwrap_or_default());
            }
            Some("tool_use") => {
                read.calls.push(Call { id: text(block, "id"), short: short(&text(block, "name"), &block["input"]) });
            }
            _ => {}
        }
    }
    read
}

fn answer(message: &Value) -> Answer {
    Answer { id: text(message, "id"), model: text(message, "model"), usage: Usage::read(&message["usage"]) }
}

fn result(value: &mut Value) -> RunResult {
    let cost = value["total_cost_usd"].as_f64().filter(|cost| cost.is_finite() && *cost >= 0.0);
    RunResult {
        subtype: text(value, "subtype"),
        is_error: value["is_error"] == true,
        status: status(&value["api_error_status"]),
        errors: list(&value["errors"]).iter().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
        api_error: some(value, "api_error"),
        api_error_type: some(value, "api_error_type"),
        terminal_reason: some(value, "terminal_reason"),
        session_id: some(value, "session_id"),
        cost_microusd: cost.map(|cost| (cost * 1e6).round() as u64),
        turns: value["num_turns"].as_u64().unwrap_or(0).try_into().unwrap_or(u32::MAX),
        denied: list(&value["permission_denials"])
            .iter()
            .map(|denial| short(&text(denial, "tool_name"), &denial["tool_input"]))
            .collect(),
        // Taken, not copied: they can be large.
        usage: Some(value["usage"].take()).filter(Value::is_object),
        structured: Some(value["structured_output"].take()).filter(|value| !value.is_null()),
        text: match value["result"].take() {
            Value::String(text) => Some(text),
            _ => None,
        },
    }
}

/// A call in short form: `Bash(cargo test)`, `Write(src/a.rs)`, `Task`.
#[must_use]
pub fn short(tool: &str, input: &Value) -> String {
    const SHOWN: usize = 80;
    let names = ["command", "file_path", "notebook_path", "path", "pattern", "url", "query", "description"];
    let Some(detail) = names.iter().find_map(|name| input[*name].as_str()) else {
        return tool.to_owned();
    };
    let line = detail.lines().next().unwrap_or_default();
    let mut shown: String = line.chars().filter(|one| !one.is_control()).take(SHOWN).collect();
    if shown.len() < detail.len() {
        shown.push('…');
    }
    format!("{tool}({shown})")
}

/// What the CLI is told when it asks: nobody is there to be asked, and nothing may hang for that.
#[must_use]
pub fn refusal(id: &str, subtype: &str) -> String {
    let response = if subtype == "can_use_tool" {
        let message = "Nobody can be asked in this session. Go on without it.";
        json!({"subtype": "success", "request_id": id, "response": {"behavior": "deny", "message": message}})
    } else {
        json!({"subtype": "error", "request_id": id, "error": format!("{subtype} is not served here")})
    };
    json!({"type": "control_response", "response": response}).to_string()
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn some(value: &Value, name: &str) -> Option<String> {
    value[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn status(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|status| status.try_into().ok())
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
