//! A Redis whose wall clock a test can move, as an administrator or a time service does it: `clock.c` is loaded into
//! the server before its own libraries. (libfaketime hangs with the allocator that Debian's Redis is built with.)
//!
//! The scripts' own tests move the clock of a pool by a key instead, which costs no process.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The clock of one server, wherever it is started anew.
#[derive(Debug)]
pub struct Clock {
    step: std::fs::File,
}

impl Clock {
    /// Puts a `redis-server` into `dir` that has this clock, and these arguments besides what it is started with; gives
    /// the search path that finds it.
    ///
    /// # Panics
    /// There is no C compiler or no Redis.
    pub fn new(dir: &Path, arguments: &str) -> (Self, OsString) {
        std::fs::create_dir_all(dir).expect("its directory");
        let (library, file) = (dir.join("clock.so"), dir.join("step"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-Wall", "-shared", "-fPIC", "-o"]).args([&library, &source]);
        assert!(compiler.status().expect("a C compiler").success(), "{compiler:?}");
        std::fs::write(&file, [0; 8]).expect("the step");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let server = ["redis-server", "valkey-server"].iter().find_map(|name| found(name, &path));
        let script = format!(
            "#!/bin/sh\nexec env CLOCK_STEP='{}' LD_PRELOAD='{}' '{}' \"$@\" {arguments}\n",
            file.display(),
            library.display(),
            server.expect("a Redis is installed").display()
        );
        let program = dir.join("redis-server");
        std::fs::write(&program, script).expect("a script");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        let mut dirs = vec![dir.to_owned()];
        dirs.extend(std::env::split_paths(&path));
        let clock = Self { step: std::fs::File::options().read(true).write(true).open(&file).expect("the step") };
        (clock, std::env::join_paths(dirs).expect("a search path"))
    }

    /// By how much it is moved, in milliseconds.
    ///
    /// # Panics
    /// The file is gone.
    #[must_use]
    pub fn step_ms(&self) -> i64 {
        let mut bytes = [0; 8];
        self.step.read_exact_at(&mut bytes, 0).expect("the step");
        i64::from_ne_bytes(bytes)
    }

    /// Moves it; by how much is counted from the machine's clock.
    ///
    /// # Panics
    /// The file is gone.
    pub fn set_ms(&self, step_ms: i64) {
        self.step.write_all_at(&step_ms.to_ne_bytes(), 0).expect("the step");
    }
}

fn found(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
