//! A project of its own for a test: nothing of the user's is read or written, and what was started is ended.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_motorpool");

/// A project directory with all that surrounds it.
pub(crate) struct Yard {
    root: tempfile::TempDir,
}

impl Yard {
    /// An empty project.
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        for dir in ["project", "home", "run"] {
            std::fs::create_dir(root.path().join(dir)).expect("a directory");
        }
        Self { root }
    }

    /// A path below the yard.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The project's directory.
    pub(crate) fn project(&self) -> PathBuf {
        self.path("project")
    }

    /// `motorpool` in the project, in a clean environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.program(Path::new(BINARY), args)
    }

    /// Another program in the same surroundings.
    pub(crate) fn program(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.project()).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.path("home")).env("XDG_RUNTIME_DIR", self.path("run"));
        command.env("MOTORPOOL_STATE_DIR", self.path("state")).env("MOTORPOOL_SLOTS", "0");
        command
    }

    /// Runs `motorpool` to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the binary starts"))
    }

    /// The address of the pool's server, which is started if need be.
    pub(crate) fn url(&self) -> String {
        let ran = self.run(&["status", "--json"]);
        ran.json()["redis"]["url"].as_str().unwrap_or_else(|| panic!("{ran:?}")).to_owned()
    }

    /// Whether nothing was started or left behind.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.path("state").exists()
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        if !self.is_untouched() {
            let _ = self.command(&["down"]).output();
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// From what the system says.
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The one JSON document on stdout.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Waits for something that is bound to happen.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(50);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes a file and gives its path.
pub(crate) fn file(path: &Path, text: &[u8]) -> String {
    std::fs::write(path, text).expect("a file");
    path.to_string_lossy().into_owned()
}
