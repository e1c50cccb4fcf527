//! What is disturbed: hosts with their workers, each host with a way of its own to one Redis, whose clock can be moved;
//! clients and dispatchers with another way.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use motorpool::Pool;
use motorpool_tests::clock::Clock;
use motorpool_tests::faults::{Dice, children, signal};
use motorpool_tests::fleet::{Cli, Fleet};
use motorpool_tests::proxy::{Proxy, Way};
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::watcher::{Watcher, Whom};
use super::{COORDINATORS, bosses, orders};

/// What a host's workers are told apart by.
pub(crate) const LABEL: &str = "chaos-";

/// How much there is of everything.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Hosts.
    pub(crate) hosts: usize,
    /// Workers of each.
    pub(crate) slots: u32,
    /// Clients: every other one uses the command.
    pub(crate) clients: usize,
    /// Tasks of all of them.
    pub(crate) tasks: usize,
    /// The lease.
    pub(crate) lease_s: u64,
    /// Whether Redis may forget what it wrote last.
    pub(crate) forgets: bool,
}

/// A host and its way to Redis.
pub(crate) struct Host {
    /// Its process.
    pub(crate) pid: i32,
    /// What its workers are told apart by.
    pub(crate) label: String,
    /// Its way.
    pub(crate) way: Proxy,
}

impl Host {
    /// Its workers.
    pub(crate) fn workers(&self) -> Vec<i32> {
        let name = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // The kernel keeps fifteen characters.
        children(self.pid).into_iter().filter(|pid| name(pid).trim_end() == "motorpool-worke").collect()
    }
}

/// What a fault leaves behind for longer than itself.
enum Undo {
    Thaw(i32),
    Open(usize),
}

/// See the module.
pub(crate) struct Field {
    /// Redis, and what is started here.
    pub(crate) fleet: Fleet,
    /// Its clock.
    pub(crate) clock: Clock,
    /// The hosts.
    pub(crate) hosts: Vec<Host>,
    /// The way of clients and dispatchers.
    pub(crate) way: Proxy,
    /// Who looks at all this.
    pub(crate) watcher: Watcher,
    /// What clients were told.
    pub(crate) ledger: orders::Shared,
    /// What coordinators were told.
    pub(crate) bosses: Vec<bosses::Shared>,
    /// Where runs write.
    pub(crate) runs: PathBuf,
    /// How many tasks each client may have submitted by now.
    pub(crate) allowed: watch::Sender<usize>,
    /// Whether coordinators stop when nothing is left.
    pub(crate) done: watch::Sender<bool>,
    /// What is to be ended before the end.
    pub(crate) at_work: Vec<JoinHandle<()>>,
    /// As it was asked for.
    pub(crate) size: Size,
    slots: u32,
    lingering: Vec<(Instant, &'static str, Undo)>,
}

impl Field {
    /// Everything is started, and every worker is there; clients wait until they are allowed something. Redis gets these
    /// arguments besides its own.
    pub(crate) async fn new(size: Size, redis: &str, dice: &mut Dice) -> Self {
        let mut clock = None;
        let fleet = Fleet::with_servers(Cli::StandIn, size.lease_s, |root| {
            let (made, path) = Clock::new(&root.join("clock"), redis);
            clock = Some(made);
            path
        });
        let mut fleet = fleet.await;
        let runs = fleet.path("history");
        std::fs::create_dir(&runs).expect("a directory");
        fleet.env("CHAOS_HISTORY", &runs.display().to_string());
        let lease = Duration::from_secs(size.lease_s);
        let way = Proxy::before(fleet.server.socket()).await;
        let watcher = Watcher::of(fleet.server.url(), lease);
        let (allowed, done) = (watch::Sender::new(0), watch::Sender::new(false));
        let clock = clock.expect("it was made");
        let (ledger, slots) = (orders::Shared::default(), size.slots);
        let mut field = Self {
            fleet,
            clock,
            hosts: Vec::new(),
            way,
            watcher,
            ledger,
            bosses: Vec::new(),
            runs,
            allowed,
            done,
            at_work: Vec::new(),
            size,
            slots,
            lingering: Vec::new(),
        };
        for n in 0..size.hosts {
            let way = Proxy::before(field.fleet.server.socket()).await;
            field.hosts.push(Host { pid: 0, label: format!("{LABEL}{n}"), way });
            field.start_host(n);
        }
        field.fleet.all_joined(size.hosts * size.slots as usize).await;
        for n in 0..COORDINATORS {
            field.employ(n);
        }
        for n in 0..size.clients {
            field.open_for(n, dice);
        }
        field
    }

