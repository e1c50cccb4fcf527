//! Claude's own sessions: where the CLI of this machine keeps them, and which one a run goes on with.
//!
//! Not here: what is asked in it (`prompt.rs`).

use std::path::{Path, PathBuf};

use motorpool::domain::attempt::Class;
use motorpool::{Run, TaskRecord};

use crate::claude::command::Environment;

/// Where sessions of a directory lie, and whose machine this is.
pub(crate) struct Sessions<'a> {
    pub(crate) env: &'a Environment,
    pub(crate) cwd: &'a Path,
    pub(crate) host: &'a str,
}

impl Sessions<'_> {
    /// The file of a session: every character of the directory that is no letter or digit is a dash in it (seen in
    /// 2.1.197 and 2.1.330).
    fn file(&self, session: &str) -> Option<PathBuf> {
        let text = |name: &str| self.env.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty());
        let config = match text("CLAUDE_CONFIG_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(text("HOME")?).join(".claude"),
        };
        let cwd = self.cwd.canonicalize().unwrap_or_else(|_| self.cwd.to_owned());
        let name: String =
            cwd.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let plain = !session.is_empty() && session.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        plain.then(|| config.join("projects").join(name).join(format!("{session}.jsonl")))
    }

    /// The session of a run, where it can be gone on with here.
    pub(crate) fn of(&self, run: &Run) -> Option<String> {
        let session = run.session_id.clone().filter(|_| run.host == self.host)?;
        self.file(&session).is_some_and(|file| file.is_file()).then_some(session)
    }
}

/// The last run of a task that had a session.
pub(crate) fn last_with_session(record: &TaskRecord) -> Option<&Run> {
    record.runs.iter().rev().find(|run| run.session_id.is_some())
}

/// The run before this one, where its work is whole and only stopped: a limit, or handed back.
pub(crate) fn interrupted(record: &TaskRecord, run: u64) -> Option<&Run> {
    let before = record.runs.iter().find(|one| one.n + 1 == run)?;
    let is_whole = match before.class {
        Some(class) => class == Class::Limit,
        None => before.ended_ms.is_some() && !before.charged,
    };
    is_whole.then_some(before)
}

/// Whether a run that went on with this session failed in it, for another reason than a limit.
pub(crate) fn has_failed_in(record: &TaskRecord, session: &str) -> bool {
    let failed = |run: &Run| run.class.is_some_and(|class| class != Class::Limit);
    record.runs.iter().any(|run| run.resumed.as_deref() == Some(session) && failed(run))
}
