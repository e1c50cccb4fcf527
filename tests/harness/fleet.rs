//! A whole farm for one test: a private Redis, the scripted API, workers as processes of their own.
//!
//! Everything it starts is ended with it, by pid; all its files lie in one temporary directory. The environment of
//! what it starts is clean, so that a test can neither spend money nor read anyone's credentials.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use motorpool::domain::fleet::Worker;
use motorpool::embedded::{Server, ServerOptions};
use motorpool::{Pool, Spec, State, TaskId, TaskOptions, TaskRecord};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::api::FakeApi;
use crate::project::Done;

/// How long a test waits for what has to happen. Generous: a noisy machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Which CLI the workers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cli {
    /// The real one, pinned, against the scripted API.
    Real,
    /// The stand-in, where many processes are needed.
    StandIn,
}

/// See the module.
pub struct Fleet {
    /// Its Redis.
    pub server: Server,
    /// Its Messages API.
    pub api: FakeApi,
    /// The pool, as a client sees it.
    pub pool: Pool,
    /// Where tasks work.
    pub work: PathBuf,
    /// Everything else: home, temporary files, state.
    pub root: TempDir,
    env: BTreeMap<String, String>,
    pub(crate) children: Vec<Child>,
    pub(crate) servers: OsString,
}

/// A program of this workspace; refused where it is older than the sources, since nothing here builds it.
///
/// # Panics
/// It is missing or stale.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("its own path");
    let dir = own.parent().expect("target/PROFILE, of a test target/PROFILE/deps");
    let dir = if dir.ends_with("deps") { dir.parent().expect("target/PROFILE") } else { dir };
    let path = dir.join(name);
    let built = path.metadata().and_then(|meta| meta.modified());
    let built = built.unwrap_or_else(|_| panic!("{} is not built: cargo build --workspace", path.display()));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    for part in ["shared/src", "worker/src", "dispatcher/src", "tests/harness"] {
        // A face does not depend on the other's sources.
        let concerns = match name {
            "motorpool" => part != "worker/src" && part != "tests/harness",
            "motorpool-worker" => part != "dispatcher/src" && part != "tests/harness",
            _ => part == "tests/harness",
        };
        let newest = newest(&root.join(part));
        assert!(!concerns || newest <= built, "{name} is older than {part}: cargo build --workspace");
    }
    path
}

