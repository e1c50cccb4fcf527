//! The keeper: holds the server and the host of a pool together, and ends the pool when nobody needs it.
//!
//! It decides nothing that its successor could not decide again from the locks: it may be killed at any instant.
//! Not here: how it comes to run (`join.rs`), what counts as unfinished (its caller's question to the store).

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::event::{End, Event, KeepOptions};
use super::host::Host;
use super::lock::{self, Lock};
use super::place::Place;
use super::record::{self, KeeperRecord};
use super::server::{Server, ServerOptions};
use crate::error::{Error, Result};

/// How long a dying server of an earlier keeper may hold its lock.
const TAKE_OVER_MAX: Duration = Duration::from_secs(15);
/// How long who only looks at a lock may be in the way.
const GLANCE_MAX: Duration = Duration::from_millis(500);
/// How long the count of unfinished tasks may take.
const COUNT_MAX: Duration = Duration::from_secs(5);
/// How long a pool stays at least if nobody was ever there: who started it may be about to join.
const UNSEEN_MIN: Duration = Duration::from_secs(3);
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A server that lived this long ended for a new reason: the pauses begin anew.
const HEALTHY: Duration = Duration::from_secs(60);
/// What a host gets beyond the drain time, and what it gets after the second SIGTERM.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);
const SECOND_MAX: Duration = Duration::from_secs(10);

/// Keeps a pool until it is idle or told to stop. `unfinished` counts the tasks that wait, are delayed, held or
/// running, in the Redis whose address it is given. `stop` drains; `hurry`, after it, no longer waits for running tasks.
///
/// # Errors
/// The place is another's; the server does not start the first time (later it is started again for ever); the pool's
/// directory was removed.
pub async fn keep<U, F>(
    place: &Place,
    options: &KeepOptions,
    unfinished: U,
    events: impl FnMut(Event),
    stop: impl Future<Output = ()>,
    hurry: impl Future<Output = ()>,
) -> Result<End>
where
    U: FnMut(String) -> F,
    F: Future<Output = Result<u64>>,
{
    place.create()?;
    let Some(keeper_lock) = Lock::exclusive_within(&place.file("keeper.lock"), GLANCE_MAX).await? else {
        return Ok(End::AlreadyRunning);
    };
    let Some(server_lock) = Lock::exclusive_within(&place.file("server.lock"), TAKE_OVER_MAX).await? else {
        return Ok(End::AlreadyRunning);
    };
    let mut keeper = Keeper::new(place, options, unfinished, events, server_lock);
    keeper.write_record(None)?;
    let mut stop = std::pin::pin!(stop);
    let begun = tokio::select! {
        begun = keeper.start_server() => begun.map(|()| true),
        // A server that is just being started is killed; it has nothing that is not on disk.
        () = &mut stop => Ok(false),
    };
    let ended = match begun {
        // A host that is there may be in the middle of work: it is left to the next keeper.
        Err(error) => {
            let _ = fs::remove_file(place.file("keeper.json"));
            return Err(error);
        }
        Ok(false) => Ok((End::Stopped, None)),
        Ok(true) => tokio::select! {
            ended = keeper.run() => ended,
            // As above; everything else is looked at again at the end.
            () = &mut stop => Ok((End::Stopped, None)),
        },
    };
    let (end, users) = match ended {
        Ok((end, users)) => (Ok(end), users),
        Err(error) => (Err(error), None),
    };
    let doors = keeper.shut_down(*end.as_ref().unwrap_or(&End::Stopped), users, hurry).await;
    // Who waits at the doors must find both locks free.
    drop(keeper);
    drop(keeper_lock);
    drop(doors);
    end
}

/// Locks that keep joiners out while a pool ends.
type Doors = (Option<Lock>, Option<Lock>);

enum Serving {
    Up { server: Box<Server>, since: Instant },
    Down { next: Instant },
}

