//! What went wrong, whose fault it is, and what to do about it.
//!
//! An error is built where the verb is, with the name of the task or setting in it; there is no list of errors.
//! Not here: how a face shows one (`dispatcher/src/term`), why an attempt failed (`domain/attempt.rs`).

use std::fmt;

/// A result with Motorpool's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault an error is. The exit code of every command follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The command line, a file or a setting is wrong in itself; nothing was contacted.
    Usage,
    /// Redis is unreachable, refuses us, evicts keys or is too old.
    Redis,
    /// A deadline of the caller ran out.
    Timeout,
    /// The pool refuses: unknown id, wrong state, full, draining, inside a run.
    Refused,
    /// Anything else that failed: a missing program, a file that cannot be written, a broken record.
    Failed,
}

impl ErrorKind {
    /// The exit code of a command that ends with such an error.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Redis => 3,
            Self::Timeout => 4,
            Self::Refused => 6,
        }
    }
}

/// An error that a user may meet: what happened, to which thing, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
}

impl Error {
    /// An error of a kind; `message` says what happened, and to which task, setting or file.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// See [`ErrorKind::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// See [`ErrorKind::Redis`].
    pub fn redis(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Redis, message)
    }

    /// See [`ErrorKind::Refused`].
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    /// See [`ErrorKind::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// See [`ErrorKind::Timeout`].
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Timeout, message)
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What happened, without the hint.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it, where something can be done.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// The name of `known` nearest to `name`, if one is near enough to have been meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|candidate| (distance(&wanted, &candidate.to_lowercase().replace('-', "_")), candidate))
        .filter(|(far, candidate)| *far <= (candidate.len() / 3).max(if candidate.len() > 3 { 2 } else { 1 }))
        .min_by_key(|(far, _)| *far)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_one_that_was_meant() {
        let known = ["model", "max_turns", "tools", "allowed_tools"];
        for (name, expected) in [
            ("modle", Some("model")),
            ("max-turn", Some("max_turns")),
            ("Tools", Some("tools")),
            ("allowedtools", Some("allowed_tools")),
            ("banana", None),
        ] {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
    }
}
