//! What of a task reaches Claude: its prompt to the byte, its options, and nothing of its texts in any arguments.

use motorpool::domain::limits::PROMPT_BYTES;
use motorpool::{ErrorKind, Spec, State, TaskOptions};
use motorpool_tests::fleet::{Cli, Fleet, PATIENCE};
use serde_json::json;

#[tokio::test]
async fn a_mebibyte_passes_to_the_byte_and_one_byte_more_is_refused() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.worker(&[]);
    let mut prompt = "@say got it all\n".to_owned();
    let line = "tab\t crlf\r\n \"quotes\" \\ back ümläut 漢字 🦀 {braces} $HOME `x` <tag> \u{7f}\u{1b}[0m\n";
    while prompt.len() + line.len() < PROMPT_BYTES {
        prompt.push_str(line);
    }
    prompt.push_str(&"x".repeat(PROMPT_BYTES - prompt.len()));
    let record = fleet.run(&prompt, json!({})).await;
    assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("got it all")), "{:?}", record.error);
    let request = fleet.api.wait_for(|request| request.body_bytes > PROMPT_BYTES, PATIENCE).await;
    assert!(request.user_texts.contains(&prompt), "the prompt was altered");
    prompt.push('x');
    let refused = Spec::new(prompt.as_str(), TaskOptions::default()).expect_err("it is too long");
    assert_eq!(refused.kind(), ErrorKind::Usage);
    assert!(refused.message().contains("1048577 bytes"), "{refused}");
    // Who makes a spec by hand is refused by the pool.
    let spec = Spec { prompt, ..Spec::default() };
    assert_eq!(fleet.pool.submit(spec).await.expect_err("it is too long").kind(), ErrorKind::Usage);
    assert_eq!(fleet.pool.unfinished().await.expect("the pool answers"), 0);
    fleet.end().await;
}

/// What means something to the interactive program is text here.
#[tokio::test]
async fn a_prompt_that_looks_like_a_command_is_text_all_the_same() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.worker(&[]);
    fleet.worker(&[]);
    std::fs::write(fleet.work.join("notes.txt"), "SECRET-NOTES").unwrap();
    let prompts = ["/cost", "/etc/hosts looks odd", "/compact now", "@notes.txt what is it?", "!touch ran.txt", "# hi"];
    let mut ids = Vec::new();
    for prompt in prompts {
        ids.push(fleet.submit(prompt, json!({})).await);
    }
    let mut wrong = Vec::new();
    for (id, prompt) in ids.into_iter().zip(prompts) {
        let record = fleet.over(id).await;
        let said = record.output.clone().unwrap_or_default();
        let sent = fleet.api.requests().iter().any(|request| request.user_texts.iter().any(|text| text == prompt));
        if record.state != State::Completed || !sent || !said.contains(prompt) {
            wrong.push(format!("{prompt}: {} {said:?} {:?}, sent: {sent}", record.state, record.error));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!fleet.work.join("ran.txt").exists());
    fleet.end().await;
}

#[tokio::test]
async fn options_reach_claude_and_no_text_of_a_task_is_in_any_arguments() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.worker(&[]);
    let schema = json!({"type": "object", "title": "MARK-SCHEMA", "properties": {"n": {"type": "integer"}}});
    let prompt = "MARK-PROMPT\n@bash echo on > on.txt; until [ -e go.txt ]; do sleep 0.02; done\n@json {\"n\": 3}";
    let options = json!({"model": "haiku", "effort": "low", "system_prompt": "MARK-SYSTEM", "json_schema": schema,
        "tools": ["Bash", "Read"], "allowed_tools": ["Bash"], "permission_mode": "acceptEdits"});
    let id = fleet.submit(prompt, options).await;
    fleet.written("on.txt").await;
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines: Vec<String> = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect();
    assert!(lines.iter().any(|line| line.contains("--input-format stream-json")), "Claude is not seen");
    let told: Vec<&String> = lines.iter().filter(|line| line.contains("MARK-")).collect();
    assert!(told.is_empty(), "{told:?}");
    std::fs::write(fleet.work.join("go.txt"), "").unwrap();
    let record = fleet.over(id).await;
    assert_eq!((record.state, record.structured.clone()), (State::Completed, Some(json!({"n": 3}))), "{record:#?}");
    let request = fleet.api.wait_for(|request| request.mentions("MARK-PROMPT"), PATIENCE).await;
    assert!(request.model.contains("haiku"), "{}", request.model);
    assert!(request.system.contains("MARK-SYSTEM") && request.system.contains("Claude Code"), "{}", request.system);
    assert!(request.system.contains(&format!("this is task {id}, run 1")), "{}", request.system);
    // 2.1.330 puts a placeholder among them.
    let mut tools = request.tools.clone();
    tools.retain(|tool| tool != "DeferredToolPlaceholder");
    tools.sort();
    assert_eq!(tools, ["Bash", "Read", "StructuredOutput"]);

    let options = json!({"replace_system_prompt": "MARK-REPLACED", "system_prompt": "MARK-ADDED", "model": "sonnet",
        "effort": "low", "disallowed_tools": ["Bash", "WebFetch"]});
    let record = fleet.run("MARK-SECOND\n@say x", options).await;
    assert_eq!(record.state, State::Completed, "{record:#?}");
    let request = fleet.api.wait_for(|request| request.mentions("MARK-SECOND"), PATIENCE).await;
    assert!(request.model.contains("sonnet"), "{}", request.model);
    assert_eq!(request.effort.as_deref(), Some("low"));
    assert!(request.system.contains("MARK-REPLACED") && request.system.contains("MARK-ADDED"), "{}", request.system);
    assert!(!request.system.contains("interactive"), "{}", request.system);
    assert!(request.tools.iter().any(|tool| tool == "Read"));
    assert!(!request.tools.iter().any(|tool| tool == "Bash" || tool == "WebFetch"), "{:?}", request.tools);
    fleet.end().await;
}

