//! The scripts against a real Redis of their own: one file a script.

mod walk;

use std::collections::BTreeMap;

use crate::domain::ids::{Name, TaskId};
use crate::domain::options::TaskOptions;
use crate::domain::task::Spec;
use crate::embedded::Server;
use crate::store::Store;
use crate::store::script::{Call, CallError, Reply};
use crate::store::sweep;
use crate::store::task;

/// A pool in a Redis of its own; checked against the invariants when the test is over.
pub(crate) struct TestPool {
    pub(crate) store: Store,
    server: Server,
}

/// Runs a test on a new pool, then checks the invariants.
pub(crate) async fn pool_test(test: impl AsyncFnOnce(&TestPool)) {
    let server = Server::temporary().await.expect("a private Redis starts");
    let store = Store::new(&server.url(), &Name::default()).expect("its URL does");
    let pool = TestPool { store, server };
    test(&pool).await;
    let findings = pool.store.examine().await.expect("the pool can be examined");
    assert_eq!(findings.broken, Vec::<String>::new());
    assert_eq!(findings.unchecked, Vec::<String>::new());
    pool.server.stop().await;
}

impl TestPool {
    pub(crate) async fn call(&self, call: &Call) -> Reply {
        self.store.call(call).await.expect("Redis answers")
    }

    /// Each value of a reply, the word first.
    pub(crate) async fn words(&self, call: &Call) -> Vec<String> {
        let reply = self.call(call).await;
        (0..reply.len()).map(|at| reply.text(at).to_owned()).collect()
    }

    pub(crate) async fn submit(&self, options: TaskOptions) -> TaskId {
        let spec = Spec::new("a prompt", options).expect("the options do");
        let call = task::submission(&[spec], "pool-1", 15_000).expect("the task does");
        task::submitted(&self.call(&call).await).expect("it is taken")[0].0
    }

    pub(crate) async fn join(&self, worker: &str) {
        let presence = super::fleet::Presence { lanes: vec!["default".into()], ..Default::default() };
        self.call(&super::fleet::presence(worker, "join", "pool-1", 15_000, &presence)).await;
    }

    /// Moves the pool's clock.
    pub(crate) async fn forward(&self, ms: i64) {
        let _: i64 = self.redis(redis::cmd("INCRBY").arg(self.store.keys.clock_offset()).arg(ms)).await;
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

    /// Sweeps once as `process`, which takes the place of the sweeper. The grace of a pool that just began is over.
    pub(crate) async fn sweep(&self, process: &str) -> sweep::Swept {
        let meta = format!("{}meta", self.store.keys.prefix());
        let sweeper = format!("{}sweeper", self.store.keys.prefix());
        let _: () = self.redis(redis::cmd("SET").arg(sweeper).arg(process)).await;
        // The first sweep of a server notes its run id and the time of the call, and may begin a grace.
        self.call(&sweep::sweep(process)).await;
        let _: i64 = self.redis(redis::cmd("HDEL").arg(meta).arg("grace")).await;
        sweep::swept(&self.call(&sweep::sweep(process)).await).expect("it sweeps").expect("it is the sweeper")
    }

    /// Every key of the pool as DUMP gives it.
    pub(crate) async fn dump(&self) -> BTreeMap<String, Vec<u8>> {
        let pattern = format!("{}*", self.store.keys.prefix());
        let keys: Vec<String> = self.redis(redis::cmd("KEYS").arg(pattern)).await;
        let mut dump = BTreeMap::new();
        for key in keys {
            dump.insert(key.clone(), self.redis(redis::cmd("DUMP").arg(&key)).await);
        }
        dump
    }

    /// A call that is to be refused: its words; the pool is byte for byte as it was.
    pub(crate) async fn refused(&self, call: &Call) -> Vec<String> {
        let before = self.dump().await;
        let words = match self.store.call(call).await {
            Ok(reply) => (0..reply.len()).map(|at| reply.text(at).to_owned()).collect(),
            Err(CallError::Refused(error)) => vec![error.to_string()],
            Err(CallError::Away(message)) => panic!("{message}"),
        };
        assert!(self.dump().await == before, "{words:?} changed the pool");
        words
    }
}