fn newest(dir: &Path) -> SystemTime {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let times = entries.map(|entry| {
        let path = entry.path();
        // Tests inside a crate are not part of its program.
        if path.file_name().is_some_and(|name| name.to_string_lossy().contains("tests")) {
            SystemTime::UNIX_EPOCH
        } else if path.is_dir() {
            newest(&path)
        } else {
            entry.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
        }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The pinned CLI, as `tests/run` names it in `TEST_CLAUDE`, else where `tests/install-claude` puts it.
///
/// # Panics
/// It is not installed.
#[must_use]
pub fn real_claude() -> PathBuf {
    std::env::var_os("TEST_CLAUDE").map_or_else(pinned_claude, |named| installed(named.into()))
}

/// The CLI that the tests are pinned to, whichever `TEST_CLAUDE` names: for what the oldest supported one cannot do.
///
/// # Panics
/// It is not installed.
#[must_use]
pub fn pinned_claude() -> PathBuf {
    installed(Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/claude-2.1.330/node_modules/.bin/claude"))
}

fn installed(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: tests/install-claude", path.display());
    path
}

/// The Redis of a fleet: its data and its socket lie in the fleet's directory, so that it can be started again.
pub(crate) async fn redis(root: &Path, path: &OsStr) -> Server {
    let options = ServerOptions {
        dir: root.join("redis"),
        socket: root.join("redis/redis.sock"),
        path: path.to_owned(),
        lock: None,
    };
    Server::start(options).await.expect("a private Redis starts")
}

impl Fleet {
    /// A Redis, an API and a pool, no worker yet.
    pub async fn new(cli: Cli) -> Self {
        Self::with_lease(cli, 15).await
    }

    /// The same with a lease of so many seconds.
    pub async fn with_lease(cli: Cli, lease_s: u64) -> Self {
        Self::with_servers(cli, lease_s, |_| std::env::var_os("PATH").unwrap_or_default()).await
    }

    /// The same with a Redis from another search path, which may lie in the fleet's own directory.
    pub async fn with_servers(cli: Cli, lease_s: u64, servers: impl FnOnce(&Path) -> OsString) -> Self {
        let api = FakeApi::start().await;
        let root = tempfile::Builder::new().prefix("motorpool-test-").tempdir().expect("a temporary directory");
        let real = root.path().canonicalize().expect("its real path");
        for dir in ["work", "home", "tmp", "state", "redis"] {
            std::fs::create_dir(real.join(dir)).expect("a directory in it");
        }
        let servers = servers(&real);
        let server = redis(root.path(), &servers).await;
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
            ("DISABLE_TELEMETRY", "1".to_owned()),
            ("DISABLE_ERROR_REPORTING", "1".to_owned()),
            ("MOTORPOOL_REDIS_URL", server.url()),
            ("MOTORPOOL_STATE_DIR", text(real.join("state"))),
            ("MOTORPOOL_CLAUDE_BIN", text(claude)),
            ("MOTORPOOL_LEASE", format!("{lease_s}s")),
        ];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        // Whoever writes first fixes the lease of the pool.
        let lease = Duration::from_secs(lease_s);
        let pool = Pool::builder(&server.url()).lease(lease).connect().await.expect("the pool answers");
        Self { server, api, pool, work: real.join("work"), root, env, children: Vec::new(), servers }
    }

    /// The search path by which its Redis is found.
    #[must_use]
    pub fn servers(&self) -> OsString {
        self.servers.clone()
    }

    /// A variable of every worker that is started from now on.
    pub fn env(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// Takes a variable away.
    pub fn env_remove(&mut self, name: &str) {
        self.env.remove(name);
    }

    /// The environment of what is started here, less some, for what starts workers by itself.
    #[must_use]
    pub fn variables(&self, without: &[&str]) -> Vec<(OsString, OsString)> {
        let kept = self.env.iter().filter(|(name, _)| !without.contains(&name.as_str()));
        kept.map(|(name, value)| (name.into(), value.into())).collect()
    }

    /// Starts one of the programs in the working directory, with the fleet's environment; gives its pid.
    pub fn start(&mut self, name: &str, args: &[&str]) -> i32 {
        self.start_by(&[], name, args)
    }

    /// The same by another program, which becomes the one that it is given, as `ip netns exec` does.
    pub fn start_by(&mut self, by: &[&str], name: &str, args: &[&str]) -> i32 {
        let log = self.log(&format!("{name}-{}", self.children.len()));
        let file = std::fs::File::create(log).expect("a log");
        let words: Vec<OsString> = by.iter().map(OsString::from).chain([program(name).into_os_string()]).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(args).env_clear().envs(&self.env);
        command.current_dir(&self.work).stdin(Stdio::null());
        command.stdout(file.try_clone().expect("a log")).stderr(file);
        let child = command.spawn().expect("it starts");
        let pid = child.id() as i32;
        self.children.push(child);
        pid
    }

    /// Carries out a command of `motorpool` on the fleet's pool.
    pub async fn motorpool(&self, args: &[&str]) -> Done {
        let mut command = tokio::process::Command::new(program("motorpool"));
        command.args(args).env_clear().envs(&self.env).current_dir(&self.work).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// The same with `--json`: what it printed.
    ///
    /// # Panics
    /// It did not succeed.
    pub async fn motorpool_json(&self, args: &[&str]) -> Value {
        let done = self.motorpool(&[args, &["--json"]].concat()).await;
        assert_eq!(done.code, Some(0), "{args:?}: {done:?}\n{}", self.logs());
        done.json()
    }

    /// Starts a worker.
    pub fn worker(&mut self, args: &[&str]) -> i32 {
        self.start("motorpool-worker", args)
    }

    /// Writes an executable script outside of the working directory; gives its path.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        // Under another name first: a script that is being written cannot be run.
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text).expect("a script");
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        std::fs::rename(new, &path).expect("its place");
        path
    }

    /// A path in the fleet's own directory, beside the working directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().expect("its real path").join(name)
    }

    /// What a file in the working directory holds, without the newline at its end; nothing where it is missing.
    #[must_use]
    pub fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.work.join(name)).ok().map(|text| text.trim_end().to_owned())
    }

    /// Waits until a task has written something into a file in the working directory.
    pub async fn written(&self, name: &str) -> String {
        self.until(name, async |fleet| fleet.read(name).filter(|text| !text.is_empty())).await
    }

    /// Waits until a worker is known to the pool, and is as wanted.
    pub async fn worker_is(&self, pid: i32, what: &str, wanted: impl Fn(&Worker) -> bool) -> Worker {
        self.until(&format!("worker {pid} is {what}"), async |fleet| {
            let workers = fleet.pool.workers().await.expect("the pool answers");
            workers.into_iter().find(|worker| worker.pid as i32 == pid).filter(|worker| wanted(worker))
        })
        .await
    }

    /// Starts a worker and waits until it is known to the pool, fit or not.
    pub async fn joined(&mut self, args: &[&str]) -> i32 {
        let pid = self.worker(args);
        self.worker_is(pid, "known", |_| true).await;
        pid
    }

    /// Starts a host of so many workers.
    pub fn host(&mut self, slots: u32) -> i32 {
        self.start("motorpool-worker", &["host", "--slots", &slots.to_string()])
    }

    fn log(&self, name: &str) -> PathBuf {
        self.root.path().join(format!("{name}.log"))
    }

    /// What everything that was started has logged.
    #[must_use]
    pub fn logs(&self) -> String {
        let entries = std::fs::read_dir(self.root.path()).into_iter().flatten().flatten();
        let logs = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"));
        let texts = logs.map(|entry| {
            format!("== {}\n{}", entry.path().display(), std::fs::read_to_string(entry.path()).unwrap_or_default())
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    /// Submits a task with options as JSON.
    pub async fn submit(&self, prompt: &str, options: Value) -> TaskId {
        let options = TaskOptions::from_json(options.as_object().expect("an object")).expect("options that do");
        let spec = Spec::new(prompt, options).expect("a task that does");
        self.pool.submit(spec).await.expect("it is taken").id
    }

    /// Waits for a task to be over.
    pub async fn over(&self, id: TaskId) -> TaskRecord {
        let until = Instant::now() + PATIENCE;
        let record = self.pool.wait(id, Some(until)).await.expect("the pool answers");
        assert!(
            record.state.is_terminal(),
            "{id} is {} after {PATIENCE:?}: {record:#?}\n{}",
            record.state,
            self.logs()
        );
        record
    }

    /// Submits a task and waits for it to be over.
    pub async fn run(&self, prompt: &str, options: Value) -> TaskRecord {
        self.over(self.submit(prompt, options).await).await
    }

    /// Waits until a look at the world says yes.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut(&Self) -> Option<T>) -> T {
        let seen = timeout(PATIENCE, async {
            loop {
                if let Some(seen) = look(self).await {
                    return seen;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        seen.await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}\n{}", self.logs()))
    }

    /// Waits until a task is up for review in a round.
    pub async fn reviewable(&self, id: TaskId, round: u32) -> TaskRecord {
        self.until(&format!("{id} is up for review in round {round}"), async |fleet| {
            let record = fleet.pool.task(id).await.expect("the pool answers");
            (record.state == State::PendingReview && record.round == round).then_some(record)
        })
        .await
    }

    /// Waits until there is a task, and it is in a state.
    pub async fn reaches(&self, id: TaskId, state: State) -> TaskRecord {
        self.until(&format!("{id} is {state}"), async |fleet| {
            let record = fleet.pool.find(id).await.expect("the pool answers");
            record.filter(|record| record.state == state)
        })
        .await
    }

    /// Ends a child at once and takes its status.
    pub fn kill(&mut self, pid: i32, with: Signal) {
        let _ = kill(Pid::from_raw(pid), with);
        if with == Signal::SIGKILL
            && let Some(child) = self.children.iter_mut().find(|child| child.id() as i32 == pid)
        {
            let _ = child.wait();
        }
    }

    /// Waits until a child is gone; gives its exit code.
    pub async fn ended(&mut self, pid: i32) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        loop {
            let child = self.children.iter_mut().find(|child| child.id() as i32 == pid).expect("one of ours");
            if let Some(status) = child.try_wait().expect("its status") {
                return status.code();
            }
            assert!(Instant::now() < until, "process {pid} does not end\n{}", self.logs());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Processes that work in the fleet's directory or have its home, those excepted that it has started itself.
    #[must_use]
    pub fn strays(&self) -> Vec<String> {
        let root = self.path("");
        let home = format!("HOME={}", root.join("home").display());
        let mut own: Vec<i32> = self.children.iter().map(|child| child.id() as i32).collect();
        own.extend(self.server.pid().map(|pid| pid as i32));
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
        let ours = |pid: &i32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&root))
                || environ.split(|byte| *byte == 0).any(|entry| entry == home.as_bytes())
        };
        let lives = |pid: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
        };
        let line = |pid: i32| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            format!("{pid} {}", String::from_utf8_lossy(&words).replace('\0', " "))
        };
        pids.filter(|pid| !own.contains(pid)).filter(ours).filter(lives).map(line).collect()
    }

    /// Processes that carry the mark of a run of this fleet's pool.
    #[must_use]
    pub fn claudes(&self) -> Vec<i32> {
        let home = format!("HOME={}", self.root.path().join("home").canonicalize().unwrap_or_default().display());
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
        pids.filter(|pid| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mut entries = environ.split(|byte| *byte == 0);
            // The fleet's home tells its processes from those of another test.
            let ours = environ.split(|byte| *byte == 0).any(|entry| entry == home.as_bytes());
            ours && entries.any(|entry| entry.starts_with(b"MOTORPOOL_RUN="))
        })
        .collect()
    }

    /// Ends everything and checks what has to hold: the invariants, and no process left.
    pub async fn end(mut self) {
        for child in &self.children {
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        }
        let pids: Vec<i32> = self.children.iter().map(|child| child.id() as i32).collect();
        for pid in pids {
            self.ended(pid).await;
        }
        let findings = self.pool.examine().await.expect("the pool can be examined");
        assert_eq!(findings.broken, Vec::<String>::new(), "{}", self.logs());
        assert_eq!(self.strays(), Vec::<String>::new(), "processes are left\n{}", self.logs());
        // Files of runs may hold secrets.
        let runs = std::fs::read_dir(self.path("state/runs")).into_iter().flatten().flatten();
        let files: Vec<_> = runs.map(|entry| entry.file_name()).collect();
        assert!(files.is_empty(), "files of runs are left: {files:?}");
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let strays = self.strays();
        for pid in strays.iter().filter_map(|line| line.split(' ').next()?.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
