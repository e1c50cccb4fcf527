//! A user whose Claude Code is a coordinator: trusted projects, the entry that `motorpool mcp-config` prints, and the
//! pool's tools allowed.
//!
//! Not here: terminals (`terminal.rs`), the user and its pools (the harness).

use std::path::{Path, PathBuf};
use std::time::Duration;

use motorpool_tests::fleet::{Cli, PATIENCE, pinned_claude};
use motorpool_tests::project::{Done, User};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::terminal::{ENTER, Terminal};

/// A line for the scripted API: the coordinator's Claude calls this tool of the pool.
pub(crate) fn call(tool: &str, arguments: &Value) -> String {
    format!("@tool mcp__pool__{tool} {arguments}")
}

/// A worker's prompt: it says its words once there is such a file in the project.
pub(crate) fn gated(file: &str, words: &str) -> Value {
    json!({ "prompt": format!("@bash until [ -e {file} ]; do sleep 0.2; done\n@say {words}") })
}

/// A user of the real CLI, whose workers are of this kind.
pub(crate) async fn coordinator(workers: Cli) -> User {
    let mut user = User::new(workers).await;
    // What the CLI asks of the world besides its model, and what it would replace itself with.
    for name in ["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_AUTOUPDATER", "DISABLE_TELEMETRY"] {
        user.env(name, "1");
    }
    user.env("DISABLE_ERROR_REPORTING", "1");
    user.env("TERM", "xterm-256color");
    user
}

/// What a person has answered before: the first steps, the key, the trust in both projects.
pub(crate) fn settle(user: &User) {
    let trusted = json!({ "hasTrustDialogAccepted": true, "hasCompletedProjectOnboarding": true,
        "enabledMcpjsonServers": ["pool"] });
    let projects: serde_json::Map<String, Value> =
        ["one", "two"].map(|name| (user.project(name).display().to_string(), trusted.clone())).into_iter().collect();
    let state = json!({ "hasCompletedOnboarding": true, "theme": "dark", "numStartups": 5, "projects": projects,
        "customApiKeyResponses": { "approved": ["dummy"], "rejected": [] } });
    write(&user.project("home").join(".claude.json"), &state);
}

/// The project's `.mcp.json`, as printed; and its permissions: those that are printed, and these tools.
pub(crate) async fn connect(user: &User, project: &str, allowed: &[&str]) {
    let printed = user.motorpool(project, &["mcp-config", "--json"]).await;
    assert_eq!(printed.code, Some(0), "{printed:#?}");
    write(&user.project(project).join(".mcp.json"), &printed.json());
    let mut rules = rules(&user.motorpool(project, &["mcp-config"]).await);
    let list = rules["permissions"]["allow"].as_array_mut().expect("a list of rules");
    list.extend(allowed.iter().map(|tool| json!(format!("mcp__pool__{tool}"))));
    // In `auto`, which may be the default, what no rule allows is asked of a service.
    rules["permissions"]["defaultMode"] = "default".into();
    let dir = user.project(project).join(".claude");
    std::fs::create_dir_all(&dir).expect("a directory in the project");
    write(&dir.join("settings.json"), &rules);
}

/// The settings that `motorpool mcp-config` prints.
pub(crate) fn rules(printed: &Done) -> Value {
    let at = printed.out.find("{\n  \"permissions\"").unwrap_or_else(|| panic!("no rules: {printed:#?}"));
    serde_json::from_str(&printed.out[at..]).unwrap_or_else(|error| panic!("{error}: {printed:#?}"))
}

fn write(path: &Path, value: &Value) {
    std::fs::write(path, format!("{value:#}\n")).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// One prompt in print mode.
pub(crate) async fn print(user: &User, claude: &Path, project: &str, args: &[&str], prompt: &str) -> Done {
    let mut all = vec!["-p", "--output-format", "json"];
    all.extend(args);
    let mut command = user.program(claude, project, &all);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(prompt.as_bytes()).await.expect("it reads its prompt");
    drop(stdin);
    // Two programs start one after the other.
    let output = tokio::time::timeout(2 * PATIENCE, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("it hangs\n{}", user.logs())).expect("its output");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// An interactive session in project `one`.
pub(crate) struct Session(pub(crate) Terminal);

impl Session {
    /// Starts one and waits until it takes a prompt.
    pub(crate) async fn start(user: &User, args: &[&str]) -> Self {
        let terminal = Terminal::start(&pinned_claude(), |command| {
            command.args(args).env_clear().envs(user.variables()).current_dir(user.project("one"))
        });
        let mut session = Self(terminal);
        session.0.shows("❯").await;
        session
    }

    /// Gives it a prompt of several lines.
    pub(crate) async fn say(&mut self, prompt: &str) {
        self.0.press(&format!("\x1b[200~{prompt}\x1b[201~")).await;
        let last = prompt.lines().last().unwrap_or_default();
        self.0.until(prompt, |screen| screen.contains(last) || screen.contains("[Pasted text")).await;
        self.0.press(ENTER).await;
    }

    /// Leaves it, whatever is under way.
    pub(crate) async fn quit(mut self, warns: bool) {
        self.0.press("/exit").await;
        self.0.shows("❯ /exit").await;
        self.0.press(ENTER).await;
        if warns {
            self.0.shows("Background work is running").await;
            self.0.press(ENTER).await;
        }
        assert_eq!(self.0.ended().await, Some(0));
    }
}

/// Opens the gate of a worker's prompt.
pub(crate) fn open(user: &User, file: &str) {
    std::fs::write(user.project("one").join(file), "").expect("a file in the project");
}

/// Waits until a task is in a state; gives its record.
pub(crate) async fn reaches(user: &User, id: &str, state: &str) -> Value {
    let mut seen = Value::Null;
    for _ in 0..300 {
        seen = user.motorpool("one", &["show", id, "--json"]).await.json();
        if seen["state"] == state {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("{id} is not {state}: {seen:#}\n{}", user.logs())
}

/// Ends the pool; nothing of the user may be left.
pub(crate) async fn end(user: &User) {
    let done = user.motorpool("one", &["down"]).await;
    assert_eq!(done.code, Some(0), "{done:#?}");
    user.until("everything ends", |user| user.processes(&[]).is_empty().then_some(())).await;
}

/// A script of this user; gives its path.
pub(crate) fn script(user: &User, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = user.project("home").join(name);
    std::fs::write(&path, text).expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    path
}
