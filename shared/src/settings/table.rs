//! Every setting, one row each: the flag, the variable, the file key, the help and docs/settings.md come from it.
//!
//! A row's name is its flag without dashes; variable (`MOTORPOOL_NAME`) and file key (`name`) follow from it.
//! Not here: where values come from and how they are read (`load.rs`).

use super::value::{EFFORTS, MODES};

/// What a setting's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A name of a pool or lane, as in Redis keys.
    Name,
    /// A name of a slot.
    Slot,
    /// A path; a relative one is relative to the current directory, in a file to that file's directory.
    Path,
    /// A program: a path, or a bare name that is looked up on PATH.
    Program,
    /// A whole number from .0 to .1.
    Count(u32, u32),
    /// A number and a unit (`500ms`, `15s`, `10m`), from .0 to .1 milliseconds.
    Duration(u64, u64),
    /// Names, separated by commas; as a flag also repeated; in a file an array.
    Names,
    /// Labels, written as names are.
    Labels,
    /// Text items, separated by commas; as a flag also repeated; in a file an array.
    List,
    /// Paths, separated by commas; as a flag also repeated; in a file an array.
    Paths,
    /// yes or no; the bare flag is yes.
    Switch,
    /// The address of a Redis, which may hold a password: never printed.
    Url,
    /// An address and a port to listen on, as in `127.0.0.1:8787`.
    Address,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// Which commands a setting belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every command.
    Base,
    /// What starts a pool on this machine: the embedded pool, `up`, `host`.
    Pool,
    /// What runs Claude: workers and their host, and what starts these.
    Worker,
    /// A worker that no host has started.
    Slot,
    /// The HTTP face: `serve` alone.
    Serve,
    /// Defaults of the pool: `serve`, `up`, `host` and `config` alone, since elsewhere the flag is the task's option.
    PoolDefault,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name, in kebab-case: the flag without its dashes.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// The default as a user would write it, or in words in parentheses where it depends on the machine or is nothing.
    pub default: &'static str,
    /// What it is for, in one line.
    pub doc: &'static str,
    /// Which commands it belongs to.
    pub scope: Scope,
    /// Whether `…-file` names a file that holds the value.
    pub file: bool,
}

impl Row {
    /// `--name`.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--{}", self.name)
    }

    /// `MOTORPOOL_NAME`.
    #[must_use]
    pub fn variable(&self) -> String {
        variable(self.name)
    }

    /// The key in `motorpool.toml` and the user's file.
    #[must_use]
    pub fn key(&self) -> String {
        key(self.name)
    }
}

/// The variable of a setting's name.
pub(super) fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_uppercase().replace('-', "_"))
}

/// The file key of a setting's name.
pub(super) fn key(name: &str) -> String {
    name.replace('-', "_")
}

/// How every variable begins.
pub const PREFIX: &str = "MOTORPOOL_";

/// Variables that Motorpool's own programs hand to each other, tests to them, or people to a host for its entry (the
/// token); no setting, and no error where they are found.
pub const INTERNAL_VARIABLES: &[&str] = &[
    "MOTORPOOL_RUN",
    "MOTORPOOL_KEEPER",
    "MOTORPOOL_LAST_WORDS",
    "MOTORPOOL_PROBE_AGAIN_MS",
    "MOTORPOOL_TOKEN",
    "MOTORPOOL_ARRIVES_WITHIN_MS",
];

/// Names that the surface promises and this release does not know yet.
pub const NOT_BUILT: &[&str] = &["mcp-config", "budget-usd", "allow-repo", "allow-check", "config-dir-per-slot"];

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

const fn row(name: &'static str, kind: Kind, default: &'static str, scope: Scope, doc: &'static str) -> Row {
    Row { name, kind, default, doc, scope, file: false }
}

