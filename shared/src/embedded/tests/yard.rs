//! A project with a pool of its own, for tests of its whole life.
//!
//! A keeper is this test program again, called for the one test `keeper::stand_in`; a host is a shell script that says
//! in a file what happens to it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::server::path;
use crate::embedded::lock::Lock;
use crate::embedded::{Joined, KeepOptions, Place, Presence, Starter, join, keeper_of, record};

/// How long a test waits for what has to happen. Generous: a slow machine is no failure.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) const MARK: &str = "EMBEDDED_TEST_KEEPER";

const HOST: &str = r#"#!/bin/sh
# The stand-in for a host: it drains when it is told to, as soon as the file `release` is there.
dir=$(dirname "$0")
trap 'told=yes; echo "told" >> "$dir/events"' TERM
echo "started $$ $*" >> "$dir/events"
while :; do
    if [ -n "$told" ] && [ -e "$dir/release" ]; then echo "drained" >> "$dir/events"; exit 0; fi
    sleep 0.02 &
    wait $!
done
"#;

/// A project with a pool of its own; whatever of it still runs at the end is killed.
pub(super) struct Yard {
    pub(super) root: tempfile::TempDir,
    pub(super) place: Place,
    pub(super) starter: Starter,
}

impl Yard {
    pub(super) fn new(linger: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let [project, bin, temp] = ["app", "bin", "tmp"].map(|name| {
            fs::create_dir(root.path().join(name)).unwrap();
            root.path().join(name)
        });
        let host = bin.join("host");
        fs::write(&host, HOST).unwrap();
        fs::set_permissions(&host, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(bin.join("release"), "").unwrap();
        let starter = Starter {
            program: std::env::current_exe().unwrap(),
            args: ["--exact", "embedded::tests::keeper::stand_in", "--nocapture"].map(OsString::from).into(),
            env: vec![(MARK.into(), format!("{}\n{linger}", root.path().display()).into())],
        };
        let place = Place::new(&root.path().join("state"), &project, None, &temp);
        Self { root, place, starter }
    }

    pub(super) async fn join(&self) -> Joined {
        join(&self.place, &self.starter, Presence::User, |_| {}).await.unwrap()
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.root.path().join("bin").join(name)
    }

    pub(super) fn events(&self) -> Vec<String> {
        fs::read_to_string(self.file("events")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.place.file("keeper.log")).unwrap_or_default()
    }

    pub(super) fn starts(&self) -> usize {
        self.log().matches("redis started").count()
    }

    pub(super) fn is_held(&self, lock: &str) -> bool {
        Lock::is_held(&self.place.file(lock)).unwrap()
    }

    pub(super) fn keeper(&self) -> Pid {
        Pid::from_raw(keeper_of(&self.place).unwrap().unwrap().pid)
    }

    /// The server that was started as the nth, from 1.
    pub(super) fn server(&self, nth: usize) -> Pid {
        let log = self.log();
        let line = log.split("redis started, process ").nth(nth).unwrap();
        Pid::from_raw(line.split(',').next().unwrap().parse().unwrap())
    }

    /// The hosts that ever started, by their process ids.
    pub(super) fn hosts(&self) -> Vec<Pid> {
        let events = self.events();
        let words = events.iter().filter_map(|line| line.strip_prefix("started "));
        words.map(|line| Pid::from_raw(line.split(' ').next().unwrap().parse().unwrap())).collect()
    }

    pub(super) async fn until(&self, what: &str, check: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !check(self) {
            assert!(Instant::now() < until, "never: {what}\n{:?}\n{}", self.events(), self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The server has been started so many times. It answers a little before its keeper says so.
    pub(super) async fn started(&self, times: usize) {
        self.until("a server's start", |yard| yard.starts() >= times).await;
        assert_eq!(self.starts(), times, "{}", self.log());
    }

    pub(super) async fn until_host(&self, nth: usize) -> Pid {
        self.until("a host", |yard| yard.hosts().len() >= nth).await;
        self.hosts()[nth - 1]
    }

    pub(super) async fn until_over(&self) {
        self.until("over", |yard| !["server.lock", "keeper.lock", "host.lock"].iter().any(|lock| yard.is_held(lock)))
            .await;
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && ["server.lock", "host.lock"].iter().any(|lock| self.is_held(lock)) {
            let keeper = keeper_of(&self.place).ok().flatten().map(|keeper| Pid::from_raw(keeper.pid));
            let host = self.is_held("host.lock").then(|| record::host_pid(&self.place)).flatten();
            for pid in [keeper, host].into_iter().flatten() {
                record::signal(pid, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub(super) fn lives(pid: Pid) -> bool {
    // A child that nobody waited for is no life.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

pub(super) fn options(root: &Path, linger: Duration) -> KeepOptions {
    KeepOptions {
        given: vec!["--slots=2".into()],
        slots: 2,
        linger,
        drain_timeout: Duration::from_secs(10),
        worker_bin: root.join("bin/host"),
        worker_args: vec!["--more".into()],
        worker_env: vec![],
        path: path(),
        host: true,
    }
}
