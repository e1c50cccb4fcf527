//! From flags, environment and files to [`Settings`]: a flag wins over the environment, that over the files.
//!
//! Everything given is checked, also what something else overrides; an error names place, key and what would do.
//! Not here: the settings there are (`table.rs`), what a text means (`value.rs`).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::table::{self, INTERNAL_VARIABLES, Kind, NOT_BUILT, PREFIX, Row, TABLE, row_of};
use super::value::{self, Bad, RedisUrl};
use crate::error::{Error, Result, nearest};

/// What a face found: command line, environment, files, and who and where the user is.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Flags without their dashes, with all their values; a bare switch has one empty value.
    pub flags: BTreeMap<String, Vec<String>>,
    /// The environment; only what begins with [`PREFIX`] is looked at.
    pub env: BTreeMap<String, String>,
    /// `motorpool.toml` in the project directory; it need not exist.
    pub project_file: Option<PathBuf>,
    /// The user's own file; it need not exist.
    pub user_file: Option<PathBuf>,
    /// The home directory, for `~/`.
    pub home: Option<PathBuf>,
    /// The user's state directory (`$XDG_STATE_HOME`, else `~/.local/state`).
    pub state_home: PathBuf,
    /// The user's runtime directory (`$XDG_RUNTIME_DIR`), where there is one.
    pub runtime_dir: Option<PathBuf>,
    /// The directory of temporary files.
    pub temp_dir: PathBuf,
    /// The user's name.
    pub user: String,
    /// The machine's name.
    pub machine: String,
    /// The project's directory, see [`super::project_dir`].
    pub project_dir: PathBuf,
    /// Where the program was called.
    pub current_dir: PathBuf,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Defaults of the pool's tasks; `None`: the pool's own, or Claude Code's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolDefaults {
    /// The model.
    pub model: Option<String>,
    /// One of [`super::EFFORTS`].
    pub effort: Option<String>,
    /// One of [`super::MODES`].
    pub permission_mode: Option<String>,
    /// Text added to Claude Code's system prompt.
    pub system_prompt: Option<String>,
}

/// All settings, with their types. Fields are named as the rows of the table.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Redis; `None`: the project's embedded pool.
    pub redis_url: Option<RedisUrl>,
    /// The pool's name.
    pub pool: String,
    /// The name under which work is submitted.
    pub coordinator: String,
    /// Root of what this machine keeps.
    pub state_dir: PathBuf,
    /// The model that decides how work is done.
    pub routing_model: String,
    /// The file of another prompt for that.
    pub routing_prompt: Option<PathBuf>,
    /// Log filter.
    pub log: String,
    /// Form of a log line.
    pub log_format: LogFormat,
    /// Workers that a host keeps alive.
    pub slots: u32,
    /// It is scaled to no fewer.
    pub min_slots: u32,
    /// It is scaled to no more.
    pub max_slots: u32,
    /// Bad ends of a slot's workers within a minute that are borne.
    pub max_restarts: u32,
    /// The slot of a lone worker.
    pub slot: Option<String>,
    /// How long an idle embedded pool stays.
    pub linger: Duration,
    /// How long running tasks get at the end.
    pub drain_timeout: Duration,
    /// How long a silent worker keeps its task.
    pub lease: Duration,
    /// The Claude Code CLI; a bare name is looked up on PATH.
    pub claude_bin: PathBuf,
    /// Directory of tasks that name none.
    pub working_dir: PathBuf,
    /// Lanes that a worker serves, in order.
    pub lanes: Vec<String>,
    /// Labels of a worker besides its own.
    pub labels: Vec<String>,
    /// The name of a worker's account.
    pub account: Option<String>,
    /// Highest permission mode that a task may ask for: one of [`super::MODES`].
    pub allow_mode: String,
    /// Where tasks may run; empty: in and below the worker's directory.
    pub allow_dir: Vec<PathBuf>,
    /// Whether tasks may bring MCP servers.
    pub allow_mcp: bool,
    /// Whether Claude gets only the variables that it needs.
    pub clean_env: bool,
    /// Further variables that Claude gets then.
    pub pass_env: Vec<String>,
    /// Where the dispatcher serves HTTP; nothing: standard input and output.
    pub http: Option<SocketAddr>,
    /// The file of bearer tokens for HTTP.
    pub token_file: Option<PathBuf>,
    /// Further names by which clients may call the HTTP face.
    pub allowed_host: Vec<String>,
    /// Further web origins whose pages may call it.
    pub allowed_origin: Vec<String>,
    /// Defaults of the pool's tasks.
    pub defaults: PoolDefaults,
    origins: BTreeMap<&'static str, String>,
}

