//! Answers of tools: text, JSON, or an error that says what to do.
//!
//! Not here: what they say (`digest.rs`, `tools`).

use motorpool::Error;
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock, CreateTaskResult, Task};
use serde_json::Value;

use super::digest::cut_inside;

/// Most characters of what an error says, and of its hint: it may quote a call, and that may be long.
const ERROR: usize = 600;

/// What a tool answers.
#[derive(Debug)]
pub(super) enum Answer {
    /// Text; whether it tells of a failure.
    Text { text: String, is_error: bool },
    /// A task of the protocol, which the host follows.
    Task(Task),
}

impl Answer {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into(), is_error: false }
    }

    /// JSON as text: what a program reads, and a model sees unchanged.
    pub(super) fn json(value: &Value) -> Self {
        Self::text(value.to_string())
    }

    #[must_use]
    pub(super) fn failed_if(self, failed: bool) -> Self {
        match self {
            Self::Text { text, is_error } => Self::Text { text, is_error: is_error || failed },
            task @ Self::Task(_) => task,
        }
    }

    /// As the protocol has it.
    pub(super) fn result(self) -> CallToolResponse {
        match self {
            Self::Text { text, is_error } => tool_result(text, is_error).into(),
            Self::Task(task) => CallToolResponse::Task(CreateTaskResult::new(task)),
        }
    }
}

/// A tool's result.
pub(super) fn tool_result(text: String, is_error: bool) -> CallToolResult {
    let content = vec![ContentBlock::text(text)];
    if is_error { CallToolResult::error(content) } else { CallToolResult::success(content) }
}

/// An error as a tool's result: the model reads it and can act on it.
pub(super) fn told(error: &Error) -> CallToolResult {
    let message = cut_inside(error.message(), ERROR);
    let text = match error.hint_text() {
        Some(hint) => format!("error: {message}\nhint: {}", cut_inside(hint, ERROR)),
        None => format!("error: {message}"),
    };
    tool_result(text, true)
}

/// An error in one line, for where the protocol has an error of its own.
pub(super) fn in_line(error: &Error) -> String {
    let message = cut_inside(error.message(), ERROR);
    match error.hint_text() {
        Some(hint) => format!("{message}; {}", cut_inside(hint, ERROR)),
        None => message,
    }
}
