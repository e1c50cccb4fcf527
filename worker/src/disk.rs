//! Whether the disks that a worker needs take what is written to them.
//!
//! Looked at after a run that failed, never before one: who only reads needs no room, and a directory may be read-only
//! by intent. Not here: who is told and what becomes of the task (`run.rs`, `slot.rs`).

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use motorpool::domain::attempt::{Class, Ending};
use motorpool::domain::fleet::Unfit;
use nix::errno::Errno;

use crate::claude::classify::Classified;
use crate::claude::command::Environment;

/// With less than this a disk is as good as full.
const ENOUGH_BYTES: usize = 64 * 1024;

/// Why nothing can be written to a directory; nothing where it can, or where the reason is no disk's.
fn refuses(dir: &Path) -> Option<Errno> {
    let written = tempfile::tempfile_in(dir).and_then(|mut file| {
        file.write_all(&[b'.'; ENOUGH_BYTES])?;
        file.sync_all()
    });
    of_the_disk(&written.err()?)
}

fn of_the_disk(error: &io::Error) -> Option<Errno> {
    let errno = Errno::from_raw(error.raw_os_error()?);
    matches!(errno, Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS).then_some(errno)
}

/// Why a worker cannot work that has this directory.
#[must_use]
pub fn unfit(dir: &Path) -> Option<Unfit> {
    let errno = refuses(dir)?;
    let (what, hint) = match errno {
        Errno::EROFS => ("is read-only", "mount it for writing"),
        Errno::EDQUOT => ("is over this user's quota", "remove something there, or raise the quota"),
        _ => ("is full", "make room there"),
    };
    let message = format!("the disk of {} {what} ({})", dir.display(), errno.desc());
    let hint = Some(format!("{hint}; the worker goes on by itself"));
    Some(Unfit { class: Class::Internal, message, hint, until_ms: None })
}

/// Where Claude keeps its sessions.
fn config_dir(env: &Environment) -> Option<PathBuf> {
    let text = |name: &str| env.get(OsStr::new(name)).filter(|value| !value.is_empty()).map(PathBuf::from);
    text("CLAUDE_CONFIG_DIR").or_else(|| Some(text("HOME")?.join(".claude")))
}

/// A run that failed where a disk takes nothing: the task is whole and goes to another worker, this one claims nothing.
/// Gives the directory.
pub(crate) fn blame(classified: &mut Classified, cwd: &Path, scratch: &Path, env: &Environment) -> Option<PathBuf> {
    let Ending::Failed(failure) = &classified.outcome.ending else { return None };
    let may_be = match failure.class {
        Class::Transient | Class::Internal => true,
        // Said by this machine, not by the API.
        Class::Request => failure.status.is_none(),
        _ => false,
    };
    if !may_be {
        return None;
    }
    let says_so = ["EROFS", "ead-only file system"].iter().any(|words| failure.message.contains(words));
    let config = config_dir(env);
    let own = [Some(scratch), config.as_deref()];
    let dir = own.into_iter().flatten().find(|dir| refuses(dir).is_some()).or_else(|| {
        // A directory of tasks that are to read and not to write is nobody's fault.
        refuses(cwd).filter(|errno| *errno != Errno::EROFS || says_so).map(|_| cwd)
    })?;
    let unfit = unfit(dir)?;
    let was = &failure.message;
    classified.outcome.ending = Ending::Stopped(format!("{}; the run ended with: {was}", unfit.message));
    classified.outcome.retry_after_ms = None;
    classified.unfit = Some(unfit);
    Some(dir.to_owned())
}

#[cfg(test)]
mod tests {
    use motorpool::domain::attempt::Failure;

    use super::*;
    use crate::claude::classify::Seen;

    #[test]
    fn only_a_disks_own_errors_are_its_fault() {
        for (error, expected) in [
            (io::Error::from_raw_os_error(Errno::ENOSPC as i32), Some(Errno::ENOSPC)),
            (io::Error::from_raw_os_error(Errno::EDQUOT as i32), Some(Errno::EDQUOT)),
            (io::Error::from_raw_os_error(Errno::EROFS as i32), Some(Errno::EROFS)),
            (io::Error::from_raw_os_error(Errno::EACCES as i32), None),
            (io::Error::from_raw_os_error(Errno::ENOENT as i32), None),
            (io::Error::other("no errno"), None),
        ] {
            assert_eq!(of_the_disk(&error), expected, "{error}");
        }
    }

    #[test]
    fn a_disk_with_room_is_not_blamed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(unfit(dir.path()), None);
        assert_eq!(unfit(&dir.path().join("missing")), None);
        let env = Environment::default();
        for class in [Class::Transient, Class::Internal, Class::Request] {
            let mut failed = Seen::default().ended(Ending::Failed(Failure::new(class, "ENOSPC")));
            let before = failed.clone();
            assert_eq!(blame(&mut failed, dir.path(), dir.path(), &env), None);
            assert_eq!(failed, before);
        }
    }
}