impl Settings {
    /// Where the value of a setting came from, for messages: `--slots`, `MOTORPOOL_SLOTS`, `slots in FILE`, or
    /// `the default`.
    #[must_use]
    pub fn origin(&self, name: &str) -> &str {
        self.origins.get(name).map_or("the default", String::as_str)
    }
}

/// The values of one setting as one source has them.
#[derive(Clone, Debug)]
struct Given {
    /// One text; several for lists.
    texts: Vec<String>,
    /// Where they stand.
    origin: String,
    /// What relative paths are relative to.
    base: PathBuf,
}

/// Settings of one source, by name (`…-file` already read).
type Level = BTreeMap<&'static str, Given>;

/// Reads all sources.
///
/// # Errors
/// Of kind usage: an unknown key, flag or `MOTORPOOL_*` variable, a bad value, a file that cannot be read.
pub fn load(sources: &Sources) -> Result<Settings> {
    let mut levels = vec![from_flags(sources)?, from_env(sources)?];
    for file in [&sources.project_file, &sources.user_file].into_iter().flatten() {
        levels.push(from_file(file, sources)?);
    }
    let mut first = Level::new();
    for level in levels {
        for (name, given) in level {
            first.entry(name).or_insert(given);
        }
    }
    Ok(settings(sources, &first))
}

fn from_flags(sources: &Sources) -> Result<Level> {
    let mut level = Level::new();
    for (name, values) in &sources.flags {
        let texts = values.iter().flat_map(|value| split(name, value)).collect();
        let given = Given { texts, origin: format!("--{name}"), base: sources.current_dir.clone() };
        add(&mut level, name, given, sources, |name| format!("--{name}"))?;
    }
    Ok(level)
}

fn from_env(sources: &Sources) -> Result<Level> {
    let mut level = Level::new();
    for (variable, value) in &sources.env {
        let Some(rest) = variable.strip_prefix(PREFIX) else { continue };
        if value.is_empty() || INTERNAL_VARIABLES.contains(&variable.as_str()) {
            continue;
        }
        let name = rest.to_lowercase().replace('_', "-");
        let given = Given { texts: split(&name, value), origin: variable.clone(), base: sources.current_dir.clone() };
        add(&mut level, &name, given, sources, table::variable)?;
    }
    Ok(level)
}

fn from_file(file: &Path, sources: &Sources) -> Result<Level> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Level::new()),
        Err(error) => return Err(Error::usage(format!("cannot read {}: {error}", file.display()))),
    };
    // Without the parser's picture of the line: the line may hold a password.
    let table = text.parse::<toml::Table>().map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        Error::usage(format!("{} is not TOML, line {line}: {}", file.display(), error.message()))
    })?;
    let base = file.parent().unwrap_or(Path::new("/")).to_owned();
    let mut level = Level::new();
    for (key, value) in table {
        let origin = format!("{key} in {}", file.display());
        // A name with dashes would be found below, but only one spelling is a key.
        let name = if key.contains('-') { key.clone() + "?" } else { key.replace('_', "-") };
        let texts = file_texts(&name, value).map_err(|bad| refusal(&origin, bad))?;
        let given = Given { texts, origin, base: base.clone() };
        add(&mut level, &name, given, sources, table::key)?;
    }
    Ok(level)
}

