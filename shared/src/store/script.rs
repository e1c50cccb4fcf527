//! Scripts: assembled from their parts, sent, and their replies read.
//!
//! A script is addressed by its content, so two versions of Motorpool share a pool during an upgrade.

use std::collections::HashMap;
use std::sync::LazyLock;

use redis::aio::ConnectionLike;
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

use super::keys::{Keys, names_lua};
use crate::domain::ids::GroupId;
use crate::error::Error;

macro_rules! lua {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("lua/", $name, ".lua")))),*] };
}

const SCRIPTS: &[(&str, &str)] = lua![
    "submit", "claim", "beat", "finish", "step", "cancel", "presence", "host", "scale", "set", "sweep", "check",
    "lane", "seen", "judge",
];
const PARTS: &[(&str, &str)] = lua![
    "parts/clock",
    "parts/text",
    "parts/schema",
    "parts/pool",
    "parts/slot",
    "parts/event",
    "parts/lane",
    "parts/fence",
    "parts/ids",
    "parts/again",
    "parts/books",
    "parts/begin",
    "parts/account",
    "parts/settle",
    "parts/after",
    "parts/opening",
    "parts/stop",
    "parts/lost",
    "parts/repair",
    "parts/retire",
];

/// In tests the clock of a pool can be moved, and stopped.
const STEERED: &str = "now_ms = tonumber(redis.call('GET', KEYS[1] .. 'test:stopped')\n\
    \x20 or now_ms + tonumber(redis.call('GET', KEYS[1] .. 'test:clock') or '0'))\n";

/// A script ready to be sent, with the origin of each of its lines.
struct Assembled {
    script: redis::Script,
    lines: Vec<(String, usize)>,
}

static ASSEMBLED: LazyLock<HashMap<&'static str, Assembled>> = LazyLock::new(|| {
    SCRIPTS
        .iter()
        .map(|(name, source)| {
            let assembled = assemble(name, source, cfg!(test)).unwrap_or_else(|problem| panic!("{problem}"));
            (*name, assembled)
        })
        .collect()
});

/// The text of a script or part as it stands.
fn as_it_stands(_: &str, source: &'static str) -> String {
    source.to_owned()
}

fn assemble(name: &str, source: &'static str, steered: bool) -> Result<Assembled, String> {
    assemble_as(name, source, steered, &as_it_stands)
}

/// Assembles a script from texts that `text` gives for each file and what stands in it.
fn assemble_as(
    name: &str,
    source: &'static str,
    steered: bool,
    text_of: &dyn Fn(&str, &'static str) -> String,
) -> Result<Assembled, String> {
    let source = &text_of(name, source);
    let mut parts = Vec::new();
    for part in used(source) {
        resolve(part, &mut parts, &mut Vec::new())?;
    }
    let mut text = String::new();
    let mut lines = Vec::new();
    let mut add = |file: &str, source: &str, from: usize| {
        for (i, line) in source.lines().enumerate() {
            text.push_str(line);
            text.push('\n');
            lines.push((file.to_owned(), from + i));
        }
    };
    let (first, rest) = source.split_once('\n').unwrap_or((source, ""));
    if !first.starts_with("#!lua") {
        return Err(format!("{name}.lua does not start with #!lua"));
    }
    add(&format!("{name}.lua"), first, 1);
    for part in parts {
        match part {
            "names" => add("names", &names_lua(), 1),
            _ => add(&format!("parts/{part}.lua"), &text_of(&format!("parts/{part}"), part_source(part)?), 1),
        }
        if part == "clock" && steered {
            add("steered clock", STEERED, 1);
        }
    }
    add(&format!("{name}.lua"), rest, 2);
    Ok(Assembled { script: redis::Script::new(&text), lines })
}

fn assembled(name: &str) -> Option<&'static Assembled> {
    #[cfg(test)]
    if let Some(changed) = changed::script(name) {
        return Some(changed);
    }
    ASSEMBLED.get(name)
}

/// Scripts with a fault put into them, for tests that have to find it: in this thread alone.
#[cfg(test)]
pub(crate) mod changed {
    use std::cell::RefCell;

    use super::{Assembled, PARTS, SCRIPTS, assemble_as};

    thread_local! {
        static SCRIPTS_OF_THREAD: RefCell<Vec<(&'static str, &'static Assembled)>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn script(name: &str) -> Option<&'static Assembled> {
        SCRIPTS_OF_THREAD.with_borrow(|scripts| scripts.iter().find(|(one, _)| *one == name).map(|(_, script)| *script))
    }

