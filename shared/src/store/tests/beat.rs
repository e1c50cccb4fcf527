//! beat: the fence, the idle time, the figures, the news.

use super::pool_test;
use super::worker::Hand;
use crate::domain::attempt::Verdict;
use crate::domain::options::TaskOptions;
use crate::store::attempt::{self, Held, Progress};

#[tokio::test]
async fn a_beat_keeps_the_lease_and_tells_how_it_goes() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions::default()).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        pool.age("default", &held.entry, 14_000).await;
        let call = worker.beat_call(&held, 1234);
        assert_eq!(pool.words(&call).await[..2], ["ok", "0"]);
        let lane = pool.store.keys.lane("default", "normal");
        let pending: Vec<(String, String, u64, u64)> =
            pool.redis(redis::cmd("XPENDING").arg(lane).arg(&["workers", "-", "+", "10"])).await;
        assert!(pending[0].2 < 10_000, "{pending:?}");
        let record = pool.record(id).await;
        assert_eq!((record.cost_microusd, record.tool.as_deref()), (1234, Some("Bash(ls)")));
        assert_eq!(record.runs[0].session_id.as_deref(), Some("s1"));
        assert!((record.heard_ms.unwrap() as i64 - pool.now_ms().await).abs() < 60_000);
        assert_eq!(pool.log(id).await.len(), 2, "a beat is no event");
    })
    .await;
}

#[tokio::test]
async fn a_session_once_told_is_not_forgotten() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions::default()).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        worker.beat(&held).await;
        worker.call += 1;
        let silent = Progress::default();
        pool.call(&attempt::beat("w1", worker.call, &held, &silent, "0")).await;
        worker.finish(&held, &Verdict::Complete).await;
        assert_eq!(pool.record(id).await.runs[0].session_id.as_deref(), Some("s1"));
    })
    .await;
}

#[tokio::test]
async fn the_cost_is_absolute_and_goes_both_ways() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions::default()).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        let two_53 = 1u64 << 53;
        for (told, booked) in [
            (5, 5),
            (3, 3),
            (0, 0),
            (100_000_000_000_001, 100_000_000_000_001),
            (two_53 - 1, two_53 - 1),
            (two_53 + 1, two_53 + 1),
            (two_53 + 3, two_53 + 3),
            (u64::MAX, 10_000_000_000_000_000),
            (7, 7),
        ] {
            let call = worker.beat_call(&held, told);
            pool.call(&call).await;
            let record = pool.record(id).await;
            assert_eq!((record.cost_microusd, record.runs[0].cost_microusd), (booked, booked), "{told}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_beat_hears_that_the_task_is_to_stop() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions::default()).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        pool.call(&crate::store::task::cancellation(id, "enough")).await;
        assert_eq!(worker.beat(&held).await[..2], ["ok", "1"]);
    })
    .await;
}

/// The ways in which a holder is none: each with the word it hears.
pub(super) fn not_held(held: &Held, other: &Held) -> Vec<(&'static str, Held, &'static str)> {
    let no_entry = Held { entry: "1-1".into(), ..held.clone() };
    let other_entry = Held { entry: other.entry.clone(), ..held.clone() };
    let unknown = Held { id: "t999".parse().unwrap(), ..held.clone() };
    vec![
        ("no entry", no_entry, "stale"),
        ("the entry of its other run", other_entry, "stale"),
        ("an unknown task", unknown, "unknown"),
    ]
}

#[tokio::test]
async fn the_fence_lets_nobody_else_through() {
    pool_test(async |pool| {
        pool.submit_all(vec![TaskOptions::default(); 2]).await;
        let (mut worker, mut other) = (pool.join("w1").await, pool.join("w2").await);
        let (held, second) = (worker.take().await, worker.take().await);
        worker.beat(&held).await;
        for (what, held, word) in not_held(&held, &second) {
            assert_eq!(pool.refused(&worker.beat_call(&held, 9)).await[0], word, "{what}");
        }
        assert_eq!(pool.refused(&other.beat_call(&held, 9)).await, ["stale", "running"]);
        assert_eq!(pool.refused(&Hand::new(pool, "w9").beat_call(&held, 9)).await, ["unknown", "w9"]);
        worker.finish(&second, &Verdict::Complete).await;
        let mut late = pool.join("w3").await;
        worker.call = 20;
        worker.beat(&held).await;
        worker.call = 5;
        assert_eq!(pool.refused(&worker.beat_call(&held, 9)).await, ["superseded", "21"]);
        worker.call = 30;
        pool.refuses_foreign_schema(&worker.beat_call(&held, 9)).await;
        // An operator deletes the consumer: the entry stands there, but it is nobody's.
        let lane = pool.store.keys.lane("default", "normal");
        let _: i64 = pool.redis(redis::cmd("XGROUP").arg("DELCONSUMER").arg(&lane).arg(&["workers", "w"])).await;
        assert_eq!(pool.refused(&worker.beat_call(&held, 9)).await, ["stale", "running"]);
        assert_eq!(pool.sweep("s").await.repaired, 1);
        let again = late.take().await;
        assert_eq!(again.run, 2);
        assert_eq!(pool.refused(&worker.beat_call(&held, 9)).await, ["stale", "running"]);
        late.finish(&again, &Verdict::Complete).await;
        assert_eq!(pool.refused(&worker.beat_call(&held, 9)).await, ["stale", "completed"]);
        // No group at all.
        let _: i64 = pool.redis(redis::cmd("DEL").arg(&lane)).await;
        assert_eq!(pool.refused(&worker.beat_call(&held, 9)).await, ["stale", "completed"]);
    })
    .await;
}
