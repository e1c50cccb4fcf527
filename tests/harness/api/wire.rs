//! Puts answers into the bytes of the Messages API: plain JSON, or server-sent events.

use super::answer::{Block, Message};
use super::script::{Failure, error_type};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One part of a streamed body.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Bytes of events.
    Bytes(String),
    /// A pause.
    Wait(Duration),
    /// The connection breaks here.
    Break,
}

/// The body of an error.
pub fn failure(failure: &Failure) -> Value {
    json!({
        "type": "error",
        "error": {"type": error_type(failure.status), "message": failure.message},
        "request_id": id("req"),
    })
}

/// A message in one piece.
pub fn whole(message: &Message) -> Value {
    let block = match &message.block {
        Block::Text(text) => json!({"type": "text", "text": text}),
        Block::Tool { name, input } => json!({"type": "tool_use", "id": id("toolu"), "name": name, "input": input}),
    };
    let mut value = envelope(message, message.usage.1);
    value["content"] = json!([block]);
    value["stop_reason"] = json!(stop_reason(message));
    value
}

/// A message as a stream of events.
pub fn streamed(message: &Message) -> Vec<Part> {
    let mut parts = Vec::new();
    let start = json!({"type": "message_start", "message": envelope(message, 1)});
    let (block, deltas) = match &message.block {
        Block::Text(text) => {
            let pieces = cut(text, message.slow.map_or(if message.broken { 3 } else { 1 }, |(count, _)| count));
            let deltas = pieces.into_iter().map(|piece| json!({"type": "text_delta", "text": piece})).collect();
            (json!({"type": "text", "text": ""}), deltas)
        }
        Block::Tool { name, input } => {
            let delta = json!({"type": "input_json_delta", "partial_json": input.to_string()});
            (json!({"type": "tool_use", "id": id("toolu"), "name": name, "input": {}}), vec![delta])
        }
    };
    parts.push(Part::Bytes(
        event(&start) + &event(&json!({"type": "content_block_start", "index": 0, "content_block": block})),
    ));
    let sent = if message.broken { deltas.len().div_ceil(2) } else { deltas.len() };
    let pause = message.slow.map(|(_, pause)| pause);
    for delta in deltas.iter().take(sent) {
        parts.extend(pause.map(Part::Wait));
        parts.push(Part::Bytes(event(&json!({"type": "content_block_delta", "index": 0, "delta": delta}))));
    }
    if message.broken {
        parts.push(Part::Break);
        return parts;
    }
    let (input, output) = message.usage;
    let end = json!({
        "type": "message_delta",
        "delta": {"stop_reason": stop_reason(message), "stop_sequence": null},
        "usage": usage(input, output),
    });
    parts.push(Part::Bytes(
        event(&json!({"type": "content_block_stop", "index": 0}))
            + &event(&end)
            + &event(&json!({"type": "message_stop"})),
    ));
    parts
}

fn envelope(message: &Message, output: u64) -> Value {
    json!({
        "id": id("msg"),
        "type": "message",
        "role": "assistant",
        "model": message.model,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
        "usage": usage(message.usage.0, output),
    })
}

fn usage(input: u64, output: u64) -> Value {
    json!({
        "input_tokens": input,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output,
    })
}

fn stop_reason(message: &Message) -> &'static str {
    match message.block {
        Block::Text(_) => "end_turn",
        Block::Tool { .. } => "tool_use",
    }
}

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
}

/// Cuts a text into so many pieces of about one length; some are empty when it is short.
fn cut(text: &str, count: usize) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let bound = |index: usize| index * letters.len() / count;
    (0..count).map(|index| letters[bound(index)..bound(index + 1)].iter().collect()).collect()
}

/// Ids are told apart by a count; the CLI only compares them.
fn id(kind: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    format!("{kind}_{:024}", COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(block: Block) -> Message {
        Message { block, slow: None, broken: false, usage: (7, 8), model: "m".into() }
    }

    fn bytes(parts: &[Part]) -> String {
        parts.iter().filter_map(|part| if let Part::Bytes(text) = part { Some(text.as_str()) } else { None }).collect()
    }

    #[test]
    fn a_text_streams_in_pieces() {
        let text = Message { slow: Some((4, Duration::from_millis(2))), ..message(Block::Text("grüße dich".into())) };
        let parts = streamed(&text);
        assert_eq!(parts.iter().filter(|part| matches!(part, Part::Wait(_))).count(), 4);
        assert_eq!(bytes(&parts).matches("event: content_block_delta").count(), 4);
        assert_eq!(cut("grüße dich", 4).concat(), "grüße dich");
        assert!(bytes(&parts).ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"));
    }

    #[test]
    fn a_broken_stream_has_no_end() {
        let parts = streamed(&Message { broken: true, ..message(Block::Text("hello".into())) });
        assert_eq!(parts.last(), Some(&Part::Break));
        assert_eq!(bytes(&parts).matches("content_block_delta\n").count(), 2);
        assert!(!bytes(&parts).contains("message_stop"));
    }

    #[test]
    fn a_tool_call_is_whole_or_streamed() {
        let call = message(Block::Tool { name: "Bash".into(), input: json!({"command": "ls"}) });
        let value = whole(&call);
        assert_eq!(value["stop_reason"], "tool_use");
        assert_eq!(value["content"][0]["input"]["command"], "ls");
        assert_eq!(value["usage"]["output_tokens"], 8);
        assert!(bytes(&streamed(&call)).contains(r#""partial_json":"{\"command\":\"ls\"}""#));
    }

    #[test]
    fn an_error_names_its_type() {
        let value = failure(&Failure { status: 529, message: "Overloaded".into() });
        assert_eq!(value["error"], json!({"type": "overloaded_error", "message": "Overloaded"}));
    }
}
