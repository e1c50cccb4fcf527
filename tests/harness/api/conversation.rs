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
        for (role, block) in all_blocks(body) {
            if block["type"] == "tool_result" {
                conversation.tool_results += 1;
                conversation.last_result = text_of(&block["content"]);
            }
            let Some(text) = text_in(block) else { continue };
            let (own, added) = if role == "user" { apart(text) } else { (String::new(), text.to_owned()) };
            let script = Script::parse(&own).filter(|script| !decided || script.takes_over);
            // A message sent in mid-turn arrives among what the CLI adds.
            let script = script.or_else(|| Script::parse(&added).filter(|script| script.takes_over));
            if let Some(script) = script {
                decided = true;
                conversation.script = script;
                conversation.tool_results = 0;
            }
            if !own.trim().is_empty() {
                conversation.last_text = own;
            }
        }
        conversation
    }
}

/// All texts of a role in a request's messages as they were sent, with what the CLI adds.
pub fn texts_of(body: &Value, role: &str) -> Vec<String> {
    let blocks = all_blocks(body).filter(|(of, _)| *of == role);
    blocks.filter_map(|(_, block)| text_in(block)).map(str::to_owned).collect()
}

/// The text of a string or of a list of text blocks.
pub fn text_of(content: &Value) -> String {
    let texts: Vec<&str> = blocks(content).iter().filter_map(text_in).collect();
    texts.join("\n")
}

/// Every content block that is not the assistant's, with its role: `user`, or `system` for what the CLI puts in between.
fn all_blocks(body: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let messages = messages.iter().map(|message| (message["role"].as_str().unwrap_or_default(), &message["content"]));
    messages
        .filter(|(role, _)| *role != "assistant")
        .flat_map(|(role, content)| blocks(content).iter().map(move |block| (role, block)))
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

/// Parts a text from the reminders in it, which carry CLAUDE.md and other text that nobody meant as a directive.
fn apart(text: &str) -> (String, String) {
    const OPEN: &str = "<system-reminder>";
    const CLOSE: &str = "</system-reminder>";
    let (mut own, mut added) = (String::new(), String::new());
    let mut rest = text;
    while let Some(start) = rest.find(OPEN) {
        own.push_str(&rest[..start]);
        let end = rest[start..].find(CLOSE).map_or(rest.len(), |length| start + length + CLOSE.len());
        added.push_str(&rest[start..end]);
        rest = &rest[end..];
    }
    (own + rest, added)
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
    fn a_message_in_mid_turn_can_take_over() {
        for added in [
            json!({"role": "system", "content": "The user sent a new message:\n@now\n@say b"}),
            user(json!("<system-reminder>\n@now\n@say b\n</system-reminder>")),
        ] {
            let got = read(json!([user(json!("@bash a\n@say a")), result("r"), added]));
            assert_eq!(got.script.text, said("b"));
            assert_eq!(got.last_text, "@bash a\n@say a");
        }
        let without = json!({"role": "system", "content": "@say b"});
        assert_eq!(read(json!([without, user(json!("@say a"))])).script.text, said("a"));
    }

    #[test]
    fn nothing_at_all_is_read_too() {
        assert_eq!(Conversation::read(&json!({})), Conversation::default());
        assert_eq!(Conversation::read(&json!({"messages": 3, "tools": "x"})), Conversation::default());
    }
}
