//! Coordinators for tests: clients of `motorpool serve`, written by hand, so that what goes over the wire is what a
//! test says. In both eras of the protocol: sessions begun with `initialize`, and requests that say all themselves.
//!
//! Not here: the pipes (`stdio.rs`), the sockets (`http.rs`).

pub mod http;
pub mod stdio;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Map, Value, json};
use tokio::process::Command;

use crate::fleet::{Fleet, program};

/// The version of the stateless era.
pub const MODERN: &str = "2026-07-28";
/// The last version with sessions.
pub const LEGACY: &str = "2025-11-25";
/// The extension that turns a blocking call into a task of the protocol.
pub const TASKS: &str = "io.modelcontextprotocol/tasks";

/// How a connection begins, and what each request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// `initialize`, then a session.
    Legacy,
    /// `server/discover`, then requests that carry version, name and capabilities themselves.
    Modern,
}

/// Both of them.
pub const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

impl Era {
    /// Its version of the protocol.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Self::Legacy => LEGACY,
            Self::Modern => MODERN,
        }
    }
}

/// What a client says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its era.
    pub era: Era,
    /// Whether it can follow tasks of the protocol.
    pub tasks: bool,
}

impl From<Era> for Host {
    fn from(era: Era) -> Self {
        Self { era, tasks: false }
    }
}

impl Host {
    /// One of the stateless era that follows tasks.
    pub const FOLLOWING: Self = Self { era: Era::Modern, tasks: true };

    fn capabilities(self) -> Value {
        if self.tasks { json!({"extensions": {TASKS: {}}}) } else { json!({}) }
    }

    /// What opens a session.
    #[must_use]
    pub fn initialize(self) -> Value {
        json!({"protocolVersion": LEGACY, "capabilities": self.capabilities(),
            "clientInfo": {"name": "by-hand", "version": "1"}})
    }

    /// The parameters of a request, with what this era adds.
    #[must_use]
    pub fn params(self, mut params: Value) -> Value {
        if self.era == Era::Modern
            && let Some(object) = params.as_object_mut()
        {
            let meta = object.entry("_meta").or_insert_with(|| Map::new().into());
            if let Some(meta) = meta.as_object_mut() {
                meta.insert("io.modelcontextprotocol/protocolVersion".into(), MODERN.into());
                meta.insert("io.modelcontextprotocol/clientInfo".into(), json!({"name": "by-hand", "version": "1"}));
                meta.insert("io.modelcontextprotocol/clientCapabilities".into(), self.capabilities());
            }
        }
        params
    }

    /// A whole request.
    #[must_use]
    pub fn request(self, id: u64, method: &str, params: Value) -> Value {
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": self.params(params)})
    }
}

/// What a request was answered with: its result, or the error of the protocol.
pub type Answer = Result<Value, Value>;

/// The answer that a message is.
pub(crate) fn answer_of(message: &Value) -> Option<Answer> {
    match (message.get("result"), message.get("error")) {
        (Some(result), None) => Some(Ok(result.clone())),
        (None, Some(error)) => Some(Err(error.clone())),
        _ => None,
    }
}

/// What a tool has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its words.
    pub text: String,
    /// Whether they tell of a failure.
    pub is_error: bool,
}

impl Told {
    /// A tool's result in either era.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    pub fn of(result: &Value) -> Self {
        let content = result["content"].as_array().unwrap_or_else(|| panic!("no content: {result}"));
        let [one] = &content[..] else { panic!("not one piece of content: {result}") };
        assert_eq!(one["type"], "text", "{result}");
        let kind = &result["resultType"];
        assert!(kind.is_null() || kind == "complete", "{result}");
        let text = one["text"].as_str().unwrap_or_else(|| panic!("no text: {result}")).to_owned();
        Self { text, is_error: result["isError"] == true }
    }

    /// Its words, where they tell of no failure.
    ///
    /// # Panics
    /// They do.
    #[track_caller]
    pub fn good(self) -> String {
        assert!(!self.is_error, "{}", self.text);
        self.text
    }

    /// Its words, where they tell of a failure.
    ///
    /// # Panics
    /// They do not.
    #[track_caller]
    pub fn bad(self) -> String {
        assert!(self.is_error, "no failure: {}", self.text);
        self.text
    }

    /// Its words as JSON.
    ///
    /// # Panics
    /// They are none.
    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

/// Logs of dispatchers, told apart.
static LOGS: AtomicU32 = AtomicU32::new(0);

impl Fleet {
    /// A dispatcher that is not started yet, and where it will log: `serve` with the fleet's environment, its input
    /// closed.
    #[must_use]
    pub fn dispatcher(&self, args: &[&str]) -> (Command, PathBuf) {
        let log = self.path(&format!("serve-{}.log", LOGS.fetch_add(1, Ordering::Relaxed)));
        let file = std::fs::File::create(&log).expect("a log");
        let mut command = Command::new(program("motorpool"));
        command.arg("serve").args(args).env_clear().envs(self.variables(&[])).current_dir(&self.work);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).kill_on_drop(true);
        (command, log)
    }

    /// How much was ever written into the fleet's Redis: a call that writes nothing leaves it as it is.
    pub async fn writes(&self) -> u64 {
        writes(&mut self.redis().await).await
    }
}

/// The same over a connection that is kept.
pub async fn writes(connection: &mut redis::aio::MultiplexedConnection) -> u64 {
    let info: String = redis::cmd("INFO").arg("persistence").query_async(connection).await.expect("Redis answers");
    let count = info.lines().find_map(|line| line.strip_prefix("rdb_changes_since_last_save:"));
    count.and_then(|count| count.trim().parse().ok()).expect("a count of changes")
}