/// The settings, in the order of help and reference.
pub const TABLE: &[Row] = &[
    Row {
        file: true,
        ..row(
            "redis-url",
            Kind::Url,
            "(the project's embedded pool)",
            Scope::Base,
            "Redis that holds the pool: redis://, rediss:// (TLS) or unix://",
        )
    },
    row(
        "pool",
        Kind::Name,
        "default",
        Scope::Base,
        "name of the pool in that Redis; the embedded pool is one per project directory",
    ),
    row(
        "coordinator",
        Kind::Text,
        "(USER@MACHINE:PROJECT)",
        Scope::Base,
        "name under which work is submitted and handed over",
    ),
    row(
        "state-dir",
        Kind::Path,
        "(motorpool in the user's state directory)",
        Scope::Base,
        "root for the embedded pools' data, and files of runs",
    ),
    row(
        "routing-model",
        Kind::Text,
        "haiku",
        Scope::Base,
        "model that decides whether work is one task, several or a chain (auto, route-test)",
    ),
    row("routing-prompt", Kind::Path, "(Motorpool's own)", Scope::Base, "file with another prompt for that decision"),
    row(
        "log",
        Kind::Text,
        "info",
        Scope::Base,
        "what is logged on stderr: a level, or a filter such as motorpool=debug",
    ),
    row("log-format", Kind::Choice(&["text", "json"]), "text", Scope::Base, "form of a log line"),
    row("slots", Kind::Count(0, 1000), "2", Scope::Pool, "workers that a host keeps alive"),
    row("min-slots", Kind::Count(0, 1000), "0", Scope::Pool, "a host is scaled to no fewer workers"),
    row(
        "max-slots",
        Kind::Count(0, 1000),
        "64",
        Scope::Pool,
        "a host is scaled to no more workers; without it --slots may be more",
    ),
    row(
        "max-restarts",
        Kind::Count(0, 1000),
        "10",
        Scope::Pool,
        "a slot whose workers end badly more often within 60 s is given up until the host is told again",
    ),
    row(
        "linger",
        Kind::Duration(0, 365 * DAY_MS),
        "10m",
        Scope::Pool,
        "how long an embedded pool stays with nobody connected and nothing to do",
    ),
    row(
        "drain-timeout",
        Kind::Duration(0, 7 * DAY_MS),
        "60s",
        Scope::Pool,
        "how long running tasks get when a worker or pool ends, before they go back unspent",
    ),
    row(
        "lease",
        Kind::Duration(1_000, 600_000),
        "15s",
        Scope::Pool,
        "how long a silent worker keeps its task; the pool's, set where it has none",
    ),
    row("claude-bin", Kind::Program, "claude", Scope::Worker, "the Claude Code CLI"),
    row("working-dir", Kind::Path, "(the start directory)", Scope::Worker, "directory of tasks that name none"),
    row("lanes", Kind::Names, "default", Scope::Worker, "lanes that a worker serves, in order"),
    row(
        "labels",
        Kind::Labels,
        "(machine:…, host:…, os:…, arch:…)",
        Scope::Worker,
        "what a worker has besides those, for tasks that need it, as in gpu",
    ),
    row(
        "account",
        Kind::Text,
        "(told by the sign-in or the key)",
        Scope::Worker,
        "name of the account that a worker's Claude uses: workers with the same one share its usage limits",
    ),
    row(
        "allow-mode",
        Kind::Choice(MODES),
        "acceptEdits",
        Scope::Worker,
        "highest permission mode that a task may ask for",
    ),
    row(
        "allow-dir",
        Kind::Paths,
        "(the worker's directory)",
        Scope::Worker,
        "directories in and below which tasks may run",
    ),
    row("allow-mcp", Kind::Switch, "yes", Scope::Worker, "whether tasks may bring MCP servers"),
    row("clean-env", Kind::Switch, "no", Scope::Worker, "whether Claude gets only the variables that it needs"),
    row("pass-env", Kind::List, "(none)", Scope::Worker, "further variables that Claude gets under --clean-env"),
    row(
        "slot",
        Kind::Slot,
        "(the machine's name)",
        Scope::Slot,
        "name of the slot that a lone worker fills; a host names those of its workers",
    ),
    row(
        "http",
        Kind::Address,
        "(standard input and output)",
        Scope::Serve,
        "address and port on which the dispatcher serves MCP over HTTP, as in 127.0.0.1:8787",
    ),
    row(
        "token-file",
        Kind::Path,
        "(none: loopback only)",
        Scope::Serve,
        "file of bearer tokens for HTTP, a line each: NAME TOKEN [EXPIRES]; read again at SIGHUP",
    ),
    row(
        "allowed-host",
        Kind::List,
        "(loopback names and the address itself)",
        Scope::Serve,
        "further names by which clients may call the HTTP face (Host)",
    ),
    row(
        "allowed-origin",
        Kind::List,
        "(pages of this machine)",
        Scope::Serve,
        "further web origins whose pages may call the HTTP face (Origin), as in https://example.com",
    ),
    row("model", Kind::Text, "(Claude Code's own)", Scope::PoolDefault, "model of tasks that name none"),
    row("effort", Kind::Choice(EFFORTS), "(Claude Code's own)", Scope::PoolDefault, "effort of tasks that name none"),
    row(
        "permission-mode",
        Kind::Choice(MODES),
        "(plan)",
        Scope::PoolDefault,
        "permission mode of tasks that name none",
    ),
    row(
        "system-prompt",
        Kind::Text,
        "(none)",
        Scope::PoolDefault,
        "text added to Claude Code's system prompt in every task",
    ),
];

