//! Options as callers write them.

use super::*;
use serde_json::json;

fn read(value: Value) -> Result<TaskOptions> {
    TaskOptions::from_json(value.as_object().unwrap())
}

#[test]
fn every_built_option_is_stored_under_its_name() {
    for row in TABLE.iter().filter(|row| row.is_built()) {
        let value = match (row.name, row.kind) {
            ("effort", _) => json!("high"),
            ("permission_mode", _) => json!("plan"),
            ("isolation", _) => json!("none"),
            ("priority", _) => json!("low"),
            ("continue_from", _) => json!("c7"),
            ("after", _) => json!(["t1", "t22"]),
            ("after_failure", _) => json!("run"),
            (_, Kind::Text) => json!("text"),
            (_, Kind::Count) => json!(2),
            (_, Kind::Money) => json!(0.5),
            (_, Kind::Flag) => json!(true),
            (_, Kind::List) => json!(["one"]),
            (_, Kind::Json) => json!({"a": {"b": 1}}),
        };
        let options = read(json!({ row.name: value.clone() })).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(serde_json::to_value(&options).unwrap(), json!({ row.name: value }), "{}", row.name);
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    for (given, message, hint) in [
        (json!({"modle": "x"}), "unknown option modle", "did you mean model?"),
        (json!({"worktree": true}), "unknown option worktree", "the options are"),
        (json!({"check": "true"}), "check is not built yet", "leave it out"),
        (json!({"isolation": "worktree"}), "not built yet", "none"),
        (json!({"effort": "hihg"}), "option effort: \"hihg\"", "did you mean high?"),
        (json!({"max_turns": 0}), "option max_turns: 0", "from 1"),
        (json!({"max_turns": "3"}), "not a whole number", "turns"),
        (json!({"max_budget_usd": -1}), "no budget", "above 0"),
        (json!({"allowed_tools": "Bash"}), "not a list", "permission"),
        (json!({"allowed_tools": ["--dangerously-skip-permissions"]}), "no name of a tool", "Bash"),
        (json!({"model": "--help"}), "no model", "alias"),
        (json!({"once": ""}), "option once", "bytes"),
        (json!({"lane": "Big Lane"}), "option lane", "a-z"),
        (json!({"tags": [" "]}), "no tag", "bytes"),
    ] {
        let error = read(given.clone()).expect_err(&given.to_string());
        assert!(error.message().contains(message), "{given}: {error}");
        assert!(error.hint_text().unwrap_or("").contains(hint), "{given}: {error}");
    }
}
