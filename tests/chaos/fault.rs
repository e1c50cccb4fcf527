//! What is done to the field, and how often each of it.

use std::time::Duration;

use motorpool_tests::faults::{Dice, signal};
use motorpool_tests::proxy::{Direction, Proxy, Way};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::field::Field;
use super::watcher::{CALLS, RunOf, Whom};
use super::{bosses, orders};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    KillWorker,
    KillClaude,
    FreezeWorker,
    FreezeWorkerLong,
    KillHost,
    KillMachine,
    FreezeHost,
    KillDispatcher,
    FreezeDispatcher,
    KillClient,
    KillRedis,
    RedisDown,
    RedisDownLong,
    FreezeRedis,
    FreezeRedisLong,
    PauseRedis,
    StepClock,
    FullMemory,
    ForgetScripts,
    KillConnections,
    CutHost,
    CutAll,
    LoseReplies,
    RefuseHost,
    SlowHost,
    SlowAll,
    HalfOpenHost,
    OneWayHost,
    StopWay,
    CutOffHost,
    CutClients,
    LoseRepliesToClients,
    HalfOpenClients,
    SlowClients,
}

use Fault::*;

/// Each with its weight and its name in tables.
const FAULTS: &[(Fault, usize, &str)] = &[
    (KillWorker, 12, "worker killed"),
    (KillClaude, 4, "Claude killed"),
    (FreezeWorker, 4, "worker stopped for up to 1.5 s"),
    (FreezeWorkerLong, 2, "worker stopped for longer than the lease"),
    (KillHost, 2, "host killed"),
    (KillMachine, 2, "host and its workers killed"),
    (FreezeHost, 1, "host stopped for up to 1.5 s"),
    (KillDispatcher, 4, "dispatcher killed"),
    (FreezeDispatcher, 2, "dispatcher stopped for up to 1.5 s"),
    (KillClient, 4, "submitting command killed"),
    (KillRedis, 5, "Redis killed, started again at once"),
    (RedisDown, 2, "Redis killed, away for up to 2.5 s"),
    (RedisDownLong, 1, "Redis killed, away for longer than the lease"),
    (FreezeRedis, 3, "Redis stopped for up to 2.5 s"),
    (FreezeRedisLong, 1, "Redis stopped for longer than the lease"),
    (PauseRedis, 2, "Redis answers nobody for 0.8 s (CLIENT PAUSE)"),
    (StepClock, 4, "Redis's clock stepped, by up to two hours either way"),
    (FullMemory, 3, "Redis's memory full for up to 1.5 s"),
    (ForgetScripts, 2, "Redis forgets its scripts"),
    (KillConnections, 3, "Redis ends all connections"),
    (CutHost, 4, "connections of a host reset"),
    (CutAll, 2, "all connections reset"),
    (LoseReplies, 5, "each fourth reply to a host lost, with its connection, for up to 1.5 s"),
    (RefuseHost, 2, "a host reset and refused for 1 s"),
    (SlowHost, 2, "300 ms more on the way of a host, each way"),
    (SlowAll, 1, "150 ms more on all ways, each way"),
    (HalfOpenHost, 3, "connections of a host half open"),
    (OneWayHost, 3, "connections of a host half open one way"),
    (StopWay, 3, "a host's cable pulled for up to 1.5 s"),
    (CutOffHost, 2, "a host's cable pulled for longer than the lease"),
    (CutClients, 3, "connections of clients and dispatchers reset"),
    (
        LoseRepliesToClients,
        3,
        "each fourth reply to clients and dispatchers lost, with its connection, for up to 1.5 s",
    ),
    (HalfOpenClients, 2, "connections of clients and dispatchers half open"),
    (SlowClients, 1, "300 ms more on the way of clients, each way"),
];

fn up_to(dice: &mut Dice, most_ms: usize) -> Duration {
    Duration::from_millis((100 + dice.one_of(most_ms - 100)) as u64)
}

