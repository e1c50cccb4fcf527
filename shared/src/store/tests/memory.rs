//! A Redis without memory: new work is refused whole, what runs is brought to its end.

use super::worker::retry;
use super::{TestPool, submission};
use crate::domain::attempt::Verdict;
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::store::{host, task};

async fn maxmemory(pool: &TestPool, value: &str) {
    let _: () = pool.redis(redis::cmd("CONFIG").arg(&["SET", "maxmemory", value])).await;
}

#[tokio::test]
async fn a_full_redis_drains() {
    let server = super::server().await;
    for (name, twice) in [("once", false), ("twice", true)] {
        let pool = TestPool::named(&server.url(), name, twice);
        maxmemory(&pool, "0").await;
        pool.submit_all(vec![TaskOptions::default(); 8]).await;
        let mut worker = pool.join("w1").await;
        let (first, lost) = (worker.take().await, worker.take().await);
        pool.sweep("s").await;
        maxmemory(&pool, "1mb").await;
        let refused = pool.refused(&submission(vec![TaskOptions::default()])).await;
        assert!(refused[0].contains("no memory left") && refused[0].contains("maxmemory"), "{refused:?}");
        let defaults = host::defaults("0", &TaskOptions::default()).unwrap();
        assert!(pool.refused(&defaults).await[0].contains("no memory left"));

        assert_eq!(worker.beat(&first).await[0], "ok");
        assert_eq!(worker.finish(&first, &retry(0)).await, ["ok", "pending"]);
        let third = worker.take().await;
        let (told, fourth) = worker.step(&third, &Verdict::Complete).await;
        let fourth = fourth.expect("there are more");
        assert_eq!(told, ["ok", "completed"]);
        assert_eq!(pool.words(&task::cancellation(fourth.id, "x")).await, ["ok", "running"]);
        assert_eq!(pool.words(&task::cancellation("t6".parse().unwrap(), "x")).await, ["ok", "cancelled"]);
        assert_eq!(pool.words(&worker.presence("report")).await[0], "ok");
        pool.join("w2").await;
        pool.age("default", &lost.entry, 60_000).await;
        assert_eq!(pool.sweep("s").await.lost, 1);
        assert_eq!(pool.state(lost.id).await, State::Pending);
        assert_eq!(pool.field("meta", "full").await.as_deref(), Some("1"));

        maxmemory(&pool, "0").await;
        assert_eq!(pool.refused(&submission(vec![TaskOptions::default()])).await, ["memory"], "until the next sweep");
        pool.sweep("s").await;
        pool.submit(TaskOptions::default()).await;
        pool.examine().await;
    }
    server.stop().await;
}
