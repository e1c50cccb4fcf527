//! Joining a pool, starting it where none runs, and taking it down.
//!
//! Who joins owns nothing: a user's presence is a shared lock that ends with its process; a keeper that is started
//! here lives in a session of its own.
//! Not here: what a keeper does (`keeper.rs`).

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::lock::Lock;
use super::place::{Place, write_whole};
use super::server::{Ping, ping, socket_url};
use super::{log, record};
use crate::error::{Error, Result};
use crate::process;

/// How long a pool may take until it serves; reading its data does not count.
const START_MAX: Duration = Duration::from_secs(30);
/// What a pool that shuts down may take beyond its drain time.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(60);
/// After how long somebody is told that he waits.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// At most one keeper is started in this time.
const START_PACE: Duration = Duration::from_secs(1);
/// How long a host gets after it was told to end a second time.
const SECOND_MAX: Duration = Duration::from_secs(10);

/// How to start a keeper: a program that calls [`super::keep`] for the same place, and ends with code 0 if another
/// keeper runs. It is started in the project's directory.
#[derive(Clone, Debug)]
pub struct Starter {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to this process's own.
    pub env: Vec<(OsString, OsString)>,
}

/// As what one joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A dispatcher or command: the pool stays while it is there.
    User,
    /// A host or worker: it is part of the pool.
    Worker,
}

/// What [`Joined::ensure`] found or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// The pool runs; it may have been started.
    Running,
    /// The pool was ended, or is being ended, on purpose, and was left so: [`Joined::start`] brings it back.
    Ended,
}

/// Membership in a pool; a user's presence ends when it is dropped.
#[derive(Debug)]
pub struct Joined {
    place: Place,
    starter: Starter,
    _presence: Option<Lock>,
    last_start: Mutex<Option<Instant>>,
}

/// Joins the pool of a place, and starts it in the background if none runs. `waiting` is told, after 1 s, that a pool
/// which shuts down is waited for.
///
/// # Errors
/// The place is another's; the pool does not start (with the last lines of its keeper's log); a pool that shuts down
/// does not come to its end.
pub async fn join(
    place: &Place,
    starter: &Starter,
    presence: Presence,
    mut waiting: impl FnMut(&str),
) -> Result<Joined> {
    place.create()?;
    loop {
        let lock = enter(place, presence, &mut waiting).await?;
        let joined = Joined::new(place, starter, lock);
        if joined.bring_up().await? {
            return Ok(joined);
        }
    }
}

/// Joins the running pool of a place; `None` if none runs. `starter` is for [`Joined::ensure`] alone.
///
/// # Errors
/// The place is another's.
pub async fn find(place: &Place, starter: &Starter, presence: Presence) -> Result<Option<Joined>> {
    if !place.exists()? || Lock::is_held(&place.file("closing.lock"))? {
        return Ok(None);
    }
    let lock = match presence {
        Presence::Worker => None,
        Presence::User => match presence_lock(place)? {
            Some(lock) => Some(lock),
            None => return Ok(None),
        },
    };
    Ok((answer(place).await != Ping::Gone).then(|| Joined::new(place, starter, lock)))
}

/// Ends the pool of a place; false if none ran. It is a drain, so give it the drain time and some seconds.
///
/// # Errors
/// The place is another's; the deadline ran out (the pool goes on ending).
pub async fn stop(place: &Place, deadline: Duration) -> Result<bool> {
    if !place.exists()? {
        return Ok(false);
    }
    let until = Instant::now() + deadline;
    let held = |name: &str| Lock::is_held(&place.file(name));
    let (mut told, mut host_told, mut ran) = (None, None, false);
    while held("keeper.lock")? || held("server.lock")? || held("host.lock")? {
        if !ran {
            // So that nobody who finds the server gone brings it back.
            write_whole(&place.file("ended"), b"")?;
            ran = true;
        }
        if held("keeper.lock")? {
            let keeper = record::keeper_of(place)?.map(|keeper| (keeper.pid, keeper.started_ms));
            match (keeper, told) {
                (Some(keeper), None) => {
                    record::signal(Pid::from_raw(keeper.0), Signal::SIGTERM);
                    told = Some(keeper);
                }
                // Somebody who has work started the pool anew: ours is over.
                (Some(keeper), Some(told)) if keeper != told => return Ok(true),
                _ => {}
            }
        } else if held("host.lock")? {
            end_orphan(place, &mut host_told, until);
        }
        if Instant::now() >= until + SECOND_MAX + SECOND_MAX || (Instant::now() >= until && held("keeper.lock")?) {
            return Err(Error::timeout("the pool did not end in time")
                .hint(format!("it goes on ending; {} says how far it is", place.file("keeper.log").display())));
        }
        sleep(Duration::from_millis(50)).await;
    }
    // What a keeper that was killed left behind.
    if let Some(_server_lock) = Lock::try_exclusive(&place.file("server.lock"))?
        && let Some(socket) = place.socket()
    {
        let _ = std::fs::remove_file(socket);
    }
    Ok(ran)
}

/// Tells a host without a keeper to end: SIGTERM, at the deadline again, then SIGKILL.
fn end_orphan(place: &Place, told: &mut Option<u8>, until: Instant) {
    let now = Instant::now();
    let due = 1 + u8::from(now >= until) + u8::from(now >= until + SECOND_MAX);
    if told.is_none_or(|told| told < due)
        && let Some(pid) = record::host_pid(place)
    {
        record::signal(pid, if due == 3 { Signal::SIGKILL } else { Signal::SIGTERM });
        *told = Some(due);
    }
}

