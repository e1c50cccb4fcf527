//! Lines of the CLI, broken and whole.

use super::*;

#[test]
fn what_is_unknown_or_broken_is_passed_over() {
    for (line, expected) in [
        ("", Event::Noise),
        ("warning: something", Event::Noise),
        ("[1]", Event::Noise),
        (r#"{"type":"hologram"}"#, Event::Other),
        (r#"{"type":"system","subtype":"status"}"#, Event::Other),
        (r#"{"type":"user","message":{"content":"replayed"}}"#, Event::ToolResults(vec![])),
        (r#"{"type":"assistant"}"#, Event::Assistant(Box::default())),
        (r#"{"type":"result"}"#, Event::Result(Box::default())),
        (r#"{"type":"rate_limit_event"}"#, Event::RateLimit(RateLimit::default())),
        (r#"{"type":"stream_event","event":{"type":"ping"}}"#, Event::Other),
        (
            r#"{"request":{"subtype":"can_use_tool"},"request_id":"r","type":"control_request"}"#,
            Event::Asks { id: "r".into(), subtype: "can_use_tool".into() },
        ),
        (
            r#"{"type":"control_response","response":{"subtype":"error","request_id":"i","error":"no"}}"#,
            Event::Answered { id: "i".into(), error: Some("no".into()) },
        ),
        (
            r#"{"type":"system","subtype":"api_retry","attempt":1,"retry_delay_ms":559.78,"error_status":null}"#,
            Event::Retry { attempt: 1, delay_ms: 559, status: None, error: String::new() },
        ),
    ] {
        assert_eq!(Event::read(line.as_bytes()), expected, "{line}");
    }
}

#[test]
fn a_call_has_a_short_form() {
    for (tool, input, expected) in [
        ("Bash", json!({"command": "cargo test", "description": "x"}), "Bash(cargo test)"),
        ("Bash", json!({"command": "a\nb"}), "Bash(a…)"),
        ("Write", json!({"file_path": "/w/a", "content": "c"}), "Write(/w/a)"),
        ("TaskStop", json!({}), "TaskStop"),
    ] {
        assert_eq!(short(tool, &input), expected);
    }
    assert_eq!(short("Bash", &json!({"command": "x".repeat(200)})).chars().count(), 6 + 80 + 1);
}

#[test]
fn a_question_is_refused_in_its_own_form() {
    let denied: Value = serde_json::from_str(&refusal("r1", "can_use_tool")).unwrap();
    assert_eq!(denied["response"]["response"]["behavior"], "deny");
    let error: Value = serde_json::from_str(&refusal("r2", "mcp_message")).unwrap();
    assert_eq!(error["response"]["subtype"], "error");
    assert_eq!(error["response"]["request_id"], "r2");
}
