//! The system's table of processes, as far as it is ours to read.
//!
//! The one place that differs between Linux (`/proc`) and others (`ps`, without tests here). Not here: who of them
//! belongs to a run (`process.rs`).

/// A process as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id, which another one may have later.
    pub pid: i32,
    /// When it was started, in the system's own measure: with the pid it names one process for good.
    pub start: String,
    /// Its parent.
    pub parent: i32,
    /// Its process group; a run's processes are in others than the worker's.
    pub group: i32,
    /// It has ended and waits to be reaped.
    pub zombie: bool,
}

pub use system::processes;
pub(super) use system::{any_child_ended, is_still, mark};

#[cfg(target_os = "linux")]
mod system {
    use super::Process;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

    /// Whether any child of this process waits to be reaped; far cheaper than reading the table.
    pub(crate) fn any_child_ended() -> bool {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        matches!(waitid(Id::All, look), Ok(status) if status != WaitStatus::StillAlive)
    }

    /// Every process of this machine that can be seen from here.
    #[must_use]
    pub fn processes() -> Vec<Process> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter_map(read).collect()
    }

    fn read(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold anything, so the fields are counted from its end.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The first thread of a process can have ended while others of it still run.
        let threads: u32 = fields.get(17)?.parse().ok()?;
        let zombie = matches!(*fields.first()?, "Z" | "X" | "x") && threads <= 1;
        let number = |at: usize| fields.get(at)?.parse().ok();
        Some(Process { pid, start: (*fields.get(19)?).to_owned(), parent: number(1)?, group: number(2)?, zombie })
    }

    /// Whether the pid is still the process that was seen.
    pub(crate) fn is_still(process: &Process) -> bool {
        read(process.pid).is_some_and(|now| now.start == process.start && !now.zombie)
    }

    /// The mark of a run that a process of this user was started with.
    pub(crate) fn mark(pid: i32) -> Option<String> {
        let path = format!("/proc/{pid}/environ");
        if fs::metadata(&path).ok()?.uid() != nix::unistd::geteuid().as_raw() {
            return None;
        }
        let wanted = super::super::mark_entry();
        let environ = fs::read(&path).ok()?;
        let entry = environ.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(wanted.as_bytes()))?;
        String::from_utf8(entry.to_vec()).ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::Process;
    use std::process::Command;

    /// Whether any child of this process may wait to be reaped. Orphans are not handed to it here.
    pub(crate) fn any_child_ended() -> bool {
        false
    }

    fn ps(arguments: &[&str]) -> String {
        let output = Command::new("ps").env("LC_ALL", "C").args(arguments).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }

    /// Every process of this machine that can be seen from here.
    #[must_use]
    pub fn processes() -> Vec<Process> {
        ps(&["-axo", "pid=,ppid=,pgid=,stat=,lstart="]).lines().filter_map(read).collect()
    }

    fn read(line: &str) -> Option<Process> {
        let mut words = line.split_whitespace();
        let mut number = || words.next()?.parse().ok();
        let (pid, parent, group) = (number()?, number()?, number()?);
        let zombie = words.next()?.starts_with('Z');
        Some(Process { pid, start: words.collect::<Vec<_>>().join(" "), parent, group, zombie })
    }

    /// Whether the pid is still the process that was seen.
    pub(crate) fn is_still(process: &Process) -> bool {
        let line = ps(&["-o", "pid=,ppid=,pgid=,stat=,lstart=", "-p", &process.pid.to_string()]);
        read(&line).is_some_and(|now| now.start == process.start && !now.zombie)
    }

    /// The mark of a run that a process of this user was started with.
    pub(crate) fn mark(pid: i32) -> Option<String> {
        let line = ps(&["-Eww", "-o", "command=", "-p", &pid.to_string()]);
        let wanted = super::super::mark_entry();
        line.split_whitespace().find_map(|word| word.strip_prefix(&wanted)).map(str::to_owned)
    }
}