impl Fault {
    /// One by chance.
    pub(crate) fn by_chance(dice: &mut Dice) -> Self {
        let mut at = dice.one_of(FAULTS.iter().map(|(_, weight, _)| weight).sum());
        for (fault, weight, _) in FAULTS {
            if at < *weight {
                return *fault;
            }
            at -= weight;
        }
        KillWorker
    }

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        FAULTS.iter().find(|(fault, ..)| *fault == self).map_or("", |(_, _, name)| name)
    }

    /// Does it, and returns when it is over, or goes on by itself. False where there was nothing to do it to.
    pub(crate) async fn strike(self, field: &mut Field, dice: &mut Dice) -> bool {
        let host = dice.one_of(field.hosts.len());
        let longer_than_lease = Duration::from_secs(field.size.lease_s + 2);
        match self {
            KillWorker | FreezeWorker | FreezeWorkerLong => {
                let Some(pid) = field.a_worker(dice) else { return false };
                match self {
                    KillWorker => {
                        field.watcher.seen().killed.insert(pid);
                        signal(pid, Signal::SIGKILL);
                    }
                    FreezeWorker => stopped(pid, up_to(dice, 1500)).await,
                    _ if field.is_burdened() => return false,
                    _ => {
                        field.freeze(self.name(), pid, longer_than_lease);
                        return true;
                    }
                }
                field.watcher.over(self.name(), &Whom::Process(pid));
            }
            KillClaude => {
                // What it has started is not concerned: a run without its tool would be well.
                let is_claude = |pid: &i32| {
                    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "fake-claude")
                };
                let claudes: Vec<i32> = field.fleet.claudes().into_iter().filter(is_claude).collect();
                if claudes.is_empty() {
                    return false;
                }
                let claude = claudes[dice.one_of(claudes.len())];
                let Some(run) = run_of(claude) else { return false };
                field.watcher.seen().failed.insert(run);
                signal(claude, Signal::SIGKILL);
                field.watcher.over(self.name(), &Whom::Nobody);
            }
            KillHost | KillMachine => {
                let pid = field.hosts[host].pid;
                if self == KillMachine {
                    // The host first, or it would see its workers end.
                    signal(pid, Signal::SIGSTOP);
                    for worker in field.hosts[host].workers() {
                        field.watcher.seen().killed.insert(worker);
                        signal(worker, Signal::SIGKILL);
                    }
                }
                field.fleet.kill(pid, Signal::SIGKILL);
                let label = field.hosts[host].label.clone();
                field.watcher.over(self.name(), &Whom::Host(label));
                field.start_host(host);
            }
            FreezeHost => {
                stopped(field.hosts[host].pid, up_to(dice, 1500)).await;
                field.watcher.over(self.name(), &Whom::Nobody);
            }
            KillDispatcher | FreezeDispatcher => {
                let boss = dice.one_of(field.bosses.len());
                let Some(pid) = bosses::open(&field.bosses[boss]).pid else { return false };
                match self {
                    KillDispatcher => signal(pid, Signal::SIGKILL),
                    _ => stopped(pid, up_to(dice, 1500)).await,
                }
                field.watcher.over(self.name(), &Whom::Nobody);
            }
            KillClient => {
                let until = Instant::now() + Duration::from_millis(500);
                let pid = loop {
                    if let Some(pid) = orders::open(&field.ledger).submitting.iter().next().copied() {
                        break pid;
                    }
                    if Instant::now() > until {
                        return false;
                    }
                    sleep(Duration::from_millis(5)).await;
                };
                // Anywhere between its start and its end.
                sleep(Duration::from_millis(dice.one_of(30) as u64)).await;
                if !orders::open(&field.ledger).submitting.contains(&pid) {
                    return false;
                }
                signal(pid, Signal::SIGKILL);
                field.watcher.over(self.name(), &Whom::Nobody);
            }
            KillRedis | RedisDown | RedisDownLong | FreezeRedis | FreezeRedisLong | PauseRedis | StepClock
            | FullMemory | ForgetScripts | KillConnections => self.strike_redis(field, dice, longer_than_lease).await,
            _ => return self.strike_way(field, dice, host, longer_than_lease).await,
        }
        true
    }

    async fn strike_redis(self, field: &mut Field, dice: &mut Dice, longer_than_lease: Duration) {
        field.watcher.seen().away = Some(Instant::now());
        match self {
            KillRedis | RedisDown | RedisDownLong => {
                field.fleet.redis_down().await;
                match self {
                    RedisDown => sleep(up_to(dice, 2500)).await,
                    RedisDownLong => sleep(longer_than_lease).await,
                    _ => {}
                }
                field.fleet.redis_up().await;
            }
            FreezeRedis => stopped(field.fleet.redis_pid(), up_to(dice, 2500)).await,
            FreezeRedisLong => stopped(field.fleet.redis_pid(), longer_than_lease).await,
            StepClock => {
                const STEPS_S: [i64; 5] = [-3600, -30, 0, 30, 3600];
                let now_s = field.clock.step_ms() / 1000;
                let others: Vec<i64> = STEPS_S.into_iter().filter(|step| *step != now_s).collect();
                field.clock.set_ms(others[dice.one_of(others.len())] * 1000);
            }
            FullMemory => {
                let before = tell(field, &["CONFIG", "GET", "maxmemory"]).await;
                let before = before.get(1).cloned().expect("a size");
                tell(field, &["CONFIG", "SET", "maxmemory", "1mb"]).await;
                sleep(up_to(dice, 1500)).await;
                tell(field, &["CONFIG", "SET", "maxmemory", &before]).await;
            }
            PauseRedis => {
                let mut connection = field.fleet.redis().await;
                let mut pause = redis::cmd("CLIENT");
                pause.arg(&["PAUSE", "800", "ALL"]);
                pause.query_async::<()>(&mut connection).await.expect("Redis obeys");
                // It ends by Redis's own clock: one that is set back before would keep it for ever.
                let until = Instant::now() + Duration::from_secs(10);
                while let Err(error) = redis::cmd("PING").query_async::<()>(&mut connection).await {
                    assert!(Instant::now() < until, "Redis is still paused: {error}");
                }
            }
            ForgetScripts => _ = tell(field, &["SCRIPT", "FLUSH"]).await,
            _ => _ = tell(field, &["CLIENT", "KILL", "TYPE", "normal"]).await,
        }
        field.watcher.seen().away = Some(Instant::now());
        field.watcher.over(self.name(), &Whom::All);
    }

    async fn strike_way(self, field: &mut Field, dice: &mut Dice, host: usize, longer_than_lease: Duration) -> bool {
        if field.is_cut_off(host) {
            return false;
        }
        let label = field.hosts[host].label.clone();
        let way = &field.hosts[host].way;
        let (mut whom, length) = (Whom::Host(label.clone()), up_to(dice, 1500));
        match self {
            CutHost => way.cut(),
            LoseReplies => lose_replies(way, length).await,
            RefuseHost => {
                way.refuse(true);
                way.cut();
                sleep(Duration::from_secs(1)).await;
                way.refuse(false);
            }
            SlowHost => {
                way.set(Way::Slow(Duration::from_millis(300)));
                sleep(length).await;
                way.set(Way::Open);
            }
            StopWay => {
                way.set(Way::Stopped);
                sleep(length).await;
                way.set(Way::Open);
            }
            HalfOpenHost | OneWayHost => {
                // A call may hang on it for longer than a lease: what it has claimed is lost.
                field.watcher.seen().cut_off.insert(label, Some(Instant::now() + CALLS));
                match (self, dice.one_of(2)) {
                    (HalfOpenHost, _) => way.half_open(&[Direction::Up, Direction::Down]),
                    (_, 0) => way.half_open(&[Direction::Up]),
                    _ => way.half_open(&[Direction::Down]),
                }
            }
            CutOffHost => {
                if field.is_burdened() {
                    return false;
                }
                field.cut_off(self.name(), host, longer_than_lease);
                return true;
            }
            CutAll => {
                whom = Whom::All;
                field.hosts.iter().for_each(|host| host.way.cut());
                field.way.cut();
            }
            SlowAll => {
                whom = Whom::All;
                let slow = Way::Slow(Duration::from_millis(150));
                let open: Vec<_> = (0..field.hosts.len()).filter(|host| !field.is_cut_off(*host)).collect();
                let set = |to: Way| open.iter().for_each(|host| field.hosts[*host].way.set(to));
                set(slow);
                sleep(length).await;
                set(Way::Open);
            }
            CutClients => {
                whom = Whom::Nobody;
                field.way.cut();
            }
            LoseRepliesToClients => {
                whom = Whom::Nobody;
                lose_replies(&field.way, length).await;
            }
            HalfOpenClients => {
                whom = Whom::Nobody;
                field.way.half_open(&[Direction::Up, Direction::Down]);
            }
            _ => {
                whom = Whom::Nobody;
                field.way.set(Way::Slow(Duration::from_millis(300)));
                sleep(length).await;
                field.way.set(Way::Open);
            }
        }
        field.watcher.over(self.name(), &whom);
        true
    }
}

/// The run that a process belongs to, by its mark.
fn run_of(pid: i32) -> Option<RunOf> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mark = environ.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"MOTORPOOL_RUN="))?;
    let mut parts = std::str::from_utf8(mark).ok()?.split('/').skip(1);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What is called is done, and its caller does not hear of it, one time in four.
async fn lose_replies(way: &Proxy, length: Duration) {
    way.set_one(Direction::Down, Way::Lossy(4));
    sleep(length).await;
    way.set_one(Direction::Down, Way::Open);
}

async fn stopped(pid: i32, length: Duration) {
    signal(pid, Signal::SIGSTOP);
    sleep(length).await;
    signal(pid, Signal::SIGCONT);
}

/// Tells Redis something, behind everybody's back.
async fn tell(field: &Field, words: &[&str]) -> Vec<String> {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    let answer: redis::Value = command.query_async(&mut field.fleet.redis().await).await.expect("Redis obeys");
    redis::from_redis_value(answer).unwrap_or_default()
}