/// A file's value as texts. Numbers and switches may be written as such.
fn file_texts(name: &str, value: toml::Value) -> Result<Vec<String>, Bad> {
    let kind = row_of(name).map(|row| row.kind);
    let list = matches!(kind, Some(Kind::Names | Kind::Labels | Kind::List | Kind::Paths));
    match value {
        toml::Value::String(text) => Ok(split(name, &text)),
        toml::Value::Integer(number) => Ok(vec![number.to_string()]),
        toml::Value::Boolean(yes) => Ok(vec![yes.to_string()]),
        toml::Value::Array(items) if list => items
            .into_iter()
            .map(|item| match item {
                toml::Value::String(text) => Ok(text),
                _ => Err(Bad { what: "has an item that is no text".into(), hint: "put each in quotes".into() }),
            })
            .collect(),
        // An unknown or unbuilt name is refused for its name, not for its value.
        _ if kind.is_none() => Ok(vec![]),
        _ => Err(Bad { what: "has the wrong type".into(), hint: "write one value in quotes".into() }),
    }
}

/// Lists are separated by commas; everything else is one text.
fn split(name: &str, text: &str) -> Vec<String> {
    match row_of(name).map(|row| row.kind) {
        Some(Kind::Names | Kind::Labels | Kind::List | Kind::Paths) => {
            text.split(',').map(|item| item.trim().to_owned()).collect()
        }
        _ => vec![text.to_owned()],
    }
}

/// Checks what one source gives under one name and adds it; `spell` is how this source writes a name.
fn add(level: &mut Level, name: &str, given: Given, sources: &Sources, spell: impl Fn(&str) -> String) -> Result<()> {
    let (row, given) = match (row_of(name), name.strip_suffix("-file").and_then(row_of)) {
        (Some(row), _) => (row, given),
        (None, Some(row)) if row.file => (row, read_value(given, sources)?),
        _ => return Err(unknown(name, &given.origin, spell)),
    };
    let list = matches!(row.kind, Kind::Names | Kind::Labels | Kind::List | Kind::Paths);
    if !list && given.texts.len() != 1 {
        let bad = Bad { what: "is given more than once".into(), hint: "give it once".into() };
        return Err(refusal(&given.origin, bad));
    }
    for text in &given.texts {
        value::check(row.kind, text).map_err(|bad| refusal(&shown(row, text, &given.origin), bad))?;
    }
    if let Some(other) = level.get(row.name) {
        return Err(Error::usage(format!("both {} and {} are given", other.origin, given.origin)).hint("keep one"));
    }
    level.insert(row.name, given);
    Ok(())
}

/// Origin and value, where the value is no secret.
fn shown(row: &Row, text: &str, origin: &str) -> String {
    if row.kind == Kind::Url { origin.to_owned() } else { format!("{origin}: {text:?}") }
}

fn refusal(what: &str, bad: Bad) -> Error {
    Error::usage(format!("{what} {}", bad.what)).hint(bad.hint)
}

/// `…-file`: the value is what the named file holds, without the newline at its end.
fn read_value(given: Given, sources: &Sources) -> Result<Given> {
    let file = path(&given.texts.concat(), &given.base, sources);
    let text = std::fs::read_to_string(&file)
        .map_err(|error| Error::usage(format!("{}: cannot read {}: {error}", given.origin, file.display())))?;
    Ok(Given { texts: vec![text.trim_end_matches(['\n', '\r']).to_owned()], ..given })
}

