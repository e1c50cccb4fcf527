//! When a task's turn comes: priority, age, delay, and how long it may wait.

use super::{TestPool, pool_test};
use crate::domain::attempt::{Class, Verdict};
use crate::domain::ids::TaskId;
use crate::domain::options::{Priority, TaskOptions};
use crate::domain::state::State;

const MINUTE_MS: i64 = 60_000;

fn in_class(priority: Priority) -> TaskOptions {
    TaskOptions { priority: Some(priority), ..TaskOptions::default() }
}

async fn submit(pool: &TestPool, priority: Priority) -> TaskId {
    pool.submit(in_class(priority)).await
}

#[tokio::test]
async fn a_higher_class_comes_first_and_within_one_the_older() {
    pool_test(async |pool| {
        let mut ids = Vec::new();
        for priority in [Priority::Low, Priority::Normal, Priority::High, Priority::Normal, Priority::High] {
            ids.push(submit(pool, priority).await);
        }
        let mut worker = pool.join("w1").await;
        for at in [2, 4, 1, 3, 0] {
            assert_eq!(worker.take().await.id, ids[at]);
        }
        assert!(worker.claim().await.is_none());
    })
    .await;
}

/// Ten minutes lift a task by a class, twenty by two: nothing starves, and the young ones keep their order.
#[tokio::test]
async fn who_has_waited_long_is_taken_earlier() {
    pool_test(async |pool| {
        let low = submit(pool, Priority::Low).await;
        pool.forward(9 * MINUTE_MS).await;
        pool.sweep("s").await;
        let normal = [submit(pool, Priority::Normal).await, submit(pool, Priority::Normal).await];
        let mut worker = pool.join("w1").await;
        assert_eq!(worker.take().await.id, normal[0], "nine minutes are no age");
        pool.forward(MINUTE_MS).await;
        pool.sweep("s").await;
        let high = [submit(pool, Priority::High).await, submit(pool, Priority::High).await];
        let mut other = pool.join("w2").await;
        assert_eq!(other.take().await.id, high[0], "one class up is not the highest");
        pool.forward(10 * MINUTE_MS).await;
        pool.sweep("s").await;
        let mut third = pool.join("w3").await;
        assert_eq!(third.take().await.id, low, "two classes up, and older than the high one");
        // The note went with its task: what is young and low now comes last. The normal one is eleven minutes old.
        let young = submit(pool, Priority::Low).await;
        for (worker, expected) in [("w4", normal[1]), ("w5", high[1]), ("w6", young)] {
            assert_eq!(pool.join(worker).await.take().await.id, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn coming_back_makes_nobody_young_again() {
    pool_test(async |pool| {
        let low = submit(pool, Priority::Low).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        pool.forward(20 * MINUTE_MS).await;
        worker.finish(&held, &super::worker::give_back(0)).await;
        submit(pool, Priority::High).await;
        pool.sweep("s").await;
        assert_eq!(worker.take().await.id, low);
    })
    .await;
}

#[tokio::test]
async fn a_delayed_task_stands_in_no_lane_before_its_time() {
    pool_test(async |pool| {
        let id = pool.submit(TaskOptions { delay_s: Some(60), ..in_class(Priority::High) }).await;
        let mut worker = pool.join("w1").await;
        pool.forward(59_000).await;
        pool.sweep("s").await;
        assert_eq!((pool.state(id).await, worker.claim().await), (State::Delayed, None));
        pool.forward(1_000).await;
        pool.sweep("s").await;
        assert_eq!(pool.log(id).await, ["- submit delayed 0", "delayed due pending 0"]);
        assert_eq!(pool.tokens("default").await, 1, "somebody is woken");
        assert_eq!(worker.take().await.id, id);
        let cancelled = pool.submit(TaskOptions { delay_s: Some(60), ..TaskOptions::default() }).await;
        assert_eq!(pool.words(&crate::store::task::cancellation(cancelled, "no")).await, ["ok", "cancelled"]);
        pool.forward(60_000).await;
        pool.sweep("s").await;
        assert_eq!(pool.state(cancelled).await, State::Cancelled);
    })
    .await;
}

/// Time in which the pool is alive: somebody calls at least every five seconds.
async fn pass(pool: &TestPool, seconds: i64) {
    let mut left = seconds * 1000;
    while left > 0 {
        pool.forward(left.min(5_000)).await;
        pool.sweep("s").await;
        left -= 5_000;
    }
}

#[tokio::test]
async fn a_task_that_nobody_begins_in_time_fails_and_one_that_began_does_not() {
    pool_test(async |pool| {
        pool.stop_clock().await;
        let waits = |delay_s| TaskOptions { queue_timeout_s: Some(30), delay_s, ..TaskOptions::default() };
        let begun = pool.submit(waits(None)).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        let (late, later) = (pool.submit(waits(None)).await, pool.submit(waits(Some(10))).await);
        pass(pool, 29).await;
        assert_eq!((pool.state(late).await, pool.state(later).await), (State::Pending, State::Pending));
        // It is beaten for, or the sweeps would take it for lost.
        worker.beat(&held).await;
        pass(pool, 2).await;
        let record = pool.record(late).await;
        let error = record.error.expect("it failed");
        assert_eq!((record.state, record.run, error.class), (State::Failed, 0, Class::Timeout));
        assert!(error.message.contains("queue_timeout_s") && error.hint.is_some(), "{error:?}");
        assert_eq!(pool.last_event(late).await, "pending expire failed 0");
        assert_eq!(pool.state(later).await, State::Pending, "its time counts from when it could start");
        // It comes back, and its start is not taken from it.
        worker.finish(&held, &super::worker::give_back(0)).await;
        pass(pool, 8).await;
        assert_eq!((pool.state(later).await, pool.state(begun).await), (State::Pending, State::Pending));
        pass(pool, 3).await;
        assert_eq!((pool.state(later).await, pool.state(begun).await), (State::Failed, State::Pending));
        let again = worker.take().await;
        assert_eq!(again.id, begun);
        worker.finish(&again, &Verdict::Complete).await;
    })
    .await;
}

/// Nobody was there who could have begun it: that time does not count, and after it there is the grace.
#[tokio::test]
async fn an_outage_takes_no_time_from_who_waits() {
    pool_test(async |pool| {
        pool.stop_clock().await;
        let waits = |delay_s| TaskOptions { queue_timeout_s: Some(30), delay_s, ..TaskOptions::default() };
        pool.sweep("s").await;
        let (pending, delayed) = (pool.submit(waits(None)).await, pool.submit(waits(Some(60))).await);
        pass(pool, 25).await;
        pool.forward(3_600_000).await;
        let swept = pool.sweep_in_grace("s").await;
        assert_eq!(
            (pool.state(pending).await, pool.state(delayed).await),
            (State::Pending, State::Pending),
            "{swept:?}"
        );
        let _: i64 = pool.redis(redis::cmd("HDEL").arg(pool.key("meta")).arg("grace")).await;
        pass(pool, 4).await;
        assert_eq!(pool.state(pending).await, State::Pending);
        pass(pool, 10).await;
        assert_eq!((pool.state(pending).await, pool.state(delayed).await), (State::Failed, State::Pending));
        pass(pool, 20).await;
        assert_eq!(pool.state(delayed).await, State::Failed);
    })
    .await;
}

#[tokio::test]
async fn an_age_goes_with_its_task_however_that_goes() {
    pool_test(async |pool| {
        let old = submit(pool, Priority::Low).await;
        pool.forward(20 * MINUTE_MS).await;
        pool.sweep("s").await;
        assert_eq!(pool.words(&crate::store::task::cancellation(old, "no")).await, ["ok", "cancelled"]);
        let high = submit(pool, Priority::High).await;
        submit(pool, Priority::Low).await;
        assert_eq!(pool.join("w1").await.take().await.id, high, "the young one is not old");
    })
    .await;
}

#[tokio::test]
async fn what_ended_a_week_ago_holds_up_nothing() {
    pool_test(async |pool| {
        for (id, _) in pool.submit_all(vec![TaskOptions::default(); 250]).await {
            pool.words(&crate::store::task::cancellation(id, "no")).await;
        }
        pool.forward(7 * 24 * 60 * MINUTE_MS - 10_000).await;
        let delayed = pool.submit(TaskOptions { delay_s: Some(15), ..TaskOptions::default() }).await;
        pool.forward(15_000).await;
        let swept = pool.sweep("s").await;
        assert_eq!((pool.state(delayed).await, swept.removed), (State::Pending, 200), "{swept:?}");
    })
    .await;
}

/// A pool that nobody had called for a week: what is submitted into that silence waits no longer than it was to.
#[tokio::test]
async fn a_silence_before_a_task_was_there_is_none_of_its_time() {
    pool_test(async |pool| {
        pool.stop_clock().await;
        pool.sweep("s").await;
        pool.forward(7 * 24 * 60 * MINUTE_MS).await;
        let id = pool.submit(TaskOptions { queue_timeout_s: Some(30), ..TaskOptions::default() }).await;
        pass(pool, 25).await;
        assert_eq!(pool.state(id).await, State::Pending);
        pass(pool, 10).await;
        assert_eq!(pool.state(id).await, State::Failed);
    })
    .await;
}
