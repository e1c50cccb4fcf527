//! The lines that the real CLI prints, field by field as in `tests/transcripts/2.1.330`.

use motorpool_tests::api::script::{Failure, Script, error_type};
use serde_json::{Value, json};
use std::time::Duration;

/// What all lines of a process share.
pub(crate) struct Shapes {
    pub(crate) session_id: String,
    pub(crate) model: String,
    pub(crate) permission_mode: String,
    pub(crate) cwd: String,
}

/// How a turn ended, as far as its `result` tells.
pub(crate) struct Ended {
    pub(crate) subtype: &'static str,
    pub(crate) terminal_reason: &'static str,
    pub(crate) failure: Option<Failure>,
    pub(crate) limit: Option<Value>,
    pub(crate) text: Option<String>,
    pub(crate) structured: Option<Value>,
    pub(crate) turns: usize,
}

impl Ended {
    /// An ordinary end with a text.
    pub(crate) fn well(text: String, structured: Option<Value>, turns: usize) -> Ended {
        let subtype = "success";
        Ended { subtype, terminal_reason: "completed", failure: None, limit: None, text: Some(text), structured, turns }
    }

    pub(crate) fn is_error(&self) -> bool {
        self.failure.is_some() || self.subtype != "success"
    }
}

impl Shapes {
    /// Told at the start of each turn.
    pub(crate) fn init(&self) -> Value {
        json!({
            "type": "system", "subtype": "init", "cwd": self.cwd, "session_id": self.session_id,
            "tools": ["Bash", "Write"], "mcp_servers": [], "model": self.model,
            "permissionMode": self.permission_mode, "slash_commands": [], "apiKeySource": "ANTHROPIC_API_KEY",
            "claude_code_version": super::VERSION, "output_style": "default", "agents": [], "skills": [],
            "plugins": [], "uuid": uuid(),
        })
    }

    /// One content block of the assistant.
    pub(crate) fn assistant(&self, block: &Value, script: &Script) -> Value {
        let (input, _) = usage_of(script);
        self.line(json!({"type": "assistant", "message": {
            "id": format!("msg_{}", uuid()), "type": "message", "role": "assistant", "model": self.model,
            "content": [block], "stop_reason": null, "stop_sequence": null,
            "usage": {"input_tokens": input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                "output_tokens": 1},
            "context_management": null,
        }}))
    }

    /// The message that stands for an error of the API.
    pub(crate) fn synthetic(&self, failure: &Failure, text: &str) -> Value {
        self.line(json!({
            "type": "assistant",
            "message": {
                "id": uuid(), "type": "message", "role": "assistant", "model": "<synthetic>",
                "content": [{"type": "text", "text": text}], "stop_reason": "stop_sequence", "stop_sequence": "",
                "usage": {"input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                    "output_tokens": 0},
                "context_management": null,
            },
            "error": error_word(failure), "is_api_error_message": true, "api_error_status": failure.status,
            "api_error_type": error_type(failure.status),
        }))
    }

    /// A user message: a tool's result, an echo, a note about an interruption.
    pub(crate) fn user(&self, content: Value) -> Value {
        self.line(json!({"type": "user", "message": {"role": "user", "content": content}}))
    }

    /// The state of a usage limit.
    pub(crate) fn rate_limit(&self, info: &Value) -> Value {
        json!({"type": "rate_limit_event", "rate_limit_info": info, "uuid": uuid(), "session_id": self.session_id})
    }

    /// The last line of a turn.
    pub(crate) fn result(&self, ended: &Ended, script: &Script, took: Duration) -> Value {
        let (input, output) = usage_of(script);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let mut result = json!({
            "type": "result", "subtype": ended.subtype, "is_error": ended.is_error(), "api_error_status": null,
            "duration_ms": took_ms, "duration_api_ms": took_ms, "ttft_ms": took_ms, "num_turns": ended.turns,
            "stop_reason": if ended.terminal_reason == "aborted_tools" { "tool_use" } else { "end_turn" },
            "session_id": self.session_id, "total_cost_usd": 0.001,
            "usage": {"input_tokens": input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                "output_tokens": output,
                "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0}, "service_tier": "standard"},
            "modelUsage": {&self.model: {"inputTokens": input, "outputTokens": output, "cacheReadInputTokens": 0,
                "cacheCreationInputTokens": 0, "webSearchRequests": 0, "costUSD": 0.001, "contextWindow": 200_000,
                "maxOutputTokens": 64_000}},
            "permission_denials": [], "terminal_reason": ended.terminal_reason, "uuid": uuid(),
        });
        let mut set = |name: &str, value: Value| result[name] = value;
        if let Some(text) = &ended.text {
            set("result", json!(text));
        } else {
            set("errors", json!(["[ede_diagnostic] result_type=user last_content_type=n/a stop_reason=tool_use"]));
        }
        if let Some(value) = &ended.structured {
            set("structured_output", value.clone());
        }
        if let Some(failure) = &ended.failure {
            set("api_error_status", json!(failure.status));
            set("api_error_type", json!(error_type(failure.status)));
        }
        if ended.limit.is_some() {
            set("api_error", json!("usage_limit_reached"));
        }
        if ended.failure.is_some() {
            // No request was answered, so none was paid for.
            set("total_cost_usd", json!(0));
            set("modelUsage", json!({}));
            set("stop_reason", json!("stop_sequence"));
        }
        result
    }

    fn line(&self, mut value: Value) -> Value {
        value["parent_tool_use_id"] = Value::Null;
        value["session_id"] = json!(self.session_id);
        value["uuid"] = json!(uuid());
        value
    }
}

/// The text with which the CLI reports an error of the API.
pub(crate) fn error_text(failure: &Failure) -> String {
    let Failure { status, message } = failure;
    match status {
        401 => "Invalid API key · Fix external API key".into(),
        403 => format!("Failed to authenticate. API Error: 403 {message}"),
        400 if message.starts_with("Your credit balance is too low") => "Credit balance is too low".into(),
        429 => format!("API Error: Request rejected (429) · {message}"),
        _ => format!("API Error: {status} {message}"),
    }
}

/// The CLI's own word for a kind of error.
fn error_word(failure: &Failure) -> &'static str {
    match failure.status {
        400 if failure.message.starts_with("Your credit balance is too low") => "billing_error",
        400 if failure.message.starts_with("prompt is too long") => "invalid_request",
        401 | 403 => "authentication_failed",
        404 => "model_not_found",
        413 => "invalid_request",
        429 => "rate_limit",
        500.. => "server_error",
        _ => "unknown",
    }
}

fn usage_of(script: &Script) -> (u64, u64) {
    script.usage.unwrap_or((10, 5))
}

pub(crate) fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}
