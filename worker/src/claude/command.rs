//! How Claude is called: from the merged options of a task to arguments, environment and first lines of input.
//!
//! Pure. No text of a prompt, system prompt or schema is in the arguments: they go over stdin. Not here: the file
//! with the MCP servers (`mcp.rs`), starting the process (`attempt/drive.rs`).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use motorpool::domain::merge;
use motorpool::domain::options::TaskOptions;
use serde_json::{Map, Value, json};

/// Environment variables by name.
pub type Environment = BTreeMap<OsString, OsString>;

/// The variable that marks every process of a run: `POOLID/TASK/RUN`.
pub const RUN_MARK: &str = "MOTORPOOL_RUN";

/// The id of the `initialize` request.
pub const INITIALIZE: &str = "initialize";

/// Variables that carry the credentials of a Redis.
const REDIS: &[&str] = &[
    "REDIS_URL",
    "REDIS_URI",
    "REDIS_TLS_URL",
    "REDISCLI_AUTH",
    "REDIS_AUTH",
    "REDIS_PASS",
    "REDIS_PASSWORD",
    "REDIS_USERNAME",
    "VALKEY_URL",
    "VALKEYCLI_AUTH",
    "VALKEY_PASSWORD",
];

/// What a Claude session sets for its tools; with them a worker's Claude would take itself for a part of that session.
const SESSION: &[&str] = &[
    "AI_AGENT",
    "CLAUDECODE",
    "CLAUDE_CODE_CHILD_NOTES_DIR",
    "CLAUDE_CODE_CHILD_SESSION",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_EXECPATH",
    "CLAUDE_CODE_MESSAGING_SOCKET",
    "CLAUDE_CODE_MESSAGING_TOKEN",
    "CLAUDE_CODE_PARENT_SESSION_ID",
    "CLAUDE_CODE_SESSION_ATTENDED",
    "CLAUDE_CODE_SESSION_ID",
    "CLAUDE_CODE_SSE_PORT",
    "CLAUDE_EFFORT",
    "CLAUDE_ENV_FILE",
    "CLAUDE_PID",
    "CLAUDE_PLUGIN_ROOT",
    "CLAUDE_PROJECT_DIR",
];

/// What `--clean-env` keeps by name.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TERM",
    "TMPDIR",
    "CLOUD_ML_REGION",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
];

/// What `--clean-env` keeps by the beginning of the name.
const KEPT_PREFIXES: &[&str] =
    &["LC_", "XDG_", "ANTHROPIC_", "CLAUDE_", "DISABLE_", "AWS_", "AZURE_", "GCLOUD_", "GOOGLE_CLOUD_", "VERTEX_"];

/// What is set unless the worker's environment says otherwise: no side requests, no update under a running task, and
/// few retries, since waiting is the queue's business, where the slot is free for others.
const DEFAULTS: &[(&str, &str)] = &[
    ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
    ("DISABLE_AUTOUPDATER", "1"),
    ("CLAUDE_CODE_MAX_RETRIES", "2"),
];

/// What of the worker's environment a task gets.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Keep only what Claude and its tools need.
    pub clean: bool,
    /// Names that pass in any case, `MOTORPOOL_*` excepted.
    pub pass: Vec<String>,
    /// Secrets of the worker itself: a variable that holds one is dropped, whatever its name.
    pub secrets: Vec<String>,
}

/// The environment of every CLI that this worker starts, without the mark of a run.
#[must_use]
pub fn environment(own: &Environment, filter: &Filter) -> Environment {
    let mut env: Environment = own
        .iter()
        .filter(|(name, value)| passes(name, value, filter))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (name, value) in DEFAULTS {
        let slot = env.entry(name.into()).or_default();
        if slot.is_empty() {
            *slot = value.into();
        }
    }
    env
}

fn passes(name: &OsStr, value: &OsStr, filter: &Filter) -> bool {
    let name = name.to_string_lossy();
    let name = name.as_ref();
    if name.starts_with("MOTORPOOL_") {
        return false;
    }
    if filter.pass.iter().any(|one| one == name) {
        return true;
    }
    let value = value.to_string_lossy();
    if REDIS.contains(&name)
        || SESSION.contains(&name)
        || filter.secrets.iter().any(|secret| !secret.is_empty() && value.contains(secret.as_str()))
    {
        return false;
    }
    !filter.clean || KEPT.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Where and as what a task runs.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// The CLI.
    pub claude: &'a Path,
    /// The directory it works in.
    pub cwd: &'a Path,
    /// The file with the MCP servers, where there are any (`mcp.rs`).
    pub mcp_config: Option<&'a Path>,
    /// What [`environment`] gave.
    pub env: &'a Environment,
    /// `POOLID/TASK/RUN`.
    pub run: &'a str,
    /// What the pool adds to the system prompt (identity, context, messages); may be empty.
    pub addition: &'a str,
    /// The session that it goes on with.
    pub session: Option<&'a Session>,
}

