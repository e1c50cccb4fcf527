//! What a keeper is told, and what it tells.
//!
//! Not here: how it acts (`keeper.rs`).

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;
use crate::settings::duration_text;

/// What a keeper keeps.
#[derive(Clone, Debug)]
pub struct KeepOptions {
    /// How it was set by who started it, as `--name=value`: for who comes later with other wishes.
    pub given: Vec<String>,
    /// Workers that the host keeps alive.
    pub slots: u32,
    /// How long the pool stays with nobody there and nothing to do; [`Duration::MAX`]: until it is told to stop.
    pub linger: Duration,
    /// How long running tasks get at the end.
    pub drain_timeout: Duration,
    /// The worker's program, started as `worker_bin host --slots N`.
    pub worker_bin: PathBuf,
    /// Further arguments.
    pub worker_args: Vec<OsString>,
    /// Variables added to this process's own.
    pub worker_env: Vec<(OsString, OsString)>,
    /// The search path for the server's program, as in `$PATH`.
    pub path: OsString,
    /// Whether a host is kept at all.
    pub host: bool,
}

/// Why a keeper ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Another keeper keeps this pool.
    AlreadyRunning,
    /// Nobody was there and nothing was to do, for the linger time.
    Idle,
    /// It was told to stop.
    Stopped,
}

/// What happens to a pool that is kept; its text is a line for a log.
#[derive(Clone, Debug)]
pub enum Event {
    /// The server serves.
    ServerStarted {
        /// Its process id.
        pid: u32,
        /// Its address.
        url: String,
    },
    /// The server ended by itself, or did not start.
    ServerEnded {
        /// Why, with the last lines of its log.
        why: String,
        /// When it is started again.
        retry_in: Duration,
    },
    /// A host was started.
    HostStarted {
        /// Its process id.
        pid: u32,
    },
    /// A host of an earlier keeper runs on.
    HostFound {
        /// Its process id, where it is known.
        pid: Option<i32>,
    },
    /// The host ended.
    HostEnded {
        /// When it is started again.
        retry_in: Duration,
    },
    /// The host could not be started.
    HostFailed {
        /// Why.
        error: Error,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// The pool ends; running tasks get this long.
    Draining {
        /// Why.
        end: End,
        /// How long.
        within: Duration,
    },
    /// The host did not end in time.
    HostSlow {
        /// What it was sent now.
        signal: &'static str,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServerStarted { pid, url } => write!(f, "redis started, process {pid}, {url}"),
            Self::ServerEnded { why, retry_in } => {
                write!(f, "redis is down, {why}; starting it again in {}", duration_text(*retry_in))
            }
            Self::HostStarted { pid } => write!(f, "host started, process {pid}"),
            Self::HostFound { pid: Some(pid) } => write!(f, "host runs already, process {pid}"),
            Self::HostFound { pid: None } => write!(f, "host runs already"),
            Self::HostEnded { retry_in } => {
                write!(f, "host ended (see host.log); starting it again in {}", duration_text(*retry_in))
            }
            Self::HostFailed { error, retry_in } => write!(f, "{error}; trying again in {}", duration_text(*retry_in)),
            Self::Draining { end: End::Idle, .. } => write!(f, "nobody is there and nothing to do: the pool ends"),
            Self::Draining { within, .. } => {
                write!(f, "the pool ends; running tasks get {}", duration_text(*within))
            }
            Self::HostSlow { signal } => write!(f, "the host did not end in time: sent it {signal}"),
        }
    }
}
