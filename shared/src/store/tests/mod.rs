//! The scripts against a real Redis of their own: one file a script.
//!
//! Each test runs twice: as it stands, and with every call that may be repeated made two times, which asserts that the
//! second answers as the first did and changes nothing. Not here: the invariants themselves (`doctor.rs`), which are
//! examined after every test.

mod account;
mod after;
mod beat;
mod cancel;
mod check;
mod claim;
mod finish;
mod group;
mod host;
mod locked_out;
mod lost_reply;
mod memory;
mod model;
mod moved;
mod opening;
mod presence;
mod proxy;
mod queue;
mod refusals;
mod repair;
mod retention;
mod review;
mod seen;
mod set;
mod step;
mod submit;
mod sweep;
mod timing;
mod walk;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::domain::ids::{Name, TaskId};
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::domain::task::{Record, Spec};
use crate::embedded::Server;
use crate::store::Store;
use crate::store::event::START;
use crate::store::script::{Call, CallError, Reply};
use crate::store::sweep::Swept;
use crate::store::{submission, task};
use worker::Hand;

/// A pool in a Redis of its own; checked against the invariants when the test is over.
pub(crate) struct TestPool {
    pub(crate) store: Store,
    /// Every call that may be repeated is made two times.
    twice: bool,
}

/// What PEXPIRETIME says of a key that has expired since it was listed.
const GONE: i64 = -2;

/// Every key of a pool: what it holds, and when it expires.
pub(crate) type Dump = BTreeMap<String, (Vec<u8>, i64)>;

/// A Redis of a test's own, which does not wait for the disk.
pub(crate) async fn server() -> Server {
    let server = Server::temporary().await.expect("a private Redis starts");
    let pool = TestPool::named(&server.url(), "none", false);
    let _: () = pool.redis(redis::cmd("CONFIG").arg(&["SET", "appendonly", "no"])).await;
    server
}

/// Runs a test on a new pool, then checks the invariants; then again with every call made two times.
pub(crate) async fn pool_test(test: impl AsyncFn(&TestPool)) {
    let server = server().await;
    for (name, twice) in [("once", false), ("twice", true)] {
        let pool = TestPool::named(&server.url(), name, twice);
        test(&pool).await;
        pool.examine().await;
    }
    server.stop().await;
}

impl TestPool {
    pub(crate) fn named(url: &str, name: &str, twice: bool) -> Self {
        let name: Name = name.parse().expect("a name");
        Self { store: Store::new(url, &name, None).expect("its URL does"), twice }
    }

    pub(crate) async fn examine(&self) {
        let findings = self.store.examine().await.expect("the pool can be examined");
        assert_eq!(findings.broken, Vec::<String>::new());
        assert_eq!(findings.unchecked, Vec::<String>::new());
    }

    pub(crate) async fn call(&self, call: &Call) -> Reply {
        let repeated = self.twice
            && matches!(
                call.name(),
                "submit" | "claim" | "beat" | "finish" | "step" | "cancel" | "presence" | "judge" | "host"
            );
        if !repeated {
            return self.store.call(call).await.expect("Redis answers");
        }
        // A sign of life carries no number: at one and the same time it is one and the same.
        let is_presence = matches!(call.name(), "presence" | "host");
        let stops = is_presence && !self.clock_is_stopped().await;
        if stops {
            self.stop_clock().await;
        }
        let reply = self.store.call(call).await.expect("Redis answers");
        let before = self.dump().await;
        if !is_presence {
            self.forward(7).await;
        }
        let again = self.store.call(call).await.expect("Redis answers");
        assert_eq!(outcome(call, &again), outcome(call, &reply), "{} made again", call.name());
        self.assert_same(&before, &self.dump().await, &format!("{} made again", call.name()));
        if stops {
            let _: i64 = self.redis(redis::cmd("DEL").arg(self.key("test:stopped"))).await;
        }
        reply
    }

    /// Each value of a reply, the word first.
    pub(crate) async fn words(&self, call: &Call) -> Vec<String> {
        words(&self.call(call).await)
    }

