//! Where a conversation stands, read from one request: whose directives count and how many tools have answered.
//!
//! Nothing is remembered between requests, so any number of workers can talk to one server.

use super::script::Script;
use serde_json::Value;

/// What an answer depends on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// The directives in force.
    pub script: Script,
    /// Tool results since the text that holds them.
    pub tool_results: usize,
    /// Text of the latest tool result.
    pub last_result: String,
    /// The last user text, without what the CLI adds.
    pub last_text: String,
    /// System text.
    pub system: String,
    /// Model asked for.
    pub model: String,
    /// Input schema of the tool `StructuredOutput`, when offered.
    pub schema: Option<Value>,
}

impl Conversation {
    /// Reads a request's body.
    pub fn read(body: &Value) -> Conversation {
        let mut conversation = Conversation {
            system: text_of(&body["system"]),
            model: body["model"].as_str().unwrap_or_default().into(),
            schema: structured_output(body),
            ..Conversation::default()
        };
        let mut decided = false;
        for content in user_contents(body) {
            for block in blocks(content) {
                if block["type"] == "tool_result" {
                    conversation.tool_results += 1;
                    conversation.last_result = text_of(&block["content"]);
                }
                let Some(text) = text_in(block) else { continue };
                let text = without_additions(text);
                if text.trim().is_empty() {
                    continue;
                }
                if let Some(script) = Script::parse(&text).filter(|script| !decided || script.takes_over) {
                    decided = true;
                    conversation.script = script;
                    conversation.tool_results = 0;
                }
                conversation.last_text = text;
            }
        }
        conversation
    }
}

/// All user texts of a request as they were sent, with what the CLI adds.
pub fn user_texts(body: &Value) -> Vec<String> {
    user_contents(body).flat_map(blocks).filter_map(text_in).map(str::to_owned).collect()
}

/// The text of a string or of a list of text blocks.
pub fn text_of(content: &Value) -> String {
    let texts: Vec<&str> = blocks(content).iter().filter_map(text_in).collect();
    texts.join("\n")
}

fn user_contents(body: &Value) -> impl Iterator<Item = &Value> {
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    messages.iter().filter(|message| message["role"] == "user").map(|message| &message["content"])
}

fn blocks(content: &Value) -> &[Value] {
    content.as_array().map_or(std::slice::from_ref(content), Vec::as_slice)
}

fn text_in(block: &Value) -> Option<&str> {
    block.as_str().or_else(|| block["text"].as_str())
}

fn structured_output(body: &Value) -> Option<Value> {
    let tool = body["tools"].as_array()?.iter().find(|tool| tool["name"] == "StructuredOutput")?;
    Some(tool["input_schema"].clone())
}

/// Leaves out reminders, which carry CLAUDE.md and other text that nobody meant as a directive.
fn without_additions(text: &str) -> String {
    const OPEN: &str = "<system-reminder>";
    const CLOSE: &str = "</system-reminder>";
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(OPEN) {
        result.push_str(&rest[..start]);
        let Some(length) = rest[start..].find(CLOSE) else { return result };
        rest = &rest[start + length + CLOSE.len()..];
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::super::script::Piece;
    use super::*;
    use serde_json::json;

    fn user(content: Value) -> Value {
        json!({"role": "user", "content": content})
    }

    fn result(text: &str) -> Value {
        user(json!([{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": text}]}]))
    }

    fn read(messages: Value) -> Conversation {
        Conversation::read(&json!({"model": "m", "system": [{"type": "text", "text": "S"}], "messages": messages}))
    }

    fn said(text: &str) -> Vec<Piece> {
        vec![Piece::Said(text.into())]
    }

    #[test]
    fn the_first_text_with_directives_decides() {
        let got = read(json!([user(json!("hello")), user(json!("@say one")), user(json!("@say two"))]));
        assert_eq!(got.script.text, said("one"));
        assert_eq!((got.last_text.as_str(), got.system.as_str(), got.model.as_str()), ("@say two", "S", "m"));
    }

    #[test]
    fn a_later_text_can_take_over_and_counts_anew() {
        let got = read(json!([user(json!("@bash a")), result("r1"), user(json!("@now\n@say two")), result("r2")]));
        assert_eq!(got.script.text, said("two"));
        assert_eq!((got.tool_results, got.last_result.as_str()), (1, "r2"));
    }

    #[test]
    fn tool_results_tell_the_position() {
        let assistant = json!({"role": "assistant", "content": [{"type": "text", "text": "@say no"}]});
        let got =
            read(json!([user(json!([{"type": "text", "text": "@bash a\n@bash b"}])), assistant, result("@say x")]));
        assert_eq!(got.tool_results, 1);
        assert_eq!(got.script.tools.len(), 2);
        assert_eq!(got.script.text, []);
    }

    #[test]
    fn what_the_cli_adds_is_no_directive() {
        let reminder = "<system-reminder>\nCLAUDE.md:\n@say from the file\n</system-reminder>";
        let got = read(json!([user(json!([
            {"type": "text", "text": reminder},
            {"type": "text", "text": format!("{reminder}\n@say mine\n{reminder}")},
        ]))]));
        assert_eq!(got.script.text, said("mine"));
        assert_eq!(got.last_text.trim(), "@say mine");
        let open = read(json!([user(json!("a\n<system-reminder>\n@say x"))]));
        assert_eq!(open.script.text, []);
    }

    #[test]
    fn nothing_at_all_is_read_too() {
        assert_eq!(Conversation::read(&json!({})), Conversation::default());
        assert_eq!(Conversation::read(&json!({"messages": 3, "tools": "x"})), Conversation::default());
    }
}