#[tokio::test]
async fn plan_mode_denies_what_writes_and_the_result_says_so() {
    let mut fleet = Fleet::new(Cli::Real).await;
    fleet.worker(&[]);
    let write = "@write new.txt text\n@say finished";
    let record = fleet.run(write, json!({})).await;
    assert_eq!((record.state, record.output.as_deref()), (State::Completed, Some("finished")), "{record:#?}");
    assert!(record.denied.len() == 1 && record.denied[0].starts_with("Write("), "{record:#?}");
    assert!(!fleet.work.join("new.txt").exists());

    let record = fleet.run(write, json!({"fail_on_denied": true})).await;
    let error = record.error.clone().expect("it failed");
    assert_eq!((record.state, error.class), (State::Failed, motorpool::Class::Permission), "{record:#?}");
    assert!(error.message.contains("Write") && error.hint.unwrap().contains("allowed_tools"), "{record:#?}");
    assert_eq!(record.output.as_deref(), Some("finished"), "what was said is kept");

    let record = fleet.run(write, json!({"permission_mode": "acceptEdits", "fail_on_denied": true})).await;
    assert_eq!((record.state, record.denied.len()), (State::Completed, 0), "{record:#?}");
    assert_eq!(fleet.read("new.txt").as_deref(), Some("text"));

    let bash = "@bash python3 -c \"open('made.txt', 'w').write('made')\"\n@say ran";
    let record = fleet.run(bash, json!({"permission_mode": "acceptEdits"})).await;
    assert_eq!((record.state, fleet.read("made.txt")), (State::Completed, None), "{record:#?}");
    assert_eq!(record.denied.len(), 1, "{record:#?}");
    assert!(record.denied[0].starts_with("Bash"), "{record:#?}");
    let options = json!({"permission_mode": "acceptEdits", "allowed_tools": ["Bash(python3:*)"]});
    let record = fleet.run(bash, options).await;
    assert_eq!(record.denied, Vec::<String>::new(), "{record:#?}");
    assert_eq!(fleet.read("made.txt").as_deref(), Some("made"));
    fleet.end().await;
}

#[tokio::test]
async fn what_the_host_does_not_allow_is_refused_before_claude_starts() {
    let mut fleet = Fleet::new(Cli::Real).await;
    let strict = fleet.joined(&["--allow-mode=plan", "--allow-mcp=no"]).await;
    for (options, message) in [
        (json!({"permission_mode": "acceptEdits"}), "permission modes up to plan"),
        (json!({"mcp_servers": {"x": {"command": "true"}}}), "does not allow MCP servers"),
        (json!({"working_dir": "missing"}), "cannot be used"),
        (json!({"working_dir": "/"}), "does not allow work in /"),
        (json!({"working_dir": ".."}), "does not allow work in"),
    ] {
        let record = fleet.run("@say no", options.clone()).await;
        let error = record.error.clone().expect("it failed");
        assert_eq!((record.state, error.class), (State::Failed, motorpool::Class::Request), "{options}");
        assert!(error.message.contains(message) && error.hint.is_some(), "{options}: {error:?}");
        assert_eq!((record.run, record.cost_microusd, record.runs[0].session_id.clone()), (1, 0, None));
    }
    assert_eq!(fleet.api.requests().len(), 0, "Claude was started");
    fleet.worker_is(strict, "fit", |worker| worker.unfit.is_none()).await;
    let record = fleet.run("@say yes", json!({"permission_mode": "plan"})).await;
    assert_eq!(record.output.as_deref(), Some("yes"), "{record:#?}");
    fleet.end().await;
}
