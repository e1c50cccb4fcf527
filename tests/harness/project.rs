//! A user with a project and no Redis: commands of `motorpool` in a clean environment, and the embedded pools that
//! they start. Whatever these leave behind is ended by pid, told by the user's home directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::api::FakeApi;
use crate::fleet::{Cli, PATIENCE, program, real_claude};

/// A user's home, with projects in it.
pub struct User {
    /// The Messages API that this user's Claude talks to.
    pub api: FakeApi,
    /// Everything of this user.
    pub root: TempDir,
    env: BTreeMap<String, String>,
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its exit code; nothing if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Done {
    /// Its standard output as JSON.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

impl User {
    /// A user whose Claude is the real one or the stand-in.
    pub async fn new(cli: Cli) -> Self {
        let api = FakeApi::start().await;
        let root = tempfile::Builder::new().prefix("motorpool-user-").tempdir().expect("a temporary directory");
        let real = root.path().canonicalize().expect("its real path");
        for dir in ["home", "tmp", "state", "one", "two"] {
            std::fs::create_dir(real.join(dir)).expect("a directory in it");
        }
        let claude = match cli {
            Cli::Real => real_claude(),
            Cli::StandIn => program("fake-claude"),
        };
        let text = |path: PathBuf| path.display().to_string();
        let env = [
            ("PATH", std::env::var("PATH").unwrap_or_default()),
            ("HOME", text(real.join("home"))),
            ("TMPDIR", text(real.join("tmp"))),
            ("ANTHROPIC_BASE_URL", api.url()),
            ("ANTHROPIC_API_KEY", "dummy".to_owned()),
            ("MOTORPOOL_STATE_DIR", text(real.join("state"))),
            ("MOTORPOOL_CLAUDE_BIN", text(claude)),
        ];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { api, root, env }
    }

    /// A variable of every command from now on.
    pub fn env(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// Takes a variable away.
    pub fn env_remove(&mut self, name: &str) {
        self.env.remove(name);
    }

    /// The directory of a project: `one` or `two`.
    #[must_use]
    pub fn project(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().expect("its real path").join(name)
    }

    /// The environment of this user's programs.
    #[must_use]
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// A command of `motorpool` in a project, not started yet.
    #[must_use]
    pub fn command(&self, project: &str, args: &[&str]) -> Command {
        self.program(&program("motorpool"), project, args)
    }

    /// A command of any program in a project, not started yet.
    #[must_use]
    pub fn program(&self, program: &Path, project: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(&self.env).current_dir(self.project(project)).stdin(Stdio::null());
        command.kill_on_drop(true);
        command
    }

    /// Runs a command of `motorpool` to its end.
    ///
    /// # Panics
    /// It hangs.
    pub async fn motorpool(&self, project: &str, args: &[&str]) -> Done {
        self.done(self.command(project, args)).await
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// It hangs.
    pub async fn done(&self, mut command: Command) -> Done {
        let output = timeout(PATIENCE, command.output())
            .await
            .unwrap_or_else(|_| panic!("{command:?} hangs\n{}", self.logs()))
            .expect("it starts");
        Done {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// This user's processes whose command line contains these words.
    #[must_use]
    pub fn processes(&self, words: &[&str]) -> Vec<i32> {
        let home = format!("HOME={}", self.project("home").display());
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
        pids.filter(|pid| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            !line.is_empty()
                && environ.split(|byte| *byte == 0).any(|entry| entry == home.as_bytes())
                && words.iter().all(|word| line.contains(word))
        })
        .collect()
    }

    /// Waits until a look at the world says yes.
    pub async fn until<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(seen) = look(self) {
                return seen;
            }
            assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}\n{}", self.logs());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What this user's pools have logged.
    #[must_use]
    pub fn logs(&self) -> String {
        fn collect(dir: &Path, text: &mut String) {
            for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    collect(&path, text);
                } else if path.extension().is_some_and(|extension| extension == "log") {
                    text.push_str(&format!("== {}\n", path.display()));
                    text.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
                }
            }
        }
        let mut text = String::new();
        collect(&self.project("state"), &mut text);
        text
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for _ in 0..50 {
            let left = self.processes(&[]);
            if left.is_empty() {
                return;
            }
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