fn unknown(name: &str, origin: &str, spell: impl Fn(&str) -> String) -> Error {
    let plain = name.trim_end_matches('?');
    if NOT_BUILT.contains(&plain) {
        return Error::usage(format!("{origin} is not built yet")).hint("leave it out in this release");
    }
    let files: Vec<String> = TABLE.iter().filter(|row| row.file).map(|row| format!("{}-file", row.name)).collect();
    let known = TABLE.iter().map(|row| row.name).chain(files.iter().map(String::as_str));
    let error = Error::usage(format!("{origin} is no setting"));
    match nearest(plain, known) {
        Some(near) => error.hint(format!("did you mean {}?", spell(near))),
        None => error.hint("docs/settings.md lists them all"),
    }
}

/// A path as given, relative to where it stands.
fn path(text: &str, base: &Path, sources: &Sources) -> PathBuf {
    match (text.strip_prefix("~/"), &sources.home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => base.join(text),
    }
}

/// The typed settings. Every text was checked before, so what cannot be read here falls back to the default's text.
fn settings(sources: &Sources, given: &Level) -> Settings {
    let find = |name: &str| given.get(name);
    let text = |name: &str| find(name).and_then(|given| given.texts.first().cloned());
    let text_or_default = |name: &str| text(name).unwrap_or_else(|| default_of(name));
    let count = |name: &str| text_or_default(name).parse::<u32>().unwrap_or_default();
    let duration = |name: &str| value::duration(&text_or_default(name)).unwrap_or_default();
    let switch = |name: &str| value::switch(&text_or_default(name)).unwrap_or_default();
    let one_path =
        |name: &str| find(name).and_then(|given| given.texts.first().map(|text| path(text, &given.base, sources)));
    let list = |name: &str| find(name).map(|given| given.texts.clone()).unwrap_or_default();

    Settings {
        redis_url: text("redis-url").map(RedisUrl::new),
        pool: text_or_default("pool"),
        coordinator: text("coordinator")
            .unwrap_or_else(|| super::default_coordinator(&sources.user, &sources.machine, &sources.project_dir)),
        state_dir: one_path("state-dir").unwrap_or_else(|| sources.state_home.join("motorpool")),
        routing_model: text_or_default("routing-model"),
        routing_prompt: one_path("routing-prompt"),
        log: text_or_default("log"),
        log_format: if text_or_default("log-format") == "json" { LogFormat::Json } else { LogFormat::Text },
        slots: count("slots"),
        min_slots: count("min-slots"),
        max_slots: count("max-slots"),
        max_restarts: count("max-restarts"),
        slot: text("slot"),
        account: text("account"),
        linger: duration("linger"),
        drain_timeout: duration("drain-timeout"),
        lease: duration("lease"),
        // A bare name stays one: it is looked up on PATH when it is started.
        claude_bin: match find("claude-bin").and_then(|given| given.texts.first().map(|text| (text, &given.base))) {
            Some((text, base)) if text.contains('/') => path(text, base, sources),
            _ => text_or_default("claude-bin").into(),
        },
        working_dir: one_path("working-dir").unwrap_or_else(|| sources.current_dir.clone()),
        lanes: find("lanes").map_or_else(|| vec![default_of("lanes")], |given| given.texts.clone()),
        labels: list("labels"),
        allow_mode: text_or_default("allow-mode"),
        allow_dir: find("allow-dir")
            .map(|given| given.texts.iter().map(|text| path(text, &given.base, sources)).collect())
            .unwrap_or_default(),
        allow_mcp: switch("allow-mcp"),
        clean_env: switch("clean-env"),
        pass_env: list("pass-env"),
        http: text("http").and_then(|text| value::address(&text).ok()),
        token_file: one_path("token-file"),
        allowed_host: list("allowed-host"),
        allowed_origin: list("allowed-origin"),
        defaults: PoolDefaults {
            model: text("model"),
            effort: text("effort"),
            permission_mode: text("permission-mode"),
            system_prompt: text("system-prompt"),
        },
        origins: given.iter().map(|(name, given)| (*name, given.origin.clone())).collect(),
    }
}

fn default_of(name: &str) -> String {
    row_of(name).map(|row| row.default.to_owned()).unwrap_or_default()
}