    /// Every file of the scripts, and what stands in it.
    pub(crate) fn files() -> impl Iterator<Item = (&'static str, &'static str)> {
        SCRIPTS.iter().chain(PARTS).copied()
    }

    /// From now on this thread's calls run with another text of one file.
    pub(crate) fn change(file: &str, text: &str) {
        let text_of = |one: &str, source: &'static str| if one == file { text.to_owned() } else { source.to_owned() };
        let changed = SCRIPTS.iter().map(|(name, source)| {
            let script = assemble_as(name, source, true, &text_of).unwrap_or_else(|problem| panic!("{problem}"));
            let script: &'static Assembled = Box::leak(Box::new(script));
            (*name, script)
        });
        SCRIPTS_OF_THREAD.set(changed.collect());
    }

    /// From now on they run as they stand.
    pub(crate) fn restore() {
        SCRIPTS_OF_THREAD.set(Vec::new());
    }
}

fn used(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| line.strip_prefix("-- uses:")).flat_map(str::split_whitespace)
}

fn part_source(part: &str) -> Result<&'static str, String> {
    let file = format!("parts/{part}");
    let found = PARTS.iter().find(|(name, _)| *name == file);
    found.map(|(_, source)| *source).ok_or_else(|| format!("there is no part {part}"))
}

/// Adds a part behind those it uses, once.
fn resolve<'a>(part: &'a str, done: &mut Vec<&'a str>, open: &mut Vec<&'a str>) -> Result<(), String> {
    if done.contains(&part) {
        return Ok(());
    }
    if open.contains(&part) {
        return Err(format!("the parts {} use each other", open.join(", ")));
    }
    open.push(part);
    if part != "names" {
        for inner in used(part_source(part)?) {
            resolve(inner, done, open)?;
        }
    }
    open.pop();
    done.push(part);
    Ok(())
}

/// Why a call brought no answer of the script.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Redis is out of reach or cannot answer now: the same call may be made again.
    Away(String),
    /// Repeating does not help.
    Refused(Error),
}

impl CallError {
    pub(crate) fn away(message: impl Into<String>) -> Self {
        Self::Away(message.into())
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Away(message) => Self::redis(format!("Redis does not answer: {message}")),
            CallError::Refused(error) => error,
        }
    }
}

/// Sorts what Redis or the connection said into "again later" and "no use".
pub(crate) fn sort_error(error: &RedisError) -> CallError {
    let code = error.code().unwrap_or_default();
    let text = error.to_string();
    let no_use = match (error.kind(), code) {
        (_, "NOAUTH" | "WRONGPASS") | (ErrorKind::AuthenticationFailed, _) => Error::redis(
            "Redis wants another user or password",
        )
        .hint("put them into the URL (--redis-url, MOTORPOOL_REDIS_URL or its file): redis://USER:PASSWORD@HOST"),
        (_, "NOPERM") => Error::redis(format!("this user of Redis may not do that: {text}"))
            .hint("give it ~mp:{POOL}:* &mp:{POOL}:* +@all -@admin -@dangerous +info +role +config|get"),
        (_, "OOM") => Error::refused("Redis has no memory left for new work")
            .hint("raise maxmemory, or let running tasks end; they go on"),
        (ErrorKind::InvalidClientConfig, _) => Error::usage(text),
        (ErrorKind::Server(ServerErrorKind::ResponseError), code)
            if !matches!(
                code,
                "LOADING" | "READONLY" | "MISCONF" | "NOREPLICAS" | "UNBLOCKED" | "MASTERDOWN" | "BUSY"
            ) =>
        {
            Error::failed(format!("Redis refused a call: {text}"))
        }
        (ErrorKind::Extension, code)
            if !matches!(code, "MISCONF" | "NOREPLICAS" | "UNBLOCKED" | "MASTERDOWN" | "BUSY" | "UNKILLABLE") =>
        {
            Error::failed(format!("Redis refused a call: {text}"))
        }
        (ErrorKind::Parse, _) => Error::redis(format!("what answers does not speak Redis's protocol: {text}"))
            .hint("correct --redis-url (MOTORPOOL_REDIS_URL)"),
        (ErrorKind::UnexpectedReturnType, _) => Error::failed(format!("Redis answered something unexpected: {text}")),
        (_, "MISCONF") => return CallError::away("Redis cannot write to its disk (full?): MISCONF"),
        _ => return CallError::away(text),
    };
    CallError::Refused(no_use)
}

