//! How a child process is bound to its parent: dies with it, starts a session, inherits a lock.
//!
//! The only module with unsafe code (what runs between fork and exec), and the one place where another platform
//! than Linux would differ. Not here: ending a whole tree of processes (`worker/src/process.rs`).
#![allow(unsafe_code, reason = "pre_exec has no safe form; the closures below only make system calls")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;

/// Lets the kernel send `signal` to the child when the **thread** that starts it ends: start it from a thread that
/// lives as long as the process. Where the kernel has no such thing (macOS) nothing is done.
pub fn die_with_parent(command: &mut Command, signal: Signal) {
    #[cfg(target_os = "linux")]
    {
        let parent = nix::unistd::getpid();
        // SAFETY: prctl, getppid and _exit are async-signal-safe and allocate nothing.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(signal)?;
                // The parent may have died before the call above: then nobody would ever send the signal.
                if nix::unistd::getppid() != parent {
                    return Err(io::Error::from_raw_os_error(nix::errno::Errno::ESRCH as i32));
                }
                Ok(())
            });
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (command, signal);
}

/// Starts the child in a session of its own, out of reach of the terminal's signals.
pub fn own_session(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            Ok(())
        });
    }
}

/// Lets the child inherit `fd` under the same number (it is close-on-exec here): a `flock` taken on it lives until
/// the last process that has the descriptor ends.
pub fn inherit(command: &mut Command, fd: OwnedFd) {
    // SAFETY: fcntl is async-signal-safe; the descriptor is owned by the closure, so it is open.
    unsafe {
        command.pre_exec(move || {
            let raw: RawFd = fd.as_raw_fd();
            fcntl(BorrowedFd::borrow_raw(raw), FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        });
    }
}

/// Makes this process the one that orphans among its descendants are handed to, so that they stay findable.
pub fn adopt_orphans() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(())
}
