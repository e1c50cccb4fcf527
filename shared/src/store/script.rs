//! Scripts: called, and their replies read. Not here: their texts (`assemble.rs`).
//!
//! A script is addressed by its content, so two versions of Motorpool share a pool during an upgrade.

use redis::Value;

use super::answer::{Action, row_of};
pub(crate) use super::answer::{CallError, sort_error};
use super::assemble::{Assembled, assembled};
use super::contact::Connection;
use super::keys::Keys;
use crate::domain::ids::{GroupId, Id};
use crate::error::{Error, ErrorKind};

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

    pub(crate) fn args<T: AsRef<[u8]>>(mut self, values: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(values.into_iter().map(|value| value.as_ref().to_vec()));
        self
    }

    pub(crate) async fn send(&self, keys: &Keys, connection: &mut Connection) -> Result<Reply, CallError> {
        let assembled = assembled(self.name)
            .ok_or_else(|| CallError::Refused(Error::failed(format!("there is no script {}", self.name))))?;
        let mut invocation = assembled.script.key(keys.prefix());
        for arg in &self.args {
            invocation.arg(arg);
        }
        match invocation.invoke_async::<Vec<Value>>(&mut *connection).await {
            Ok(values) => {
                if assembled.writes {
                    connection.wrote();
                }
                Reply::read(self.name, values).map_err(CallError::Refused)
            }
            Err(error) => Err(match sort_error(&error) {
                CallError::Refused(inner) if is_fault_at_a_line(&error) => CallError::Refused(
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

/// Whether a script failed by itself, at a line that it is told.
fn is_fault_at_a_line(error: &redis::RedisError) -> bool {
    let is_fault = row_of(error).is_none_or(|row| row.action == Action::Refuse(ErrorKind::Failed));
    is_fault && error.to_string().contains("user_script:")
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
                let group = self.text(1).parse::<GroupId>().ok();
                let kind = group.map_or("task", |id| id.kind.word());
                let listed_by = group.map_or("motorpool list", |id| Id::from(id).listed_by());
                Error::refused(format!("no {kind} {}", self.text(1))).hint(format!("`{listed_by}` shows what there is"))
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