/// One call of a script.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    name: &'static str,
    args: Vec<Vec<u8>>,
}

impl Call {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, args: Vec::new() }
    }

    pub(crate) fn arg(mut self, value: impl AsRef<[u8]>) -> Self {
        self.args.push(value.as_ref().to_vec());
        self
    }

    pub(crate) fn number(self, value: impl Into<u64>) -> Self {
        let text = value.into().to_string();
        self.arg(text)
    }

    /// Its arguments, for who makes the same call later.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
    }

    /// Which script.
    #[cfg(test)]
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The same call with another value at this place.
    #[cfg(test)]
    pub(crate) fn with_arg(mut self, at: usize, value: impl AsRef<[u8]>) -> Self {
        self.args[at] = value.as_ref().to_vec();
        self
    }

    /// By what its script is called: the hash of its text.
    #[cfg(test)]
    pub(crate) fn hash(name: &str) -> String {
        ASSEMBLED[name].script.get_hash().to_owned()
    }

    pub(crate) fn args<T: AsRef<[u8]>>(mut self, values: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(values.into_iter().map(|value| value.as_ref().to_vec()));
        self
    }

    pub(crate) async fn send(&self, keys: &Keys, connection: &mut impl ConnectionLike) -> Result<Reply, CallError> {
        let assembled = assembled(self.name)
            .ok_or_else(|| CallError::Refused(Error::failed(format!("there is no script {}", self.name))))?;
        let mut invocation = assembled.script.key(keys.prefix());
        for arg in &self.args {
            invocation.arg(arg);
        }
        match invocation.invoke_async::<Vec<Value>>(connection).await {
            Ok(values) => Reply::read(self.name, values).map_err(CallError::Refused),
            Err(error) => Err(match sort_error(&error) {
                CallError::Refused(inner) if error.to_string().contains("user_script:") => CallError::Refused(
                    Error::failed(self.place(&error.to_string(), assembled)).hint(
                        inner
                            .hint_text()
                            .unwrap_or("this is a fault of Motorpool or of the pool's data; `motorpool doctor`")
                            .to_owned(),
                    ),
                ),
                other => other,
            }),
        }
    }

    /// `user_script:123` as the file and line it came from.
    fn place(&self, text: &str, assembled: &Assembled) -> String {
        let line = text.split("user_script:").nth(1).and_then(|rest| {
            rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse::<usize>().ok())
        });
        match line.and_then(|line| assembled.lines.get(line.saturating_sub(1))) {
            Some((file, line)) => format!("script {} failed at {file}:{line}: {text}", self.name),
            None => format!("script {} failed: {text}", self.name),
        }
    }
}

/// A script's reply: a word, then values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    script: &'static str,
    values: Vec<String>,
}