    pub(crate) async fn submit(&self, options: TaskOptions) -> TaskId {
        self.submit_all(vec![options]).await[0].0
    }

    pub(crate) async fn submit_all(&self, options: Vec<TaskOptions>) -> Vec<(TaskId, bool)> {
        task::submitted(&self.call(&submission(options)).await).expect("they are taken")
    }

    /// A task whose losses follow this ladder.
    pub(crate) async fn submit_with_ladder(&self, max_attempts: u32, if_lost: &str) -> TaskId {
        task::submitted(&self.call(&raw_submission(max_attempts, if_lost)).await).expect("it is taken")[0].0
    }

    /// A worker that joins, serving the lane `default`.
    pub(crate) async fn join(&self, worker: &str) -> Hand<'_> {
        let hand = Hand::new(self, worker);
        assert_eq!(self.words(&hand.presence("join")).await[0], "ok");
        hand
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.store.keys.prefix())
    }

    pub(crate) async fn field(&self, key: &str, field: &str) -> Option<String> {
        self.redis(redis::cmd("HGET").arg(self.key(key)).arg(field)).await
    }

    pub(crate) async fn set_field(&self, key: &str, field: &str, value: &str) {
        let _: i64 = self.redis(redis::cmd("HSET").arg(self.key(key)).arg(field).arg(value)).await;
    }

    pub(crate) async fn hash(&self, key: &str) -> HashMap<String, String> {
        self.redis(redis::cmd("HGETALL").arg(self.key(key))).await
    }

    pub(crate) async fn exists(&self, key: &str) -> bool {
        self.redis(redis::cmd("EXISTS").arg(self.key(key))).await
    }

    pub(crate) async fn record(&self, id: TaskId) -> Record {
        self.store.task(id).await.expect("Redis answers").expect("there is such a task")
    }

    pub(crate) async fn state(&self, id: TaskId) -> State {
        self.record(id).await.state
    }

    /// The log of a task as `from cause to run`, oldest first.
    pub(crate) async fn log(&self, id: TaskId) -> Vec<String> {
        let log = self.store.log_since(START, 10_000).await.expect("Redis answers");
        let mine = log.entries.into_iter().map(|entry| entry.event).filter(|event| event.task == id);
        mine.map(|event| format!("{} {} {} {}", event.from.map_or("-", State::word), event.cause, event.to, event.run))
            .collect()
    }

    pub(crate) async fn last_event(&self, id: TaskId) -> String {
        self.log(id).await.pop().unwrap_or_default()
    }

    /// Tokens that stand for a lane.
    pub(crate) async fn tokens(&self, lane: &str) -> u64 {
        self.redis(redis::cmd("LLEN").arg(self.store.keys.wake(lane))).await
    }

    pub(crate) async fn take_token(&self, lane: &str) {
        let _: Option<String> = self.redis(redis::cmd("LPOP").arg(self.store.keys.wake(lane))).await;
    }

    /// Moves the pool's clock.
    pub(crate) async fn forward(&self, ms: i64) {
        self.steer(&["INCRBY", &self.store.keys.clock_offset(), &ms.to_string()]).await;
        if self.clock_is_stopped().await {
            self.steer(&["INCRBY", &self.key("test:stopped"), &ms.to_string()]).await;
        }
    }

    /// A command that passes even where Redis has no memory left.
    async fn steer(&self, command: &[&str]) {
        let script = "#!lua flags=allow-oom\nreturn redis.call(unpack(ARGV))";
        let _: redis::Value = self.redis(redis::cmd("EVAL").arg(script).arg("1").arg(command[1]).arg(command)).await;
    }

    /// The pool's time, in milliseconds since 1970.
    pub(crate) async fn now_ms(&self) -> i64 {
        let stopped: Option<i64> = self.redis(redis::cmd("GET").arg(self.key("test:stopped"))).await;
        if let Some(now_ms) = stopped {
            return now_ms;
        }
        let (seconds, micros): (i64, i64) = self.redis(&redis::cmd("TIME")).await;
        let offset: Option<i64> = self.redis(redis::cmd("GET").arg(self.store.keys.clock_offset())).await;
        seconds * 1000 + micros / 1000 + offset.unwrap_or(0)
    }

    async fn clock_is_stopped(&self) -> bool {
        self.exists("test:stopped").await
    }

    /// From now on the pool's clock stands still but for [`Self::forward`]: for a test that counts seconds.
    pub(crate) async fn stop_clock(&self) {
        let now_ms = self.now_ms().await;
        self.steer(&["SET", &self.key("test:stopped"), &now_ms.to_string()]).await;
    }

    /// Makes an entry look as if it had been idle for so long.
    pub(crate) async fn age(&self, lane: &str, entry: &str, ms: u64) {
        let key = self.store.keys.lane(lane, "normal");
        let _: redis::Value = self
            .redis(redis::cmd("XCLAIM").arg(key).arg(&["workers", "w", "0", entry, "IDLE", &ms.to_string(), "JUSTID"]))
            .await;
    }

    pub(crate) async fn redis<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let mut connection = self.store.connector.pooled().await.expect("Redis answers");
        command.query_async(&mut *connection).await.expect("Redis obeys")
    }

    /// Sweeps as `process`, which takes the place of the sweeper, and again without whatever grace there was: what
    /// both did together.
    pub(crate) async fn sweep(&self, process: &str) -> Swept {
        // The first sweep of a server notes its run id and the time of the call, and may begin a grace.
        let first = self.sweep_in_grace(process).await;
        let _: i64 = self.redis(redis::cmd("HDEL").arg(self.key("meta")).arg("grace")).await;
        let second = self.sweep_in_grace(process).await;
        Swept {
            due: first.due + second.due,
            lost: first.lost + second.lost,
            repaired: first.repaired + second.repaired,
            removed: first.removed + second.removed,
            dead: first.dead + second.dead,
            lease_ms: second.lease_ms,
        }
    }

    /// Sweeps once as `process`, which takes the place of the sweeper.
    pub(crate) async fn sweep_in_grace(&self, process: &str) -> Swept {
        self.steer(&["SET", &self.key("sweeper"), process]).await;
        let reply = self.call(&super::sweep::sweep(process)).await;
        super::sweep::swept(&reply).expect("it sweeps").expect("it is the sweeper")
    }

    /// Every key of the pool but those that steer the test.
    pub(crate) async fn dump(&self) -> Dump {
        let pattern = format!("{}*", self.store.keys.prefix());
        let mut keys: Vec<String> = self.redis(redis::cmd("KEYS").arg(pattern)).await;
        keys.retain(|key| !key.starts_with(&self.key("test:")));
        let mut dump = Dump::new();
        for page in keys.chunks(1000) {
            let mut connection = self.store.connector.pooled().await.expect("Redis answers");
            let mut kinds = redis::pipe();
            for key in page {
                kinds.cmd("TYPE").arg(key);
            }
            let kinds: Vec<String> = kinds.query_async(&mut *connection).await.expect("Redis obeys");
            let mut pipe = redis::pipe();
            for (key, kind) in page.iter().zip(&kinds) {
                match kind.as_str() {
                    "hash" => pipe.cmd("HGETALL").arg(key),
                    "set" => pipe.cmd("SMEMBERS").arg(key),
                    _ => pipe.cmd("DUMP").arg(key),
                };
                pipe.cmd("PEXPIRETIME").arg(key);
            }
            let values: Vec<redis::Value> = pipe.query_async(&mut *connection).await.expect("Redis obeys");
            for ((key, kind), pair) in page.iter().zip(kinds).zip(values.chunks(2)) {
                let expires: i64 = redis::from_redis_value(pair[1].clone()).expect("a time");
                if expires == GONE || kind == "none" {
                    continue;
                }
                // The order in which a table gives its members changes by itself, while it grows into another one.
                let bytes = match kind.as_str() {
                    "hash" => {
                        let fields: BTreeMap<String, String> =
                            redis::from_redis_value(pair[0].clone()).expect("fields");
                        format!("{fields:?}").into_bytes()
                    }
                    "set" => {
                        let members: BTreeSet<String> = redis::from_redis_value(pair[0].clone()).expect("members");
                        format!("{members:?}").into_bytes()
                    }
                    _ => redis::from_redis_value(pair[0].clone()).expect("DUMP gives bytes"),
                };
                dump.insert(key.clone(), (bytes, expires));
            }
        }
        dump
    }

    /// A call that is to be refused: its words; the pool is byte for byte as it was.
    pub(crate) async fn refused(&self, call: &Call) -> Vec<String> {
        let before = self.dump().await;
        let words = match self.store.call(call).await {
            Ok(reply) => words(&reply),
            Err(CallError::Locked(error) | CallError::Refused(error)) => vec![error.to_string()],
            Err(CallError::Away(message)) => panic!("{message}"),
        };
        self.assert_same(&before, &self.dump().await, &format!("{words:?}"));
        words
    }

    pub(crate) fn assert_same(&self, before: &Dump, after: &Dump, what: &str) {
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        // It lives for two seconds.
        let has_ended = |key: &str| key == self.key("sweeper") && !after.contains_key(key);
        let changed = |key: &&&String| before.get(**key) != after.get(**key) && !has_ended(key);
        let changed: Vec<&&String> = keys.iter().filter(changed).collect();
        assert!(changed.is_empty(), "{what} changed {changed:?}");
    }

    /// With a schema of another version in place, a call is refused.
    pub(crate) async fn refuses_foreign_schema(&self, call: &Call) {
        self.set_field("meta", "schema", "99").await;
        assert_eq!(self.refused(call).await, ["schema", "99"]);
        self.set_field("meta", "schema", super::keys::SCHEMA).await;
    }
}

