//! Chains, fan-outs, reviews and routes from the command line.

use std::path::PathBuf;

use motorpool_tests::fleet::Cli;
use motorpool_tests::project::{Done, User};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn definition(user: &User, name: &str, text: &str) -> PathBuf {
    let path = user.project("one").join(name);
    std::fs::write(&path, text).expect("a file");
    path
}

fn assert_done(done: &Done, code: i32, out: &str, user: &User) {
    assert_eq!((done.code, done.out.trim()), (Some(code), out), "{done:#?}\n{}", user.logs());
}

async fn end(user: User) {
    assert_eq!(user.motorpool("one", &["down"]).await.code, Some(0));
    user.until("the pool ends", |user| user.processes(&[]).is_empty().then_some(())).await;
}

const CHAIN: &str = "\
model: haiku
steps:
  - name: find
    prompt: |
      Look for it.
      @say a {what}{vars.what} is found
  - name: tell
    prompt: \"Tell.\\n@say told: {previous_output}\"
";

#[tokio::test]
async fn a_chain_prints_its_last_output_and_every_command_knows_it() {
    let user = User::new(Cli::Real).await;
    definition(&user, "chain.yaml", CHAIN);
    let run = ["chain", "chain.yaml", "--var", "what={previous_output}", "--linger", "10m"];
    let done = user.motorpool("one", &run).await;
    // A value is text, and what is no place stays as it is.
    assert_done(&done, 0, "told: a {what}{previous_output} is found", &user);
    assert!(done.err.contains("c1: 2 steps in plan mode") && done.err.contains("c1 completed in"), "{}", done.err);
    let shown = user.motorpool("one", &["show", "c1", "--json"]).await.json();
    assert_eq!((&shown["state"], &shown["steps"][0]["name"]), (&json!("completed"), &json!("find")));
    assert_eq!(shown["steps"][0]["output"], "a {what}{previous_output} is found");
    assert!(shown["cost_usd"].as_f64() > shown["steps"][0]["cost_usd"].as_f64(), "{shown}");
    let text = user.motorpool("one", &["show", "c1"]).await.out;
    assert!(text.contains("find") && text.contains("t2") && text.contains("completed"), "{text}");
    assert_done(&user.motorpool("one", &["result", "c1"]).await, 0, done.out.trim(), &user);
    let listed = user.motorpool("one", &["list", "--kind", "chains", "--json"]).await.json();
    assert_eq!((&listed["items"][0]["id"], &listed["cursor"]), (&json!("c1"), &Value::Null));
    let logs = user.motorpool("one", &["logs", "c1"]).await;
    assert!(logs.out.contains("is found") && logs.err.contains("== t2"), "{logs:#?}");
    let step = user.motorpool("one", &["result", "t2", "--json"]).await.json();
    assert_eq!((&step["chain"], &step["step"]), (&json!("c1"), &json!(2)));
    for (args, code, words) in [
        (vec!["chain", "chain.yaml"], 2, "{vars.what} has no value"),
        (vec!["chain", "chain.yaml", "--var", "what=x", "--var", "else=y"], 2, "no prompt has {vars.else}"),
        (vec!["chain", "none.yaml"], 2, "cannot read none.yaml"),
        (vec!["result", "c9"], 6, "no chain c9"),
        (vec!["cancel", "t1", "b4"], 6, "no batch b4"),
        (vec!["retry", "c1"], 6, "c1 is completed"),
        (vec!["retry", "t1"], 6, "t1 is"),
        (vec!["approve", "c1"], 6, "nothing of it is up for review"),
    ] {
        let done = user.motorpool("one", &args).await;
        assert_eq!(done.code, Some(code), "{args:?}: {done:#?}");
        assert!(done.err.contains(words) && done.err.contains("hint"), "{args:?}: {}", done.err);
    }
    end(user).await;
}

#[tokio::test]
async fn a_chain_that_fails_says_where_and_goes_on_from_there() {
    let user = User::new(Cli::StandIn).await;
    let chain = json!({"steps": [
        {"name": "good", "prompt": "@say begun"},
        {"name": "bad", "prompt": "@say no", "json_schema": {"type": "object"}, "retries": 0},
        {"name": "last", "prompt": "@say <{previous_output}>"},
    ]});
    definition(&user, "c.json", &chain.to_string().replace("@say no", "@text-instead\\n@say no"));
    let done = user.motorpool("one", &["chain", "c.json", "--linger", "10m"]).await;
    assert_done(&done, 1, "begun", &user);
    assert!(done.err.contains("c1 failed: bad (t2) failed: Claude answered"), "{}", done.err);
    let again = user.motorpool("one", &["retry", "c1", "--json"]).await.json();
    assert_eq!((&again["id"], &again["retry_of"]), (&json!("c2"), &json!("c1")));
    let done = user.motorpool("one", &["result", "c2", "--wait", "--json"]).await;
    let record = done.json();
    assert_eq!((done.code, &record["state"], &record["error"]["class"]), (Some(1), &json!("failed"), &json!("check")));
    assert_eq!((&record["steps"][0]["id"], &record["steps"][1]["id"]), (&json!("t1"), &json!("t4")));
    assert_eq!(record["steps"][2]["state"], "skipped");
    end(user).await;
}