impl Reply {
    fn read(script: &'static str, values: Vec<Value>) -> crate::error::Result<Self> {
        let strange = || Error::failed(format!("the script {script} answered something unexpected"));
        let values = values
            .into_iter()
            .map(|value| match value {
                Value::BulkString(bytes) => String::from_utf8(bytes).map_err(|_| strange()),
                Value::SimpleString(text) => Ok(text),
                Value::Int(number) => Ok(number.to_string()),
                Value::Nil => Ok(String::new()),
                _ => Err(strange()),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if values.is_empty() { Err(strange()) } else { Ok(Self { script, values }) }
    }

    /// The word that the reply starts with.
    pub(crate) fn word(&self) -> &str {
        &self.values[0]
    }

    /// The values, the word included at 0; empty where there is none.
    pub(crate) fn text(&self, at: usize) -> &str {
        self.values.get(at).map_or("", String::as_str)
    }

    /// A value as a number; 0 where there is none.
    pub(crate) fn number(&self, at: usize) -> u64 {
        self.text(at).parse().unwrap_or(0)
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// A reply as a script might give it.
    #[cfg(test)]
    pub(crate) fn of(script: &'static str, words: &[&str]) -> Self {
        Self { script, values: words.iter().map(|word| (*word).to_owned()).collect() }
    }

    /// What a reply means that no caller expects here: the words that any script may say.
    pub(crate) fn unexpected(&self) -> Error {
        let script = self.script;
        match self.word() {
            "schema" => {
                Error::refused(format!("this pool is written in schema {}, not {}", self.text(1), super::keys::SCHEMA))
                    .hint("use the version of Motorpool that the pool's other processes use")
            }
            "full" => Error::refused(format!("the pool is full: {} tasks wait", self.text(1)))
                .hint("wait for some to end, or cancel some; `motorpool list`"),
            "lanes" => Error::refused(format!("the pool would have more than {} lanes", self.text(1)))
                .hint("each set of labels in needs is a lane; use fewer different ones, and tags to find tasks by"),
            "memory" => Error::refused("Redis has less than a fifth of its memory left, so no new work is taken")
                .hint("raise maxmemory, or let running tasks end"),
            "unknown" => {
                let kind = self.text(1).parse().map_or("task", |id: GroupId| id.kind.word());
                Error::refused(format!("no {kind} {}", self.text(1))).hint("`motorpool list` shows what there is")
            }
            "moved" => Error::refused(format!("the task is in round {} by now", self.text(1))).hint("look at it again"),
            "stale" => Error::refused(format!("the run is no longer this worker's; the task is {}", self.text(1)))
                .hint("nothing is to be done: another worker has it, or it is over"),
            "superseded" => Error::failed(format!("call answered after call {}", self.text(1)))
                .hint("two processes use one worker's name; stop one"),
            "no_host" => Error::refused(format!("no live host is named {}", self.text(1)))
                .hint("`motorpool status` names the hosts"),
            "in_use" => Error::refused(format!("the live worker {} has this slot", self.text(1)))
                .hint("a slot is forgotten when its worker is gone; change it, or scale the host down"),
            "slots" => Error::refused(format!("the pool has settings for {} slots, and takes no more", self.text(1)))
                .hint("`motorpool slots` shows them; `motorpool slots SLOT --forget` removes one"),
            "not_sweeper" => Error::refused("another process sweeps").hint("nothing is to be done"),
            word => Error::failed(format!("the script {script} answered {word:?}")),
        }
    }
}

/// The words that each script's header says it may answer.
#[cfg(test)]
pub(crate) fn words_by_header() -> Vec<(&'static str, Vec<String>)> {
    let head = |source: &str| {
        let from = source.find("-- replies:").expect("it says its replies") + "-- replies:".len();
        let text = source[from..source.find("-- events:").expect("it says its events")].replace("\n--", " ");
        text.split('|').filter_map(|one| one.split_whitespace().next().map(str::to_owned)).collect()
    };
    SCRIPTS.iter().map(|(name, source)| (*name, head(source))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_has_its_header_in_order() {
        for (name, source) in SCRIPTS {
            let heads: Vec<&str> =
                source.lines().take_while(|line| line.starts_with('#') || line.starts_with("--")).collect();
            assert!(heads[0].starts_with("#!lua"), "{name}");
            assert!(heads[1].starts_with(&format!("-- {name}: ")), "{name}: {}", heads[1]);
            let mut at = 0;
            for label in ["-- uses:", "-- args:", "-- replies:", "-- events:"] {
                let found = heads.iter().position(|line| line.starts_with(label));
                assert!(found.is_some_and(|found| found > at), "{name}: {label}");
                at = found.unwrap();
            }
        }
    }

    #[test]
    fn writes_stand_below_their_line() {
        for (name, source) in SCRIPTS.iter().filter(|(_, source)| !source.starts_with("#!lua flags=no-writes")) {
            let above = source.split("-- writes from here").next().unwrap();
            assert!(above.len() < source.len(), "{name} has no line for its writes");
            let commands =
                ["HSET", "HDEL", "HINCRBY", "XADD", "XDEL", "XACK", "XCLAIM", "ZADD", "ZREM", "DEL", "SET", "PEXPIRE"];
            let parts = [
                "settle(",
                "take(",
                "move(",
                "book(",
                "book_late(",
                "note_call(",
                "note_server(",
                "skip_forgotten(",
                "seen(",
                "remember(",
                "offer_sweep(",
                "open_pool(",
                "enter_lane(",
                "leave_lane(",
                "finish_terminal(",
                "publish(",
                "forget_host(",
                "tell(",
            ];
            for write in commands.map(|one| format!("'{one}'")).into_iter().chain(parts.map(str::to_owned)) {
                assert!(!above.contains(&write), "{name}: {write} above the line");
            }
        }
    }

    #[test]
    fn parts_that_use_each_other_are_found() {
        assert!(assemble("x", "#!lua\n-- uses: nosuch\n", false).is_err());
    }
}
