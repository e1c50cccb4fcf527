//! Who keeps the pool and who hosts its workers: process ids in files, each to be trusted only under its lock.
//!
//! A file is written after its lock was taken and removed before the next holder writes his, so that lock and file
//! together never name somebody else's process.
//! Not here: what is done to these processes (`host.rs`, `join.rs`).

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::place::{Place, write_whole};
use crate::error::{Error, Result};

/// The keeper that runs, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperRecord {
    /// Its process id.
    pub pid: i32,
    /// When it started, in milliseconds since 1970.
    pub started_ms: u64,
    /// The socket of its server; absent until it has one.
    pub socket: Option<std::path::PathBuf>,
    /// The version of Motorpool.
    pub version: String,
    /// Workers that its host keeps alive.
    pub slots: u32,
    /// How long the pool stays with nobody there.
    pub linger_ms: u64,
    /// How long running tasks get at the end.
    pub drain_timeout_ms: u64,
    /// How it was set by who started it, as `--name=value`.
    #[serde(default)]
    pub given: Vec<String>,
}

/// The host that runs, as its keeper described it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct HostRecord {
    pid: i32,
    started_ms: u64,
}

/// The keeper of a pool, if one runs.
///
/// # Errors
/// The pool belongs to another user or project.
pub fn keeper_of(place: &Place) -> Result<Option<KeeperRecord>> {
    if !place.exists()? || !Lock::is_held(&place.file("keeper.lock"))? {
        return Ok(None);
    }
    Ok(read(&place.file("keeper.json")))
}

pub(super) fn write_keeper(place: &Place, record: &KeeperRecord) -> Result<()> {
    write(&place.file("keeper.json"), record)
}

pub(super) fn write_host(place: &Place, pid: u32) -> Result<()> {
    write(&place.file("host.json"), &HostRecord { pid: pid.cast_signed(), started_ms: now_ms() })
}

/// The host's process id, for who knows that its lock is held.
pub(super) fn host_pid(place: &Place) -> Option<Pid> {
    let recorded = read::<HostRecord>(&place.file("host.json")).map(|record| Pid::from_raw(record.pid));
    recorded.or_else(|| holder_of_stdin(&place.file("host.lock")))
}

/// Sends a signal; false if there is no such process any more.
pub(super) fn signal(pid: Pid, signal: Signal) -> bool {
    // 0 and below would mean whole groups.
    pid.as_raw() > 1 && kill(pid, signal).is_ok()
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A process whose standard input is `file`: a host that was started by a keeper which died before it could write down
/// whom it had started. Only where there is /proc.
fn holder_of_stdin(file: &Path) -> Option<Pid> {
    let file = file.canonicalize().ok()?;
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stdin = fs::read_link(entry.path().join("fd/0")).ok()?;
        (stdin == file).then(|| Pid::from_raw(pid))
    })
}

fn read<T: for<'a> Deserialize<'a>>(file: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

fn write(file: &Path, record: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(record).map_err(|error| Error::failed(format!("{}: {error}", file.display())))?;
    write_whole(file, &text)
}
