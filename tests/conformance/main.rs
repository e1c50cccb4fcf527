//! The official MCP conformance suite against `motorpool serve --http`: `conformance SUITE`, a line for each scenario.
//!
//! The suite is made for servers with fixtures: tools, prompts and resources of fixed names. What needs one cannot
//! succeed here; of those scenarios only this is asked, that every message keeps to the schema. Not here: how the
//! suite comes to the machine (`tests/install-conformance`).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use motorpool_tests::fleet::Cli;
use motorpool_tests::project::User;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

/// How long one revision may take.
const LIMIT: Duration = Duration::from_secs(40);

/// What needs no fixture, by revision of the protocol.
const REVISIONS: [(&str, &[&str]); 2] = [
    (
        "2026-07-28",
        &[
            "server-stateless",
            "completion-complete",
            "tools-list",
            "resources-list",
            "prompts-list",
            "server-sse-multiple-streams",
            "dns-rebinding-protection",
            "caching",
            "http-header-validation",
            "sep-2164-resource-not-found",
        ],
    ),
    (
        "2025-11-25",
        &[
            "server-initialize",
            "server-session-lifecycle",
            "ping",
            "completion-complete",
            "tools-list",
            "resources-list",
            "prompts-list",
            "server-sse-polling",
            "server-sse-multiple-streams",
            "dns-rebinding-protection",
        ],
    ),
];

/// The check that every scenario has.
const SCHEMA: &str = "wire-schema-valid";

/// The checks of each scenario by its name.
type Results = BTreeMap<String, Vec<Value>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(suite) = std::env::args_os().nth(1) else {
        eprintln!("conformance: the suite's program is missing; tests/install-conformance prints its path");
        return ExitCode::from(2);
    };
    let user = User::new(Cli::StandIn).await;
    let mut serving = user
        .command("one", &["serve", "--http=127.0.0.1:0", "--slots=0"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the dispatcher starts");
    let mut lines = BufReader::new(serving.stderr.take().expect("a pipe")).lines();
    let url = loop {
        let line = lines.next_line().await.expect("it can be read").expect("it says where it listens");
        if let Some(url) = line.strip_prefix("serving MCP on ") {
            break url.to_owned();
        }
    };
    // Refusals, most of it; wanted if something is wrong.
    let log = tokio::spawn(async move {
        let mut log = String::new();
        while let Ok(Some(line)) = lines.next_line().await {
            log += &format!("{line}\n");
        }
        log
    });
    let mut all_passed = true;
    for (revision, wanted) in REVISIONS {
        let dir = user.root.path().join(revision);
        match run(Path::new(&suite), revision, &url, &dir).await {
            Ok(results) => all_passed &= judge(revision, wanted, &results),
            Err(words) => {
                println!("{revision}: FAILED: {words}");
                all_passed = false;
            }
        }
    }
    serving.start_kill().expect("it is ours");
    serving.wait().await.expect("it ends");
    if !all_passed {
        println!("the dispatcher's log:\n{}", log.await.expect("it is read to its end"));
    }
    let down = user.motorpool("one", &["down"]).await;
    assert_eq!(down.code, Some(0), "{down:#?}");
    user.until("everything ends", |user| user.processes(&[]).is_empty().then_some(())).await;
    if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs all scenarios of a revision; its exit code says nothing, since some cannot succeed.
async fn run(suite: &Path, revision: &str, url: &str, dir: &Path) -> Result<Results, String> {
    let output = Command::new(suite)
        .args(["server", "--url", url, "--requirements", revision, "--output-dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(LIMIT, output).await.map_err(|_| format!("the suite takes longer than {LIMIT:?}"))?;
    let output = output.map_err(|error| format!("{}: {error}", suite.display()))?;
    let mut results = Results::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // `server-ping-2026-11-26T00-30-37-655Z`
        let Some((name, _)) = name.strip_prefix("server-").and_then(|name| name.split_at_checked(name.len() - 25))
        else {
            continue;
        };
        let text = std::fs::read_to_string(entry.path().join("checks.json")).map_err(|error| error.to_string())?;
        results.insert(name.to_owned(), serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))?);
    }
    if results.is_empty() {
        return Err(format!("the suite did not run: {output:#?}"));
    }
    Ok(results)
}

/// A line for each scenario that is wanted, and one for all others.
fn judge(revision: &str, wanted: &[&str], results: &Results) -> bool {
    let mut all_passed = true;
    for name in wanted {
        let Some(checks) = results.get(*name) else {
            println!("{revision} {name}: FAILED: it did not run");
            all_passed = false;
            continue;
        };
        let wrong: Vec<String> = checks.iter().filter(|check| is_wrong(check)).map(words).collect();
        if wrong.is_empty() {
            let passed = checks.iter().filter(|check| check["status"] == "SUCCESS").count();
            println!("{revision} {name}: ok, {passed} checks");
            // Something has to have been looked at beside the schema.
            all_passed &= passed > 1;
        } else {
            println!("{revision} {name}: FAILED: {}", wrong.join("; "));
            all_passed = false;
        }
    }
    let others: Vec<_> = results.iter().filter(|(name, _)| !wanted.contains(&name.as_str())).collect();
    let mut strays = 0;
    for (name, checks) in &others {
        for check in checks.iter().filter(|check| check["id"] == SCHEMA && check["status"] == "FAILURE") {
            println!("{revision} {name}: FAILED: {}", words(check));
            strays += 1;
        }
    }
    println!(
        "{revision} {} more, which need fixtures: {strays} with messages that do not keep to the schema",
        others.len()
    );
    all_passed &= strays == 0;
    all_passed
}

/// Whether a check tells of a fault; what it had no fixture for, it says.
fn is_wrong(check: &Value) -> bool {
    let is_testable = !check["errorMessage"].as_str().is_some_and(|words| words.starts_with("Not testable: "));
    check["status"] == "FAILURE" && is_testable
}

fn words(check: &Value) -> String {
    let said = check["errorMessage"].as_str().or(check["description"].as_str()).unwrap_or_default();
    format!("{} {}", check["id"].as_str().unwrap_or_default(), said.chars().take(500).collect::<String>())
}
