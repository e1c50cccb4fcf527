//! Tasks that follow others: when they start, when they never do, and what that means for those behind them.

use super::{TestPool, pool_test};
use crate::domain::attempt::Verdict;
use crate::domain::ids::TaskId;
use crate::domain::options::{AfterFailure, TaskOptions};
use crate::domain::state::State;
use crate::store::{submission, task};

fn following(ids: &[TaskId]) -> TaskOptions {
    TaskOptions { after: ids.iter().map(|id| (*id).into()).collect(), ..TaskOptions::default() }
}

async fn worker_of(pool: &TestPool, name: &str) -> TaskId {
    pool.join(name).await.take().await.id
}

async fn states(pool: &TestPool, ids: &[TaskId]) -> Vec<State> {
    let mut states = Vec::new();
    for id in ids {
        states.push(pool.state(*id).await);
    }
    states
}

#[tokio::test]
async fn a_task_starts_when_all_that_it_follows_have_succeeded() {
    pool_test(async |pool| {
        let (a, b) = (pool.submit(TaskOptions::default()).await, pool.submit(TaskOptions::default()).await);
        let c = pool.submit(following(&[a, b])).await;
        let d = pool.submit(TaskOptions { delay_s: Some(3600), ..following(&[c]) }).await;
        assert_eq!(pool.record(c).await.reason.as_deref(), Some("follows t1, t2"));
        let mut worker = pool.join("w1").await;
        let first = worker.take().await;
        worker.finish(&first, &Verdict::Complete).await;
        assert_eq!(
            states(pool, &[a, b, c, d]).await,
            [State::Completed, State::Pending, State::Waiting, State::Waiting]
        );
        let second = worker.take().await;
        assert_eq!(pool.join("w2").await.claim().await, None);
        // A step sets it free and takes it at once.
        let (_, third) = worker.step(&second, &Verdict::Complete).await;
        let third = third.expect("it is there");
        assert_eq!((third.id, pool.log(c).await[1].as_str()), (c, "waiting after pending 0"));
        worker.finish(&third, &Verdict::Complete).await;
        assert_eq!(
            (pool.state(d).await, pool.last_event(d).await.as_str()),
            (State::Delayed, "waiting after delayed 0")
        );
        // What is over already holds nobody up.
        let e = pool.submit(following(&[a, b, c])).await;
        assert_eq!(pool.state(e).await, State::Pending);
        assert_eq!(pool.log(e).await, ["- submit waiting 0", "waiting after pending 0"]);
    })
    .await;
}

#[tokio::test]
async fn what_follows_a_failure_is_cancelled_with_all_behind_it_unless_it_runs_all_the_same() {
    pool_test(async |pool| {
        let a = pool.submit(TaskOptions::default()).await;
        let b = pool.submit(following(&[a])).await;
        let c = pool.submit(following(&[b, a])).await;
        let tidy = pool.submit(TaskOptions { after_failure: Some(AfterFailure::Run), ..following(&[c]) }).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        worker.finish(&held, &Verdict::Fail(super::worker::failure())).await;
        assert_eq!(
            states(pool, &[a, b, c, tidy]).await,
            [State::Failed, State::Cancelled, State::Cancelled, State::Pending]
        );
        assert_eq!(pool.record(b).await.reason.as_deref(), Some("t1, which it was to follow, failed"));
        let late = pool.submit(following(&[a])).await;
        let record = pool.record(late).await;
        assert_eq!((record.state, record.ended_ms.is_some()), (State::Cancelled, true));
        assert_eq!(pool.log(late).await, ["- submit waiting 0", "waiting after cancelled 0"]);
    })
    .await;
}

#[tokio::test]
async fn one_that_is_stopped_takes_along_what_follows_it_and_leaves_no_trace() {
    pool_test(async |pool| {
        let a = pool.submit(TaskOptions::default()).await;
        let b = pool.submit(following(&[a])).await;
        let c = pool.submit(following(&[b])).await;
        assert_eq!(pool.words(&task::cancellation(b, "no")).await, ["ok", "cancelled"]);
        assert_eq!(states(pool, &[a, b, c]).await, [State::Pending, State::Cancelled, State::Cancelled]);
        assert_eq!(pool.record(c).await.reason.as_deref(), Some("t2, which it was to follow, was cancelled"));
        assert!(!pool.exists("after:t1").await && !pool.exists("needs:t2").await);
        // A lost worker's last attempt ends it as well.
        let held_id = pool.submit_with_ladder(1, "").await;
        let behind = pool.submit(following(&[held_id])).await;
        let mut worker = pool.join("w1").await;
        worker.take().await;
        let held = worker.take().await;
        assert_eq!(held.id, held_id);
        pool.age("default", &held.entry, 60_000).await;
        pool.sweep("s").await;
        assert_eq!(states(pool, &[held_id, behind]).await, [State::Failed, State::Cancelled]);
    })
    .await;
}

#[tokio::test]
async fn what_is_to_be_followed_must_exist() {
    pool_test(async |pool| {
        let a = pool.submit(TaskOptions::default()).await;
        let specs = [following(&[a]), following(&[a, TaskId::new(99)])];
        let specs = specs.map(|options| crate::domain::task::Spec::new("p", options).unwrap());
        let call = submission::submission(&specs, "pool-1", 15_000, true).unwrap();
        assert_eq!(pool.refused(&call).await, ["unknown", "t99"]);
    })
    .await;
}

/// More than one script may set free: the sweep goes on until all are.
#[tokio::test]
async fn a_crowd_behind_one_task_is_set_free_in_parts() {
    pool_test(async |pool| {
        let a = pool.submit(TaskOptions::default()).await;
        let mut crowd = pool.submit_all(vec![following(&[a]); 600]).await;
        crowd.extend(pool.submit_all(vec![following(&[a]); 600]).await);
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        worker.finish(&held, &Verdict::Complete).await;
        let free = async || {
            let waiting: u64 = pool.redis(redis::cmd("ZCARD").arg(pool.key("index:state:waiting"))).await;
            crowd.len() as u64 - waiting
        };
        assert_eq!(free().await, 500);
        // First come, first served.
        assert_eq!(worker.take().await.id, crowd[0].0);
        assert_eq!(worker_of(pool, "w2").await, crowd[1].0);
        pool.sweep("s").await;
        assert_eq!(free().await, 1200);
        assert!(!pool.exists("after:t1").await && !pool.exists("todo").await);
    })
    .await;
}

/// Whoever ended the other one did not know of those that follow it.
#[tokio::test]
async fn what_was_not_set_free_is_found_and_set_free() {
    pool_test(async |pool| {
        let a = pool.submit(TaskOptions::default()).await;
        let b = pool.submit(following(&[a])).await;
        let _: i64 = pool.redis(redis::cmd("DEL").arg(pool.store.keys.after(a))).await;
        let mut worker = pool.join("w1").await;
        let held = worker.take().await;
        worker.finish(&held, &Verdict::Complete).await;
        assert_eq!(pool.state(b).await, State::Waiting);
        pool.sweep("s").await;
        assert_eq!(pool.state(b).await, State::Pending);
    })
    .await;
}
