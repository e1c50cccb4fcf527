//! Ids and names: `t17`, lanes, pools, tags; parsed once, printed as they came.
//!
//! Ids are short, since models copy and pay for them. Not here: who hands the numbers out (`submit.lua`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The id of a task: `t` and its number in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TaskId(u64);

impl TaskId {
    /// The task with this number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number alone: rises in the order of submission.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl From<TaskId> for String {
    fn from(id: TaskId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for TaskId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for TaskId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        numbered(text, 't').map(Self).ok_or_else(|| {
            Error::usage(format!("{text:?} is no task id"))
                .hint("a task id is t and a number, as in t17; `motorpool list` shows them")
        })
    }
}

/// The number behind a letter. One spelling for one thing: no sign, no leading zero.
fn numbered(text: &str, letter: char) -> Option<u64> {
    let digits = text.strip_prefix(letter)?;
    let plain = !digits.is_empty() && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// What holds several tasks together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupKind {
    /// Ordered steps, each fed by the one before.
    Chain,
    /// Independent tasks or chains that were submitted at once.
    Batch,
}

impl GroupKind {
    /// The letter that its ids begin with.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Chain => 'c',
            Self::Batch => 'b',
        }
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Batch => "batch",
        }
    }
}

/// The id of a chain (`c3`) or a batch (`b5`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct GroupId {
    /// Which of the two.
    pub kind: GroupKind,
    /// Its number among its kind.
    pub number: u64,
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.letter(), self.number)
    }
}

impl FromStr for GroupId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        for kind in [GroupKind::Chain, GroupKind::Batch] {
            if let Some(number) = numbered(text, kind.letter()) {
                return Ok(Self { kind, number });
            }
        }
        Err(Error::usage(format!("{text:?} is no id of a chain or batch"))
            .hint("it is c or b and a number, as in c3; `motorpool list` shows them"))
    }
}

impl From<GroupId> for String {
    fn from(id: GroupId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for GroupId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// The id of anything that is submitted: a task, a chain or a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Id {
    /// A task.
    Task(TaskId),
    /// A chain or a batch.
    Group(GroupId),
}

impl Id {
    /// The command that lists what there is of its kind.
    #[must_use]
    pub fn listed_by(self) -> &'static str {
        match self {
            Self::Task(_) => "motorpool list",
            Self::Group(GroupId { kind: GroupKind::Chain, .. }) => "motorpool list --kind chains",
            Self::Group(GroupId { kind: GroupKind::Batch, .. }) => "motorpool list --kind batches",
        }
    }
}

impl From<TaskId> for Id {
    fn from(id: TaskId) -> Self {
        Self::Task(id)
    }
}

impl From<GroupId> for Id {
    fn from(id: GroupId) -> Self {
        Self::Group(id)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(id) => id.fmt(f),
            Self::Group(id) => id.fmt(f),
        }
    }
}

impl FromStr for Id {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Group(id));
        }
        text.parse().map(Self::Task).map_err(|_: Error| {
            Error::usage(format!("{text:?} is no id"))
                .hint("an id is t, c or b (task, chain, batch) and a number, as in t17; `motorpool list` shows them")
        })
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for Id {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// The name of a pool or a lane: 1 to 32 of `a-z`, `0-9`, `_`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Name {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::usage(format!("{text:?} is no name of a pool or lane")).hint("use 1 to 32 of a-z, 0-9, _ and -"))
        }
    }
}

/// The id of one start of a worker process; never reused, so that a call of a former start is told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId(String);

impl WorkerId {
    /// The id with this text, as a worker presents it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_has_one_spelling() {
        assert_eq!("t17".parse::<TaskId>().unwrap().to_string(), "t17");
        for bad in ["", "t", "17", "T17", "t017", "t+17", "t-1", "t1 ", "t99999999999999999999999", "c3"] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_says_what_it_names() {
        for (text, is_task) in [("t17", true), ("c3", false), ("b5", false)] {
            let id: Id = text.parse().unwrap();
            assert_eq!((id.to_string().as_str(), matches!(id, Id::Task(_))), (text, is_task));
        }
        for bad in ["c", "c0", "b05", "q2", "17", "C3"] {
            assert!(bad.parse::<Id>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_short_and_plain() {
        for good in ["default", "a", "gpu-2_x"] {
            assert!(good.parse::<Name>().is_ok(), "{good:?}");
        }
        for bad in ["", "Default", "a b", "a}", "ä", &"x".repeat(33)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }
}