/// A session that a run goes on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// It is another task's: what is said from here on is a branch of its own.
    pub is_branch: bool,
}

/// A call of the CLI, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The CLI.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Environment,
    /// Its directory.
    pub cwd: PathBuf,
    /// The value of [`RUN_MARK`] in `env`.
    pub run: String,
    /// What is written to its stdin at once: the `initialize` line and the prompt's.
    pub input: String,
    /// A structured result was asked for.
    pub structured: bool,
}

/// The call that runs `prompt` with these merged options at this place.
#[must_use]
pub fn command(options: &TaskOptions, prompt: &str, place: &Place<'_>) -> Command {
    let mut env = place.env.clone();
    env.insert(RUN_MARK.into(), place.run.into());
    Command {
        program: place.claude.to_owned(),
        args: args(options, place),
        env,
        cwd: place.cwd.to_owned(),
        run: place.run.to_owned(),
        input: format!("{}\n{}\n", initialize(options, place.addition), user(prompt)),
        structured: options.json_schema.is_some(),
    }
}

fn args(options: &TaskOptions, place: &Place<'_>) -> Vec<OsString> {
    // Partial messages: without them live output comes a whole answer at a time, and the output tokens of an answer
    // are never told before the result.
    let mut args: Vec<OsString> = [
        "-p",
        "--input-format",
        "stream-json",
        "--output-format",
        "stream-json",
        "--verbose",
        "--include-partial-messages",
    ]
    .iter()
    .map(OsString::from)
    .collect();
    let mut flag = |name: &str, values: &[String]| {
        args.push(name.into());
        args.extend(values.iter().map(OsString::from));
    };
    if let Some(model) = &options.model {
        flag("--model", std::slice::from_ref(model));
    }
    if let Some(model) = &options.fallback_model {
        flag("--fallback-model", std::slice::from_ref(model));
    }
    if let Some(effort) = options.effort {
        flag("--effort", &[effort.to_string()]);
    }
    flag("--permission-mode", &[merge::permission_mode(options).to_string()]);
    if let Some(turns) = options.max_turns {
        flag("--max-turns", &[turns.to_string()]);
    }
    if let Some(budget) = options.max_budget_usd {
        flag("--max-budget-usd", &[budget.to_string()]);
    }
    if !options.allowed_tools.is_empty() {
        flag("--allowedTools", &options.allowed_tools);
    }
    if !options.disallowed_tools.is_empty() {
        flag("--disallowedTools", &options.disallowed_tools);
    }
    match options.tools.as_deref() {
        // The CLI's word for "no tools at all".
        Some([]) => flag("--tools", &[String::new()]),
        Some(tools) => flag("--tools", tools),
        None => {}
    }
    if options.strict_mcp_config.unwrap_or(true) {
        flag("--strict-mcp-config", &[]);
    }
    if let Some(session) = place.session {
        flag("--resume", std::slice::from_ref(&session.id));
        if session.is_branch {
            flag("--fork-session", &[]);
        }
    }
    if let Some(path) = place.mcp_config {
        args.push("--mcp-config".into());
        args.push(path.into());
    }
    args
}

fn initialize(options: &TaskOptions, addition: &str) -> Value {
    let mut request = Map::new();
    request.insert("subtype".into(), "initialize".into());
    request.insert("hooks".into(), Value::Null);
    let parts = [addition, options.system_prompt.as_deref().unwrap_or_default()];
    let appended = parts.iter().filter(|part| !part.trim().is_empty()).copied().collect::<Vec<_>>().join("\n\n");
    if !appended.is_empty() {
        request.insert("appendSystemPrompt".into(), appended.into());
    }
    if let Some(text) = &options.replace_system_prompt {
        request.insert("systemPrompt".into(), text.as_str().into());
    }
    if let Some(schema) = &options.json_schema {
        request.insert("jsonSchema".into(), schema.clone());
    }
    json!({"type": "control_request", "request_id": INITIALIZE, "request": request})
}

fn user(prompt: &str) -> Value {
    let mut content = vec![json!({"type": "text", "text": prompt})];
    if prompt.trim_start().starts_with('/') {
        // Alone it would be a command of the CLI (`/cost`, `/compact`). A second block makes it text for Claude, and
        // an empty one is not sent on. Seen in 2.1.197 and 2.1.330.
        content.push(json!({"type": "text", "text": ""}));
    }
    json!({"type": "user", "message": {"role": "user", "content": content}})
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
