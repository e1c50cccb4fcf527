//! The host: keeps N workers alive on this machine, more or fewer when it is told, and drains them at its end.
//!
//! A worker is told to drain when its host dies, so a new host never adds to the workers of an old one. Not here: what
//! a worker does (`slot.rs`), who keeps the host (`motorpool::embedded`), one slot (`keep.rs`).

mod board;
mod keep;
mod presence;
pub mod restart;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use motorpool::embedded::{self, Joined, Ping};
use motorpool::names::OwnName;
use motorpool::{Pool, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::process::reap_orphans;
use crate::stop::{Renewals, Stop, Stopping};
use board::{Board, Standing, surplus};
use keep::{Keeper, Order, Start};
use presence::{Place, Wanted};

/// Where a worker writes why it ends: the name of a file, for its host.
pub const LAST_WORDS: &str = "MOTORPOOL_LAST_WORDS";
/// How long it is waited for who is idle.
const WHO_IS_IDLE: Duration = Duration::from_secs(3);

/// How many workers a host may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many where nobody said otherwise.
    pub slots: u32,
    /// No fewer.
    pub min: u32,
    /// No more.
    pub max: u32,
}

impl Bounds {
    fn bound(self, count: u32) -> u32 {
        count.clamp(self.min, self.max.max(self.min))
    }
}

/// What a host keeps.
pub struct Options {
    /// How many workers.
    pub bounds: Bounds,
    /// After so many bad ends within a minute a slot is given up.
    pub max_restarts: u32,
    /// The worker's program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables that it gets besides the host's own.
    pub env: Vec<(OsString, OsString)>,
    /// The pool that it is in.
    pub pool: Pool,
    /// The first free one of the host's names from a number on.
    pub name: Box<dyn Fn(u32) -> Result<OwnName>>,
    /// The embedded pool that it belongs to: brought back when its keeper was killed.
    pub joined: Option<Joined>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

/// Keeps the workers until it is told to stop; returns when all of them are gone.
///
/// At each of `renewals` every worker is told to finish what it runs and to end, and a new one is started in its place,
/// from the program as it lies on the disk by then.
///
/// # Errors
/// The host can have no name: its state directory cannot be written to.
pub async fn keep(options: Options, mut stopping: Stopping, renewals: Option<Renewals>) -> Result<()> {
    let bounds = options.bounds;
    let (mut place, first) = Place::take(&options.pool, bounds, &options.name).await?;
    tracing::info!(host = place.name.name(), slots = first.count, "keeps workers");
    let board = Board::new();
    let (wanted, mut hears) = watch::channel(first);
    let mut slots = Slots {
        host: place.name.name().to_owned(),
        words: place.name.file("said"),
        start: Rc::new(Start { program: options.program, args: options.args, env: options.env }),
        board: board.clone(),
        pool: options.pool,
        max_restarts: options.max_restarts,
        stopping: stopping.clone(),
        renewals,
        orders: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    let report = place.keep(&board, bounds, &wanted);
    let watch = watch(options.joined.as_ref());
    let keep = async {
        slots.adjust(first).await;
        loop {
            tokio::select! {
                _ = hears.changed() => {}
                Some(gone) = slots.tasks.join_next() => {
                    if let Ok(n) = gone {
                        slots.orders.remove(&n);
                    }
                }
                _ = stopping.at_least(Stop::Drain) => break,
            }
            let now = *hears.borrow_and_update();
            slots.adjust(now).await;
        }
        while slots.tasks.join_next().await.is_some() {}
    };
    tokio::select! {
        () = keep => {}
        // These two never return; cancelled they lose a look at the pool, which is about to end.
        () = watch => {}
        () = report => {}
    }
    place.leave().await;
    Ok(())
}

/// Once a second: orphans that ended are reaped, and the pool's server is brought back where its keeper died; a pool
/// that was ended on purpose stays ended.
async fn watch(joined: Option<&Joined>) {
    loop {
        sleep(Duration::from_secs(1)).await;
        reap_orphans();
        if let Some(joined) = joined
            && embedded::ping(&joined.socket()).await == Ping::Gone
            && let Err(error) = joined.ensure().await
        {
            tracing::warn!(%error, "the pool's server is gone and does not come back yet");
        }
    }
}

/// The slots of a host.
struct Slots {
    host: String,
    words: PathBuf,
    start: Rc<Start>,
    board: Board,
    pool: Pool,
    max_restarts: u32,
    stopping: Stopping,
    renewals: Option<Renewals>,
    orders: BTreeMap<u32, watch::Sender<Order>>,
    tasks: JoinSet<u32>,
}

impl Slots {
    /// As many slots are kept as are wanted: those on their way out are kept first, then new ones are made; of too many
    /// the idle go first, and the busy when they have finished.
    async fn adjust(&mut self, wanted: Wanted) {
        for order in self.orders.values() {
            order.send_if_modified(|order| std::mem::replace(&mut order.told, wanted.told) != wanted.told);
        }
        let kept: Vec<u32> = self.kept().collect();
        let count = wanted.count as usize;
        if kept.len() > count {
            let standings = self.standings(&kept).await;
            for n in surplus(&standings, kept.len() - count) {
                self.order(n, false);
            }
            return;
        }
        let mut missing = count - kept.len();
        let leaving: Vec<u32> = self.orders.keys().copied().filter(|n| !kept.contains(n)).collect();
        for n in leaving.into_iter().take(missing) {
            self.order(n, true);
            missing -= 1;
        }
        for _ in 0..missing {
            let Some(n) = (1..).find(|n| !self.orders.contains_key(n)) else { return };
            self.add(n, wanted.told);
        }
    }

    fn kept(&self) -> impl Iterator<Item = u32> {
        self.orders.iter().filter(|(_, order)| order.borrow().keep).map(|(n, _)| *n)
    }

    fn order(&self, n: u32, keep: bool) {
        if let Some(order) = self.orders.get(&n) {
            order.send_modify(|order| order.keep = keep);
        }
    }

    fn add(&mut self, n: u32, told: u64) {
        let (orders, receiver) = watch::channel(Order { keep: true, told });
        let mut words = self.words.clone().into_os_string();
        words.push(format!("-{n}"));
        let keeper = Keeper {
            n,
            name: format!("{}-{n}", self.host),
            start: Rc::clone(&self.start),
            board: self.board.clone(),
            orders: receiver,
            stopping: self.stopping.clone(),
            renewals: self.renewals.clone(),
            max_restarts: self.max_restarts,
            words: words.into(),
        };
        self.orders.insert(n, orders);
        self.tasks.spawn_local(async move {
            keeper.keep().await;
            n
        });
    }

    /// What each slot does, as far as the pool says: who is not known to it has no task.
    async fn standings(&self, kept: &[u32]) -> Vec<(u32, Standing)> {
        let workers = match timeout(WHO_IS_IDLE, self.pool.workers()).await {
            Ok(Ok(workers)) => workers,
            _ => Vec::new(),
        };
        let standing = |n: u32| {
            let Some(slot) = self.board.get(n) else { return Standing::Empty };
            let Some(pid) = slot.pid else { return Standing::Empty };
            let worker = workers.iter().find(|worker| worker.slot == slot.name && worker.pid == pid);
            if worker.is_some_and(|worker| worker.task.is_some()) { Standing::Busy } else { Standing::Idle }
        };
        kept.iter().map(|n| (*n, standing(*n))).collect()
    }
}
