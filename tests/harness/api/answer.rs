//! Decides what is answered to one request: the script, the position in it, and what was failed already.

use super::conversation::Conversation;
use super::script::{Failure, Piece, Trouble};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// What goes back, before it is put into bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Waited first.
    pub sleep: Duration,
    /// Extra response headers.
    pub headers: Vec<(String, String)>,
    /// The rest.
    pub content: Content,
}

/// The kinds of answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// An error with its status.
    Failure(Failure),
    /// A message of the assistant.
    Message(Message),
}

/// A message of the assistant.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Text or tool call.
    pub block: Block,
    /// Deltas of a text, and the time between them.
    pub slow: Option<(usize, Duration)>,
    /// Whether the connection breaks off after some deltas.
    pub broken: bool,
    /// Input and output tokens.
    pub usage: (u64, u64),
    /// Model named in the answer: the one asked for.
    pub model: String,
}

/// The one content block of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// Text, the end of the turn.
    Text(String),
    /// A tool call.
    Tool {
        /// Tool name.
        name: String,
        /// Its input.
        input: Value,
    },
}

/// What keyed directives have done so far: the only memory between requests.
#[derive(Debug, Default)]
pub struct Memory {
    failed: HashMap<String, u64>,
    resets: HashMap<String, u64>,
}

/// The answer to a request at a moment (seconds since 1970), by who asks (key or token).
pub fn answer(conversation: &Conversation, credential: &str, memory: &mut Memory, now: u64) -> Answer {
    let script = &conversation.script;
    let mut headers = script.headers.clone();
    let trouble = refused(credential)
        .or_else(|| unreadable(&script.mistakes))
        .map(Happening::Failure)
        .or_else(|| troubled(conversation, memory, now, &mut headers));
    let content = match trouble {
        Some(Happening::Failure(failure)) => Content::Failure(failure),
        broken => Content::Message(Message {
            block: block(conversation),
            slow: script.slow,
            broken: broken.is_some(),
            usage: script.usage.unwrap_or((10, 5)),
            model: conversation.model.clone(),
        }),
    };
    Answer { sleep: script.sleep, headers, content }
}

enum Happening {
    Failure(Failure),
    Break,
}

/// Credentials can be told apart by their name, so that one worker is unfit and another is not.
fn refused(credential: &str) -> Option<Failure> {
    let failure = |status, message: &str| Some(Failure { status, message: message.into() });
    match credential {
        name if name.contains("bad") => failure(401, "invalid x-api-key"),
        name if name.contains("revoked") => failure(403, "OAuth token has been revoked. Please obtain a new token."),
        _ => None,
    }
}

fn unreadable(mistakes: &[String]) -> Option<Failure> {
    let line = mistakes.first()?;
    Some(Failure { status: 400, message: format!("fake-api cannot read the directive: {line}") })
}

fn troubled(
    conversation: &Conversation,
    memory: &mut Memory,
    now: u64,
    headers: &mut Vec<(String, String)>,
) -> Option<Happening> {
    if conversation.tool_results < conversation.script.after {
        return None;
    }
    conversation.script.troubles.iter().find_map(|trouble| match trouble {
        Trouble::Always(failure) => Some(Happening::Failure(failure.clone())),
        Trouble::First { key, times, failure } => {
            memory.fails_again(key, *times).then(|| Happening::Failure(failure.clone()))
        }
        Trouble::Limit { seconds, window } => Some(limit(window, now + seconds, headers)),
        Trouble::LimitOnce { key, seconds, window } => {
            let reset = *memory.resets.entry(key.clone()).or_insert(now + seconds);
            (now < reset).then(|| limit(window, reset, headers))
        }
        Trouble::Drop => Some(Happening::Break),
        Trouble::DropFirst { key, times } => memory.fails_again(key, *times).then_some(Happening::Break),
    })
}

impl Memory {
    fn fails_again(&mut self, key: &str, times: u64) -> bool {
        let failed = self.failed.entry(key.to_owned()).or_default();
        let again = *failed < times;
        *failed += u64::from(again);
        again
    }
}

