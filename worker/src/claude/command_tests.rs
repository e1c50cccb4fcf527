//! Calls of the CLI, option by option.

use super::*;

fn env(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn called(options: Value, prompt: &str, addition: &str, mcp: Option<&str>) -> Command {
    let options = TaskOptions::from_json(options.as_object().unwrap()).unwrap();
    let place = Place {
        claude: Path::new("/bin/claude"),
        cwd: Path::new("/work"),
        mcp_config: mcp.map(Path::new),
        env: &env(&[("HOME", "/h")]),
        run: "p/t1/2",
        addition,
        session: None,
    };
    command(&options, prompt, &place)
}

fn said(options: Value, mcp: Option<&str>) -> String {
    let call = called(options, "p", "", mcp);
    let args: Vec<_> = call.args.iter().skip(7).map(|arg| arg.to_string_lossy()).collect();
    args.join("|")
}

#[test]
fn each_option_becomes_its_flag() {
    for (options, expected) in [
        (json!({}), "--permission-mode|plan|--strict-mcp-config"),
        (json!({"model": "haiku"}), "--model|haiku|--permission-mode|plan|--strict-mcp-config"),
        (json!({"fallback_model": "m"}), "--fallback-model|m|--permission-mode|plan|--strict-mcp-config"),
        (json!({"effort": "xhigh"}), "--effort|xhigh|--permission-mode|plan|--strict-mcp-config"),
        (json!({"permission_mode": "dontAsk"}), "--permission-mode|dontAsk|--strict-mcp-config"),
        (json!({"max_turns": 3}), "--permission-mode|plan|--max-turns|3|--strict-mcp-config"),
        (json!({"max_budget_usd": 0.25}), "--permission-mode|plan|--max-budget-usd|0.25|--strict-mcp-config"),
        (
            json!({"allowed_tools": ["Bash(git log, x)", "Edit"], "disallowed_tools": ["Write"]}),
            "--permission-mode|plan|--allowedTools|Bash(git log, x)|Edit|--disallowedTools|Write|--strict-mcp-config",
        ),
        (json!({"tools": []}), "--permission-mode|plan|--tools||--strict-mcp-config"),
        (json!({"tools": ["Read", "Bash"]}), "--permission-mode|plan|--tools|Read|Bash|--strict-mcp-config"),
        (json!({"strict_mcp_config": false}), "--permission-mode|plan"),
        // What is none of the CLI's business.
        (json!({"timeout_s": 5, "tags": ["x"], "once": "k"}), "--permission-mode|plan|--strict-mcp-config"),
    ] {
        assert_eq!(said(options.clone(), None), expected, "{options}");
    }
    let strict = "--permission-mode|plan|--strict-mcp-config|--mcp-config|/run/m.json";
    assert_eq!(said(json!({}), Some("/run/m.json")), strict);
}

#[test]
fn texts_go_over_stdin_and_nowhere_else() {
    let options = json!({"system_prompt": "SECRET-A", "replace_system_prompt": "SECRET-B",
        "json_schema": {"title": "SECRET-C"}});
    let call = called(options, "SECRET-D\nline", "SECRET-E", None);
    assert!(call.args.iter().all(|arg| !arg.to_string_lossy().contains("SECRET")), "{:?}", call.args);
    assert!(call.env.values().all(|value| !value.to_string_lossy().contains("SECRET")));
    let lines: Vec<Value> = call.input.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    let request = &lines[0]["request"];
    assert_eq!(request["appendSystemPrompt"], "SECRET-E\n\nSECRET-A");
    assert_eq!(request["systemPrompt"], "SECRET-B");
    assert_eq!(request["jsonSchema"]["title"], "SECRET-C");
    assert_eq!(lines[1]["message"]["content"][0]["text"], "SECRET-D\nline");
    assert!(call.structured);
    assert_eq!(lines[1]["message"]["content"].as_array().unwrap().len(), 1);
    let slash = called(json!({}), " /cost", "", None);
    let line: Value = serde_json::from_str(slash.input.lines().nth(1).unwrap()).unwrap();
    let text = |text: &str| json!({"type": "text", "text": text});
    assert_eq!(line["message"]["content"], json!([text(" /cost"), text("")]));
    let plain = called(json!({}), "p", " ", None);
    let first: Value = serde_json::from_str(plain.input.lines().next().unwrap()).unwrap();
    assert_eq!(first["request"], json!({"subtype": "initialize", "hooks": null}));
    assert_eq!(plain.env, env(&[("HOME", "/h"), ("MOTORPOOL_RUN", "p/t1/2")]));
}

#[test]
fn the_environment_is_the_workers_own_less_what_is_not_the_tasks_business() {
    let own = env(&[
        ("PATH", "/bin"),
        ("EDITOR", "vi"),
        ("MY_URL", "redis://:hunter2@h"),
        ("MOTORPOOL_REDIS_URL", "x"),
        ("MOTORPOOL_RUN", "other/t1/1"),
        ("REDIS_URL", "x"),
        ("REDISCLI_AUTH", "x"),
        ("REDIS_PASSWORD", "x"),
        ("REDIS_HOST", "h"),
        ("CLAUDECODE", "1"),
        ("CLAUDE_CODE_SESSION_ID", "1"),
        ("CLAUDE_EFFORT", "low"),
        ("CLAUDE_CONFIG_DIR", "/c"),
        ("ANTHROPIC_API_KEY", "k"),
        ("AWS_PROFILE", "a"),
        ("https_proxy", "p"),
        ("LC_ALL", "C"),
        ("CLAUDE_CODE_MAX_RETRIES", "0"),
        ("DISABLE_AUTOUPDATER", ""),
    ]);
    let names = |filter: &Filter| -> Vec<String> {
        environment(&own, filter).keys().map(|name| name.to_string_lossy().into_owned()).collect()
    };
    let secrets = vec!["hunter2".to_owned(), String::new()];
    let all = names(&Filter { secrets: secrets.clone(), ..Filter::default() });
    let rest = [
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
        "CLAUDE_CODE_MAX_RETRIES",
        "CLAUDE_CONFIG_DIR",
        "DISABLE_AUTOUPDATER",
    ];
    let expected =
        [&["ANTHROPIC_API_KEY", "AWS_PROFILE"][..], &rest, &["EDITOR", "LC_ALL", "PATH", "REDIS_HOST", "https_proxy"]]
            .concat();
    assert_eq!(all, expected);
    let clean = names(&Filter { clean: true, pass: vec!["REDIS_URL".into(), "MOTORPOOL_RUN".into()], secrets });
    let expected =
        [&["ANTHROPIC_API_KEY", "AWS_PROFILE"][..], &rest, &["LC_ALL", "PATH", "REDIS_URL", "https_proxy"]].concat();
    assert_eq!(clean, expected);
    let env = environment(&own, &Filter::default());
    assert_eq!(env[OsStr::new("CLAUDE_CODE_MAX_RETRIES")], "0", "what is set stays");
    assert_eq!(env[OsStr::new("DISABLE_AUTOUPDATER")], "1");
}
