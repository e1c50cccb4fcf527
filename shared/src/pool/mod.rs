//! The verbs of a pool, for faces and programs: [`Pool`]; and those of a worker: [`Seat`] and [`Lease`].
//!
//! A call is repeated on a new connection until it is answered, within the caller's patience: every call may be made
//! twice without a second effect. Not here: what an answer looks like on a screen, and anything that knows Redis.

mod attempt;
mod events;
mod feed;
mod fleet;
mod group;
mod host;
mod lease;
mod news;
mod outbox;
mod retry;
mod review;
mod route;
mod run;
mod sweep;
mod task;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;
use uuid::Uuid;

use crate::domain::ids::{Id, Name};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::script::{Call, CallError, Reply};

pub use attempt::Seat;
pub use events::{Events, Logged, Since};
pub use feed::Notice;
pub use fleet::{LaneStatus, PoolStatus, Redis};
pub use group::{GroupView, Known, Member, SubmittedGroup};
pub use host::{HostSeat, Scaled};
pub use lease::{Beat, Claim, Lease};
pub use news::{News, NewsMark, Unseen};
pub use review::Verdict as ReviewVerdict;
pub use route::{Routed, Router};
pub use run::{Control, Output};
pub use task::{Page, Submitted};
pub use watch::{Glance, Notices, Watch};

pub use crate::store::connect::Whereabouts;

/// The longest wait between two tries to reach Redis, so that every holder of a run beats within the grace.
pub(crate) const LONGEST_BACKOFF: Duration = Duration::from_secs(2);
/// How long a call is repeated before its caller is told that Redis is away.
const PATIENCE: Duration = Duration::from_secs(10);
/// The lease where nobody says another.
pub const LEASE: Duration = Duration::from_secs(15);

/// What is done while Redis is away: the embedded pool starts its keeper anew.
pub type Revive = Arc<dyn Fn() + Send + Sync>;

/// A pool: everything under one key prefix of a Redis. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    lease: Duration,
    patience: Duration,
    revive: Option<Revive>,
    feed: OnceCell<feed::Feed>,
    /// Who sweeps, where this process does.
    name: String,
    /// Whether Redis has answered this process.
    was_in: AtomicBool,
    /// When this process last looked whether anybody sweeps.
    tended: Mutex<Option<Instant>>,
    /// How long this pool's workers may be silent, as a sweep told it; 0 before one did.
    lease_told_ms: AtomicU64,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("redis", &self.redis()).finish_non_exhaustive()
    }
}

/// How to reach a pool.
#[derive(Clone)]
pub struct PoolBuilder {
    url: String,
    name: Name,
    lease: Duration,
    patience: Duration,
    revive: Option<Revive>,
    whereabouts: Option<Whereabouts>,
}

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PoolBuilder {
    /// The pool's name; `default` unless said.
    #[must_use]
    pub fn name(mut self, name: Name) -> Self {
        self.name = name;
        self
    }

    /// The lease where the pool has none yet: how long a worker may be silent.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long a call is repeated while Redis is away; 10 s unless said.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What is done each time a call finds Redis away.
    #[must_use]
    pub fn revive(mut self, revive: Revive) -> Self {
        self.revive = Some(revive);
        self
    }

    /// Where the Redis is by now, for one that may move, as an embedded pool's does when its socket's directory goes.
    #[must_use]
    pub fn whereabouts(mut self, whereabouts: Whereabouts) -> Self {
        self.whereabouts = Some(whereabouts);
        self
    }

    /// Contacts Redis and refuses one that is out of reach, too old, or evicts keys.
    pub async fn connect(self) -> Result<Pool> {
        let pool = self.build()?;
        pool.inner.store.connector.check().await?;
        pool.inner.was_in.store(true, Ordering::SeqCst);
        Ok(pool)
    }

    /// Without contacting Redis: for processes that go on trying.
    pub fn build(self) -> Result<Pool> {
        let store = Store::new(&self.url, &self.name, self.whereabouts)?;
        let inner = Inner {
            store,
            lease: self.lease,
            patience: self.patience,
            revive: self.revive,
            feed: OnceCell::new(),
            name: format!("client-{}", Uuid::new_v4().simple()),
            was_in: AtomicBool::new(false),
            tended: Mutex::new(None),
            lease_told_ms: AtomicU64::new(0),
        };
        Ok(Pool { inner: Arc::new(inner) })
    }
}

impl Pool {
    /// The pool `default` of the Redis at this URL.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder(url).connect().await
    }

    /// A pool of the Redis at this URL, with settings.
    #[must_use]
    pub fn builder(url: &str) -> PoolBuilder {
        PoolBuilder {
            url: url.to_owned(),
            name: Name::default(),
            lease: LEASE,
            patience: PATIENCE,
            revive: None,
            whereabouts: None,
        }
    }

    /// The Redis it lives in, without its password.
    #[must_use]
    pub fn redis(&self) -> String {
        self.store().connector.shown()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn lease_ms(&self) -> u64 {
        u64::try_from(self.inner.lease.as_millis()).unwrap_or(u64::MAX)
    }

    /// An id for a pool that has none yet.
    pub(crate) fn pool_id_if_none() -> String {
        Uuid::new_v4().to_string()
    }

    pub(crate) fn found_away(&self) {
        if let Some(revive) = &self.inner.revive {
            revive();
        }
    }

    /// Calls a script until it is answered, within the patience.
    pub(crate) async fn ask(&self, call: &Call) -> Result<Reply> {
        self.patiently(move || self.store().call(call)).await
    }

    /// Repeats what Redis did not answer, within the patience. A password that does not do any more is waited for like
    /// a Redis that is away; one that never did is told at once.
    pub(crate) async fn patiently<T, F>(&self, ask: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let until = Instant::now() + self.inner.patience;
        let mut backoff = Backoff::default();
        loop {
            match ask().await {
                Ok(answer) => {
                    self.inner.was_in.store(true, Ordering::SeqCst);
                    return Ok(answer);
                }
                Err(CallError::Refused(error)) => return Err(error),
                Err(error @ (CallError::Away(_) | CallError::Locked(_))) => {
                    let pause = backoff.next();
                    let is_out = matches!(error, CallError::Locked(_)) && !self.inner.was_in.load(Ordering::SeqCst);
                    if is_out || Instant::now() + pause >= until {
                        return Err(self.store().connector.explain(error));
                    }
                    self.found_away();
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// Waits between tries: 50 ms doubling to [`LONGEST_BACKOFF`], each shortened by chance, so that many do not come at
/// the same instant.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    pub(crate) fn next(&mut self) -> Duration {
        let full = Duration::from_millis(50 << self.tries.min(6)).min(LONGEST_BACKOFF);
        self.tries += 1;
        full.mul_f64(0.5 + chance() / 2.0)
    }
}

/// A number from 0 to 1, by chance.
pub(crate) fn chance() -> f64 {
    let random = Uuid::new_v4().as_u128() as u32;
    f64::from(random) / f64::from(u32::MAX)
}

/// What is said of an id that nobody knows.
pub(crate) fn unknown(id: impl Into<Id>) -> Error {
    let id = id.into();
    let what = match id {
        Id::Task(_) => "task",
        Id::Group(id) => id.kind.word(),
    };
    Error::refused(format!("no {what} {id}")).hint(format!("`{}` shows what there is", id.listed_by()))
}