/// A 429 with the headers from which the CLI tells a used-up subscription window from a passing 429.
fn limit(window: &str, reset: u64, headers: &mut Vec<(String, String)>) -> Happening {
    let mut add = |name: &str, value: String| headers.push((format!("anthropic-ratelimit-unified-{name}"), value));
    add("status", "rejected".into());
    add("reset", reset.to_string());
    add("representative-claim", window.into());
    let short = if window == "five_hour" { "5h" } else { "7d" };
    add(&format!("{short}-utilization"), "1.0".into());
    add(&format!("{short}-reset"), reset.to_string());
    add(&format!("{short}-status"), "rejected".into());
    add("overage-status", "rejected".into());
    add("overage-disabled-reason", "org_level_disabled".into());
    Happening::Failure(Failure { status: 429, message: super::script::usual_message(429).into() })
}

/// Tool calls in their order, then structured output if a schema is asked, then the text.
fn block(conversation: &Conversation) -> Block {
    let script = &conversation.script;
    if let Some(tool) = script.tools.get(conversation.tool_results) {
        return Block::Tool { name: tool.name.clone(), input: tool.input.clone() };
    }
    let first_after_tools = conversation.tool_results == script.tools.len();
    match &conversation.schema {
        Some(schema) if first_after_tools && !script.text_instead => Block::Tool {
            name: "StructuredOutput".into(),
            input: script.structured.clone().unwrap_or_else(|| sample(schema)),
        },
        _ => Block::Text(text(conversation)),
    }
}

fn text(conversation: &Conversation) -> String {
    let script = &conversation.script;
    if *script == Default::default() {
        return format!("You said: {}", conversation.last_text.trim().chars().take(200).collect::<String>());
    }
    let lines: Vec<&str> = script
        .text
        .iter()
        .map(|piece| match piece {
            Piece::Said(text) => text.as_str(),
            Piece::Echo(what) => match what.as_str() {
                "result" => &conversation.last_result,
                "system" => &conversation.system,
                "model" => &conversation.model,
                _ => conversation.last_text.trim(),
            },
        })
        .collect();
    match (&script.structured, lines.is_empty()) {
        // A model without the tool writes its JSON as text.
        (Some(value), true) if conversation.schema.is_none() => value.to_string(),
        (_, true) => "done".into(),
        _ => lines.join("\n"),
    }
}