#[tokio::test]
async fn ctrl_c_stops_a_chain_and_keeps_what_is_done() {
    let user = User::new(Cli::StandIn).await;
    let chain = json!({"permission_mode": "acceptEdits", "steps": [
        "@say kept", "@bash echo on > on; sleep 300", "@say never",
    ]});
    definition(&user, "c.json", &chain.to_string());
    let mut command = user.command("one", &["chain", "c.json", "--json", "--linger", "10m"]);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let on = user.project("one").join("on");
    user.until("the second step runs", |_| on.exists().then_some(())).await;
    kill(Pid::from_raw(child.id().unwrap() as i32), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().await.unwrap();
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &record["state"]), (Some(5), &json!("cancelled")), "{record}");
    let states: Vec<&Value> = record["steps"].as_array().unwrap().iter().map(|step| &step["state"]).collect();
    assert_eq!(states, ["completed", "cancelled", "skipped"], "{record}");
    assert!(user.processes(&["sleep 300"]).is_empty());
    end(user).await;
}

#[tokio::test]
async fn a_fan_out_prints_every_item_in_order_and_what_failed_apart() {
    let user = User::new(Cli::StandIn).await;
    let text = "items:\n  - \"@sleep 300\\n@say first\"\n  - prompt: \"@status 400 no\"\n  - steps: [\"@say a\", \"@say {previous_output}b\"]\n\
                collect: \"@say gathered\"\n";
    definition(&user, "f.yaml", text);
    let done = user.motorpool("one", &["fan-out", "f.yaml", "--slots", "3", "--linger", "10m"]).await;
    let expected = "== item 1 (t1) completed\nfirst\n== item 2 (t2) failed\n== item 3 (c1) completed\nab\n\
                    == collect (t5) completed\ngathered";
    assert_done(&done, 1, expected, &user);
    assert!(done.err.contains("item 2 (t2) failed: request"), "{}", done.err);
    for (args, is_there) in [
        (&["list", "--kind", "batches"][..], true),
        (&["list", "--kind", "batches", "--state", "failed"], true),
        (&["list", "--kind", "batches", "--state", "completed"], false),
        (&["list", "--kind", "batches", "--tag", "nightly"], false),
        (&["list", "--kind", "chains", "--state", "completed"], true),
    ] {
        let listed = user.motorpool("one", args).await.out;
        let words = if args.contains(&"chains") { ["c1", "2/2"] } else { ["b1", "3/4"] };
        assert_eq!(words.iter().all(|word| listed.contains(word)), is_there, "{args:?}: {listed}");
    }
    end(user).await;
}

#[tokio::test]
async fn a_result_is_rejected_with_another_model_and_then_approved() {
    let user = User::new(Cli::Real).await;
    let submitted =
        user.motorpool("one", &["submit", "--review", "--model", "haiku", "--json", "Draft it.\n@say draft"]).await;
    assert_eq!(submitted.code, Some(0), "{submitted:#?}");
    let done = user.motorpool("one", &["result", "t1", "--wait"]).await;
    assert_done(&done, 0, "draft", &user);
    assert!(done.err.contains("review"), "{}", done.err);
    let rejected = user.motorpool("one", &["reject", "t1", "Make it longer.", "--model", "opus", "--round", "1"]).await;
    assert_eq!(rejected.code, Some(0), "{rejected:#?}");
    assert!(rejected.err.contains("t1 is rejected: done anew as round 2"), "{}", rejected.err);
    let done = user.motorpool("one", &["result", "t1", "--wait"]).await;
    assert_done(&done, 0, "draft", &user);
    let asked = user.api.requests();
    let last = asked.last().unwrap();
    assert!(last.model.contains("opus") && last.mentions("Make it longer."), "{last:#?}");
    let late = user.motorpool("one", &["reject", "t1", "x", "--round", "1"]).await;
    assert_eq!(late.code, Some(6), "{late:#?}");
    assert!(late.err.contains("round 1 of t1 was rejected by"), "{}", late.err);
    let approved = user.motorpool("one", &["approve", "t1", "--json"]).await;
    assert_eq!(approved.json(), json!({"id": "t1", "state": "completed", "round": 2, "again": false}));
    let again = user.motorpool("one", &["approve", "t1"]).await;
    assert!(again.code == Some(0) && again.err.contains("had been said before"), "{again:#?}");
    let log = user.motorpool("one", &["events", "--json"]).await.json();
    let decided =
        |cause: &str| log["items"].as_array().unwrap().iter().find(|it| it["cause"] == cause).unwrap().clone();
    assert_eq!(decided("reject")["why"], "Make it longer.", "{log:#}");
    assert!(decided("approve")["by"].is_string() && decided("approve")["why"] == "", "{log:#}");
    assert!(decided("claim")["by"].is_null(), "{log:#}");
    let log = user.motorpool("one", &["events"]).await.out;
    assert!(log.contains(": \"Make it longer.\"\n"), "{log}");
    end(user).await;
}