    /// Starts a host in the place of one that is gone.
    pub(crate) fn start_host(&mut self, n: usize) {
        self.fleet.env("MOTORPOOL_REDIS_URL", self.hosts[n].way.url());
        self.fleet.env("MOTORPOOL_LABELS", &self.hosts[n].label);
        self.hosts[n].pid = self.fleet.host(self.slots);
    }

    /// The environment of a client or dispatcher.
    fn variables(&self) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
        let mut env = self.fleet.variables(&["MOTORPOOL_REDIS_URL", "MOTORPOOL_LABELS"]);
        env.push(("MOTORPOOL_REDIS_URL".into(), self.way.url().into()));
        env
    }

    fn employ(&mut self, n: usize) {
        let told = bosses::Shared::default();
        let log = self.fleet.path(&format!("boss{n}.log"));
        let start = bosses::Start { env: self.variables(), work: self.fleet.work.clone(), log };
        self.at_work.push(tokio::spawn(bosses::wait(n, start, Arc::clone(&told), self.done.subscribe())));
        self.bosses.push(told);
    }

    fn open_for(&mut self, n: usize, dice: &mut Dice) {
        let orders = orders::orders(n, self.size.tasks / self.size.clients, self.size.forgets, dice);
        let client = if n.is_multiple_of(2) {
            // One try is one call: the client repeats it.
            let pool = Pool::builder(self.way.url()).patience(Duration::from_millis(1)).build();
            let behind = redis::Client::open(self.fleet.server.url()).expect("a good address");
            orders::Client::Library(pool.expect("a good address"), behind)
        } else {
            orders::Client::Command(self.variables(), self.fleet.work.clone())
        };
        let submitting = orders::submit(client, orders, self.allowed.subscribe(), Arc::clone(&self.ledger));
        self.at_work.push(tokio::spawn(submitting));
    }

    /// A worker by chance.
    pub(crate) fn a_worker(&self, dice: &mut Dice) -> Option<i32> {
        let workers = self.hosts[dice.one_of(self.hosts.len())].workers();
        (!workers.is_empty()).then(|| workers[dice.one_of(workers.len())])
    }

    /// A process stands still from now on for so long.
    pub(crate) fn freeze(&mut self, kind: &'static str, pid: i32, length: Duration) {
        self.watcher.seen().frozen.insert(pid);
        signal(pid, Signal::SIGSTOP);
        self.lingering.push((Instant::now() + length, kind, Undo::Thaw(pid)));
    }

    /// A host reaches nobody from now on for so long.
    pub(crate) fn cut_off(&mut self, kind: &'static str, n: usize, length: Duration) {
        self.watcher.seen().cut_off.insert(self.hosts[n].label.clone(), None);
        self.hosts[n].way.set(Way::Stopped);
        self.lingering.push((Instant::now() + length, kind, Undo::Open(n)));
    }

    /// Whether something of the kind goes on: two at a time are enough to be recovered from.
    pub(crate) fn is_burdened(&self) -> bool {
        self.lingering.len() >= 2
    }

    /// Whether a host is cut off.
    pub(crate) fn is_cut_off(&self, n: usize) -> bool {
        self.lingering.iter().any(|(_, _, undo)| matches!(undo, Undo::Open(other) if *other == n))
    }

    /// Ends what has lasted for long enough.
    pub(crate) fn mend(&mut self, all: bool) {
        let now = Instant::now();
        let (over, lingering) = std::mem::take(&mut self.lingering).into_iter().partition(|(at, ..)| all || *at <= now);
        self.lingering = lingering;
        let over: Vec<_> = over;
        for (_, kind, undo) in over {
            match undo {
                Undo::Thaw(pid) => {
                    signal(pid, Signal::SIGCONT);
                    self.watcher.over(kind, &Whom::Process(pid));
                    self.watcher.seen().frozen.remove(&pid);
                }
                Undo::Open(n) => {
                    self.hosts[n].way.set(Way::Open);
                    let label = self.hosts[n].label.clone();
                    self.watcher.over(kind, &Whom::Host(label.clone()));
                    // What waited on the way arrives by the next look but one.
                    self.watcher.seen().cut_off.insert(label, Some(now + Duration::from_secs(2)));
                }
            }
        }
    }
}