/// Something that a JSON schema accepts: what it needs and no more.
pub fn sample(schema: &Value) -> Value {
    if let Some(value) = schema.get("const").or_else(|| schema["enum"].get(0)) {
        return value.clone();
    }
    if let Some(first) = ["anyOf", "oneOf", "allOf"].iter().find_map(|word| schema[word].get(0)) {
        return sample(first);
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or("object");
    match kind {
        "string" => json!("sample"),
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or(json!(1)),
        "boolean" => json!(true),
        "null" => Value::Null,
        "array" => {
            let count = schema["minItems"].as_u64().unwrap_or(0);
            (0..count).map(|_| sample(&schema["items"])).collect()
        }
        _ => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let names = required.iter().filter_map(Value::as_str);
            Value::Object(names.map(|name| (name.into(), sample(&schema["properties"][name]))).collect::<Map<_, _>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;
    use super::*;

    fn conversation(text: &str, tool_results: usize) -> Conversation {
        Conversation {
            script: Script::parse(text).unwrap_or_default(),
            tool_results,
            last_text: text.into(),
            last_result: "R".into(),
            model: "m".into(),
            ..Conversation::default()
        }
    }

    fn content(conversation: &Conversation) -> Content {
        answer(conversation, "dummy", &mut Memory::default(), 1000).content
    }

    fn said(conversation: &Conversation) -> String {
        match content(conversation) {
            Content::Message(Message { block: Block::Text(text), .. }) => text,
            other => panic!("no text: {other:?}"),
        }
    }

    fn status(answer: &Answer) -> u16 {
        match &answer.content {
            Content::Failure(failure) => failure.status,
            Content::Message(_) => 200,
        }
    }

    #[test]
    fn tools_come_in_order_and_then_the_text() {
        let text = "@bash a\n@write p c\n@say x\n@echo result";
        let tool = |position| match content(&conversation(text, position)) {
            Content::Message(Message { block: Block::Tool { name, .. }, .. }) => name,
            other => panic!("no tool: {other:?}"),
        };
        assert_eq!((tool(0).as_str(), tool(1).as_str()), ("Bash", "Write"));
        assert_eq!(said(&conversation(text, 2)), "x\nR");
        assert_eq!(said(&conversation("@bash a", 1)), "done");
        assert_eq!(said(&conversation("hello", 0)), "You said: hello");
    }

    #[test]
    fn keyed_failures_end() {
        let (mut memory, failing) = (Memory::default(), conversation("@fail k 2 503\n@say x", 0));
        let got: Vec<u16> = (0..3).map(|_| status(&answer(&failing, "dummy", &mut memory, 0))).collect();
        assert_eq!(got, [503, 503, 200]);

        let limited = conversation("@once-limit k 5\n@say x", 0);
        let got: Vec<u16> = [10, 14, 15].map(|now| status(&answer(&limited, "dummy", &mut memory, now))).into();
        assert_eq!(got, [429, 429, 200]);
    }

    #[test]
    fn a_limit_tells_window_and_reset() {
        let got = answer(&conversation("@limit 60 seven_day", 0), "dummy", &mut Memory::default(), 1000);
        let header = |name: &str| {
            let name = format!("anthropic-ratelimit-unified-{name}");
            got.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
        };
        assert_eq!(header("status"), Some("rejected"));
        assert_eq!(header("reset"), Some("1060"));
        assert_eq!(header("representative-claim"), Some("seven_day"));
        assert_eq!(header("7d-reset"), Some("1060"));
    }

    #[test]
    fn troubles_can_wait_for_tools() {
        let text = "@bash a\n@after 1\n@status 500";
        let check = |position, expected| {
            let got = answer(&conversation(text, position), "dummy", &mut Memory::default(), 0);
            assert_eq!(status(&got), expected);
        };
        check(0, 200);
        check(1, 500);
    }

    #[test]
    fn credentials_and_slips_are_refused() {
        let check = |text, credential, expected| {
            let got = answer(&conversation(text, 0), credential, &mut Memory::default(), 0);
            assert_eq!(status(&got), expected, "{text} {credential}");
        };
        check("@say x", "sk-bad-1", 401);
        check("@say x", "revoked", 403);
        check("@say x", "dummy", 200);
        check("@sleep soon", "dummy", 400);
    }

    #[test]
    fn a_schema_is_answered_by_its_tool() {
        let schema = json!({"type": "object", "required": ["a", "b", "c"], "properties": {
            "a": {"enum": ["x", "y"]}, "b": {"type": "array", "minItems": 1, "items": {"type": "integer"}},
            "c": {"type": ["boolean", "null"]}, "d": {"type": "string"}}});
        let with_schema = |text, results| Conversation { schema: Some(schema.clone()), ..conversation(text, results) };
        let input = |text, results| match content(&with_schema(text, results)) {
            Content::Message(Message { block: Block::Tool { name, input }, .. }) if name == "StructuredOutput" => input,
            other => panic!("not structured: {other:?}"),
        };
        assert_eq!(input("@json {\"n\":1}", 0), json!({"n": 1}));
        assert_eq!(input("@bash a", 1), json!({"a": "x", "b": [1], "c": true}));
        assert_eq!(said(&with_schema("@text-instead\n@say t", 0)), "t");
        assert_eq!(said(&with_schema("@json {}\n@say t", 1)), "t");
        assert_eq!(said(&conversation("@json {\"n\":1}", 0)), "{\"n\":1}");
    }
}