#[tokio::test]
async fn work_is_started_as_it_was_classified() {
    let user = User::new(Cli::Real).await;
    let route = json!({"route": "chain", "steps": [
        {"name": "one", "prompt": "First.\n@say 1"}, {"name": "two", "prompt": "Second.\n@say {previous_output}2"},
    ]});
    let prompt = format!("Do both.\n@json {route}");
    let dry = user.motorpool("one", &["auto", "--dry-run", "--json", "--linger", "10m", &prompt]).await;
    assert_eq!(dry.code, Some(0), "{dry:#?}\n{}", user.logs());
    assert_eq!((&dry.json()["route"], &dry.json()["fallback"]), (&json!("chain"), &Value::Null));
    assert_eq!(user.motorpool("one", &["list", "--kind", "chains", "--json"]).await.json()["items"], json!([]));
    let done = user.motorpool("one", &["auto", &prompt]).await;
    assert_done(&done, 0, "12", &user);
    assert!(done.err.contains("c1: a chain of 2: one, two"), "{}", done.err);
    // The classification has no tools, and answers with another model than the work.
    let asked = user.api.requests();
    let first = asked.iter().find(|request| request.mentions("<task>")).unwrap();
    assert!(first.model.contains("haiku"), "{}", first.model);
    let acts = ["Bash", "Read", "Write", "Edit", "Grep", "Glob", "WebFetch", "Task", "Agent"];
    assert!(!first.tools.iter().any(|tool| acts.contains(&tool.as_str())), "{:?}", first.tools);
    // An answer without JSON is one task, and says why.
    let single = user.motorpool("one", &["auto", "Just this.\n@text-instead\n@say done"]).await;
    assert!(single.err.contains("one task, since the classification failed (check"), "{single:#?}");
    end(user).await;
}

#[tokio::test]
async fn cases_are_counted_as_right_wrong_or_unanswered() {
    let user = User::new(Cli::StandIn).await;
    let single = r#"@json {\"route\": \"single\"}"#;
    let cases = format!(
        "- {{label: right, prompt: \"{single}\", expected: single}}\n\
         - {{label: wrong, prompt: \"{single}\", expected: chain}}\n\
         - {{label: whatever, prompt: \"{single}\", expected: any}}\n\
         - {{label: broken, prompt: \"@text-instead\\n@say no\", expected: single}}\n"
    );
    definition(&user, "cases.yaml", &cases);
    let done = user.motorpool("one", &["route-test", "cases.yaml", "--json", "--linger", "10m"]).await;
    let report = done.json();
    assert_eq!(done.code, Some(0), "{report}");
    let counted = [&report["total"], &report["correct"], &report["wrong"], &report["errors"]];
    assert_eq!(counted, [&json!(4), &json!(2), &json!(1), &json!(1)], "{report}");
    let text = user.motorpool("one", &["route-test", "cases.yaml", "--at-least", "90"]).await;
    assert!(text.code == Some(1) && text.out.contains("2 of 3 correct (66.7 %), 1 without an answer"), "{text:#?}");
    assert!(text.out.contains("MISMATCH"), "{}", text.out);
    end(user).await;
}

/// The lines of a document between one that ends with `begin` and one that is `end`.
fn blocks(text: &str, begin: &str, end: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        match &mut open {
            Some(block) if line.trim() == end => blocks.push(std::mem::take(block)),
            Some(block) => {
                block.push_str(line);
                block.push('\n');
                continue;
            }
            None if line.trim_end().ends_with(begin) => open = Some(String::new()),
            None => {}
        }
        if line.trim() == end {
            open = None;
        }
    }
    blocks
}

#[tokio::test]
async fn the_examples_of_the_documents_are_taken() {
    let user = User::new(Cli::StandIn).await;
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let chains = blocks(&std::fs::read_to_string(root.join("docs/chains.md")).unwrap(), "```yaml", "```");
    let readme = blocks(&std::fs::read_to_string(root.join("README.md")).unwrap(), "<<'END'", "END");
    let [chain, fan_out] = &chains[..] else { panic!("{chains:?}") };
    let [steps, many] = &readme[..] else { panic!("{readme:?}") };
    for (n, (verb, text, vars)) in [
        ("chain", chain, &["--var", "team=payments"][..]),
        ("fan-out", fan_out, &[]),
        ("chain", steps, &[]),
        ("fan-out", many, &[]),
    ]
    .into_iter()
    .enumerate()
    {
        // Lines of a page of Markdown are indented.
        let indent =
            text.lines().filter(|line| !line.trim().is_empty()).map(|line| line.len() - line.trim_start().len());
        let indent = indent.min().unwrap_or(0);
        let text: String = text.lines().map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect();
        let name = format!("example-{n}.yaml");
        definition(&user, &name, &text);
        let args = [&[verb, &name, "--detach", "--json", "--slots", "0", "--linger", "10m"][..], vars].concat();
        let done = user.motorpool("one", &args).await;
        assert_eq!(done.code, Some(0), "{text}\n{done:#?}\n{}", user.logs());
        assert!(done.json()["members"].as_array().is_some_and(|members| members.len() >= 2), "{done:#?}");
    }
    end(user).await;
}