struct Keeper<'a, U, E> {
    place: &'a Place,
    options: &'a KeepOptions,
    unfinished: U,
    events: E,
    server_lock: Lock,
    serving: Serving,
    pause: Duration,
    host: Host,
    started: Instant,
    /// The same by the clock on the wall, which may be set meanwhile: who waits for this keeper's end knows it by this.
    started_ms: u64,
    idle_since: Option<Instant>,
    /// The users' last mark that was seen.
    mark: Option<SystemTime>,
    seen_user: bool,
    /// The last count of unfinished tasks.
    count: Option<u64>,
}

impl<'a, U, E, F> Keeper<'a, U, E>
where
    U: FnMut(String) -> F,
    F: Future<Output = Result<u64>>,
    E: FnMut(Event),
{
    fn new(place: &'a Place, options: &'a KeepOptions, unfinished: U, events: E, server_lock: Lock) -> Self {
        Self {
            place,
            options,
            unfinished,
            events,
            server_lock,
            serving: Serving::Down { next: Instant::now() },
            pause: PAUSE_MIN,
            host: Host::new(),
            started: Instant::now(),
            started_ms: record::now_ms(),
            idle_since: None,
            mark: lock::marked(&place.file("users.lock")),
            seen_user: false,
            count: None,
        }
    }

    async fn run(&mut self) -> Result<(End, Option<Lock>)> {
        // Only now: who waits for a pool that was ended must not take it for a new one too early.
        let _ = fs::remove_file(self.place.file("ended"));
        let pace = (self.options.linger / 4).clamp(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            if !self.place.exists()? || !self.server_lock.is_at(&self.place.file("server.lock")) {
                let dir = self.place.dir().display();
                return Err(Error::failed(format!("the pool's directory {dir} was removed")));
            }
            self.serve().await;
            if self.options.host {
                self.host.look(self.place, self.options, &mut self.events)?;
            }
            if let Some(users) = self.idle().await? {
                return Ok((End::Idle, Some(users)));
            }
            let next = Instant::now() + pace;
            let next = self.host.due().filter(|_| self.options.host).map_or(next, |due| due.min(next));
            tokio::select! {
                // Each is looked at again in the next round, so losing one loses nothing.
                () = sleep_until(next) => {}
                () = self.host.ended() => {}
                () = server_ended(&mut self.serving) => {}
            }
        }
    }

    /// One look at the server: one that ended, or whose socket is gone, is started again after a pause.
    async fn serve(&mut self) {
        if let Serving::Up { server, since } = &mut self.serving {
            let why = if server.has_ended() {
                server.ended().await
            } else if server.socket().exists() {
                return;
            } else {
                "its socket was removed".into()
            };
            self.pause = if since.elapsed() >= HEALTHY { PAUSE_MIN } else { self.pause };
            self.down(why).await;
        }
        if let Serving::Down { next } = self.serving
            && Instant::now() >= next
            && let Err(error) = self.start_server().await
        {
            self.down(error.to_string()).await;
        }
    }

    async fn down(&mut self, why: String) {
        let next = Instant::now() + self.pause;
        if let Serving::Up { server, .. } = std::mem::replace(&mut self.serving, Serving::Down { next }) {
            server.stop().await;
        }
        (self.events)(Event::ServerEnded { why, retry_in: self.pause });
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    async fn start_server(&mut self) -> Result<()> {
        let socket = self.place.choose_socket()?;
        let options = ServerOptions {
            dir: self.place.dir().to_owned(),
            socket: socket.clone(),
            path: self.options.path.clone(),
            lock: Some(self.server_lock.share()?),
        };
        // Before it answers, since then joiners read it.
        self.write_record(Some(socket))?;
        let server = Server::start(options).await?;
        (self.events)(Event::ServerStarted { pid: server.pid().unwrap_or_default(), url: server.url() });
        self.serving = Serving::Up { server: Box::new(server), since: Instant::now() };
        Ok(())
    }

    /// The users' lock, if nobody has been there and nothing was to do for the linger time: nobody can join then.
    async fn idle(&mut self) -> Result<Option<Lock>> {
        if !self.is_idle().await? {
            self.idle_since = None;
            return Ok(None);
        }
        let now = Instant::now();
        let since = *self.idle_since.get_or_insert(now);
        if now - since < self.options.linger || (!self.seen_user && self.started.elapsed() < UNSEEN_MIN) {
            return Ok(None);
        }
        // A last look behind closed doors: somebody may have come, left work and gone in between.
        let Some(users) = Lock::try_exclusive(&self.place.file("users.lock"))? else { return Ok(None) };
        let quiet = lock::marked(&self.place.file("users.lock")) == self.mark && self.count_unfinished().await == 0;
        Ok(quiet.then_some(users))
    }

    async fn is_idle(&mut self) -> Result<bool> {
        let users = self.place.file("users.lock");
        if Lock::try_exclusive(&users)?.is_none() {
            self.seen_user = true;
            return Ok(false);
        }
        let mark = lock::marked(&users);
        if mark != self.mark && self.mark.is_some() {
            self.mark = mark;
            self.seen_user = true;
            return Ok(false);
        }
        self.mark = mark;
        Ok(self.count_unfinished().await == 0)
    }

    /// How many tasks are unfinished; while the server cannot say, as many as it last said.
    async fn count_unfinished(&mut self) -> u64 {
        if let Serving::Up { server, .. } = &self.serving
            && let Ok(Ok(count)) = timeout(COUNT_MAX, (self.unfinished)(server.url())).await
        {
            self.count = Some(count);
        }
        // Never told: there may be work.
        self.count.unwrap_or(1)
    }

    /// Ends host and server, the server last: workers hand back what they have.
    async fn shut_down(&mut self, end: End, users: Option<Lock>, hurry: impl Future<Output = ()>) -> Doors {
        let file = |name: &str| self.place.file(name);
        let closing = Lock::exclusive_within(&file("closing.lock"), GLANCE_MAX).await.ok().flatten();
        let users = users.or_else(|| Lock::try_exclusive(&file("users.lock")).ok().flatten());
        let _ = fs::write(file("ended"), "");
        (self.events)(Event::Draining { end, within: self.options.drain_timeout });
        self.end_host(hurry).await;
        if let Serving::Up { server, .. } = std::mem::replace(&mut self.serving, Serving::Down { next: Instant::now() })
        {
            server.stop().await;
        }
        if let Some(socket) = self.place.socket() {
            let _ = fs::remove_file(socket);
        }
        let _ = fs::remove_file(self.place.file("keeper.json"));
        (closing, users)
    }

    async fn end_host(&mut self, hurry: impl Future<Output = ()>) {
        let mut hurry = std::pin::pin!(hurry);
        let mut hurried = false;
        let mut until = Instant::now() + self.options.drain_timeout.saturating_add(DRAIN_MARGIN);
        let mut next =
            [(Signal::SIGTERM, SECOND_MAX, "SIGTERM again"), (Signal::SIGKILL, SECOND_MAX, "SIGKILL")].iter();
        self.host.signal(self.place, Signal::SIGTERM);
        while !self.host.is_gone(self.place) {
            if Instant::now() >= until {
                let Some((signal, patience, words)) = next.next() else { return };
                self.host.signal(self.place, *signal);
                (self.events)(Event::HostSlow { signal: words });
                until = Instant::now() + *patience;
            }
            // Workers that hand back their tasks need a server.
            self.serve().await;
            tokio::select! {
                () = sleep(Duration::from_millis(50)) => {}
                () = &mut hurry, if !hurried => {
                    hurried = true;
                    until = Instant::now();
                }
            }
        }
    }

    fn write_record(&self, socket: Option<PathBuf>) -> Result<()> {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        record::write_keeper(
            self.place,
            &KeeperRecord {
                pid: std::process::id().cast_signed(),
                started_ms: self.started_ms,
                socket,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                slots: self.options.slots,
                linger_ms: ms(self.options.linger),
                drain_timeout_ms: ms(self.options.drain_timeout),
                given: self.options.given.clone(),
            },
        )
    }
}

async fn server_ended(serving: &mut Serving) {
    match serving {
        Serving::Up { server, .. } => drop(server.ended().await),
        Serving::Down { next } => sleep_until(*next).await,
    }
}