/// Waits until the pool is not shutting down, and takes a user's lock.
async fn enter(place: &Place, presence: Presence, waiting: &mut impl FnMut(&str)) -> Result<Option<Lock>> {
    let began = Instant::now();
    let drain = record::keeper_of(place)?.map_or(0, |keeper| keeper.drain_timeout_ms);
    let until = began + Duration::from_millis(drain).saturating_add(SHUTDOWN_MARGIN);
    let mut told = false;
    loop {
        let lock = presence_lock(place)?;
        if let Some(lock) = lock
            && !Lock::is_held(&place.file("closing.lock"))?
        {
            return Ok((presence == Presence::User).then_some(lock));
        }
        if !told && began.elapsed() >= TELL_AFTER {
            waiting("the pool is shutting down; waiting");
            told = true;
        }
        if Instant::now() >= until {
            return Err(Error::timeout("the pool is shutting down and does not come to its end")
                .hint(format!("{} says how far it is", place.file("keeper.log").display())));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn presence_lock(place: &Place) -> Result<Option<Lock>> {
    let lock = Lock::try_shared(&place.file("users.lock"))?;
    if let Some(lock) = &lock {
        lock.mark();
    }
    Ok(lock)
}

async fn answer(place: &Place) -> Ping {
    match place.socket() {
        Some(socket) => ping(&socket).await,
        None => Ping::Gone,
    }
}

impl Joined {
    fn new(place: &Place, starter: &Starter, presence: Option<Lock>) -> Self {
        Self { place: place.clone(), starter: starter.clone(), _presence: presence, last_start: Mutex::new(None) }
    }

    /// The pool's place.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The socket of the pool's server. Ask again at every reconnect: a new keeper may have chosen another.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.place.socket().unwrap_or_default()
    }

    /// The address of the pool's server, as [`Joined::socket`].
    #[must_use]
    pub fn url(&self) -> String {
        socket_url(&self.socket())
    }

    /// [`Joined::url`] as a question to be asked again and again; nothing where no socket is recorded.
    pub fn whereabouts(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let place = self.place.clone();
        move || place.socket().map(|socket| socket_url(&socket))
    }

    /// For reconnect loops of who still needs the pool: starts a new keeper where the pool is gone (at most one a
    /// second), and waits for it. A pool that was ended on purpose stays ended.
    ///
    /// # Errors
    /// As [`join`]; worth another try.
    pub async fn ensure(&self) -> Result<Ensured> {
        let on_purpose = Lock::is_held(&self.place.file("closing.lock"))?
            || (answer(&self.place).await == Ping::Gone && self.place.file("ended").exists());
        if on_purpose {
            return Ok(Ensured::Ended);
        }
        Ok(if self.bring_up().await? { Ensured::Running } else { Ensured::Ended })
    }

    /// Starts the pool where it is gone, also one that was ended on purpose; waits for one that shuts down.
    ///
    /// # Errors
    /// As [`join`].
    pub async fn start(&self, mut waiting: impl FnMut(&str)) -> Result<()> {
        loop {
            drop(enter(&self.place, Presence::User, &mut waiting).await?);
            if self.bring_up().await? {
                return Ok(());
            }
        }
    }

    /// Waits until the pool serves, and starts a keeper where none runs; false if it began to shut down meanwhile.
    async fn bring_up(&self) -> Result<bool> {
        // One attempt at a time in this process, one starting process at a time for the pool.
        let mut last_start = self.last_start.lock().await;
        let mut until = Instant::now() + START_MAX;
        let mut turn: Option<Lock> = None;
        let mut child: Option<(Child, u64)> = None;
        let mut pause = Duration::from_millis(5);
        loop {
            match answer(&self.place).await {
                Ping::Ready => return Ok(true),
                Ping::Busy => until = Instant::now() + START_MAX,
                Ping::Gone => {}
            }
            if Lock::is_held(&self.place.file("closing.lock"))? {
                return Ok(false);
            }
            // In this order: a keeper that ended no longer holds its lock.
            let ended = child.as_mut().and_then(|(keeper, from)| Some((keeper.try_wait().ok()??, *from)));
            let kept = Lock::is_held(&self.place.file("keeper.lock"))?;
            if let Some((status, from)) = ended {
                if !status.success() && !kept {
                    return Err(self.failure("the pool does not start", from));
                }
                child = None;
            }
            let paced = last_start.is_none_or(|last| last.elapsed() >= START_PACE);
            if !kept && child.is_none() && paced {
                turn = match turn {
                    Some(lock) => Some(lock),
                    None => Lock::try_exclusive(&self.place.file("start.lock"))?,
                };
                if turn.is_some() {
                    *last_start = Some(Instant::now());
                    child = Some(self.start_keeper()?);
                }
            }
            if Instant::now() >= until {
                let from = child.as_ref().map_or(0, |(_, from)| *from);
                return Err(self.failure("the pool did not start in time", from));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Starts a keeper in the background; with the length that its log had.
    fn start_keeper(&self) -> Result<(Child, u64)> {
        let program = &self.starter.program;
        let failed = |error: std::io::Error| Error::failed(format!("cannot start {}: {error}", program.display()));
        let file = self.place.file("keeper.log");
        let output = log::open(&file)?;
        let from = log::length(&file);
        let mut command = Command::new(program);
        command.args(&self.starter.args).envs(self.starter.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.place.project()).stdin(Stdio::null());
        command.stdout(output.try_clone().map_err(failed)?).stderr(output);
        process::own_session(&mut command);
        let child = tokio::process::Command::from(command).spawn().map_err(failed)?;
        Ok((child, from))
    }

    fn failure(&self, what: &str, from: u64) -> Error {
        let file = self.place.file("keeper.log");
        Error::redis(format!("{what}: {}", log::last_lines(&file, from))).hint(format!("its log is {}", file.display()))
    }
}
