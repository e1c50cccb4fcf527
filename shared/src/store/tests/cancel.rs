//! cancel: in every state.

use super::pool_test;
use super::worker::{failure, retry};
use crate::domain::attempt::Verdict;
use crate::domain::options::TaskOptions;
use crate::domain::state::State;
use crate::store::task::cancellation;

#[tokio::test]
async fn what_does_not_run_is_over_at_once() {
    pool_test(async |pool| {
        let mut worker = pool.join("w1").await;
        let delayed = pool.submit(TaskOptions::default()).await;
        let held = worker.take().await;
        worker.finish(&held, &retry(1000)).await;
        let pending = pool.submit(TaskOptions::default()).await;
        for (id, event) in [(pending, "pending cancel cancelled 0"), (delayed, "delayed cancel cancelled 1")] {
            assert_eq!(pool.words(&cancellation(id, "not needed")).await, ["ok", "cancelled"]);
            let record = pool.record(id).await;
            assert_eq!((record.state, record.reason.as_deref()), (State::Cancelled, Some("not needed")));
            assert!(record.ended_ms.is_some() && record.entry.is_none());
            assert_eq!(pool.last_event(id).await, event);
        }
        let mut timers: Vec<String> = pool.redis(redis::cmd("ZRANGE").arg(pool.key("retain")).arg(&["0", "-1"])).await;
        timers.sort();
        assert_eq!(timers, [delayed.to_string(), pending.to_string()]);
        assert!(worker.claim().await.is_none());
        pool.forward(2000).await;
        assert_eq!(pool.sweep("s").await.due, 0, "its timer is gone");
    })
    .await;
}

#[tokio::test]
async fn what_runs_is_asked_once_and_its_worker_hears_of_it() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions::default()).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        let mut control = pool.store.connector.listen(&pool.store.keys.ctl("w1")).await.unwrap();
        assert_eq!(pool.words(&cancellation(id, "first")).await, ["ok", "running"]);
        assert_eq!(control.next().await, Some(format!("cancel {id}")));
        assert_eq!(pool.refused(&cancellation(id, "second")).await, ["ok", "running"], "the first reason stands");
        assert_eq!(pool.log(id).await.len(), 2);
        assert_eq!(worker.finish(&held, &Verdict::Cancel(String::new())).await, ["ok", "cancelled"]);
        assert_eq!(pool.record(id).await.reason.as_deref(), Some("first"));
    })
    .await;
}

#[tokio::test]
async fn what_is_over_stays_as_it_is() {
    pool_test(async |pool| {
        let mut worker = pool.join("w1").await;
        for (verdict, state) in [
            (Verdict::Complete, "completed"),
            (Verdict::Fail(failure()), "failed"),
            (Verdict::Cancel("x".into()), "cancelled"),
        ] {
            let id = pool.submit(TaskOptions::default()).await;
            let held = worker.take().await;
            worker.finish(&held, &verdict).await;
            assert_eq!(pool.refused(&cancellation(id, "late")).await, ["ok", state]);
        }
        assert_eq!(pool.refused(&cancellation("t99".parse().unwrap(), "x")).await, ["unknown", "t99"]);
        pool.refuses_foreign_schema(&cancellation("t1".parse().unwrap(), "x")).await;
    })
    .await;
}

#[tokio::test]
async fn a_lost_worker_leaves_a_cancelled_tree_unverified() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions::default()).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        pool.call(&cancellation(id, "enough")).await;
        pool.age("default", &held.entry, 60_000).await;
        assert_eq!(pool.sweep("s").await.lost, 1);
        let record = pool.record(id).await;
        assert_eq!((record.state, record.reason.as_deref()), (State::Cancelled, Some("enough (tree: unverified)")));
        assert_eq!(pool.last_event(id).await, "running cancel cancelled 1");
        assert_eq!(worker.finish(&held, &Verdict::Complete).await, ["stale", "cancelled"]);
    })
    .await;
}