/// Some tasks as one call.
pub(crate) fn submission(options: Vec<TaskOptions>) -> Call {
    let specs = options.into_iter().map(|options| Spec::new("a prompt", options).expect("the options do"));
    submission::submission(&specs.collect::<Vec<_>>(), "pool-1", 15_000, true).expect("the tasks do")
}

/// One task with a ladder that Rust does not write yet.
pub(crate) fn raw_submission(max_attempts: u32, if_lost: &str) -> Call {
    timed_submission(max_attempts, if_lost, "normal", [0, 0], "", "cancel")
}

/// The same with a priority, a delay and the time that it may wait for a start, in milliseconds.
pub(crate) fn timed_submission(
    max_attempts: u32,
    if_lost: &str,
    priority: &str,
    times: [u64; 2],
    after: &str,
    after_failure: &str,
) -> Call {
    let key = uuid::Uuid::new_v4().to_string();
    Call::new("submit")
        .arg("pool-1")
        .arg("15000")
        .arg("1000")
        .arg(&key)
        .arg("1")
        .arg("1")
        .arg(&key)
        .arg(r#"{"prompt":"a prompt"}"#)
        .arg("default")
        .arg(priority)
        .number(max_attempts)
        .arg(if_lost)
        .arg("")
        .arg("")
        .number(times[0])
        .number(times[1])
        .arg("a prompt")
        .arg(after)
        .arg(after_failure)
        .arg("task")
        .arg("")
}

pub(crate) fn words(reply: &Reply) -> Vec<String> {
    (0..reply.len()).map(|at| reply.text(at).to_owned()).collect()
}

/// What of a reply a repeated call has to give again: word, ids, run; not the news, nor times.
fn outcome(call: &Call, reply: &Reply) -> Vec<String> {
    let mut words = words(reply);
    let news_at = match call.name() {
        "claim" => 1,
        "beat" => 2,
        "step" => 3,
        _ => return words,
    };
    for at in (news_at..news_at + 4).chain([news_at + 12]) {
        if let Some(word) = words.get_mut(at) {
            word.clear();
        }
    }
    words
}
