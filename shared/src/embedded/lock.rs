//! Locks that end with the last process that has them: `flock` on a file.
//!
//! A lock is given up by closing it, never by unlocking: unlocking would take it from a child that inherited it too.
//! Not here: which lock means what (`place.rs`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::FlockArg;

use crate::error::{Error, Result};

/// A lock that this process holds until it drops it.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// The lock for oneself, if nobody has it.
    pub(crate) fn try_exclusive(path: &Path) -> Result<Option<Self>> {
        Self::take(path, FlockArg::LockExclusiveNonblock)
    }

    /// The lock together with others, if nobody has it for himself.
    pub(super) fn try_shared(path: &Path) -> Result<Option<Self>> {
        Self::take(path, FlockArg::LockSharedNonblock)
    }

    /// The lock for oneself, asked for again until `patience` is over: who only looks holds it for an instant.
    pub(super) async fn exclusive_within(path: &Path, patience: Duration) -> Result<Option<Self>> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            if let Some(lock) = Self::try_exclusive(path)? {
                return Ok(Some(lock));
            }
            if tokio::time::Instant::now() >= until {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether some process has the lock for itself. A missing file is a free lock.
    pub(super) fn is_held(path: &Path) -> Result<bool> {
        if !path.exists() {
            return Ok(false);
        }
        Ok(Self::try_shared(path)?.is_none())
    }

    /// Says, to whoever looks at [`marked`], that the lock was used now.
    pub(super) fn mark(&self) {
        // Only spares the pool an early end; the lock itself counts.
        let _ = self.0.set_modified(SystemTime::now());
    }

    /// Whether the file at `path` is still the one that is locked: it may have been removed and made anew.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        match (self.0.metadata(), path.metadata()) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    /// What tells its file from every other one of this machine.
    pub(crate) fn identity(&self) -> String {
        self.0.metadata().map(|metadata| format!("{}:{}", metadata.dev(), metadata.ino())).unwrap_or_default()
    }

    /// The same lock once more, to be inherited by a child.
    pub(super) fn share(&self) -> Result<OwnedFd> {
        self.0.try_clone().map(OwnedFd::from).map_err(|error| Error::failed(format!("cannot copy a lock: {error}")))
    }

    /// The lock as an open file, to be a child's standard input.
    pub(super) fn into_file(self) -> File {
        self.0
    }

    fn take(path: &Path, how: FlockArg) -> Result<Option<Self>> {
        let failed = |error: io::Error| Error::failed(format!("cannot lock {}: {error}", path.display()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(failed)?;
        // nix's `Flock` unlocks on drop, which the module's rule forbids.
        #[allow(deprecated, reason = "the only flock of nix that does not unlock")]
        match nix::fcntl::flock(file.as_raw_fd(), how) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::EWOULDBLOCK) => Ok(None),
            Err(errno) => Err(failed(errno.into())),
        }
    }
}

/// When the lock at `path` was last marked.
pub(super) fn marked(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}
