//! A private redis-server or valkey-server on a unix socket.
//!
//! It syncs every write, evicts nothing, opens no port, and ends with the process that started it.
//! Not here: who may start one (`keeper.rs`), talking to it beyond PING (`store/`).

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use super::log;
use crate::error::{Error, Result};
use crate::process;

/// How long a server may take until it answers; reading its data does not count.
const START_MAX: Duration = Duration::from_secs(30);
/// How long a server may take to end after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How long an answer to PING may take.
const PING_MAX: Duration = Duration::from_secs(1);

/// Names of programs that will do, best first.
const PROGRAMS: &[&str] = &["redis-server", "valkey-server"];

/// What a server answers to PING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ping {
    /// It serves.
    Ready,
    /// It lives, but does not serve yet: it reads its data, or is too busy to answer.
    Busy,
    /// Nobody listens on the socket.
    Gone,
}

/// Asks whoever listens on a socket for a sign of life.
pub async fn ping(socket: &Path) -> Ping {
    let talk = async {
        let Ok(mut stream) = UnixStream::connect(socket).await else { return Ping::Gone };
        let mut answer = [0; 64];
        if stream.write_all(b"PING\r\n").await.is_err() {
            return Ping::Gone;
        }
        match stream.read(&mut answer).await {
            Ok(0) | Err(_) => Ping::Gone,
            Ok(read) if answer[..read].starts_with(b"-LOADING") => Ping::Busy,
            Ok(_) => Ping::Ready,
        }
    };
    timeout(PING_MAX, talk).await.unwrap_or(Ping::Busy)
}

/// How to start a server.
#[derive(Debug)]
pub struct ServerOptions {
    /// Where its data and its log lie; it exists.
    pub dir: PathBuf,
    /// Its socket, in a directory of this user alone.
    pub socket: PathBuf,
    /// The search path for programs, as in `$PATH`.
    pub path: OsString,
    /// A lock that lives as long as the server.
    pub lock: Option<OwnedFd>,
}

/// A running server. Dropping it kills it; [`Server::stop`] ends it in good order.
#[derive(Debug)]
pub struct Server {
    child: Child,
    socket: PathBuf,
    log_file: PathBuf,
    log_from: u64,
    // The thread that started it waits for this to go.
    _parent: mpsc::Sender<()>,
    _temporary: Option<tempfile::TempDir>,
}

impl Server {
    /// Starts a server and waits until it serves.
    ///
    /// # Errors
    /// There is no such program; its data is damaged (it never starts empty instead); it ended or kept silent: with
    /// the last lines of its log.
    pub async fn start(options: ServerOptions) -> Result<Self> {
        let ServerOptions { dir, socket, path, lock } = options;
        let program = find_program(&path)?;
        refuse_missing_manifest(&dir)?;
        let log_file = dir.join("redis.log");
        drop(log::open(&log_file)?);
        let log_from = log::length(&log_file);

        let mut command = Command::new(&program);
        command.args(arguments(&dir, &socket, &log_file)).current_dir(&dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        process::own_session(&mut command);
        process::die_with_parent(&mut command, Signal::SIGTERM);
        if let Some(lock) = lock {
            process::inherit(&mut command, lock);
        }
        let (child, parent) =
            spawn(command).map_err(|error| Error::failed(format!("cannot start {}: {error}", program.display())))?;
        let mut server = Self { child, socket, log_file, log_from, _parent: parent, _temporary: None };
        server.wait_ready().await?;
        Ok(server)
    }

    /// Starts a server in a temporary directory, which goes with it: for tests. The only function of this module that
    /// looks into the environment, for `PATH` and the directory of temporary files.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn temporary() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("motorpool-")
            .tempdir()
            .map_err(|error| Error::failed(format!("cannot make a temporary directory: {error}")))?;
        let mut server = Self::start(ServerOptions {
            dir: dir.path().to_owned(),
            socket: dir.path().join("redis.sock"),
            path: std::env::var_os("PATH").unwrap_or_default(),
            lock: None,
        })
        .await?;
        server._temporary = Some(dir);
        Ok(server)
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its address, as `--redis-url` takes it.
    #[must_use]
    pub fn url(&self) -> String {
        socket_url(&self.socket)
    }

    /// Its process id, while it has not ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it ends by itself, and says why. Losing the future loses nothing.
    pub async fn ended(&mut self) -> String {
        let status = self.child.wait().await;
        let lines = log::last_lines(&self.log_file, self.log_from);
        match (cause(&lines), status) {
            (Some(cause), _) => format!("{cause}: {lines}"),
            (None, Ok(status)) => format!("it ended ({status}): {lines}"),
            (None, Err(error)) => format!("it ended ({error}): {lines}"),
        }
    }

    /// Ends it in good order, and kills it if it does not end within 10 s.
    pub async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        if timeout(STOP_MAX, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        // The id is there until we waited for it, so it is nobody else's.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
        }
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let mut until = Instant::now() + START_MAX;
        let mut pause = Duration::from_millis(2);
        loop {
            match ping(&self.socket).await {
                Ping::Ready => return Ok(()),
                Ping::Busy => until = Instant::now() + START_MAX,
                Ping::Gone => {}
            }
            if Instant::now() >= until {
                return Err(self.failure("it does not answer"));
            }
            tokio::select! {
                // Both are asked again in the next round, so losing one loses nothing.
                _ = self.child.wait() => return Err(self.failure("it ended")),
                () = sleep(pause) => pause = (pause * 2).min(Duration::from_millis(50)),
            }
        }
    }