/// The row of a name.
#[must_use]
pub fn row_of(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}

/// docs/settings.md, written from the table.
#[must_use]
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "<!-- Written from shared/src/settings/table.rs; a test keeps it fresh. -->\n# Settings\n\n\
         A flag wins over the environment, that over the project's `motorpool.toml`, that over the user's file, that \
         over the default.\nUnknown keys and bad values are errors. An empty variable counts as unset. Lists are \
         separated by commas; a flag may be\nrepeated, a file has an array. Durations have a unit: `500ms`, `15s`, \
         `10m`, `2h`, `1d`;\nwithout one they are seconds. A relative path is relative to the current directory, in a \
         file to that file's directory; `~/` is\nthe home directory.\n",
    );
    for (scope, title, words) in [
        (Scope::Base, "Every command", ""),
        (Scope::Pool, "A pool on this machine", "The embedded pool, `up` and `host`.\n\n"),
        (Scope::Worker, "Workers", "Checked by the worker before Claude starts.\n\n"),
        (Scope::Slot, "A lone worker", "`motorpool-worker` without `host`.\n\n"),
        (Scope::Serve, "The dispatcher over HTTP", "Flags of `serve`.\n\n"),
        (
            Scope::PoolDefault,
            "Defaults of the pool",
            "Of commands that may start or serve a pool; written only where the pool has none. On `run` and `submit` these \
             flags are options of the task.\n\n",
        ),
    ] {
        page.push_str(&format!(
            "\n## {title}\n\n{words}| flag | variable | file | default | meaning |\n|---|---|---|---|---|\n"
        ));
        for row in TABLE.iter().filter(|row| row.scope == scope) {
            page.push_str(&format!(
                "| `{}` | `{}` | `{}` | {} | {} |\n",
                row.flag(),
                row.variable(),
                row.key(),
                default_cell(row),
                meaning_cell(row)
            ));
        }
    }
    page
}

fn default_cell(row: &Row) -> String {
    match row.default.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        Some(words) => words.to_owned(),
        None => format!("`{}`", row.default),
    }
}

fn meaning_cell(row: &Row) -> String {
    let mut cell = row.doc.to_owned();
    if let Kind::Choice(words) = row.kind {
        cell.push_str(&format!(" ({})", words.join(", ")));
    }
    if row.file {
        cell.push_str(&format!(
            ". May stand in a file: `{}-file`, `{}_FILE`, `{}_file`",
            row.flag(),
            row.variable(),
            row.key()
        ));
    }
    cell
}