    fn failure(&self, what: &str) -> Error {
        let lines = log::last_lines(&self.log_file, self.log_from);
        let dir = self.log_file.parent().unwrap_or(Path::new("/"));
        let error = match cause(&lines) {
            Some(cause) => Error::failed(format!("the pool's Redis does not start, {cause}: {lines}")),
            None => Error::failed(format!("the pool's Redis does not start, {what}: {lines}")),
        };
        match cause(&lines) {
            Some(DAMAGED) => error.hint(repair(dir)),
            Some(_) => error.hint(format!("see to the disk of {}", dir.display())),
            None => error.hint(format!("its log is {}", self.log_file.display())),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Until it is gone its directory cannot be removed, nor its lock be taken.
        let _ = self.child.start_kill();
        for _ in 0..400 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// `unix://` and the path, with everything escaped that means something in an address.
#[must_use]
pub fn socket_url(socket: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut url = String::from("unix://");
    for byte in socket.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => url.push(char::from(*byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

/// Starts a child from a thread that lives as long as the returned sender: the kernel ends the child with that thread.
fn spawn(command: Command) -> std::io::Result<(Child, mpsc::Sender<()>)> {
    let (parent, gone) = mpsc::channel::<()>();
    let (give, take) = mpsc::sync_channel(1);
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new().name("redis-parent".into()).spawn(move || {
        let _runtime = runtime.enter();
        let mut command = tokio::process::Command::from(command);
        let _ = give.send(command.kill_on_drop(true).spawn());
        // It holds the child's lock, too.
        drop(command);
        let _ = gone.recv();
    })?;
    let child = take.recv().map_err(std::io::Error::other)??;
    Ok((child, parent))
}

fn arguments(dir: &Path, socket: &Path, log_file: &Path) -> Vec<OsString> {
    let maxmemory = (memory_bytes() / 4).to_string();
    let pairs: &[(&str, &OsStr)] = &[
        ("--port", OsStr::new("0")),
        ("--unixsocket", socket.as_os_str()),
        ("--unixsocketperm", OsStr::new("700")),
        ("--dir", dir.as_os_str()),
        ("--logfile", log_file.as_os_str()),
        ("--daemonize", OsStr::new("no")),
        ("--save", OsStr::new("")),
        ("--appendonly", OsStr::new("yes")),
        ("--appendfsync", OsStr::new("always")),
        ("--auto-aof-rewrite-percentage", OsStr::new("100")),
        ("--auto-aof-rewrite-min-size", OsStr::new("64mb")),
        ("--maxmemory", OsStr::new(&maxmemory)),
        ("--maxmemory-policy", OsStr::new("noeviction")),
    ];
    pairs.iter().flat_map(|(name, value)| [OsString::from(name), (*value).to_owned()]).collect()
}

/// The machine's memory; 4 GiB where it cannot be read.
fn memory_bytes() -> u64 {
    let read = || {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    };
    read().unwrap_or(4 << 30)
}

fn find_program(path: &OsStr) -> Result<PathBuf> {
    let dirs: Vec<PathBuf> = std::env::split_paths(path).collect();
    let runs = |file: &PathBuf| {
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    PROGRAMS.iter().find_map(|name| dirs.iter().map(|dir| dir.join(name)).find(runs)).ok_or_else(|| {
        Error::failed("neither redis-server nor valkey-server is on PATH").hint(
            "install one (Debian, Ubuntu: sudo apt install redis-server), or give a Redis of yours with --redis-url",
        )
    })
}

const DAMAGED: &str = "its append-only file is damaged";

/// What a log's last lines mean, where they are known.
pub(super) fn cause(lines: &str) -> Option<&'static str> {
    const FULL: &str = "the disk is full";
    let has = |needle: &str| lines.contains(needle);
    // A full disk shows first as a write that was cut short; with every write synced Redis then ends.
    if has("No space left on device") || has("Short write while writing to the AOF") {
        return Some(FULL);
    }
    if has("Can't recover from AOF write error") {
        return Some("its disk cannot be written");
    }
    let damage = ["redis-check-aof", "valkey-check-aof", "RDB preamble", "Internal error in RDB", "Wrong signature"];
    let missing = ["AOF file doesn't exist", "AOF manifest file"];
    damage.iter().chain(&missing).any(|needle| has(needle)).then_some(DAMAGED)
}

fn repair(dir: &Path) -> String {
    let folder = dir.join("appendonlydir");
    format!(
        "copy {} away, then cut the file off at the damage: redis-check-aof --fix {}",
        folder.display(),
        folder.join("appendonly.aof.manifest").display()
    )
}

/// Data without its list: Redis would start empty, over what is there.
fn refuse_missing_manifest(dir: &Path) -> Result<()> {
    let folder = dir.join("appendonlydir");
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(()) };
    let names: Vec<OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
    let ends = |end: &str| names.iter().any(|name| name.to_string_lossy().ends_with(end));
    if (ends(".aof") || ends(".rdb")) && !ends(".manifest") {
        return Err(Error::failed(format!("{DAMAGED}: {} has data, but no manifest", folder.display()))
            .hint("put appendonly.aof.manifest back, or move the directory away to start empty"));
    }
    Ok(())
}
